//! IPMI 2.0 over RMCP+ (UDP 623), the client's side as a sans-IO machine.
//!
//! * [`crypto`]: suites 3 and 17; 0 to 2 are not spoken.
//! * [`wire`]: packets and messages, shared with simulators of BMCs.
//! * [`session`]: one session: suite choice, RAKP handshake, privilege,
//!   requests with retransmission, close.
//!
//! Whoever drives a [`session::Session`] owns the socket, the clock and the
//! source of random bytes.

pub mod crypto;
pub mod session;
pub mod wire;

pub use crypto::Suite;
pub use session::{Config, Error, Output, Privilege, Session};
