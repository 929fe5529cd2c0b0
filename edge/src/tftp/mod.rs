//! TFTP over a ring: many transfers on few sockets.
//!
//! Called by [`crate::worker`] alone. Owns the transfers and their timers; may
//! touch neither sockets nor files: it queues what to send and `flush` moves
//! it into the ring. What a transfer does is decided in
//! [`protocol::tftp::Transfer`]; who may have one, in [`admission`].
//!
//! ```text
//! datagram -> request (admission, catalog) -> slot -> Transfer -> queues -> flush -> ring
//!          -> packet of a transfer -----------^  ^-- tick (wheel)
//! ```
//!
//! A request is answered from the address that it was sent to, in multi-port
//! mode from a pool of sockets whose ports are the server's TIDs (RFC 1350
//! section 4), shared by all transfers: a transfer is the pair of our socket
//! and the client's address and port. In single-port mode the request socket
//! is the only TID.

pub mod admission;
mod peers;
mod request;
mod service;
mod slot;
mod sockets;
#[cfg(test)]
mod tests;
mod texts;
pub mod wheel;

pub use service::Service;

use crate::limits;
use protocol::tftp::{Rollover, transfer};

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Largest block size to agree on, bytes; `None`: what fits the path's MTU
    /// in one piece, since boot firmware often cannot put fragments together.
    pub max_blksize: Option<u16>,
    /// Largest windowsize to agree on, blocks.
    pub max_windowsize: u16,
    /// What follows block 65535.
    pub rollover: Rollover,
    /// Transfers of one source address before their first ACK.
    pub unproven_per_client: usize,
    /// Transfers of one worker.
    pub transfers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_blksize: None,
            max_windowsize: limits::TFTP_WINDOWSIZE,
            rollover: Rollover::Zero,
            unproven_per_client: limits::TFTP_UNPROVEN_PER_CLIENT,
            transfers: limits::TFTP_TRANSFERS,
        }
    }
}

impl Config {
    fn timing(&self) -> transfer::Settings {
        transfer::Settings { rollover: self.rollover, ..transfer::Settings::default() }
    }
}
