//! The inventory: what the machine is made of. Every part is found out on its
//! own; what cannot be found out is left empty and named in the gaps.

pub mod cpu;
pub mod disks;
pub mod nics;
pub mod smbios;

use crate::link::text;
use crate::sys::netlink::InterfaceAddress;
use protocol::id::{Arch, MachineId};
use protocol::report::{Facts, FirmwareKind, Memory};
use std::fs;
use std::path::Path;

/// Collects everything below `root` (`/`; tests give a tree of their own).
/// `addresses` come from netlink, `gaps` are those known so far.
pub fn collect(root: &Path, addresses: &[InterfaceAddress], mut gaps: Vec<String>) -> Facts {
    let sys = root.join("sys");
    let table = smbios::read(&sys.join("firmware/dmi/tables")).unwrap_or_else(|e| {
        gaps.push(format!("SMBIOS table unreadable: {e}"));
        smbios::Table::default()
    });
    let mut system = table.system();
    fill_system(&mut system, &sys.join("class/dmi/id"));
    if system.uuid.is_none_or(MachineId::is_placeholder) {
        gaps.push("the firmware gives this machine no UUID".to_string());
    }
    Facts {
        compute: cpu::compute(&table, root, &mut gaps),
        memory: memory(&table, root, &mut gaps),
        storage: disks::list(&sys),
        network: nics::list(&sys, addresses),
        firmware: if sys.join("firmware/efi").exists() { FirmwareKind::Uefi } else { FirmwareKind::Bios },
        arch: arch(),
        bmc_present: root.join("dev/ipmi0").exists(),
        system,
        gaps,
    }
}

/// Where the raw table could not be read, the kernel's own reading of it may have.
fn fill_system(system: &mut protocol::report::System, id: &Path) {
    let fill = |field: &mut String, name: &str| {
        if field.is_empty() {
            *field = text(id, name).unwrap_or_default();
        }
    };
    fill(&mut system.manufacturer, "sys_vendor");
    fill(&mut system.product_name, "product_name");
    fill(&mut system.version, "product_version");
    fill(&mut system.serial_number, "product_serial");
    fill(&mut system.sku_number, "product_sku");
    fill(&mut system.family, "product_family");
    system.uuid = system.uuid.or_else(|| text(id, "product_uuid")?.parse().ok());
}

fn memory(table: &smbios::Table, root: &Path, gaps: &mut Vec<String>) -> Memory {
    let modules = table.memory_modules();
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let usable_bytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024));
    if usable_bytes == 0 {
        gaps.push("/proc/meminfo tells no MemTotal".to_string());
    }
    let installed: u64 = modules.iter().map(|m| u64::from(m.size) << 20).sum();
    Memory { total_bytes: if installed == 0 { usable_bytes } else { installed }, usable_bytes, modules }
}

const fn arch() -> Option<Arch> {
    if cfg!(target_arch = "x86_64") {
        Some(Arch::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Arch::Arm64)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
