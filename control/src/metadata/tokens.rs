//! Tokens: which boot attempt of which machine a request belongs to.
//!
//! A script carries 256 random bits in its kernel arguments. Only their SHA-256
//! is kept. A token is bound to the machine that asked for the script, to its
//! address, to what it is for, and in time; one for a configuration also to the
//! allocation. Kept on disk, so that control may restart between the script and
//! the request; bounded, so that nobody fills the disk by asking for scripts.

use crate::limits;
use crate::store::{Store, StoreError};
use protocol::id::{Mac, MachineId};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

const TOKENS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("tokens");

/// What a token opens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Orders of the agent.
    Agent,
    /// The machine's configuration, and the reports of its installer and system.
    Install,
}

/// For whom a token is made.
#[derive(Clone, Debug)]
pub struct Mint {
    /// What it opens.
    pub purpose: Purpose,
    /// As iPXE said.
    pub uuid: Option<MachineId>,
    /// As iPXE said.
    pub mac: Option<Mac>,
    /// Where the request for the script came from.
    pub ip: Option<IpAddr>,
    /// The network card that has that address, where the kernel knows it ([`super::source::neighbour`]).
    pub neighbour: Option<Mac>,
    /// The allocation's uid; empty for the agent.
    pub binding: String,
}

/// Who shows a token.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// For what.
    pub purpose: Purpose,
    /// Which machine it says it is.
    pub uuid: Option<MachineId>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// The network card that has that address, where known.
    pub neighbour: Option<Mac>,
    /// The machine's present allocation; empty for none.
    pub binding: &'a str,
}

/// What a token says of its bearer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// A name of the attempt that may be logged; opens nothing.
    pub id: String,
    /// The machine that asked for the script.
    pub uuid: Option<MachineId>,
    /// Its network card.
    pub mac: Option<Mac>,
    /// When, milliseconds since 1970 UTC.
    pub minted_ms: u64,
    /// Whether it has been used before.
    pub again: bool,
}

/// Why a token opens nothing. Told to the operator, not to the one who asks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Denied {
    #[error("the token is not known: it was never given out, or newer boots of the machine have replaced it")]
    Unknown,
    #[error("the token is for another purpose")]
    Purpose,
    #[error("the token was given to machine {0}")]
    Machine(MachineId),
    #[error("the token was given to {given}, and {asks} shows it")]
    Source { given: IpAddr, asks: IpAddr },
    #[error("the token was asked for from the address of another machine ({0})")]
    Unproven(Mac),
    #[error("the token is older than {} minutes", limits::TOKEN_INSTALL_MS / 60_000)]
    Expired,
    #[error("the token is for an allocation that has ended")]
    Binding,
    #[error("the machine is installed already; its configuration is not handed out again")]
    Closed,
}

/// All tokens that open something.
pub struct Tokens {
    store: Arc<Store>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_hash: HashMap<Hash, Kept>,
    /// The hashes of each machine, oldest first.
    by_owner: BTreeMap<Owner, VecDeque<Hash>>,
    /// All hashes in the order in which they were made.
    by_age: VecDeque<Hash>,
}

type Hash = [u8; 32];
type Owner = (Purpose, String);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    purpose: Purpose,
    #[serde(default)]
    uuid: Option<MachineId>,
    #[serde(default)]
    mac: Option<Mac>,
    #[serde(default)]
    ip: Option<IpAddr>,
    /// Whose address `ip` really was, where that was another's.
    #[serde(default)]
    stranger: Option<Mac>,
    #[serde(default)]
    binding: String,
    minted_ms: u64,
    #[serde(default)]
    used: bool,
    #[serde(default)]
    closed: bool,
}

impl Tokens {
    /// Reads those that are there. One that cannot be read opens nothing and is left out.
    ///
    /// # Errors
    /// When the store fails.
    pub fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let mut rows = Vec::new();
        let txn = store.read()?;
        match txn.open_table(TOKENS) {
            Ok(table) => {
                for row in table.iter()?.take(limits::TOKENS) {
                    let (hash, bytes) = row?;
                    if let (Ok(hash), Ok(kept)) =
                        (Hash::try_from(hash.value()), serde_json::from_slice::<Kept>(bytes.value()))
                    {
                        rows.push((hash, kept));
                    }
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(e) => return Err(e.into()),
        }
        drop(txn);
        rows.sort_by_key(|(_, kept)| kept.minted_ms);
        let mut known = Known::default();
        for (hash, kept) in rows {
            drop(known.insert(hash, kept));
        }
        Ok(Self { store, known: Mutex::new(known) })
    }

    /// Makes a token; returns when it is on disk. The oldest of the machine's
    /// ([`limits::TOKENS_PER_MACHINE`]) and of all ([`limits::TOKENS`]) end.
    ///
    /// # Errors
    /// When the store fails, or the kernel has no random numbers.
    pub async fn mint(&self, mint: Mint, now_ms: u64) -> Result<(String, String), StoreError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| StoreError::Failed(format!("no random numbers: {e}")))?;
        let token = hex(&random);
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        let stranger = mint.neighbour.filter(|n| mint.mac.is_some_and(|m| m != *n));
        let kept = Kept {
            purpose: mint.purpose,
            uuid: mint.uuid.filter(|u| !u.is_placeholder()),
            mac: mint.mac,
            ip: mint.ip,
            stranger,
            binding: mint.binding,
            minted_ms: now_ms,
            used: false,
            closed: false,
        };
        let bytes = serde_json::to_vec(&kept).map_err(|e| StoreError::Failed(e.to_string()))?;
        let gone = self.lock().insert(hash, kept);
        self.store
            .write(move |txn| {
                let mut table = txn.open_table(TOKENS)?;
                for hash in &gone {
                    table.remove(hash.as_slice())?;
                }
                table.insert(hash.as_slice(), bytes.as_slice())?;
                Ok(())
            })
            .await?;
        Ok((token, id(&hash)))
    }

    /// Whether a token opens what is asked for. Changes nothing.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn check(&self, token: &str, ask: Ask<'_>, now_ms: u64) -> Result<Grant, Denied> {
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        let known = self.lock();
        let kept = known.by_hash.get(&hash).ok_or(Denied::Unknown)?;
        judge(kept, ask, now_ms)?;
        Ok(Grant { id: id(&hash), uuid: kept.uuid, mac: kept.mac, minted_ms: kept.minted_ms, again: kept.used })
    }

    /// Remembers that a token has opened something.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn used(&self, token: &str) -> Result<(), StoreError> {
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        let changed = {
            let mut known = self.lock();
            known.by_hash.get_mut(&hash).filter(|kept| !kept.used).map(|kept| {
                kept.used = true;
                (hash, kept.clone())
            })
        };
        self.keep(changed.into_iter().collect()).await
    }

    /// Ends what the tokens of an allocation open of its configuration: the machine is installed.
    /// Its reports are still heard ([`Tokens::check`] with [`Denied::Closed`] tells so).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn close(&self, binding: &str) -> Result<(), StoreError> {
        let changed: Vec<_> = {
            let mut known = self.lock();
            let open = known.by_hash.iter_mut().filter(|(_, kept)| !kept.closed && kept.binding == binding);
            open.filter(|_| !binding.is_empty())
                .map(|(hash, kept)| {
                    kept.closed = true;
                    (*hash, kept.clone())
                })
                .collect()
        };
        self.keep(changed).await
    }

    async fn keep(&self, changed: Vec<(Hash, Kept)>) -> Result<(), StoreError> {
        if changed.is_empty() {
            return Ok(());
        }
        let rows: Vec<(Hash, Vec<u8>)> = changed
            .into_iter()
            .filter_map(|(hash, kept)| serde_json::to_vec(&kept).ok().map(|bytes| (hash, bytes)))
            .collect();
        self.store
            .write(move |txn| {
                let mut table = txn.open_table(TOKENS)?;
                for (hash, bytes) in &rows {
                    table.insert(hash.as_slice(), bytes.as_slice())?;
                }
                Ok(())
            })
            .await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Adds a token; returns those that ended for it.
    fn insert(&mut self, hash: Hash, kept: Kept) -> Vec<Hash> {
        let owner = owner(&kept);
        let mut gone = Vec::new();
        let row = self.by_owner.entry(owner).or_default();
        row.push_back(hash);
        if row.len() > limits::TOKENS_PER_MACHINE {
            gone.extend(row.pop_front());
        }
        self.by_hash.insert(hash, kept);
        self.by_age.push_back(hash);
        // Those that ended already are skipped; so `by_age` may hold some of them, at most as many as live.
        while self.by_hash.len() - gone.len() > limits::TOKENS || self.by_age.len() > 2 * limits::TOKENS {
            let Some(oldest) = self.by_age.pop_front() else { break };
            if let Some(kept) = self.by_hash.get(&oldest) {
                let owner = self::owner(kept);
                if let Some(row) = self.by_owner.get_mut(&owner) {
                    row.retain(|h| *h != oldest);
                    if row.is_empty() {
                        self.by_owner.remove(&owner);
                    }
                }
                gone.push(oldest);
            }
        }
        for hash in &gone {
            self.by_hash.remove(hash);
        }
        gone
    }
}

fn owner(kept: &Kept) -> Owner {
    let name = kept.uuid.map(|u| u.to_string()).or_else(|| kept.mac.map(|m| m.to_string())).unwrap_or_default();
    (kept.purpose, name)
}

/// Whether a token that is known opens what is asked for.
fn judge(kept: &Kept, ask: Ask<'_>, now_ms: u64) -> Result<(), Denied> {
    if kept.purpose != ask.purpose {
        return Err(Denied::Purpose);
    }
    if let (Some(given), Some(asks)) = (kept.uuid, ask.uuid)
        && given != asks
        && given.swapped() != asks
    {
        return Err(Denied::Machine(given));
    }
    if let Some(stranger) = kept.stranger {
        return Err(Denied::Unproven(stranger));
    }
    // A machine may get another address when its system asks DHCP anew; its network card tells that it is the same.
    let same_card = ask.neighbour.is_some() && ask.neighbour == kept.mac;
    let foreign_card = ask.neighbour.is_some() && kept.mac.is_some() && !same_card;
    if let (Some(given), Some(asks)) = (kept.ip, ask.ip)
        && (foreign_card || given != asks && !same_card)
    {
        return Err(Denied::Source { given, asks });
    }
    if kept.purpose == Purpose::Install {
        if kept.binding != ask.binding {
            return Err(Denied::Binding);
        }
        if kept.closed {
            return Err(Denied::Closed);
        }
        if now_ms.saturating_sub(kept.minted_ms) > limits::TOKEN_INSTALL_MS {
            return Err(Denied::Expired);
        }
    }
    Ok(())
}

/// The first 8 hex digits of the hash: enough to tell attempts apart.
fn id(hash: &Hash) -> String {
    hex(hash.get(..4).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
