//! Datagrams in by multishot `recvmsg`, trains out by `sendmsg` or `SENDMSG_ZC`.

use super::{Again, Tag, UDP_GROUP, Uring};
use crate::limits::{UDP_BUFFER_SIZE, UDP_PAYLOAD_MAX, UDP_SOCKETS};
use crate::ring::sys::{self, Address};
use crate::ring::{Completion, Datagram, UdpId};
use io_uring::types::{Fd, RecvMsgOut};
use io_uring::{cqueue, opcode};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Room for the peer's address in each buffer: a sockaddr_in6, rounded up so that what follows is aligned.
const NAME_ROOM: u32 = 32;
/// Room for the packet info behind it.
const CONTROL_ROOM: usize = 64;
/// What the kernel writes first: struct io_uring_recvmsg_out.
const RECVMSG_OUT: usize = 16;
const _: () = assert!(RECVMSG_OUT + NAME_ROOM as usize + CONTROL_ROOM + UDP_PAYLOAD_MAX <= UDP_BUFFER_SIZE);

/// The UDP sockets of a ring.
pub(super) struct Sockets {
    list: Vec<Option<OwnedFd>>,
    /// How the kernel is to lay out what it receives; referred to by every armed receive.
    shape: Box<libc::msghdr>,
    /// Trains given to the kernel and not yet done with.
    in_kernel: usize,
    /// SENDMSG_ZC has been refused (no memory to pin, or not for this socket): copy from now on.
    copy: bool,
    /// Why the last receive ended, where that was not for want of buffers.
    broken: Option<i32>,
}

impl Sockets {
    pub fn new() -> Self {
        // SAFETY: msghdr is plain old data; of it the kernel reads only the two lengths.
        let mut shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        shape.msg_namelen = NAME_ROOM;
        shape.msg_controllen = CONTROL_ROOM;
        Self { list: Vec::new(), shape, in_kernel: 0, copy: false, broken: None }
    }

    fn fd(&self, socket: UdpId) -> Option<Fd> {
        self.list.get(socket.0 as usize)?.as_ref().map(|fd| Fd(fd.as_raw_fd()))
    }
}

impl Uring {
    pub(super) fn add_socket(&mut self, socket: OwnedFd) -> io::Result<UdpId> {
        if self.udp.list.len() >= UDP_SOCKETS {
            return Err(io::Error::other("more UDP sockets than one ring may have"));
        }
        let id = UdpId(self.udp.list.len() as u32);
        self.udp.list.push(Some(socket));
        self.arm_receive(id);
        Ok(id)
    }

    pub(super) fn close_socket(&mut self, socket: UdpId) {
        if self.udp.fd(socket).is_none() {
            return;
        }
        self.submit_trains(); // those hold the socket open until they are out
        self.drain_backlog();
        let _ = self.ring.submit();
        self.push(opcode::AsyncCancel::new(Tag::Datagram(socket).pack()).build().user_data(Tag::Cancel.pack()));
        if let Some(place) = self.udp.list.get_mut(socket.0 as usize) {
            *place = None;
        }
    }

    pub(super) fn arm_receive(&mut self, socket: UdpId) {
        let Some(fd) = self.udp.fd(socket) else { return };
        let shape = &raw const *self.udp.shape;
        self.push(opcode::RecvMsgMulti::new(fd, shape, UDP_GROUP).build().user_data(Tag::Datagram(socket).pack()));
    }

    pub(super) fn on_datagram(&mut self, socket: UdpId, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        if let Some(buffer) = cqueue::buffer_select(entry.flags()) {
            let bytes = self.udp_buffers.get(buffer, entry.result().max(0) as usize);
            if let Ok(message) = RecvMsgOut::parse(bytes, &self.udp.shape)
                && let Some(peer) = Address::parse(message.name_data())
                && self.udp.fd(socket).is_some()
            {
                let (local, group) = sys::destination(message.control_data()).unzip();
                let bytes = message.payload_data();
                let bytes = bytes.get(..UDP_PAYLOAD_MAX).unwrap_or(bytes);
                sink(Completion::Datagram(Datagram { socket, peer, local, group: group.unwrap_or(false), bytes }));
            }
            self.udp_buffers.give_back(buffer);
        }
        if cqueue::more(entry.flags()) {
            return;
        }
        match -entry.result() {
            libc::ECANCELED => {}
            // Every buffer was full: they are given back in this turn.
            code if code <= 0 || code == libc::ENOBUFS => {
                self.counts.buffers_exhausted += u64::from(code == libc::ENOBUFS);
                self.udp_buffers.publish();
                self.arm_receive(socket);
            }
            code => {
                self.udp.broken = Some(code);
                self.pause(Again::Receive(socket));
            }
        }
    }

    /// Why receiving does not work at all, for the probe.
    pub(in crate::ring) fn broken_receive(&mut self) -> Option<io::Error> {
        self.udp.broken.take().map(io::Error::from_raw_os_error)
    }

    pub(super) fn trains_in_kernel(&self) -> usize {
        self.udp.in_kernel
    }

    /// Everything that waits becomes entries of the submission queue.
    pub(super) fn submit_trains(&mut self) {
        while let Some(slot) = self.trains.waiting.pop_front() {
            let Some(message) = self.trains.get(slot) else { continue };
            let Some(fd) = self.udp.fd(message.train.socket) else {
                self.trains.release(slot);
                continue;
            };
            let (header, bulky, to) = (&raw const message.header, message.bulky, message.train.to.ip());
            // A plain send takes an address since the kernel that brought SENDMSG_ZC (6.1).
            let plain = message.plain().filter(|_| self.features.sendmsg_zc);
            let zero_copy = bulky && self.features.sendmsg_zc && !self.udp.copy && !self.routes.to(to, self.now).copies;
            let tag = Tag::Train(slot).pack();
            if zero_copy {
                /// The notification says whether the kernel copied after all.
                const REPORT_USAGE: u16 = 1 << 3;
                self.push(opcode::SendMsgZc::new(fd, header).ioprio(REPORT_USAGE).build().user_data(tag));
            } else {
                self.settling += 1;
                let entry = match plain {
                    Some(p) => {
                        let send = opcode::Send::new(fd, p.bytes, p.length);
                        send.dest_addr(p.name).dest_addr_len(p.name_len).build()
                    }
                    None => opcode::SendMsg::new(fd, header).build(),
                };
                self.push(entry.user_data(tag));
            }
            self.udp.in_kernel += 1;
        }
    }

    pub(super) fn on_train(&mut self, slot: u32, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        let result = entry.result();
        if cqueue::notif(entry.flags()) {
            if self.copied(entry)
                && let Some(message) = self.trains.get(slot)
            {
                self.routes.copied(message.train.to.ip());
            }
        } else if result < 0 {
            self.train_failed(slot, -result, sink);
        }
        if !cqueue::more(entry.flags()) {
            self.udp.in_kernel = self.udp.in_kernel.saturating_sub(1);
            self.trains.release(slot);
        }
    }

    fn train_failed(&mut self, slot: u32, code: i32, sink: &mut dyn FnMut(Completion<'_>)) {
        let Some(message) = self.trains.get(slot) else { return };
        let (train, segments, bulky) = (message.train.clone(), message.segments(), message.bulky);
        let again = match code {
            // Over the MTU after all, or a device that cannot: never again on this route.
            libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP if segments > 1 => {
                if bulky && self.features.sendmsg_zc && !self.udp.copy && code != libc::EMSGSIZE {
                    // Whether it was the zero copy or the GSO that was refused shows when it is sent in pieces.
                    self.udp.copy = code == libc::EOPNOTSUPP;
                }
                self.routes.without_gso(train.to.ip(), self.now);
                self.trains.singles(&train)
            }
            // No memory to pin (RLIMIT_MEMLOCK): copying needs none.
            libc::ENOMEM | libc::ENOBUFS if bulky && !self.udp.copy => {
                self.udp.copy = true;
                self.trains.singles(&train)
            }
            _ => false,
        };
        if !again {
            sink(Completion::UdpFailed {
                socket: train.socket,
                to: train.to,
                error: io::Error::from_raw_os_error(code),
            });
        }
    }
}
