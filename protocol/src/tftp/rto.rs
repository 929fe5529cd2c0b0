//! The adaptive retransmission timer that RFC 1123 section 4.2.3.2 demands,
//! computed as in RFC 6298, with Karn's rule.

use crate::time::Duration;

/// Bounds of the timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Before anything was measured (RFC 6298 rule 2.1). A negotiated `timeout` takes its place.
    pub initial: Duration,
    /// Slack above the smoothed round trip, and so the least that is waited.
    pub min: Duration,
    /// The most that back-off may reach (or `initial`, if that is longer).
    pub max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), min: Duration::from_millis(50), max: Duration::from_secs(5) }
    }
}

/// The timer's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rto {
    bounds: Bounds,
    /// Smoothed round trip and its variation, once measured.
    measured: Option<(Duration, Duration)>,
    /// Doublings since the last measurement.
    backoff: u8,
}

/// More doublings than this would only meet the maximum again.
const MAX_DOUBLINGS: u8 = 12;

impl Rto {
    /// A timer that has measured nothing.
    pub const fn new(bounds: Bounds) -> Self {
        Self { bounds, measured: None, backoff: 0 }
    }

    /// How long to wait for an answer to what is sent now.
    pub fn wait(&self) -> Duration {
        let base = match self.measured {
            Some((srtt, rttvar)) => srtt + (rttvar * 4).max(self.bounds.min),
            None => self.bounds.initial,
        };
        let most = self.bounds.max.max(self.bounds.initial);
        base.saturating_mul(1 << self.backoff.min(MAX_DOUBLINGS)).min(most)
    }

    /// A round trip that no retransmission makes ambiguous (Karn) took this long.
    pub fn measured(&mut self, rtt: Duration) {
        self.measured = Some(match self.measured {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => ((srtt * 7 + rtt) / 8, (rttvar * 3 + srtt.abs_diff(rtt)) / 4),
        });
        self.backoff = 0;
    }

    /// The wait was in vain: the next one is twice as long. Holds until the next measurement.
    pub fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// The smoothed round trip, where measured.
    pub fn srtt(&self) -> Option<Duration> {
        self.measured.map(|(srtt, _)| srtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn t32_a_lan_is_waited_for_briefly_and_a_long_path_long_enough() {
        let mut lan = Rto::new(Bounds::default());
        assert_eq!(lan.wait(), MS(1000));
        lan.measured(Duration::from_micros(200));
        assert!(lan.wait() >= MS(50) && lan.wait() < MS(60), "{:?}", lan.wait());

        let mut far = Rto::new(Bounds::default());
        for _ in 0..100 {
            far.measured(MS(200));
            assert!(far.wait() >= MS(250), "room for jitter at {:?}", far.wait());
        }
        assert!(far.wait() < MS(260));
    }

    #[test]
    fn t33_back_off_doubles_up_to_the_maximum_and_lasts_until_a_measurement() {
        let mut rto = Rto::new(Bounds::default());
        rto.measured(Duration::ZERO);
        let waits: std::vec::Vec<_> = (0..9)
            .map(|_| {
                let wait = rto.wait().as_millis();
                rto.back_off();
                wait
            })
            .collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for _ in 0..1000 {
            rto.back_off();
        }
        assert_eq!(rto.wait(), MS(5000));
        rto.measured(MS(1));
        assert!(rto.wait() < MS(60));
    }

    #[test]
    fn t48_a_negotiated_timeout_may_exceed_the_maximum() {
        let rto = Rto::new(Bounds { initial: MS(30_000), ..Bounds::default() });
        assert_eq!(rto.wait(), MS(30_000));
    }
}
