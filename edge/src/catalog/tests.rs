//! Objects in every state of health, and who keeps them alive.

use super::image::LoadError;
use super::objects::Objects;
use super::*;
use crate::limits;
use protocol::manifest::ObjectId;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Store {
    dir: TempDir,
    budget: Arc<Budget>,
}

impl Store {
    fn new(limit: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sha256")).unwrap();
        Self { dir, budget: Budget::new(limit) }
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.dir.path().join("sha256").join(id.to_string())
    }

    fn put(&self, bytes: &[u8]) -> ObjectId {
        let id = ObjectId::of(bytes);
        fs::write(self.path(id), bytes).unwrap();
        id
    }

    fn load(&self, id: ObjectId, length: u64) -> Result<Arc<Image>, LoadError> {
        Objects::open(self.dir.path()).unwrap().load(id, length, &self.budget, None)
    }
}

#[test]
fn a_good_object_is_loaded_whole() {
    let store = Store::new(u64::MAX);
    for bytes in [&b""[..], b"x", &[7; 3 << 20]] {
        let id = store.put(bytes);
        let image = store.load(id, bytes.len() as u64).unwrap();
        assert!(image.bytes() == bytes && image.id() == id && image.len() == bytes.len() as u64);
        assert_eq!(rustix::fs::fstat(image.fd()).unwrap().st_size as usize, bytes.len());
    }
}

#[test]
fn f15_a_damaged_or_truncated_object_is_refused() {
    let store = Store::new(u64::MAX);
    let id = store.put(&[1; 5000]);
    fs::write(store.path(id), [1; 4999]).unwrap();
    assert!(matches!(store.load(id, 5000), Err(LoadError::Length { expected: 5000, found: 4999, .. })));
    assert!(matches!(store.load(id, 4999), Err(LoadError::Digest { .. })), "the manifest lies about the length too");
    fs::write(store.path(id), [2; 5000]).unwrap();
    assert!(matches!(store.load(id, 5000), Err(LoadError::Digest { .. })));
    fs::remove_file(store.path(id)).unwrap();
    assert!(matches!(store.load(id, 5000), Err(LoadError::Missing(_))));
    assert_eq!(store.budget.used(), 0, "a refused object keeps no memory");
}

#[test]
fn t17_links_folders_and_fifos_in_the_store_are_refused() {
    let store = Store::new(u64::MAX);
    let outside = tempfile::NamedTempFile::new().unwrap();
    let link = ObjectId::of(b"link");
    std::os::unix::fs::symlink(outside.path(), store.path(link)).unwrap();
    assert!(matches!(store.load(link, 0), Err(LoadError::NotAFile(_))));
    let folder = ObjectId::of(b"folder");
    fs::create_dir(store.path(folder)).unwrap();
    assert!(matches!(store.load(folder, 0), Err(LoadError::NotAFile(_))));
    let fifo = ObjectId::of(b"fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, store.path(fifo), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(store.load(fifo, 0), Err(LoadError::NotAFile(_))));
    let real = store.dir.path().join("sha256");
    fs::rename(&real, store.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &real).unwrap();
    assert!(matches!(store.load(ObjectId::of(b""), 0), Err(LoadError::NotAFile(_))), "a link on the way");
}

#[test]
fn t66_t67_h38_a_loaded_image_does_not_care_what_becomes_of_its_file() {
    let store = Store::new(u64::MAX);
    let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let id = store.put(&bytes);
    let image = store.load(id, bytes.len() as u64).unwrap();
    let file = fs::OpenOptions::new().write(true).open(store.path(id)).unwrap();
    file.set_len(10).unwrap();
    assert!(image.bytes() == bytes, "truncated in place");
    fs::write(store.path(id), vec![0; bytes.len()]).unwrap();
    assert!(image.bytes() == bytes, "overwritten in place");
    fs::remove_file(store.path(id)).unwrap();
    assert!(image.bytes() == bytes, "removed");
}

#[test]
fn over_the_budget_the_refusal_says_what_to_do_and_old_images_give_back() {
    let store = Store::new(1000);
    let (a, b) = (store.put(&[1; 600]), store.put(&[2; 500]));
    let first = store.load(a, 600).unwrap();
    let refused = store.load(b, 500).map(drop).unwrap_err();
    assert!(
        refused.to_string().contains("400 of the 1000 bytes for images are left; raise --memory-budget"),
        "{refused}"
    );
    let transfer = first.clone();
    drop(first);
    assert!(store.load(b, 500).is_err(), "a transfer still holds the old one");
    drop(transfer);
    store.load(b, 500).unwrap();
}

#[test]
fn framed_forms_are_made_off_the_path_when_they_are_wished_for() {
    let image = Image::from_bytes(&[9; 3000]).unwrap();
    assert!(image.framed(1468).is_none() && image.framed(1468).is_none());
    assert!(image.framed(1469).is_none(), "no common block size");
    assert_eq!(image.wanted().collect::<Vec<_>>(), [1468]);
    let budget = Budget::new(limits::FRAMED_BUDGET);
    assert_eq!(image.make_framed(1468, &budget).unwrap().unwrap().blocks(), 3);
    assert_eq!(image.framed(1468).unwrap().bytes().len(), 3000 + 3 * 4);
    assert_eq!((image.wanted().count(), budget.used()), (0, 3012));
    drop(image);
    assert_eq!(budget.used(), 0);

    let initrd = Image::from_bytes(&vec![0; limits::FRAMED_IMAGE_MAX as usize + 1]).unwrap();
    assert!(initrd.framed(1468).is_none() && initrd.wanted().next().is_none());
    assert!(initrd.make_framed(1468, &budget).unwrap().is_none());
}
