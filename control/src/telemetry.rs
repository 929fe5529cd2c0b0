//! Logs and metrics.

use crate::config::LogFormat;
use crate::observe::Observer;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::{Mutex, PoisonError};

/// Sends log lines to standard error. What is logged is set by `STOKER_LOG`
/// (default `info`), in the form of tracing's EnvFilter.
pub fn init_logs(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STOKER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .with_target(false);
    // A second initialisation (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

/// Control's own metrics, all named `stoker_control_...`.
pub struct Metrics {
    registry: Mutex<Registry>,
    scripts: Family<Answered, Counter>,
    reports: Family<Answered, Counter>,
    configs: Family<Answered, Counter>,
    observations: Counter,
    /// Events of the edge that could not be read.
    pub bad_events: Counter,
    lost: Gauge,
    generation: Gauge,
    /// Boots under way.
    pub booting: Gauge,
    observer: Observer,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Answered {
    kind: &'static str,
    status: u32,
}

impl Metrics {
    /// Registers them.
    pub fn new(observer: Observer) -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            scripts: Family::default(),
            reports: Family::default(),
            configs: Family::default(),
            observations: Counter::default(),
            bad_events: Counter::default(),
            lost: Gauge::default(),
            generation: Gauge::default(),
            booting: Gauge::default(),
            observer,
        };
        metrics.register(|registry| {
            let r = registry.sub_registry_with_prefix("stoker_control");
            r.register("scripts", "iPXE scripts asked for, by kind and HTTP status", metrics.scripts.clone());
            r.register("agent_reports", "Reports of agents, by kind and HTTP status", metrics.reports.clone());
            r.register(
                "configs",
                "Machine configurations and reports asked for, by outcome and HTTP status",
                metrics.configs.clone(),
            );
            r.register("observations", "Milestones taken into the timeline", metrics.observations.clone());
            r.register(
                "edge_events_unreadable",
                "Datagrams from the edge that are not events",
                metrics.bad_events.clone(),
            );
            r.register("observations_lost", "Milestones dropped because the queue was full", metrics.lost.clone());
            r.register("manifest_generation", "Generation of names last published", metrics.generation.clone());
            r.register(
                "boots_under_way",
                "Boots that have not reached their goal and are not silent",
                metrics.booting.clone(),
            );
        });
        metrics
    }

    /// Lets another module register its own.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a script.
    pub fn scripts(&self, kind: &'static str, status: u16) {
        self.scripts.get_or_create(&Answered { kind, status: status.into() }).inc();
    }

    /// Counts a report of an agent.
    pub fn reports(&self, kind: &'static str, status: u16) {
        self.reports.get_or_create(&Answered { kind, status: status.into() }).inc();
    }

    /// Counts a question for a configuration, or a report: by outcome.
    pub fn configs(&self, kind: &'static str, status: u16) {
        self.configs.get_or_create(&Answered { kind, status: status.into() }).inc();
    }

    /// Counts a milestone.
    pub fn observed(&self) {
        self.observations.inc();
    }

    /// Notes the generation published.
    pub fn generation(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// The text that Prometheus scrapes.
    pub fn encode(&self) -> String {
        self.lost.set(i64::try_from(self.observer.lost()).unwrap_or(i64::MAX));
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
