//! The kernel modules that go into the initramfs, what they need, and the two
//! index files by which the agent finds them (modules.dep(5), modules.alias(5)).

use crate::modinfo::{self, Modinfo, underscored};
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Drivers of what servers boot from, and of their BMCs. Left out: those that do
/// nothing without firmware that Debian's kernel package cannot carry (bnx2, bnx2x, qed, cxgb4).
pub const DRIVERS: &[&str] = &[
    // network: virtual machines
    "virtio_net",
    "vmxnet3",
    "e1000",
    "8139cp",
    "8139too",
    "ena",
    "gve",
    "hv_netvsc",
    // network: servers
    "e1000e",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    "mlx4_en",
    "mlx5_core",
    "bnxt_en",
    "tg3",
    "r8169",
    "be2net",
    "enic",
    "atlantic",
    "sfc",
    "ionic",
    "hinic",
    // disks
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "vmd",
    "ahci",
    "ata_piix",
    "sd_mod",
    "megaraid_sas",
    "mpt3sas",
    "hpsa",
    "smartpqi",
    "aacraid",
    "arcmsr",
    "isci",
    "mvsas",
    "vmw_pvscsi",
    "hv_storvsc",
    "usb_storage",
    "uas",
    "xhci_pci",
    "ehci_pci",
    "sdhci_pci",
    "sdhci_acpi",
    "mmc_block",
    // the machine itself
    "efivarfs",
    "ipmi_si",
    "ipmi_devintf",
];

/// A set of modules of one kernel.
#[derive(Debug, Default)]
pub struct Selection {
    /// `uname -r` of their kernel.
    pub release: String,
    /// Path from `/lib/modules/RELEASE` to the file in the package.
    pub files: BTreeMap<String, PathBuf>,
    /// Text of `modules.dep`.
    pub dep: String,
    /// Text of `modules.alias`.
    pub alias: String,
    /// Those asked for that this kernel has neither as a module nor built in.
    pub missing: Vec<String>,
    /// Firmware files that no package here brings, by module.
    pub firmware: BTreeMap<String, Vec<String>>,
}

/// Takes the drivers and what they need from an unpacked kernel package.
///
/// # Errors
/// When the package has no modules, or one that is needed is missing.
pub fn select(package: &Path, drivers: &[&str]) -> Result<Selection> {
    let root = ["usr/lib/modules", "lib/modules"].iter().map(|p| package.join(p)).find(|p| p.is_dir());
    let root = root.with_context(|| format!("no modules in {}", package.display()))?;
    let release = std::fs::read_dir(&root)?.flatten().next().context("no kernel release")?.file_name();
    let release = release.into_string().ok().context("a kernel release that is no text")?;
    let root = root.join(&release);
    let all = index(&root)?;
    let builtin = std::fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();

    let mut selection = Selection { release, ..Selection::default() };
    let mut infos = BTreeMap::new();
    for driver in drivers {
        if all.contains_key(*driver) {
            add(driver, &all, &mut infos)?;
        } else if !builtin.contains(*driver) {
            selection.missing.push((*driver).to_string());
        }
    }
    for (name, info) in &infos {
        let file = &all[name];
        let relative =
            |file: &Path| file.strip_prefix(&root).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let mut order = Vec::new();
        load_order(name, &infos, &mut order);
        order.pop(); // the module itself
        let needs: String = order.iter().rev().map(|n| format!(" {}", relative(&all[n]))).collect();
        writeln!(selection.dep, "{}:{needs}", relative(file))?;
        for alias in &info.aliases {
            writeln!(selection.alias, "alias {} {name}", alias.replace(' ', "_"))?;
        }
        if !info.firmware.is_empty() {
            selection.firmware.insert(name.clone(), info.firmware.clone());
        }
        selection.files.insert(relative(file), file.clone());
    }
    Ok(selection)
}

/// Every module of the tree by name.
fn index(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("kernel")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(module_name(&path.to_string_lossy()), path);
            }
        }
    }
    Ok(found)
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    underscored(name.split(".ko").next().unwrap_or(name))
}

/// Reads a module and everything that it needs.
fn add(name: &str, all: &BTreeMap<String, PathBuf>, infos: &mut BTreeMap<String, Modinfo>) -> Result<()> {
    if infos.contains_key(name) {
        return Ok(());
    }
    let Some(file) = all.get(name) else { bail!("module {name} is needed and not in the kernel package") };
    let mut info = modinfo::read(file)?;
    info.before.retain(|soft| all.contains_key(soft));
    infos.insert(name.to_string(), info.clone());
    info.depends.iter().chain(&info.before).try_for_each(|need| add(need, all, infos))
}

/// A module after all that it needs; each once.
fn load_order(name: &str, infos: &BTreeMap<String, Modinfo>, order: &mut Vec<String>) {
    fn visit(name: &str, infos: &BTreeMap<String, Modinfo>, begun: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if !begun.insert(name.to_string()) {
            return;
        }
        if let Some(info) = infos.get(name) {
            info.depends.iter().chain(&info.before).for_each(|need| visit(need, infos, begun, order));
        }
        order.push(name.to_string());
    }
    visit(name, infos, &mut BTreeSet::new(), order);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first_and_once_even_in_a_circle() {
        let info = |depends: &[&str]| Modinfo {
            depends: depends.iter().map(|d| d.to_string()).collect(),
            ..Modinfo::default()
        };
        let infos = BTreeMap::from([
            ("virtio_net".to_string(), info(&["net_failover", "failover"])),
            ("net_failover".to_string(), info(&["failover"])),
            ("failover".to_string(), info(&["net_failover"])), // no kernel has this; it must end all the same
        ]);
        let mut order = Vec::new();
        load_order("virtio_net", &infos, &mut order);
        assert_eq!(order, ["failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(module_name("kernel/drivers/scsi/smartpqi/smartpqi.ko.xz"), "smartpqi");
        assert_eq!(module_name("/x/usb-storage.ko"), "usb_storage");
    }
}
