//! The inventory of machines whose sysfs is made up in a scratch folder.

use super::*;
use protocol::id::Mac;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A root folder in which files and links are laid out as sysfs has them.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn files(&self, folder: &str, files: &[(&str, &str)]) -> &Self {
        for (name, text) in files {
            self.file(&format!("{folder}/{name}"), format!("{text}\n"));
        }
        self
    }

    /// `link` leads to the folder `target`, both from the root.
    fn link(&self, link: &str, target: &str) -> &Self {
        let (link, target) = (self.0.path().join(link), self.0.path().join(target));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::create_dir_all(&target).unwrap();
        symlink(target, link).unwrap();
        self
    }

    fn facts(&self) -> Facts {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
        collect(self.0.path(), &[InterfaceAddress { index: 2, ip, prefix: 24 }], Vec::new())
    }
}

const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\ncpu MHz\t\t: 2599.8\nphysical id\t: 0\ncore id\t\t: 0\n\n\
                       processor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\ncpu MHz\t\t: 2599.8\nphysical id\t: 0\ncore id\t\t: 0\n\n\
                       processor\t: 2\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\ncpu MHz\t\t: 2599.8\nphysical id\t: 1\ncore id\t\t: 0\n\n";

fn server() -> Root {
    let root = Root::new();
    root.file("sys/firmware/efi/runtime", "").file("dev/ipmi0", "").file("proc/cpuinfo", CPUINFO);
    root.file("proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\n");
    for name in ["DMI", "smbios_entry_point"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qemu").join(name);
        root.file(&format!("sys/firmware/dmi/tables/{name}"), fs::read(fixture).unwrap());
    }

    // NVMe, with one path of a multipath name beside it
    let nvme = "sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0";
    root.files(nvme, &[("model", "SAMSUNG MZ7   "), ("serial", "S4XX"), ("state", "live")]);
    root.files(
        &format!("{nvme}/nvme0n1"),
        &[("size", "3750748848"), ("removable", "0"), ("ro", "0"), ("wwid", "eui.0025"), ("uuid", "u-1")],
    );
    root.files(&format!("{nvme}/nvme0n1/queue"), &[("rotational", "0"), ("logical_block_size", "4096")]);
    root.link(&format!("{nvme}/nvme0n1/device"), nvme).link("sys/block/nvme0n1", &format!("{nvme}/nvme0n1"));
    root.files("sys/block/nvme0c0n1", &[("size", "3750748848"), ("hidden", "1")])
        .link("sys/block/nvme0c0n1/device", nvme);

    // a SATA disk, its serial number in the vital product data only
    let ata = "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    root.files(ata, &[("model", "ST4000NM0035"), ("type", "0"), ("wwid", "naa.5000c500")]);
    root.file(&format!("{ata}/vpd_pg80"), b"\x00\x80\x00\x0a  ZC10ABCD");
    root.files(&format!("{ata}/block/sda"), &[("size", "7814037168"), ("removable", "0"), ("ro", "1")]);
    root.files(&format!("{ata}/block/sda/queue"), &[("rotational", "1"), ("logical_block_size", "512")]);
    root.link(&format!("{ata}/block/sda/device"), ata).link("sys/block/sda", &format!("{ata}/block/sda"));

    // a USB stick, a virtual CD, a card reader without a card, a loop device
    let usb = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0";
    root.files(usb, &[("model", "Ultra"), ("type", "0")]);
    root.files(&format!("{usb}/block/sdb"), &[("size", "60062500"), ("removable", "1"), ("ro", "0")]);
    root.link(&format!("{usb}/block/sdb/device"), usb).link("sys/block/sdb", &format!("{usb}/block/sdb"));
    root.files("sys/block/sr0", &[("size", "2097151")]).files("sys/block/sr0/device", &[("type", "5")]);
    root.files("sys/block/sdc", &[("size", "0")]).files("sys/block/sdc/device", &[("type", "0")]);
    root.files("sys/block/loop0", &[("size", "100")]);

    // a network card, one whose cable is out, and interfaces without hardware
    let card = "sys/devices/pci0000:00/0000:00:19.0";
    root.files(card, &[("vendor", "0x8086"), ("device", "0x1521")]);
    root.link(&format!("{card}/driver"), "sys/bus/pci/drivers/igb").link(&format!("{card}/subsystem"), "sys/bus/pci");
    let attributes = [
        ("type", "1"),
        ("address", "52:54:00:12:34:56"),
        ("ifindex", "2"),
        ("mtu", "1500"),
        ("flags", "0x1003"),
        ("carrier", "1"),
        ("speed", "1000"),
    ];
    root.files("sys/class/net/eth0", &attributes).link("sys/class/net/eth0/device", card);
    let attributes = [
        ("type", "1"),
        ("address", "52:54:00:12:34:57"),
        ("ifindex", "3"),
        ("mtu", "9000"),
        ("flags", "0x1002"),
        ("speed", "-1"),
    ];
    root.files("sys/class/net/eth1", &attributes).link("sys/class/net/eth1/device", card);
    root.files("sys/class/net/lo", &[("type", "772"), ("address", "00:00:00:00:00:00"), ("ifindex", "1")]);
    root.files("sys/class/net/br0", &[("type", "1"), ("address", "02:00:00:00:00:01"), ("ifindex", "4")]);
    root
}

#[test]
fn disks_are_told_as_they_are() {
    let disks = server().facts().storage;
    assert_eq!(disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["sda", "sdb", "nvme0n1"]);
    let [sata, usb, nvme] = disks.try_into().unwrap();
    assert_eq!((nvme.size, nvme.sector_size, nvme.r#type.as_str()), (3_750_748_848 * 512, 4096, "NVMe"));
    assert_eq!(
        (nvme.model.as_str(), nvme.serial_number.as_str(), nvme.wwid.as_str()),
        ("SAMSUNG MZ7", "S4XX", "eui.0025")
    );
    assert_eq!(
        (nvme.transport.as_str(), nvme.uuid.as_str(), nvme.device_name.as_str()),
        ("nvme", "u-1", "/dev/nvme0n1")
    );
    assert_eq!(
        (sata.transport.as_str(), sata.r#type.as_str(), sata.serial_number.as_str()),
        ("ata", "HDD", "ZC10ABCD")
    );
    assert_eq!((sata.read_only, sata.removable, sata.wwid.as_str()), (true, false, "naa.5000c500"));
    assert_eq!((usb.transport.as_str(), usb.removable, usb.r#type.as_str()), ("usb", true, "Unknown"));
}

#[test]
fn network_cards_are_told_as_they_are() {
    let nics = server().facts().network;
    assert_eq!(nics.len(), 2, "{nics:?}");
    assert_eq!((nics[0].index, nics[0].name.as_str(), nics[0].mtu), (2, "eth0", 1500));
    assert_eq!(nics[0].mac, Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
    assert_eq!((nics[0].flags.as_str(), nics[0].speed_mbps, nics[0].link), ("up|broadcast|multicast", 1000, true));
    assert_eq!((nics[0].driver.as_str(), nics[0].pci_id.as_str()), ("igb", "8086:1521"));
    assert_eq!(nics[0].addresses, ["10.0.0.9/24"]);
    assert_eq!((nics[1].flags.as_str(), nics[1].speed_mbps, nics[1].link), ("broadcast|multicast", 0, false));
    assert!(nics[1].addresses.is_empty());
}

#[test]
fn the_machine_itself_is_told_as_it_is() {
    let facts = server().facts();
    assert_eq!((facts.firmware, facts.bmc_present), (FirmwareKind::Uefi, true));
    assert_eq!((facts.system.manufacturer.as_str(), facts.system.serial_number.as_str()), ("Lab", "S1"));
    assert_eq!((facts.memory.total_bytes, facts.memory.usable_bytes), (3072 << 20, 16_000_000 * 1024));
    assert_eq!((facts.compute.total_core_count, facts.compute.processors.len()), (4, 2));
    assert!(facts.gaps.is_empty(), "{:?}", facts.gaps);
}

#[test]
fn without_smbios_the_kernel_is_asked() {
    let root = Root::new();
    root.file("proc/cpuinfo", CPUINFO).file("proc/meminfo", "MemTotal:       16000000 kB\n");
    root.files("sys/class/dmi/id", &[("sys_vendor", "Acme"), ("product_uuid", "6f0c4e2a-0b1d-4c5e-8f90-123456789abc")]);
    let facts = root.facts();
    let [first, second] = facts.compute.processors.try_into().unwrap();
    assert_eq!((first.core_count, first.thread_count, first.speed), (1, 2, 2600));
    assert_eq!((second.core_count, second.thread_count, second.manufacturer.as_str()), (1, 1, "GenuineIntel"));
    assert_eq!(facts.memory.total_bytes, facts.memory.usable_bytes);
    assert_eq!(facts.system.manufacturer, "Acme");
    assert!(facts.system.uuid.is_some());
    assert_eq!(facts.firmware, FirmwareKind::Bios);
    assert!(facts.gaps.len() == 1 && facts.gaps[0].starts_with("SMBIOS table unreadable"), "{:?}", facts.gaps);
}

#[test]
fn an_empty_machine_is_all_gaps_and_no_panic() {
    let facts = Root::new().facts();
    assert!(facts.storage.is_empty() && facts.network.is_empty());
    assert_eq!(facts.gaps.len(), 4, "{:?}", facts.gaps);
}

#[test]
fn w07_disks_of_a_network_are_told_from_those_on_the_machines_own_bus() {
    let root = Root::new();
    let disk = |name: &str, device: &str| {
        root.files(&format!("sys/block/{name}"), &[("size", "2048"), ("hidden", "0")]);
        root.link(&format!("sys/block/{name}/device"), device);
    };
    root.files("sys/c/nvme0", &[("transport", "pcie"), ("state", "live")]);
    root.files("sys/c/nvme1", &[("transport", "tcp"), ("state", "live")]);
    // With the kernel's multipath, the controllers are below a subsystem.
    root.files("sys/c/subsys2/nvme2", &[("transport", "pcie"), ("state", "live")]);
    root.files("sys/c/subsys3/nvme3", &[("transport", "rdma"), ("state", "live")]);
    for (name, device) in [("nvme0n1", "nvme0"), ("nvme1n1", "nvme1"), ("nvme2n1", "subsys2"), ("nvme3n1", "subsys3")] {
        disk(name, &format!("sys/c/{device}"));
    }
    let transports: Vec<_> = root.facts().storage.into_iter().map(|d| d.transport).collect();
    assert_eq!(transports, ["nvme", "nvme-of", "nvme", "nvme-of"]);
}
