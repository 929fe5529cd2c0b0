//! Which machines are of which class, kept up to date change by change: a
//! Server that changes is compared with the classes, not the classes with all
//! Servers. Pure; the watches that feed it are in [`super::follow`].

use super::least::{Least, Size};
use crate::resource::{Phase, Server, ServerClassSpec, ServerClassStatus, marks};
use std::collections::{BTreeMap, BTreeSet};

/// The class that always exists and has every machine, as with Sidero.
pub const ANY: &str = "any";

/// Machines by class.
#[derive(Default)]
pub struct Index {
    classes: BTreeMap<String, Class>,
    servers: BTreeMap<String, Known>,
    /// Server names that have a ServerBinding.
    bound: BTreeSet<String>,
    /// Classes whose status is to be written.
    dirty: BTreeSet<String>,
    /// How often a Server was compared with a class.
    compared: u64,
}

#[derive(Default)]
struct Class {
    spec: ServerClassSpec,
    free: BTreeSet<String>,
    used: BTreeSet<String>,
    /// Of the class, and neither free nor in use: with the reason.
    other: BTreeMap<String, Unfit>,
    least: Least,
}

struct Known {
    server: Server,
    classes: BTreeSet<String>,
}

/// Why a machine cannot be allocated now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unfit {
    /// Somebody has it.
    InUse,
    /// The operator has not accepted it.
    NotAccepted,
    /// The operator keeps it out.
    Cordoned,
    /// Somebody is about to have it.
    Claimed,
    /// It is being deleted.
    Deleted,
    /// Another machine says it is the same one.
    IdentityConflict,
    /// Touched by nobody.
    Paused,
    /// Not in phase Available: being wiped, released, quarantined.
    NotClean,
}

impl Unfit {
    /// For a sentence: `2 cordoned`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotAccepted => "not accepted",
            Self::Cordoned => "cordoned",
            Self::InUse => "in use",
            Self::Claimed => "being allocated",
            Self::Deleted => "being deleted",
            Self::IdentityConflict => "in an identity conflict",
            Self::Paused => "paused",
            Self::NotClean => "not clean (being wiped, released or quarantined)",
        }
    }
}

/// Whether a machine can be allocated; `bound` tells whether it has a ServerBinding.
///
/// # Errors
/// The first reason against it.
pub fn fit(server: &Server, bound: bool) -> Result<(), Unfit> {
    let conflict = |c: &crate::resource::Condition| c.r#type == marks::IDENTITY_CONFLICT && c.status == "True";
    let marked = |mark| server.metadata.annotations.contains_key(mark);
    let reasons = [
        (bound || server.status.in_use, Unfit::InUse),
        (server.metadata.deletion_timestamp.is_some(), Unfit::Deleted),
        (marked(marks::CLAIMED_BY), Unfit::Claimed),
        (!server.spec.accepted, Unfit::NotAccepted),
        (server.spec.cordoned, Unfit::Cordoned),
        (marked(marks::PAUSED), Unfit::Paused),
        (server.status.conditions.iter().any(conflict), Unfit::IdentityConflict),
        (server.status.phase != Some(Phase::Available), Unfit::NotClean),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, why)| Err(why))
}

impl Index {
    /// A Server as it is now.
    pub fn server(&mut self, server: Server) {
        let name = server.metadata.name.clone();
        let mut classes = BTreeSet::new();
        for (class, entry) in &self.classes {
            self.compared += 1;
            if entry.spec.matches(&server) {
                classes.insert(class.clone());
            }
        }
        let before = self.servers.insert(name.clone(), Known { server, classes: classes.clone() });
        let mut touched = before.map(|k| k.classes).unwrap_or_default();
        touched.extend(classes);
        for class in touched {
            self.place(&class, &name);
        }
    }

    /// A Server that is gone.
    pub fn server_gone(&mut self, name: &str) {
        for class in self.servers.remove(name).map(|k| k.classes).unwrap_or_default() {
            self.place(&class, name);
        }
    }

    /// A ServerBinding is there, or gone.
    pub fn bound(&mut self, name: &str, there: bool) {
        let changed = if there { self.bound.insert(name.to_owned()) } else { self.bound.remove(name) };
        if changed {
            for class in self.servers.get(name).map(|k| k.classes.clone()).unwrap_or_default() {
                self.place(&class, name);
            }
        }
    }

    /// A ServerClass as it is now; every Server is compared with it, where its conditions have changed.
    pub fn class(&mut self, name: &str, spec: ServerClassSpec) {
        let old = self.classes.get(name).map(|c| &c.spec);
        let same = old.is_some_and(|old| old.qualifiers == spec.qualifiers && old.selector == spec.selector);
        let entry = self.classes.entry(name.to_owned()).or_insert_with(|| {
            self.dirty.insert(name.to_owned());
            Class::default()
        });
        entry.spec = spec;
        if same {
            return;
        }
        let mut touched = Vec::new();
        for (server, known) in &mut self.servers {
            self.compared += 1;
            let (is, was) = (entry.spec.matches(&known.server), known.classes.contains(name));
            if is {
                known.classes.insert(name.to_owned());
            } else {
                known.classes.remove(name);
            }
            if is || was {
                touched.push(server.clone());
            }
        }
        for server in touched {
            self.place(name, &server);
        }
    }

    /// A ServerClass that is gone.
    pub fn class_gone(&mut self, name: &str) {
        self.classes.remove(name);
        self.dirty.remove(name);
        for known in self.servers.values_mut() {
            known.classes.remove(name);
        }
    }

    /// Puts a Server into the set of a class that it belongs to now.
    fn place(&mut self, class: &str, name: &str) {
        let Some(entry) = self.classes.get_mut(class) else { return };
        let known = self.servers.get(name).filter(|k| k.classes.contains(class));
        let verdict = known.map(|k| fit(&k.server, self.bound.contains(name)));
        let free = verdict == Some(Ok(()));
        let used = verdict == Some(Err(Unfit::InUse));
        // What nobody may have says nothing of what one would get.
        let size = known.filter(|k| k.server.spec.accepted).and_then(|k| Size::of(&k.server));
        entry.least.put(name, size);
        let changed = set(&mut entry.free, name, free) | set(&mut entry.used, name, used);
        match verdict {
            Some(Err(why)) if why != Unfit::InUse => {
                entry.other.insert(name.to_owned(), why);
            }
            _ => {
                entry.other.remove(name);
            }
        }
        if changed {
            self.dirty.insert(class.to_owned());
        }
    }

    /// Whether the class is known.
    #[cfg(test)]
    pub fn knows(&self, class: &str) -> bool {
        self.classes.contains_key(class)
    }

    /// Free machines of a class, in an order that differs from one `seed` to the next, so that
    /// allocations at the same time do not all reach for the same machine.
    pub fn free(&self, class: &str, seed: u64, most: usize) -> Vec<String> {
        let Some(free) = self.classes.get(class).map(|c| &c.free).filter(|f| !f.is_empty()) else { return Vec::new() };
        let start = usize::try_from(seed % free.len() as u64).unwrap_or(0);
        free.iter().cycle().skip(start).take(free.len().min(most)).cloned().collect()
    }

    /// The same, of one failure domain where one is named.
    pub fn free_in(&self, class: &str, zone: Option<&str>, seed: u64, most: usize) -> Vec<String> {
        let Some(zone) = zone else { return self.free(class, seed, most) };
        let all = self.classes.get(class).map_or(0, |c| c.free.len());
        let stands = |name: &String| {
            let labels = self.servers.get(name).map(|k| &k.server.metadata.labels);
            labels.and_then(|l| l.get(marks::ZONE)).is_some_and(|z| z == zone)
        };
        self.free(class, seed, all).into_iter().filter(stands).take(most).collect()
    }

    /// Why no machine of a class is free: `3 in use, 1 cordoned`; `no machine matches it`.
    pub fn why_none(&self, class: &str) -> String {
        let Some(entry) = self.classes.get(class) else { return "there is no such class".to_owned() };
        let mut counts: BTreeMap<Unfit, usize> = BTreeMap::new();
        for why in entry.other.values() {
            *counts.entry(*why).or_default() += 1;
        }
        if !entry.used.is_empty() {
            counts.insert(Unfit::InUse, entry.used.len());
        }
        match counts.is_empty() {
            true => "no machine matches it".to_owned(),
            false => counts.iter().map(|(why, n)| format!("{n} {}", why.words())).collect::<Vec<_>>().join(", "),
        }
    }

    /// The classes whose machines have changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.dirty)
    }

    /// To be written again: the last try failed.
    pub fn mark(&mut self, class: &str) {
        if self.classes.contains_key(class) {
            self.dirty.insert(class.to_owned());
        }
    }

    /// What a class' status should say.
    pub fn status(&self, class: &str) -> Option<ServerClassStatus> {
        self.classes.get(class).map(|entry| ServerClassStatus {
            servers_available: entry.free.iter().cloned().collect(),
            servers_in_use: entry.used.iter().cloned().collect(),
        })
    }

    /// The least that an accepted machine of a class has.
    pub fn least(&self, class: &str) -> Option<Size> {
        self.classes.get(class)?.least.size()
    }

    /// Servers with a claim that has not ended: name and claim.
    pub fn claims(&self) -> Vec<(String, String)> {
        let claim = |k: &Known| k.server.metadata.annotations.get(marks::CLAIMED_BY).cloned();
        self.servers.iter().filter_map(|(name, known)| Some((name.clone(), claim(known)?))).collect()
    }

    /// How often a Server has been compared with a class: the cost of what was done.
    pub const fn compared(&self) -> u64 {
        self.compared
    }
}

/// Puts a name into a set or takes it out; whether that changed the set.
fn set(set: &mut BTreeSet<String>, name: &str, there: bool) -> bool {
    if there { set.insert(name.to_owned()) } else { set.remove(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Condition, Meta, Qualifiers, ServerSpec, ServerStatus};
    use proptest::prelude::*;

    fn server(n: u8) -> Server {
        let labels = [("zone".to_owned(), if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned())].into();
        Server {
            metadata: Meta { name: format!("s{n:03}"), labels, ..Meta::default() },
            spec: ServerSpec { accepted: true, ..ServerSpec::default() },
            status: ServerStatus { phase: Some(Phase::Available), ..ServerStatus::default() },
        }
    }

    fn zone(zone: &str) -> ServerClassSpec {
        let label = [("zone".to_owned(), zone.to_owned())].into();
        let qualifiers = Qualifiers { label_selectors: vec![label], ..Qualifiers::default() };
        ServerClassSpec { qualifiers, ..ServerClassSpec::default() }
    }

    fn names(index: &Index, class: &str) -> (Vec<String>, Vec<String>) {
        let status = index.status(class).unwrap();
        (status.servers_available, status.servers_in_use)
    }

    #[test]
    fn every_reason_against_a_machine_is_seen() {
        let yes = || "True".to_owned();
        type Change = fn(&mut Server);
        let table: [(Change, Unfit); 7] = [
            (|s| s.spec.accepted = false, Unfit::NotAccepted),
            (|s| s.spec.cordoned = true, Unfit::Cordoned),
            (|s| s.status.in_use = true, Unfit::InUse),
            (|s| s.metadata.deletion_timestamp = Some("x".into()), Unfit::Deleted),
            (|s| _ = s.metadata.annotations.insert(marks::CLAIMED_BY.into(), "a/1".into()), Unfit::Claimed),
            (|s| _ = s.metadata.annotations.insert(marks::PAUSED.into(), String::new()), Unfit::Paused),
            (|s| s.status.phase = None, Unfit::NotClean),
        ];
        for (change, expected) in table {
            let mut s = server(1);
            assert_eq!(fit(&s, false), Ok(()));
            change(&mut s);
            assert_eq!(fit(&s, false), Err(expected));
        }
        assert_eq!(fit(&server(1), true), Err(Unfit::InUse));
        for phase in Phase::ALL {
            let mut s = server(1);
            s.status.phase = Some(phase);
            assert_eq!(fit(&s, false).is_ok(), phase == Phase::Available, "{phase}");
        }
        let mut s = server(1);
        let condition = Condition { r#type: marks::IDENTITY_CONFLICT.into(), status: yes(), ..Condition::default() };
        s.status.conditions.push(condition);
        assert_eq!(fit(&s, false), Err(Unfit::IdentityConflict));
    }

    #[test]
    fn a_change_of_one_server_costs_one_server() {
        let mut index = Index::default();
        index.class("even", zone("even"));
        index.class(ANY, ServerClassSpec::default());
        for n in 0..100 {
            index.server(server(n));
        }
        let before = index.compared();
        let mut changed = server(4);
        changed.spec.cordoned = true;
        index.server(changed);
        assert_eq!(index.compared() - before, 2, "two classes, one Server");
        index.bound("s006", true);
        assert_eq!(index.compared() - before, 2, "an allocation compares nothing");
        assert_eq!(names(&index, "even").1, ["s006"]);
        assert_eq!(index.why_none("even"), "1 in use, 1 cordoned");
        assert_eq!(index.why_none("none"), "there is no such class");
    }

    #[test]
    fn only_classes_whose_lists_have_changed_are_written() {
        let mut index = Index::default();
        index.class("even", zone("even"));
        index.class("odd", zone("odd"));
        index.server(server(2));
        assert_eq!(index.take_dirty().into_iter().collect::<Vec<_>>(), ["even", "odd"], "new ones, once");
        index.server(server(2));
        assert!(index.take_dirty().is_empty(), "the same again");
        index.bound("s002", true);
        assert_eq!(index.take_dirty().into_iter().collect::<Vec<_>>(), ["even"]);
        index.server_gone("s002");
        assert_eq!(names(&index, "even"), (vec![], vec![]));
    }

    #[test]
    fn each_seed_begins_elsewhere_and_every_machine_has_its_turn() {
        let mut index = Index::default();
        index.class(ANY, ServerClassSpec::default());
        for n in 0..5 {
            index.server(server(n));
        }
        assert_eq!(index.free(ANY, 3, 9), ["s003", "s004", "s000", "s001", "s002"]);
        assert_eq!(index.free(ANY, 8, 2), ["s003", "s004"]);
        assert!(index.free("none", 1, 9).is_empty());
    }

    proptest! {
        /// Whatever the order of changes, the index says what a look at everything would say.
        #[test]
        fn the_index_equals_a_full_look(steps in prop::collection::vec((0_u8..6, 0_u8..6, 0_u8..6), 0..60)) {
            let mut index = Index::default();
            let mut servers: BTreeMap<String, Server> = BTreeMap::new();
            let mut classes: BTreeMap<String, ServerClassSpec> = BTreeMap::new();
            let mut bound = BTreeSet::new();
            for (what, n, how) in steps {
                let mut s = server(n);
                let class = format!("c{}", n % 3);
                match what {
                    0 | 1 => {
                        s.spec.cordoned = how == 0;
                        if how == 1 { s.metadata.labels.clear(); }
                        servers.insert(s.metadata.name.clone(), s.clone());
                        index.server(s);
                    }
                    2 => { servers.remove(&s.metadata.name); index.server_gone(&s.metadata.name); }
                    3 => {
                        let spec = match how { 0 => ServerClassSpec::default(), 1..=3 => zone("even"), _ => zone("odd") };
                        classes.insert(class.clone(), spec.clone());
                        index.class(&class, spec);
                    }
                    4 => { classes.remove(&class); index.class_gone(&class); }
                    _ => {
                        let there = how.is_multiple_of(2);
                        if there { bound.insert(s.metadata.name.clone()); } else { bound.remove(&s.metadata.name); }
                        index.bound(&s.metadata.name, there);
                    }
                }
                for (class, spec) in &classes {
                    let of = |want: Result<(), Unfit>| servers.values().filter(|s| spec.matches(s))
                        .filter(|s| fit(s, bound.contains(&s.metadata.name)) == want)
                        .map(|s| s.metadata.name.clone()).collect::<Vec<_>>();
                    prop_assert_eq!(names(&index, class), (of(Ok(())), of(Err(Unfit::InUse))));
                }
            }
        }
    }
}
