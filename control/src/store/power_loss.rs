//! The power goes: of what was not synced, any part may be on the disk, in any
//! order, torn at any sector. What was acknowledged is there all the same, and
//! nothing half done is.

use super::{Store, limits};
use crate::objects::embedded::Embedded;
use crate::objects::{Objects, Preconditions};
use crate::resource::{Kind, Object};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What a disk writes as a whole or not at all, bytes.
const SECTOR: usize = 512;

/// SplitMix64: the same seed, the same story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }
}

/// A disk with a write cache.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What survives.
    durable: Vec<u8>,
    /// What is read: with everything that was written.
    now: Vec<u8>,
    /// Writes since the last sync; `Err` is a new length.
    cached: Vec<Result<(usize, Vec<u8>), usize>>,
    syncs: usize,
    /// The power goes at this sync: neither it nor anything later reaches the disk.
    dies_at: Option<usize>,
}

impl State {
    fn is_dead(&self) -> bool {
        self.dies_at.is_some_and(|at| self.syncs >= at)
    }
}

fn dead() -> std::io::Error {
    std::io::Error::other("the power is gone")
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let state = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let bytes = state.now.get(at..at + out.len()).ok_or_else(|| std::io::Error::other("beyond the end"))?;
        out.copy_from_slice(bytes);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        let mut state = self.0.lock().unwrap();
        if state.is_dead() {
            return Err(dead());
        }
        let len = usize::try_from(len).unwrap();
        state.now.resize(len, 0);
        state.cached.push(Err(len));
        Ok(())
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut state = self.0.lock().unwrap();
        if state.is_dead() {
            return Err(dead());
        }
        state.syncs += 1;
        if state.is_dead() {
            return Err(dead());
        }
        state.durable = state.now.clone();
        state.cached.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let mut state = self.0.lock().unwrap();
        if state.is_dead() {
            return Err(dead());
        }
        let at = usize::try_from(offset).unwrap();
        state.now[at..at + data.len()].copy_from_slice(data);
        state.cached.push(Ok((at, data.to_vec())));
        Ok(())
    }
}

impl Disk {
    /// The disk as it is found when the power is back.
    fn after_loss(&self, random: &mut Dice) -> Self {
        let state = self.0.lock().unwrap();
        let mut bytes = state.durable.clone();
        // Each sector that was written goes its own way; the length is that of any moment.
        let mut sectors: Vec<(usize, &[u8])> = Vec::new();
        for change in &state.cached {
            match change {
                Ok((at, data)) => {
                    let mut from = 0;
                    while from < data.len() {
                        let to = (SECTOR - (at + from) % SECTOR + from).min(data.len());
                        sectors.push((at + from, &data[from..to]));
                        from = to;
                    }
                }
                Err(len) if random.roll().is_multiple_of(2) => bytes.resize(*len, 0),
                Err(_) => {}
            }
        }
        for i in (1..sectors.len()).rev() {
            sectors.swap(i, random.roll() as usize % (i + 1));
        }
        for (at, data) in sectors {
            if random.roll().is_multiple_of(2) && at + data.len() <= bytes.len() {
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
        Self(Arc::new(Mutex::new(State { now: bytes.clone(), durable: bytes, ..State::default() })))
    }
}

fn environment(name: &str, n: u32) -> Object {
    Object::read(serde_json::json!({
        "apiVersion": "metal.sidero.dev/v1alpha2", "kind": "Environment", "metadata": {"name": name},
        "spec": {"kernel": {"url": format!("http://example.com/{n}"), "args": ["x".repeat(n as usize % 700)]}, "initrd": {"url": "http://example.com/i"}},
    }))
    .unwrap()
}

/// Writes until the power goes; what was acknowledged, and what was under way.
async fn work(
    objects: &Embedded,
    known: &mut BTreeMap<String, u32>,
    random: &mut Dice,
) -> BTreeMap<String, Vec<Option<u32>>> {
    let mut open: BTreeMap<String, Vec<Option<u32>>> = BTreeMap::new();
    for _ in 0..400 {
        // Some at once, so that commits are shared.
        let batch: Vec<(String, Option<u32>)> = (0..1 + random.roll() % 6)
            .map(|i| {
                let name = format!("e{}", (random.roll() % 5) * 8 + i);
                (name, (!random.roll().is_multiple_of(5)).then(|| random.roll() % 100_000))
            })
            .collect();
        let tasks: Vec<_> = batch
            .iter()
            .map(|(name, value)| {
                let (objects, name, value, old) = (objects.clone(), name.clone(), *value, known.contains_key(name));
                tokio::spawn(async move {
                    match (value, old) {
                        (Some(n), true) => objects.replace(environment(&name, n)).await.map(|_| ()),
                        (Some(n), false) => objects.create(environment(&name, n)).await.map(|_| ()),
                        (None, true) => objects.delete(Kind::Environment, "", &name, Preconditions::default()).await,
                        (None, false) => Ok(()),
                    }
                })
            })
            .collect();
        let mut died = false;
        for (task, (name, value)) in tasks.into_iter().zip(batch) {
            match (task.await.unwrap(), value) {
                (Ok(()), Some(n)) => drop(known.insert(name, n)),
                (Ok(()), None) => drop(known.remove(&name)),
                (Err(_), value) => {
                    died = true;
                    open.entry(name).or_default().push(value);
                }
            }
        }
        if died {
            return open;
        }
    }
    open
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_half_done_is_left_when_the_power_goes() {
    let mut losses = 0;
    for seed in 0..60_u8 {
        let mut random = Dice(u64::from(seed));
        let mut disk = Disk::default();
        let mut known: BTreeMap<String, u32> = BTreeMap::new();
        let mut revision = 0;
        // Several losses of one and the same store, each after some syncs.
        for _ in 0..4 {
            let store = Arc::new(Store::on(disk.clone()).expect("the store opens after a loss"));
            let objects = Embedded::open(store.clone()).await.unwrap();
            let listed = objects.list(Kind::Environment).await.unwrap();
            assert!(listed.revision >= revision, "seed {seed}: versions only rise");
            revision = listed.revision;
            let there: BTreeMap<String, u32> = listed
                .objects
                .iter()
                .map(|o| (o.metadata.name.clone(), o.spec["kernel"]["url"].as_str().unwrap()[19..].parse().unwrap()))
                .collect();
            assert_eq!(there, known, "seed {seed}");
            let syncs = disk.0.lock().unwrap().syncs;
            disk.0.lock().unwrap().dies_at = Some(syncs + 1 + random.roll() as usize % 40);
            let open = work(&objects, &mut known, &mut random).await;
            losses += usize::from(!open.is_empty());
            drop((objects, store));
            disk = disk.after_loss(&mut random);
            // What was under way may be there as a whole, or not at all: take note of which.
            let store = Arc::new(Store::on(disk.after_loss(&mut random)).expect("the store opens after a loss"));
            let objects = Embedded::open(store).await.unwrap();
            for (name, values) in open {
                let now = objects.get(Kind::Environment, "", &name).await.ok();
                let now = now.map(|o| o.spec["kernel"]["url"].as_str().unwrap()[19..].parse::<u32>().unwrap());
                assert!(now == known.get(&name).copied() || values.contains(&now), "seed {seed}: {name} is {now:?}");
                match now {
                    Some(n) => drop(known.insert(name, n)),
                    None => drop(known.remove(&name)),
                }
            }
        }
    }
    assert!(losses >= 60, "{losses} losses");
    const { assert!(limits::STORE_GROUP > 1) };
}

#[tokio::test]
async fn writes_that_wait_together_share_one_sync() {
    let disk = Disk::default();
    let objects = Embedded::open(Arc::new(Store::on(disk.clone()).unwrap())).await.unwrap();
    let before = disk.0.lock().unwrap().syncs;
    let all = (0..100).map(|n| {
        let objects = objects.clone();
        tokio::spawn(async move { objects.create(environment(&format!("e{n}"), n)).await.unwrap() })
    });
    for task in all.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let syncs = disk.0.lock().unwrap().syncs - before;
    assert!(syncs <= 30, "{syncs} syncs for 100 writes");
}
