//! Whether a BMC is worth asking: closed, open after failures in a row, and
//! one question at a time to find out whether it is back.

use crate::limits;
use std::time::Duration;
use tokio::time::Instant;

/// The record of one BMC.
#[derive(Debug, Default)]
pub struct Breaker {
    proven: bool,
    failures: u32,
    until: Option<Instant>,
}

/// Whether a BMC may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It answered last time.
    Ask,
    /// It did not, or was never asked: this question finds out.
    Probe,
    /// Not before this time has passed.
    Wait(Duration),
}

impl Breaker {
    /// Whether to ask now.
    pub fn verdict(&self, now: Instant) -> Verdict {
        match self.until {
            Some(until) if now < until => Verdict::Wait(until - now),
            _ if self.proven => Verdict::Ask,
            _ => Verdict::Probe,
        }
    }

    /// It answered, be it with a refusal.
    pub fn answered(&mut self) {
        *self = Self { proven: true, ..Self::default() };
    }

    /// It did not. `jitter` is a random number: BMCs that died together are not asked together.
    pub fn failed(&mut self, now: Instant, jitter: u64) {
        self.proven = false;
        self.failures = self.failures.saturating_add(1);
        let Some(beyond) = self.failures.checked_sub(limits::BMC_FAILURES) else { return };
        let pause = limits::BMC_PAUSE.saturating_mul(1 << beyond.min(16)).min(limits::BMC_PAUSE_MAX);
        // Between three quarters and five quarters of the pause.
        let half = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) / 2;
        let pause = pause.mul_f64(0.75) + Duration::from_millis(jitter % half.max(1));
        self.until = Some(now + pause);
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is open.
    pub const fn is_open(&self) -> bool {
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_opens_after_failures_in_a_row_probes_once_and_closes_with_an_answer() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        assert_eq!(breaker.verdict(now), Verdict::Probe, "nobody knows it yet");
        for _ in 1..limits::BMC_FAILURES {
            breaker.failed(now, 0);
            assert_eq!(breaker.verdict(now), Verdict::Probe, "not yet open, no more trusted");
        }
        breaker.failed(now, 0);
        assert!(matches!(breaker.verdict(now), Verdict::Wait(_)));
        assert_eq!(breaker.verdict(now + limits::BMC_PAUSE), Verdict::Probe);
        breaker.answered();
        assert_eq!(breaker.verdict(now), Verdict::Ask);
    }

    proptest! {
        #[test]
        fn pauses_grow_are_bounded_and_differ(failures in 1..200u32, jitter: u64) {
            let now = Instant::now();
            let mut breaker = Breaker::default();
            (0..failures).for_each(|_| breaker.failed(now, jitter));
            match breaker.verdict(now) {
                Verdict::Wait(pause) => {
                    prop_assert!(failures >= limits::BMC_FAILURES);
                    prop_assert!(pause >= limits::BMC_PAUSE.mul_f64(0.75));
                    prop_assert!(pause <= limits::BMC_PAUSE_MAX.mul_f64(1.25));
                }
                verdict => {
                    prop_assert!(failures < limits::BMC_FAILURES);
                    prop_assert_eq!(verdict, Verdict::Probe);
                }
            }
        }
    }
}
