//! What the edge counts, and the page on which Prometheus reads it.
//!
//! Each worker writes its own [`WorkerMetrics`], plain adds without a lock
//! prefix on cache lines that nobody else writes; a scrape sums them up. No
//! label ever comes from the network.

mod page;

pub use page::serve;

use crate::catalog::Budget;
use protocol::event::{Outcome, Proto};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// A number that only rises. One thread writes it; any may read it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // One writer: a load and a store, without the cost of a locked add.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls. One thread writes it; any may read it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// One less, never below zero.
    pub fn dec(&self) {
        self.set(self.get().saturating_sub(1));
    }

    /// Its present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request was not served: theirs, so it is counted, not warned about.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The label in the metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

refusals! {
    /// No such name.
    NotFound = "not_found",
    /// A path that is no plain name (traversal, control characters).
    BadPath = "bad_path",
    /// A packet or head that breaks its protocol.
    Malformed = "malformed",
    /// An attempt to write (WRQ, PUT) or a method or mode that is not served.
    Unsupported = "unsupported",
    /// Longer than its limit (request, head, URI, body).
    TooLarge = "too_large",
    /// TFTP option values that cannot be agreed on.
    BadOption = "bad_option",
    /// A packet of no transfer (unknown TID).
    UnknownTid = "unknown_tid",
    /// A source that is never answered: reserved port, group or own address.
    BadSource = "bad_source",
    /// Too many requests a second of one client, or of clients not yet proven.
    RateLimited = "rate_limited",
    /// One client has too many transfers or connections.
    PerClient = "per_client",
    /// All slots are taken.
    Full = "full",
    /// No manifest has been loaded yet.
    NotReady = "not_ready",
    /// The edge is going down.
    Draining = "draining",
    /// The client was too slow (head, reading).
    TooSlow = "too_slow",
    /// A condition of the client does not hold (If-Match), or a range that cannot be satisfied.
    Condition = "condition",
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Complete, "complete"),
    (Outcome::Probe, "probe"),
    (Outcome::Unknown, "unknown"),
    (Outcome::Aborted, "aborted"),
    (Outcome::TimedOut, "timed_out"),
    (Outcome::Failed, "failed"),
];

/// Counts of one protocol.
#[derive(Debug, Default)]
pub struct ProtoMetrics {
    /// Transfers begun.
    pub started: Counter,
    /// Transfers running.
    pub active: Gauge,
    /// Payload: TFTP data acknowledged or sent once more, HTTP body bytes taken by the kernel.
    pub bytes: Counter,
    outcomes: [Counter; OUTCOMES.len()],
    refusals: [Counter; Refusal::ALL.len()],
}

impl ProtoMetrics {
    /// Transfers that ended so.
    pub fn outcome(&self, outcome: Outcome) -> &Counter {
        &self.outcomes[OUTCOMES.iter().position(|&(o, _)| o == outcome).unwrap_or(OUTCOMES.len() - 1)]
    }

    /// Requests refused for this reason.
    pub fn refused(&self, why: Refusal) -> &Counter {
        &self.refusals[why as usize]
    }
}

/// Counts of one worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// The worker's number.
    pub index: usize,
    /// Numbers given to transfers so far, see [`crate::events::EventSender::transfer_id`].
    pub(crate) transfers: Counter,
    /// TFTP.
    pub tftp: ProtoMetrics,
    /// HTTP.
    pub http: ProtoMetrics,
    /// TFTP DATA packets sent again.
    pub retransmissions: Counter,
    /// HTTP connections open.
    pub connections: Gauge,
    /// HTTP connections accepted.
    pub accepted: Counter,
    /// Idle HTTP connections closed to make room.
    pub evicted: Counter,
    /// Events handed to control's socket.
    pub events_sent: Counter,
    /// Events dropped because nobody read them in time.
    pub events_lost: Counter,
    /// The ring ran out of receive buffers and had to be armed again.
    pub buffers_exhausted: Counter,
    /// Zero-copy sends that the kernel copied after all.
    pub zc_copied: Counter,
    /// Zero-copy sends that went out of the image's own pages.
    pub zc_uncopied: Counter,
}

impl WorkerMetrics {
    /// Counts of worker `index`, seen by nobody else (tests, benches).
    pub fn alone(index: usize) -> Arc<Self> {
        Arc::new(Self { index, ..Self::default() })
    }

    /// The counts of a protocol.
    pub fn of(&self, proto: Proto) -> &ProtoMetrics {
        match proto {
            Proto::Tftp => &self.tftp,
            Proto::Http => &self.http,
        }
    }
}

/// Counts of the whole process.
#[derive(Debug)]
pub struct Metrics {
    workers: Box<[Arc<WorkerMetrics>]>,
    /// The generation being served.
    pub generation: Gauge,
    /// Names being served.
    pub names: Gauge,
    /// Names of the manifest that could not be loaded.
    pub refused_names: Gauge,
    /// Manifests loaded.
    pub loads: Counter,
    /// Manifests refused whole.
    pub bad_manifests: Counter,
    driver: Mutex<(String, String)>,
    /// Of images and of their pre-framed forms.
    budgets: OnceLock<[Arc<Budget>; 2]>,
}

impl Metrics {
    /// Counts for this many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(WorkerMetrics::alone).collect(),
            generation: Gauge::default(),
            names: Gauge::default(),
            refused_names: Gauge::default(),
            loads: Counter::default(),
            bad_manifests: Counter::default(),
            driver: Mutex::default(),
            budgets: OnceLock::new(),
        })
    }

    /// The counts of one worker; a spare set that nobody reads where there is none of that number.
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        self.workers.get(index).cloned().unwrap_or_else(|| WorkerMetrics::alone(index))
    }

    /// Says which driver runs (`uring`, `epoll`) and why that one.
    pub fn set_driver(&self, name: &str, reason: &str) {
        if let Ok(mut driver) = self.driver.lock() {
            *driver = (name.to_owned(), reason.to_owned());
        }
    }

    /// Says where the memory of images is charged to.
    pub fn set_budgets(&self, images: &Arc<Budget>, framed: &Arc<Budget>) {
        let _ = self.budgets.set([images.clone(), framed.clone()]);
    }

    /// Memory that images take, bytes, old generations included.
    pub fn image_bytes(&self) -> u64 {
        self.budgets.get().map_or(0, |[images, _]| images.used())
    }

    /// Memory that images may take, bytes.
    pub fn image_budget(&self) -> u64 {
        self.budgets.get().map_or(0, |[images, _]| images.limit())
    }

    /// Memory of pre-framed forms, bytes.
    pub fn framed_bytes(&self) -> u64 {
        self.budgets.get().map_or(0, |[_, framed]| framed.used())
    }

    fn sum(&self, read: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.workers.iter().map(|w| read(w)).sum()
    }
}
