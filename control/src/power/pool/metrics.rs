//! What is counted of BMCs.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds: from a BMC on a quiet network to one that hangs until its deadline.
const BUCKETS: [f64; 10] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0];

/// By what a BMC is spoken to, and how a turn on it ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Turn {
    /// `ipmi`, `redfish` or `management-api`.
    pub speaks: &'static str,
    /// `done`, `refused`, `unreachable`, `login`, `busy` or `left_alone`.
    pub outcome: &'static str,
}

/// The pool's metrics.
pub struct Metrics {
    pub(super) turns: Family<Turn, Counter>,
    pub(super) logins: Counter,
    pub(super) sessions: Gauge,
    pub(super) open: Gauge,
    pub(super) seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            turns: Family::default(),
            logins: Counter::default(),
            sessions: Gauge::default(),
            open: Gauge::default(),
            seconds: Histogram::new(BUCKETS),
        }
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("stoker_control_bmc");
        r.register("turns", "Turns on BMCs, by protocol and outcome", self.turns.clone());
        r.register("logins", "Sessions opened with BMCs", self.logins.clone());
        r.register("sessions", "Sessions kept open for the next turn", self.sessions.clone());
        r.register("left_alone", "BMCs that are not asked because they did not answer", self.open.clone());
        r.register("turn_seconds", "Time of a turn, waiting for the BMC's queue not counted", self.seconds.clone());
    }
}
