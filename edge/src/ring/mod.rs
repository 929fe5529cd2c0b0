//! The kernel's side of the edge, behind one trait.
//!
//! Called by [`crate::worker`] alone. Owns every descriptor it was given, the
//! receive buffers and the sends in flight. Knows sockets, byte ranges and
//! images; knows no protocol. With [`crate::catalog`] (the map) the only place
//! where `unsafe` may stand.
//!
//! Two drivers implement [`Ring`]: [`uring`] (raw io_uring) and [`epoll`]
//! (epoll + sendmsg/sendfile), chosen by [`probe`] at start. All tests of the
//! edge run on both.

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
    /// `count` TFTP DATA packets of `blksize` bytes (the image's last may be
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

/// What the kernel has done.
pub enum Completion<'a> {
    /// A datagram came in.
    Datagram {
        /// On this socket.
        socket: UdpId,
        /// From this peer.
        peer: SocketAddr,
        /// To this local address, where the kernel told (`IP_PKTINFO`).
        local: Option<IpAddr>,
        /// Its bytes (cut at the size of the receive buffer).
        bytes: &'a [u8],
    },
    /// A UDP send could not be made.
    UdpFailed {
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
    /// [`Full`] hands nothing over.
    fn udp_send(&mut self, send: UdpSend) -> Result<(), Full>;

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

    /// Closes; a pending receive or send is given up. Ends in [`Completion::Closed`].
    fn conn_close(&mut self, conn: ConnId, how: Close);

    /// Makes this ring's [`Waker`] wake it.
    fn waker(&self) -> Waker;

    /// Submits what is queued, waits until something happened or `deadline`
    /// came (for ever without one), and hands every completion to `sink`.
    ///
    /// # Errors
    /// Only where the ring itself is broken; the worker ends then.
    fn wait(&mut self, deadline: Option<Instant>, sink: &mut dyn FnMut(Completion<'_>)) -> io::Result<()>;

    /// The present time on the clock that `deadline` is read on (CLOCK_MONOTONIC).
    fn now(&self) -> Instant;
}

/// Wakes a ring out of its wait, from any thread.
#[derive(Clone)]
pub struct Waker(pub Arc<OwnedFd>);
