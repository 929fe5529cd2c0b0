//! Gives up what only opening sockets needed.
//!
//! Called while the process has one thread: the kernel keeps user and
//! capabilities for each thread, and those started later inherit from this one.

use crate::config::User;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use std::io;

/// Raises what this process may use as far as it is allowed, before it gives that right up.
pub fn raise_limits() {
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    // Registered images count here; without the right to raise it, zero-copy has to do without registration.
    let unlimited = Rlimit { current: None, maximum: None };
    if rustix::process::setrlimit(Resource::Memlock, unlimited).is_err() {
        let locked = rustix::process::getrlimit(Resource::Memlock);
        let _ = rustix::process::setrlimit(Resource::Memlock, Rlimit { current: locked.maximum, ..locked });
    }
}

/// Becomes `user` where one is given, drops every capability, and never gets any again.
///
/// # Errors
/// The step that failed, in words. The edge must not go on then.
pub fn drop(user: Option<User>) -> Result<(), String> {
    let step = |what: &str, result: rustix::io::Result<()>| {
        result.map_err(|e| format!("cannot {what}: {}", io::Error::from(e)))
    };
    step("forbid new privileges", thread::set_no_new_privs(true))?;
    if let Some(User { uid, gid }) = user
        && (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()) != (uid, gid)
    {
        let hint = "become the user of --user (start the edge as root, or with CAP_SETUID and CAP_SETGID)";
        step(hint, thread::set_thread_groups(&[]))?;
        step(hint, thread::set_thread_gid(Gid::from_raw(gid)))?;
        step(hint, thread::set_thread_uid(Uid::from_raw(uid)))?;
    }
    let none = CapabilitySet::empty();
    step(
        "drop capabilities",
        thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_stays_dropped() {
        // In a thread of its own, since the test runner needs its privileges.
        let was_root = rustix::process::getuid().is_root();
        std::thread::spawn(move || {
            let user = was_root.then_some(User { uid: 65534, gid: 65534 });
            super::drop(user).unwrap();
            let left = thread::capabilities(None).unwrap();
            assert!(left.effective.is_empty() && left.permitted.is_empty());
            if was_root {
                // Nobody again may become root, nor read what is root's alone.
                assert!(thread::set_thread_uid(Uid::ROOT).is_err());
                assert!(std::fs::read("/etc/shadow").is_err());
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_user_that_cannot_be_become_is_an_error() {
        std::thread::spawn(|| {
            super::drop(None).unwrap();
            let error = super::drop(Some(User { uid: 12345, gid: 12345 })).unwrap_err();
            assert!(error.contains("--user"), "{error}");
        })
        .join()
        .unwrap();
    }
}
