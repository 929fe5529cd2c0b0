//! The clocks, read in one place. The services are told the time by the worker;
//! the wall clock is only for what people and other hosts read.

use protocol::time::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// CLOCK_MONOTONIC: what deadlines are read on.
pub fn monotonic() -> Instant {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Instant((t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64))
}

/// Milliseconds since 1970 UTC; 0 where the clock stands before.
pub fn wall_ms() -> u64 {
    wall().as_millis() as u64
}

/// Seconds since 1970 UTC; 0 where the clock stands before.
pub fn wall_seconds() -> u64 {
    wall().as_secs()
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
