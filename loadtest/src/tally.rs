//! What one run of one server gave.

use crate::engine::Marks;
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use protocol::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies are kept in microseconds, up to this, to three digits.
const LONGEST: Duration = Duration::from_secs(3600);
/// Causes of failure kept apart; more are counted together.
const CAUSES: usize = 32;

/// Counts and latencies.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Transfers begun.
    pub started: u64,
    /// Transfers that brought the whole file.
    pub completed: u64,
    /// Transfers that did not, by cause.
    pub failures: BTreeMap<String, u64>,
    /// File bytes received, each counted once, of failed transfers too.
    pub bytes: u64,
    /// Packets that nodes sent again.
    pub retransmissions: u64,
    /// Data that came again.
    pub duplicates: u64,
    /// From when a transfer was due to its last byte, microseconds; complete ones only.
    pub total: Histogram<u64>,
    /// From when a transfer was due to its first file byte, microseconds.
    pub first_byte: Histogram<u64>,
    /// From the first start to the last end.
    pub elapsed: Duration,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never with the bounds used here.
    pub fn new() -> Result<Self> {
        let longest = u64::try_from(LONGEST.as_micros())?;
        let histogram = || Histogram::new_with_max(longest, 3).context("histogram bounds");
        Ok(Self {
            started: 0,
            completed: 0,
            failures: BTreeMap::new(),
            bytes: 0,
            retransmissions: 0,
            duplicates: 0,
            total: histogram()?,
            first_byte: histogram()?,
            elapsed: Duration::ZERO,
        })
    }

    /// A transfer brought its file.
    pub fn completed(&mut self, due: Instant, now: Instant, marks: &Marks) {
        self.completed += 1;
        self.total.saturating_record(micros(now - due));
        if let Some(first) = marks.first_byte {
            self.first_byte.saturating_record(micros(first - due));
        }
        self.count(marks);
    }

    /// A transfer failed.
    pub fn failed(&mut self, cause: String, marks: &Marks) {
        let known = self.failures.len() < CAUSES || self.failures.contains_key(&cause);
        let cause = if known { cause } else { "other".to_owned() };
        *self.failures.entry(cause).or_default() += 1;
        self.count(marks);
    }

    fn count(&mut self, marks: &Marks) {
        self.bytes += marks.bytes;
        self.retransmissions += marks.retransmissions;
        self.duplicates += marks.duplicates;
    }

    /// How many transfers failed.
    pub fn failed_count(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds what another thread, or another round, has seen. The time is the
    /// longer for threads (`together`), the sum for rounds.
    ///
    /// # Errors
    /// Never: all histograms have the same bounds.
    pub fn add(&mut self, other: &Self, together: bool) -> Result<()> {
        self.started += other.started;
        self.completed += other.completed;
        for (cause, n) in &other.failures {
            *self.failures.entry(cause.clone()).or_default() += n;
        }
        self.bytes += other.bytes;
        self.retransmissions += other.retransmissions;
        self.duplicates += other.duplicates;
        self.total.add(&other.total)?;
        self.first_byte.add(&other.first_byte)?;
        self.elapsed = if together { self.elapsed.max(other.elapsed) } else { self.elapsed + other.elapsed };
        Ok(())
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::new().unwrap();
        let marks = Marks { first_byte: Some(Instant::from_millis(2)), bytes: 10, retransmissions: 1, duplicates: 2 };
        let mut one = Tally::new().unwrap();
        one.completed(Instant::ZERO, Instant::from_millis(4), &marks);
        one.failed("no answer".to_owned(), &Marks::default());
        one.elapsed = Duration::from_secs(1);
        sum.add(&one, true).unwrap();
        sum.add(&one, true).unwrap();
        assert_eq!(
            (sum.completed, sum.failed_count(), sum.bytes, sum.retransmissions, sum.duplicates),
            (2, 2, 20, 2, 4)
        );
        assert_eq!(sum.elapsed, Duration::from_secs(1));
        assert_eq!((sum.total.max() / 100, sum.first_byte.max() / 100), (40, 20));
        sum.add(&one, false).unwrap();
        assert_eq!(sum.elapsed, Duration::from_secs(2));
    }

    #[test]
    fn causes_from_the_network_cannot_fill_memory() {
        let mut tally = Tally::new().unwrap();
        for i in 0..1000 {
            tally.failed(format!("cause {i}"), &Marks::default());
        }
        assert_eq!(tally.failures.len(), CAUSES + 1);
        assert_eq!(tally.failed_count(), 1000);
    }
}
