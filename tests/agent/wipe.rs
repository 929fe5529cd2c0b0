//! Real block devices erased by order: control as it is, the agent's kernel and
//! initramfs in a QEMU machine with one disk of each kind. What is on the
//! images afterwards is looked at from outside.

use assets::bundle::{self, Plan};
use assets::lock::Lock;
use assets::packages::Store;
use control::lifecycle::holds;
use control::resource::{Kind, Phase};
use protocol::report::DiskState;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stoker_tests::site::Site;

const MAC: &str = "52:54:00:12:34:57";
const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-1234567890aa";
/// Without hardware virtualisation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);
/// Bytes of each disk.
const SIZE: usize = 24 << 20;

/// The disks: name of the image, serial number, whether it is to be erased.
const DISKS: [(&str, &str, bool); 7] = [
    ("nvme", "NVME1", true),
    ("sata", "SATA1", true),
    ("virtio", "VIRTIO1", true),
    ("virtio-plain", "VIRTIO2", true),
    ("scsi", "SCSI1", true),
    ("read-only", "READONLY1", false),
    ("usb", "USB1", false),
];

/// A QEMU machine that ends with the test.
struct Machine(Child, PathBuf);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The agent's kernel and initramfs: of the bundle that was built before, if there is one.
fn agent(out: PathBuf) -> PathBuf {
    if let Some(built) = std::env::var_os("STOKER_BUNDLE") {
        return PathBuf::from(built).join("env/agent-amd64");
    }
    let repository = assets::repository().unwrap();
    let cache = std::env::var_os("STOKER_CACHE").map_or_else(|| repository.join("target/bundle-cache"), PathBuf::from);
    let store = Store::new(&cache, Lock::load(&repository).unwrap(), false);
    let plan = Plan { out: out.clone(), repository, archs: vec!["x86_64".into()], agent: None, offline: false };
    bundle::build(&plan, &store).unwrap();
    out.join("env/agent-amd64")
}

/// Somebody's data: no two sectors alike, none of them empty.
fn data(seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x
    };
    let mut bytes: Vec<u8> = (0..SIZE / 4).flat_map(|_| word().to_le_bytes()).collect();
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[512..520].copy_from_slice(b"EFI PART");
    bytes
}

fn start(folder: &Path, files: &Path, site: &Site, token: &str) -> Machine {
    let append = format!(
        "console=ttyS0 quiet panic=-1 BOOTIF=01-{} stoker.control=http://10.0.2.2:{} stoker.attempt={token} stoker.ip= stoker.netmask=",
        MAC.replace(':', "-"),
        site.nodes.port()
    );
    let console = folder.join("console.log");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35", "-m", "512"]);
    qemu.args(["-nodefaults", "-display", "none", "-uuid", UUID, "-smbios", "type=1,serial=MACHINE1", "-no-reboot"]);
    qemu.args(["-kernel"]).arg(files.join("vmlinuz")).arg("-initrd").arg(files.join("initramfs.xz"));
    qemu.args(["-append", &append]);
    qemu.args(["-netdev", "user,id=n", "-device", &format!("virtio-net-pci,netdev=n,mac={MAC}")]);
    qemu.args(["-device", "virtio-scsi-pci,id=scsi", "-device", "qemu-xhci,id=usb"]);
    for (name, serial, _) in DISKS {
        let file = folder.join(name);
        let (more, device) = match name {
            "nvme" => ("discard=unmap", format!("nvme,serial={serial}")),
            "sata" => ("discard=ignore", format!("ide-hd,bus=ide.0,serial={serial}")),
            "virtio" => ("discard=unmap", format!("virtio-blk-pci,serial={serial}")),
            "virtio-plain" => {
                ("discard=ignore", format!("virtio-blk-pci,serial={serial},discard=off,write-zeroes=off"))
            }
            "scsi" => ("discard=unmap", format!("scsi-hd,bus=scsi.0,serial={serial}")),
            "read-only" => ("readonly=on", format!("virtio-blk-pci,serial={serial}")),
            _ => ("discard=ignore", format!("usb-storage,bus=usb.0,removable=on,serial={serial}")),
        };
        qemu.args(["-drive", &format!("if=none,id={name},format=raw,file={},{more}", file.display())]);
        qemu.args(["-device", &format!("{device},drive={name}")]);
    }
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    let child = qemu.stdin(Stdio::null()).spawn().expect("qemu-system-x86_64 (package qemu-system-x86)");
    Machine(child, console)
}

/// iPXE's part: asks for the script, and gives back the token in it.
fn token(site: &Site) -> String {
    let path = format!("/ipxe?uuid={UUID}&mac={}&arch=x86_64", MAC.replace(':', "-"));
    let script = site.node(Ipv4Addr::LOCALHOST, "GET", &path, "", "");
    let word = script.body.split_whitespace().find_map(|w| w.strip_prefix("stoker.attempt="));
    word.unwrap_or_else(|| panic!("{script:?}")).to_owned()
}

fn wait(site: &Site, machine: &Machine, what: &str, mut holds: impl FnMut(&Site) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(site) {
        if Instant::now() > end {
            let console = String::from_utf8_lossy(&std::fs::read(&machine.1).unwrap_or_default()).into_owned();
            panic!("never: {what}; {:#?}\n{console}", site.server(UUID).map(|s| s.status));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn w07_every_own_disk_of_a_real_machine_is_erased_by_its_own_means_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let files = agent(folder.path().join("real"));
    let before: BTreeMap<&str, Vec<u8>> = (1..).zip(DISKS).map(|(n, (name, ..))| (name, data(n))).collect();
    for (name, bytes) in &before {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let site = Site::start(folder.path(), "agent: {poll_seconds: 1}\n");
    let mut machine = start(folder.path(), &files, &site, &token(&site));
    let phase = |site: &Site, phase| site.server(UUID).is_some_and(|s| s.status.phase == Some(phase));
    wait(&site, &machine, "it reports", |site| phase(site, Phase::Discovered));

    // First a dry run: told what would be erased, nothing is (W14).
    site.apply(Kind::Server, UUID, &json!({"accepted": true, "wipe": {"dryRun": true}}));
    wait(&site, &machine, "the dry run is told", |site| site.server(UUID).is_some_and(|s| s.status.reason == "DryRun"));
    let order = site.server(UUID).unwrap().status.order.unwrap();
    assert!(order.disks.iter().all(|d| d.state == DiskState::WouldErase), "{order:?}");
    let named: Vec<_> = order.disks.iter().map(|d| d.disk.serial_number.as_str()).collect();
    for (_, serial, erased) in DISKS {
        assert_eq!(named.iter().any(|n| n.contains(serial)), erased, "{serial} of {named:?}");
    }
    let same = |name: &str| std::fs::read(folder.path().join(name)).unwrap() == before[name];
    assert!(DISKS.iter().all(|(name, ..)| same(name)), "W14: a dry run writes nothing");

    // In earnest.
    site.apply(Kind::Server, UUID, &json!({"accepted": true}));
    wait(&site, &machine, "clean", |site| phase(site, Phase::Available));
    let record = site.server(UUID).unwrap().status.wiped.unwrap();
    assert!(holds(&record), "its signature");
    let methods: BTreeMap<_, _> = record
        .disks
        .iter()
        .map(|d| {
            assert!(d.state == DiskState::Clean && d.verified > 64, "{d:?}");
            let (name, ..) = DISKS.iter().find(|(_, s, _)| d.disk.serial_number.contains(s)).unwrap();
            (*name, d.method.as_str())
        })
        .collect();
    println!("{methods:?}");
    machine.0.kill().unwrap();
    machine.0.wait().unwrap();
    for (name, _, erased) in DISKS {
        let now = std::fs::read(folder.path().join(name)).unwrap();
        if erased {
            let left = now.chunks(512).zip(before[name].chunks(512)).filter(|(a, b)| a == b).count();
            assert_eq!(left, 0, "{name}, by {:?}: sectors of the old data", methods.get(name));
            assert!(now.iter().all(|b| *b == 0 || *b == 0xff), "{name}");
        } else {
            assert!(now == before[name], "{name} is left alone");
        }
    }
    assert_eq!(methods.len(), 5);
    assert_eq!(methods["nvme"], "nvme-format", "the drive's own way");
    assert!(["discard", "zero-out", "zeroes"].contains(&methods["sata"]), "{methods:?}");
    assert!(["zero-out", "zeroes"].contains(&methods["virtio-plain"]), "a disk that can do nothing else: {methods:?}");
}
