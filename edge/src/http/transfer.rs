//! What is told and counted of one GET.

use super::site::Told;
use crate::events::EventSender;
use crate::metrics::WorkerMetrics;
use protocol::event::{Kind, Outcome, Proto};
use protocol::time::Instant;
use std::io;
use std::net::SocketAddr;

pub(super) struct Transfer {
    id: u64,
    peer: SocketAddr,
    asked: Told,
    total: u64,
    sent: u64,
    since: Instant,
}

impl Transfer {
    pub(super) fn start(
        events: &mut EventSender,
        metrics: &WorkerMetrics,
        peer: SocketAddr,
        asked: Told,
        total: u64,
        now: Instant,
    ) -> Self {
        let this = Self { id: events.transfer_id(), peer, asked, total, sent: 0, since: now };
        metrics.http.started.inc();
        metrics.http.active.inc();
        this.tell(events, Kind::Started { total, blksize: 0, windowsize: 0 });
        this
    }

    /// The kernel took `bytes` more.
    pub(super) fn progress(&mut self, events: &mut EventSender, bytes: u64) {
        let before = self.quarter();
        self.sent += bytes;
        if self.quarter() > before && self.sent < self.total {
            self.tell(events, Kind::Progress { bytes: self.sent, total: self.total });
        }
    }

    pub(super) fn end(
        self,
        events: &mut EventSender,
        metrics: &WorkerMetrics,
        outcome: Outcome,
        why: &str,
        now: Instant,
    ) {
        metrics.http.active.dec();
        metrics.http.outcome(outcome).inc();
        let elapsed_us = u64::try_from((now - self.since).as_micros()).unwrap_or(u64::MAX);
        let (bytes, total) = (self.sent, self.total);
        self.tell(events, Kind::Ended { outcome, bytes, total, retries: 0, elapsed_us, why: why.to_owned() });
    }

    fn quarter(&self) -> u64 {
        (u128::from(self.sent) * 4 / u128::from(self.total.max(1))) as u64
    }

    fn tell(&self, events: &mut EventSender, kind: Kind) {
        events.emit(self.id, Proto::Http, self.peer, self.asked.mac, &self.asked.name, kind);
    }
}

/// Tells of a request that was refused.
pub(super) fn refused(events: &mut EventSender, peer: SocketAddr, asked: &Told, code: u16, why: &str) {
    let id = events.transfer_id();
    events.emit(id, Proto::Http, peer, asked.mac, &asked.name, Kind::Refused { code, why: why.to_owned() });
}

/// Whose fault a failed send or receive is.
pub(super) fn verdict(error: Option<&io::Error>) -> (Outcome, String) {
    use io::ErrorKind as E;
    match error {
        Some(e) if matches!(e.kind(), E::ConnectionReset | E::BrokenPipe | E::ConnectionAborted | E::NotConnected) => {
            (Outcome::Aborted, "the client closed the connection".to_owned())
        }
        Some(e) if matches!(e.kind(), E::TimedOut | E::HostUnreachable | E::NetworkUnreachable) => {
            (Outcome::TimedOut, format!("the client is gone: {e}"))
        }
        Some(e) => (Outcome::Failed, e.to_string()),
        None => (Outcome::Failed, "the kernel took less than it should".to_owned()),
    }
}
