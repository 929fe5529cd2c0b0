//! The work behind environments: one task an asset, that fetches, checks,
//! publishes, rests, and fetches again when told.

use super::fetch::{self, Fetched};
use super::{Asset, Bundle, Environments, declared, lock, served};
use crate::api::types::AssetState;
use crate::config::AssetSource;
use crate::limits;
use crate::objects::follow::follow;
use crate::observe::now_ms;
use crate::publish::Stored;
use crate::resource::Kind;
use crate::store::StoreError;
use protocol::manifest::ObjectId;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What was fetched, by source: found again after a restart.
const ASSETS: TableDefinition<&str, &[u8]> = TableDefinition::new("assets");

/// A row of [`ASSETS`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Row {
    sha256: ObjectId,
    length: u64,
    /// ETag or Last-Modified of the server, or size and time of a local file.
    #[serde(default)]
    validator: Option<String>,
}

impl Environments {
    /// Publishes the bundle in `folder`; on failure what was published before stays.
    ///
    /// # Errors
    /// What is wrong with the bundle.
    pub async fn publish_bundle(self: &Arc<Self>, folder: &Path) -> Result<(), super::BadBundle> {
        let (this, folder) = (self.clone(), folder.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let bundle = Bundle::load(&folder, this.publisher.objects())?;
            this.publisher.set("bundle", bundle.names.clone())?;
            this.publisher.disown(|name| !super::is_environments(name))?;
            tracing::info!(version = bundle.version, files = bundle.names.len(), "bundle published");
            *lock(&this.bundle) = Some(bundle);
            Ok(())
        });
        work.await.unwrap_or_else(|e| Err(super::BadBundle::Unreadable("bundle".into(), e.to_string())))
    }

    /// Follows the declared environments, fetches what is missing and keeps it. Ends with `stop`.
    pub async fn run<O: crate::objects::Objects>(self: Arc<Self>, objects: O, stop: CancellationToken) {
        let this = self.clone();
        let recalled = tokio::task::spawn_blocking(move || {
            this.purge();
            served::recall(&this.store, |stored| this.is_whole(stored))
        });
        lock(&self.inner).served = recalled.await.unwrap_or_default();
        let mut tasks = JoinSet::new();
        self.sync(&mut tasks, &stop);
        self.settle();
        let (tell, mut news) = mpsc::channel(limits::FOLLOW_QUEUE);
        tasks.spawn(follow(objects.clone(), Kind::Environment, tell, stop.clone()));
        tasks.spawn(declared::write(self.clone(), objects, stop.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next() => {}
                heard = news.recv() => {
                    let Some(heard) = heard else { break };
                    self.hear(heard);
                    self.sync(&mut tasks, &stop);
                    self.settle();
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// One task for each file that is wanted; those of files that are not wanted any more end.
    fn sync(self: &Arc<Self>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let mut guard = lock(&self.inner);
        let wanted: BTreeSet<AssetSource> = self.all(&guard).flat_map(|(_, w)| w.sources()).cloned().collect();
        for (_, asset) in guard.assets.iter().filter(|(source, _)| !wanted.contains(*source)) {
            asset.left.cancel();
        }
        for source in wanted {
            match guard.assets.get_mut(&source) {
                // Its task has not noticed yet that it was not wanted for a while.
                Some(asset) if asset.left.is_cancelled() => asset.left = CancellationToken::new(),
                Some(_) => {}
                None => {
                    let asset = Asset {
                        state: AssetState::Pending,
                        stored: None,
                        looked: false,
                        again: Arc::default(),
                        left: CancellationToken::new(),
                    };
                    guard.assets.insert(source.clone(), asset);
                    tasks.spawn(keep(self.clone(), source, stop.clone()));
                }
            }
        }
    }

    /// Whether an object is on disk as it should be. Read once; after that it is in the manifest, and
    /// the edge looks at it.
    fn is_whole(&self, stored: Stored) -> bool {
        // One at a time: two readers would only make the disk seek.
        let mut whole = lock(&self.whole);
        let good = whole.contains(&stored.object) || self.publisher.objects().verify(stored);
        if good {
            whole.insert(stored.object);
        }
        good
    }

    /// Takes away what was begun for environments that are gone.
    fn purge(&self) {
        let parts: BTreeSet<_> = {
            let inner = lock(&self.inner);
            let paths = self.all(&inner).flat_map(|(_, w)| w.sources()).map(|source| self.fetcher.part(source));
            paths.collect()
        };
        let Ok(files) = std::fs::read_dir(self.publisher.objects().incoming()) else { return };
        for path in files.flatten().map(|file| file.path()) {
            let ours = path.extension().is_some_and(|e| e == "part" || e == "etag");
            if ours && !parts.contains(&path.with_extension("part")) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Nobody wants it any more: what was begun is thrown away, and the record of it.
    async fn forget(&self, source: &AssetSource) {
        self.fetcher.discard(source);
        let key = key(source);
        let forgotten = self.store.write(move |txn| {
            txn.open_table(ASSETS)?.remove(key.as_str())?;
            Ok(())
        });
        if let Err(e) = forgotten.await {
            tracing::warn!(url = source.url, error = %e, "the record of an asset that nobody wants is left behind");
        }
    }
}

/// The task of one file.
async fn keep(all: Arc<Environments>, source: AssetSource, stop: CancellationToken) {
    loop {
        let asset = |a: &Asset| (a.left.clone(), a.again.clone());
        let Some((left, again)) = lock(&all.inner).assets.get(&source).map(asset) else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            () = left.cancelled() => {}
            () = hold(&all, &source, &again) => {}
        }
        all.forget(&source).await;
        let mut inner = lock(&all.inner);
        match inner.assets.get_mut(&source) {
            Some(asset) if !asset.left.is_cancelled() => {
                // Wanted again since.
                (asset.state, asset.stored, asset.looked) = (AssetState::Pending, None, false);
            }
            _ => {
                inner.assets.remove(&source);
                return;
            }
        }
    }
}

/// Fetches a file and keeps it, without end.
async fn hold(all: &Arc<Environments>, source: &AssetSource, again: &Notify) {
    let mut row = recall(all, source).await;
    all.change(source, |a| a.looked = true);
    if let Some(row) = &row {
        ready(all, source, row);
    }
    // A digest that was asked for, and that what lies there has, needs no look at the source.
    let mut wait = row.is_some() && source.digest.is_some();
    let mut rest = limits::FETCH_REST;
    loop {
        if wait {
            again.notified().await;
        }
        let fetched = {
            let _place = all.room.acquire().await;
            fetch(all, source, row.as_ref(), rest).await
        };
        match fetched {
            Ok(new) => {
                if row.as_ref() != Some(&new)
                    && let Err(e) = remember(all, source, &new).await
                {
                    tracing::warn!(url = source.url, error = %e, "a fetched asset is not remembered; it is fetched again after a restart");
                }
                ready(all, source, &new);
                row = Some(new);
                (wait, rest) = (true, limits::FETCH_REST);
            }
            Err(pause) => {
                wait = false;
                let woken = tokio::time::timeout(pause, again.notified()).await.is_ok();
                rest = if woken { limits::FETCH_REST } else { (rest * 2).min(limits::FETCH_REST_MAX) };
            }
        }
    }
}

/// Up to [`limits::FETCH_TRIES`] tries; after them the time to rest.
async fn fetch(all: &Environments, source: &AssetSource, have: Option<&Row>, long: Duration) -> Result<Row, Duration> {
    let mut pause = limits::FETCH_PAUSE;
    for attempt in 1..=limits::FETCH_TRIES {
        let progress = |bytes, total| {
            all.change(source, |a| a.state = AssetState::Fetching { bytes, total, attempt });
        };
        progress(0, source.size);
        let known = have.and_then(|r| r.validator.as_deref());
        let why = match all.fetcher.fetch(source, known, &progress).await {
            Ok(Fetched::Same) => match have {
                Some(row) => return Ok(row.clone()),
                None => {
                    fetch::Failure::transient("the server says 'not modified' of a file that was never fetched".into())
                }
            },
            Ok(Fetched::New { stored, validator }) => {
                return Ok(Row { sha256: stored.object, length: stored.length, validator });
            }
            Err(why) => why,
        };
        let last = attempt == limits::FETCH_TRIES || why.hopeless;
        let rest = jitter(if last { long } else { pause });
        tracing::warn!(url = source.url, attempt, retry_s = rest.as_secs(), error = %why.text, "an asset was not fetched");
        let retry_ms = now_ms() + u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        all.change(source, |a| a.state = AssetState::Failed { why: why.text.clone(), attempts: attempt, retry_ms });
        if last {
            return Err(rest);
        }
        tokio::time::sleep(rest).await;
        pause = (pause * 2).min(limits::FETCH_PAUSE_MAX);
    }
    Err(jitter(long))
}

/// Half to one and a half times as long, so that many that failed together do not come back together.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0; 2];
    if getrandom::fill(&mut random).is_err() {
        return pause;
    }
    pause.mul_f64(0.5 + f64::from(u16::from_ne_bytes(random)) / 65_536.0)
}

fn ready(all: &Environments, source: &AssetSource, row: &Row) {
    let stored = Stored { object: row.sha256, length: row.length };
    all.change(source, |a| {
        a.state = AssetState::Ready { sha256: row.sha256.to_string(), bytes: row.length };
        a.stored = Some(stored);
    });
    all.settle();
}

/// What was fetched before, checked against the disk and the configuration.
async fn recall(all: &Arc<Environments>, source: &AssetSource) -> Option<Row> {
    let (all, source) = (all.clone(), source.clone());
    let work = tokio::task::spawn_blocking(move || {
        let txn = all.store.read().ok()?;
        let bytes = txn.open_table(ASSETS).ok()?.get(key(&source).as_str()).ok()??.value().to_vec();
        let row: Row = serde_json::from_slice(&bytes).ok()?;
        let stored = Stored { object: row.sha256, length: row.length };
        if all.is_whole(stored) {
            return Some(row);
        }
        tracing::warn!(url = source.url, object = %row.sha256, "a fetched asset is missing or damaged on disk; it is fetched again");
        all.publisher.objects().remove(row.sha256);
        None
    });
    work.await.ok().flatten()
}

async fn remember(all: &Environments, source: &AssetSource, row: &Row) -> Result<(), StoreError> {
    let (key, bytes) = (key(source), serde_json::to_vec(row).unwrap_or_default());
    all.store
        .write(move |txn| {
            txn.open_table(ASSETS)?.insert(key.as_str(), bytes.as_slice())?;
            Ok(())
        })
        .await
}

/// A changed digest or size in the configuration is another asset.
fn key(source: &AssetSource) -> String {
    let digest = source.digest.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = format!("{} {digest} {:?}", source.url, source.size);
    ObjectId(Sha256::digest(text.as_bytes()).into()).to_string()
}
