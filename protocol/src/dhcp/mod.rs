//! DHCPv4 as network-boot firmware speaks it (RFC 2131, 2132, 3396, 4578, PXE 2.1).
//!
//! This module *reads*: bytes of a request become a [`Request`] that says who
//! asks ([`Firmware`]), how it wants to be reached ([`Destination`]) and what
//! was in each option. It never refuses a whole packet for one bad option: a
//! machine whose firmware sends a broken host name must still boot.
//!
//! What to answer is decided in control, not here.

pub mod firmware;
pub mod options;
pub mod request;
pub mod text;
pub mod vendor;

pub use firmware::{Features, Firmware, Ipxe, Platform, Processor};
pub use options::Options;
pub use request::{ClientKey, Destination, Malformed, MessageType, Request};

/// The port that servers and relays listen on (RFC 2131 section 4.1).
pub const SERVER_PORT: u16 = 67;
/// The port that clients listen on (RFC 2131 section 4.1).
pub const CLIENT_PORT: u16 = 68;
/// The port of PXE boot servers, also called BINL (PXE 2.1 section 2.2.5).
pub const PXE_PORT: u16 = 4011;

/// The fixed part of a packet: BOOTP header and magic cookie, bytes.
pub const HEADER: usize = 240;
/// The longest packet that is read: what an Ethernet frame carries, bytes.
pub const MAX_PACKET: usize = 1500;
/// Every reply is padded to this: RFC 1542 section 2.1 lets a client drop shorter BOOTP messages.
pub const MIN_REPLY: usize = 300;
/// The packet that every client must take, IP and UDP headers included (RFC 2131 section 2).
pub const DEFAULT_MAX_MESSAGE: usize = 576;
/// IP and UDP headers, which option 57 counts in.
pub const IP_UDP_HEADERS: usize = 28;
/// The longest name in the `file` field: 128 bytes less the NUL that ends it.
pub const MAX_FILE: usize = 127;
/// A packet that passed more relays than this is going in circles (RFC 1542 section 4.1.1).
pub const MAX_HOPS: u8 = 16;
/// The first four bytes of the options field (RFC 2132 section 2).
pub const COOKIE: [u8; 4] = [99, 130, 83, 99];
