//! Logins that a BMC has refused: it is left alone before it locks the user out (F21).

use super::super::target::Version;
use crate::limits;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Refusals of one BMC within the last [`limits::BMC_LOGIN_WINDOW`].
#[derive(Debug, Default)]
pub struct Logins {
    refused: VecDeque<(Instant, Version)>,
}

impl Logins {
    /// How long these credentials must wait; nothing where they may be tried. Other credentials
    /// (a corrected Secret) may be tried, but not any number of them.
    pub fn wait(&mut self, credentials: Version, now: Instant) -> Option<Duration> {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= limits::BMC_LOGIN_WINDOW;
        while self.refused.front().is_some_and(|(at, _)| old(at)) {
            self.refused.pop_front();
        }
        let same = self.refused.iter().filter(|(_, c)| *c == credentials);
        let first = match same.clone().count() >= limits::BMC_LOGINS {
            true => same.map(|(at, _)| *at).next(),
            false if self.refused.len() >= limits::BMC_LOGINS_ALL => self.refused.front().map(|(at, _)| *at),
            false => None,
        };
        first.map(|at| limits::BMC_LOGIN_WINDOW.saturating_sub(now.saturating_duration_since(at)))
    }

    /// The BMC refused them.
    pub fn refused(&mut self, credentials: Version, now: Instant) {
        if self.refused.len() >= limits::BMC_LOGINS_ALL {
            self.refused.pop_front();
        }
        self.refused.push_back((now, credentials));
    }

    /// The BMC took a login.
    pub fn taken(&mut self) {
        self.refused.clear();
    }

    /// Whether there is anything to remember.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f21_three_refusals_in_ten_minutes_and_no_fourth_try() {
        let (mut logins, begin) = (Logins::default(), Instant::now());
        let minute = Duration::from_secs(60);
        for i in 0..3 {
            assert_eq!(logins.wait(Version(1), begin + minute * i), None);
            logins.refused(Version(1), begin + minute * i);
        }
        assert_eq!(logins.wait(Version(1), begin + minute * 3), Some(minute * 7));
        assert_eq!(logins.wait(Version(1), begin + minute * 10), None, "the first has become old");
        logins.refused(Version(1), begin + minute * 10);
        assert_eq!(logins.wait(Version(1), begin + minute * 10), Some(minute));
        logins.taken();
        assert_eq!(logins.wait(Version(1), begin + minute * 10), None);
    }

    #[test]
    fn f21_changed_credentials_may_try_again_but_not_without_end() {
        let (mut logins, now) = (Logins::default(), Instant::now());
        let mut tries = 0;
        for version in 0..100 {
            while logins.wait(Version(version), now).is_none() {
                logins.refused(Version(version), now);
                tries += 1;
            }
        }
        assert_eq!(tries, limits::BMC_LOGINS_ALL);
    }
}
