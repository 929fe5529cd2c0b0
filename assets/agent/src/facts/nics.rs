//! Network interfaces that are hardware, from sysfs; their addresses from netlink.

use crate::link::{self, Link, number, text};
use crate::sys::netlink::InterfaceAddress;
use protocol::report::Interface;
use std::path::Path;

/// All Ethernet interfaces of hardware below `sys` (`/sys`).
pub fn list(sys: &Path, addresses: &[InterfaceAddress]) -> Vec<Interface> {
    link::hardware(sys).iter().map(|link| interface(link, addresses)).collect()
}

fn interface(link: &Link, addresses: &[InterfaceAddress]) -> Interface {
    let device = link.folder.join("device");
    let flags = text(&link.folder, "flags").and_then(|f| u32::from_str_radix(f.trim_start_matches("0x"), 16).ok());
    Interface {
        index: link.index,
        name: link.name.clone(),
        flags: flag_names(flags.unwrap_or(0)),
        mtu: number(&link.folder, "mtu").unwrap_or(0),
        mac: Some(link.mac),
        addresses: addresses
            .iter()
            .filter(|a| a.index == link.index)
            .map(|a| format!("{}/{}", a.ip, a.prefix))
            .collect(),
        // The kernel says -1 where it does not know.
        speed_mbps: number::<i64>(&link.folder, "speed").and_then(|s| u32::try_from(s).ok()).unwrap_or(0),
        link: link.has_carrier(),
        driver: target_name(&device.join("driver")).unwrap_or_default(),
        pci_id: pci_id(&device),
    }
}

/// As Go's net.Flags prints them, which is what Sidero's users have seen.
fn flag_names(flags: u32) -> String {
    const NAMES: [(u32, &str); 6] = [
        (1, "up"),
        (2, "broadcast"),
        (8, "loopback"),
        (0x10, "pointtopoint"),
        (0x1000, "multicast"),
        (0x40, "running"),
    ];
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "0".to_string() } else { names.join("|") }
}

/// `vendor:device` of the PCI function; a virtio device's is that of the function that carries it.
fn pci_id(device: &Path) -> String {
    let real = device.canonicalize().unwrap_or_else(|_| device.to_path_buf());
    let read = |folder: &Path| {
        let hex = |name: &str| text(folder, name).map(|t| t.trim_start_matches("0x").to_string());
        Some(format!("{}:{}", hex("vendor")?, hex("device")?))
    };
    let own = target_name(&real.join("subsystem")).is_none_or(|bus| bus == "pci").then(|| read(&real)).flatten();
    own.or_else(|| read(real.parent()?)).unwrap_or_default()
}

fn target_name(link: &Path) -> Option<String> {
    Some(std::fs::read_link(link).ok()?.file_name()?.to_str()?.to_string())
}
