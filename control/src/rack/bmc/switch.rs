//! A machine that is only a flag.

use super::{Action, Boot, Chassis};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Remembers what was done to it. A handle, cheap to copy.
#[derive(Clone, Default)]
pub struct Switch(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    on: bool,
    starts: u64,
    done: Vec<String>,
}

impl Switch {
    /// What was done, in order.
    pub fn done(&self) -> Vec<String> {
        self.log().done.clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chassis for Switch {
    fn is_on(&mut self) -> bool {
        self.log().on
    }

    fn power(&mut self, action: Action) {
        let mut log = self.log();
        let (on, starts, word) = match action {
            Action::On => (true, !log.on, "on"),
            Action::Off => (false, false, "off"),
            Action::Cycle => (true, true, "cycle"),
            Action::Reset => (log.on, log.on, "reset"),
            Action::Soft => (false, false, "soft"),
        };
        log.on = on;
        log.starts += u64::from(starts);
        log.done.push(word.to_owned());
    }

    fn boot_from(&mut self, boot: Boot) {
        let lasting = if boot.persistent { "always" } else { "once" };
        self.log().done.push(format!("boot {:?} {lasting}", boot.device));
    }

    fn starts(&mut self) -> u64 {
        self.log().starts
    }
}
