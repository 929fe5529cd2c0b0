//! Counters of DHCP, for the operator's metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// What was seen and done. Cloned handles count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Labelled,
    malformed: Labelled,
    replies: Labelled,
    ignored: Labelled,
    dropped: Labelled,
    probes: Labelled,
    foreign: Counter,
    advertisements: Counter,
    leases: Gauge,
}

impl Metrics {
    /// Adds all of it to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("stoker_dhcp");
        r.register("requests", "DHCP requests by type", self.requests.clone());
        r.register("malformed", "packets that are no DHCP request, by reason", self.malformed.clone());
        r.register("replies", "DHCP replies sent, by type", self.replies.clone());
        r.register("ignored", "requests left unanswered on purpose, by reason", self.ignored.clone());
        r.register("dropped", "requests or replies lost to a limit or a fault, by reason", self.dropped.clone());
        r.register("probes", "addresses probed before they were offered, by result", self.probes.clone());
        r.register("foreign_offers", "offers seen from other DHCP servers", self.foreign.clone());
        r.register("advertisements", "IPv6 router advertisements sent", self.advertisements.clone());
        r.register("leases", "addresses leased now", self.leases.clone());
    }

    pub(super) fn request(&self, kind: &'static str) {
        self.requests.get_or_create(&[("type", kind)]).inc();
    }
    pub(super) fn malformed(&self, why: &'static str) {
        self.malformed.get_or_create(&[("reason", why)]).inc();
    }
    pub(super) fn reply(&self, kind: &'static str) {
        self.replies.get_or_create(&[("type", kind)]).inc();
    }
    pub(super) fn ignored(&self, why: &'static str) {
        self.ignored.get_or_create(&[("reason", why)]).inc();
    }
    pub(super) fn dropped(&self, why: &'static str) {
        self.dropped.get_or_create(&[("reason", why)]).inc();
    }
    pub(super) fn probed(&self, result: &'static str) {
        self.probes.get_or_create(&[("result", result)]).inc();
    }
    pub(super) fn foreign(&self) {
        self.foreign.inc();
    }
    pub(super) fn advertised(&self) {
        self.advertisements.inc();
    }
    pub(super) fn leases(&self, count: usize) {
        self.leases.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many malformed packets were dropped for a reason (`Malformed::label`).
    pub fn malformed_count(&self, why: &'static str) -> u64 {
        self.malformed.get_or_create(&[("reason", why)]).get()
    }
    /// How many requests or replies were lost for a reason.
    pub fn dropped_count(&self, why: &'static str) -> u64 {
        self.dropped.get_or_create(&[("reason", why)]).get()
    }
    /// How many requests were ignored for a reason.
    pub fn ignored_count(&self, why: &'static str) -> u64 {
        self.ignored.get_or_create(&[("reason", why)]).get()
    }
    /// How many router advertisements went out.
    pub fn advertisement_count(&self) -> u64 {
        self.advertisements.get()
    }
}
