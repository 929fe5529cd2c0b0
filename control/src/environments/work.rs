//! The work behind environments: one task an asset, that fetches, checks,
//! publishes, rests, and fetches again when told.

use super::fetch::{self, Fetched, Fetcher};
use super::{Bundle, Environments, lock};
use crate::api::types::AssetState;
use crate::config::AssetSource;
use crate::limits;
use crate::observe::now_ms;
use crate::publish::Stored;
use crate::store::StoreError;
use protocol::manifest::ObjectId;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
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
            tracing::info!(version = bundle.version, files = bundle.names.len(), "bundle published");
            *lock(&this.bundle) = Some(bundle);
            Ok(())
        });
        work.await.unwrap_or_else(|e| Err(super::BadBundle::Unreadable("bundle".into(), e.to_string())))
    }

    /// Fetches what is missing and keeps it. Ends with `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(limits::FETCHES));
        let sources: Vec<AssetSource> = lock(&self.assets).keys().cloned().collect();
        let fetcher = Arc::new(Fetcher::new(self.publisher.objects().clone()));
        let tasks: Vec<_> = sources
            .into_iter()
            .map(|source| tokio::spawn(keep(self.clone(), source, fetcher.clone(), room.clone(), stop.clone())))
            .collect();
        self.publish();
        for task in tasks {
            let _ = task.await;
        }
    }
}

async fn keep(
    all: Arc<Environments>,
    source: AssetSource,
    fetcher: Arc<Fetcher>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let Some(again) = lock(&all.assets).get(&source).map(|a| a.again.clone()) else { return };
    let mut row = recall(&all, &source).await;
    if let Some(row) = &row {
        ready(&all, &source, row);
    }
    // A digest in the configuration that matches what lies there needs no look at the source.
    let mut wait = row.is_some() && source.digest.is_some();
    loop {
        if wait {
            tokio::select! { () = stop.cancelled() => return, () = again.notified() => {} }
        }
        let work = async {
            let _place = room.acquire().await;
            fetch(&all, &source, &fetcher, row.as_ref()).await
        };
        let fetched = tokio::select! { () = stop.cancelled() => return, fetched = work => fetched };
        match fetched {
            Ok(new) => {
                if row.as_ref() != Some(&new)
                    && let Err(e) = remember(&all, &source, &new).await
                {
                    tracing::warn!(url = source.url, error = %e, "a fetched asset is not remembered; it is fetched again after a restart");
                }
                ready(&all, &source, &new);
                row = Some(new);
                wait = true;
            }
            Err(rest) => {
                wait = false;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = again.notified() => {}
                    () = tokio::time::sleep(rest) => {}
                }
            }
        }
    }
}

/// Up to [`limits::FETCH_TRIES`] tries; after them the time to rest.
async fn fetch(
    all: &Environments,
    source: &AssetSource,
    fetcher: &Fetcher,
    have: Option<&Row>,
) -> Result<Row, Duration> {
    let mut pause = limits::FETCH_PAUSE;
    for attempt in 1..=limits::FETCH_TRIES {
        let progress = |bytes, total| {
            all.set(source, |a| a.state = AssetState::Fetching { bytes, total, attempt });
        };
        progress(0, source.size);
        let known = have.and_then(|r| r.validator.as_deref());
        let why = match fetcher.fetch(source, known, &progress).await {
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
        let rest = jitter(if last { limits::FETCH_REST } else { pause });
        tracing::warn!(url = source.url, attempt, retry_s = rest.as_secs(), error = %why.text, "an asset was not fetched");
        let retry_ms = now_ms() + u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        all.set(source, |a| a.state = AssetState::Failed { why: why.text.clone(), attempts: attempt, retry_ms });
        if last {
            return Err(rest);
        }
        tokio::time::sleep(rest).await;
        pause = (pause * 2).min(limits::FETCH_PAUSE_MAX);
    }
    Err(jitter(limits::FETCH_REST))
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
    all.set(source, |a| {
        a.state = AssetState::Ready { sha256: row.sha256.to_string(), bytes: row.length };
        a.stored = Some(stored);
    });
    all.publish();
}

/// What was fetched before, checked against the disk and the configuration.
async fn recall(all: &Arc<Environments>, source: &AssetSource) -> Option<Row> {
    let (all, source) = (all.clone(), source.clone());
    let work = tokio::task::spawn_blocking(move || {
        let txn = all.store.read().ok()?;
        let bytes = txn.open_table(ASSETS).ok()?.get(key(&source).as_str()).ok()??.value().to_vec();
        let row: Row = serde_json::from_slice(&bytes).ok()?;
        let stored = Stored { object: row.sha256, length: row.length };
        if all.publisher.objects().verify(stored) {
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
