//! Names and bytes for the edge.
//!
//! Only this module knows where the edge is: it keeps the object folder,
//! writes the manifest, and reads `edge.state`. Others hand over sections of
//! names; the manifest is all sections together, with a rising generation.

mod objects;

pub use objects::{Objects, Stored};

use crate::limits;
use protocol::manifest::{EdgeState, Entry, MAX_ENTRIES, Manifest, ObjectId, is_plain_path};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Names of one source.
pub type Names = BTreeMap<String, Entry>;

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The disk.
    #[error("{path} cannot be written: {source}{}", remedy(.source))]
    Disk {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Too many names.
    #[error("{0} names, an edge takes at most {MAX_ENTRIES}; remove environments")]
    TooMany(usize),
    /// A name that no edge takes.
    #[error("{0:?} is not a name that can be published")]
    Name(String),
    /// The edge did not take it in time.
    #[error("the edge does not serve generation {wanted} after {waited:?}: {why}")]
    NotServed {
        /// The generation waited for.
        wanted: u64,
        /// How long.
        waited: Duration,
        /// What is known.
        why: String,
    },
}

fn remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => "; free some space in the state directory",
        io::ErrorKind::PermissionDenied => "; the state directory must belong to this user",
        _ => "",
    }
}

/// The publisher.
pub struct Publisher {
    state: PathBuf,
    objects: Objects,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Names of the last run that no section has spoken for yet. They stay served: a machine that
    /// is loading while control restarts must find the rest of its files.
    inherited: Names,
    sections: BTreeMap<&'static str, Names>,
    published: Manifest,
    unnamed_since: HashMap<ObjectId, Instant>,
}

impl Publisher {
    /// Prepares the folders of a state directory and takes up where the last
    /// manifest ended. What that manifest names stays served until a section
    /// names it anew, or [`Publisher::disown`] is told that nobody will.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn open(state: &Path) -> Result<Self, PublishError> {
        let objects = Objects::open(&state.join("publish"))?;
        let last = fs::read(state.join("publish/manifest.json")).ok().and_then(|b| Manifest::parse(&b).ok());
        let mut published = last.unwrap_or_else(|| Manifest::new(0, Names::new()));
        // A manifest that was deleted must not make the generation fall: the edge never goes back.
        if let Some(edge) = read_edge_state(state)
            && edge.generation > published.generation
        {
            published = Manifest::new(edge.generation, Names::new());
        }
        let inherited = published.entries.clone();
        let inner = Inner { inherited, sections: BTreeMap::new(), published, unnamed_since: HashMap::new() };
        Ok(Self { state: state.to_owned(), objects, inner: Mutex::new(inner) })
    }

    /// The folder of objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Replaces the names of one section, and publishes when anything changed.
    /// Returns the generation that holds them.
    ///
    /// # Errors
    /// When the manifest cannot be written; the old one then stays whole.
    pub fn set(&self, section: &'static str, names: Names) -> Result<u64, PublishError> {
        if let Some(bad) = names.keys().find(|n| !is_plain_path(n)) {
            return Err(PublishError::Name(bad.clone()));
        }
        let mut inner = self.lock();
        let before = inner.sections.insert(section, names);
        match self.publish(&mut inner) {
            Ok(generation) => Ok(generation),
            Err(e) => {
                let _ = match before {
                    Some(before) => inner.sections.insert(section, before),
                    None => inner.sections.remove(section),
                };
                Err(e)
            }
        }
    }

    /// Lets go of names of the last run that nobody has set since: whoever would set them has set
    /// all that there are.
    ///
    /// # Errors
    /// When the manifest cannot be written; the old one then stays whole.
    pub fn disown(&self, which: impl Fn(&str) -> bool) -> Result<u64, PublishError> {
        let mut inner = self.lock();
        inner.inherited.retain(|name, _| !which(name));
        self.publish(&mut inner)
    }

    fn publish(&self, inner: &mut Inner) -> Result<u64, PublishError> {
        let named = inner.sections.values().flatten();
        // Later ones win: what a section names now over what the last run named.
        let all = inner.inherited.iter().chain(named);
        let entries: Names = all.map(|(n, e)| (n.clone(), e.clone())).collect();
        if entries.len() > MAX_ENTRIES {
            return Err(PublishError::TooMany(entries.len()));
        }
        let path = self.state.join("publish/manifest.json");
        if entries == inner.published.entries && inner.published.generation > 0 && path.exists() {
            return Ok(inner.published.generation);
        }
        let manifest = Manifest::new(inner.published.generation + 1, entries);
        replace_file(&path, &manifest.to_bytes())?;
        tracing::info!(generation = manifest.generation, names = manifest.entries.len(), "published");
        inner.published = manifest;
        Ok(inner.published.generation)
    }

    /// The generation last published.
    pub fn generation(&self) -> u64 {
        self.lock().published.generation
    }

    /// What a name stands for now.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.lock().published.entries.get(name).cloned()
    }

    /// What the edge says of itself; nothing where it never ran.
    pub fn edge_state(&self) -> Option<EdgeState> {
        read_edge_state(&self.state)
    }

    /// Returns when the edge serves all `names` as they are published now.
    /// Only then may a machine be sent for them.
    ///
    /// # Errors
    /// When it does not by `within`, or refuses one of them.
    pub async fn ensure(&self, names: &[String], within: Duration) -> Result<u64, PublishError> {
        let wanted = self.generation();
        let begun = Instant::now();
        loop {
            let state = self.edge_state();
            let refused = |s: &EdgeState| names.iter().find_map(|n| s.refused.get(n).map(|why| format!("{n}: {why}")));
            let why = match &state {
                Some(s) if s.generation >= wanted => match refused(s) {
                    None => return Ok(s.generation),
                    Some(why) => why,
                },
                Some(s) => match s.refused.get("manifest.json") {
                    Some(why) => format!("it serves {} and refuses the manifest: {why}", s.generation),
                    None => format!("it still serves {}; is stoker-edge running?", s.generation),
                },
                None => "it never wrote its state; is stoker-edge running with the same state directory?".into(),
            };
            let waited = begun.elapsed();
            if waited >= within {
                return Err(PublishError::NotServed { wanted, waited, why });
            }
            tokio::time::sleep(limits::EDGE_STATE_POLL.min(within.saturating_sub(waited))).await;
        }
    }

    /// Removes objects that no manifest has named for `age`. Transfers that
    /// still run keep what they have open. Returns how many went.
    pub fn sweep(&self, age: Duration, now: Instant) -> usize {
        let mut inner = self.lock();
        let named: BTreeSet<ObjectId> = inner.published.entries.values().map(|e| e.object).collect();
        let stored = self.objects.list();
        inner.unnamed_since.retain(|id, _| !named.contains(id) && stored.contains(id));
        let mut removed = 0;
        for id in stored.into_iter().filter(|id| !named.contains(id)) {
            let since = *inner.unnamed_since.entry(id).or_insert(now);
            if now.saturating_duration_since(since) >= age && self.objects.remove(id) {
                inner.unnamed_since.remove(&id);
                removed += 1;
            }
        }
        removed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_edge_state(state: &Path) -> Option<EdgeState> {
    serde_json::from_slice(&fs::read(state.join("edge/edge.state")).ok()?).ok()
}

/// Writes a file so that a reader sees the old one or the new one, whole, and
/// a crash leaves one of them.
///
/// # Errors
/// When the disk refuses; the old file then stays.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), PublishError> {
    let fail = |source| PublishError::Disk { path: path.display().to_string(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(fail)?;
    beside.write_all(bytes).and_then(|()| beside.as_file().sync_all()).map_err(fail)?;
    beside.persist(path).map_err(|e| fail(e.error))?;
    objects::sync_folder(folder).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(publisher: &Publisher, bytes: &[u8]) -> Entry {
        publisher.objects().put(bytes).unwrap().entry("text/plain")
    }

    fn on_disk(dir: &tempfile::TempDir) -> Manifest {
        Manifest::parse(&fs::read(dir.path().join("publish/manifest.json")).unwrap()).unwrap()
    }

    fn write_edge_state(dir: &tempfile::TempDir, generation: u64, refused: &[(&str, &str)]) {
        let state = EdgeState {
            version: 1,
            pid: 1,
            at_ms: 0,
            generation,
            refused: refused.iter().map(|(n, w)| (n.to_string(), w.to_string())).collect(),
            driver: "epoll".into(),
            listen: BTreeMap::new(),
        };
        fs::create_dir_all(dir.path().join("edge")).unwrap();
        replace_file(&dir.path().join("edge/edge.state"), &serde_json::to_vec(&state).unwrap()).unwrap();
    }

    #[test]
    fn generations_rise_over_restarts_and_only_with_changes() {
        let dir = tempfile::tempdir().unwrap();
        let p = Publisher::open(dir.path()).unwrap();
        let a = entry(&p, b"a");
        assert_eq!(p.set("x", Names::from([("tftp/a".into(), a.clone())])).unwrap(), 1);
        assert_eq!(p.set("x", Names::from([("tftp/a".into(), a.clone())])).unwrap(), 1, "nothing changed");
        assert_eq!(p.set("y", Names::from([("env/b".into(), a.clone())])).unwrap(), 2);
        assert_eq!(on_disk(&dir).entries.len(), 2);
        drop(p);
        let p = Publisher::open(dir.path()).unwrap();
        assert_eq!(p.entry("env/b"), Some(a.clone()), "the last manifest is taken up");
        assert_eq!(p.set("x", Names::from([("tftp/a".into(), a.clone())])).unwrap(), 2, "nothing is lost by a restart");
        let b = entry(&p, b"b");
        assert_eq!(p.set("x", Names::from([("tftp/a".into(), b.clone())])).unwrap(), 3);
        assert_eq!((p.entry("tftp/a"), p.entry("env/b")), (Some(b), Some(a)), "a section's own name is its own");
        assert_eq!(p.disown(|name| name.starts_with("env/")).unwrap(), 4);
        assert_eq!(p.entry("env/b"), None, "nobody will name it");
        drop(p);
        fs::remove_file(dir.path().join("publish/manifest.json")).unwrap();
        write_edge_state(&dir, 40, &[]);
        let p = Publisher::open(dir.path()).unwrap();
        assert_eq!(p.set("x", Names::new()).unwrap(), 41, "the edge never goes back");
    }

    #[test]
    fn f16_a_manifest_that_cannot_be_written_leaves_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let p = Publisher::open(dir.path()).unwrap();
        let a = entry(&p, b"a");
        p.set("x", Names::from([("a".into(), a.clone())])).unwrap();
        assert!(matches!(p.set("x", Names::from([("../a".into(), a.clone())])), Err(PublishError::Name(_))));
        let many: Names = (0..=MAX_ENTRIES).map(|i| (format!("n{i}"), a.clone())).collect();
        assert!(matches!(p.set("y", many), Err(PublishError::TooMany(_))));
        assert_eq!((on_disk(&dir).generation, p.generation()), (1, 1));
        assert_eq!(p.set("z", Names::from([("b".into(), a)])).unwrap(), 2, "and later ones work");
        assert_eq!(
            fs::read_dir(dir.path().join("publish"))
                .unwrap()
                .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".new-"))
                .count(),
            0
        );
    }

    #[test]
    fn readers_see_only_whole_manifests_while_it_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let p = Publisher::open(dir.path()).unwrap();
        let e = entry(&p, b"a");
        p.set("x", Names::from([("first".into(), e.clone())])).unwrap();
        let path = dir.path().join("publish/manifest.json");
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reader = std::thread::spawn({
            let done = done.clone();
            move || {
                let mut last = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let m = Manifest::parse(&fs::read(&path).unwrap()).expect("half a manifest was seen");
                    assert!(m.generation >= last);
                    last = m.generation;
                }
                last
            }
        });
        for i in 0..100 {
            let names = (0..50).map(|n| (format!("name-{i}-{n}"), e.clone())).collect();
            p.set("x", names).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() >= 1);
        assert_eq!(on_disk(&dir).generation, 101);
    }

    #[tokio::test]
    async fn ensure_waits_for_the_edge_and_says_what_it_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let p = std::sync::Arc::new(Publisher::open(dir.path()).unwrap());
        let e = entry(&p, b"a");
        p.set("x", Names::from([("a".into(), e)])).unwrap();
        let names = ["a".to_string()];
        let why = p.ensure(&names, Duration::ZERO).await.unwrap_err().to_string();
        assert!(why.contains("is stoker-edge running"), "{why}");
        let waiting = tokio::spawn({
            let (p, names) = (p.clone(), names.clone());
            async move { p.ensure(&names, Duration::from_secs(20)).await }
        });
        write_edge_state(&dir, 1, &[]);
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
        write_edge_state(&dir, 1, &[("a", "truncated")]);
        let why = p.ensure(&names, Duration::ZERO).await.unwrap_err().to_string();
        assert!(why.contains("a: truncated"), "{why}");
    }

    #[test]
    fn objects_go_only_when_unnamed_for_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let p = Publisher::open(dir.path()).unwrap();
        let (a, b) = (entry(&p, b"a"), entry(&p, b"b"));
        p.set("x", Names::from([("a".into(), a.clone()), ("b".into(), b.clone())])).unwrap();
        let start = Instant::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(p.sweep(hour, start), 0);
        p.set("x", Names::from([("a".into(), a.clone())])).unwrap();
        assert_eq!(p.sweep(hour, start), 0);
        assert_eq!(p.sweep(hour, start + hour / 2), 0);
        assert_eq!(p.sweep(hour, start + hour), 1);
        assert!(p.objects().path(a.object).exists() && !p.objects().path(b.object).exists());
    }
}
