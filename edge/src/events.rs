//! The milestones of transfers, told to control by datagrams on a Unix socket.
//!
//! Lossy on purpose: a slow or absent control never slows down a transfer.
//! What the socket does not take waits in a bounded queue, the oldest goes
//! first when it is full, and every loss is counted. Allocates per milestone
//! (a handful a transfer), never per packet.

use crate::clock;
use crate::limits;
use crate::metrics::WorkerMetrics;
use protocol::event::{CURRENT, Event, Kind, Proto};
use protocol::id::Mac;
use protocol::time::{Duration, Instant};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest name in an event, bytes.
pub const NAME_MAX: usize = 256;

/// One worker's (or service's) way to control.
pub struct EventSender {
    path: Option<PathBuf>,
    socket: Option<UnixDatagram>,
    waiting: VecDeque<Vec<u8>>,
    /// Not before then; set while the socket is full or absent.
    again: Option<Instant>,
    /// The socket was full, so someone reads it: worth waking up for.
    full: bool,
    pause: Duration,
    metrics: Arc<WorkerMetrics>,
}

impl EventSender {
    /// Sends to the socket at `path`, which need not exist yet.
    pub fn new(path: Option<PathBuf>, metrics: Arc<WorkerMetrics>) -> Self {
        let pause = Duration::from_millis(limits::EVENTS_PAUSE_MS);
        Self { path, socket: None, waiting: VecDeque::new(), again: None, full: false, pause, metrics }
    }

    /// Sends nowhere.
    pub fn off() -> Self {
        Self::new(None, WorkerMetrics::alone(0))
    }

    /// A number for a new transfer that no other of this process has, on any worker.
    pub fn transfer_id(&self) -> u64 {
        self.metrics.transfers.inc();
        (self.metrics.index as u64) << 40 | self.metrics.transfers.get()
    }

    /// Tells one milestone. `name` may be any text; it is escaped and cut.
    pub fn emit(&mut self, transfer: u64, proto: Proto, peer: SocketAddr, mac: Option<Mac>, name: &str, kind: Kind) {
        if self.path.is_none() {
            return;
        }
        let at_ms = clock::wall_ms();
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string();
        let name = printable(name.as_bytes(), NAME_MAX);
        let event = Event { v: CURRENT, at_ms, transfer, proto, peer, mac, name, kind };
        let Ok(text) = serde_json::to_vec(&event) else { return };
        if self.waiting.len() >= limits::EVENTS_PENDING {
            self.waiting.pop_front();
            self.metrics.events_lost.inc();
        }
        self.waiting.push_back(text);
        self.flush();
    }

    /// Sends what waits, as far as the socket takes it. Costs nothing when nothing waits.
    pub fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let now = clock::monotonic();
        if self.again.is_some_and(|again| now < again) {
            return;
        }
        (self.again, self.full) = (None, false);
        match self.drain() {
            Ok(()) => self.pause = Duration::from_millis(limits::EVENTS_PAUSE_MS),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                (self.again, self.full) = (Some(now + self.pause), true);
                self.pause = (self.pause * 2).min(Duration::from_millis(limits::EVENTS_RETRY_MS));
            }
            Err(_) => {
                self.socket = None;
                self.again = Some(now + Duration::from_millis(limits::EVENTS_RETRY_MS));
            }
        }
    }

    /// When to call [`EventSender::flush`] at the latest. None also while control
    /// is absent: what waits then goes with the next milestone.
    pub fn deadline(&self) -> Option<Instant> {
        if self.full { self.again } else { None }
    }

    fn drain(&mut self) -> io::Result<()> {
        let socket = match (&mut self.socket, &self.path) {
            (Some(socket), _) => socket,
            (none, Some(path)) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                none.insert(socket)
            }
            (None, None) => return Ok(()),
        };
        while let Some(event) = self.waiting.front() {
            match socket.send(event) {
                Ok(_) => self.metrics.events_sent.inc(),
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    self.metrics.events_lost.inc();
                }
                Err(e) => return Err(e),
            }
            self.waiting.pop_front();
        }
        Ok(())
    }
}

/// `bytes` as printable ASCII of at most `max` bytes: everything else as `\xNN`,
/// a backslash as two, so that the text cannot be mistaken for another.
pub fn printable(bytes: &[u8], max: usize) -> String {
    let mut out = String::new();
    for &byte in bytes {
        let piece = match byte {
            b'\\' => "\\\\".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        if out.len() + piece.len() > max {
            break;
        }
        out.push_str(&piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::event::{MAX_DATAGRAM, Outcome};

    fn started(total: u64) -> Kind {
        Kind::Started { total, blksize: 0, windowsize: 0 }
    }

    fn emit(sender: &mut EventSender, total: u64) {
        let peer = "[::ffff:10.0.0.7]:4000".parse().unwrap();
        sender.emit(1, Proto::Http, peer, None, "a\nb\\", started(total));
    }

    fn read(socket: &UnixDatagram) -> Event {
        let mut buffer = [0; MAX_DATAGRAM];
        let n = socket.recv(&mut buffer).unwrap();
        serde_json::from_slice(&buffer[..n]).unwrap()
    }

    #[test]
    fn events_reach_a_socket_that_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let metrics = WorkerMetrics::alone(0);
        let mut sender = EventSender::new(Some(path.clone()), metrics.clone());
        emit(&mut sender, 1);
        assert_eq!(sender.deadline(), None, "an idle edge does not wake up for a control that is not there");

        let control = UnixDatagram::bind(&path).unwrap();
        sender.again = None; // the pause is over
        emit(&mut sender, 2);
        assert_eq!((read(&control).kind, read(&control).kind), (started(1), started(2)));

        drop(control);
        std::fs::remove_file(&path).unwrap();
        emit(&mut sender, 3);
        let control = UnixDatagram::bind(&path).unwrap();
        sender.again = None;
        sender.flush();
        let event = read(&control);
        assert_eq!(
            (event.kind, event.peer.as_str(), event.name.as_str()),
            (started(3), "10.0.0.7:4000", "a\\x0ab\\\\")
        );
        assert_eq!((metrics.events_sent.get(), metrics.events_lost.get()), (3, 0));
    }

    #[test]
    fn a_control_that_does_not_read_costs_bounded_memory_and_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let metrics = WorkerMetrics::alone(0);
        let mut sender = EventSender::new(Some(path), metrics.clone());
        for i in 0..5000 {
            emit(&mut sender, i);
        }
        assert!(sender.deadline().is_some());
        assert_eq!(sender.waiting.len(), limits::EVENTS_PENDING);
        let told = metrics.events_sent.get() + metrics.events_lost.get();
        assert_eq!(told + limits::EVENTS_PENDING as u64, 5000);
    }

    #[test]
    fn the_longest_event_fits_a_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let control = UnixDatagram::bind(&path).unwrap();
        let mut sender = EventSender::new(Some(path), WorkerMetrics::alone(3));
        let (why, name) = ("\"".repeat(200), "\\\"".repeat(9000));
        let kind = Kind::Ended {
            outcome: Outcome::Failed,
            bytes: u64::MAX,
            total: u64::MAX,
            retries: u32::MAX,
            elapsed_us: u64::MAX,
            why,
        };
        let (id, mac) = (sender.transfer_id(), Some(Mac([0xff; 6])));
        sender.emit(id, Proto::Tftp, "[fe80::ffff:ffff:ffff:ffff]:65535".parse().unwrap(), mac, &name, kind);
        let event = read(&control);
        assert_eq!((event.name.len() <= NAME_MAX, event.transfer), (true, 3 << 40 | 1));
        assert_ne!(sender.transfer_id(), id);
    }
}
