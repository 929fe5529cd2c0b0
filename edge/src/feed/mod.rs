//! Manifest to catalog: watches what control publishes, on a thread of its own.
//!
//! Called by `main`; owns the budget of images and `edge.state`; touches no
//! packet. A new manifest is verified, its objects are opened, verified and
//! copied ([`loader`]), the catalog is handed to the workers, and the outcome
//! is told to control ([`state`]). The same thread makes the pre-framed forms
//! that transfers wish for.

mod loader;
mod state;
#[cfg(test)]
mod tests;

pub use loader::{Loader, MANIFEST, Outcome};

use crate::catalog::{Budget, Catalog};
use crate::limits;
use crate::metrics::Metrics;
use crate::ring::Waker;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use state::StateFile;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the feed has to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder shared with control (`publish/`, `edge/`, `run/` in it).
    pub state_dir: PathBuf,
    /// Memory for images, bytes; None: [`limits::MEMORY_BUDGET_PERCENT`] of what there is.
    pub memory_budget: Option<u64>,
    /// `uring` or `epoll`, for `edge.state`.
    pub driver: String,
    /// Addresses served on by service, for `edge.state`.
    pub listen: BTreeMap<String, Vec<String>>,
}

/// The running feed.
pub struct Feed {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts the thread: it loads the present manifest, if there is one, and
    /// then every newer one. `publish` is called with each new catalog.
    ///
    /// # Errors
    /// No descriptors or no thread left, or `edge/` cannot be made.
    pub fn start(
        config: Config,
        metrics: &Arc<Metrics>,
        publish: impl Fn(Arc<Catalog>) + Send + 'static,
    ) -> io::Result<Self> {
        let budget = Budget::new(config.memory_budget.unwrap_or_else(default_budget));
        let framed = Budget::new(limits::FRAMED_BUDGET);
        metrics.set_budgets(&budget, &framed);
        let waker = Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            loader: Loader::new(config.state_dir.join("publish"), budget, Some(waker.clone())),
            state: StateFile::new(&config)?,
            publish,
            metrics: metrics.clone(),
            framed,
            waker: waker.clone(),
            stop: stop.clone(),
        };
        let thread = thread::Builder::new().name("feed".into()).spawn(move || watcher.run())?;
        Ok(Self { stop, waker, thread: Some(thread) })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watcher<P> {
    loader: Loader,
    state: StateFile,
    publish: P,
    metrics: Arc<Metrics>,
    framed: Arc<Budget>,
    waker: Waker,
    stop: Arc<AtomicBool>,
}

impl<P: Fn(Arc<Catalog>)> Watcher<P> {
    fn run(mut self) {
        let mut watch = None;
        let mut retry = limits::FEED_RETRY_MS;
        let mut look = true;
        while !self.stop.load(Ordering::Acquire) {
            if watch.is_none() {
                // Watched before it is read, so that no change falls between.
                watch = Watch::new(self.loader.folder());
                look = true;
            }
            if look {
                retry = if self.load() { limits::FEED_RETRY_MS } else { (retry * 2).min(limits::FEED_RETRY_MAX_MS) };
            }
            self.make_framed();
            let wait = (watch.is_none() || self.loader.unsettled()).then_some(retry);
            match self.wait(watch.as_ref(), wait) {
                Woke::Changed => {
                    // Control writes more than one file; look once, at the end.
                    thread::sleep(Duration::from_millis(limits::FEED_SETTLE_MS));
                    look = true;
                    if watch.as_ref().is_some_and(Watch::is_over) {
                        watch = None; // the folder itself came or was replaced
                    }
                }
                Woke::Wished => look = false,
                Woke::Time => look = true,
            }
        }
    }

    /// True when something was new.
    fn load(&mut self) -> bool {
        let before = self.loader.refused().clone();
        let outcome = self.loader.load(crate::clock::wall_seconds());
        match &outcome {
            Outcome::Loaded(catalog) => {
                self.metrics.loads.inc();
                self.metrics.generation.set(catalog.generation);
                self.metrics.names.set(catalog.names.len() as u64);
                tracing::info!(
                    generation = catalog.generation,
                    names = catalog.names.len(),
                    "serving a new generation"
                );
                (self.publish)(catalog.clone());
            }
            Outcome::Refused | Outcome::Same | Outcome::Absent => {}
        }
        let refused = self.loader.refused();
        if refused.get(MANIFEST).is_some_and(|why| before.get(MANIFEST) != Some(why)) {
            self.metrics.bad_manifests.inc();
        }
        self.metrics.refused_names.set(refused.len() as u64);
        let news = *refused != before;
        if news {
            for (name, why) in
                refused.iter().filter(|&(name, why)| before.get(name) != Some(why)).take(limits::FEED_REFUSALS)
            {
                tracing::warn!(name, "not served: {why}");
            }
        }
        let loaded = matches!(outcome, Outcome::Loaded(_));
        if (news || loaded || !self.state.written())
            && let Err(e) = self.state.write(self.loader.catalog().generation, refused)
        {
            tracing::warn!(
                "edge.state cannot be written, so control will wait for this edge: {e}; check the folder's owner and space"
            );
        }
        news || loaded
    }

    fn make_framed(&self) {
        for named in self.loader.catalog().names.values() {
            for blksize in named.image.wanted() {
                if let Err(e) = named.image.make_framed(blksize, &self.framed) {
                    tracing::warn!(blksize, "no pre-framed form: {e}");
                }
            }
        }
    }

    fn wait(&self, watch: Option<&Watch>, timeout_ms: Option<u64>) -> Woke {
        let wishes = PollFd::new(&*self.waker.0, PollFlags::IN);
        let timeout = timeout_ms.and_then(|ms| Timespec::try_from(Duration::from_millis(ms)).ok());
        let changed = match watch {
            Some(watch) => {
                let mut fds = [wishes, PollFd::new(&watch.inotify, PollFlags::IN)];
                let _ = poll(&mut fds, timeout.as_ref());
                let [wishes, changes] = fds;
                self.clear(&wishes).map(|()| Woke::Wished).or((!changes.revents().is_empty()).then_some(Woke::Changed))
            }
            None => {
                let mut fds = [wishes];
                let _ = poll(&mut fds, timeout.as_ref());
                self.clear(&fds[0]).map(|()| Woke::Wished)
            }
        };
        changed.unwrap_or(Woke::Time)
    }

    fn clear(&self, wishes: &PollFd<'_>) -> Option<()> {
        if wishes.revents().is_empty() {
            return None;
        }
        let _ = rustix::io::read(&*self.waker.0, &mut [0; 8]);
        Some(())
    }
}

enum Woke {
    Changed,
    Wished,
    Time,
}

/// What tells of changes of the folder `publish`, or of its coming.
struct Watch {
    inotify: OwnedFd,
    /// The folder does not exist; the one above is watched.
    above: bool,
}

impl Watch {
    /// None where not even the folder above exists.
    fn new(folder: &Path) -> Option<Self> {
        let changes = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
        let own = || watch(folder, changes).map(|inotify| Self { inotify, above: false });
        own().or_else(|| {
            let above = watch(folder.parent()?, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
            // It may have come between the two.
            own().or(Some(Self { inotify: above, above: true }))
        })
    }

    /// Takes what has gathered; true when something else has to be watched from now on.
    fn is_over(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let gone = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
        let mut over = self.above;
        // Bounded: someone who writes for ever is looked at again in the next turn.
        for _ in 0..4096 {
            match reader.next() {
                Ok(event) => over |= event.events().intersects(gone),
                Err(_) => break,
            }
        }
        over
    }
}

fn watch(folder: &Path, changes: WatchFlags) -> Option<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let what = changes | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, folder, what).ok()?;
    Some(watch)
}

/// A share of the machine's memory, or of the control group's where that is less.
fn default_budget() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib = text
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())?;
        kib.checked_mul(1024)
    });
    let group =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let there_is = machine.into_iter().chain(group).min().unwrap_or(1 << 30);
    there_is / 100 * limits::MEMORY_BUDGET_PERCENT
}
