//! The boot matrix: real firmware in QEMU, from power-on to where the case ends.
//!
//! The cases run one after another (`lock`): a machine under emulation takes a
//! core, and a loaded host would only measure itself. Time limits are four
//! times what was measured on two quiet cores under TCG, so one set of limits
//! serves hosts with KVM as well.

mod matrix;
mod rack;

use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Holds off the other cases of this binary.
fn lock() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
