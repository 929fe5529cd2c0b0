//! The lease book: who has which address, in memory.
//!
//! Nothing here waits or writes. Decisions read it; [`Change`]s alter it; the
//! journal (`store::leases`) keeps the durable ones, and hands them back at start.

use protocol::dhcp::ClientKey;
use protocol::id::Mac;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

/// What is known of one address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Whose it is, or was last.
    pub key: Vec<u8>,
    /// Its MAC, where it has one.
    pub mac: Option<Mac>,
    /// In which way it is theirs.
    pub state: State,
    /// Until when, seconds since 1970 UTC. After that it is free, but remembered.
    pub until: u64,
}

/// The states of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Set aside for a client while we look whether somebody uses it.
    Probing,
    /// Offered; waiting for the client's DHCPREQUEST.
    Offered,
    /// Leased.
    Leased,
    /// Given back; kept for the same client as long as nobody else needs it.
    Released,
    /// Declined or found in use by somebody we do not know.
    Quarantined,
}

/// One alteration of the book.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Set an address's entry.
    Set(Ipv4Addr, Entry),
    /// Forget an address that was only offered.
    Forget(Ipv4Addr),
    /// The pools of this subnet were found full until this time.
    Full(usize, u64),
}

impl Change {
    /// Whether it must survive a crash. Offers need not: the client asks again.
    pub const fn durable(&self) -> bool {
        matches!(self, Self::Set(_, Entry { state: State::Leased | State::Released | State::Quarantined, .. }))
    }
}

/// All addresses that were ever given, by address and by client.
#[derive(Clone, Debug, Default)]
pub struct Book {
    entries: BTreeMap<Ipv4Addr, Entry>,
    clients: HashMap<Vec<u8>, Vec<Ipv4Addr>>,
    unsaved: HashMap<Ipv4Addr, u32>,
    full: BTreeMap<usize, u64>,
}

impl Book {
    /// From what the journal kept.
    pub fn load(entries: impl IntoIterator<Item = (Ipv4Addr, Entry)>) -> Self {
        let mut book = Self::default();
        for (address, entry) in entries {
            book.set(address, entry);
        }
        book
    }

    /// Applies a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Set(address, entry) => self.set(address, entry),
            Change::Forget(address) => self.forget(address),
            Change::Full(subnet, until) => {
                self.full.insert(subnet, until);
            }
        }
    }

    fn set(&mut self, address: Ipv4Addr, entry: Entry) {
        self.forget(address);
        self.clients.entry(entry.key.clone()).or_default().push(address);
        self.entries.insert(address, entry);
    }

    fn forget(&mut self, address: Ipv4Addr) {
        self.full.clear();
        let Some(old) = self.entries.remove(&address) else { return };
        if let Some(list) = self.clients.get_mut(&old.key) {
            list.retain(|a| *a != address);
            if list.is_empty() {
                self.clients.remove(&old.key);
            }
        }
    }

    /// What is known of an address.
    pub fn get(&self, address: Ipv4Addr) -> Option<&Entry> {
        self.entries.get(&address)
    }

    /// The addresses that a client has or had, the latest last.
    pub fn of<'a>(&'a self, key: &'a ClientKey) -> impl Iterator<Item = (Ipv4Addr, &'a Entry)> {
        self.clients
            .get(&key.0)
            .into_iter()
            .flatten()
            .filter_map(|address| Some((*address, self.entries.get(address)?)))
    }

    /// Until when the pools of a subnet are known to be full.
    pub fn full_until(&self, subnet: usize) -> Option<u64> {
        self.full.get(&subnet).copied()
    }

    /// A durable change to this address was handed to the journal.
    pub fn saving(&mut self, address: Ipv4Addr) {
        *self.unsaved.entry(address).or_default() += 1;
    }

    /// The journal has it on disk.
    pub fn saved(&mut self, address: Ipv4Addr) {
        if let Some(count) = self.unsaved.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.unsaved.remove(&address);
            }
        }
    }

    /// Whether all that is known of an address is on disk.
    pub fn is_saved(&self, address: Ipv4Addr) -> bool {
        !self.unsaved.contains_key(&address)
    }

    /// How many addresses are leased now.
    pub fn leased(&self, now: u64) -> usize {
        self.entries.values().filter(|e| e.state == State::Leased && e.until > now).count()
    }

    /// Every address with its entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Entry)> {
        self.entries.iter().map(|(a, e)| (*a, e))
    }
}
