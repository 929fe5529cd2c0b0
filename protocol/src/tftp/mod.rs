//! TFTP: the language and both of its machines, without any IO.
//!
//! A packet goes down the list: [`packet`] reads it, [`options`] settles what
//! was asked (RFC 2347, 2348, 2349, 7440), [`Transfer`] serves a file by naming
//! block ranges, [`Fetch`] is the other end: a client for the command line, for
//! load and for tests. [`rto`] is the retransmission timer of the server,
//! [`number`] turns 16-bit block numbers into 64-bit counters and back,
//! [`netascii`] translates texts.
//!
//! No machine here holds bytes of a file or knows a socket.

pub mod fetch;
pub mod netascii;
pub mod number;
pub mod options;
pub mod packet;
pub mod rto;
pub mod transfer;

#[cfg(test)]
mod simulation;

pub use fetch::Fetch;
pub use number::Rollover;
pub use options::{Agreed, Policy};
pub use packet::{ErrorCode, Mode, Packet, Request};
pub use transfer::Transfer;

/// The port that requests go to (RFC 1350 section 4).
pub const PORT: u16 = 69;

/// Block size where none was negotiated, bytes (RFC 1350 section 2).
pub const DEFAULT_BLKSIZE: u16 = 512;

/// Bytes before the payload of a DATA packet.
pub const DATA_HEADER: usize = 4;
