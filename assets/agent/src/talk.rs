//! The conversation with control: JSON over HTTP (`protocol::report`), with
//! time limits on every step and waits that grow and differ between machines.

use crate::sys;
use protocol::report::{Answer, Confirmed, Hello, MIN, Status};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The longest that connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that one question and answer may take, connecting included.
const WHOLE: Duration = Duration::from_secs(20);
/// No answer may be larger, bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// The first wait after a failure; doubled at each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between two tries: a rack that lost control finds it again within half a minute.
const LAST_WAIT: Duration = Duration::from_secs(30);
/// What control may set as the polling interval, seconds.
const POLL: std::ops::RangeInclusive<u32> = 1..=300;

/// Why a question had no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Control answered, and does not know this machine (any more): say hello again.
    Unknown(String),
    /// Anything else.
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(why) | Self::Other(why) => out.write_str(why),
        }
    }
}

/// A line to control.
#[derive(Debug)]
pub struct Talk {
    base: String,
    agent: ureq::Agent,
}

impl Talk {
    /// `base` is `http://HOST:PORT`.
    pub fn new(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(WHOLE))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("stoker-agent/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { base: base.to_string(), agent: config.into() }
    }

    /// The first words of a boot.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub fn hello(&self, hello: &Hello) -> Result<Answer, Failure> {
        self.post("/agent/v1/hello", serde_json::to_vec(hello)).and_then(Self::of_our_version)
    }

    /// How things stand.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub fn status(&self, status: &Status) -> Result<Answer, Failure> {
        self.post("/agent/v1/status", serde_json::to_vec(status)).and_then(Self::of_our_version)
    }

    /// Whether disks may be written to, for the last time before that is done (W5).
    ///
    /// # Errors
    /// When there is no usable answer: then the answer is no.
    pub fn confirm(&self, status: &Status) -> Result<Confirmed, Failure> {
        self.post("/agent/v1/confirm", serde_json::to_vec(status))
    }

    fn of_our_version(answer: Answer) -> Result<Answer, Failure> {
        match answer.version {
            MIN.. => Ok(answer),
            old => Err(Failure::Other(format!("control speaks version {old}, this agent {MIN} and later"))),
        }
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: serde_json::Result<Vec<u8>>) -> Result<T, Failure> {
        let other = |e: &dyn std::fmt::Display| Failure::Other(format!("{}{path}: {e}", self.base));
        let body = body.map_err(|e| other(&e))?;
        let url = format!("{}{path}", self.base);
        let mut response =
            self.agent.post(&url).header("content-type", "application/json").send(&body[..]).map_err(|e| other(&e))?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|e| other(&e))?;
        match response.status().as_u16() {
            200 => parse(&text).map_err(|e| other(&e)),
            code @ (404 | 409 | 410) => Err(Failure::Unknown(format!("{url}: HTTP {code}"))),
            code => Err(other(&format!("HTTP {code}"))),
        }
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|e| format!("an answer that is none: {e}"))
}

/// How long to wait before the next poll: what control said, within bounds, and a tenth of jitter.
pub fn poll_after(poll_seconds: u32) -> Duration {
    let seconds = poll_seconds.clamp(*POLL.start(), *POLL.end());
    Duration::from_secs(seconds.into()).mul_f64(0.95 + 0.1 * fraction())
}

/// How long to wait after `failures` in a row: exponential, bounded, between half and the whole of it.
pub fn back_off(failures: u32) -> Duration {
    let whole = (FIRST_WAIT * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LAST_WAIT);
    whole.mul_f64(0.5 + 0.5 * fraction())
}

/// 0 to 1.
fn fraction() -> f64 {
    let [a, b, ..] = sys::random();
    f64::from(u16::from_ne_bytes([a, b])) / 65535.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::report::OrderKind;

    #[test]
    fn waits_grow_and_are_bounded() {
        for failures in 1..100 {
            let wait = back_off(failures);
            assert!(wait >= FIRST_WAIT / 2 && wait <= LAST_WAIT, "{failures}: {wait:?}");
        }
        assert!(back_off(1) <= FIRST_WAIT && back_off(30) >= LAST_WAIT / 2);
        assert!(poll_after(0) >= Duration::from_millis(900) && poll_after(u32::MAX) <= Duration::from_secs(330));
    }

    #[test]
    fn answers_are_read_and_nonsense_is_refused() {
        let answer: Answer = parse(br#"{"version":1,"order":{"id":3,"kind":"reboot"},"poll_seconds":5}"#).unwrap();
        assert_eq!((answer.order.id, answer.order.kind), (3, OrderKind::Reboot));
        assert!(parse::<Answer>(b"<html>").is_err());
        let old = parse(br#"{"version":0,"order":{"id":3,"kind":"reboot"},"poll_seconds":5}"#).unwrap();
        assert!(Talk::of_our_version(old).is_err());
    }
}
