//! The epoll driver: for kernels and containers that refuse io_uring.
//!
//! `recvmmsg` and `sendmmsg` in batches, windows as GSO sends from the image,
//! bodies by `splice`. Connections are watched edge-triggered and for both
//! directions from their first moment on, so that no request costs an `epoll_ctl`.

mod tcp;
mod udp;

use super::pipe::Pipe;
use super::route::Routes;
use super::slots::Slots;
use super::train::Trains;
use super::{Close, Completion, ConnId, ConnSend, Counts, Full, ListenerId, Ring, UdpId, UdpSend, Waker};
use crate::limits::{CONNS, TCP_BUFFER_SIZE, UDP_BATCH};
use protocol::time::Instant;
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Events taken from the kernel at once.
const EVENTS: usize = 512;

/// See the module's description.
pub struct Epoll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    wake: Arc<OwnedFd>,
    routes: Routes,
    now: Instant,
    udp: Vec<Option<udp::Socket>>,
    trains: Trains,
    outbox: Vec<libc::mmsghdr>,
    inbox: udp::Inbox,
    listeners: Vec<Option<tcp::Listener>>,
    conns: Slots<tcp::Conn>,
    /// Connections that may be able to go on.
    ready: VecDeque<ConnId>,
    closed: VecDeque<ConnId>,
    refused: VecDeque<(ConnId, io::Error)>,
    late: VecDeque<(ListenerId, OwnedFd)>,
    lingering: VecDeque<(Instant, ConnId)>,
    pipe: Pipe,
    bytes: Vec<u8>,
}

impl Epoll {
    /// A driver without sockets.
    ///
    /// # Errors
    /// No descriptors or memory left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags)?);
        epoll::add(&epoll, &*wake, Token::Wake.pack(), epoll::EventFlags::IN)?;
        let mut this = Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            wake,
            routes: Routes::default(),
            now: Instant::ZERO,
            udp: Vec::new(),
            trains: Trains::new(),
            outbox: Vec::with_capacity(UDP_BATCH),
            inbox: udp::Inbox::new(),
            listeners: Vec::new(),
            conns: Slots::new(CONNS),
            ready: VecDeque::new(),
            closed: VecDeque::new(),
            refused: VecDeque::new(),
            late: VecDeque::new(),
            lingering: VecDeque::new(),
            pipe: Pipe::new(),
            bytes: vec![0; TCP_BUFFER_SIZE],
        };
        this.now = this.now();
        Ok(this)
    }

    fn sleep(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let span = deadline.map(|d| d - self.now).map(|d| Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), span.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn dispatch(&mut self, event: epoll::Event, sink: &mut dyn FnMut(Completion<'_>)) {
        let flags = event.flags;
        match Token::unpack(event.data) {
            Some(Token::Udp(id)) => {
                if flags.contains(epoll::EventFlags::OUT) {
                    self.unstick(id);
                }
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::ERR) {
                    self.receive(id, sink);
                }
            }
            Some(Token::Listener(id)) => self.accept(id, sink),
            Some(Token::Conn(id)) => {
                let Some(conn) = self.conns.get_mut(id) else { return };
                let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
                conn.readable |= failed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
                conn.writable |= failed || flags.contains(epoll::EventFlags::OUT);
                self.queue(id);
            }
            Some(Token::Wake) => {
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
                sink(Completion::Woken);
            }
            None => {}
        }
    }

    /// Hands over what needed no event; whether there was anything.
    fn report(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let any = !(self.late.is_empty() && self.refused.is_empty() && self.closed.is_empty());
        while let Some((id, fd)) = self.late.pop_front() {
            self.accepted(id, fd, sink);
        }
        while let Some((conn, error)) = self.refused.pop_front() {
            sink(Completion::Sent { conn, bytes: 0, error: Some(error) });
        }
        while let Some(conn) = self.closed.pop_front() {
            sink(Completion::Closed { conn });
        }
        any
    }
}

impl Ring for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn udp_add(&mut self, socket: OwnedFd) -> io::Result<UdpId> {
        self.routes.socket(socket.as_fd());
        self.add_socket(socket)
    }

    fn udp_send(&mut self, send: UdpSend) -> Result<(), (Full, UdpSend)> {
        let route = self.routes.to(send.to.ip(), self.now);
        self.trains.take(send, route)
    }

    fn udp_close(&mut self, socket: UdpId) {
        self.close_socket(socket);
    }

    fn path_mtu(&mut self, peer: IpAddr) -> u32 {
        self.routes.to(peer, self.now).mtu
    }

    fn listener_add(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        self.add_listener(socket)
    }

    fn listener_close(&mut self, listener: ListenerId) {
        self.close_listener(listener);
    }

    fn conn_recv(&mut self, conn: ConnId) {
        self.want_bytes(conn);
    }

    fn conn_send(&mut self, send: ConnSend) {
        self.begin_send(send);
    }

    fn conn_close(&mut self, conn: ConnId, how: Close) {
        self.begin_close(conn, how);
    }

    fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    fn wait(&mut self, deadline: Option<Instant>, told: &mut dyn FnMut(Instant, Completion<'_>)) -> io::Result<()> {
        self.now = self.now();
        let now = self.now;
        let sink = &mut |completion: Completion<'_>| told(now, completion);
        let mut busy = self.send_trains(sink);
        busy |= self.turns(sink);
        busy |= self.report(sink);
        let ours = [self.listen_again(), self.linger_over(), deadline].into_iter().flatten().min();
        busy |= !(self.ready.is_empty() && self.closed.is_empty());
        self.sleep(if busy { Some(self.now) } else { ours })?;
        self.now = self.now();
        let now = self.now;
        let sink = &mut |completion: Completion<'_>| told(now, completion);
        let events = std::mem::take(&mut self.events);
        for event in &events {
            self.dispatch(*event, sink);
        }
        self.events = events;
        self.turns(sink);
        self.report(sink);
        Ok(())
    }

    fn counts(&mut self) -> Counts {
        Counts::default()
    }

    fn now(&self) -> Instant {
        crate::clock::monotonic()
    }
}

/// What an event belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Udp(UdpId),
    Listener(ListenerId),
    Conn(ConnId),
    Wake,
}

impl Token {
    /// Kind in the top 8 bits; ids of connections have 56.
    fn pack(self) -> epoll::EventData {
        let (kind, value) = match self {
            Self::Udp(id) => (1, u64::from(id.0)),
            Self::Listener(id) => (2, u64::from(id.0)),
            Self::Conn(id) => (3, id.0),
            Self::Wake => (4, 0),
        };
        epoll::EventData::new_u64(kind << 56 | value)
    }

    fn unpack(data: epoll::EventData) -> Option<Self> {
        let data = data.u64();
        let value = data & ((1 << 56) - 1);
        Some(match data >> 56 {
            1 => Self::Udp(UdpId(value as u32)),
            2 => Self::Listener(ListenerId(value as u32)),
            3 => Self::Conn(ConnId(value)),
            4 => Self::Wake,
            _ => return None,
        })
    }
}
