//! All BMCs of a site: one queue for each, sessions that are used again,
//! logins that are counted, and BMCs that hang left aside.

mod breaker;
mod lanes;
mod logins;
mod metrics;

pub use metrics::Metrics;

use super::target::{Target, Version};
use super::{BootDevice, BootFlags, ChassisStatus, Error, Power, Session, Trouble};
use crate::limits;
use breaker::{Breaker, Verdict};
use lanes::Lanes;
use logins::Logins;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// Why a turn on a BMC came to nothing.
#[derive(thiserror::Error, Debug)]
pub enum Refusal {
    /// Too many others wait for this BMC.
    #[error("{} others wait for it already", limits::BMC_WAITING)]
    Crowded,
    /// Its breaker is open.
    #[error("it has not answered {failures} times in a row; it is asked again in {} s", wait.as_secs() + 1)]
    LeftAlone {
        /// Failures in a row.
        failures: u32,
        /// Until it is asked again.
        wait: Duration,
    },
    /// It has refused these credentials too often.
    #[error(
        "it has refused the login {} times; lest it locks the user out it is left alone for another {} s; correct spec.bmc or its Secret (other credentials are tried at once)",
        limits::BMC_LOGINS,
        .0.as_secs() + 1
    )]
    Locked(Duration),
    /// The whole took too long.
    #[error("it did not finish within {} s", limits::EFFECT_TIME.as_secs())]
    Limit,
    /// What the BMC or the way to it says.
    #[error("{0}")]
    Bmc(#[from] Error),
}

/// What is known of a BMC since its last turn.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// Whether it answers; nothing where it was never asked.
    pub reachable: Option<bool>,
    /// Whether it refuses the credentials that there were last.
    pub auth_failed: bool,
    /// The last error in words that do not change from try to try; empty where all is well.
    pub why: String,
}

/// The pool. A handle, cheap to copy.
#[derive(Clone, Default)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    bmcs: Mutex<HashMap<String, Arc<Bmc>>>,
    lanes: Lanes,
    /// Sessions that may be kept open between turns.
    kept: Arc<Semaphore>,
    metrics: Metrics,
}

impl Default for Shared {
    fn default() -> Self {
        let kept = Arc::new(Semaphore::new(limits::BMC_SESSIONS));
        Self { bmcs: Mutex::default(), lanes: Lanes::default(), kept, metrics: Metrics::default() }
    }
}

/// One BMC. Its record's lock is its queue: one conversation at a time, first come first served.
#[derive(Default)]
struct Bmc {
    record: tokio::sync::Mutex<Record>,
    waiting: AtomicUsize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Record {
    session: Option<Kept>,
    breaker: Breaker,
    logins: Logins,
    /// When a power cycle or reset was last sent to it whose outcome is not known.
    cycled: Option<Instant>,
    /// Somebody will close the session when it is not used.
    closer: bool,
}

struct Kept {
    session: Box<dyn Session>,
    credentials: Version,
    used: Instant,
    _permit: OwnedSemaphorePermit,
}

/// A turn on a BMC: its session, for as long as the work takes.
pub struct Turn<'a> {
    session: &'a mut dyn Session,
    cycled: &'a mut Option<Instant>,
}

impl Turn<'_> {
    /// The session, for what only reads.
    pub fn session(&mut self) -> &mut dyn Session {
        self.session
    }

    /// As [`Session::power`]; but after a cycle of which nobody knows whether it was done, a machine that
    /// is on is not cycled again within [`limits::EFFECT_REST`] (F23).
    ///
    /// # Errors
    /// [`Error::JustCycled`], and as [`Session::power`].
    pub async fn power(&mut self, wanted: Power) -> Result<ChassisStatus, Error> {
        if !matches!(wanted, Power::Cycle | Power::Reset) {
            return self.session.power(wanted).await;
        }
        let unclear = self.cycled.map(|at| at.elapsed()).filter(|ago| *ago < limits::EFFECT_REST);
        if let Some(ago) = unclear
            && self.session.status().await?.on
        {
            return Err(Error::JustCycled(ago));
        }
        *self.cycled = Some(Instant::now());
        let done = self.session.power(wanted).await;
        // A refusal is as clear as a success. All else, this turn's sudden end included, is not.
        if done.is_ok() || matches!(done, Err(Error::Completion { .. } | Error::Refused(_) | Error::Unsupported(_))) {
            *self.cycled = None;
        }
        done
    }

    /// As [`Session::set_boot`].
    ///
    /// # Errors
    /// As [`Session::set_boot`].
    pub async fn set_boot(&mut self, device: BootDevice, efi: bool, persistent: bool) -> Result<BootFlags, Error> {
        self.session.set_boot(device, efi, persistent).await
    }
}

impl Pool {
    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What is known of a BMC.
    pub fn known(&self, key: &str) -> Option<Known> {
        let bmc = self.bmcs().get(key).cloned()?;
        let known = bmc.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.reachable.is_some().then_some(known)
    }

    /// Waits for the BMC's turn and does `work` with an open session.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn with<T>(
        &self,
        target: &Target,
        work: impl AsyncFnOnce(&mut Turn<'_>) -> Result<T, Error>,
    ) -> Result<T, Refusal> {
        let bmc = self.bmc(&target.key());
        let turn = async {
            let mut record = bmc.enqueue().await?;
            let begun = Instant::now();
            let done = self.turn(target, &mut record, work).await;
            self.shared.metrics.seconds.observe(begun.elapsed().as_secs_f64());
            self.note(target, &bmc, &mut record, done.as_ref().err());
            self.close_later(&bmc, &mut record);
            done
        };
        // What takes longer is cut off where it stands, inside of `turn`; this bounds the queue as well.
        let done = timeout(limits::EFFECT_TIME * 2, turn).await.unwrap_or(Err(Refusal::Limit));
        let outcome = match &done {
            Ok(_) => "done",
            Err(Refusal::Crowded | Refusal::Limit) => "busy",
            Err(Refusal::LeftAlone { .. } | Refusal::Locked(_)) => "left_alone",
            Err(Refusal::Bmc(e)) => match e.trouble() {
                Trouble::Unreachable => "unreachable",
                Trouble::Login => "login",
                Trouble::NoSession => "busy",
                Trouble::Answered => "refused",
            },
        };
        self.shared.metrics.turns.get_or_create(&metrics::Turn { speaks: target.speaks(), outcome }).inc();
        done
    }

    async fn turn<T>(
        &self,
        target: &Target,
        record: &mut Record,
        work: impl AsyncFnOnce(&mut Turn<'_>) -> Result<T, Error>,
    ) -> Result<T, Refusal> {
        let now = Instant::now();
        let proven = match record.breaker.verdict(now) {
            Verdict::Wait(wait) => {
                return Err(Refusal::LeftAlone { failures: record.breaker.failures(), wait });
            }
            verdict => verdict == Verdict::Ask,
        };
        let whole = async {
            let mut session = self.session(target, record).await?;
            let done = work(&mut Turn { session: &mut *session, cycled: &mut record.cycled }).await;
            match &done {
                // A session that did not answer is of no more use; what was asked is unknown, and nobody repeats it here.
                Err(e) if e.trouble() == Trouble::Unreachable => drop(session),
                _ => self.keep(target, record, session).await,
            }
            done.map_err(Refusal::from)
        };
        let lane = self.shared.lanes.run(proven, whole);
        timeout(limits::EFFECT_TIME, lane).await.unwrap_or(Err(Refusal::Limit))
    }

    /// The session that is open already, where it still answers; else a new one.
    async fn session(&self, target: &Target, record: &mut Record) -> Result<Box<dyn Session>, Refusal> {
        if let Some(mut kept) = record.session.take() {
            self.shared.metrics.sessions.dec();
            let fresh = kept.used.elapsed() < limits::BMC_FRESH;
            if kept.credentials != target.version() {
                kept.session.close().await;
            } else if fresh || matches!(timeout(limits::BMC_PING, kept.session.status()).await, Ok(Ok(_))) {
                return Ok(kept.session);
            }
            // Else the BMC has forgotten it (a restart, its own idle time): there is nothing to close.
        }
        let mut pause = limits::BMC_NO_SESSION_PAUSE;
        loop {
            if let Some(wait) = record.logins.wait(target.version(), Instant::now()) {
                return Err(Refusal::Locked(wait));
            }
            let opened = timeout(limits::BMC_LOGIN_TIME, target.open()).await.unwrap_or(Err(Error::Limit));
            match opened {
                Ok(session) => {
                    record.logins.taken();
                    self.shared.metrics.logins.inc();
                    return Ok(session);
                }
                // Others' sessions end: worth waiting for, a few times.
                Err(e) if e.trouble() == Trouble::NoSession && pause < limits::BMC_NO_SESSION_PAUSE * 8 => {
                    sleep(pause + Duration::from_millis(random() % 500)).await;
                    pause *= 2;
                }
                Err(e) => {
                    if e.trouble() == Trouble::Login {
                        record.logins.refused(target.version(), Instant::now());
                    }
                    return Err(e.into());
                }
            }
        }
    }

    async fn keep(&self, target: &Target, record: &mut Record, session: Box<dyn Session>) {
        match self.shared.kept.clone().try_acquire_owned() {
            Ok(permit) => {
                self.shared.metrics.sessions.inc();
                let credentials = target.version();
                record.session = Some(Kept { session, credentials, used: Instant::now(), _permit: permit });
            }
            Err(_) => session.close().await,
        }
    }

    /// Writes down how a turn ended.
    fn note(&self, target: &Target, bmc: &Bmc, record: &mut Record, error: Option<&Refusal>) {
        let trouble = match error {
            None => None,
            Some(Refusal::Bmc(e)) => Some(e.trouble()),
            Some(Refusal::Limit) => Some(Trouble::Unreachable),
            // It was not asked: nothing new is known.
            Some(Refusal::Crowded | Refusal::LeftAlone { .. } | Refusal::Locked(_)) => return,
        };
        let was_open = record.breaker.is_open();
        match trouble {
            Some(Trouble::Unreachable) => record.breaker.failed(Instant::now(), random()),
            _ => record.breaker.answered(),
        }
        match (was_open, record.breaker.is_open()) {
            (false, true) => {
                tracing::warn!(bmc = %target, failures = record.breaker.failures(), "a BMC does not answer and is left alone for a while");
                self.shared.metrics.open.inc();
            }
            (true, false) => {
                tracing::info!(bmc = %target, "a BMC answers again");
                self.shared.metrics.open.dec();
            }
            _ => {}
        }
        let mut known = bmc.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.reachable = Some(trouble != Some(Trouble::Unreachable));
        if trouble != Some(Trouble::Unreachable) {
            known.auth_failed = trouble == Some(Trouble::Login);
        }
        known.why = match (trouble, error) {
            (Some(Trouble::Unreachable | Trouble::Login | Trouble::NoSession), Some(e)) => e.to_string(),
            _ => String::new(),
        };
    }

    /// Sees to it that a session which is not used again is given back.
    fn close_later(&self, bmc: &Arc<Bmc>, record: &mut Record) {
        if record.session.is_none() || std::mem::replace(&mut record.closer, true) {
            return;
        }
        let (bmc, shared) = (bmc.clone(), self.shared.clone());
        tokio::spawn(async move {
            let mut wait = limits::BMC_IDLE;
            loop {
                sleep(wait).await;
                let mut record = bmc.record.lock().await;
                let idle = record.session.as_ref().map_or(limits::BMC_IDLE, |kept| kept.used.elapsed());
                if idle >= limits::BMC_IDLE {
                    record.closer = false;
                    if let Some(kept) = record.session.take() {
                        shared.metrics.sessions.dec();
                        kept.session.close().await;
                    }
                    return;
                }
                wait = limits::BMC_IDLE - idle;
            }
        });
    }

    /// Gives all sessions back, as far as that goes within [`limits::BMC_CLOSE_TIME`].
    pub async fn close(&self) {
        let all: Vec<_> = self.bmcs().values().cloned().collect();
        let closing = all.into_iter().map(|bmc| async move {
            if let Ok(mut record) = bmc.record.try_lock()
                && let Some(kept) = record.session.take()
            {
                self.shared.metrics.sessions.dec();
                kept.session.close().await;
            }
        });
        let _ = timeout(limits::BMC_CLOSE_TIME, futures_util::future::join_all(closing)).await;
    }

    fn bmc(&self, key: &str) -> Arc<Bmc> {
        let mut bmcs = self.bmcs();
        if bmcs.len() >= limits::MACHINES && !bmcs.contains_key(key) {
            // Only those that nobody uses, and that have nothing to remember.
            bmcs.retain(|_, bmc| Arc::strong_count(bmc) > 1 || bmc.record.try_lock().is_ok_and(|r| r.matters()));
        }
        bmcs.entry(key.to_owned()).or_default().clone()
    }

    fn bmcs(&self) -> MutexGuard<'_, HashMap<String, Arc<Bmc>>> {
        self.shared.bmcs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bmc {
    async fn enqueue(&self) -> Result<tokio::sync::MutexGuard<'_, Record>, Refusal> {
        struct Place<'a>(&'a AtomicUsize);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _place = Place(&self.waiting);
        if before >= limits::BMC_WAITING {
            return Err(Refusal::Crowded);
        }
        Ok(self.record.lock().await)
    }
}

impl Record {
    fn matters(&self) -> bool {
        let cycled = self.cycled.is_some_and(|at| at.elapsed() < limits::EFFECT_REST);
        self.session.is_some() || self.breaker.is_open() || !self.logins.is_empty() || cycled
    }
}

/// A number that need not be unguessable.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes BMCs are asked at the same moment: no more than unkind.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
