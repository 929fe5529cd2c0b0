//! The life of machines, acted out: what [`crate::plan::server`] decides is
//! written down, then done.
//!
//! ```text
//! agent, scripts, reports, BMCs -> board (what is seen)   \
//! objects (what is declared and recorded) ----------------> reconcile -> status -> effect
//! ```
//!
//! The only writer of a Server's status. Every write is over the version that
//! was decided on, so two processes cannot both act on one decision.

mod agent;
mod bmc;
mod board;
mod hands;
mod installs;
mod reconcile;
mod record;

#[cfg(test)]
mod bmc_tests;
#[cfg(test)]
mod goals;
#[cfg(test)]
mod tests;

pub use agent::Goal;
pub use hands::{BmcHands, Hands};
pub use installs::{DEFAULT_ENVIRONMENT, Installs, ServedEnvironments, Wanted};
pub use reconcile::efi;
pub use record::{Signer, holds};

use crate::inventory::Inventory;
use crate::limits;
use crate::objects::Objects;
use crate::objects::follow::{News, follow};
use crate::observe::{Observer, now_ms};
use crate::resource::{Kind, Server, Typed};
use crate::store::machines::Machines;
use board::Board;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// The life of all machines. A handle, cheap to copy.
pub struct Lifecycle<O: Objects> {
    inner: Arc<Inner<O>>,
}

impl<O: Objects> Clone for Lifecycle<O> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<O: Objects> {
    objects: O,
    machines: Arc<Machines>,
    inventory: Arc<Inventory<O>>,
    hands: Arc<dyn Hands>,
    signer: Signer,
    /// Says what a binding is to be installed from, where the files are ready.
    installs: Box<dyn Installs>,
    board: Mutex<Board>,
    /// Machines whose Environment is not ready.
    waiting: Mutex<BTreeSet<String>>,
    queue: Mutex<Queue>,
    bell: Notify,
    /// Where the story of each machine is told.
    observer: Option<Observer>,
    /// Milliseconds since 1970.
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    /// BMCs that nobody has declared are set up by agents.
    set_up_bmcs: bool,
    /// When wipes were confirmed, within the last minute, and how many may be.
    confirmed: Mutex<VecDeque<u64>>,
    wipes_per_minute: usize,
}

/// Servers to look at: now, and later.
#[derive(Default)]
struct Queue {
    now: BTreeSet<String>,
    later: BTreeMap<String, u64>,
}

impl<O: Objects> Lifecycle<O> {
    /// Puts the parts together; nothing happens before [`Lifecycle::run`].
    pub fn new(
        objects: O,
        machines: Arc<Machines>,
        inventory: Arc<Inventory<O>>,
        hands: Arc<dyn Hands>,
        installs: Box<dyn Installs>,
        signer: Signer,
    ) -> Self {
        let inner = Inner {
            objects,
            machines,
            inventory,
            hands,
            signer,
            installs,
            board: Mutex::default(),
            waiting: Mutex::default(),
            queue: Mutex::default(),
            bell: Notify::new(),
            observer: None,
            clock: Box::new(now_ms),
            set_up_bmcs: true,
            confirmed: Mutex::default(),
            wipes_per_minute: limits::WIPES_PER_MINUTE,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same, telling what it does to machines.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.observer = Some(observer);
        }
        self
    }

    /// The same with another limit of wipes (W12).
    #[must_use]
    pub fn with_wipes_per_minute(mut self, most: usize) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.wipes_per_minute = most;
        }
        self
    }

    /// The same with another clock, which tests turn by hand.
    #[cfg(test)]
    fn with_clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.clock = Box::new(clock);
        }
        self
    }

    fn now(&self) -> u64 {
        (self.inner.clock)()
    }

    /// Lives until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (tell, mut news) = mpsc::channel(limits::FOLLOW_QUEUE);
        for kind in [Kind::Server, Kind::ServerBinding, Kind::Environment] {
            tokio::spawn(follow(self.inner.objects.clone(), kind, tell.clone(), stop.clone()));
        }
        drop(tell);
        loop {
            let (next, due) = self.next();
            if let Some(name) = next {
                self.look(&name).await;
                // Others get their turn between two machines.
                tokio::task::yield_now().await;
                while let Ok(heard) = news.try_recv() {
                    self.hear(heard);
                }
                if stop.is_cancelled() {
                    return;
                }
                continue;
            }
            let wait = due.map_or(limits::SNAPSHOT_EVERY, |at| {
                std::time::Duration::from_millis(at.saturating_sub(self.now()).max(1)).min(limits::SNAPSHOT_EVERY)
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.bell.notified() => {}
                () = tokio::time::sleep(wait) => {}
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => return,
                },
            }
        }
    }

    /// One machine; what fails is tried again.
    async fn look(&self, name: &str) {
        if let Err(e) = self.reconcile(name).await {
            tracing::warn!(server = name, error = %e, "a Server could not be looked after; trying again");
            self.wake_at(name, self.now() + u64::try_from(limits::RECONCILE_PAUSE.as_millis()).unwrap_or(2000));
        }
    }

    /// The next machine to look at, and when the one after it is due.
    fn next(&self) -> (Option<String>, Option<u64>) {
        let mut queue = self.queue();
        if let Some(name) = queue.now.pop_first() {
            queue.later.remove(&name);
            return (Some(name), None);
        }
        let now = self.now();
        let first = queue.later.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at));
        match first {
            Some((name, at)) if at <= now => {
                queue.later.remove(&name);
                (Some(name), None)
            }
            Some((_, at)) => (None, Some(at)),
            None => (None, None),
        }
    }

    fn hear(&self, news: News) {
        let wake = |object: &crate::resource::Object, gone: bool| match object.kind {
            Kind::Server => {
                let identity = Server::from_object(object).ok().and_then(|s| s.spec.identity);
                if self.inner.inventory.declared(&object.metadata.name, identity.filter(|_| !gone)) {
                    // Whoever was taken for another may be told apart now.
                    self.inner.inventory.contested().iter().for_each(|name| self.wake(name));
                }
                self.wake(&object.metadata.name);
            }
            Kind::ServerBinding => self.wake(&object.metadata.name),
            Kind::Environment => {
                let waiting = std::mem::take(&mut *self.waiting());
                waiting.iter().for_each(|name| self.wake(name));
            }
            _ => {}
        };
        match news {
            News::Applied(object) => wake(&object, false),
            News::Deleted(object) => wake(&object, true),
            News::All(_, objects) => objects.iter().for_each(|o| wake(o, false)),
        }
    }

    /// Has a machine looked at soon.
    pub fn wake(&self, name: &str) {
        self.queue().now.insert(name.to_owned());
        self.inner.bell.notify_one();
    }

    fn wake_at(&self, name: &str, at_ms: u64) {
        let mut queue = self.queue();
        let at = queue.later.get(name).map_or(at_ms, |old| at_ms.min(*old));
        queue.later.insert(name.to_owned(), at);
        self.inner.bell.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.inner.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
