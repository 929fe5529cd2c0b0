//! The object's file beside its sealed copy: a cheaper source for `sendfile`.
//!
//! The page cache hands `sendfile` pages by the batch, a memfd of small pages
//! one by one, which costs two to three times as much (docs/PERFORMANCE.md).
//! So a body may go out of the file, one quantum at a time, as long as the file
//! is the one that was verified and its bytes are in memory. Whenever that is
//! not certain, and whenever the file comes out short, the sealed copy serves:
//! the file can neither change what is served later nor make it short.

use crate::limits::{ORIGIN_PIECE, ORIGIN_PROBE, ORIGIN_TRUST_MS};
use rustix::fs::Stat;
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// A verified object's file, and how it looked before it was read.
pub struct Origin {
    file: File,
    stamp: Stamp,
    /// For each [`ORIGIN_PIECE`] of the file: until when it is taken to be in memory, ms.
    resident: Box<[AtomicU64]>,
}

/// Changes whenever somebody writes, cuts, links or unlinks the file.
#[derive(PartialEq, Eq)]
struct Stamp {
    length: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Origin {
    /// `file` as it is now; to be called before its bytes are verified. None
    /// where it would gain nothing (a tmpfs is made of the same pages as a
    /// memfd) or cannot be had (no descriptor left).
    pub fn of(file: &File) -> Option<Self> {
        const TMPFS_MAGIC: u64 = 0x0102_1994; // statfs(2)
        if rustix::fs::fstatfs(file).ok()?.f_type as u64 == TMPFS_MAGIC {
            return None;
        }
        let stamp = Stamp::from(&rustix::fs::fstat(file).ok()?);
        let pieces = u64::try_from(stamp.length).unwrap_or(0).div_ceil(ORIGIN_PIECE);
        let resident = (0..pieces).map(|_| AtomicU64::new(0)).collect();
        Some(Self { file: file.try_clone().ok()?, stamp, resident })
    }

    /// The file, where `range` of it still is what was verified, and can be
    /// sent without waiting for a disk.
    pub fn ready(&self, range: &Range<u64>) -> Option<BorrowedFd<'_>> {
        let untouched = rustix::fs::fstat(&self.file).is_ok_and(|stat| Stamp::from(&stat) == self.stamp);
        (untouched && self.in_memory(range, now_ms())).then(|| self.file.as_fd())
    }

    /// What was found in memory a moment ago is not looked for again: thousands
    /// of nodes fetch the same pieces.
    fn in_memory(&self, range: &Range<u64>, now: u64) -> bool {
        let pieces = range.start / ORIGIN_PIECE..range.end.div_ceil(ORIGIN_PIECE);
        pieces.into_iter().all(|i| {
            let Some(until) = usize::try_from(i).ok().and_then(|i| self.resident.get(i)) else { return false };
            if until.load(Ordering::Relaxed) > now {
                return true;
            }
            let end = ((i + 1) * ORIGIN_PIECE).min(u64::try_from(self.stamp.length).unwrap_or(0));
            let found = self.cached(i * ORIGIN_PIECE, end);
            if found {
                until.store(now + ORIGIN_TRUST_MS, Ordering::Relaxed);
            }
            found
        })
    }

    /// Whether the page cache has these bytes, by samples: what was read in one
    /// go leaves in large pieces. `mincore` and `cachestat` would say it in one
    /// call, but only to the owner of the file, and that is control.
    fn cached(&self, start: u64, end: u64) -> bool {
        (start..end).step_by(ORIGIN_PROBE).chain(end.checked_sub(1)).all(|at| {
            let mut byte = [0];
            let mut parts = [IoSliceMut::new(&mut byte)];
            matches!(rustix::io::preadv2(&self.file, &mut parts, at, ReadWriteFlags::NOWAIT), Ok(1))
        })
    }
}

/// The kernel's cheap clock: it moves with the timer's tick.
fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self {
            length: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    static BYTES: [u8; 300_000] = [7; 300_000];

    /// Beside the test program, since /tmp may be a tmpfs.
    fn disk() -> tempfile::TempDir {
        tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
    }

    fn object() -> (tempfile::TempDir, std::path::PathBuf, Origin) {
        let folder = disk();
        let path = folder.path().join("object");
        fs::write(&path, BYTES).unwrap();
        let origin = Origin::of(&File::open(&path).unwrap()).unwrap();
        (folder, path, origin)
    }

    #[test]
    fn a_file_that_was_left_alone_is_ready() {
        let (_folder, _, origin) = object();
        assert!(origin.ready(&(0..BYTES.len() as u64)).is_some());
        assert!(origin.ready(&(299_999..300_000)).is_some());
        assert!(origin.ready(&(5..5)).is_some());
        assert!(origin.ready(&(0..ORIGIN_PIECE + 1)).is_none(), "beyond its end");
    }

    #[test]
    fn what_is_in_memory_is_found_once_and_trusted_for_a_while() {
        let (_folder, _, origin) = object();
        assert!(origin.in_memory(&(0..10), 1000));
        assert_eq!(origin.resident[0].load(Ordering::Relaxed), 1000 + ORIGIN_TRUST_MS);
        assert!(origin.in_memory(&(0..10), 1001));
        assert_eq!(origin.resident[0].load(Ordering::Relaxed), 1000 + ORIGIN_TRUST_MS, "not looked for again");
        assert!(origin.in_memory(&(0..10), 1000 + ORIGIN_TRUST_MS));
        assert_eq!(origin.resident[0].load(Ordering::Relaxed), 1000 + 2 * ORIGIN_TRUST_MS);
    }

    #[test]
    fn h38_written_cut_or_removed_it_is_not() {
        for what in ["written in place", "cut", "longer", "removed"] {
            let (_folder, path, origin) = object();
            // File times of older kernels move with the timer's tick, 10 ms at most.
            std::thread::sleep(std::time::Duration::from_millis(20));
            match what {
                "removed" => fs::remove_file(&path).unwrap(),
                "written in place" => fs::write(&path, vec![8; BYTES.len()]).unwrap(),
                _ => {
                    let length = if what == "cut" { 10 } else { BYTES.len() as u64 + 1 };
                    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
                }
            }
            assert!(origin.ready(&(0..5)).is_none(), "{what}");
        }
    }
}
