//! The life of a machine on real firmware: powered on, discovered, accepted,
//! wiped, switched off, allocated, installed, running, released, wiped, off.
//!
//! The machine is a virtual one with a BMC that really switches it and honours
//! the boot device; the operator's part is done by the `stoker` command. Time
//! limits are what only a hang exceeds.

mod image;
mod story;
mod variants;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Holds off the other cases of this binary: a machine under emulation takes a core.
fn lock() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
