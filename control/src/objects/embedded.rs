//! Objects in the embedded store (redb), for one machine without Kubernetes.
//!
//! ```text
//! objects      key            -> the object, JSON
//! object_log   revision       -> the change, JSON    (the last LOG_KEEP)
//! object_meta  "revision"     -> the last revision
//! ```
//!
//! A write checks, writes the object, logs the change and raises the revision
//! in one transaction; watchers are woken after it is on disk and read the log.

use super::rules::{self, Outcome};
use super::{Change, Error, Listed, Objects, Preconditions, Revision, Watch};
use crate::observe::now_ms;
use crate::resource::{Kind, Object, key};
use crate::store::{Store, StoreError};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("object_log");
const META: TableDefinition<&str, u64> = TableDefinition::new("object_meta");
const REVISION: &str = "revision";

/// Changes that a watcher may be behind.
pub const LOG_KEEP: u64 = 10_000;
/// Changes that a watcher reads from the log at one time.
const READ_AHEAD: usize = 256;

/// The embedded store of objects.
#[derive(Clone)]
pub struct Embedded {
    store: Arc<Store>,
    /// The last revision on disk.
    latest: Arc<watch::Sender<Revision>>,
}

#[derive(Serialize, Deserialize)]
struct Logged {
    deleted: bool,
    object: Object,
}

impl Embedded {
    /// Opens the tables, making them where they are missing.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn open(store: Arc<Store>) -> Result<Self, Error> {
        let revision = store
            .write(|txn| {
                txn.open_table(OBJECTS)?;
                txn.open_table(LOG)?;
                Ok(txn.open_table(META)?.get(REVISION)?.map_or(0, |r| r.value()))
            })
            .await?;
        Ok(Self { store, latest: Arc::new(watch::Sender::new(revision)) })
    }

    /// Every object as a JSON line, Secrets included, in an order in which they can be restored.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn export(&self, out: &mut impl std::io::Write) -> Result<usize, Error> {
        let txn = self.store.read()?;
        let mut count = 0;
        for kind in Kind::ALL {
            for object in read_all(&txn, kind)? {
                serde_json::to_writer(&mut *out, &object).map_err(|e| Error::Store(e.to_string()))?;
                out.write_all(b"\n").map_err(|e| Error::Store(format!("the export cannot be written: {e}")))?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Takes the lines of [`Embedded::export`] into an empty store, as they are
    /// (uids and statuses included), all or none.
    ///
    /// # Errors
    /// A line that is not an object, or a store that is not empty.
    pub async fn import(&self, lines: &str) -> Result<usize, Error> {
        let mut objects = Vec::new();
        for (n, line) in lines.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let object: Object =
                serde_json::from_str(line).map_err(|e| Error::Store(format!("line {}: {e}", n + 1)))?;
            let complaints = crate::resource::validate(&object, None);
            if !complaints.is_empty() {
                return Err(Error::Invalid(complaints));
            }
            objects.push(object);
        }
        let count = objects.len();
        let written = self
            .store
            .write(move |txn| {
                let mut meta = txn.open_table(META)?;
                let mut table = txn.open_table(OBJECTS)?;
                let mut log = txn.open_table(LOG)?;
                if table.iter()?.next().is_some() {
                    return Ok(None);
                }
                let mut revision = meta.get(REVISION)?.map_or(0, |r| r.value());
                for object in &objects {
                    revision += 1;
                    let mut object = object.clone();
                    object.metadata.resource_version = revision.to_string();
                    table.insert(object.key().as_str(), encode(&object)?.as_slice())?;
                    log.insert(revision, encode(&Logged { deleted: false, object })?.as_slice())?;
                }
                trim(&mut log, revision)?;
                meta.insert(REVISION, revision)?;
                Ok(Some(revision))
            })
            .await?;
        let revision = written
            .ok_or_else(|| Error::Store("the store is not empty; import into a fresh state directory".to_owned()))?;
        self.wake(revision);
        Ok(count)
    }

    /// Runs one rule over the object of this key, in one transaction.
    async fn change<F>(&self, key: String, rule: F) -> Result<Object, Error>
    where
        F: Fn(Option<&Object>) -> Result<Outcome, Error> + Send + 'static,
    {
        let done = self.store.write(move |txn| apply(txn, &key, &rule)).await?;
        let (revision, object) = done?;
        self.wake(revision);
        Ok(object)
    }

    fn wake(&self, revision: Revision) {
        self.latest.send_if_modified(|latest| {
            let newer = revision > *latest;
            *latest = revision.max(*latest);
            newer
        });
    }
}

/// The inner result is the rule's refusal: it must not fail the writes that share the commit.
type Applied = Result<(Revision, Object), Error>;

fn apply(
    txn: &WriteTransaction,
    key: &str,
    rule: &dyn Fn(Option<&Object>) -> Result<Outcome, Error>,
) -> Result<Applied, StoreError> {
    let mut table = txn.open_table(OBJECTS)?;
    let old = table.get(key)?.map(|bytes| decode::<Object>(bytes.value())).transpose()?;
    let outcome = match rule(old.as_ref()) {
        Ok(outcome) => outcome,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut meta = txn.open_table(META)?;
    let last = meta.get(REVISION)?.map_or(0, |r| r.value());
    let (deleted, mut object) = match outcome {
        Outcome::Same(object) => return Ok(Ok((last, *object))),
        Outcome::Keep(object) => (false, *object),
        Outcome::Remove(object) => (true, *object),
    };
    let revision = last + 1;
    object.metadata.resource_version = revision.to_string();
    if deleted {
        table.remove(key)?;
    } else {
        table.insert(key, encode(&object)?.as_slice())?;
    }
    let mut log = txn.open_table(LOG)?;
    let entry = Logged { deleted, object };
    log.insert(revision, encode(&entry)?.as_slice())?;
    trim(&mut log, revision)?;
    meta.insert(REVISION, revision)?;
    Ok(Ok((revision, entry.object)))
}

/// Forgets what is more than [`LOG_KEEP`] changes ago.
fn trim(log: &mut redb::Table<'_, u64, &[u8]>, revision: Revision) -> Result<(), StoreError> {
    while log.first()?.is_some_and(|(oldest, _)| oldest.value() + LOG_KEEP <= revision) {
        log.pop_first()?;
    }
    Ok(())
}

impl Objects for Embedded {
    type Watch = LogWatch;

    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Object, Error> {
        let key = key(kind, namespace, name);
        let txn = self.store.read()?;
        let table = txn.open_table(OBJECTS).map_err(StoreError::from)?;
        match table.get(key.as_str()).map_err(StoreError::from)? {
            Some(bytes) => Ok(decode(bytes.value())?),
            None => Err(Error::NotFound(key)),
        }
    }

    async fn list(&self, kind: Kind) -> Result<Listed, Error> {
        let txn = self.store.read()?;
        let meta = txn.open_table(META).map_err(StoreError::from)?;
        let revision = meta.get(REVISION).map_err(StoreError::from)?.map_or(0, |r| r.value());
        Ok(Listed { objects: read_all(&txn, kind)?, revision })
    }

    async fn watch(&self, kind: Kind, from: Revision) -> Result<LogWatch, Error> {
        let mut watch = LogWatch {
            store: self.store.clone(),
            latest: self.latest.subscribe(),
            kind,
            read: from,
            ahead: VecDeque::new(),
        };
        watch.read_log()?;
        Ok(watch)
    }

    async fn create(&self, object: Object) -> Result<Object, Error> {
        self.change(object.key(), move |old| rules::create(object.clone(), old, now_ms())).await
    }

    async fn replace(&self, object: Object) -> Result<Object, Error> {
        self.change(object.key(), move |old| rules::replace(object.clone(), old)).await
    }

    async fn replace_status(&self, object: Object) -> Result<Object, Error> {
        self.change(object.key(), move |old| rules::replace_status(&object, old)).await
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str, only: Preconditions) -> Result<(), Error> {
        let key = key(kind, namespace, name);
        self.change(key.clone(), move |old| rules::delete(&key, old, &only, now_ms())).await.map(|_| ())
    }
}

/// A watch that reads the log.
pub struct LogWatch {
    store: Arc<Store>,
    latest: watch::Receiver<Revision>,
    kind: Kind,
    /// Everything up to here has been read.
    read: Revision,
    ahead: VecDeque<(Revision, Change)>,
}

impl LogWatch {
    fn read_log(&mut self) -> Result<(), Error> {
        let txn = self.store.read()?;
        let log = txn.open_table(LOG).map_err(StoreError::from)?;
        let oldest = log.first().map_err(StoreError::from)?.map(|(r, _)| r.value());
        if oldest.is_some_and(|oldest| self.read + 1 < oldest) {
            return Err(Error::Gone(self.read));
        }
        for entry in log.range(self.read + 1..).map_err(StoreError::from)? {
            let (revision, bytes) = entry.map_err(StoreError::from)?;
            let entry: Logged = decode(bytes.value())?;
            self.read = revision.value();
            if entry.object.kind == self.kind {
                let change = if entry.deleted { Change::Deleted(entry.object) } else { Change::Applied(entry.object) };
                self.ahead.push_back((self.read, change));
                if self.ahead.len() >= READ_AHEAD {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Watch for LogWatch {
    async fn next(&mut self) -> Result<(Revision, Change), Error> {
        loop {
            if let Some(change) = self.ahead.pop_front() {
                return Ok(change);
            }
            let latest = *self.latest.borrow_and_update();
            if latest > self.read {
                self.read_log()?;
            } else if self.latest.changed().await.is_err() {
                return Err(Error::Store("the store is closed".to_owned()));
            }
        }
    }
}

fn read_all(txn: &ReadTransaction, kind: Kind) -> Result<Vec<Object>, Error> {
    let table = txn.open_table(OBJECTS).map_err(StoreError::from)?;
    // Keys of a kind stand together: "Kind/" up to "Kind0", the character after the slash.
    let (from, to) = (format!("{kind}/"), format!("{kind}0"));
    let mut objects = Vec::new();
    for entry in table.range(from.as_str()..to.as_str()).map_err(StoreError::from)? {
        let (_, bytes) = entry.map_err(StoreError::from)?;
        objects.push(decode(bytes.value())?);
    }
    Ok(objects)
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Failed(e.to_string()))
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Failed(format!("an object in the store cannot be read: {e}")))
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    async fn fresh() -> (tempfile::TempDir, Embedded) {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("s.redb")).unwrap());
        (dir, Embedded::open(store).await.unwrap())
    }

    #[tokio::test]
    async fn passes_the_conformance_suite() {
        let (_dir, objects) = fresh().await;
        conformance::run(&objects).await;
    }

    #[tokio::test]
    async fn a_watch_from_a_forgotten_version_is_told_to_list_again() {
        let (_dir, objects) = fresh().await;
        let environment = conformance::environment("e");
        let mut kept = objects.create(environment).await.unwrap();
        // Age the log as LOG_KEEP more writes would.
        objects
            .store
            .write(|txn| {
                txn.open_table(META)?.insert(REVISION, LOG_KEEP + 5)?;
                Ok(())
            })
            .await
            .unwrap();
        kept.metadata.labels.insert("a".into(), "b".into());
        objects.replace(kept).await.unwrap();
        assert!(matches!(objects.watch(Kind::Environment, 1).await.err(), Some(Error::Gone(1))));
    }

    #[tokio::test]
    async fn an_export_is_taken_whole_into_an_empty_store_and_only_there() {
        let (_dir, from) = fresh().await;
        let made = from.create(conformance::environment("e")).await.unwrap();
        let mut lines = Vec::new();
        assert_eq!(from.export(&mut lines).unwrap(), 1);
        let lines = String::from_utf8(lines).unwrap();
        let (_dir, to) = fresh().await;
        assert_eq!(to.import(&lines).await.unwrap(), 1);
        let again = to.get(Kind::Environment, "", "e").await.unwrap();
        assert_eq!((again.metadata.uid, again.spec), (made.metadata.uid, made.spec));
        assert!(to.import(&lines).await.unwrap_err().to_string().contains("not empty"));
        let (_dir, to) = fresh().await;
        assert!(to.import(&format!("{lines}nonsense\n")).await.unwrap_err().to_string().contains("line 2"));
        assert!(to.list(Kind::Environment).await.unwrap().objects.is_empty(), "all or none");
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_reopening_under_the_same_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb");
        let objects = Embedded::open(Arc::new(Store::open(&path).unwrap())).await.unwrap();
        let made = objects.create(conformance::environment("e")).await.unwrap();
        drop(objects);
        let objects = Embedded::open(Arc::new(Store::open(&path).unwrap())).await.unwrap();
        assert_eq!(objects.get(Kind::Environment, "", "e").await.unwrap(), made);
    }
}
