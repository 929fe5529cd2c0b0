//! Keeps the index up to date, writes the statuses of ServerClasses, and
//! sweeps up what an allocation that died has left.

use super::index::ANY;
use super::{Allocation, Index};
use crate::leader::Leading;
use crate::limits;
use crate::objects::follow::{News, follow as follow_kind};
use crate::objects::{Error, Objects, Preconditions};
use crate::resource::{Kind, Object, Server, ServerBinding, ServerClass, ServerClassSpec, Typed, marks};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`. The index is for every control; what is written and swept, only for the one that leads.
pub async fn follow<O: Objects>(allocation: Arc<Allocation<O>>, leading: Leading, stop: CancellationToken) {
    let (tell, mut news) = mpsc::channel(limits::FOLLOW_QUEUE);
    for kind in [Kind::ServerClass, Kind::Server, Kind::ServerBinding] {
        tokio::spawn(follow_kind(allocation.objects.clone(), kind, tell.clone(), stop.clone()));
    }
    drop(tell);
    let mut known: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut claims = Claims::default();
    let mut sweep = tokio::time::interval(limits::ALLOCATION_SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut write: Option<tokio::time::Instant> = None;
    loop {
        let due = write;
        tokio::select! {
            () = stop.cancelled() => return,
            heard = news.recv() => {
                let Some(heard) = heard else { return };
                hear(&mut allocation.index(), &mut known, heard);
                // Many changes at once (a rack that reports) become one write for each class.
                write.get_or_insert_with(|| tokio::time::Instant::now() + limits::CLASS_STATUS_PAUSE);
            }
            () = async { tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)).await }, if due.is_some() => {
                write = None;
                // Who does not lead keeps in mind what has changed, for when it does.
                if !leading.now() || !allocation.write_statuses().await {
                    write = Some(tokio::time::Instant::now() + limits::FOLLOW_PAUSE * 5);
                }
            }
            _ = sweep.tick(), if leading.now() => {
                let old = claims.old(allocation.index().claims(), Instant::now());
                allocation.sweep(&old).await;
            }
        }
    }
}

/// Takes news into the index.
fn hear(index: &mut Index, known: &mut BTreeMap<Kind, BTreeSet<String>>, news: News) {
    match news {
        News::Applied(object) => {
            known.entry(object.kind).or_default().insert(object.metadata.name.clone());
            apply(index, &object);
        }
        News::Deleted(object) => {
            known.entry(object.kind).or_default().remove(&object.metadata.name);
            remove(index, object.kind, &object.metadata.name);
        }
        News::All(kind, objects) => {
            let now: BTreeSet<String> = objects.iter().map(|o| o.metadata.name.clone()).collect();
            let before = known.insert(kind, now.clone()).unwrap_or_default();
            for gone in before.difference(&now) {
                remove(index, kind, gone);
            }
            for object in &objects {
                apply(index, object);
            }
        }
    }
}

fn apply(index: &mut Index, object: &Object) {
    let name = &object.metadata.name;
    let bad = match object.kind {
        Kind::Server => Server::from_object(object).map(|s| index.server(s)),
        Kind::ServerClass => ServerClass::from_object(object).map(|c| index.class(name, c.spec)),
        Kind::ServerBinding => {
            index.bound(name, true);
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(e) = bad {
        // Written by another version of stoker: it is not given to anybody.
        tracing::warn!(error = %e, "an object cannot be read and is left out of allocation");
        remove(index, object.kind, name);
    }
}

fn remove(index: &mut Index, kind: Kind, name: &str) {
    match kind {
        Kind::Server => index.server_gone(name),
        Kind::ServerClass => index.class_gone(name),
        Kind::ServerBinding => index.bound(name, false),
        _ => {}
    }
}

/// Since when each claim has been seen, by this process' own clock: clocks of others may be apart.
#[derive(Default)]
pub(super) struct Claims(BTreeMap<(String, String), Instant>);

impl Claims {
    /// The claims that are older than [`limits::CLAIM_AGE`].
    pub(super) fn old(&mut self, now: Vec<(String, String)>, at: Instant) -> Vec<(String, String)> {
        let before = std::mem::take(&mut self.0);
        self.0 = now.into_iter().map(|c| (before.get(&c).copied().unwrap_or(at), c)).map(|(t, c)| (c, t)).collect();
        let old = self.0.iter().filter(|(_, since)| at.saturating_duration_since(**since) >= limits::CLAIM_AGE);
        old.map(|(claim, _)| claim.clone()).collect()
    }
}

impl<O: Objects> Allocation<O> {
    /// Writes the statuses that have changed; whether all could be written.
    pub(super) async fn write_statuses(&self) -> bool {
        let mut all = true;
        let dirty = self.index().take_dirty();
        for class in dirty {
            if let Err(e) = self.write_status(&class).await {
                if !matches!(e, Error::Conflict { .. }) {
                    tracing::warn!(class, error = %e, "the status of a ServerClass was not written; trying again");
                }
                self.index().mark(&class);
                all = false;
            }
        }
        all
    }

    async fn write_status(&self, class: &str) -> Result<(), Error> {
        let Some(status) = self.index().status(class) else { return Ok(()) };
        let mut object = match self.objects.get(Kind::ServerClass, "", class).await {
            Ok(object) => object,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        object.status = serde_json::to_value(status).unwrap_or_default();
        self.objects.replace_status(object).await.map(|_| ())
    }

    /// Ends `old` claims that have no binding, and takes away configurations whose allocation is gone.
    pub(super) async fn sweep(&self, old: &[(String, String)]) {
        for (server, claim) in old {
            let Ok(object) = self.objects.get(Kind::Server, "", server).await else { continue };
            if object.metadata.annotations.get(marks::CLAIMED_BY) == Some(claim) {
                tracing::warn!(server, "a claim on a machine was left behind and is ended");
                self.unclaim(object).await;
            }
        }
        if let Err(e) = self.sweep_secrets().await {
            tracing::warn!(error = %e, "left-over configurations were not looked for");
        }
    }

    async fn sweep_secrets(&self) -> Result<(), Error> {
        // Nothing that is being made now may be taken for a left-over.
        let _turn = self.turn.lock().await;
        let secrets = self.objects.list(Kind::Secret).await?.objects;
        let bindings = self.objects.list(Kind::ServerBinding).await?.objects;
        // By what the bindings name, not by labels: those are anybody's to change.
        let refs = bindings.iter().filter_map(|b| ServerBinding::from_object(b).ok()?.spec.data_secret_ref);
        let held: BTreeSet<(String, String)> = refs.map(|r| (r.namespace, r.name)).collect();
        for secret in secrets {
            let Some(allocation) = secret.metadata.labels.get(marks::ALLOCATION) else { continue };
            let meta = &secret.metadata;
            if held.contains(&(meta.namespace.clone(), meta.name.clone())) {
                continue;
            }
            let only =
                Preconditions { uid: Some(meta.uid.clone()), resource_version: Some(meta.resource_version.clone()) };
            match self.objects.delete(Kind::Secret, &meta.namespace, &meta.name, only).await {
                Ok(()) => tracing::info!(allocation, "the configuration of an allocation that has ended is deleted"),
                Err(Error::NotFound(_) | Error::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Makes the class that has every machine, where it is missing (as Sidero does).
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn ensure_any(&self) -> Result<(), Error> {
        let class = ServerClass {
            metadata: crate::resource::Meta { name: ANY.to_owned(), ..Default::default() },
            spec: ServerClassSpec::default(),
            status: Default::default(),
        };
        match self.objects.create(class.to_object()).await {
            Ok(_) | Err(Error::Exists(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
