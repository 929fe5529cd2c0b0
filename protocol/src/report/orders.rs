//! What the agent can be told to do, and what it tells of it.
//!
//! An order names the machine that it is for and the disks that it may touch.
//! The agent compares both with what it finds and refuses on any difference
//! (W3): an order that went to the wrong machine destroys nothing there.

use crate::id::{Mac, MachineId};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The machine that an order is for. Every part that is set must be the agent's own.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// SMBIOS UUID as the firmware reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    /// SMBIOS serial number; empty where the firmware gives none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// Its network cards. One of them must be there: a card may be replaced, not all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<Mac>,
}

/// A disk, by what stays the same when the kernel names disks in another order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskTarget {
    /// World-wide id. Where it is set it decides alone (with the size).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wwid: String,
    /// Serial number; with `model` and `size` it decides where there is no WWID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// Model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Bytes; always compared.
    pub size: u64,
    /// Kernel name when the order was made. For people, and to tell apart disks that have
    /// neither WWID nor serial number (virtual ones).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// How disks are to be erased.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WipeMethod {
    /// The strongest that each disk offers and that can be verified: the device's own erase,
    /// then discard that reads as zeroes, then zeroes over everything.
    #[default]
    Auto,
    /// Only the device's own erase (NVMe sanitize or format, ATA secure erase, BLKSECDISCARD); a
    /// disk that has none fails.
    Secure,
    /// Zeroes over everything, whatever else the disk offers.
    Zero,
    /// Discard, and zeroes over signatures and both ends: minutes become seconds, data of the
    /// middle may remain readable.
    Fast,
}

/// A text that must not be seen in logs: printed as `***`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl Hidden {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl core::fmt::Debug for Hidden {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(if self.0.is_empty() { "-" } else { "***" })
    }
}

/// Erase these disks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WipeOrder {
    /// For which machine.
    pub target: Target,
    /// Which disks, all of them: none is erased that is not named here.
    pub disks: Vec<DiskTarget>,
    /// How.
    pub method: WipeMethod,
    /// Erase also disks that bear the signature of a shared or foreign file system (W8).
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub force: bool,
    /// Look, and report what would be done; write nothing (W14).
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub dry_run: bool,
}

/// How an image is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// Zstandard (RFC 8878).
    Zst,
    /// XZ.
    Xz,
}

/// Where the operating system finds its configuration on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// Nowhere.
    #[default]
    None,
    /// cloud-init NoCloud: a file system labelled CIDATA.
    NoCloud,
    /// OpenStack config drive, version 2: a file system labelled config-2.
    ConfigDrive,
}

/// Write a disk image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageOrder {
    /// For which machine.
    pub target: Target,
    /// Onto which disk.
    pub disk: DiskTarget,
    /// Where the bytes are (`http://EDGE/...`).
    pub url: String,
    /// SHA-256 of the bytes as served, 64 hex digits.
    pub sha256: String,
    /// Length of the bytes as served.
    pub length: u64,
    /// How they are packed.
    pub format: ImageFormat,
    /// Move the backup GPT to the end and let the last partition grow.
    pub grow: bool,
    /// What the system reads its configuration from.
    pub data_source: DataSource,
    /// Where the agent fetches the user data for it; holds a token.
    #[serde(skip_serializing_if = "Hidden::is_empty")]
    pub config_url: Hidden,
    /// Where the installed system reports that it runs, as the data source's metadata tells it
    /// (`&event=running` is the system's to add); holds a token.
    #[serde(skip_serializing_if = "Hidden::is_empty")]
    pub report_url: Hidden,
    /// Host name written into the data source; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// `instance-id` of the data source: the allocation's own id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// Loader on the EFI system partition for the boot entry; empty: the removable-media path
    /// (`\EFI\BOOT\BOOTX64.EFI`, UEFI specification 3.5.1.1).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub efi_loader: String,
    /// What the boot entry is called in the firmware's menu.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot_label: String,
}

/// Start another kernel without the firmware.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KexecOrder {
    /// For which machine.
    pub target: Target,
    /// Where the kernel is.
    pub kernel_url: String,
    /// Its SHA-256, 64 hex digits.
    pub kernel_sha256: String,
    /// Where the initial ramdisk is; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub initrd_url: String,
    /// Its SHA-256, 64 hex digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub initrd_sha256: String,
    /// The kernel's command line; may hold a token.
    pub args: Hidden,
}

/// Give the BMC a user of ours, from inside the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BmcOrder {
    /// For which machine.
    pub target: Target,
    /// The user, at most 16 bytes.
    pub user: String,
    /// Its password, at most 20 bytes (IPMI 2.0 section 22.30).
    pub password: Hidden,
}

/// How far an order is, beside its level. The counter only rises while an order is worked on (W9):
/// control takes a counter that stands still for a machine that hangs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Rises with every step forward; starts again with another order.
    pub counter: u64,
    /// Bytes done, of this step.
    pub done: u64,
    /// Bytes in all; 0 where that is not known.
    pub total: u64,
    /// What is being done (`erasing`, `verifying`, `writing`, `growing`); may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub step: String,
}

/// How far one disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// Being erased.
    Erasing,
    /// Being read back.
    Verifying,
    /// Erased, and read back as erased.
    Clean,
    /// Not erased, or not known to be.
    Failed,
    /// A dry run: this is what would be done.
    WouldErase,
    /// A state of a newer agent.
    #[serde(other)]
    Unknown,
}

/// What became of one disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskResult {
    /// Which, as the order named it.
    pub disk: DiskTarget,
    /// How far.
    pub state: DiskState,
    /// What erased it in the end (`nvme-sanitize-block`, `nvme-format`, `ata-secure-erase`,
    /// `secure-discard`, `discard`, `zero-out`, `zeroes`), after those that were refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Bytes erased so far.
    pub done: u64,
    /// Samples read back and found erased.
    pub verified: u32,
    /// Words: why it failed, which methods were refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What the agent found of the BMC that it set up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BmcFound {
    /// Its LAN address; empty where it has none.
    pub address: String,
    /// RMCP port.
    pub port: u16,
    /// The LAN channel's number.
    pub channel: u8,
    /// The user's slot.
    pub user_id: u8,
}
