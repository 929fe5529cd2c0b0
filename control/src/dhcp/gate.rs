//! Complaints that a network could repeat a thousand times a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same complaint is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// When each kind of complaint was logged last.
#[derive(Debug, Default)]
pub(super) struct Gate(HashMap<&'static str, Instant>);

impl Gate {
    /// Logs a complaint, each kind at most every ten seconds.
    pub fn complain(&mut self, label: &'static str, what: &str) {
        let now = Instant::now();
        if self.0.get(label).is_none_or(|last| now.duration_since(*last) >= COMPLAIN_EVERY) {
            self.0.insert(label, now);
            tracing::warn!(reason = label, "DHCP: {what}");
        }
    }

    /// Forgets what is too old to matter.
    pub fn tick(&mut self) {
        self.0.retain(|_, since| since.elapsed() < COMPLAIN_EVERY);
    }
}
