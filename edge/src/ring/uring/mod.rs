//! The io_uring driver.
//!
//! One `io_uring_enter` a turn submits everything queued, and waits. Datagrams
//! and requests land in provided buffers (multishot); windows go out as GSO
//! sends straight from the image; bodies by `SEND_ZC` from registered memory
//! where a NIC takes pages, by `splice` with readiness polls where the
//! kernel would copy anyway.
//!
//! | file | what |
//! |---|---|
//! | here | the ring, the turn, the dispatch of completions by their tag |
//! | `udp` | sockets and trains |
//! | `tcp` | listeners, connections, answers |
//! | `zero_copy` | registered images, sends whose pages the kernel holds |
//! | `buffers` | provided buffer rings |

mod buffers;
mod tcp;
mod udp;
mod zero_copy;

use super::pipe::Pipe;
use super::probe::{self, Features};
use super::route::Routes;
use super::slots::Slots;
use super::train::Trains;
use super::{Close, Completion, ConnId, ConnSend, Counts, Full, ListenerId, Ring, UdpId, UdpSend, Waker};
use crate::limits::{CONNS, TCP_BUFFER_SIZE, TCP_BUFFERS, UDP_BUFFER_SIZE, UDP_BUFFERS, ZC_IMAGES};
use buffers::Buffers;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use protocol::time::{Duration, Instant};
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// Provided buffer groups.
const UDP_GROUP: u16 = 0;
const TCP_GROUP: u16 = 1;

/// While sends just submitted are expected to complete at once, the wait for
/// one completion more is cut to this: a send that found a full socket buffer
/// must not hold up what came in.
const SETTLE: Duration = Duration::from_millis(2);

/// See the module's description.
pub struct Uring {
    // First, so that it is dropped first: no kernel work outlives the memory below (see `drop`).
    ring: IoUring,
    features: Features,
    /// Entries for which the submission queue had no room.
    backlog: VecDeque<squeue::Entry>,
    /// Completions of this turn.
    done: Vec<cqueue::Entry>,
    /// UDP sends submitted since the last wait, each about to complete.
    settling: usize,
    wake: Arc<OwnedFd>,
    wake_value: Box<u64>,
    /// What is to be armed again later, by time.
    pauses: VecDeque<(Instant, Again)>,
    routes: Routes,
    now: Instant,
    udp: udp::Sockets,
    trains: Trains,
    udp_buffers: Buffers,
    tcp_buffers: Buffers,
    listeners: Vec<Option<tcp::Listener>>,
    conns: Slots<tcp::Conn>,
    /// Connections whose turn it is to `splice`.
    ready: VecDeque<ConnId>,
    /// Connections whose descriptor is closed; the sink has yet to hear it.
    closed: VecDeque<ConnId>,
    /// Sends that failed before they reached the kernel.
    refused: VecDeque<(ConnId, io::Error)>,
    /// Accepted while their listener closed.
    late: VecDeque<(ListenerId, OwnedFd)>,
    /// Connections that wait for the client's FIN, oldest first.
    lingering: VecDeque<(Instant, ConnId)>,
    pipe: Pipe,
    zero_copy: zero_copy::Table,
    counts: Counts,
}

/// What is armed again after a pause.
#[derive(Clone, Copy)]
enum Again {
    Receive(UdpId),
    Accept(ListenerId),
}

impl Uring {
    /// Sets up a ring with everything the driver cannot do without.
    ///
    /// # Errors
    /// The kernel refuses io_uring, or a part of it; [`probe::uring`] explains.
    pub fn new() -> io::Result<Self> {
        let (ring, mut features) = probe::set_up()?;
        let udp_buffers = Buffers::register(&ring, UDP_GROUP, UDP_BUFFERS, UDP_BUFFER_SIZE)?;
        let tcp_buffers = Buffers::register(&ring, TCP_GROUP, TCP_BUFFERS, TCP_BUFFER_SIZE)?;
        features.registered_buffers = ring.submitter().register_buffers_sparse(ZC_IMAGES).is_ok();
        let mut this = Self {
            ring,
            features,
            backlog: VecDeque::new(),
            done: Vec::new(),
            settling: 0,
            wake: Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?),
            wake_value: Box::new(0),
            pauses: VecDeque::new(),
            routes: Routes::default(),
            now: Instant::ZERO,
            udp: udp::Sockets::new(),
            trains: Trains::new(),
            udp_buffers,
            tcp_buffers,
            listeners: Vec::new(),
            conns: Slots::new(CONNS),
            ready: VecDeque::new(),
            closed: VecDeque::new(),
            refused: VecDeque::new(),
            late: VecDeque::new(),
            lingering: VecDeque::new(),
            pipe: Pipe::new(),
            zero_copy: zero_copy::Table::new(),
            counts: Counts::default(),
        };
        this.now = this.now();
        this.arm_wake();
        Ok(this)
    }

    /// What this ring can do.
    pub fn features(&self) -> Features {
        self.features
    }

    #[cfg(test)]
    pub(super) fn take_for_nic(&mut self) {
        self.routes.take_for_nic = true;
    }

    fn arm_wake(&mut self) {
        let into = (&raw mut *self.wake_value).cast();
        self.push(opcode::Read::new(Fd(self.wake.as_raw_fd()), into, 8).build().user_data(Tag::Wake.pack()));
    }

    /// Queues an entry. What it points to must stay in place until its completion.
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        self.drain_backlog();
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: all that entries of this driver point to lives in `self` behind stable addresses (boxes, mappings,
        // images held by a table) until their completion has been seen.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Bounded by the operations under way, see `limits`.
    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            // A kernel whose completion queue is full takes nothing before it is emptied: keep it for the next turn.
            if self.ring.submit().is_err() || !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits and waits for one completion, or until `deadline`; not at all where there is work already.
    fn enter(&mut self, deadline: Option<Instant>, busy: bool) -> io::Result<()> {
        self.drain_backlog();
        let mut want = if busy { 0 } else { 1 };
        let mut deadline = deadline;
        if !busy && self.settling > 0 && self.trains_in_kernel() == self.settling {
            // The sends complete while they are submitted: wait for them and one thing more.
            want += self.settling;
            let soon = self.now + SETTLE;
            deadline = Some(deadline.map_or(soon, |d| d.min(soon)));
        }
        self.settling = 0;
        let span = if busy { Some(Duration::ZERO) } else { deadline.map(|d| d - self.now) };
        let result = match span {
            Some(span) => {
                let span = Timespec::from(span);
                let args = SubmitArgs::new().timespec(&span);
                self.submit_with(want, &args)
            }
            None => self.ring.submitter().submit_and_wait(want),
        };
        match result {
            Ok(_) => Ok(()),
            // EBUSY: completions to be taken first. EAGAIN: no memory for a request just now.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn submit_with(&mut self, want: usize, args: &SubmitArgs<'_, '_>) -> io::Result<usize> {
        const GETEVENTS: u32 = 1;
        const EXT_ARG: u32 = 1 << 3;
        let queued = self.ring.submission().len();
        // SAFETY: the flags say that `args` is an extended argument, which lives through the call. GETEVENTS even where
        // nothing is waited for: deferred task work runs only then.
        unsafe { self.ring.submitter().enter(queued as u32, want as u32, GETEVENTS | EXT_ARG, Some(args)) }
    }

    /// Counts a zero-copy notification; whether the kernel copied after all (IORING_NOTIF_USAGE_ZC_COPIED).
    fn copied(&mut self, entry: &cqueue::Entry) -> bool {
        let copied = entry.result() as u32 & 1 << 31 != 0;
        if copied {
            self.counts.zc_copied += 1;
        } else {
            self.counts.zc_uncopied += 1;
        }
        copied
    }

    fn dispatch(&mut self, entry: &cqueue::Entry, sink: &mut dyn FnMut(Completion<'_>)) {
        let Some(tag) = Tag::unpack(entry.user_data()) else { return };
        match tag {
            Tag::Datagram(socket) => self.on_datagram(socket, entry, sink),
            Tag::Train(slot) => self.on_train(slot, entry, sink),
            Tag::Accept(listener) => self.on_accept(listener, entry, sink),
            Tag::Receive(conn) => self.on_receive(conn, entry, sink),
            Tag::Send(conn) => self.on_send(conn, entry, sink),
            Tag::Writable(conn) => self.on_writable(conn),
            Tag::ZeroCopy(slot) => self.on_zero_copy(slot, entry, sink),
            Tag::Wake => {
                self.arm_wake();
                sink(Completion::Woken);
            }
            Tag::Cancel => {}
        }
    }

    /// Arms again what paused; the time of the next.
    fn pauses(&mut self) -> Option<Instant> {
        while let Some(&(at, again)) = self.pauses.front() {
            if at > self.now {
                return Some(at);
            }
            self.pauses.pop_front();
            match again {
                Again::Receive(socket) => self.arm_receive(socket),
                Again::Accept(listener) => self.arm_accept(listener),
            }
        }
        None
    }

    fn pause(&mut self, again: Again) {
        let at = self.now + Duration::from_millis(crate::limits::ACCEPT_PAUSE_MS);
        self.pauses.push_back((at, again));
    }
}

impl Ring for Uring {
    fn name(&self) -> &'static str {
        "uring"
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
        self.submit_trains();
        let mut busy = self.splice_turns(sink);
        busy |= self.report(sink);
        let ours = [self.pauses(), self.linger_over(), deadline].into_iter().flatten().min();
        self.enter(ours, busy || !self.ready.is_empty() || !self.closed.is_empty())?;
        self.now = self.now();
        let now = self.now;
        let sink = &mut |completion: Completion<'_>| told(now, completion);
        let mut done = std::mem::take(&mut self.done);
        done.extend(self.ring.completion());
        for entry in &done {
            self.dispatch(entry, sink);
        }
        done.clear();
        self.done = done;
        self.udp_buffers.publish();
        self.tcp_buffers.publish();
        self.report(sink);
        Ok(())
    }

    fn counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn now(&self) -> Instant {
        crate::clock::monotonic()
    }
}

impl Drop for Uring {
    /// Takes back everything from the kernel before the memory it works on goes away.
    fn drop(&mut self) {
        let patience = Timespec::new().sec(1);
        let _ = self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
    }
}

/// What a completion belongs to; packed into the 64 bits that io_uring carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag {
    Datagram(UdpId),
    Train(u32),
    Accept(ListenerId),
    Receive(ConnId),
    Send(ConnId),
    Writable(ConnId),
    ZeroCopy(ConnId),
    Wake,
    Cancel,
}

impl Tag {
    /// Kind in the top 8 bits; ids of connections have 24 bits of generation and 32 of place.
    fn pack(self) -> u64 {
        let (kind, value) = match self {
            Self::Datagram(id) => (1, u64::from(id.0)),
            Self::Train(slot) => (2, u64::from(slot)),
            Self::Accept(id) => (3, u64::from(id.0)),
            Self::Receive(id) => (4, id.0),
            Self::Send(id) => (5, id.0),
            Self::Writable(id) => (6, id.0),
            Self::ZeroCopy(id) => (7, id.0),
            Self::Wake => (8, 0),
            Self::Cancel => (9, 0),
        };
        kind << 56 | value
    }

    fn unpack(data: u64) -> Option<Self> {
        let value = data & ((1 << 56) - 1);
        Some(match data >> 56 {
            1 => Self::Datagram(UdpId(value as u32)),
            2 => Self::Train(value as u32),
            3 => Self::Accept(ListenerId(value as u32)),
            4 => Self::Receive(ConnId(value)),
            5 => Self::Send(ConnId(value)),
            6 => Self::Writable(ConnId(value)),
            7 => Self::ZeroCopy(ConnId(value)),
            8 => Self::Wake,
            9 => Self::Cancel,
            _ => return None,
        })
    }
}
