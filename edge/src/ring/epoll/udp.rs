//! Datagrams in by `recvmmsg`, trains out by `sendmmsg`.

use super::{Epoll, Token};
use crate::limits::{UDP_BATCH, UDP_PAYLOAD_MAX, UDP_ROUNDS, UDP_SOCKETS};
use crate::ring::sys::{self, ADDRESS_LEN, Address};
use crate::ring::{Completion, Datagram, UdpId};
use rustix::event::epoll;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Room for the control data of a datagram.
const CONTROL_ROOM: usize = 64;

pub(super) struct Socket {
    pub fd: OwnedFd,
    /// Trains that found the socket's buffer full, in order.
    pub stuck: VecDeque<u32>,
}

/// Where `recvmmsg` puts a batch. The headers point into the vectors, which never grow.
pub(super) struct Inbox {
    headers: Vec<libc::mmsghdr>,
    names: Vec<Address>,
    controls: Vec<[u64; CONTROL_ROOM / 8]>,
    bytes: Vec<[u8; UDP_PAYLOAD_MAX]>,
    _parts: Vec<libc::iovec>,
}

impl Inbox {
    pub fn new() -> Self {
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
    pub(super) fn add_socket(&mut self, socket: OwnedFd) -> io::Result<UdpId> {
        if self.udp.len() >= UDP_SOCKETS {
            return Err(io::Error::other("more UDP sockets than one ring may have"));
        }
        let id = UdpId(self.udp.len() as u32);
        epoll::add(&self.epoll, &socket, Token::Udp(id).pack(), epoll::EventFlags::IN)?;
        self.udp.push(Some(Socket { fd: socket, stuck: VecDeque::new() }));
        Ok(id)
    }

    pub(super) fn close_socket(&mut self, socket: UdpId) {
        self.send_trains(&mut |_| {});
        let Some(gone) = self.udp.get_mut(socket.0 as usize).and_then(Option::take) else { return };
        for slot in gone.stuck {
            self.trains.release(slot);
        }
    }

    pub(super) fn receive(&mut self, id: UdpId, sink: &mut dyn FnMut(Completion<'_>)) {
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
    pub(super) fn send_trains(&mut self, sink: &mut dyn FnMut(Completion<'_>)) -> bool {
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

    pub(super) fn unstick(&mut self, id: UdpId) {
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
