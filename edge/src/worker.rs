//! One thread, one ring, two services: the loop that all traffic passes.
//!
//! ```text
//! wait(next deadline) -> completions to the services -> tick -> flush into the ring -> ...
//! ```
//!
//! Parses nothing and decides nothing. The only reader of the clock: the
//! services are told the time. Nothing is shared with other workers but what
//! a [`Mailbox`] carries (the catalog, and the word to drain or stop).

mod nobody;

pub use nobody::Nobody;

use crate::catalog::Catalog;
use crate::listen::WorkerSockets;
use crate::metrics::WorkerMetrics;
use crate::ring::{Completion, ConnId, Counts, Datagram, ListenerId, Ring, UdpId, Waker};
use protocol::time::Instant;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a UDP socket is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpRole {
    /// Requests come in here (port 69). In single-port mode the transfers run here too.
    Requests {
        /// Answer from this very socket.
        single_port: bool,
    },
    /// A pool socket on an ephemeral port: the server's TID of many transfers.
    Tid,
}

/// A service over datagrams: [`crate::tftp::Service`].
pub trait UdpService: Service {
    /// Called at start for each socket of this worker. `local` is its bound address.
    fn socket(&mut self, socket: UdpId, local: SocketAddr, role: UdpRole);
    /// A datagram came in.
    fn datagram(&mut self, datagram: Datagram<'_>, now: Instant);
    /// A send could not be made.
    fn failed(&mut self, socket: UdpId, to: SocketAddr, error: &io::Error, now: Instant);
    /// Moves what is to be sent into the ring, as far as the ring takes it.
    fn flush(&mut self, ring: &mut impl Ring, now: Instant);
}

/// A service over connections: [`crate::http::Service`].
pub trait TcpService: Service {
    /// A client has connected. The service asks for its bytes in the next `flush` (`Ring::conn_recv`).
    fn accepted(&mut self, listener: ListenerId, conn: ConnId, peer: SocketAddr, local: SocketAddr, now: Instant);
    /// Bytes came; none: the client has closed its sending side.
    fn received(&mut self, conn: ConnId, bytes: &[u8], now: Instant);
    /// The send is over; `bytes` went out, fewer than asked only with an `error`.
    fn sent(&mut self, conn: ConnId, bytes: u64, error: Option<&io::Error>, now: Instant);
    /// Reading failed (usually: reset by the client). The service still has to close it.
    fn failed(&mut self, conn: ConnId, error: &io::Error, now: Instant);
    /// The id means nothing any more.
    fn closed(&mut self, conn: ConnId, now: Instant);
    /// Moves what is to be read, sent and closed into the ring.
    fn flush(&mut self, ring: &mut impl Ring, now: Instant);
}

/// What both kinds of service have.
pub trait Service {
    /// When `tick` is to be called at the latest. None: nothing is waiting.
    fn deadline(&self) -> Option<Instant>;
    /// Timers that are due. Called once a turn of the loop, whether due or not.
    fn tick(&mut self, now: Instant);
    /// A new generation: requests from now on are answered from it, running transfers keep theirs.
    fn catalog(&mut self, catalog: Arc<Catalog>);
    /// Begin nothing new; let what runs end. Its listeners are already closed.
    fn drain(&mut self);
    /// Nothing runs.
    fn idle(&self) -> bool;
}

/// How the rest of the process speaks to one worker.
#[derive(Default)]
pub struct Mailbox {
    catalog: Mutex<Option<Arc<Catalog>>>,
    phase: AtomicU8,
    waker: OnceLock<Waker>,
}

/// What a worker is to do with new work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Phase {
    Serve,
    Drain,
    Stop,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Requests from now on are answered from this catalog.
    pub fn publish(&self, catalog: Arc<Catalog>) {
        *self.catalog.lock().unwrap_or_else(PoisonError::into_inner) = Some(catalog);
        self.wake();
    }

    /// Take nothing new, end what runs, then return.
    pub fn drain(&self) {
        self.order(Phase::Drain);
    }

    /// Return at once.
    pub fn stop(&self) {
        self.order(Phase::Stop);
    }

    fn order(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serve,
            1 => Phase::Drain,
            _ => Phase::Stop,
        }
    }

    fn take_catalog(&self) -> Option<Arc<Catalog>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The loop and all it works on.
pub struct Worker<R, T, H> {
    ring: R,
    tftp: T,
    http: H,
    mailbox: Arc<Mailbox>,
    metrics: Arc<WorkerMetrics>,
    /// Closed when draining begins.
    requests: Vec<UdpId>,
    listeners: Vec<ListenerId>,
    draining: bool,
}

impl<R: Ring, T: UdpService, H: TcpService> Worker<R, T, H> {
    /// Gives the sockets to the ring and makes the ring wake up for the mailbox.
    ///
    /// # Errors
    /// The ring refuses a socket.
    pub fn new(
        mut ring: R,
        mut tftp: T,
        http: H,
        mailbox: Arc<Mailbox>,
        metrics: Arc<WorkerMetrics>,
        sockets: WorkerSockets,
    ) -> io::Result<Self> {
        let mut requests = Vec::new();
        for udp in sockets.udp {
            let id = ring.udp_add(udp.socket)?;
            tftp.socket(id, udp.local, udp.role);
            if udp.role == (UdpRole::Requests { single_port: false }) {
                requests.push(id);
            }
        }
        let mut listeners = Vec::new();
        for tcp in sockets.tcp {
            listeners.push(ring.listener_add(tcp)?);
        }
        // Orders given from here on wake the ring; those given before are read in the first turn.
        let _ = mailbox.waker.set(ring.waker());
        let mut worker = Self { ring, tftp, http, mailbox, metrics, requests, listeners, draining: false };
        worker.orders();
        Ok(worker)
    }

    /// Turns until it is told to stop, or has drained.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? {}
        Ok(())
    }

    /// One turn of the loop; false after the last.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn turn(&mut self) -> io::Result<bool> {
        if self.mailbox.phase() == Phase::Stop {
            return Ok(false);
        }
        let over = self.draining && self.tftp.idle() && self.http.idle();
        // The last turn waits for nothing: it hands over what is still queued.
        let now = self.ring.now();
        let deadline = if over { Some(now) } else { self.deadline() };
        let mut woken = false;
        let (tftp, http) = (&mut self.tftp, &mut self.http);
        self.ring.wait(deadline, &mut |now, completion| match completion {
            Completion::Datagram(datagram) => tftp.datagram(datagram, now),
            Completion::UdpFailed { socket, to, error } => UdpService::failed(tftp, socket, to, &error, now),
            Completion::Accepted { listener, conn, peer, local } => http.accepted(listener, conn, peer, local, now),
            Completion::Received { conn, bytes } => http.received(conn, bytes, now),
            Completion::Sent { conn, bytes, error } => http.sent(conn, bytes, error.as_ref(), now),
            Completion::ConnFailed { conn, error } => TcpService::failed(http, conn, &error, now),
            Completion::Closed { conn } => http.closed(conn, now),
            Completion::Woken => woken = true,
        })?;
        if over {
            return Ok(false);
        }
        if woken {
            self.orders();
        }
        let now = self.ring.now();
        self.tftp.tick(now);
        self.tftp.flush(&mut self.ring, now);
        self.http.tick(now);
        self.http.flush(&mut self.ring, now);
        self.count();
        Ok(true)
    }

    fn count(&mut self) {
        let counts = self.ring.counts();
        if counts != Counts::default() {
            self.metrics.buffers_exhausted.add(counts.buffers_exhausted);
            self.metrics.zc_copied.add(counts.zc_copied);
            self.metrics.zc_uncopied.add(counts.zc_uncopied);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match (self.tftp.deadline(), self.http.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn orders(&mut self) {
        if let Some(catalog) = self.mailbox.take_catalog() {
            self.tftp.catalog(Arc::clone(&catalog));
            self.http.catalog(catalog);
        }
        if self.mailbox.phase() >= Phase::Drain && !self.draining {
            self.draining = true;
            for id in self.requests.drain(..) {
                self.ring.udp_close(id);
            }
            for id in self.listeners.drain(..) {
                self.ring.listener_close(id);
            }
            self.tftp.drain();
            self.http.drain();
        }
    }
}

#[cfg(test)]
mod tests;
