//! The kernel's side of the edge, behind one trait.
//!
//! Called by [`crate::worker`] alone. Owns every descriptor it was given, the
//! receive buffers and the sends in flight. Knows sockets, byte ranges and
//! images; knows no protocol. With [`crate::catalog`] (the map) the only place
//! where `unsafe` may stand.
//!
//! Two drivers implement [`Ring`]: [`uring`] (raw io_uring) and [`epoll`]
//! (epoll + sendmsg/splice), chosen by [`probe`] at start. All tests of the
//! edge run on both.

#![allow(unsafe_code)] // the kernel's interfaces; each block says why it is sound

pub mod epoll;
pub mod fake;
mod outgoing;
mod pipe;
pub mod probe;
mod route;
mod slots;
pub(crate) mod sys;
mod train;
pub mod uring;

use crate::catalog::Image;
use protocol::time::Instant;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A UDP socket of this ring.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UdpId(pub u32);

/// A TCP listener of this ring.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// A TCP connection of this ring. Ids are not reused while completions for
/// them may still be on their way (slot and generation).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId(pub u64);

/// The queue is full; nothing was taken. The caller keeps what it wanted to
/// send and tries again after the next [`Ring::wait`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// One UDP send: a datagram, or a train of them cut by the kernel (GSO).
pub struct UdpSend {
    /// From which socket.
    pub socket: UdpId,
    /// To whom.
    pub to: SocketAddr,
    /// The source address to use (`IP_PKTINFO`): the one the node asked.
    pub from: Option<IpAddr>,
    /// What to send.
    pub payload: UdpPayload,
}

/// The bytes of a UDP send.
pub enum UdpPayload {
    /// One short datagram (OACK, ERROR, an empty last block), copied by the ring.
    Small(Vec<u8>),
    /// `count` (at most [`crate::limits::WINDOW_MAX`]) TFTP DATA packets of `blksize` bytes (the image's last may be
    /// shorter or empty) from block `first` (1-based, not wrapped) on. The ring
    /// takes the pre-framed form of the image where there is one, else builds
    /// header/slice pairs, and cuts it into as few GSO sends as the kernel's
    /// limits allow. On the wire the block number is what `number` says.
    Blocks {
        /// The image.
        image: Arc<Image>,
        /// Negotiated block size, bytes.
        blksize: u16,
        /// First block, counted from 1 without wrap.
        first: u64,
        /// How many.
        count: u16,
        /// What follows block 65535 on the wire: 0 or 1.
        rollover: u16,
    },
}

/// Part of an HTTP answer.
pub struct ConnSend {
    /// The connection.
    pub conn: ConnId,
    /// Bytes to send first (a response head); may be empty.
    pub head: Vec<u8>,
    /// Bytes of an image to send after it.
    pub body: Option<Body>,
}

/// A range of an image.
pub struct Body {
    /// The image.
    pub image: Arc<Image>,
    /// The bytes of it; one quantum at most, see `limits`.
    pub range: Range<u64>,
}

/// One datagram that came in.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// On this socket.
    pub socket: UdpId,
    /// From this peer.
    pub peer: SocketAddr,
    /// The local address it came to, to be used as [`UdpSend::from`]; where the
    /// destination was a group, the address of the interface it came in by.
    pub local: Option<IpAddr>,
    /// The destination was a broadcast or multicast address: TFTP answers
    /// nothing then (RFC 1123 section 4.2.3.5).
    pub group: bool,
    /// Its bytes, cut at [`crate::limits::UDP_PAYLOAD_MAX`].
    pub bytes: &'a [u8],
}

/// What the kernel has done.
pub enum Completion<'a> {
    /// A datagram came in.
    Datagram(Datagram<'a>),
    /// A UDP send could not be made.
    UdpFailed {
        /// From which socket.
        socket: UdpId,
        /// To whom.
        to: SocketAddr,
        /// Why (a raw OS error).
        error: io::Error,
    },
    /// A connection was accepted; it is not yet read from.
    Accepted {
        /// By this listener.
        listener: ListenerId,
        /// Its id from now on.
        conn: ConnId,
        /// The client.
        peer: SocketAddr,
        /// Our end.
        local: SocketAddr,
    },
    /// Bytes of a request, after [`Ring::conn_recv`]; empty when the client has closed its sending side.
    Received {
        /// On this connection.
        conn: ConnId,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A [`Ring::conn_send`] is over: `bytes` of it (head and body together) went out.
    Sent {
        /// On this connection.
        conn: ConnId,
        /// How many bytes; less than asked only where `error` says why.
        bytes: u64,
        /// What stopped it.
        error: Option<io::Error>,
    },
    /// The connection failed while being read.
    ConnFailed {
        /// This connection.
        conn: ConnId,
        /// Why.
        error: io::Error,
    },
    /// The connection's descriptor is closed; its id means nothing any more.
    Closed {
        /// This connection.
        conn: ConnId,
    },
    /// Somebody called the [`Waker`].
    Woken,
}

/// What a ring counts, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// The kernel found no free receive buffer, and reception had to be armed again.
    pub buffers_exhausted: u64,
    /// Zero-copy sends that the kernel copied after all.
    pub zc_copied: u64,
    /// Zero-copy sends that went out of the image's own pages.
    pub zc_uncopied: u64,
}

/// How to close a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// FIN after what was sent, then linger for the peer's end within the driver's bound.
    Graceful,
    /// RST: the client must see that the answer is not whole.
    Reset,
}

/// What a driver can do for the worker. One thread owns one ring.
///
/// Sending and closing never block; a completion follows for each accepted
/// call (but not for UDP sends that go well).
pub trait Ring {
    /// `uring` or `epoll`.
    fn name(&self) -> &'static str;

    /// Takes over a bound UDP socket and receives on it from now on.
    ///
    /// # Errors
    /// Where the kernel refuses to watch it.
    fn udp_add(&mut self, socket: OwnedFd) -> io::Result<UdpId>;

    /// Queues a UDP send.
    ///
    /// # Errors
    /// [`Full`] and the send, whole, for the next try.
    fn udp_send(&mut self, send: UdpSend) -> Result<(), (Full, UdpSend)>;

    /// Stops receiving on a socket and closes it; sends already queued go out.
    fn udp_close(&mut self, socket: UdpId);

    /// The largest IP packet (headers included, bytes) that goes to `peer` in
    /// one piece, from the route (cached); 1500 where there is no answer.
    fn path_mtu(&mut self, peer: IpAddr) -> u32;

    /// Takes over a listening TCP socket and accepts on it from now on.
    ///
    /// # Errors
    /// Where the kernel refuses to watch it.
    fn listener_add(&mut self, socket: OwnedFd) -> io::Result<ListenerId>;

    /// Stops accepting; what is connected stays (drain).
    fn listener_close(&mut self, listener: ListenerId);

    /// Asks for the next bytes of a connection (one [`Completion::Received`] a call).
    fn conn_recv(&mut self, conn: ConnId);

    /// Sends head and body, corked together. One send at a time per connection.
    fn conn_send(&mut self, send: ConnSend);

    /// Closes; a pending receive or send is given up without a completion of
    /// its own. Ends in [`Completion::Closed`]. Harmless on an id that is gone.
    fn conn_close(&mut self, conn: ConnId, how: Close);

    /// Makes this ring's [`Waker`] wake it.
    fn waker(&self) -> Waker;

    /// Submits what is queued, waits until something happened or `deadline`
    /// came (for ever without one), and hands every completion to `sink`, with
    /// the time at which the wait ended. May return earlier, with nothing.
    ///
    /// # Errors
    /// Only where the ring itself is broken; the worker ends then.
    fn wait(&mut self, deadline: Option<Instant>, sink: &mut dyn FnMut(Instant, Completion<'_>)) -> io::Result<()>;

    /// What has been counted since this was last asked.
    fn counts(&mut self) -> Counts;

    /// The present time on the clock that `deadline` is read on (CLOCK_MONOTONIC).
    fn now(&self) -> Instant;
}

/// Wakes a ring out of its wait, from any thread.
#[derive(Clone, Debug)]
pub struct Waker(pub(crate) Arc<OwnedFd>);

impl Waker {
    /// The ring hands out a [`Completion::Woken`] soon; several calls may become one.
    pub fn wake(&self) {
        // An eventfd only refuses when its counter is full: then a wake-up is on its way already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests;
