//! Which machine is which Server: what an agent reports becomes a Server's
//! hardware, and what firmware says of itself is tied to a Server's name.
//!
//! A Server is named by its SMBIOS UUID. Firmware that has none of its own
//! (zero, all ones, the board maker's sample) gets a name made of its serial
//! number or network card, with `spec.identity` saying so. A second machine
//! that claims a UUID is nobody until the operator tells them apart (F33).

mod hardware;

pub use hardware::hardware;

use crate::api::types::MachineRecord;
use crate::metadata::words::clean;
use crate::objects::{Error, Objects};
use crate::resource::{Identity, Kind, Meta, Server, ServerSpec, ServerStatus, Typed};
use crate::store::machines::Machines;
use protocol::id::{Mac, MachineId};
use protocol::report::Facts;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Tries to write a Server that others write to as well.
const TRIES: usize = 8;

/// Network cards of a machine that it is known by.
const CARDS: usize = 16;

/// Servers by what machines say of themselves.
pub struct Inventory<O: Objects> {
    objects: O,
    machines: Arc<Machines>,
    /// Names of Servers that bear an identity, by serial number and by card.
    known: Mutex<BTreeMap<String, Identity>>,
}

/// Whom a request comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// This Server.
    Server(String),
    /// A machine that claims to be this Server, which another one is.
    Conflict(String),
    /// One that nobody knows.
    Unknown,
}

impl<O: Objects> Inventory<O> {
    /// Reads the identities that are declared.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn open(objects: O, machines: Arc<Machines>) -> Result<Arc<Self>, Error> {
        let listed = objects.list(Kind::Server).await?.objects;
        let mut known = BTreeMap::new();
        for object in listed {
            if let Some(identity) = Server::from_object(&object).ok().and_then(|s| s.spec.identity) {
                known.insert(object.metadata.name, identity);
            }
        }
        Ok(Arc::new(Self { objects, machines, known: Mutex::new(known) }))
    }

    /// Takes note of a Server as it is declared now; `None`: it is gone. Returns whether that is news.
    pub fn declared(&self, name: &str, identity: Option<Identity>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match identity {
            Some(identity) => known.insert(name.to_owned(), identity.clone()) != Some(identity),
            None => known.remove(name).is_some(),
        }
    }

    /// Why a Server's machine is not the only one that claims to be it; nothing where it is (F33).
    /// A rival that another Server's `spec.identity` names is none.
    pub fn conflict(&self, name: &str) -> Option<String> {
        let uuid: MachineId = name.parse().ok()?;
        let rivals = self.machines.rivals(uuid);
        let rival = rivals.into_iter().find(|r| self.name_of(r).is_none())?;
        let (card, serial) = (rival.mac.map(|m| m.to_string()), rival.hello.facts.system.serial_number);
        let card = card.unwrap_or_else(|| rival.id.clone());
        let serial = if serial.is_empty() { String::new() } else { format!(" (serial number {})", clean(&serial)) };
        Some(format!(
            "the machine with network card {card}{serial} claims this UUID too; declare a Server of another UUID for it with spec.identity.macs: [{card}], or give its firmware a UUID of its own"
        ))
    }

    /// UUIDs that more than one machine claims.
    pub fn contested(&self) -> Vec<String> {
        let warned = |r: &MachineRecord| !r.warnings.is_empty() && r.uuid.is_some_and(|u| u.to_string() == r.id);
        self.machines.list().into_iter().filter(warned).map(|r| r.id).collect()
    }

    /// Which Server a machine is, by what it says and what is known.
    pub fn who(&self, uuid: Option<MachineId>, mac: Option<Mac>, serial: Option<&str>) -> Who {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = known.iter().filter(|(_, identity)| is(identity, mac, serial));
        if let Some((name, _)) = found.next() {
            // Cards of two machines in one: which of them it is, nobody can tell.
            let sure = found.next().is_none();
            return if sure { Who::Server(name.clone()) } else { Who::Conflict(name.clone()) };
        }
        drop(known);
        let Some(uuid) = uuid.filter(|u| !u.is_placeholder()) else { return Who::Unknown };
        let name = uuid.to_string();
        let record = self.machines.get(&name);
        if record.is_none()
            && let Some(record) = self.machines.swapped(uuid, mac)
        {
            return Who::Server(record.id);
        }
        match (record, mac) {
            // A card that this machine never reported: a new card, or another machine with the same UUID.
            (Some(record), Some(mac)) if has_cards(&record) && !macs(&record.hello.facts, &record).contains(&mac) => {
                Who::Conflict(name)
            }
            _ => Who::Server(name),
        }
    }

    /// Makes or renews the Server of a machine that has reported. `record` is how [`Machines`] keeps it.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn reported(&self, record: &MachineRecord) -> Result<Who, Error> {
        let facts = &record.hello.facts;
        let Some((name, identity)) = self.name_of(record) else {
            return Ok(record.uuid.map_or(Who::Unknown, |uuid| Who::Conflict(uuid.to_string())));
        };
        if let Some(identity) = &identity {
            self.declared(&name, Some(identity.clone()));
        }
        for _ in 0..TRIES {
            match self.objects.get(Kind::Server, "", &name).await {
                Ok(object) => {
                    let mut server = Server::from_object(&object).map_err(|e| Error::Invalid(vec![e]))?;
                    let found = Some(hardware(facts));
                    if server.spec.hardware == found {
                        return Ok(Who::Server(name));
                    }
                    server.spec.hardware = found;
                    match self.objects.replace(server.to_object()).await {
                        Err(Error::Conflict { .. }) => {}
                        Err(e) => return Err(e),
                        Ok(_) => return Ok(Who::Server(name)),
                    }
                }
                Err(Error::NotFound(_)) => {
                    let spec = ServerSpec {
                        hardware: Some(hardware(facts)),
                        identity: identity.clone(),
                        ..ServerSpec::default()
                    };
                    let metadata = Meta { name: name.clone(), ..Meta::default() };
                    let server = Server { metadata, spec, status: ServerStatus::default() };
                    match self.objects.create(server.to_object()).await {
                        Err(Error::Exists(_)) => {}
                        Err(e) => return Err(e),
                        Ok(_) => return Ok(Who::Server(name)),
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::Store(format!("Server {name} changes too fast to be written")))
    }

    /// The name of a machine's Server, and the identity that it is known by where that is not its UUID.
    fn name_of(&self, record: &MachineRecord) -> Option<(String, Option<Identity>)> {
        let serial = Some(record.hello.facts.system.serial_number.as_str());
        let own = macs(&record.hello.facts, record);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found =
            known.iter().filter(|(_, i)| own.iter().any(|m| is(i, Some(*m), serial)) || is(i, None, serial));
        if let Some((name, _)) = found.next() {
            return found.next().is_none().then(|| (name.clone(), None));
        }
        drop(known);
        match record.uuid {
            // Kept under its UUID: it is that machine. Kept under its card: another one has the UUID.
            Some(uuid) => (record.id == uuid.to_string()).then(|| (record.id.clone(), None)),
            None => {
                // Its name is made of the card that network-boots; it is known by any of its cards. Not by
                // its serial number: firmware that has no UUID often shares that as well.
                let first = Identity { serial_number: String::new(), macs: vec![own.first()?.to_string()] };
                let macs = own.iter().take(CARDS).map(ToString::to_string).collect();
                Some((alias(&first), Some(Identity { macs, ..first })))
            }
        }
    }
}

/// A UUID (version 8, RFC 9562 section 5.8) out of an identity: always the same for the same.
fn alias(identity: &Identity) -> String {
    let hash: [u8; 32] =
        Sha256::digest(format!("stoker {} {}", identity.serial_number, identity.macs.join(" "))).into();
    let mut b: [u8; 16] = hash.first_chunk().copied().unwrap_or_default();
    b[6] = b[6] & 0x0f | 0x80;
    b[8] = b[8] & 0x3f | 0x80;
    MachineId(b).to_string()
}

/// Whether a machine is meant: all that the identity names, where the machine tells it.
fn is(identity: &Identity, mac: Option<Mac>, serial: Option<&str>) -> bool {
    if identity.serial_number.is_empty() && identity.macs.is_empty() {
        return false;
    }
    let serial_fits = identity.serial_number.is_empty() || serial == Some(identity.serial_number.as_str());
    let named = |mac: Mac| identity.macs.iter().any(|m| m.parse() == Ok(mac));
    let card_fits = identity.macs.is_empty() || mac.is_some_and(named);
    serial_fits && card_fits
}

fn macs(facts: &Facts, record: &MachineRecord) -> Vec<Mac> {
    // The card that network-boots comes first: it makes the name where there is no UUID.
    let mut all: Vec<Mac> = record.mac.into_iter().collect();
    all.extend(facts.network.iter().filter_map(|i| i.mac).filter(|m| Some(*m) != record.mac));
    all
}

fn has_cards(record: &MachineRecord) -> bool {
    record.hello.facts.network.iter().any(|i| i.mac.is_some())
}

#[cfg(test)]
mod tests;
