//! Publishing as control does it, and everything that can be wrong with it.

use super::*;
use protocol::manifest::{EdgeState, Entry, Manifest, ObjectId};
use std::fs;
use std::sync::mpsc::{Receiver, channel};
use tempfile::TempDir;

const NOW: u64 = 1_795_000_000;

/// Control's side of the folder.
struct Publisher(TempDir);

impl Publisher {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("publish/objects/sha256")).unwrap();
        Self(dir)
    }

    fn object(&self, id: ObjectId) -> PathBuf {
        self.0.path().join("publish/objects/sha256").join(id.to_string())
    }

    fn put(&self, bytes: &[u8]) -> Entry {
        let object = ObjectId::of(bytes);
        fs::write(self.object(object), bytes).unwrap();
        Entry { object, length: bytes.len() as u64, content_type: "text/plain".into() }
    }

    fn publish(&self, generation: u64, names: &[(&str, &[u8])]) -> Manifest {
        let entries = names.iter().map(|(name, bytes)| (name.to_string(), self.put(bytes))).collect();
        let manifest = Manifest::new(generation, entries);
        self.write(&manifest.to_bytes());
        manifest
    }

    fn write(&self, bytes: &[u8]) {
        let folder = self.0.path().join("publish");
        fs::write(folder.join("manifest.new"), bytes).unwrap();
        fs::rename(folder.join("manifest.new"), folder.join("manifest.json")).unwrap();
    }

    fn loader(&self, budget: u64) -> Loader {
        Loader::new(self.0.path().join("publish"), Budget::new(budget), None)
    }
}

fn loaded(outcome: Outcome) -> Arc<Catalog> {
    match outcome {
        Outcome::Loaded(catalog) => catalog,
        Outcome::Same => panic!("the same"),
        Outcome::Absent => panic!("absent"),
        Outcome::Refused => panic!("refused"),
    }
}

fn bytes<'a>(catalog: &'a Catalog, name: &str) -> &'a [u8] {
    catalog.get(name).unwrap().image.bytes()
}

#[test]
fn a_generation_is_taken_whole_and_images_are_not_loaded_twice() {
    let p = Publisher::new();
    let mut loader = p.loader(u64::MAX);
    assert!(matches!(loader.load(NOW), Outcome::Absent));
    p.publish(1, &[("a", b"one"), ("b", b"one"), ("c", b"two")]);
    let first = loaded(loader.load(NOW));
    assert!(Arc::ptr_eq(&first.get("a").unwrap().image, &first.get("b").unwrap().image));
    assert!(matches!(loader.load(NOW), Outcome::Same));
    p.publish(2, &[("a", b"three"), ("c", b"two")]);
    let second = loaded(loader.load(NOW + 5));
    assert_eq!((second.generation, bytes(&second, "a"), second.get("b").is_none()), (2, &b"three"[..], true));
    assert!(Arc::ptr_eq(&first.get("c").unwrap().image, &second.get("c").unwrap().image));
    assert_eq!(bytes(&first, "a"), b"one", "t66: who holds the old one reads the old one");
}

#[test]
fn generations_only_rise_and_mean_one_thing() {
    let p = Publisher::new();
    let mut loader = p.loader(u64::MAX);
    p.publish(5, &[("a", b"five")]);
    loaded(loader.load(NOW));
    p.publish(4, &[("a", b"four")]);
    assert!(matches!(loader.load(NOW), Outcome::Refused));
    assert!(loader.refused()["manifest.json"].contains("generation 4 is older than 5"), "{:?}", loader.refused());
    p.publish(5, &[("a", b"other five")]);
    assert!(matches!(loader.load(NOW), Outcome::Refused));
    assert!(loader.refused()["manifest.json"].contains("publish a higher one"));
    assert_eq!(bytes(loader.catalog(), "a"), b"five");
    p.publish(6, &[("a", b"six")]);
    loaded(loader.load(NOW));
    assert!(loader.refused().is_empty());
    // A restarted edge takes what there is.
    p.publish(2, &[("a", b"restored from a backup")]);
    assert_eq!(loaded(p.loader(u64::MAX).load(NOW)).generation, 2);
    p.publish(0, &[("a", b"nought")]);
    assert!(matches!(p.loader(u64::MAX).load(NOW), Outcome::Refused));
}

#[test]
fn a_manifest_that_is_unfit_or_gone_changes_nothing() {
    let p = Publisher::new();
    let mut loader = p.loader(u64::MAX);
    let manifest = p.publish(1, &[("a", b"one")]);
    loaded(loader.load(NOW));
    let good = manifest.to_bytes();
    for bad in [&b""[..], b"{}", &good[..good.len() / 2], &[b' '; MAX + 1]] {
        p.write(bad);
        assert!(matches!(loader.load(NOW), Outcome::Refused));
        assert_eq!(bytes(loader.catalog(), "a"), b"one");
    }
    fs::remove_file(p.0.path().join("publish/manifest.json")).unwrap();
    assert!(matches!(loader.load(NOW), Outcome::Refused));
    assert!(loader.refused()["manifest.json"].contains("generation 1 goes on being served"));
    p.write(&good);
    assert!(matches!(loader.load(NOW), Outcome::Same));
    assert!(loader.refused().is_empty(), "mended: {:?}", loader.refused());
}
const MAX: usize = protocol::manifest::MAX_BYTES;

#[test]
fn f15_f16_a_damaged_object_keeps_the_name_on_its_old_bytes_until_it_is_mended() {
    let p = Publisher::new();
    let mut loader = p.loader(u64::MAX);
    p.publish(1, &[("a", b"good old"), ("b", b"fine")]);
    loaded(loader.load(NOW));
    let entries = p.publish(2, &[("a", b"new bytes"), ("b", b"finer"), ("n", b"brand new")]).entries;
    fs::write(p.object(entries["a"].object), b"new").unwrap();
    fs::write(p.object(entries["n"].object), b"brand NEW").unwrap();
    let catalog = loaded(loader.load(NOW));
    assert_eq!((catalog.generation, bytes(&catalog, "a"), bytes(&catalog, "b")), (2, &b"good old"[..], &b"finer"[..]));
    assert!(catalog.get("n").is_none() && catalog.refused("n") && !catalog.refused("a"));
    assert_eq!(loader.refused().keys().collect::<Vec<_>>(), ["a", "n"]);
    assert!(
        loader.refused()["a"].contains("truncated or damaged")
            && loader.refused()["a"].contains("goes on being served")
    );
    assert!(matches!(loader.load(NOW), Outcome::Same), "nothing new while it is not mended");
    p.put(b"new bytes");
    p.put(b"brand new");
    let catalog = loaded(loader.load(NOW));
    assert_eq!((bytes(&catalog, "a"), bytes(&catalog, "n")), (&b"new bytes"[..], &b"brand new"[..]));
    assert!(loader.refused().is_empty() && catalog.refused.is_empty());
}

#[test]
fn a_name_that_moves_to_other_bytes_gets_a_later_date_even_if_the_clock_does_not_move() {
    let p = Publisher::new();
    let mut loader = p.loader(u64::MAX);
    p.publish(1, &[("a", b"one"), ("b", b"same")]);
    loaded(loader.load(NOW));
    p.publish(2, &[("a", b"two"), ("b", b"same")]);
    let catalog = loaded(loader.load(NOW - 86_400));
    assert_eq!((catalog.get("a").unwrap().modified, catalog.get("b").unwrap().modified), (NOW + 1, NOW));
}

#[test]
fn memory_of_the_old_generation_is_lent_to_the_next_as_soon_as_it_is_free() {
    let p = Publisher::new();
    let mut loader = p.loader(1000);
    p.publish(1, &[("a", &[1; 900])]);
    let transfer = loaded(loader.load(NOW)).get("a").unwrap().image.clone();
    p.publish(2, &[("b", &[2; 900])]);
    assert!(loaded(loader.load(NOW)).names.is_empty());
    assert!(loader.refused()["b"].contains("--memory-budget"));
    assert!(matches!(loader.load(NOW), Outcome::Same));
    drop(transfer);
    assert_eq!(bytes(&loaded(loader.load(NOW)), "b"), [2; 900]);
}

/// The thread, as `main` starts it.
fn start(p: &Publisher, memory_budget: Option<u64>) -> (Feed, Receiver<Arc<Catalog>>, Arc<Metrics>) {
    let (tell, told) = channel();
    let metrics = Metrics::new(1);
    let listen = BTreeMap::from([("http".to_owned(), vec!["10.0.0.1:8080".to_owned()])]);
    let config = Config { state_dir: p.0.path().to_owned(), memory_budget, driver: "epoll".into(), listen };
    let feed = Feed::start(config, &metrics, move |catalog| drop(tell.send(catalog))).unwrap();
    (feed, told, metrics)
}

const SOON: Duration = Duration::from_secs(20);

/// Waits until `edge.state` is as it should be.
fn state(p: &Publisher, good: impl Fn(&EdgeState) -> bool) -> EdgeState {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let text = fs::read(p.0.path().join("edge/edge.state")).unwrap_or_default();
        match serde_json::from_slice::<EdgeState>(&text) {
            Ok(state) if good(&state) => return state,
            other => assert!(std::time::Instant::now() < deadline, "{other:?}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_feed_follows_what_is_published_and_answers() {
    let p = Publisher::new();
    let (feed, told, metrics) = start(&p, Some(1 << 20));
    let at_start = state(&p, |_| true);
    assert_eq!((at_start.generation, at_start.pid, at_start.driver.as_str()), (0, std::process::id(), "epoll"));
    assert_eq!(at_start.listen["http"], ["10.0.0.1:8080"]);
    for generation in 1..4u8 {
        p.publish(generation.into(), &[("a", &[generation; 100])]);
        let catalog = told.recv_timeout(SOON).unwrap();
        assert_eq!((catalog.generation, bytes(&catalog, "a")), (generation.into(), &[generation; 100][..]));
        state(&p, |s| s.generation == u64::from(generation) && s.refused.is_empty());
    }
    assert_eq!(metrics.generation.get(), 3);
    p.write(b"junk");
    state(&p, |s| s.generation == 3 && s.refused.contains_key("manifest.json"));
    assert_eq!(metrics.bad_manifests.get(), 1);
    drop(feed);
    assert!(told.recv_timeout(SOON).is_err(), "the thread has ended");
}

#[test]
fn a_started_feed_serves_the_last_manifest_and_mends_by_itself() {
    let p = Publisher::new();
    let manifest = p.publish(7, &[("a", b"bytes")]);
    fs::remove_file(p.object(manifest.entries["a"].object)).unwrap();
    let (_feed, told, _) = start(&p, None);
    assert!(told.recv_timeout(SOON).unwrap().names.is_empty());
    state(&p, |s| s.generation == 7 && s.refused["a"].contains("missing"));
    p.put(b"bytes");
    assert_eq!(bytes(&told.recv_timeout(SOON).unwrap(), "a"), b"bytes");
    state(&p, |s| s.refused.is_empty());
}

#[test]
fn a_folder_that_appears_late_or_is_replaced_is_found() {
    let p = Publisher::new();
    let publish = p.0.path().join("publish");
    fs::remove_dir_all(&publish).unwrap();
    let (_feed, told, _) = start(&p, None);
    state(&p, |s| s.generation == 0);
    let above = Watch::new(&publish).unwrap();
    assert!(above.above, "its coming is told by the kernel, not found by looking");
    fs::create_dir_all(publish.join("objects/sha256")).unwrap();
    p.publish(1, &[("a", b"one")]);
    assert_eq!(told.recv_timeout(SOON).unwrap().generation, 1);
    assert!(above.is_over() && !Watch::new(&publish).unwrap().above);
    fs::rename(&publish, p.0.path().join("publish.old")).unwrap();
    fs::create_dir_all(publish.join("objects/sha256")).unwrap();
    p.publish(2, &[("a", b"two")]);
    assert_eq!(told.recv_timeout(SOON).unwrap().generation, 2);
}

#[test]
fn wishes_for_framed_forms_are_granted_by_the_feed() {
    let p = Publisher::new();
    p.publish(1, &[("ipxe.efi", &[3; 5000])]);
    let (_feed, told, metrics) = start(&p, None);
    let catalog = told.recv_timeout(SOON).unwrap();
    let image = &catalog.get("ipxe.efi").unwrap().image;
    let deadline = std::time::Instant::now() + SOON;
    while image.framed(1432).is_none() {
        assert!(std::time::Instant::now() < deadline);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(image.framed(1432).unwrap().blocks(), 4);
    assert_eq!(metrics.framed_bytes(), 5000 + 4 * 4);
}
