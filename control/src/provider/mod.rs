//! The infrastructure provider of Cluster API: acts on what [`crate::plan::provider`] decides.
//!
//! ```text
//! MetalCluster, MetalMachine, MetalRemediation   \
//! Cluster, Machine (read)                         > index -> queue -> reconcile -> status, claim, release
//! Server, ServerBinding                          /
//! ```
//!
//! Level-triggered: every object that changes wakes those that stand on it, and
//! each is decided on what is in the store then. Nothing is polled; only a
//! machine that waits for a free Server is looked at again when Servers have
//! changed. It writes Metal objects, makes and deletes ServerBindings, and
//! never touches a machine: that is [`crate::lifecycle`]'s.

mod index;
mod machine;
mod others;

#[cfg(test)]
mod tests;

use crate::allocation::Allocation;
use crate::limits;
use crate::objects::follow::{News, follow};
use crate::objects::{Error, Objects};
use crate::observe::now_ms;
use crate::resource::capi::WATCH_FILTER;
use crate::resource::{Kind, Meta};
use index::{Index, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The kinds that it follows.
const FOLLOWED: [Kind; 9] = [
    Kind::ServerBinding,
    Kind::Server,
    Kind::ServerClass,
    Kind::Cluster,
    Kind::Machine,
    Kind::MetalCluster,
    Kind::MetalMachine,
    Kind::MetalMachineTemplate,
    Kind::MetalRemediation,
];

/// What of a cluster's objects this installation looks after.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// Only this namespace; all where there is none.
    pub namespace: Option<String>,
    /// Only objects whose label `cluster.x-k8s.io/watch-filter` has this value.
    pub watch_filter: Option<String>,
}

impl Scope {
    /// Whether an object is in it.
    pub fn has(&self, meta: &Meta) -> bool {
        let namespace = self.namespace.as_ref().is_none_or(|n| *n == meta.namespace);
        let filter = self.watch_filter.as_ref().is_none_or(|f| meta.labels.get(WATCH_FILTER) == Some(f));
        namespace && filter
    }
}

/// The provider. A handle, cheap to copy.
pub struct Provider<O: Objects> {
    inner: Arc<Inner<O>>,
}

impl<O: Objects> Clone for Provider<O> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<O: Objects> {
    objects: O,
    allocation: Arc<Allocation<O>>,
    scope: Scope,
    index: Mutex<Index>,
    /// Why the last claim for a MetalMachine did not work.
    refused: Mutex<BTreeMap<Key, String>>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// What is to be looked at, and when.
#[derive(Default)]
struct Queue {
    now: BTreeSet<Key>,
    later: BTreeMap<Key, u64>,
}

impl<O: Objects> Provider<O> {
    /// Does nothing before [`Provider::run`].
    pub fn new(objects: O, allocation: Arc<Allocation<O>>, scope: Scope) -> Self {
        let inner = Inner {
            objects,
            allocation,
            scope,
            index: Mutex::default(),
            refused: Mutex::default(),
            clock: Box::new(now_ms),
        };
        Self { inner: Arc::new(inner) }
    }

    fn now(&self) -> u64 {
        (self.inner.clock)()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lives until `stop`. In a cluster without Cluster API it waits until that is installed.
    pub async fn run(self, stop: CancellationToken) {
        if !self.cluster_api_is_there(&stop).await {
            return;
        }
        let (tell, mut news) = mpsc::channel(limits::FOLLOW_QUEUE);
        for kind in FOLLOWED {
            tokio::spawn(follow(self.inner.objects.clone(), kind, tell.clone(), stop.clone()));
        }
        drop(tell);
        let mut queue = Queue::default();
        let mut missing: BTreeSet<Kind> = FOLLOWED.into();
        let mut servers_changed = false;
        let mut waiting = tokio::time::interval(limits::PROVIDER_CLAIM_PAUSE);
        waiting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Nothing is decided before everything has been listed once: a claim that is not seen yet would be
            // made again.
            let next = if missing.is_empty() { queue.next(self.now()) } else { Next::Wait(limits::SNAPSHOT_EVERY) };
            let wait = match next {
                Next::Key(key) => {
                    self.look(&key, &mut queue).await;
                    while let Ok(heard) = news.try_recv() {
                        self.hear(heard, &mut queue, &mut missing, &mut servers_changed);
                    }
                    tokio::task::yield_now().await;
                    if stop.is_cancelled() {
                        return;
                    }
                    continue;
                }
                Next::Wait(wait) => wait,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                _ = waiting.tick(), if servers_changed => {
                    servers_changed = false;
                    queue.now.extend(self.refused().keys().cloned());
                }
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard, &mut queue, &mut missing, &mut servers_changed),
                    None => return,
                },
            }
        }
    }

    /// Whether there is something to look after, before `stop`.
    async fn cluster_api_is_there(&self, stop: &CancellationToken) -> bool {
        let mut told = false;
        loop {
            let found = tokio::select! {
                () = stop.cancelled() => return false,
                found = self.inner.objects.list(Kind::Cluster) => found,
            };
            match found {
                Err(Error::Unknown(..)) if !told => {
                    told = true;
                    tracing::info!("this cluster has no Cluster API: its objects are not looked after");
                }
                Err(Error::Unknown(..)) => {}
                // What else is wrong is told by those who follow.
                _ => return true,
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(limits::PROVIDER_LOOK) => {}
            }
        }
    }

    fn hear(&self, news: News, queue: &mut Queue, missing: &mut BTreeSet<Kind>, servers_changed: &mut bool) {
        let kind = match &news {
            News::All(kind, _) => {
                missing.remove(kind);
                *kind
            }
            News::Applied(object) | News::Deleted(object) => object.kind,
        };
        *servers_changed |= matches!(kind, Kind::Server | Kind::ServerBinding);
        queue.now.extend(self.index().hear(news));
    }

    async fn look(&self, key: &Key, queue: &mut Queue) {
        match self.reconcile(key).await {
            Ok(None) => {}
            Ok(Some(at)) => queue.at(key, at),
            Err(e) => {
                tracing::warn!(object = %key, error = %e, "an object of Cluster API could not be looked after; trying again");
                let pause = u64::try_from(limits::RECONCILE_PAUSE.as_millis()).unwrap_or(2000);
                queue.at(key, self.now() + pause);
            }
        }
    }

    /// Looks after one object; returns when it is to be looked at again, if nothing else happens.
    ///
    /// # Errors
    /// Where the store fails. What was written stands; the next call goes on from there.
    async fn reconcile(&self, key: &Key) -> Result<Option<u64>, Error> {
        for _ in 0..limits::RECONCILE_ROUNDS {
            let round = match key.kind {
                Kind::MetalMachine => self.machine(key).await,
                Kind::MetalCluster => self.cluster(key).await,
                Kind::MetalMachineTemplate => self.template(key).await,
                Kind::MetalRemediation => self.remediation(key).await,
                _ => return Ok(None),
            };
            match round {
                Ok(Round::Again) => {}
                Ok(Round::Rest(at)) => return Ok(at),
                // Somebody else has written: decide again on what is there now.
                Err(Error::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Store("it does not settle".to_owned()))
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a look at an object ended.
enum Round {
    /// Something was done: decide again.
    Again,
    /// Nothing more follows before this time, if there is one.
    Rest(Option<u64>),
}

enum Next {
    Key(Key),
    Wait(Duration),
}

impl Queue {
    fn next(&mut self, now: u64) -> Next {
        if let Some(key) = self.now.pop_first() {
            self.later.remove(&key);
            return Next::Key(key);
        }
        let first = self.later.iter().min_by_key(|(_, at)| **at).map(|(key, at)| (key.clone(), *at));
        match first {
            Some((key, at)) if at <= now => {
                self.later.remove(&key);
                Next::Key(key)
            }
            Some((_, at)) => Next::Wait(Duration::from_millis(at - now).min(limits::SNAPSHOT_EVERY)),
            None => Next::Wait(limits::SNAPSHOT_EVERY),
        }
    }

    fn at(&mut self, key: &Key, at: u64) {
        let due = self.later.get(key).map_or(at, |old| at.min(*old));
        self.later.insert(key.clone(), due);
    }
}
