//! The store of objects: the only files that the edge opens for nodes, and
//! never by a name that a node sent.

use super::budget::Budget;
use super::image::{Image, LoadError};
use crate::ring::Waker;
use protocol::manifest::ObjectId;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// An open `objects` folder.
pub struct Objects {
    root: OwnedFd,
}

impl Objects {
    /// Opens the folder; everything else happens beneath it.
    ///
    /// # Errors
    /// Where it does not exist or may not be entered.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())? })
    }

    /// Opens, verifies and copies one object.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        &self,
        id: ObjectId,
        length: u64,
        budget: &Arc<Budget>,
        framer: Option<Waker>,
    ) -> Result<Arc<Image>, LoadError> {
        let file = self.open_object(id).map_err(|e| match e {
            Errno::NOENT => LoadError::Missing(id),
            Errno::LOOP => LoadError::NotAFile(id),
            other => LoadError::Unreadable { id, why: other.into() },
        })?;
        let stat = rustix::fs::fstat(&file).map_err(|e| LoadError::Unreadable { id, why: e.into() })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(LoadError::NotAFile(id));
        }
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != length {
            return Err(LoadError::Length { id, expected: length, found });
        }
        Image::load(&File::from(file), id, length, budget, framer)
    }

    fn open_object(&self, id: ObjectId) -> Result<OwnedFd, Errno> {
        // NONBLOCK: a FIFO in the store must not hang the feed.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, format!("sha256/{id}"), flags, Mode::empty(), resolve) {
            // Before Linux 5.6, or refused by a seccomp filter that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => open_by_steps(&self.root, &id.to_string(), flags),
            other => other,
        }
    }
}

/// The same promise without openat2: both names are plain, neither may be a link.
fn open_by_steps(root: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(root, "sha256", folder, Mode::empty())?;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}
