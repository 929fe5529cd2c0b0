//! Which disk an image is written to.
//!
//! Only a disk of the machine's own that is not kept (`spec.wipe.keepDisks`),
//! that has room, and that every hint fits. Of several: the smallest one of at
//! least [`SMALL`], as Metal3 does it, since large ones are meant for data and
//! tiny ones are boot media of vendors; where all are tiny, the largest.

use super::server::{is_named, is_own};
use crate::resource::RootDeviceHints;
use protocol::report::{Disk, Facts};

/// A disk below this is taken only where there is no larger one, bytes.
pub const SMALL: u64 = 4 << 30;
/// Disks that a refusal tells of.
const TOLD: usize = 8;

/// Chooses the disk for an image of `bytes` bytes at least.
///
/// # Errors
/// Why there is none, disk by disk.
pub fn choose<'a>(
    facts: &'a Facts,
    hints: Option<&RootDeviceHints>,
    keep: &[String],
    bytes: u64,
) -> Result<&'a Disk, String> {
    let mut fit = Vec::new();
    let mut against = Vec::new();
    for disk in &facts.storage {
        let why = if !is_own(disk) {
            Some("not a disk of its own (removable, read-only, empty or remote)".to_owned())
        } else if is_named(disk, keep) {
            Some("kept (spec.wipe.keepDisks)".to_owned())
        } else if let Some(hint) = hints.and_then(|hints| misfit(disk, hints)) {
            Some(format!("not the one of rootDeviceHints.{hint}"))
        } else if disk.size < bytes {
            Some(format!("{} bytes, the image has {bytes}", disk.size))
        } else {
            None
        };
        match why {
            None => fit.push(disk),
            Some(why) => against.push(format!("{}: {why}", crate::metadata::words::clean(&disk.name))),
        }
    }
    let large = fit.iter().filter(|d| d.size >= SMALL).min_by_key(|d| (d.size, order(&d.name)));
    let chosen = large.or_else(|| fit.iter().max_by_key(|d| (d.size, std::cmp::Reverse(order(&d.name)))));
    chosen.copied().ok_or_else(|| match against.is_empty() {
        true => "no disk to write the image to: it has reported none".to_owned(),
        false => {
            let more = against.len().saturating_sub(TOLD);
            let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
            against.truncate(TOLD);
            format!("no disk to write the image to: {}{rest}", against.join("; "))
        }
    })
}

/// `sdb` before `sdaa`.
fn order(name: &str) -> (usize, &str) {
    (name.len(), name)
}

/// The first hint that a disk does not fit.
fn misfit(disk: &Disk, hints: &RootDeviceHints) -> Option<&'static str> {
    let equal = |want: &str, is: &str| want.eq_ignore_ascii_case(is.trim());
    let within = |want: &str, is: &str| is.to_ascii_lowercase().contains(&want.to_ascii_lowercase());
    let device = hints.device_name.trim_start_matches("/dev/");
    let turns = disk.r#type.eq_ignore_ascii_case("HDD");
    let table = [
        ("deviceName", !device.is_empty() && device != disk.name),
        ("model", !hints.model.is_empty() && !within(&hints.model, &disk.model)),
        ("vendor", !hints.vendor.is_empty() && !within(&hints.vendor, &disk.model)),
        ("serialNumber", !hints.serial_number.is_empty() && !equal(&hints.serial_number, &disk.serial_number)),
        ("wwn", !hints.wwn.is_empty() && bare(&hints.wwn) != bare(&disk.wwid)),
        ("minSizeGigabytes", disk.size < hints.min_size_gigabytes.saturating_mul(1 << 30)),
        ("type", !hints.kind.is_empty() && !equal(&hints.kind, &disk.r#type)),
        ("rotational", hints.rotational.is_some_and(|wanted| wanted != turns)),
    ];
    table.into_iter().find(|(_, bad)| *bad).map(|(hint, _)| hint)
}

/// A WWN without the ways in which tools write it: `0x5000c500a`, `naa.5000c500a`, `eui.0025...`.
fn bare(wwn: &str) -> String {
    let lower = wwn.trim().to_ascii_lowercase();
    let known = ["0x", "naa.", "eui.", "wwn-0x", "nvme."];
    let rest = known.iter().find_map(|prefix| lower.strip_prefix(prefix));
    rest.unwrap_or(&lower).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn disk(name: &str, size: u64) -> Disk {
        Disk { name: name.into(), size, r#type: "SSD".into(), model: format!("Model {name}"), ..Disk::default() }
    }

    fn facts(disks: Vec<Disk>) -> Facts {
        Facts { storage: disks, ..Facts::default() }
    }

    fn rack() -> Facts {
        facts(vec![
            Disk { removable: true, ..disk("sda", 8 * GIB) },
            Disk { r#type: "HDD".into(), wwid: "naa.5000C500A".into(), ..disk("sdb", 4000 * GIB) },
            Disk { serial_number: "S2 ".into(), ..disk("nvme0n1", 480 * GIB) },
            Disk { serial_number: "S1".into(), ..disk("nvme1n1", 480 * GIB) },
            disk("mmcblk0", 2 * GIB),
            Disk { transport: "iscsi".into(), ..disk("sdc", 500 * GIB) },
        ])
    }

    #[test]
    fn the_table_of_hints() {
        let hints = |change: &dyn Fn(&mut RootDeviceHints)| {
            let mut hints = RootDeviceHints::default();
            change(&mut hints);
            hints
        };
        type Row<'a> = (RootDeviceHints, &'a [&'a str], u64, Result<&'a str, &'a str>);
        let table: &[Row<'_>] = &[
            (hints(&|_| ()), &[], 1, Ok("nvme0n1")),
            (hints(&|_| ()), &["nvme0n1"], 1, Ok("nvme1n1")),
            (hints(&|_| ()), &[], 500 * GIB, Ok("sdb")),
            (hints(&|_| ()), &[], 5000 * GIB, Err("sdb: 4294967296000 bytes, the image has 5368709120000")),
            (hints(&|h| h.device_name = "/dev/sdb".into()), &[], 1, Ok("sdb")),
            (hints(&|h| h.device_name = "mmcblk0".into()), &[], 1, Ok("mmcblk0")),
            (hints(&|h| h.device_name = "sda".into()), &[], 1, Err("sda: not a disk of its own")),
            (hints(&|h| h.device_name = "sdc".into()), &[], 1, Err("sdc: not a disk of its own")),
            (hints(&|h| h.device_name = "sdb".into()), &["naa.5000C500A"], 1, Err("sdb: kept")),
            (hints(&|h| h.serial_number = "s2".into()), &[], 1, Ok("nvme0n1")),
            (
                hints(&|h| h.serial_number = "S".into()),
                &[],
                1,
                Err("nvme0n1: not the one of rootDeviceHints.serialNumber"),
            ),
            (hints(&|h| h.wwn = "0x5000c500a".into()), &[], 1, Ok("sdb")),
            (hints(&|h| h.model = "NVME1".into()), &[], 1, Ok("nvme1n1")),
            (hints(&|h| h.vendor = "model sdb".into()), &[], 1, Ok("sdb")),
            (hints(&|h| h.kind = "hdd".into()), &[], 1, Ok("sdb")),
            (hints(&|h| h.rotational = Some(true)), &[], 1, Ok("sdb")),
            (hints(&|h| h.rotational = Some(false)), &[], 1, Ok("nvme0n1")),
            (hints(&|h| h.min_size_gigabytes = 481), &[], 1, Ok("sdb")),
            (
                hints(&|h| (h.serial_number, h.rotational) = ("S1".into(), Some(true))),
                &[],
                1,
                Err("nvme1n1: not the one of rootDeviceHints.rotational"),
            ),
        ];
        let rack = rack();
        for (i, (hints, keep, bytes, expected)) in table.iter().enumerate() {
            let keep: Vec<String> = keep.iter().map(|k| (*k).to_owned()).collect();
            match (choose(&rack, Some(hints), &keep, *bytes), expected) {
                (Ok(disk), Ok(name)) => assert_eq!(disk.name, *name, "row {i}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "row {i}: {why}"),
                (found, _) => panic!("row {i}: {found:?} in place of {expected:?}"),
            }
        }
    }

    #[test]
    fn where_all_are_tiny_the_largest_is_taken() {
        let tiny = facts(vec![disk("vda", 64 << 20), disk("vdb", 256 << 20), disk("vdc", 256 << 20)]);
        assert_eq!(choose(&tiny, None, &[], 1).map(|d| d.name.as_str()), Ok("vdb"));
        assert!(choose(&facts(vec![]), None, &[], 1).unwrap_err().contains("reported none"));
        let many = facts((0..40).map(|i| disk(&format!("sd{i}"), 1)).collect());
        assert!(
            choose(&many, None, &[], 2).unwrap_err().ends_with("and 32 more"),
            "a refusal does not grow with the machine"
        );
    }
}
