//! The state directory, and how one `stoker` finds that of another.

use super::{Failure, Reach};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Points to the state directory of the running `stoker up`.
const POINTER: &str = "/run/stoker.up";

/// The state directory that a command without `--state` means.
pub fn resolve(reach: &Reach) -> PathBuf {
    if let Some(state) = &reach.state {
        return state.clone();
    }
    match std::fs::read_link(POINTER) {
        Ok(state) if state.is_dir() => state,
        _ => control::config::DEFAULT_STATE.into(),
    }
}

/// Ownership of a state directory by one `stoker up`, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    _lock: File,
}

impl Claim {
    /// Makes the directory and claims it.
    ///
    /// # Errors
    /// Another `stoker up` holds it, or it cannot be made.
    pub fn take(dir: &Path) -> Result<Self, Failure> {
        let failed = |e: &dyn std::fmt::Display| {
            Failure::Usage(format!(
                "{} cannot be used as state directory: {e}; choose another with --state",
                dir.display()
            ))
        };
        std::fs::create_dir_all(dir.join("run")).map_err(|e| failed(&e))?;
        std::fs::create_dir_all(dir.join("log")).map_err(|e| failed(&e))?;
        let dir = dir.canonicalize().map_err(|e| failed(&e))?;
        let path = dir.join("run/up.lock");
        let lock = File::options().create(true).append(true).open(path).map_err(|e| failed(&e))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(failed(&"another `stoker up` is using it"));
            }
            Err(e) => return Err(failed(&e)),
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Lets the other commands of this host find the directory. Only a
    /// convenience: without it they need `--state`.
    pub fn announce(&self) {
        let _ = std::fs::remove_file(POINTER);
        let _ = std::os::unix::fs::symlink(&self.dir, POINTER);
    }

    /// The directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if std::fs::read_link(POINTER).is_ok_and(|to| to == self.dir) {
            let _ = std::fs::remove_file(POINTER);
        }
        let _ = std::fs::remove_file(self.dir.join("run/up.lock"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let first = Claim::take(&state).unwrap();
        assert!(matches!(Claim::take(&state), Err(Failure::Usage(why)) if why.contains("another")));
        drop(first);
        Claim::take(&state).unwrap();
    }
}
