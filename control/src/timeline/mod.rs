//! The timeline: for each machine the story of its boots, told from what
//! control and the edge see, kept in bounded rings, shown live, and explained
//! where a boot does not get on.

pub mod diagnose;
pub mod events;
mod snapshot;
pub mod story;
#[cfg(test)]
mod tests;

use crate::api::types::{Boot, BootSummary, WatchLine};
use crate::limits;
use crate::observe::{Milestone, Observation, now_ms};
use crate::telemetry::Metrics;
use protocol::event::MAX_DATAGRAM;
use protocol::id::{Mac, MachineId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixDatagram;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// All boots.
pub struct Timeline {
    inner: Mutex<Inner>,
    lines: broadcast::Sender<WatchLine>,
    file: PathBuf,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    stories: BTreeMap<Mac, VecDeque<Boot>>,
    by_ip: HashMap<IpAddr, (Mac, u64)>,
    by_uuid: HashMap<MachineId, Mac>,
    next: u64,
    changed: bool,
}

impl Timeline {
    /// A timeline that goes on where the snapshot in `file` ended.
    pub fn open(file: PathBuf, metrics: Arc<Metrics>) -> Arc<Self> {
        let (lines, _) = broadcast::channel(limits::WATCH_LINES);
        let mut inner = Inner { next: 1, ..Inner::default() };
        inner.restore(snapshot::read(&file));
        Arc::new(Self { inner: Mutex::new(inner), lines, file, metrics })
    }

    /// Takes observations and the edge's events until `stop`; then writes everything down.
    pub async fn run(
        self: Arc<Self>,
        mut queue: mpsc::Receiver<Observation>,
        edge: UnixDatagram,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(limits::DIAGNOSE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut save_at = tokio::time::Instant::now() + limits::SNAPSHOT_EVERY;
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(seen) = queue.recv() => self.take(seen),
                received = edge.recv(&mut datagram) => match received.ok().and_then(|n| events::observation(datagram.get(..n)?)) {
                    Some(seen) => self.take(seen),
                    None => drop(self.metrics.bad_events.inc()),
                },
                _ = tick.tick() => {
                    self.look(now_ms());
                    if tokio::time::Instant::now() >= save_at {
                        save_at = tokio::time::Instant::now() + self.clone().save().await;
                    }
                }
            }
        }
        while let Ok(seen) = queue.try_recv() {
            self.take(seen);
        }
        self.save().await;
    }

    /// Takes one observation.
    pub fn take(&self, seen: Observation) {
        let mut inner = self.lock();
        self.metrics.observed();
        let Some(boot) = inner.take(&seen) else { return };
        drop(inner);
        let _ = self.lines.send(WatchLine::Boot { boot, seen: Some(seen) });
    }

    /// Asks the rules about every boot that is under way.
    fn look(&self, now_ms: u64) {
        let mut inner = self.lock();
        let mut changed = Vec::new();
        let mut booting = 0;
        for boot in inner.stories.values_mut().filter_map(VecDeque::back_mut) {
            let silent = now_ms.saturating_sub(boot.summary.last_ms) > millis(limits::BOOT_GAP);
            if boot.summary.phase.is_goal() || silent {
                continue;
            }
            booting += 1;
            let diagnosis = diagnose::diagnose(boot, now_ms);
            let rule = |d: &Option<crate::api::types::Diagnosis>| d.as_ref().map(|d| d.rule.clone());
            if rule(&diagnosis) != rule(&boot.summary.diagnosis) {
                boot.summary.diagnosis = diagnosis;
                changed.push(boot.summary.clone());
            }
        }
        inner.changed |= !changed.is_empty();
        drop(inner);
        self.metrics.booting.set(booting);
        for boot in changed {
            if let Some(d) = &boot.diagnosis {
                tracing::warn!(mac = %boot.mac, rule = d.rule, cause = d.cause, remedy = d.remedy, "a boot does not get on");
            }
            let _ = self.lines.send(WatchLine::Boot { boot, seen: None });
        }
    }

    /// The latest boot of each machine, newest activity first.
    pub fn boots(&self) -> Vec<BootSummary> {
        let inner = self.lock();
        let mut boots: Vec<_> = inner.stories.values().filter_map(VecDeque::back).map(|b| b.summary.clone()).collect();
        boots.sort_by_key(|b| std::cmp::Reverse(b.last_ms));
        boots
    }

    /// All kept boots of a machine, oldest first.
    pub fn story(&self, mac: Mac) -> Option<Vec<Boot>> {
        self.lock().stories.get(&mac).map(|boots| boots.iter().cloned().collect())
    }

    /// The MAC under which a machine's boots are kept.
    pub fn mac_of(&self, uuid: MachineId) -> Option<Mac> {
        self.lock().by_uuid.get(&uuid).copied()
    }

    /// What is, and everything that comes after it, without a gap between.
    pub fn watch(&self) -> (Vec<BootSummary>, broadcast::Receiver<WatchLine>) {
        let inner = self.lock();
        let lines = self.lines.subscribe();
        let now = inner.stories.values().filter_map(VecDeque::back).map(|b| b.summary.clone()).collect();
        (now, lines)
    }

    /// Writes the boots down where anything changed; returns when to do it next.
    async fn save(self: Arc<Self>) -> std::time::Duration {
        let stories = {
            let mut inner = self.lock();
            if !std::mem::take(&mut inner.changed) {
                return limits::SNAPSHOT_EVERY;
            }
            inner.stories.clone()
        };
        let begun = std::time::Instant::now();
        let this = self.clone();
        let written = tokio::task::spawn_blocking(move || snapshot::write(&this.file, &stories)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "boots are not written down; after a restart they are forgotten"),
            Err(e) => tracing::warn!(error = %e, "boots are not written down"),
        }
        // A big rack must not spend its time writing: at most a twentieth of it.
        limits::SNAPSHOT_EVERY.max(begun.elapsed() * 20)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, seen: &Observation) -> Option<BootSummary> {
        let mac = self.machine_of(seen)?;
        self.remember(mac, seen);
        if !self.stories.contains_key(&mac) {
            self.make_room();
        }
        let number = self.next;
        let boots = self.stories.entry(mac).or_default();
        if boots.is_empty() && matches!(seen.what, Milestone::Life { .. } | Milestone::Power { starts: false, .. }) {
            // No boot that it could belong to.
            self.stories.remove(&mac);
            return None;
        }
        let fresh = boots.back().is_none_or(|boot| story::begins_another(boot, seen));
        if fresh {
            self.next += 1;
            if boots.len() >= limits::BOOTS {
                boots.pop_front();
            }
            let mut boot = story::begin(number, mac, seen.at_ms);
            // A machine keeps its UUID from one boot to the next.
            boot.summary.uuid = boots.back().and_then(|b| b.summary.uuid);
            boots.push_back(boot);
        }
        let boot = boots.back_mut()?;
        story::fold(boot, seen);
        boot.summary.diagnosis = diagnose::diagnose(boot, seen.at_ms);
        self.changed = true;
        Some(boot.summary.clone())
    }

    fn machine_of(&self, seen: &Observation) -> Option<Mac> {
        let by_ip = || seen.ip.and_then(|ip| self.by_ip.get(&ip)).map(|(mac, _)| *mac);
        let by_uuid = || seen.uuid.and_then(|uuid| self.by_uuid.get(&uuid)).copied();
        seen.mac.or_else(by_ip).or_else(by_uuid)
    }

    fn remember(&mut self, mac: Mac, seen: &Observation) {
        if let Some(ip) = seen.ip.filter(|ip| !ip.is_unspecified()) {
            if self.by_ip.len() >= limits::IP_TABLE && !self.by_ip.contains_key(&ip) {
                // Rare: drop the older half at once, not one entry a packet.
                let mut ages: Vec<u64> = self.by_ip.values().map(|(_, at)| *at).collect();
                let middle = ages.len() / 2;
                let (_, median, _) = ages.select_nth_unstable(middle);
                let median = *median;
                self.by_ip.retain(|_, (_, at)| *at > median);
            }
            self.by_ip.insert(ip, (mac, seen.at_ms));
        }
        if let Some(uuid) = seen.uuid
            && (self.by_uuid.len() < limits::STORIES || self.by_uuid.contains_key(&uuid))
        {
            self.by_uuid.insert(uuid, mac);
        }
    }

    /// The machine that was silent the longest makes room.
    fn make_room(&mut self) {
        if self.stories.len() < limits::STORIES {
            return;
        }
        let last = |boots: &VecDeque<Boot>| boots.back().map_or(0, |b| b.summary.last_ms);
        if let Some(mac) = self.stories.iter().min_by_key(|(_, boots)| last(boots)).map(|(mac, _)| *mac) {
            self.stories.remove(&mac);
            self.by_uuid.retain(|_, m| *m != mac);
        }
    }

    fn restore(&mut self, stories: Vec<(Mac, VecDeque<Boot>)>) {
        for (mac, boots) in stories.into_iter().take(limits::STORIES) {
            for summary in boots.iter().map(|b| &b.summary) {
                self.next = self.next.max(summary.boot.saturating_add(1));
                if let Some(ip) = summary.ip {
                    self.by_ip.insert(ip, (mac, summary.last_ms));
                }
                if let Some(uuid) = summary.uuid {
                    self.by_uuid.insert(uuid, mac);
                }
            }
            self.stories.insert(mac, boots);
        }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
