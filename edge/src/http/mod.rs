//! HTTP over the ring: connections, fairness, deadlines.
//!
//! Called by [`crate::worker`]; the language is [`protocol::http`], the bytes
//! are [`crate::catalog`]'s. A connection is read only while it has nothing to
//! be answered, and has one send under way at most.
//!
//! | file | what it is |
//! |---|---|
//! | [`site`] | a request's answer |
//! | [`transfer`] | what is told and counted of one GET |
//! | [`agenda`] | whose turn it is: sends, reads, closes, timers |
//!
//! An answer can never be short without the client seeing it: images are
//! sealed memory, and a send that fails ends in a reset.

mod agenda;
mod site;
#[cfg(test)]
mod tests;
mod transfer;

use crate::catalog::{Catalog, Image};
use crate::clock;
use crate::events::EventSender;
use crate::limits;
use crate::metrics::{Refusal, WorkerMetrics};
use crate::ring::{Body, Close, ConnId, ConnSend, ListenerId, Ring};
use crate::worker;
use agenda::Agenda;
use protocol::event::Outcome;
use protocol::http::answer::busy;
use protocol::http::connection::Patience;
use protocol::http::{Connection, Status, Step};
use protocol::time::{Duration, Instant};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use transfer::Transfer;

/// How patient and how generous the service is.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// For heads and between requests.
    pub patience: Patience,
    /// How long a client may read nothing.
    pub grace: Duration,
    /// What it must read after that, bytes a second; at least 1.
    pub min_rate: u64,
    /// Connections of one address.
    pub per_client: usize,
    /// Connections in all.
    pub connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            patience: Patience { head: ms(limits::HTTP_HEAD_MS), idle: ms(limits::HTTP_IDLE_MS) },
            grace: ms(limits::HTTP_GRACE_MS),
            min_rate: limits::HTTP_MIN_RATE,
            per_client: limits::HTTP_PER_CLIENT,
            connections: limits::HTTP_CONNECTIONS,
        }
    }
}

/// One worker's HTTP service.
pub struct Service {
    config: Config,
    conns: HashMap<ConnId, Conn>,
    /// Connections by address, those being closed included.
    clients: HashMap<IpAddr, usize>,
    agenda: Agenda,
    catalog: Arc<Catalog>,
    events: EventSender,
    metrics: Arc<WorkerMetrics>,
    draining: bool,
}

struct Conn {
    peer: SocketAddr,
    machine: Connection,
    sending: Option<Sending>,
    /// A receive is under way.
    reading: bool,
    /// Given to the ring to be closed; only `closed` follows.
    closing: bool,
}

/// An answer on its way.
struct Sending {
    /// Not yet given to the ring.
    head: Vec<u8>,
    image: Option<Arc<Image>>,
    /// Of the image, not yet given to the ring.
    rest: Range<u64>,
    /// Given to the ring: bytes of head and of body.
    flying: Option<(u64, u64)>,
    transfer: Option<Transfer>,
}

impl Service {
    /// A service without connections, answering from an empty catalog.
    pub fn new(config: Config, events: EventSender, metrics: Arc<WorkerMetrics>) -> Self {
        Self {
            config,
            conns: HashMap::new(),
            clients: HashMap::new(),
            agenda: Agenda::default(),
            catalog: Arc::default(),
            events,
            metrics,
            draining: false,
        }
    }

    /// Goes on with a connection until it has to wait for the network.
    fn advance(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) else { return };
        let date = clock::wall_seconds();
        match conn.machine.poll(date) {
            Step::Wait => {}
            Step::Close => self.close(id, Close::Graceful),
            Step::Read => {
                if !conn.reading {
                    conn.reading = true;
                    self.agenda.read(id);
                }
            }
            Step::Reject(answer) => {
                self.metrics.http.refused(site::reason(answer.status)).inc();
                conn.sending = Some(Sending::words(answer.head));
                self.agenda.send_first(id);
            }
            Step::Request(request) => {
                let site::Reply { answer, named, asked, refused } =
                    site::reply(&self.catalog, &request, self.draining, date);
                conn.machine.begin(&answer);
                let peer = conn.peer;
                if let Some((reason, why)) = refused {
                    self.metrics.http.refused(reason).inc();
                    transfer::refused(&mut self.events, peer, &asked, answer.status.code(), why);
                }
                let mut sending = Sending::words(answer.head);
                if let (Some(named), Status::Ok | Status::PartialContent) = (named, answer.status) {
                    sending.rest = answer.body.unwrap_or(0..0);
                    let total = sending.rest.end - sending.rest.start;
                    sending.transfer = Some(Transfer::start(&mut self.events, &self.metrics, peer, asked, total, now));
                    sending.image = Some(named.image.clone());
                }
                conn.sending = Some(sending);
                self.agenda.send_first(id);
            }
        }
        self.rearm(id, now);
    }

    /// Sets the timer and the place among the idle anew.
    fn rearm(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get(&id) else { return };
        let due = match &conn.sending {
            _ if conn.closing => None,
            // Set anew for each quantum; this one is for those that wait for their turn or just got it.
            Some(sending) => {
                let (head, body) = sending.flying.unwrap_or((0, limits::HTTP_QUANTUM));
                let patience = Duration::from_secs((head + body) / self.config.min_rate.max(1));
                Some(now + self.config.grace + patience)
            }
            None => conn.machine.deadline(),
        };
        let idle = (!conn.closing && conn.machine.idle()).then(|| conn.machine.since());
        self.agenda.arm(id, due, idle);
    }

    fn close(&mut self, id: ConnId, how: Close) {
        if let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) {
            conn.closing = true;
            conn.sending = None;
            self.agenda.close(id, how);
        }
    }

    /// Ends what is being sent, if anything, and resets: the client must see that it is not whole.
    fn abort(&mut self, id: ConnId, outcome: Outcome, why: &str, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) else { return };
        if let Some(transfer) = conn.sending.take().and_then(|s| s.transfer) {
            transfer.end(&mut self.events, &self.metrics, outcome, why, now);
        }
        self.close(id, Close::Reset);
    }

    /// Whether one more connection may come in; makes room where it can.
    fn admit(&mut self, peer: IpAddr) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        if self.clients.get(&peer).is_some_and(|&n| n > self.config.per_client) {
            return Err(Refusal::PerClient);
        }
        if self.conns.len() <= self.config.connections {
            return Ok(());
        }
        match self.agenda.oldest_idle() {
            Some(idle) => {
                self.metrics.evicted.inc();
                self.close(idle, Close::Graceful);
                Ok(())
            }
            None => Err(Refusal::Full),
        }
    }
}

impl worker::TcpService for Service {
    fn accepted(&mut self, _: ListenerId, id: ConnId, peer: SocketAddr, _: SocketAddr, now: Instant) {
        let machine = Connection::new(self.config.patience, now);
        let ip = peer.ip().to_canonical();
        *self.clients.entry(ip).or_default() += 1;
        self.conns.insert(id, Conn { peer, machine, sending: None, reading: false, closing: false });
        self.metrics.accepted.inc();
        self.metrics.connections.inc();
        match self.admit(ip) {
            Ok(()) => self.advance(id, now),
            Err(why) => {
                self.metrics.http.refused(why).inc();
                if let Some(conn) = self.conns.get_mut(&id) {
                    let answer = busy(clock::wall_seconds());
                    conn.machine.begin(&answer);
                    conn.sending = Some(Sending::words(answer.head));
                    self.agenda.send_first(id);
                }
                self.rearm(id, now);
            }
        }
    }

    fn received(&mut self, id: ConnId, bytes: &[u8], now: Instant) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) else { return };
        conn.reading = false;
        conn.machine.receive(bytes, now);
        self.advance(id, now);
    }

    fn sent(&mut self, id: ConnId, bytes: u64, error: Option<&io::Error>, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) else { return };
        let Some(sending) = &mut conn.sending else { return };
        let Some((head, body)) = sending.flying.take() else { return };
        let gone = bytes.saturating_sub(head).min(body);
        self.metrics.http.bytes.add(gone);
        if let Some(transfer) = &mut sending.transfer {
            transfer.progress(&mut self.events, gone);
        }
        if error.is_some() || bytes < head + body {
            let (outcome, why) = transfer::verdict(error);
            return self.abort(id, outcome, &why, now);
        }
        if !sending.rest.is_empty() {
            self.agenda.send_next(id);
            return self.rearm(id, now);
        }
        if let Some(transfer) = conn.sending.take().and_then(|s| s.transfer) {
            transfer.end(&mut self.events, &self.metrics, Outcome::Complete, "", now);
        }
        conn.machine.sent(now);
        self.advance(id, now);
    }

    fn failed(&mut self, id: ConnId, error: &io::Error, now: Instant) {
        let (outcome, why) = transfer::verdict(Some(error));
        self.abort(id, outcome, &why, now);
    }

    fn closed(&mut self, id: ConnId, now: Instant) {
        let Some(mut conn) = self.conns.remove(&id) else { return };
        if let Some(transfer) = conn.sending.take().and_then(|s| s.transfer) {
            transfer.end(&mut self.events, &self.metrics, Outcome::Aborted, "connection closed", now);
        }
        self.agenda.forget(id);
        self.metrics.connections.dec();
        let ip = conn.peer.ip().to_canonical();
        if let Some(n) = self.clients.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                self.clients.remove(&ip);
            }
        }
    }

    fn flush(&mut self, ring: &mut impl Ring, now: Instant) {
        let mut left = limits::HTTP_TURN;
        while let Some((id, first)) = self.agenda.next_send(left) {
            let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) else { continue };
            let Some(sending) = conn.sending.as_mut().filter(|s| s.flying.is_none()) else { continue };
            let send = sending.quantum(id);
            if !first {
                left = left.saturating_sub(sending.flying.map_or(0, |(_, body)| body));
            }
            ring.conn_send(send);
            self.rearm(id, now);
        }
        while let Some(id) = self.agenda.next_read() {
            ring.conn_recv(id);
        }
        while let Some((id, how)) = self.agenda.next_close() {
            ring.conn_close(id, how);
        }
    }
}

impl worker::Service for Service {
    fn deadline(&self) -> Option<Instant> {
        // What did not fit into this turn goes in the next, at once.
        let work = self.agenda.has_work().then_some(Instant::ZERO);
        [work, self.agenda.deadline(), self.events.deadline()].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Instant) {
        self.events.flush();
        while let Some(id) = self.agenda.due(now) {
            let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.closing) else { continue };
            if conn.sending.is_some() {
                self.metrics.http.refused(Refusal::TooSlow).inc();
                self.abort(id, Outcome::TimedOut, "the client reads too slowly or not at all", now);
                continue;
            }
            match conn.machine.expire(clock::wall_seconds()) {
                Step::Reject(answer) => {
                    self.metrics.http.refused(Refusal::TooSlow).inc();
                    conn.sending = Some(Sending::words(answer.head));
                    self.agenda.send_first(id);
                    self.rearm(id, now);
                }
                _ => self.close(id, Close::Graceful),
            }
        }
    }

    fn catalog(&mut self, catalog: Arc<Catalog>) {
        self.catalog = catalog;
    }

    fn drain(&mut self) {
        self.draining = true;
        let quiet: Vec<ConnId> = self
            .conns
            .iter_mut()
            .filter_map(|(&id, conn)| {
                conn.machine.finish();
                conn.sending.is_none().then_some(id)
            })
            .collect();
        for id in quiet {
            self.close(id, Close::Graceful);
        }
    }

    fn idle(&self) -> bool {
        self.conns.is_empty()
    }
}

impl Sending {
    /// An answer that is nothing but these bytes.
    fn words(head: Vec<u8>) -> Self {
        Self { head, image: None, rest: 0..0, flying: None, transfer: None }
    }

    /// The next piece for the ring.
    fn quantum(&mut self, conn: ConnId) -> ConnSend {
        let head = std::mem::take(&mut self.head);
        let size = if head.is_empty() { limits::HTTP_QUANTUM } else { limits::HTTP_QUANTUM_FIRST };
        let end = self.rest.end.min(self.rest.start.saturating_add(size));
        let range = self.rest.start..end;
        self.rest.start = end;
        self.flying = Some((head.len() as u64, range.end - range.start));
        let body = match &self.image {
            Some(image) if !range.is_empty() => Some(Body { image: image.clone(), range }),
            _ => None,
        };
        ConnSend { conn, head, body }
    }
}
