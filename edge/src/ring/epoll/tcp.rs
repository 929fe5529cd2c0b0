//! Connections: accepted in batches, read and written in turns, closed gracefully or not.

use super::{Epoll, Token};
use crate::limits::{ACCEPT_BATCH, ACCEPT_PAUSE_MS, CONNS_RESERVE, LINGER_BYTES, LINGER_MS, LISTENERS};
use crate::ring::outgoing::{Outgoing, Push};
use crate::ring::pipe::Pipe;
use crate::ring::{Close, Completion, ConnId, ConnSend, ListenerId, sys};
use protocol::time::{Duration, Instant};
use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

pub(super) struct Listener {
    fd: OwnedFd,
    /// Not watched: until this time (no descriptors), or until there is room.
    off: Option<Off>,
}

#[derive(Clone, Copy)]
enum Off {
    Until(Instant),
    NoRoom,
}

pub(super) struct Conn {
    fd: OwnedFd,
    pub readable: bool,
    pub writable: bool,
    /// Stands in `ready` already.
    queued: bool,
    wants_bytes: bool,
    out: Option<Outgoing>,
    /// Our FIN is out; how much has been thrown away since.
    lingering: Option<u64>,
}

impl Epoll {
    pub(super) fn add_listener(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
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
    pub(super) fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id.0 as usize).and_then(Option::take) else { return };
        for _ in 0..ACCEPT_BATCH {
            let Ok(fd) = sys::accept(listener.fd.as_raw_fd()) else { break };
            self.late.push_back((id, fd));
        }
    }

    pub(super) fn want_bytes(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.wants_bytes = true;
        self.queue(id);
    }

    pub(super) fn begin_send(&mut self, send: ConnSend) {
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

    pub(super) fn begin_close(&mut self, id: ConnId, how: Close) {
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

    pub(super) fn accept(&mut self, id: ListenerId, sink: &mut dyn FnMut(Completion<'_>)) {
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
    pub(super) fn listen_again(&mut self) -> Option<Instant> {
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

    pub(super) fn accepted(&mut self, listener: ListenerId, fd: OwnedFd, sink: &mut dyn FnMut(Completion<'_>)) {
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

    pub(super) fn queue(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let can_write = conn.writable && conn.out.is_some();
        let can_read = conn.readable && (conn.wants_bytes || conn.lingering.is_some());
        if (can_write || can_read) && !conn.queued {
            conn.queued = true;
            self.ready.push_back(id);
        }
    }

    /// One turn for each connection that may be able to go on; whether anything was handed to the sink.
    pub(super) fn turns(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let mut any = false;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.queued = false;
            any |= write_turn(id, conn, &mut self.pipe, sink);
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
    pub(super) fn linger_over(&mut self) -> Option<Instant> {
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

fn write_turn(id: ConnId, conn: &mut Conn, pipe: &mut Pipe, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
    let Some(out) = &mut conn.out else { return false };
    if !conn.writable {
        return false;
    }
    let error = match out.push(conn.fd.as_raw_fd(), pipe) {
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
