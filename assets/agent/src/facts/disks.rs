//! Whole block devices, from sysfs.

use crate::link::{number, text};
use protocol::report::Disk;
use std::fs;
use std::path::Path;

/// Disks reported; more are not (a shelf of disks has some hundreds).
const MAX_DISKS: usize = 1024;
/// The size of a disk in sysfs is in units of this many bytes, whatever its sectors are.
const SYSFS_SECTOR: u64 = 512;

/// All disks below `sys` (`/sys`), by name. Loop devices, RAM disks, mapped
/// devices and empty drives are not hardware and are left out.
pub fn list(sys: &Path) -> Vec<Disk> {
    let Ok(entries) = fs::read_dir(sys.join("block")) else { return Vec::new() };
    let mut disks: Vec<Disk> = entries
        .flatten()
        .filter_map(|entry| disk(&entry.path(), entry.file_name().to_str()?))
        .take(MAX_DISKS)
        .collect();
    disks.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    disks
}

fn disk(folder: &Path, name: &str) -> Option<Disk> {
    // nvme0c0n1 is one path of a multipath nvme0n1, not a disk.
    let hidden = text(folder, "hidden").as_deref() == Some("1");
    if hidden || !folder.join("device").exists() || is_optical(folder) {
        return None;
    }
    let size = number::<u64>(folder, "size")?.saturating_mul(SYSFS_SECTOR);
    if size == 0 {
        return None;
    }
    let device = folder.join("device");
    let real = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let transport = transport(name, &real, &device);
    let rotational = text(folder, "queue/rotational");
    Some(Disk {
        name: name.to_string(),
        device_name: format!("/dev/{name}"),
        r#type: kind(transport, rotational.as_deref()).to_string(),
        size,
        sector_size: number(folder, "queue/logical_block_size").unwrap_or(512),
        model: text(&device, "model").or_else(|| text(&device, "name")).unwrap_or_default(),
        serial_number: serial(folder, &device),
        wwid: text(folder, "wwid").or_else(|| text(&device, "wwid")).unwrap_or_default(),
        uuid: text(folder, "uuid").or_else(|| text(folder, "nguid")).unwrap_or_default(),
        transport: transport.to_string(),
        removable: text(folder, "removable").as_deref() == Some("1"),
        read_only: text(folder, "ro").as_deref() == Some("1"),
    })
}

/// SCSI peripheral type 5 (CD, DVD), and virtual media that say so.
fn is_optical(folder: &Path) -> bool {
    number::<u32>(folder, "device/type") == Some(5)
}

/// How the disk is attached, read from the chain of devices that it hangs on.
fn transport(name: &str, real: &Path, device: &Path) -> &'static str {
    let path = real.to_string_lossy();
    let through = |part: &str| path.contains(part);
    if name.starts_with("nvme") {
        if nvme_is_local(device) { "nvme" } else { "nvme-of" }
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if name.starts_with("vd") {
        "virtio"
    } else if through("/usb") {
        "usb"
    } else if through("/session") {
        "iscsi"
    } else if through("/rport-") {
        "fc"
    } else if through("/end_device-") || device.join("sas_address").exists() {
        "sas"
    } else if through("/ata") {
        "ata"
    } else if through("/virtio") {
        "virtio"
    } else if device.join("type").exists() {
        "scsi"
    } else {
        ""
    }
}

/// Whether an NVMe namespace is behind this machine's own bus. With the kernel's multipath the device is
/// a subsystem, and the controllers are below it.
fn nvme_is_local(device: &Path) -> bool {
    let below = fs::read_dir(device).into_iter().flatten().flatten().map(|entry| entry.path());
    let controllers = below.filter(|path| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("nvme")) && path.join("state").exists()
    });
    let mut all = std::iter::once(device.to_path_buf()).chain(controllers);
    all.all(|controller| text(&controller, "transport").is_none_or(|t| matches!(t.as_str(), "pcie" | "apple-nvme")))
}

/// The words of Sidero's inventory: SSD, HDD, NVMe, SD or Unknown.
fn kind(transport: &str, rotational: Option<&str>) -> &'static str {
    match (transport, rotational) {
        ("nvme" | "nvme-of", _) => "NVMe",
        ("mmc", _) => "SD",
        (_, Some("0")) => "SSD",
        (_, Some("1")) => "HDD",
        _ => "Unknown",
    }
}

/// NVMe and MMC tell it at the device, virtio at the disk, SCSI and ATA in vital product data page 0x80.
fn serial(folder: &Path, device: &Path) -> String {
    if let Some(serial) = text(device, "serial").or_else(|| text(folder, "serial")).filter(|s| !s.is_empty()) {
        return serial;
    }
    let Ok(page) = fs::read(device.join("vpd_pg80")) else { return String::new() };
    // SPC-4 7.8.15: type, page code, length of 2 bytes, text.
    let [_, 0x80, high, low] = page.first_chunk::<4>().copied().unwrap_or_default() else { return String::new() };
    let end = 4 + usize::from(u16::from_be_bytes([high, low]));
    let text = page.get(4..end.min(page.len())).unwrap_or_default();
    crate::console::printable(String::from_utf8_lossy(text).trim().trim_matches('\0'))
}
