//! What is seen of each machine, kept until something newer is seen. Not on
//! disk: after a restart the machine says it again.

use crate::limits;
use crate::plan::server::Seen;
use protocol::report::Facts;
use std::collections::BTreeMap;

/// All machines' levels.
#[derive(Default)]
pub struct Board {
    entries: BTreeMap<String, Entry>,
}

/// One machine's.
#[derive(Default)]
pub struct Entry {
    /// What plans read.
    pub seen: Seen,
    /// The inventory of the agent's present boot.
    pub facts: Option<Facts>,
    /// Its power state is being read.
    reading: bool,
    /// The set-up of its BMC whose login is being tried.
    trying: Option<(u64, u16)>,
}

impl Board {
    /// A machine's entry; a new one takes the place of any other where the board is full.
    pub fn of(&mut self, server: &str) -> &mut Entry {
        if !self.entries.contains_key(server) && self.entries.len() >= limits::MACHINES {
            self.entries.pop_first();
        }
        self.entries.entry(server.to_owned()).or_default()
    }

    /// What is seen of a machine that has an entry.
    pub fn known(&mut self, server: &str) -> Option<&mut Seen> {
        self.entries.get_mut(server).map(|e| &mut e.seen)
    }

    /// What is seen of a machine.
    pub fn seen(&self, server: &str) -> Seen {
        self.entries.get(server).map(|e| e.seen.clone()).unwrap_or_default()
    }

    /// The inventory of its agent's present boot.
    pub fn facts(&self, server: &str) -> Option<&Facts> {
        self.entries.get(server)?.facts.as_ref()
    }

    /// Its power state is to be read: whether nobody does so yet.
    pub fn reading(&mut self, server: &str) -> bool {
        !std::mem::replace(&mut self.of(server).reading, true)
    }

    /// Its power state was read, or could not be.
    pub fn read(&mut self, server: &str, on: Option<bool>, at_ms: u64) {
        let entry = self.of(server);
        entry.reading = false;
        if let Some(on) = on {
            entry.seen.power = Some((on, at_ms));
        }
    }

    /// Its BMC is to be logged in to: whether nobody does so, or has done so, for this try.
    pub fn trying(&mut self, server: &str, id: u64, logins: u16) -> bool {
        let entry = self.of(server);
        let done = entry.seen.bmc_login.as_ref().is_some_and(|(of, n, _)| (*of, *n) == (id, logins));
        !done && entry.trying.replace((id, logins)) != Some((id, logins))
    }

    /// That was done.
    pub fn tried(&mut self, server: &str, id: u64, logins: u16, result: Result<(), String>) {
        let entry = self.of(server);
        entry.trying = None;
        entry.seen.bmc_login = Some((id, logins, result));
    }

    /// A machine that is not declared any more.
    pub fn forget(&mut self, server: &str) {
        self.entries.remove(server);
    }
}
