use super::erase::OwnWay;
use super::*;
use protocol::id::Mac;
use protocol::report::{Interface, System, WipeMethod};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// A disk in memory, with the abilities that it is given.
#[derive(Clone, Default)]
struct Fake {
    bytes: Arc<Mutex<Vec<u8>>>,
    own: Option<OwnWay>,
    takes_long: bool,
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
    fn own_erase(&mut self, way: OwnWay, _: &AtomicU64) -> io::Result<()> {
        if self.takes_long {
            std::thread::sleep(std::time::Duration::from_millis(4500));
        }
        let size = self.size();
        self.can(self.own == Some(way), 0, size)
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
        (with(|f| f.own = Some(OwnWay::NvmeSanitizeBlock)), Auto, Some("nvme-sanitize-block")),
        (with(|f| f.own = Some(OwnWay::NvmeSanitizeCrypto)), Auto, Some("nvme-sanitize-crypto")),
        (with(|f| f.own = Some(OwnWay::NvmeFormat)), Auto, Some("nvme-format")),
        (with(|f| f.own = Some(OwnWay::SecureErase)), Auto, Some("ata-secure-erase")),
        (with(|f| f.secure = true), Auto, Some("secure-discard")),
        (with(|f| f.discard = true), Auto, Some("discard")),
        (with(|f| f.zero_out = true), Auto, Some("zero-out")),
        (with(|_| ()), Auto, Some("zeroes")),
        (with(|f| (f.own, f.discard, f.liar) = (Some(OwnWay::NvmeFormat), true, true)), Auto, Some("zeroes")),
        (with(|f| f.discard = true), Secure, None),
        (with(|f| f.own = Some(OwnWay::NvmeFormat)), Secure, Some("nvme-format")),
        (with(|f| (f.own, f.zero_out) = (Some(OwnWay::NvmeFormat), true)), Zero, Some("zero-out")),
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
fn w09_a_device_that_erases_itself_for_long_is_told_of_in_the_meantime() {
    let mut fake = Fake { own: Some(OwnWay::SecureErase), takes_long: true, ..Fake::new(2) };
    let mut told = 0;
    let ended = erase::erase(&mut fake, WipeMethod::Secure, &mut |state, name, _| {
        told += u32::from(state == DiskState::Erasing && name == "ata-secure-erase");
        true
    });
    assert_eq!(ended.unwrap().method, "ata-secure-erase");
    assert!(told >= 2, "{told}");
    // It cannot be stopped; but what was withdrawn in the meantime is not called clean.
    let mut fake = Fake { own: Some(OwnWay::SecureErase), takes_long: true, ..Fake::new(2) };
    let mut told = 0;
    let ended = erase::erase(&mut fake, WipeMethod::Secure, &mut |_, name, _| {
        told += u32::from(name == "ata-secure-erase");
        told < 2
    });
    assert_eq!(ended.unwrap_err(), "withdrawn");
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
fn w08_what_machines_share_is_seen_on_disks_and_in_partitions_and_what_is_local_is_not() {
    let found = |write: &dyn Fn(&mut [u8])| {
        let fake = Fake::new(4);
        {
            let mut b = fake.bytes.lock().unwrap();
            b.fill(0);
            write(&mut b);
        }
        guard::shared(&mut fake.clone()).unwrap()
    };
    let end = 4 << 20;
    let lvm = |b: &mut [u8], text: &[u8]| {
        b[512..520].copy_from_slice(b"LABELONE");
        b[536..544].copy_from_slice(b"LVM2 001");
        b[0x1200..0x1200 + text.len()].copy_from_slice(text);
    };
    assert_eq!(
        found(&|b| b[end - 4096 + 60..end - 4032].copy_from_slice(&[0x83, 0x74, 0x02, 0x6b])),
        Some("a DRBD volume")
    );
    assert_eq!(
        found(&|b| b[end - 4096 + 20..end - 4072].copy_from_slice(&[0x83, 0x74, 0x02, 0x6d])),
        Some("a DRBD volume")
    );
    let shared = Some("an LVM volume group that machines share");
    assert_eq!(found(&|b| lvm(b, b"vg { lock_type = \"sanlock\" }")), shared);
    assert_eq!(found(&|b| lvm(b, b"status = [\"RESIZEABLE\", \"CLUSTERED\"]")), shared);
    assert_eq!(found(&|b| lvm(b, b"vg { status = [\"RESIZEABLE\"] }")), None, "a local one is erased");
    assert_eq!(
        found(&|b| b[0x1_0000..0x1_0004].copy_from_slice(&[0x01, 0x16, 0x19, 0x70])),
        Some("a GFS2 file system")
    );
    assert_eq!(found(&|_| ()), None);
    // In the second partition of a GPT with 512-byte sectors.
    let gpt = |b: &mut [u8]| {
        b[512..520].copy_from_slice(b"EFI PART");
        b[584..592].copy_from_slice(&2_u64.to_le_bytes());
        b[592..596].copy_from_slice(&4_u32.to_le_bytes());
        b[596..600].copy_from_slice(&128_u32.to_le_bytes());
        for (n, (first, last)) in [(2048_u64, 4095_u64), (4096, 6143)].into_iter().enumerate() {
            let at = 1024 + 128 * n;
            b[at] = 1;
            b[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            b[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
    };
    let inside = found(&|b| {
        gpt(b);
        b[6144 * 512 - 4096 + 60..6144 * 512 - 4032].copy_from_slice(&[0x83, 0x74, 0x02, 0x6b]);
    });
    assert_eq!(inside, Some("a DRBD volume"));
    assert_eq!(found(&gpt), None);
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
