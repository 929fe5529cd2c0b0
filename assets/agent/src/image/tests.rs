//! Orders carried out whole, on files as disks.

use super::*;
use crate::image::efi::Variables;
use crate::wipe::erase::OwnWay;
use ::gpt::disk::LogicalBlockSize;
use ::gpt::mbr::ProtectiveMBR;
use ::gpt::{GptConfig, partition_types};
use protocol::report::{Disk, DiskResult, DiskTarget, Facts, Hidden, ImageFormat, System, Target};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

const MIB: u64 = 1 << 20;
const DISK: u64 = 32 * MIB;
const CONFIG: &[u8] = b"#cloud-config\n";

/// A file that is a disk.
struct OnFile {
    file: Arc<File>,
    size: u64,
    random: u64,
    /// Loses what is written from here on, as a failing medium does.
    loses_from: Option<u64>,
}

impl Media for OnFile {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.size, "past the end of the disk");
        if self.loses_from.is_some_and(|from| offset >= from) { Ok(()) } else { self.file.write_all_at(bytes, offset) }
    }
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_at(offset, &vec![0; length as usize])
    }
    fn zero_out(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn secure_discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn own_erase(&mut self, _: OwnWay, _: &AtomicU64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 3
    }
}

/// The firmware's memory: entries, and their order.
#[derive(Clone, Default)]
struct Nvram(Arc<Mutex<Stored>>);

type Stored = (BTreeMap<u16, Vec<u8>>, Vec<u16>);

impl Variables for Nvram {
    fn entries(&mut self) -> io::Result<Vec<(u16, Vec<u8>)>> {
        Ok(self.0.lock().unwrap().0.clone().into_iter().collect())
    }
    fn order(&mut self) -> io::Result<Vec<u16>> {
        Ok(self.0.lock().unwrap().1.clone())
    }
    fn set(&mut self, number: u16, option: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().0.insert(number, option.to_vec());
        Ok(())
    }
    fn remove(&mut self, number: u16) -> io::Result<()> {
        self.0.lock().unwrap().0.remove(&number);
        Ok(())
    }
    fn set_order(&mut self, order: &[u16]) -> io::Result<()> {
        self.0.lock().unwrap().1 = order.to_vec();
        Ok(())
    }
}

struct World {
    file: Arc<File>,
    size: u64,
    facts: Facts,
    served: Vec<u8>,
    go: bool,
    asked: u32,
    steps: Vec<String>,
    stop_at: Option<&'static str>,
    nvram: Option<Nvram>,
    loses_from: Option<u64>,
    /// The disk when the order began.
    asked_with: Option<Vec<u8>>,
}

impl World {
    fn new(served: Vec<u8>, firmware: FirmwareKind) -> Self {
        let file = tempfile::tempfile().unwrap();
        // Old data everywhere.
        for at in 0..DISK / MIB {
            file.write_all_at(&vec![0x5a; MIB as usize], at * MIB).unwrap();
        }
        let disk =
            Disk { name: "vda".into(), size: DISK, serial_number: "D1".into(), sector_size: 512, ..Disk::default() };
        let facts = Facts {
            system: System { serial_number: "S1".into(), ..System::default() },
            storage: vec![disk],
            firmware,
            ..Facts::default()
        };
        let nvram = (firmware == FirmwareKind::Uefi).then(Nvram::default);
        let (file, size) = (Arc::new(file), DISK);
        Self {
            file,
            size,
            facts,
            served,
            go: true,
            asked: 0,
            steps: vec![],
            stop_at: None,
            nvram,
            loses_from: None,
            asked_with: None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn untouched(&self) -> bool {
        self.bytes() == vec![0x5a; self.size as usize]
    }

    /// No table, no boot code, at either end.
    fn does_not_boot(&self) -> bool {
        let bytes = self.bytes();
        bytes[..HEAD] == [0; HEAD] && bytes[bytes.len() - HEAD..] == [0; HEAD]
    }
}

impl wipe::Host for World {
    fn facts(&mut self) -> Facts {
        self.asked_with = Some(self.bytes());
        self.facts.clone()
    }
    fn open(&mut self, _: &Disk) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(OnFile { file: self.file.clone(), size: self.size, random: 1, loses_from: self.loses_from }))
    }
    fn confirm(&mut self) -> bool {
        assert!(self.asked_with.take().is_none_or(|old| old == self.bytes()), "W5: asked before the first write");
        self.asked += 1;
        self.go
    }
    fn tell(&mut self, _: &[DiskResult], step: &str, _: u64, _: u64) -> bool {
        if self.steps.last().is_none_or(|s| s != step) {
            self.steps.push(step.into());
        }
        self.stop_at != Some(step)
    }
}

impl Host for World {
    fn image(&mut self, url: &str, _: u64) -> Box<dyn Read> {
        assert_eq!(url, "http://e/i");
        Box::new(Cursor::new(self.served.clone()))
    }
    fn user_data(&mut self, url: &str) -> Result<Vec<u8>, String> {
        assert_eq!(url, "http://c/configdata");
        Ok(CONFIG.to_vec())
    }
    fn variables(&mut self) -> Result<Option<Box<dyn Variables>>, String> {
        Ok(self.nvram.clone().map(|n| -> Box<dyn Variables> { Box::new(n) }))
    }
}

/// A small image: an EFI system partition with a loader, a partition with a pattern.
fn image() -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 16 * MIB as usize]);
    ProtectiveMBR::with_lb_size((16 * MIB / 512 - 1) as u32).overwrite_lba0(&mut disk).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(disk, None).unwrap();
    table.add_partition_at("esp", 1, 2048, 6 * 2048, partition_types::EFI, 0).unwrap();
    table.add_partition_at("root", 2, 7 * 2048, 8 * 2048, partition_types::LINUX_FS, 0).unwrap();
    let mut disk = table.write().unwrap().into_inner();
    let mut esp = Cursor::new(vec![0; 6 * MIB as usize]);
    fatfs::format_volume(&mut esp, fatfs::FormatVolumeOptions::new().volume_label(*b"ESP        ")).unwrap();
    {
        let system = fatfs::FileSystem::new(&mut esp, fatfs::FsOptions::new()).unwrap();
        let root = system.root_dir();
        for folder in ["EFI", "EFI/BOOT"] {
            root.create_dir(folder).unwrap();
        }
        for loader in ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTAA64.EFI"] {
            root.create_file(loader).unwrap().write_all(b"MZ").unwrap();
        }
    }
    disk[MIB as usize..7 * MIB as usize].copy_from_slice(&esp.into_inner());
    for (i, byte) in disk[7 * MIB as usize..15 * MIB as usize].iter_mut().enumerate() {
        *byte = (i / 7 % 251) as u8;
    }
    disk
}

fn packed(image: &[u8], format: ImageFormat) -> Vec<u8> {
    match format {
        ImageFormat::Raw => image.to_vec(),
        ImageFormat::Zst => zstd::encode_all(image, 1).unwrap(),
        ImageFormat::Xz => {
            let mut packed = Vec::new();
            liblzma::read::XzEncoder::new(image, 0).read_to_end(&mut packed).unwrap();
            packed
        }
    }
}

fn order(served: &[u8], format: ImageFormat) -> ImageOrder {
    ImageOrder {
        target: Target { serial_number: "S1".into(), ..Target::default() },
        disk: DiskTarget { serial_number: "D1".into(), size: DISK, ..DiskTarget::default() },
        url: "http://e/i".into(),
        sha256: Sha256::digest(served).iter().map(|b| format!("{b:02x}")).collect(),
        length: served.len() as u64,
        format,
        grow: true,
        data_source: DataSource::NoCloud,
        config_url: Hidden("http://c/configdata".into()),
        hostname: "n1".into(),
        instance_id: "i1".into(),
        ..ImageOrder::default()
    }
}

fn why(ended: Result<String, Stopped>) -> String {
    match ended {
        Err(Stopped::Failed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_is_written_grown_and_configured() {
    for format in [ImageFormat::Raw, ImageFormat::Zst, ImageFormat::Xz] {
        let image = image();
        let served = packed(&image, format);
        let mut world = World::new(served.clone(), FirmwareKind::Uefi);
        let done = write(&order(&served, format), &mut world).unwrap();
        assert!(
            done.ends_with("on vda, partition 2 grown, configuration on partition 3, boot entry Boot0000"),
            "{done}"
        );
        assert_eq!(world.steps, ["writing", "verifying", "growing"]);
        let bytes = world.bytes();
        assert!(bytes[MIB as usize..15 * MIB as usize] == image[MIB as usize..15 * MIB as usize]);

        let config = GptConfig::new().only_valid_headers(true).logical_block_size(LogicalBlockSize::Lb512);
        let table = config.open_from_device(Cursor::new(bytes.clone())).unwrap();
        assert_eq!(table.backup_header().unwrap().current_lba, DISK / 512 - 1);
        let (root, seed) = (&table.partitions()[&2], &table.partitions()[&3]);
        assert_eq!((root.first_lba, root.last_lba + 1), (7 * 2048, seed.first_lba));
        assert_eq!((seed.first_lba, seed.last_lba + 1), (27 * 2048, 31 * 2048));
        let volume = Cursor::new(bytes[27 * MIB as usize..31 * MIB as usize].to_vec());
        let system = fatfs::FileSystem::new(volume, fatfs::FsOptions::new()).unwrap();
        assert_eq!(system.volume_label_as_bytes(), b"CIDATA");
        let mut text = Vec::new();
        system.root_dir().open_file("user-data").unwrap().read_to_end(&mut text).unwrap();
        assert_eq!(text, CONFIG);
        // The image's own backup table is not left lying in the middle.
        assert!(bytes[16 * MIB as usize - 512..16 * MIB as usize].iter().all(|b| *b == 0));
        let nvram = world.nvram.unwrap();
        assert_eq!(nvram.0.lock().unwrap().1, [0]);
        assert_eq!(efi::label_of(&nvram.0.lock().unwrap().0[&0]).as_deref(), Some("stoker"));
    }
}

#[test]
fn w10_the_same_order_again_has_the_same_outcome() {
    let served = packed(&image(), ImageFormat::Zst);
    let mut world = World::new(served.clone(), FirmwareKind::Uefi);
    let order = order(&served, ImageFormat::Zst);
    world.stop_at = Some("growing");
    assert_eq!(write(&order, &mut world), Err(Stopped::Withdrawn));
    assert!(world.does_not_boot(), "all is written but the head");
    world.stop_at = None;
    let mut outcomes = (0..2).map(|_| {
        world.asked = 0;
        write(&order, &mut world).unwrap();
        (world.asked, world.bytes())
    });
    let (first, second) = (outcomes.next().unwrap(), outcomes.next().unwrap());
    assert!(first == second && first.0 == 1, "asked each time, and the same bytes");
    drop(outcomes);
    assert_eq!(world.nvram.unwrap().0.lock().unwrap().1, [0], "no second boot entry");
}

#[test]
fn an_image_as_it_is_stays_as_it_is() {
    let image = image();
    let mut world = World::new(image.clone(), FirmwareKind::Bios);
    let mut order = order(&image, ImageFormat::Raw);
    (order.grow, order.data_source) = (false, DataSource::None);
    let done = write(&order, &mut world).unwrap();
    assert_eq!(done, "16777216 on vda");
    assert!(world.bytes()[..image.len()] == image, "not a byte differs");
}

#[test]
fn a_wrong_digest_or_a_truncated_stream_leaves_nothing_that_boots() {
    type Change = fn(&mut ImageOrder, &mut World);
    let table: [(ImageFormat, Change, &str); 6] = [
        (ImageFormat::Zst, |o, _| o.sha256 = "00".repeat(32), "has the digest"),
        (ImageFormat::Raw, |o, _| o.sha256 = "00".repeat(32), "has the digest"),
        (ImageFormat::Zst, |_, w| w.served.truncate(w.served.len() - 9), "cannot be had to its end"),
        (ImageFormat::Xz, |_, w| w.served.truncate(w.served.len() - 9), "cannot be had to its end"),
        (ImageFormat::Raw, |_, w| w.served.truncate(9 << 20), "has 9437184 bytes, the order names 16777216"),
        (ImageFormat::Raw, |_, w| w.loses_from = Some(2 << 20), "does not hold what was written"),
    ];
    for (format, change, words) in table {
        let served = packed(&image(), format);
        let mut world = World::new(served.clone(), FirmwareKind::Bios);
        let mut order = order(&served, format);
        change(&mut order, &mut world);
        let why = why(write(&order, &mut world));
        assert!(why.contains(words), "{words}: {why}");
        assert!(world.bytes()[..HEAD] == [0; HEAD], "{words}");
        assert!(world.loses_from.is_some() || world.does_not_boot(), "{words}");
    }
}

#[test]
fn what_can_be_known_before_is_found_out_before() {
    type Change = fn(&mut ImageOrder, &mut World);
    let table: [(&str, FirmwareKind, Change); 13] = [
        ("another serial number", FirmwareKind::Bios, |o, _| o.target.serial_number = "S2".into()),
        ("no disk here is the one", FirmwareKind::Bios, |o, _| o.disk.serial_number = "D2".into()),
        ("no disk here is the one", FirmwareKind::Bios, |o, _| o.disk.size += 512),
        ("read-only", FirmwareKind::Bios, |_, w| w.facts.storage[0].read_only = true),
        ("no digest", FirmwareKind::Bios, |o, _| o.sha256.clear()),
        ("does not fit on the disk of 33554432 bytes", FirmwareKind::Bios, |o, w| {
            let mut large = image();
            large.resize(DISK as usize + 512, 0);
            w.served = large;
            o.length = w.served.len() as u64;
        }),
        ("neither GPT nor MBR", FirmwareKind::Bios, |_, w| w.served = b"<html>404</html>".to_vec()),
        ("qcow2", FirmwareKind::Bios, |_, w| w.served = b"QFI\xfb\0\0\0\x03".to_vec()),
        ("cannot be had: ", FirmwareKind::Bios, |o, _| o.format = ImageFormat::Xz),
        ("cannot be had: ", FirmwareKind::Bios, |o, _| o.format = ImageFormat::Zst),
        ("sectors of 512 bytes, the disk has 4096", FirmwareKind::Bios, |_, w| w.facts.storage[0].sector_size = 4096),
        ("no EFI system partition", FirmwareKind::Uefi, |_, w| {
            let mut head = vec![0; 512];
            head[510..].copy_from_slice(&[0x55, 0xaa]);
            w.served = head;
        }),
        ("no place for a data source", FirmwareKind::Bios, |_, w| {
            let mut head = vec![0; 512];
            head[510..].copy_from_slice(&[0x55, 0xaa]);
            w.served = head;
        }),
    ];
    for (words, firmware, change) in table {
        let served = image();
        let mut world = World::new(served.clone(), firmware);
        let mut order = order(&served, ImageFormat::Raw);
        change(&mut order, &mut world);
        let why = why(write(&order, &mut world));
        assert!(why.contains(words), "{words}: {why}");
        assert!(world.asked == 0 && world.untouched(), "{words}: nothing is touched");
    }
}

#[test]
fn w05_without_go_nothing_is_written_and_a_withdrawal_stops_it() {
    let served = image();
    let mut world = World::new(served.clone(), FirmwareKind::Bios);
    world.go = false;
    let order = order(&served, ImageFormat::Raw);
    assert_eq!(write(&order, &mut world), Err(Stopped::Withdrawn));
    assert!(world.untouched());
    (world.go, world.stop_at) = (true, Some("writing"));
    assert_eq!(write(&order, &mut world), Err(Stopped::Withdrawn));
    assert!(world.does_not_boot());
}

#[test]
fn an_image_that_unpacks_to_more_than_the_disk_is_stopped() {
    let mut large = image();
    large.resize(DISK as usize + 1, 1);
    // Zstandard tells its size in the frame, if the writer knew it; XZ does not at its beginning.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_pledged_src_size(Some(large.len() as u64)).unwrap();
    encoder.write_all(&large).unwrap();
    let told = encoder.finish().unwrap();
    for (served, format, early) in [
        (told, ImageFormat::Zst, true),
        (packed(&large, ImageFormat::Zst), ImageFormat::Zst, false),
        (packed(&large, ImageFormat::Xz), ImageFormat::Xz, false),
    ] {
        let mut world = World::new(served.clone(), FirmwareKind::Bios);
        let why = why(write(&order(&served, format), &mut world));
        assert!(why.contains("does not fit on the disk of 33554432 bytes"), "{why}");
        assert_eq!(world.untouched(), early);
        assert!(early || world.does_not_boot());
    }
}

#[test]
fn a_loader_that_is_not_there_is_told() {
    let served = image();
    let mut world = World::new(served.clone(), FirmwareKind::Uefi);
    let mut order = order(&served, ImageFormat::Raw);
    order.efi_loader = "EFI/debian/shimx64.efi".into();
    let why = why(write(&order, &mut world));
    assert!(why.contains(r"has no \EFI\debian\shimx64.efi"), "{why}");
    assert!(world.does_not_boot());
    // Firmware whose variables cannot be reached starts the loader at the usual place.
    world.file.write_all_at(&vec![0x5a; DISK as usize], 0).unwrap();
    (world.nvram, order.efi_loader) = (None, String::new());
    let done = write(&order, &mut world).unwrap();
    assert!(done.ends_with("no boot entry (the firmware's variables cannot be reached)"), "{done}");
}
