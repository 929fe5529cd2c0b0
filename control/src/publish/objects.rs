//! The folder of objects: immutable files named by their SHA-256. Written
//! beside, flushed, renamed: a name that exists is whole.

use super::PublishError;
use protocol::manifest::{Entry, ObjectId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Clone, Debug)]
pub struct Objects {
    folder: PathBuf,
    incoming: PathBuf,
}

/// An object that is in the folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// Its digest and name.
    pub object: ObjectId,
    /// Its length, bytes.
    pub length: u64,
}

impl Stored {
    /// As a manifest names it.
    pub fn entry(self, content_type: &str) -> Entry {
        Entry { object: self.object, length: self.length, content_type: content_type.to_owned() }
    }
}

impl Objects {
    /// Makes the folders below `publish`.
    pub(super) fn open(publish: &Path) -> Result<Self, PublishError> {
        let objects = Self { folder: publish.join("objects/sha256"), incoming: publish.join("incoming") };
        for folder in [&objects.folder, &objects.incoming] {
            fs::create_dir_all(folder).map_err(|e| disk(folder, e))?;
        }
        // The edge runs as another user and must be able to read all of it.
        for folder in [publish, &publish.join("objects"), &objects.folder] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(|e| disk(folder, e))?;
        }
        Ok(objects)
    }

    /// Where an object is.
    pub fn path(&self, id: ObjectId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// Where files that are being fetched lie, on the same file system.
    pub fn incoming(&self) -> &Path {
        &self.incoming
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, bytes: &[u8]) -> Result<Stored, PublishError> {
        let stored = Stored { object: ObjectId::of(bytes), length: bytes.len() as u64 };
        let path = self.path(stored.object);
        if fs::metadata(&path).is_ok_and(|m| m.len() == stored.length) {
            return Ok(stored);
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.incoming).map_err(|e| disk(&path, e))?;
        file.write_all(bytes).map_err(|e| disk(&path, e))?;
        self.take(file.into_temp_path().keep().map_err(|e| disk(&path, e.error))?.as_path(), stored)?;
        Ok(stored)
    }

    /// Takes over a whole, checked file of this file system under its digest.
    ///
    /// # Errors
    /// When the disk refuses; the file is then removed.
    pub fn take(&self, file: &Path, stored: Stored) -> Result<(), PublishError> {
        let path = self.path(stored.object);
        let moved = File::open(file)
            .and_then(|f| {
                f.set_permissions(fs::Permissions::from_mode(0o444))?;
                f.sync_all()
            })
            .and_then(|()| fs::rename(file, &path))
            .and_then(|()| sync_folder(&self.folder));
        moved.map_err(|e| {
            let _ = fs::remove_file(file);
            disk(&path, e)
        })
    }

    /// Copies a file in, checking it on the way.
    ///
    /// # Errors
    /// When it cannot be read or stored.
    pub fn copy(&self, from: &Path) -> Result<Stored, PublishError> {
        let mut source = File::open(from).map_err(|e| disk(from, e))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.incoming).map_err(|e| disk(&self.incoming, e))?;
        let stored = pump(&mut source, |chunk| file.write_all(chunk)).map_err(|e| disk(from, e))?;
        let kept = file.into_temp_path().keep().map_err(|e| disk(from, e.error))?;
        self.take(&kept, stored)?;
        Ok(stored)
    }

    /// Whether an object is there, whole and unharmed: reads and hashes it.
    pub fn verify(&self, wanted: Stored) -> bool {
        let Ok(mut file) = File::open(self.path(wanted.object)) else { return false };
        file.metadata().is_ok_and(|m| m.len() == wanted.length)
            && pump(&mut file, |_| Ok(())).is_ok_and(|s| s == wanted)
    }

    /// Every object in the folder.
    pub fn list(&self) -> BTreeSet<ObjectId> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return BTreeSet::new() };
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
    }

    /// Removes an object; says whether it went.
    pub fn remove(&self, id: ObjectId) -> bool {
        fs::remove_file(self.path(id)).is_ok()
    }
}

/// Reads all of `source`, hashing it and handing over each piece.
pub fn pump(source: &mut impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Stored> {
    let mut buffer = vec![0; 256 << 10];
    let (mut hash, mut length) = (Sha256::new(), 0_u64);
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => return Ok(Stored { object: ObjectId(hash.finalize().into()), length }),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let piece = buffer.get(..n).unwrap_or_default();
        hash.update(piece);
        each(piece)?;
        length += n as u64;
    }
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn disk(path: &Path, source: io::Error) -> PublishError {
    PublishError::Disk { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_its_digest_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path()).unwrap();
        let stored = objects.put(b"hello").unwrap();
        assert_eq!(stored, Stored { object: ObjectId::of(b"hello"), length: 5 });
        assert!(objects.verify(stored));
        let path = objects.path(stored.object);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"hellO").unwrap();
        assert!(!objects.verify(stored), "same length, other bytes");
        let from = dir.path().join("from");
        fs::write(&from, b"hello").unwrap();
        assert_eq!(objects.copy(&from).unwrap(), stored);
        assert!(objects.verify(stored), "a copy repairs it");
        assert_eq!(fs::read_dir(objects.incoming()).unwrap().count(), 0);
    }
}
