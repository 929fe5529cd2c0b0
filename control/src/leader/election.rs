//! The rules of the election, without a clock and a network of their own.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A Lease's spec (coordination.k8s.io/v1).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Who holds it; nobody where empty.
    pub holder_identity: Option<String>,
    /// How long the others wait after the last sign of life, seconds.
    pub lease_duration_seconds: Option<u32>,
    /// For people, RFC 3339 with microseconds: held since.
    pub acquire_time: Option<String>,
    /// For people, and so that a renewal is a change.
    pub renew_time: Option<String>,
    /// How often it has changed hands.
    pub lease_transitions: Option<u32>,
}

impl Record {
    fn holder(&self) -> &str {
        self.holder_identity.as_deref().unwrap_or_default()
    }
}

/// What is to be done after a look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing: another holds it.
    Wait,
    /// Write this record: over the version that was seen, or as a new Lease.
    Take {
        /// What to write; its times are filled in by who writes.
        record: Record,
        /// The version that was seen.
        over: Option<String>,
    },
}

/// One who stands for election.
pub struct Election {
    identity: String,
    duration: Duration,
    /// A holder that has not renewed for so long no longer leads.
    deadline: Duration,
    /// What was seen last, and since when it is so by our clock.
    seen: Option<(Record, String, Instant)>,
    /// The beginning of our last write that was taken.
    renewed: Option<Instant>,
}

impl Election {
    /// Nobody has seen anything yet.
    pub fn new(identity: String, duration: Duration, deadline: Duration) -> Self {
        Self { identity, duration, deadline, seen: None, renewed: None }
    }

    /// What to do about the Lease as it is (with its version), or about there being none.
    pub fn look(&mut self, found: Option<(&Record, &str)>, now: Instant) -> Step {
        let Some((record, version)) = found else {
            self.seen = None;
            return Step::Take { record: self.record(None), over: None };
        };
        let same = self.seen.as_ref().is_some_and(|(seen, ..)| seen == record);
        if !same {
            self.seen = Some((record.clone(), version.to_owned(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, _, since)| *since);
        // The holder's own word on its duration counts: it may run with other settings.
        let lasts = record.lease_duration_seconds.map_or(self.duration, |s| Duration::from_secs(s.into()));
        let ours = record.holder() == self.identity;
        if !ours {
            self.renewed = None;
            if !record.holder().is_empty() && now.saturating_duration_since(since) < lasts {
                return Step::Wait;
            }
        }
        Step::Take { record: self.record(Some(record)), over: Some(version.to_owned()) }
    }

    /// Our write, begun at `began`, was taken.
    pub fn taken(&mut self, record: Record, version: String, began: Instant) {
        self.seen = Some((record, version, began));
        self.renewed = Some(began);
    }

    /// Whether we lead: our last renewal is not too long ago.
    pub fn leads(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// Until when we lead without another renewal; nothing where that is over, or never began.
    pub fn until(&self) -> Option<Instant> {
        self.renewed.map(|at| at + self.deadline)
    }

    /// The record that gives the Lease away, and the version that it goes over; nothing where it is not ours.
    pub fn release(&self) -> Option<(Record, String)> {
        let (record, version, _) = self.seen.as_ref().filter(|(record, ..)| record.holder() == self.identity)?;
        let free = Record { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..record.clone() };
        Some((free, version.clone()))
    }

    /// Ours, after `before`. Times are left to who writes: they are of the wall.
    fn record(&self, before: Option<&Record>) -> Record {
        let ours = before.is_some_and(|b| b.holder() == self.identity);
        let transitions = before.and_then(|b| b.lease_transitions).unwrap_or(0);
        Record {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(u32::try_from(self.duration.as_secs()).unwrap_or(u32::MAX)),
            acquire_time: before.filter(|_| ours).and_then(|b| b.acquire_time.clone()),
            renew_time: None,
            lease_transitions: Some(if ours || before.is_none() { transitions } else { transitions.saturating_add(1) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(15);
    const DEADLINE: Duration = Duration::from_secs(10);

    fn held(by: &str, renewed: &str) -> Record {
        Record {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(renewed.into()),
            lease_transitions: Some(3),
            ..Record::default()
        }
    }

    fn me() -> Election {
        Election::new("me".into(), LASTS, DEADLINE)
    }

    #[test]
    fn a_lease_that_nobody_has_is_taken() {
        let now = Instant::now();
        let Step::Take { record, over: None } = me().look(None, now) else { panic!("it is there to be taken") };
        assert_eq!((record.holder(), record.lease_transitions), ("me", Some(0)));
        let free = held("", "1");
        let Step::Take { record, over: Some(over) } = me().look(Some((&free, "7")), now) else { panic!("given away") };
        assert_eq!((record.lease_transitions, over.as_str()), (Some(4), "7"));
    }

    #[test]
    fn anothers_lease_is_left_alone_for_its_duration_after_the_last_change_that_we_saw() {
        let start = Instant::now();
        let mut election = me();
        // The first look says nothing about how old it is, whatever time is written in it.
        let old = held("other", "1970-01-01T00:00:00.000000Z");
        assert_eq!(election.look(Some((&old, "1")), start), Step::Wait);
        assert_eq!(election.look(Some((&old, "1")), start + LASTS - Duration::from_millis(1)), Step::Wait);
        // A renewal begins the wait again.
        let renewed = held("other", "2");
        assert_eq!(election.look(Some((&renewed, "2")), start + LASTS), Step::Wait);
        assert_eq!(election.look(Some((&renewed, "2")), start + LASTS * 2 - Duration::from_millis(1)), Step::Wait);
        assert!(matches!(election.look(Some((&renewed, "2")), start + LASTS * 2), Step::Take { .. }));
        assert!(!election.leads(start + LASTS * 2), "it is not ours before it is written");
    }

    #[test]
    fn a_holder_leads_until_its_deadline_counted_from_the_beginning_of_its_last_write() {
        let start = Instant::now();
        let mut election = me();
        let Step::Take { record, .. } = election.look(None, start) else { panic!("free") };
        election.taken(record.clone(), "1".into(), start);
        assert!(election.leads(start + DEADLINE - Duration::from_millis(1)));
        assert!(!election.leads(start + DEADLINE), "others wait for longer than that");
        let later = start + Duration::from_secs(2);
        let Step::Take { record: again, over } = election.look(Some((&record, "1")), later) else { panic!("ours") };
        assert_eq!((again.lease_transitions, over.as_deref()), (record.lease_transitions, Some("1")));
        election.taken(again, "2".into(), later);
        assert!(election.leads(start + DEADLINE));
    }

    #[test]
    fn who_finds_the_lease_in_other_hands_leads_no_more() {
        let start = Instant::now();
        let mut election = me();
        let Step::Take { record, .. } = election.look(None, start) else { panic!("free") };
        election.taken(record, "1".into(), start);
        assert_eq!(election.look(Some((&held("other", "9"), "5")), start + Duration::from_secs(1)), Step::Wait);
        assert!(!election.leads(start + Duration::from_secs(1)));
        assert!(election.release().is_none(), "it is not ours to give away");
    }

    #[test]
    fn what_is_given_away_can_be_taken_at_once() {
        let start = Instant::now();
        let mut election = me();
        let Step::Take { record, .. } = election.look(None, start) else { panic!("free") };
        election.taken(record, "1".into(), start);
        let (free, version) = election.release().unwrap();
        assert_eq!(version, "1");
        let mut other = Election::new("other".into(), LASTS, DEADLINE);
        assert!(matches!(other.look(Some((&free, "2")), start), Step::Take { .. }));
    }
}
