//! The table of transfers between the worker and the ring.

use super::Config;
use super::admission::{Admission, Bucket, is_reserved, is_unicast};
use super::peers::{self, Peers};
use super::slot::{Slot, Stage};
use super::sockets::Sockets;
use super::texts::Texts;
use super::wheel::Wheel;
use crate::catalog::Catalog;
use crate::events::{EventSender, printable};
use crate::limits;
use crate::metrics::{Refusal, WorkerMetrics};
use crate::ring::{Datagram, Ring, UdpId, UdpPayload, UdpSend};
use crate::worker::{self, UdpRole, UdpService};
use protocol::event::Outcome;
use protocol::tftp::packet::Short;
use protocol::tftp::transfer::{Input, Output};
use protocol::tftp::{ErrorCode, Packet, Policy, Transfer};
use protocol::time::{Duration, Instant};
use slab::Slab;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// All TFTP of one worker.
pub struct Service {
    pub(super) config: Config,
    pub(super) catalog: Arc<Catalog>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) events: EventSender,
    pub(super) sockets: Sockets,
    pub(super) admission: Admission,
    pub(super) texts: Texts,
    /// Hashes requests, so that forging an equal one takes more than luck.
    pub(super) hasher: RandomState,
    pub(super) slots: Slab<Slot>,
    pub(super) by_peer: Peers,
    /// Slots (with their transfer's id) before their first ACK, the oldest first; some may have moved on.
    pub(super) unproven: VecDeque<(usize, u64)>,
    pub(super) draining: bool,
    wheel: Wheel,
    /// To be sent: transfers in their first window, then all others.
    fresh: VecDeque<usize>,
    bulk: VecDeque<usize>,
    answers: VecDeque<UdpSend>,
    /// Did not fit into the ring.
    held: Option<UdpSend>,
    /// Something is left to be sent: flush again then.
    again: Option<Instant>,
    stray_errors: Bucket,
}

impl Service {
    /// An empty table. Answers nothing before it has a catalog.
    pub fn new(config: Config, events: EventSender, metrics: Arc<WorkerMetrics>) -> Self {
        let size = config.transfers;
        Self {
            catalog: Arc::default(),
            metrics,
            events,
            sockets: Sockets::default(),
            // No client may take more than half of the table.
            admission: Admission::new(config.unproven_per_client, size.div_ceil(2)),
            texts: Texts::default(),
            hasher: RandomState::new(),
            slots: Slab::with_capacity(size),
            by_peer: peers::with_capacity(size),
            unproven: VecDeque::with_capacity(size),
            draining: false,
            wheel: Wheel::new(size),
            fresh: VecDeque::with_capacity(size),
            bulk: VecDeque::with_capacity(size),
            answers: VecDeque::new(),
            held: None,
            again: None,
            stray_errors: Bucket::full(limits::TFTP_STRAY_ERRORS, Instant::ZERO),
            config,
        }
    }

    /// A packet that belongs to a transfer, or to none.
    fn packet(&mut self, datagram: Datagram<'_>, packet: Packet<'_>, now: Instant) {
        let index = self.by_peer.get(&datagram.peer).copied();
        match index.and_then(|index| Some((index, self.slots.get_mut(index)?))) {
            Some((index, slot)) if slot.route.socket == datagram.socket => {
                if let Packet::Error { code, text } = packet {
                    slot.why = format!("client's error {}: {}", code.0, printable(text, 128));
                }
                self.step(index, Input::Packet(packet), now);
            }
            _ => self.stray(datagram, packet, now),
        }
    }

    /// RFC 1350 section 4: an unknown TID is told so, and no transfer is
    /// harmed. But an ERROR is never answered, nor is an OACK, which only
    /// servers send; and the others only so often.
    fn stray(&mut self, datagram: Datagram<'_>, packet: Packet<'_>, now: Instant) {
        self.metrics.tftp.refused(Refusal::UnknownTid).inc();
        let answerable = matches!(packet, Packet::Data { .. } | Packet::Ack { .. });
        if answerable && self.stray_errors.take(limits::TFTP_STRAY_ERRORS, limits::TFTP_STRAY_ERRORS, now) {
            self.answer(&datagram, ErrorCode::UNKNOWN_TID, "unknown transfer id");
        }
    }

    /// Queues an ERROR that belongs to no transfer.
    pub(super) fn answer(&mut self, to: &Datagram<'_>, code: ErrorCode, text: &str) {
        if self.answers.len() < limits::TFTP_ANSWERS {
            let payload = UdpPayload::Small(Short::error(code, text).as_bytes().to_vec());
            self.answers.push_back(UdpSend { socket: to.socket, to: to.peer, from: to.local, payload });
        }
    }

    /// Something happened to a transfer.
    pub(super) fn step(&mut self, index: usize, input: Input<'_>, now: Instant) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(transfer) = slot.transfer() else { return };
        transfer.handle(input, now);
        let (has_output, deadline) = (transfer.has_output(), transfer.deadline());
        if transfer.is_validated() && !slot.proven {
            slot.proven = true;
            self.admission.proven(slot.route.peer);
        }
        slot.account(&self.metrics, &mut self.events);
        if has_output {
            self.queue(index);
        } else if let Some(deadline) = deadline {
            self.wheel.arm(index as u32, deadline);
        }
    }

    /// A transfer has something to send.
    pub(super) fn queue(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if !std::mem::replace(&mut slot.queued, true) {
            let queue = if slot.is_fresh() { &mut self.fresh } else { &mut self.bulk };
            queue.push_back(index);
        }
    }

    /// The transfer is over; its slot is free.
    pub(super) fn end(&mut self, index: usize, outcome: Outcome, now: Instant) {
        let Some(mut slot) = self.slots.try_remove(index) else { return };
        slot.account(&self.metrics, &mut self.events);
        slot.tell_ended(&mut self.events, outcome, now);
        if self.by_peer.get(&slot.route.peer) == Some(&index) {
            self.by_peer.remove(&slot.route.peer);
        }
        self.wheel.disarm(index as u32);
        self.admission.ended(slot.route.peer, slot.proven);
        self.metrics.tftp.outcome(outcome).inc();
        self.metrics.tftp.active.set(self.slots.len() as u64);
    }

    /// Sends as much as the ring takes. `false`: it is full.
    fn send_queued(&mut self, ring: &mut impl Ring, now: Instant) -> bool {
        while let Some(send) = self.held.take().or_else(|| self.answers.pop_front()) {
            if !self.send(ring, send) {
                return false;
            }
        }
        for _ in 0..limits::TFTP_SENDS_PER_TURN {
            let Some(index) = self.fresh.pop_front().or_else(|| self.bulk.pop_front()) else { break };
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if std::mem::take(&mut slot.queued) && !self.drive(index, ring, now) {
                return false;
            }
        }
        true
    }

    /// Sends what one transfer wants to send. `false`: the ring is full.
    fn drive(&mut self, index: usize, ring: &mut impl Ring, now: Instant) -> bool {
        self.begin(index, ring, now);
        while let Some(slot) = self.slots.get_mut(index) {
            let Stage::Running(transfer) = &mut slot.stage else { break };
            let Some(output) = transfer.poll_output() else {
                if let Some(deadline) = transfer.deadline() {
                    self.wheel.arm(index as u32, deadline);
                }
                slot.account(&self.metrics, &mut self.events);
                break;
            };
            let payload = match output {
                Output::Oack(oack) => UdpPayload::Small(oack.as_bytes().to_vec()),
                Output::Error { code, text } => UdpPayload::Small(Short::error(code, text).as_bytes().to_vec()),
                Output::Blocks { first, count } => UdpPayload::Blocks {
                    image: Arc::clone(&slot.image),
                    blksize: transfer.agreed().blksize(),
                    first,
                    count,
                    rollover: self.config.rollover.as_u16(),
                },
                Output::Ended(outcome) => {
                    self.end(index, outcome, now);
                    break;
                }
            };
            let send = slot.route.send(payload);
            if !self.send(ring, send) {
                self.queue(index);
                return false;
            }
        }
        true
    }

    /// Starts a transfer that was only asked for, now that a ring can tell the path's MTU.
    fn begin(&mut self, index: usize, ring: &mut impl Ring, now: Instant) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Stage::Asked(asked) = slot.stage else { return };
        let peer = slot.route.peer.ip();
        let fits = || {
            let mtu = u16::try_from(ring.path_mtu(peer)).unwrap_or(u16::MAX);
            Policy::blksize_for_mtu(mtu, peer.to_canonical().is_ipv6())
        };
        let agreed = asked.within(&Policy {
            max_blksize: self.config.max_blksize.unwrap_or_else(fits),
            max_windowsize: self.config.max_windowsize.min(limits::WINDOW_MAX),
            max_window_bytes: limits::TFTP_WINDOW_BYTES,
        });
        slot.tell_started(&mut self.events, &agreed);
        slot.stage = Stage::Running(Transfer::start(agreed, slot.image.len(), self.config.timing(), now));
    }

    fn send(&mut self, ring: &mut impl Ring, send: UdpSend) -> bool {
        match ring.udp_send(send) {
            Ok(()) => true,
            Err((_, send)) => {
                self.held = Some(send);
                false
            }
        }
    }

    fn has_queued(&self) -> bool {
        self.held.is_some() || !(self.answers.is_empty() && self.fresh.is_empty() && self.bulk.is_empty())
    }
}

impl UdpService for Service {
    fn socket(&mut self, socket: UdpId, local: SocketAddr, role: UdpRole) {
        self.sockets.add(socket, local, role);
    }

    fn datagram(&mut self, datagram: Datagram<'_>, now: Instant) {
        let peer = datagram.peer;
        if datagram.group || is_reserved(peer.port()) || !is_unicast(peer.ip()) {
            return self.metrics.tftp.refused(Refusal::BadSource).inc();
        }
        match Packet::decode(datagram.bytes) {
            Ok(Packet::Request(request)) => self.request(datagram, request, now),
            Ok(packet) => self.packet(datagram, packet, now),
            Err(bad) => self.malformed(&datagram, bad, now),
        }
    }

    fn failed(&mut self, socket: UdpId, to: SocketAddr, error: &io::Error, now: Instant) {
        // All else may pass, and the timer sends again.
        let too_long = matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL));
        let index = self.by_peer.get(&to).copied().filter(|_| too_long);
        if let Some((index, slot)) = index.and_then(|index| Some((index, self.slots.get_mut(index)?)))
            && slot.route.socket == socket
        {
            slot.why = format!("a block could not be sent: {error}");
            self.step(index, Input::Failed("block does not fit the path: use a smaller blksize"), now);
        }
    }

    fn flush(&mut self, ring: &mut impl Ring, now: Instant) {
        let sent = self.send_queued(ring, now);
        let pause = if sent { Duration::ZERO } else { Duration::from_millis(limits::TFTP_FULL_PAUSE_MS) };
        self.again = self.has_queued().then(|| now + pause);
        self.events.flush();
    }
}

impl worker::Service for Service {
    fn deadline(&self) -> Option<Instant> {
        [self.wheel.next(), self.again, self.events.deadline()].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Instant) {
        // Each at most once: what is armed anew lies in the future.
        for _ in 0..self.slots.len() {
            let Some(index) = self.wheel.expire(now) else { break };
            self.step(index as usize, Input::Timer, now);
        }
    }

    fn catalog(&mut self, catalog: Arc<Catalog>) {
        self.catalog = catalog;
    }

    fn drain(&mut self) {
        self.draining = true;
    }

    fn idle(&self) -> bool {
        self.slots.is_empty() && !self.has_queued()
    }
}
