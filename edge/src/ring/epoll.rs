//! The epoll driver: for kernels and containers that refuse io_uring.
//!
//! `recvmmsg` and `sendmmsg` in batches, windows as GSO sends from the image,
//! bodies by `sendfile`. Connections are watched edge-triggered and for both
//! directions from their first moment on, so that no request costs an `epoll_ctl`.

use super::outgoing::{Outgoing, Push};
use super::route::Routes;
use super::slots::Slots;
use super::sys::{self, ADDRESS_LEN, Address};
use super::train::Trains;
use super::{Close, Completion, ConnId, ConnSend, Counts, Datagram, Full, ListenerId, Ring, UdpId, UdpSend, Waker};
use crate::limits::{
    ACCEPT_BATCH, ACCEPT_PAUSE_MS, CONNS, CONNS_RESERVE, LINGER_BYTES, LINGER_MS, LISTENERS, TCP_BUFFER_SIZE,
    UDP_BATCH, UDP_PAYLOAD_MAX, UDP_ROUNDS, UDP_SOCKETS,
};
use protocol::time::{Duration, Instant};
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Events taken from the kernel at once.
const EVENTS: usize = 512;
/// Room for the control data of a datagram.
const CONTROL_ROOM: usize = 64;

/// See the module's description.
pub struct Epoll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    wake: Arc<OwnedFd>,
    routes: Routes,
    now: Instant,
    udp: Vec<Option<UdpSocket>>,
    trains: Trains,
    outbox: Vec<libc::mmsghdr>,
    inbox: Inbox,
    listeners: Vec<Option<Listener>>,
    conns: Slots<Conn>,
    /// Connections that may be able to go on.
    ready: VecDeque<ConnId>,
    closed: VecDeque<ConnId>,
    refused: VecDeque<(ConnId, io::Error)>,
    late: VecDeque<(ListenerId, OwnedFd)>,
    lingering: VecDeque<(Instant, ConnId)>,
    bytes: Vec<u8>,
}

struct UdpSocket {
    fd: OwnedFd,
    /// Trains that found the socket's buffer full, in order.
    stuck: VecDeque<u32>,
}

struct Listener {
    fd: OwnedFd,
    /// Not watched: until this time (no descriptors), or until there is room.
    off: Option<Off>,
}

#[derive(Clone, Copy)]
enum Off {
    Until(Instant),
    NoRoom,
}

struct Conn {
    fd: OwnedFd,
    readable: bool,
    writable: bool,
    /// Stands in `ready` already.
    queued: bool,
    wants_bytes: bool,
    out: Option<Outgoing>,
    /// Our FIN is out; how much has been thrown away since.
    lingering: Option<u64>,
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
            inbox: Inbox::new(),
            listeners: Vec::new(),
            conns: Slots::new(CONNS),
            ready: VecDeque::new(),
            closed: VecDeque::new(),
            refused: VecDeque::new(),
            late: VecDeque::new(),
            lingering: VecDeque::new(),
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
        if self.udp.len() >= UDP_SOCKETS {
            return Err(io::Error::other("more UDP sockets than one ring may have"));
        }
        let id = UdpId(self.udp.len() as u32);
        epoll::add(&self.epoll, &socket, Token::Udp(id).pack(), epoll::EventFlags::IN)?;
        self.udp.push(Some(UdpSocket { fd: socket, stuck: VecDeque::new() }));
        Ok(id)
    }

    fn udp_send(&mut self, send: UdpSend) -> Result<(), (Full, UdpSend)> {
        let route = self.routes.to(send.to.ip(), self.now);
        self.trains.take(send, route)
    }

    fn udp_close(&mut self, socket: UdpId) {
        self.send_trains(&mut |_| {});
        let Some(gone) = self.udp.get_mut(socket.0 as usize).and_then(Option::take) else { return };
        for slot in gone.stuck {
            self.trains.release(slot);
        }
    }

    fn path_mtu(&mut self, peer: IpAddr) -> u32 {
        self.routes.to(peer, self.now).mtu
    }

    fn listener_add(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        if self.listeners.len() >= LISTENERS {
            return Err(io::Error::other("more TCP listeners than one ring may have"));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        let id = ListenerId(self.listeners.len() as u32);
        epoll::add(&self.epoll, &socket, Token::Listener(id).pack(), epoll::EventFlags::IN)?;
        self.listeners.push(Some(Listener { fd: socket, off: None }));
        Ok(id)
    }

    /// Whoever has connected already is still served; then the socket closes.
    fn listener_close(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id.0 as usize).and_then(Option::take) else { return };
        for _ in 0..ACCEPT_BATCH {
            let Ok(fd) = sys::accept(listener.fd.as_raw_fd()) else { break };
            self.late.push_back((id, fd));
        }
    }

    fn conn_recv(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.wants_bytes = true;
        self.queue(id);
    }

    fn conn_send(&mut self, send: ConnSend) {
        let id = send.conn;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.lingering.is_some() {
            return;
        }
        match Outgoing::new(send) {
            Ok(_) if conn.out.is_some() => self.refused.push_back((id, io::ErrorKind::InvalidInput.into())),
            Ok(out) => {
                conn.out = Some(out);
                self.queue(id);
            }
            Err(error) => self.refused.push_back((id, error)),
        }
    }

    fn conn_close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.lingering.is_some() {
            return;
        }
        conn.out = None;
        conn.wants_bytes = false;
        match how {
            Close::Reset => {
                sys::reset_on_close(conn.fd.as_raw_fd());
                self.forget(id);
            }
            Close::Graceful => {
                if sys::finish(conn.fd.as_raw_fd()).is_err() {
                    return self.forget(id);
                }
                conn.lingering = Some(0);
                self.lingering.push_back((self.now + Duration::from_millis(LINGER_MS), id));
                self.queue(id);
            }
        }
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
        super::monotonic_now()
    }
}

// ---- datagrams ---------------------------------------------------------------

/// Where `recvmmsg` puts a batch. The headers point into the vectors, which never grow.
struct Inbox {
    headers: Vec<libc::mmsghdr>,
    names: Vec<Address>,
    controls: Vec<[u64; CONTROL_ROOM / 8]>,
    bytes: Vec<[u8; UDP_PAYLOAD_MAX]>,
    _parts: Vec<libc::iovec>,
}

impl Inbox {
    fn new() -> Self {
        let mut names = vec![Address::empty(); UDP_BATCH];
        let mut controls = vec![[0u64; CONTROL_ROOM / 8]; UDP_BATCH];
        let mut bytes = vec![[0u8; UDP_PAYLOAD_MAX]; UDP_BATCH];
        let mut parts: Vec<libc::iovec> = bytes
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: UDP_PAYLOAD_MAX })
            .collect();
        let headers = (0..UDP_BATCH)
            .map(|i| {
                // SAFETY: mmsghdr is plain old data.
                let mut h: libc::mmsghdr = unsafe { std::mem::zeroed() };
                h.msg_hdr.msg_name = (&raw mut names[i]).cast();
                h.msg_hdr.msg_control = (&raw mut controls[i]).cast();
                h.msg_hdr.msg_iov = &raw mut parts[i];
                h.msg_hdr.msg_iovlen = 1;
                h
            })
            .collect();
        Self { headers, names, controls, bytes, _parts: parts }
    }

    /// A batch; how many datagrams.
    fn fill(&mut self, socket: RawFd) -> io::Result<usize> {
        for h in &mut self.headers {
            h.msg_hdr.msg_namelen = ADDRESS_LEN;
            h.msg_hdr.msg_controllen = CONTROL_ROOM;
        }
        // SAFETY: the headers point to vectors of `self` of which each element is as large as the header says.
        let r = unsafe {
            libc::recvmmsg(
                socket,
                self.headers.as_mut_ptr(),
                UDP_BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        sys::check(r as isize).map(|n| n as usize)
    }

    fn datagram(&self, i: usize, socket: UdpId) -> Option<Datagram<'_>> {
        let header = self.headers.get(i)?;
        let peer = self.names.get(i)?.get()?;
        let control = self.controls.get(i)?;
        let mut flat = [0u8; CONTROL_ROOM];
        for (to, from) in flat.chunks_exact_mut(8).zip(control) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        let (local, group) = sys::destination(flat.get(..header.msg_hdr.msg_controllen)?).unzip();
        let bytes = self.bytes.get(i)?;
        let bytes = bytes.get(..header.msg_len as usize).unwrap_or(bytes);
        Some(Datagram { socket, peer, local, group: group.unwrap_or(false), bytes })
    }
}

impl Epoll {
    fn receive(&mut self, id: UdpId, sink: &mut dyn FnMut(Completion<'_>)) {
        let Some(Some(socket)) = self.udp.get(id.0 as usize) else { return };
        for _ in 0..UDP_ROUNDS {
            let Ok(n) = self.inbox.fill(socket.fd.as_raw_fd()) else { break };
            for i in 0..n {
                if let Some(datagram) = self.inbox.datagram(i, id) {
                    sink(Completion::Datagram(datagram));
                }
            }
            if n < UDP_BATCH {
                break;
            }
        }
    }

    /// Sends everything that waits; whether anything was handed to the sink.
    fn send_trains(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let mut reported = false;
        while let Some(&first) = self.trains.waiting.front() {
            let Some(id) = self.trains.get(first).map(|m| m.train.socket) else {
                self.trains.waiting.pop_front();
                continue;
            };
            let Some(Some(socket)) = self.udp.get_mut(id.0 as usize) else {
                self.trains.waiting.pop_front();
                self.trains.release(first);
                continue;
            };
            if !socket.stuck.is_empty() {
                self.trains.waiting.pop_front();
                socket.stuck.push_back(first);
                continue;
            }
            // A batch is what stands in front for the same socket.
            self.outbox.clear();
            for i in 0..self.trains.waiting.len().min(UDP_BATCH) {
                let slot = self.trains.waiting[i];
                match self.trains.get(slot) {
                    Some(m) if m.train.socket == id => {
                        self.outbox.push(libc::mmsghdr { msg_hdr: m.header, msg_len: 0 });
                    }
                    _ => break,
                }
            }
            let (fd, flags) = (socket.fd.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            // SAFETY: each header was filled by its message, which stays in its box until it is released below.
            let r = unsafe { libc::sendmmsg(fd, self.outbox.as_mut_ptr(), self.outbox.len() as u32, flags) };
            match sys::check(r as isize) {
                Ok(n) => {
                    for slot in self.trains.waiting.drain(..(n as usize).min(self.outbox.len())).collect::<Vec<_>>() {
                        self.trains.release(slot);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.trains.waiting.pop_front();
                    socket.stuck.push_back(first);
                    self.watch_udp(id, epoll::EventFlags::IN | epoll::EventFlags::OUT);
                }
                Err(e) => {
                    self.trains.waiting.pop_front();
                    reported |= self.train_failed(first, e, sink);
                }
            }
        }
        reported
    }

    fn train_failed(&mut self, slot: u32, error: io::Error, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let Some(message) = self.trains.get(slot) else { return false };
        let segments = message.segments();
        let Some(train) = self.trains.release(slot) else { return false };
        let cut = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP));
        if cut && segments > 1 {
            // Over the MTU after all, or a device that cannot: never again on this route.
            self.routes.without_gso(train.to.ip(), self.now);
            if self.trains.singles(&train) {
                return false;
            }
        }
        sink(Completion::UdpFailed { socket: train.socket, to: train.to, error });
        true
    }

    fn unstick(&mut self, id: UdpId) {
        let Some(Some(socket)) = self.udp.get_mut(id.0 as usize) else { return };
        while let Some(slot) = socket.stuck.pop_back() {
            self.trains.waiting.push_front(slot);
        }
        self.watch_udp(id, epoll::EventFlags::IN);
    }

    fn watch_udp(&mut self, id: UdpId, flags: epoll::EventFlags) {
        if let Some(Some(socket)) = self.udp.get(id.0 as usize) {
            let _ = epoll::modify(&self.epoll, &socket.fd, Token::Udp(id).pack(), flags);
        }
    }
}

// ---- connections -----------------------------------------------------------

impl Epoll {
    fn accept(&mut self, id: ListenerId, sink: &mut dyn FnMut(Completion<'_>)) {
        for _ in 0..ACCEPT_BATCH {
            let room = self.conns.room() > CONNS_RESERVE;
            let Some(Some(listener)) = self.listeners.get_mut(id.0 as usize) else { return };
            if !room {
                return self.stop_listening(id, Off::NoRoom);
            }
            match sys::accept(listener.fd.as_raw_fd()) {
                Ok(fd) => self.accepted(id, fd, sink),
                Err(e) => {
                    if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) {
                        let until = self.now + Duration::from_millis(ACCEPT_PAUSE_MS);
                        self.stop_listening(id, Off::Until(until));
                    }
                    return;
                }
            }
        }
    }

    fn stop_listening(&mut self, id: ListenerId, off: Off) {
        if let Some(Some(listener)) = self.listeners.get_mut(id.0 as usize) {
            listener.off = Some(off);
            let none = epoll::EventFlags::empty();
            let _ = epoll::modify(&self.epoll, &listener.fd, Token::Listener(id).pack(), none);
        }
    }

    /// Accepts again where that is possible now; when to look again.
    fn listen_again(&mut self) -> Option<Instant> {
        let room = self.conns.room() > CONNS_RESERVE;
        let mut next = None::<Instant>;
        for (i, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener else { continue };
            match listener.off {
                Some(Off::Until(at)) if at > self.now => next = Some(next.map_or(at, |n| n.min(at))),
                Some(Off::NoRoom) if !room => {}
                Some(_) => {
                    listener.off = None;
                    let token = Token::Listener(ListenerId(i as u32)).pack();
                    let _ = epoll::modify(&self.epoll, &listener.fd, token, epoll::EventFlags::IN);
                }
                None => {}
            }
        }
        next
    }

    fn accepted(&mut self, listener: ListenerId, fd: OwnedFd, sink: &mut dyn FnMut(Completion<'_>)) {
        // Fails where the client has gone already.
        let Ok((local, peer)) = sys::ends(fd.as_raw_fd()) else { return };
        let conn =
            Conn { fd, readable: true, writable: true, queued: false, wants_bytes: false, out: None, lingering: None };
        let Some(id) = self.conns.insert(conn) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        if epoll::add(&self.epoll, conn.fd.as_fd(), Token::Conn(id).pack(), flags).is_err() {
            self.conns.remove(id);
            return;
        }
        sink(Completion::Accepted { listener, conn: id, peer, local });
    }

    fn queue(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let can_write = conn.writable && conn.out.is_some();
        let can_read = conn.readable && (conn.wants_bytes || conn.lingering.is_some());
        if (can_write || can_read) && !conn.queued {
            conn.queued = true;
            self.ready.push_back(id);
        }
    }

    /// One turn for each connection that may be able to go on; whether anything was handed to the sink.
    fn turns(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let mut any = false;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.queued = false;
            any |= write_turn(id, conn, sink);
            if conn.lingering.is_some() {
                self.linger_turn(id);
            } else if conn.wants_bytes && conn.readable {
                any |= read_turn(id, conn, &mut self.bytes, sink);
            }
        }
        any
    }

    /// Throws away what the client still sends, until its FIN or too much of it.
    fn linger_turn(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(discarded) = &mut conn.lingering else { return };
        while *discarded <= LINGER_BYTES {
            match sys::recv(conn.fd.as_raw_fd(), &mut self.bytes) {
                Ok(n) if n > 0 => *discarded += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    conn.readable = false;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.forget(id);
    }

    /// Ends the waits for a FIN that took too long; when the next does.
    fn linger_over(&mut self) -> Option<Instant> {
        while let Some(&(until, id)) = self.lingering.front() {
            if self.conns.get_mut(id).is_some() {
                if until > self.now {
                    return Some(until);
                }
                self.forget(id);
            }
            self.lingering.pop_front();
        }
        None
    }

    fn forget(&mut self, id: ConnId) {
        if self.conns.remove(id).is_some() {
            self.closed.push_back(id);
        }
    }
}

fn write_turn(id: ConnId, conn: &mut Conn, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
    let Some(out) = &mut conn.out else { return false };
    if !conn.writable {
        return false;
    }
    let error = match out.push(conn.fd.as_raw_fd()) {
        Push::Blocked => {
            conn.writable = false;
            return false;
        }
        Push::Done => None,
        Push::Failed(error) => Some(error),
    };
    let bytes = out.sent;
    conn.out = None;
    sink(Completion::Sent { conn: id, bytes, error });
    true
}

fn read_turn(id: ConnId, conn: &mut Conn, bytes: &mut [u8], sink: &mut dyn FnMut(Completion<'_>)) -> bool {
    match sys::recv(conn.fd.as_raw_fd(), bytes) {
        Ok(n) => {
            conn.wants_bytes = false;
            sink(Completion::Received { conn: id, bytes: bytes.get(..n).unwrap_or(&[]) });
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            conn.readable = false;
            return false;
        }
        Err(error) => {
            conn.wants_bytes = false;
            sink(Completion::ConnFailed { conn: id, error });
        }
    }
    true
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
