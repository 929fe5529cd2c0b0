//! Listeners by multishot accept, requests by `recv` into provided buffers,
//! answers by the way that costs least on the connection's route.
//!
//! A connection is freed when the kernel has handed back every operation of
//! it (`ops` is 0); until then its box stays where it is.

use super::{Again, TCP_GROUP, Tag, Uring};
use crate::limits::{ACCEPT_BATCH, CONNS_RESERVE, LINGER_BYTES, LINGER_MS, LISTENERS, TCP_BUFFER_SIZE};
use crate::ring::outgoing::{Outgoing, Push};
use crate::ring::{Close, Completion, ConnId, ConnSend, ListenerId, sys};
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use protocol::time::{Duration, Instant};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Flags of every send: no SIGPIPE; all of it before the completion.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

pub(super) struct Listener {
    socket: OwnedFd,
    armed: bool,
}

pub(super) struct Conn {
    socket: OwnedFd,
    /// Operations in the kernel's hands.
    ops: u8,
    receiving: bool,
    /// The tag of the send or poll under way.
    sending: Option<Tag>,
    out: Option<Outgoing>,
    /// The kernel copies on this route: `splice` rather than `SEND_ZC`.
    copies: bool,
    /// The client has sent FIN.
    ended: bool,
    closing: Option<Closing>,
    message: libc::msghdr,
    parts: [libc::iovec; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// Close as soon as no operation is left.
    Now { reset: bool },
    /// Our FIN is out or about to be; throw away what comes until the client's.
    Lingering { fin: bool, discarded: u64 },
}

impl Conn {
    fn fd(&self) -> Fd {
        Fd(self.socket.as_raw_fd())
    }
}

// ---- listeners -------------------------------------------------------------

impl Uring {
    pub(super) fn add_listener(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        if self.listeners.len() >= LISTENERS {
            return Err(io::Error::other("more TCP listeners than one ring may have"));
        }
        // io_uring gives up at once on a nonblocking listener.
        rustix::io::ioctl_fionbio(&socket, false)?;
        let id = ListenerId(self.listeners.len() as u32);
        self.listeners.push(Some(Listener { socket, armed: false }));
        self.arm_accept(id);
        Ok(id)
    }

    pub(super) fn arm_accept(&mut self, id: ListenerId) {
        let room = self.conns.room() > CONNS_RESERVE;
        let Some(Some(listener)) = self.listeners.get_mut(id.0 as usize) else { return };
        if listener.armed || !room {
            return; // with no room, the end of a connection arms it
        }
        listener.armed = true;
        let fd = Fd(listener.socket.as_raw_fd());
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        self.push(opcode::AcceptMulti::new(fd).flags(flags).build().user_data(Tag::Accept(id).pack()));
    }

    /// Whoever has connected already is still served; then the socket closes.
    pub(super) fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.push(opcode::AsyncCancel::new(Tag::Accept(id).pack()).build().user_data(Tag::Cancel.pack()));
        // The socket lives in the kernel until the accept has ended, but its backlog is to be emptied now.
        let _ = rustix::io::ioctl_fionbio(&listener.socket, true);
        for _ in 0..ACCEPT_BATCH {
            let Ok(socket) = sys::accept(listener.socket.as_raw_fd()) else { break };
            self.late.push_back((id, socket));
        }
    }

    /// What was accepted while its listener closed.
    pub(super) fn report_late(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let mut any = false;
        while let Some((id, socket)) = self.late.pop_front() {
            self.accepted(id, socket, sink);
            any = true;
        }
        any
    }

    pub(super) fn on_accept(&mut self, id: ListenerId, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        let result = entry.result();
        if result >= 0 {
            // SAFETY: the descriptor is new and ours alone.
            let socket = unsafe { OwnedFd::from_raw_fd(result) };
            self.accepted(id, socket, sink);
        }
        if cqueue::more(entry.flags()) {
            if self.conns.room() <= CONNS_RESERVE {
                self.push(opcode::AsyncCancel::new(Tag::Accept(id).pack()).build().user_data(Tag::Cancel.pack()));
            }
            return;
        }
        if let Some(Some(listener)) = self.listeners.get_mut(id.0 as usize) {
            listener.armed = false;
        }
        match -result {
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => self.pause(Again::Accept(id)),
            _ => self.arm_accept(id),
        }
    }

    fn accepted(&mut self, listener: ListenerId, socket: OwnedFd, sink: &mut dyn FnMut(Completion<'_>)) {
        // Fails where the client has gone already.
        let Ok((local, peer)) = sys::ends(socket.as_raw_fd()) else { return };
        let conn = Conn {
            socket,
            ops: 0,
            receiving: false,
            sending: None,
            out: None,
            copies: self.routes.to(peer.ip(), self.now).copies,
            ended: false,
            closing: None,
            // SAFETY: msghdr is plain old data.
            message: unsafe { std::mem::zeroed() },
            parts: [sys::iovec(&[]), sys::iovec(&[])],
        };
        if let Some(conn) = self.conns.insert(conn) {
            sink(Completion::Accepted { listener, conn, peer, local });
        }
    }
}

// ---- receiving -------------------------------------------------------------

impl Uring {
    pub(super) fn want_bytes(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.receiving || conn.closing.is_some() {
            return;
        }
        self.arm_recv(id);
    }

    fn arm_recv(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.receiving = true;
        conn.ops += 1;
        let entry = opcode::Recv::new(conn.fd(), std::ptr::null_mut(), TCP_BUFFER_SIZE as u32)
            .buf_group(TCP_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(Tag::Receive(id).pack());
        self.push(entry);
    }

    pub(super) fn on_receive(&mut self, id: ConnId, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        let result = entry.result();
        let buffer = cqueue::buffer_select(entry.flags());
        if let Some(conn) = self.conns.get_mut(id) {
            conn.receiving = false;
            conn.ops -= 1;
            conn.ended |= result == 0;
            match &mut conn.closing {
                None if result >= 0 => {
                    let bytes = buffer.map_or(&[][..], |b| self.tcp_buffers.get(b, result as usize));
                    sink(Completion::Received { conn: id, bytes });
                }
                None => match -result {
                    libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {
                        self.tcp_buffers.publish();
                        self.arm_recv(id);
                    }
                    code => sink(Completion::ConnFailed { conn: id, error: io::Error::from_raw_os_error(code) }),
                },
                Some(Closing::Lingering { discarded, .. }) => {
                    *discarded += result.max(0) as u64;
                    let more = (result > 0 && *discarded <= LINGER_BYTES) || result == -libc::ENOBUFS;
                    if more {
                        self.arm_recv(id);
                    } else {
                        conn.closing = Some(Closing::Now { reset: false });
                        self.close_if_free(id);
                    }
                }
                Some(Closing::Now { .. }) => self.close_if_free(id),
            }
        }
        if let Some(buffer) = buffer {
            self.tcp_buffers.give_back(buffer);
        }
    }
}

// ---- sending ---------------------------------------------------------------

impl Uring {
    pub(super) fn begin_send(&mut self, send: ConnSend) {
        let id = send.conn;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing.is_some() {
            return;
        }
        match Outgoing::new(send) {
            Ok(_) if conn.out.is_some() => self.refused.push_back((id, io::ErrorKind::InvalidInput.into())),
            Ok(out) => {
                conn.out = Some(out);
                self.go_on(id);
            }
            Err(error) => self.refused.push_back((id, error)),
        }
    }

    /// The next step of a send, by the way that costs least.
    fn go_on(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(out) = &conn.out else { return };
        if out.better_copied() {
            return self.send_both(id);
        }
        if conn.copies || !self.features.send_zc || self.zero_copy.refused {
            self.ready.push_back(id);
            return;
        }
        if !out.head().is_empty() {
            return self.send_head(id);
        }
        self.send_without_copy(id);
    }

    fn send_both(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(out) = &conn.out else { return };
        conn.parts = [sys::iovec(out.head()), sys::iovec(out.body())];
        conn.message.msg_iov = conn.parts.as_mut_ptr();
        conn.message.msg_iovlen = 2;
        let entry = opcode::SendMsg::new(conn.fd(), &raw const conn.message).flags(SEND_FLAGS as u32).build();
        self.submit_send(id, entry, Tag::Send(id));
    }

    /// The head alone, corked: the body follows.
    fn send_head(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(out) = &conn.out else { return };
        let (head, flags) = (out.head(), SEND_FLAGS | libc::MSG_MORE);
        let entry = opcode::Send::new(conn.fd(), head.as_ptr(), head.len() as u32).flags(flags).build();
        self.submit_send(id, entry, Tag::Send(id));
    }

    fn send_without_copy(&mut self, id: ConnId) {
        /// The notification says whether the kernel copied after all.
        const REPORT_USAGE: u16 = 1 << 3;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some((out, image)) = conn.out.as_ref().and_then(|out| Some((out, out.image()?))) else { return };
        let Some(held) = self.zero_copy.hold(id, image.clone()) else {
            self.ready.push_back(id);
            return;
        };
        let index = if self.features.registered_buffers { self.zero_copy.index(&self.ring, image) } else { None };
        let body = out.body();
        let entry = opcode::SendZc::new(conn.fd(), body.as_ptr(), body.len() as u32)
            .buf_index(index)
            .flags(SEND_FLAGS)
            .zc_flags(REPORT_USAGE)
            .build();
        self.submit_send(id, entry, Tag::ZeroCopy(held));
    }

    fn submit_send(&mut self, id: ConnId, entry: squeue::Entry, tag: Tag) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ops += 1;
        conn.sending = Some(tag);
        self.push(entry.user_data(tag.pack()));
    }

    pub(super) fn on_send(&mut self, id: ConnId, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        if self.send_is_back(id) {
            self.after_send(id, entry.result(), sink);
        }
    }

    pub(super) fn on_zero_copy(&mut self, held: ConnId, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        let Some(id) = self.zero_copy.get(held).map(|h| h.conn) else { return };
        if !cqueue::more(entry.flags()) {
            self.zero_copy.release(held);
        }
        if cqueue::notif(entry.flags()) {
            if self.copied(entry)
                && let Some(conn) = self.conns.get_mut(id)
            {
                conn.copies = true;
            }
            return;
        }
        if !self.send_is_back(id) {
            return;
        }
        match -entry.result() {
            // No pages to pin, or not on this socket: the next step goes another way.
            libc::ENOMEM | libc::ENOBUFS => {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.copies = true;
                }
                self.go_on(id);
            }
            libc::EINVAL | libc::EOPNOTSUPP | libc::EFAULT => {
                self.zero_copy.refused = true;
                self.go_on(id);
            }
            _ => self.after_send(id, entry.result(), sink),
        }
    }

    /// The operation of a send or poll is over; false where its connection is being closed.
    fn send_is_back(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        conn.ops -= 1;
        conn.sending = None;
        if conn.closing.is_some() {
            conn.out = None;
            self.close_on(id);
            return false;
        }
        true
    }

    fn after_send(&mut self, id: ConnId, result: i32, sink: &mut dyn FnMut(Completion<'_>)) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(out) = &mut conn.out else { return };
        out.advance(result.max(0) as u64);
        match -result {
            libc::EAGAIN => self.wait_writable(id),
            libc::EINTR => self.go_on(id),
            code if code > 0 => self.sent(id, Some(io::Error::from_raw_os_error(code)), sink),
            _ if out.left() == 0 => self.sent(id, None, sink),
            0 => self.sent(id, Some(io::ErrorKind::WriteZero.into()), sink),
            _ => self.go_on(id),
        }
    }

    fn sent(&mut self, id: ConnId, error: Option<io::Error>, sink: &mut dyn FnMut(Completion<'_>)) {
        let Some(out) = self.conns.get_mut(id).and_then(|conn| conn.out.take()) else { return };
        sink(Completion::Sent { conn: id, bytes: out.sent, error });
    }

    fn wait_writable(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let entry = opcode::PollAdd::new(conn.fd(), libc::POLLOUT as u32).build();
        self.submit_send(id, entry, Tag::Writable(id));
    }

    pub(super) fn on_writable(&mut self, id: ConnId) {
        if self.send_is_back(id) {
            self.go_on(id);
        }
    }

    /// One turn for each connection that sends by `splice`; whether anything was handed to the sink.
    pub(super) fn splice_turns(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let mut any = false;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let Some(out) = &mut conn.out else { continue };
            match out.push(conn.socket.as_raw_fd(), &mut self.pipe) {
                Push::Blocked => self.wait_writable(id),
                Push::Done => {
                    any = true;
                    self.sent(id, None, sink);
                }
                Push::Failed(error) => {
                    any = true;
                    self.sent(id, Some(error), sink);
                }
            }
        }
        any
    }
}

// ---- closing ---------------------------------------------------------------

impl Uring {
    pub(super) fn begin_close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing.is_some() {
            return;
        }
        conn.closing = Some(match how {
            Close::Reset => Closing::Now { reset: true },
            Close::Graceful => Closing::Lingering { fin: false, discarded: 0 },
        });
        let send = conn.sending;
        if send.is_none() {
            conn.out = None;
        }
        if let Some(tag) = send {
            self.cancel(tag);
        }
        self.close_on(id);
    }

    fn cancel(&mut self, tag: Tag) {
        self.push(opcode::AsyncCancel::new(tag.pack()).build().user_data(Tag::Cancel.pack()));
    }

    /// The next step of closing, once no send is in the way.
    fn close_on(&mut self, id: ConnId) {
        let until = self.now + Duration::from_millis(LINGER_MS);
        let Some(conn) = self.conns.get_mut(id) else { return };
        match conn.closing {
            Some(Closing::Lingering { fin: false, discarded }) if conn.sending.is_none() => {
                if sys::finish(conn.socket.as_raw_fd()).is_err() || conn.ended {
                    conn.closing = Some(Closing::Now { reset: false });
                    return self.close_on(id);
                }
                conn.closing = Some(Closing::Lingering { fin: true, discarded });
                let receiving = conn.receiving;
                self.lingering.push_back((until, id));
                if !receiving {
                    self.arm_recv(id);
                }
            }
            Some(Closing::Now { .. }) => {
                if conn.receiving {
                    self.cancel(Tag::Receive(id));
                }
                self.close_if_free(id);
            }
            _ => {}
        }
    }

    /// Ends the waits for a FIN that took too long; when the next does.
    pub(super) fn linger_over(&mut self) -> Option<Instant> {
        while let Some(&(until, id)) = self.lingering.front() {
            let live = self.conns.get_mut(id).filter(|c| matches!(c.closing, Some(Closing::Lingering { .. })));
            match live {
                None => {}
                Some(_) if until > self.now => return Some(until),
                Some(conn) => {
                    conn.closing = Some(Closing::Now { reset: false });
                    self.close_on(id);
                }
            }
            self.lingering.pop_front();
        }
        None
    }

    fn close_if_free(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(Closing::Now { reset }) = conn.closing else { return };
        if conn.ops > 0 {
            return;
        }
        if reset {
            sys::reset_on_close(conn.socket.as_raw_fd());
        }
        self.conns.remove(id);
        self.closed.push_back(id);
        for i in 0..self.listeners.len() {
            self.arm_accept(ListenerId(i as u32));
        }
    }

    /// Hands over what needed no operation; whether there was anything.
    pub(super) fn report(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
        let mut any = self.report_late(sink);
        while let Some((conn, error)) = self.refused.pop_front() {
            sink(Completion::Sent { conn, bytes: 0, error: Some(error) });
            any = true;
        }
        while let Some(conn) = self.closed.pop_front() {
            sink(Completion::Closed { conn });
            any = true;
        }
        any
    }
}
