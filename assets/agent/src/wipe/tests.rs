use super::*;
use protocol::id::Mac;
use protocol::report::{Interface, System, WipeMethod};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// A disk in memory, with the abilities that it is given.
#[derive(Clone, Default)]
struct Fake {
    bytes: Arc<Mutex<Vec<u8>>>,
    own: bool,
    secure: bool,
    discard: bool,
    zero_out: bool,
    /// Says that it has erased, and has not.
    liar: bool,
    dead: bool,
    random: u64,
}

impl Fake {
    fn new(mib: usize) -> Self {
        Self { bytes: Arc::new(Mutex::new(vec![0x5a; mib << 20])), ..Self::default() }
    }
    fn fill(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("input/output error"));
        }
        let at = offset as usize;
        self.bytes.lock().unwrap()[at..at + length as usize].fill(0);
        Ok(())
    }
    fn can(&self, able: bool, offset: u64, length: u64) -> io::Result<()> {
        match (able, self.liar) {
            (false, _) => Err(io::ErrorKind::Unsupported.into()),
            (true, true) => Ok(()),
            (true, false) => self.fill(offset, length),
        }
    }
    fn is_clean(&self) -> bool {
        self.bytes.lock().unwrap().iter().all(|b| *b == 0)
    }
}

impl Media for Fake {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[at..at + buffer.len()]);
        Ok(())
    }
    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("a wipe writes nothing but zeroes")
    }
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.fill(offset, length)
    }
    fn zero_out(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.can(self.zero_out, offset, length)
    }
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.can(self.discard, offset, length)
    }
    fn secure_discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.can(self.secure, offset, length)
    }
    fn own_erase(&mut self) -> io::Result<&'static str> {
        let size = self.size();
        self.can(self.own, 0, size).map(|()| "nvme-format")
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 3
    }
}

struct World {
    facts: Facts,
    disks: BTreeMap<String, Fake>,
    go: bool,
    stop_at: Option<u64>,
    asked: Rc<RefCell<u32>>,
}

impl Host for World {
    fn facts(&mut self) -> Facts {
        self.facts.clone()
    }
    fn open(&mut self, disk: &Disk) -> io::Result<Box<dyn Media>> {
        match self.disks.get(&disk.name) {
            Some(fake) => Ok(Box::new(fake.clone())),
            None => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }
    fn confirm(&mut self) -> bool {
        *self.asked.borrow_mut() += 1;
        assert!(self.disks.values().all(|d| !d.is_clean()), "W5: asked before the first write");
        self.go
    }
    fn tell(&mut self, _: &[DiskResult], _: &str, done: u64, _: u64) -> bool {
        self.stop_at.is_none_or(|at| done < at)
    }
}

fn disk(name: &str, size: u64, serial: &str) -> Disk {
    Disk { name: name.into(), size, serial_number: serial.into(), ..Disk::default() }
}

fn world(disks: &[(&str, Fake)]) -> World {
    let storage = disks.iter().map(|(name, fake)| disk(name, fake.size(), &format!("SN-{name}"))).collect();
    let facts = Facts {
        system: System { serial_number: "S1".into(), ..System::default() },
        network: vec![Interface { mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..Interface::default() }],
        storage,
        ..Facts::default()
    };
    let disks = disks.iter().map(|(name, fake)| ((*name).to_owned(), fake.clone())).collect();
    World { facts, disks, go: true, stop_at: None, asked: Rc::default() }
}

fn order(world: &World) -> WipeOrder {
    let target = |d: &Disk| DiskTarget {
        serial_number: d.serial_number.clone(),
        size: d.size,
        name: d.name.clone(),
        ..DiskTarget::default()
    };
    let disks = world.facts.storage.iter().map(target).collect();
    WipeOrder { disks, target: Target { serial_number: "S1".into(), ..Target::default() }, ..WipeOrder::default() }
}

#[test]
fn each_method_takes_the_strongest_way_that_works() {
    use WipeMethod::{Auto, Fast, Secure, Zero};
    let with = |change: fn(&mut Fake)| {
        let mut fake = Fake::new(40);
        change(&mut fake);
        fake
    };
    for (fake, method, expected) in [
        (with(|f| f.own = true), Auto, Some("nvme-format")),
        (with(|f| f.secure = true), Auto, Some("secure-discard")),
        (with(|f| f.discard = true), Auto, Some("discard")),
        (with(|f| f.zero_out = true), Auto, Some("zero-out")),
        (with(|_| ()), Auto, Some("zeroes")),
        (with(|f| (f.own, f.discard, f.liar) = (true, true, true)), Auto, Some("zeroes")),
        (with(|f| f.discard = true), Secure, None),
        (with(|f| f.own = true), Secure, Some("nvme-format")),
        (with(|f| (f.own, f.zero_out) = (true, true)), Zero, Some("zero-out")),
        (with(|_| ()), Fast, Some("fast")),
        (with(|f| f.dead = true), Auto, None),
    ] {
        let mut media = fake.clone();
        let ended = erase::erase(&mut media, method, &mut |_, _, _| true);
        assert_eq!(ended.as_ref().ok().map(|e| e.method), expected, "{method:?}: {ended:?}");
        if let (Some(_), Ok(erased)) = (expected, &ended) {
            assert!(erased.verified >= 256 && (method == Fast || fake.is_clean()));
        }
    }
}

#[test]
fn w06_a_liar_is_found_out_and_a_disk_that_cannot_be_opened_is_not_clean() {
    let liar = Fake { zero_out: true, liar: true, dead: true, ..Fake::new(4) };
    let mut w = world(&[("sda", liar), ("sdb", Fake::new(4)), ("sdc", Fake::new(4))]);
    w.disks.remove("sdc");
    let o = order(&w);
    let (results, ended) = wipe(&o, &mut w);
    let states: Vec<_> = results.iter().map(|r| r.state).collect();
    assert_eq!(states, [DiskState::Failed, DiskState::Clean, DiskState::Failed]);
    assert!(results[0].why.contains("data is still there"), "{}", results[0].why);
    assert!(results[2].why.contains("cannot be opened"), "{}", results[2].why);
    assert_eq!(ended, Err(Stopped::Failed("2 disks are not clean".into())));
}

#[test]
fn w03_an_order_for_another_machine_or_disk_touches_nothing() {
    type Change = fn(&mut WipeOrder);
    let table: [(Change, &str); 4] = [
        (|o| o.target.uuid = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc".parse().ok(), "another UUID"),
        (|o| o.target.serial_number = "S2".into(), "another serial"),
        (|o| o.target.macs = vec![Mac([2, 0, 0, 0, 0, 9])], "other network cards"),
        (|o| o.disks[0].size += 512, "not clean"),
    ];
    for (change, words) in table {
        let fake = Fake::new(2);
        let mut w = world(&[("sda", fake.clone())]);
        let mut o = order(&w);
        change(&mut o);
        let (_, ended) = wipe(&o, &mut w);
        assert!(matches!(&ended, Err(Stopped::Failed(why)) if why.contains(words)), "{words}: {ended:?}");
        assert!(fake.bytes.lock().unwrap().iter().all(|b| *b == 0x5a), "{words}");
        assert_eq!(*w.asked.borrow(), 0, "{words}: not even asked");
    }
}

#[test]
fn w05_without_go_nothing_is_written_and_a_withdrawal_stops_it() {
    let fake = Fake::new(2);
    let mut w = world(&[("sda", fake.clone())]);
    w.go = false;
    let o = order(&w);
    assert_eq!(wipe(&o, &mut w).1, Err(Stopped::Withdrawn));
    assert!(fake.bytes.lock().unwrap().iter().all(|b| *b == 0x5a));
    let (one, two) = (Fake::new(2), Fake::new(2));
    let mut w = world(&[("sda", one), ("sdb", two.clone())]);
    w.stop_at = Some(1 << 20);
    let o = order(&w);
    assert_eq!(wipe(&o, &mut w).1, Err(Stopped::Withdrawn));
    assert!(two.bytes.lock().unwrap().iter().all(|b| *b == 0x5a), "the second one is untouched");
}

#[test]
fn w08_shared_storage_is_guarded_and_w14_a_dry_run_writes_nothing() {
    let fake = Fake::new(4);
    fake.bytes.lock().unwrap()[0x10_0000..0x10_0004].copy_from_slice(&[0x0d, 0xd0, 0x01, 0xc0]);
    let mut w = world(&[("sda", fake.clone())]);
    let mut o = order(&w);
    let (results, _) = wipe(&o, &mut w);
    assert!(results[0].why.contains("VMFS") && results[0].why.contains("force"), "{}", results[0].why);
    o.force = true;
    o.dry_run = true;
    let (results, ended) = wipe(&o, &mut w);
    assert_eq!((results[0].state, ended), (DiskState::WouldErase, Ok(())));
    assert!(!fake.is_clean());
    o.dry_run = false;
    assert_eq!(wipe(&o, &mut w).1, Ok(()));
    assert!(fake.is_clean());
}

#[test]
fn w08_partition_types_are_seen_in_a_gpt() {
    let fake = Fake::new(4);
    {
        let mut b = fake.bytes.lock().unwrap();
        b[..4096].fill(0);
        b[512..520].copy_from_slice(b"EFI PART");
        b[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
        b[512 + 80..512 + 84].copy_from_slice(&4_u32.to_le_bytes());
        b[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
        b[1024..1040].copy_from_slice(&[
            0x29, 0x7e, 0xbd, 0x4f, 0x25, 0x9d, 0xb8, 0x41, 0xaf, 0xd0, 0x06, 0x2c, 0x0c, 0xef, 0xf0, 0x5d,
        ]);
    }
    assert_eq!(guard::shared(&mut fake.clone()).unwrap(), Some("a Ceph OSD partition"));
}

#[test]
fn disks_are_told_apart_by_what_stays() {
    let here = [disk("sda", 10, "A"), disk("sdb", 10, "B"), disk("vdc", 10, ""), disk("vdd", 10, "")];
    let want = |wwid: &str, serial: &str, name: &str, size| DiskTarget {
        wwid: wwid.into(),
        serial_number: serial.into(),
        name: name.into(),
        size,
        ..DiskTarget::default()
    };
    assert_eq!(find(&want("", "B", "sda", 10), &here).unwrap().name, "sdb", "names change from boot to boot");
    assert!(find(&want("", "B", "sdb", 11), &here).is_err());
    assert!(find(&want("naa.1", "B", "sdb", 10), &here).is_err());
    assert_eq!(find(&want("", "", "vdd", 10), &here).unwrap().name, "vdd");
    let twins = [disk("sda", 10, "A"), disk("sdb", 10, "A")];
    assert!(find(&want("", "A", "sda", 10), &twins).is_err(), "which one is not known");
}
