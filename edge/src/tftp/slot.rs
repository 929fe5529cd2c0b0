//! One transfer in the table, and what control is told about it.

use crate::catalog::Image;
use crate::events::EventSender;
use crate::metrics::WorkerMetrics;
use crate::ring::{UdpId, UdpPayload, UdpSend};
use protocol::event::{Kind, Outcome, Proto};
use protocol::id::Mac;
use protocol::tftp::{Agreed, Transfer};
use protocol::time::Instant;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where a transfer's packets come from and go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The client and its TID.
    pub peer: SocketAddr,
    /// Our TID.
    pub socket: UdpId,
    /// The address that was asked.
    pub from: Option<IpAddr>,
}

impl Route {
    /// A send to the client.
    pub fn send(&self, payload: UdpPayload) -> UdpSend {
        UdpSend { socket: self.socket, to: self.peer, from: self.from, payload }
    }
}

/// One transfer.
pub struct Slot {
    pub route: Route,
    pub image: Arc<Image>,
    /// The name that was asked for, without slash and MAC address.
    pub name: Box<str>,
    pub mac: Option<Mac>,
    /// Tells transfers apart, in events.
    pub id: u64,
    /// Tells whether a request is the same again.
    pub request: u64,
    pub stage: Stage,
    pub began: Instant,
    /// Its first ACK has come.
    pub proven: bool,
    /// It stands in a queue for sending.
    pub queued: bool,
    /// Bytes at which the next quarter is complete.
    next_mark: u64,
    /// Bytes and retransmissions that were counted.
    counted: (u64, u32),
    /// Words about its end.
    pub why: String,
}

/// How far it is. The table has room for the larger from the start.
#[allow(clippy::large_enum_variant)]
pub enum Stage {
    /// Asked for; the path's MTU has still to be looked up.
    Asked(Agreed),
    /// Under way.
    Running(Transfer),
}

impl Slot {
    /// A transfer that was just asked for.
    pub fn new(route: Route, image: Arc<Image>, name: &str, agreed: Agreed, now: Instant) -> Self {
        Self {
            route,
            name: name.into(),
            mac: None,
            id: 0,
            request: 0,
            stage: Stage::Asked(agreed),
            began: now,
            proven: false,
            queued: false,
            next_mark: quarter(image.len()),
            image,
            counted: (0, 0),
            why: String::new(),
        }
    }

    /// Its machine, once it runs.
    pub fn transfer(&mut self) -> Option<&mut Transfer> {
        match &mut self.stage {
            Stage::Running(transfer) => Some(transfer),
            Stage::Asked(_) => None,
        }
    }

    /// Its first window is not acknowledged yet: it goes before bulk.
    pub fn is_fresh(&self) -> bool {
        match &self.stage {
            Stage::Running(transfer) => transfer.bytes_acked() == 0,
            Stage::Asked(_) => true,
        }
    }

    /// Counts what has changed since the last time, and tells each quarter.
    pub fn account(&mut self, metrics: &WorkerMetrics, events: &mut EventSender) {
        let Stage::Running(transfer) = &self.stage else { return };
        let (bytes, total, retries) = (transfer.bytes_acked(), transfer.size(), transfer.retries());
        metrics.tftp.bytes.add(bytes - self.counted.0);
        metrics.retransmissions.add(u64::from(retries - self.counted.1));
        self.counted = (bytes, retries);
        if bytes >= self.next_mark && bytes < total {
            let quarter = quarter(total);
            self.next_mark = (bytes / quarter + 1).saturating_mul(quarter);
            self.tell(events, Kind::Progress { bytes, total });
        }
    }

    /// Tells that it began.
    pub fn tell_started(&self, events: &mut EventSender, agreed: &Agreed) {
        let (blksize, windowsize) = (agreed.blksize().into(), agreed.windowsize().into());
        self.tell(events, Kind::Started { total: self.image.len(), blksize, windowsize });
    }

    /// Tells how it ended.
    pub fn tell_ended(&mut self, events: &mut EventSender, outcome: Outcome, now: Instant) {
        let (bytes, retries) = self.counted;
        let elapsed_us = u64::try_from((now - self.began).as_micros()).unwrap_or(u64::MAX);
        let why = match outcome {
            Outcome::Complete | Outcome::Probe => String::new(),
            Outcome::Unknown if self.why.is_empty() => "the last block was never acknowledged".into(),
            Outcome::TimedOut if self.why.is_empty() && !self.proven => "the client never answered".into(),
            Outcome::TimedOut if self.why.is_empty() => "the client fell silent".into(),
            _ => std::mem::take(&mut self.why),
        };
        self.tell(events, Kind::Ended { outcome, bytes, total: self.image.len(), retries, elapsed_us, why });
    }

    fn tell(&self, events: &mut EventSender, kind: Kind) {
        events.emit(self.id, Proto::Tftp, self.route.peer, self.mac, &self.name, kind);
    }
}

fn quarter(total: u64) -> u64 {
    (total / 4).max(1)
}
