//! What is kept of each machine: its last hello, under its UUID.
//!
//! A UUID is a claim of firmware. Machines with a placeholder UUID are kept
//! under their MAC, and so is a second machine that claims a UUID which
//! another one with different network cards has: both are flagged (F33).

use super::{Store, StoreError};
use crate::api::types::MachineRecord;
use crate::limits;
use protocol::id::{Mac, MachineId, is_serial};
use protocol::report::{Hello, Status};
use redb::{ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

const MACHINES: TableDefinition<&str, &[u8]> = TableDefinition::new("machines");

/// All machines, in memory and in the store.
pub struct Machines {
    store: Arc<Store>,
    known: Mutex<BTreeMap<String, MachineRecord>>,
}

/// Why a hello was not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// No UUID and no MAC.
    #[error("the hello names neither a UUID nor a MAC address")]
    Nameless,
    /// Too many machines.
    #[error("{} machines are known already; remove old ones", limits::MACHINES)]
    Full,
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Machines {
    /// Reads what is there. A record that cannot be read is left out and logged:
    /// the machine's next hello replaces it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        let txn = store.read()?;
        match txn.open_table(MACHINES) {
            Ok(table) => {
                for entry in table.iter()?.take(limits::MACHINES) {
                    let (id, bytes) = entry?;
                    match serde_json::from_slice::<MachineRecord>(bytes.value()) {
                        Ok(record) => drop(known.insert(id.value().to_owned(), record)),
                        Err(e) => tracing::warn!(machine = id.value(), error = %e, "a machine's record cannot be read"),
                    }
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(e) => return Err(e.into()),
        }
        drop(txn);
        Ok(Self { store, known: Mutex::new(known) })
    }

    /// Takes a hello. Repeating one writes nothing.
    ///
    /// # Errors
    /// See [`NotKept`].
    pub async fn hello(&self, hello: Hello, ip: Option<IpAddr>, now_ms: u64) -> Result<MachineRecord, NotKept> {
        let Placed { changed, gone, record } = self.place(hello, ip, now_ms)?;
        let rows: Vec<(String, Vec<u8>)> =
            changed.iter().filter_map(|r| serde_json::to_vec(r).ok().map(|bytes| (r.id.clone(), bytes))).collect();
        if !rows.is_empty() || gone.is_some() {
            self.store
                .write(move |txn| {
                    let mut table = txn.open_table(MACHINES)?;
                    if let Some(id) = &gone {
                        table.remove(id.as_str())?;
                    }
                    for (id, bytes) in &rows {
                        table.insert(id.as_str(), bytes.as_slice())?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(record)
    }

    /// Takes a status; returns whether it told something new.
    pub fn status(&self, status: &Status, ip: Option<IpAddr>, now_ms: u64) -> bool {
        let mut known = self.lock();
        let uuid = status.uuid.filter(|u| !u.is_placeholder());
        let found = known
            .values_mut()
            .find(|r| r.hello.boot_id == status.boot_id && (r.uuid == uuid || r.mac == status.boot_mac));
        let Some(record) = found else { return true };
        let news = record.level != Some(status.level) || record.seen_ms == 0;
        record.seen_ms = now_ms;
        record.level = Some(status.level);
        record.ip = ip.or(record.ip);
        news
    }

    /// One machine, by id, UUID or any of its MACs.
    pub fn get(&self, id: &str) -> Option<MachineRecord> {
        let known = self.lock();
        if let Some(record) = known.get(&id.to_ascii_lowercase()) {
            return Some(record.clone());
        }
        let mac: Mac = id.parse().ok()?;
        known.values().find(|r| r.mac == Some(mac) || macs(&r.hello).any(|m| m == mac)).cloned()
    }

    /// The record of a declared Server: kept under its name, or under the card that its identity names.
    pub fn of_server(&self, server: &crate::resource::Server) -> Option<MachineRecord> {
        if let Some(identity) = &server.spec.identity {
            let card = identity.macs.iter().find_map(|mac| self.get(mac));
            let serial = &identity.serial_number;
            let by_serial = || {
                let known = self.lock();
                let fits = |r: &&MachineRecord| !serial.is_empty() && r.hello.facts.system.serial_number == *serial;
                known.values().find(fits).cloned()
            };
            return card.or_else(by_serial);
        }
        self.get(&server.metadata.name)
    }

    /// Whether a machine ever said hello.
    pub fn knows(&self, uuid: Option<MachineId>, mac: Option<Mac>) -> bool {
        uuid.filter(|u| !u.is_placeholder()).is_some_and(|u| self.lock().contains_key(&u.to_string()))
            || mac.is_some_and(|m| self.get(&m.to_string()).is_some())
    }

    /// The record of a machine whose firmware tells its UUID in the other byte order, if it has this card.
    pub fn swapped(&self, uuid: MachineId, mac: Option<Mac>) -> Option<MachineRecord> {
        let known = self.lock();
        let record = known.get(&uuid.swapped().to_string())?;
        mac.is_none_or(|mac| macs(&record.hello).any(|m| m == mac)).then(|| record.clone())
    }

    /// Machines with this UUID that are not the one which is kept under it (F33).
    pub fn rivals(&self, uuid: MachineId) -> Vec<MachineRecord> {
        let known = self.lock();
        let Some(first) = known.get(&uuid.to_string()) else { return Vec::new() };
        // Each warns of the other; without a warning there is none, and nothing is looked through.
        if first.warnings.is_empty() {
            return Vec::new();
        }
        known.values().filter(|r| r.uuid == Some(uuid) && r.id != first.id).cloned().collect()
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<MachineRecord> {
        self.lock().values().cloned().collect()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a hello in its place.
    fn place(&self, hello: Hello, ip: Option<IpAddr>, now_ms: u64) -> Result<Placed, NotKept> {
        let uuid = hello.facts.system.uuid.filter(|u| !u.is_placeholder());
        let mac = hello.boot_mac.or_else(|| macs(&hello).next());
        let mut known = self.lock();
        let mut changed = Vec::new();
        let mut warnings = Vec::new();
        let by_mac = mac.map(|m| m.to_string());
        let id = match uuid {
            Some(uuid) => {
                let id = uuid.to_string();
                match known.get_mut(&id) {
                    Some(other) if !same_machine(&other.hello, &hello) => {
                        let line = |mac: Option<Mac>| {
                            let mac = mac.map_or("another machine".into(), |m| m.to_string());
                            format!(
                                "UUID {uuid} is also claimed by {mac}: firmware of both must be given a UUID of its own"
                            )
                        };
                        warnings.push(line(other.mac));
                        if !other.warnings.contains(&line(mac)) {
                            other.warnings = vec![line(mac)];
                            changed.push(other.clone());
                        }
                        by_mac.ok_or(NotKept::Nameless)?
                    }
                    _ => id,
                }
            }
            None => by_mac.ok_or(NotKept::Nameless)?,
        };
        // It was kept under its card as long as its UUID was not its own; now it has another.
        let stale = mac.map(|m| m.to_string()).filter(|m| *m != id);
        let gone = stale.and_then(|m| known.remove(&m));
        if let Some(contested) = gone.as_ref().and_then(|g| g.uuid).filter(|u| Some(*u) != uuid) {
            let rivals = known.values().any(|r| r.uuid == Some(contested) && r.id != contested.to_string());
            if !rivals && let Some(first) = known.get_mut(&contested.to_string()) {
                first.warnings.clear();
                changed.push(first.clone());
            }
        }
        let old = known.get(&id);
        if old.is_none() && known.len() >= limits::MACHINES {
            return Err(NotKept::Full);
        }
        let repeated = old.is_some_and(|o| o.hello == hello && o.warnings.len() >= warnings.len());
        if warnings.is_empty()
            && let Some(old) = old
        {
            warnings.clone_from(&old.warnings);
        }
        let record = MachineRecord {
            id: id.clone(),
            uuid,
            mac,
            ip,
            first_ms: old.map_or(now_ms, |o| o.first_ms),
            hello_ms: now_ms,
            hello,
            seen_ms: now_ms,
            level: old.and_then(|o| o.level),
            warnings,
        };
        known.insert(id, record.clone());
        if !repeated {
            changed.push(record.clone());
        }
        Ok(Placed { changed, gone: gone.map(|g| g.id), record })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, MachineRecord>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a hello has changed.
struct Placed {
    /// Records to be written.
    changed: Vec<MachineRecord>,
    /// A record that is no machine any more.
    gone: Option<String>,
    /// The machine's.
    record: MachineRecord,
}

fn macs(hello: &Hello) -> impl Iterator<Item = Mac> {
    hello.facts.network.iter().filter_map(|i| i.mac).chain(hello.boot_mac)
}

/// Two hellos with one UUID are of one machine when they share a network card
/// or a serial number (a card may be changed, a board may be serviced).
fn same_machine(a: &Hello, b: &Hello) -> bool {
    let serial = &a.facts.system.serial_number;
    let shares_card = macs(a).any(|m| macs(b).any(|n| n == m));
    let has_cards = macs(a).next().is_some() && macs(b).next().is_some();
    shares_card || !has_cards || (is_serial(serial) && *serial == b.facts.system.serial_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::report::{Facts, Interface, Level, System};

    fn hello(uuid: &str, mac: u8, boot: &str) -> Hello {
        let mac = Mac([0x52, 0x54, 0, 0, 0, mac]);
        let system = System { uuid: uuid.parse().ok(), ..System::default() };
        let network = vec![Interface { mac: Some(mac), ..Interface::default() }];
        Hello {
            version: 1,
            agent: "0.1.0".into(),
            boot_id: boot.into(),
            attempt: None,
            boot_mac: Some(mac),
            uptime_s: 1.0,
            facts: Facts { system, network, ..Facts::default() },
        }
    }

    const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn open(dir: &tempfile::TempDir) -> Machines {
        Machines::open(Arc::new(Store::open(&dir.path().join("s.redb")).unwrap())).unwrap()
    }

    #[tokio::test]
    async fn facts_survive_a_restart_and_are_found_by_uuid_and_mac() {
        let dir = tempfile::tempdir().unwrap();
        let machines = open(&dir);
        machines.hello(hello(UUID, 1, "a"), None, 5).await.unwrap();
        machines.hello(hello(UUID, 1, "b"), None, 9).await.unwrap();
        drop(machines);
        let machines = open(&dir);
        for id in [UUID, "52:54:00:00:00:01", "52-54-00-00-00-01"] {
            let record = machines.get(id).unwrap();
            assert_eq!((record.first_ms, record.hello_ms, record.hello.boot_id.as_str()), (5, 9, "b"), "{id}");
        }
        assert_eq!(machines.get("52:54:00:00:00:02"), None);
    }

    #[tokio::test]
    async fn f33_placeholder_and_duplicate_uuids_do_not_merge_machines() {
        let dir = tempfile::tempdir().unwrap();
        let machines = open(&dir);
        let zero = "00000000-0000-0000-0000-000000000000";
        assert_eq!(machines.hello(hello(zero, 9, "z"), None, 1).await.unwrap().id, "52:54:00:00:00:09");
        machines.hello(hello(UUID, 1, "a"), None, 1).await.unwrap();
        let second = machines.hello(hello(UUID, 2, "b"), None, 2).await.unwrap();
        assert_eq!(second.id, "52:54:00:00:00:02");
        assert!(second.warnings[0].contains("52:54:00:00:00:01"), "{:?}", second.warnings);
        assert!(machines.get(UUID).unwrap().warnings[0].contains("52:54:00:00:00:02"));
        assert_eq!(machines.len(), 3);
    }

    #[tokio::test]
    async fn f33_twins_from_one_factory_with_the_same_words_for_a_serial_number_stay_two() {
        let dir = tempfile::tempdir().unwrap();
        let machines = open(&dir);
        let uuid = UUID.parse().unwrap();
        let twin = |mac, serial: &str| {
            let mut twin = hello(UUID, mac, "t");
            twin.facts.system.serial_number = serial.into();
            twin
        };
        machines.hello(twin(1, "Default string"), None, 1).await.unwrap();
        assert!(machines.rivals(uuid).is_empty());
        let second = machines.hello(twin(2, "Default string"), None, 2).await.unwrap();
        assert_eq!(second.id, "52:54:00:00:00:02");
        assert_eq!(machines.rivals(uuid), [second]);
        machines.hello(twin(1, "Default string"), None, 2).await.unwrap();
        assert_eq!(machines.rivals(uuid).len(), 1, "as often as each of them says hello");
        // Its firmware is given a UUID of its own: nobody contests the first one's any more.
        let own = Hello { facts: hello("20112233-4455-6677-8899-aabbccddeeff", 2, "o").facts, ..hello(UUID, 2, "o") };
        machines.hello(own, None, 2).await.unwrap();
        assert!(machines.rivals(uuid).is_empty() && machines.get(UUID).unwrap().warnings.is_empty());
        assert_eq!(machines.len(), 2);
        drop(machines);
        let machines = open(&dir);
        assert_eq!(machines.len(), 2, "after a restart too");
        // A board with another card in it is the same by its real serial number.
        let other = "10112233-4455-6677-8899-aabbccddeeff";
        let real = |mac| {
            let mut real = hello(other, mac, "r");
            real.facts.system.serial_number = "CZ3106F2X8".into();
            real
        };
        machines.hello(real(3), None, 3).await.unwrap();
        assert_eq!(machines.hello(real(4), None, 4).await.unwrap().id, other);
        assert!(machines.rivals(other.parse().unwrap()).is_empty());
        assert_eq!(machines.swapped("33221110-5544-7766-8899-aabbccddeeff".parse().unwrap(), None).unwrap().id, other);
    }

    #[tokio::test]
    async fn a_status_is_news_once_per_change() {
        let dir = tempfile::tempdir().unwrap();
        let machines = open(&dir);
        let record = machines.hello(hello(UUID, 1, "a"), None, 1).await.unwrap();
        let mut status = Status {
            version: 1,
            boot_id: "a".into(),
            attempt: None,
            uuid: record.uuid,
            boot_mac: record.mac,
            order: 0,
            level: Level::Holding,
            detail: String::new(),
            progress: None,
            disks: Vec::new(),
            bmc: None,
        };
        assert!(machines.status(&status, None, 2));
        assert!(!machines.status(&status, None, 3));
        status.level = Level::Running;
        assert!(machines.status(&status, None, 4));
        assert_eq!(machines.get(UUID).unwrap().seen_ms, 4);
    }
}
