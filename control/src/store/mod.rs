//! The embedded store: one redb file, opened once, written by one thread.
//!
//! A commit waits for the disk. So writes are queued, and the thread puts all
//! that wait (up to [`limits::STORE_GROUP`]) into one commit: a write is
//! acknowledged when it is on disk, and a hundred at once cost one flush.
//! Reads are transactions of their own (MVCC) and wait for nobody.

pub mod leases;
pub mod machines;

use crate::limits;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// The layout of the store that this version writes.
pub const VERSION: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The store. Dropped last, it waits for the writes that were taken.
pub struct Store {
    database: Arc<Database>,
    queue: Option<SyncSender<Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// Why a read or a write did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many writes wait already.
    #[error("the store is busy: {} writes wait already", limits::STORE_QUEUE)]
    Busy,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// redb, or the disk under it.
    #[error("the store failed: {0}")]
    Failed(String),
    /// Written by a newer stoker.
    #[error(
        "the store has layout {0}, this stoker knows {VERSION}; run the newer stoker, or restore the backup made before the upgrade"
    )]
    Newer(u64),
    /// Cannot be opened.
    #[error("the store {0} cannot be opened: {1}")]
    Open(String, String),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(e: E) -> Self {
        Self::Failed(e.into().to_string())
    }
}

/// One write, run inside a transaction that others share. It may be run again
/// when another write of the group failed, so it must not consume anything.
type Job = Box<dyn Work>;

trait Work: Send {
    fn run(&mut self, txn: &WriteTransaction) -> Result<(), StoreError>;
    fn done(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Write<T, F> {
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send> Work for Write<T, F> {
    fn run(&mut self, txn: &WriteTransaction) -> Result<(), StoreError> {
        self.result = Some((self.work)(txn)?);
        Ok(())
    }
    fn done(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        let _ = reply.send(committed.and_then(|()| result.ok_or(StoreError::Closed)));
    }
}

impl Store {
    /// Opens or makes the store, and starts its writer.
    ///
    /// # Errors
    /// In use by another process, damaged, newer than this program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |why: String| StoreError::Open(path.display().to_string(), why);
        let database = Database::create(path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                fail("another stoker-control uses it; end that one, or give this one another --state".into())
            }
            e => fail(e.to_string()),
        })?;
        Self::start(database, fail)
    }

    /// The same on any bytes that can be synced: tests take the power away from them.
    #[cfg(test)]
    pub fn on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        let fail = |why: String| StoreError::Open("in memory".into(), why);
        let database = Database::builder().create_with_backend(backend).map_err(|e| fail(e.to_string()))?;
        Self::start(database, fail)
    }

    /// A store that no disk slows down.
    ///
    /// # Errors
    /// Never.
    #[cfg(test)]
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::on(redb::backends::InMemoryBackend::new())
    }

    fn start(database: Database, fail: impl Fn(String) -> StoreError) -> Result<Self, StoreError> {
        let txn = database.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let found = meta.get("version")?.map(|v| v.value());
            match found {
                Some(newer) if newer > VERSION => return Err(StoreError::Newer(newer)),
                Some(_) => {}
                None => {
                    meta.insert("version", VERSION)?;
                }
            }
        }
        txn.commit()?;
        let database = Arc::new(database);
        let (queue, jobs) = sync_channel(limits::STORE_QUEUE);
        let writer = std::thread::Builder::new().name("store".into()).spawn({
            let database = database.clone();
            move || write_all(&database, &jobs)
        });
        let writer = writer.map_err(|e| fail(format!("its thread cannot be started: {e}")))?;
        Ok(Self { database, queue: Some(queue), writer: Some(writer) })
    }

    /// For reading.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&self) -> Result<redb::ReadTransaction, StoreError> {
        Ok(self.database.begin_read()?)
    }

    /// The database itself, for readers that keep transactions of their own.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Writes; returns when it is on disk. `work` may be run more than once.
    ///
    /// # Errors
    /// When the queue is full, the work fails, or the disk does.
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        self.enqueue(work)?.await.map_err(|_| StoreError::Closed)?
    }

    /// As [`Store::write`], for threads outside the runtime.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        self.enqueue(work)?.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    fn enqueue<T, F>(&self, work: F) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.try_send(Box::new(Write { work, result: None, reply })).map_err(|e| match e {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })?;
        Ok(answer)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_all(database: &Database, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(limits::STORE_GROUP - 1));
        // Each round either commits or drops the one write that failed.
        while !group.is_empty() {
            match commit(database, &mut group) {
                Ok(()) => {
                    group.drain(..).for_each(|job| job.done(Ok(())));
                }
                Err((Some(bad), e)) if bad < group.len() => group.remove(bad).done(Err(e)),
                Err((_, e)) => group.drain(..).for_each(|job| job.done(Err(e.clone()))),
            }
        }
    }
}

/// One commit of a group; where one write failed, says which.
fn commit(database: &Database, group: &mut [Job]) -> Result<(), (Option<usize>, StoreError)> {
    let txn = database.begin_write().map_err(|e| (None, e.into()))?;
    for (i, job) in group.iter_mut().enumerate() {
        if let Err(e) = job.run(&txn) {
            let _ = txn.abort();
            return Err((Some(i), e));
        }
    }
    txn.commit().map_err(|e| (None, e.into()))
}

#[cfg(test)]
mod power_loss;

#[cfg(test)]
mod tests {
    use super::*;

    const T: TableDefinition<u64, u64> = TableDefinition::new("t");

    fn count(store: &Store) -> u64 {
        use redb::ReadableTableMetadata;
        store.read().unwrap().open_table(T).unwrap().len().unwrap()
    }

    #[test]
    fn writes_of_many_threads_are_all_there_after_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb");
        let store = Arc::new(Store::open(&path).unwrap());
        let threads: Vec<_> = (0..8_u64)
            .map(|t| {
                let store = store.clone();
                std::thread::spawn(move || {
                    for i in 0..20 {
                        store
                            .write_blocking(move |txn| {
                                txn.open_table(T)?.insert(t * 100 + i, i)?;
                                Ok(())
                            })
                            .unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(count(&store), 160);
        drop(store);
        assert_eq!(count(&Store::open(&path).unwrap()), 160);
    }

    #[tokio::test]
    async fn a_write_that_fails_takes_no_other_with_it_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s.redb")).unwrap();
        let put = |n: u64, fail: bool| {
            store.write(move |txn| {
                txn.open_table(T)?.insert(n, n)?;
                if fail { Err(StoreError::Failed("on purpose".into())) } else { Ok(n) }
            })
        };
        let (a, b, c) = tokio::join!(put(1, false), put(2, true), put(3, false));
        assert_eq!((a.unwrap(), c.unwrap()), (1, 3));
        assert!(b.unwrap_err().to_string().contains("on purpose"));
        assert_eq!(count(&store), 2);
    }

    #[test]
    fn a_store_in_use_and_a_newer_one_are_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb");
        let store = Store::open(&path).unwrap();
        let why = Store::open(&path).err().unwrap().to_string();
        assert!(why.contains("another stoker-control uses it"), "{why}");
        store
            .write_blocking(|txn| {
                txn.open_table(META)?.insert("version", VERSION + 1)?;
                Ok(())
            })
            .unwrap();
        drop(store);
        assert!(matches!(Store::open(&path), Err(StoreError::Newer(_))));
    }
}
