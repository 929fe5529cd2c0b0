//! The agent to control, and control's orders back: JSON over HTTP.
//!
//! ```text
//! POST /agent/v1/hello    body Hello    -> 200 Answer     once per boot, repeated until answered
//! POST /agent/v1/status   body Status   -> 200 Answer     every `poll_seconds` of the last answer
//! POST /agent/v1/confirm  body Status   -> 200 Confirmed  immediately before anything is erased (W5)
//! ```
//!
//! Reports are levels, not events: an order has an id, and the agent repeats
//! "order 7: done" until it is given another. Losing a message loses nothing,
//! and everything may be sent twice. Fields are only ever added; an order of a
//! kind that an old agent does not know reads as [`OrderKind::Unknown`], which
//! it answers with [`Level::Unsupported`] and otherwise treats as hold.

mod orders;

pub use orders::{
    BmcFound, BmcOrder, DataSource, DiskResult, DiskState, DiskTarget, Hidden, ImageFormat, ImageOrder, KexecOrder,
    Progress, Target, WipeMethod, WipeOrder,
};

use crate::id::{Arch, Mac, MachineId};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The oldest agent that control understands.
pub const MIN: u32 = 1;
/// The version that this writer speaks.
pub const CURRENT: u32 = 1;
/// No report may be larger, bytes.
pub const MAX_REPORT: usize = 1 << 20;

/// The agent's first words after each boot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`CURRENT`] of the agent.
    pub version: u32,
    /// The agent's own version, for people (`0.1.0`).
    pub agent: String,
    /// Random, one for each boot of the agent: tells a reboot from a repetition.
    pub boot_id: String,
    /// The boot attempt that control minted into the kernel's command line
    /// (`stoker.attempt=`); absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// The interface that network-booted (`stoker.mac=` of the command line, else that with the default route).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mac: Option<Mac>,
    /// Seconds since the kernel started.
    pub uptime_s: f64,
    /// Everything found out about the machine.
    pub facts: Facts,
}

/// What the agent says at each poll.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`CURRENT`] of the agent.
    pub version: u32,
    /// As in [`Hello`].
    pub boot_id: String,
    /// As in [`Hello`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// The machine that speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    /// As in [`Hello`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mac: Option<Mac>,
    /// The order being carried out or last carried out; 0 before the first.
    pub order: u64,
    /// How far it is.
    pub level: Level,
    /// Words for the operator; may be empty.
    #[serde(default)]
    pub detail: String,
    /// How far, in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Of a wipe: every disk of the order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskResult>,
    /// Of a BMC's set-up, when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcFound>,
}

/// Control's reply to the last question before something is erased.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confirmed {
    /// [`CURRENT`] of control.
    pub version: u32,
    /// The order asked about.
    pub order: u64,
    /// Go on. Anything but `true` means: touch nothing, ask for the present order again.
    pub go: bool,
    /// Words, where it is `false`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// How far an order is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing to do; waiting.
    Holding,
    /// Working on it.
    Running,
    /// Done, and verified.
    Done,
    /// Given up; `detail` says why. Nothing more is done.
    Failed,
    /// This agent does not know that kind of order.
    Unsupported,
}

/// Control's reply to either.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`CURRENT`] of control.
    pub version: u32,
    /// The present order. Repeated until it changes.
    pub order: Order,
    /// When to ask again, seconds (1 to 300).
    pub poll_seconds: u32,
}

/// Something to do, or to leave alone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Never reused for a machine; 0 is "no order", always hold.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub kind: OrderKind,
}

/// The kinds of orders.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OrderKind {
    /// Touch nothing, keep asking.
    Hold,
    /// Restart the machine by its firmware.
    Reboot,
    /// Switch the machine off.
    PowerOff,
    /// Erase disks.
    Wipe(WipeOrder),
    /// Write a disk image.
    WriteImage(ImageOrder),
    /// Start another kernel.
    Kexec(KexecOrder),
    /// Give the BMC a user of ours.
    SetUpBmc(BmcOrder),
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The inventory. The groups are those of a Server's `spec.hardware`; numbers
/// are plain numbers here, control writes the texts that Kubernetes users see.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// SMBIOS type 1.
    pub system: System,
    /// SMBIOS type 4 and /sys.
    pub compute: Compute,
    /// SMBIOS type 17 and /proc/meminfo.
    pub memory: Memory,
    /// Block devices, whole disks only.
    pub storage: Vec<Disk>,
    /// Network interfaces that are hardware.
    pub network: Vec<Interface>,
    /// How the machine was started.
    pub firmware: FirmwareKind,
    /// The agent's own architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// Whether a BMC interface answers (`/dev/ipmi0` exists).
    pub bmc_present: bool,
    /// What could not be found out, in words (`SMBIOS table unreadable: ...`).
    pub gaps: Vec<String>,
}

/// How a machine was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// UEFI (`/sys/firmware/efi` exists).
    Uefi,
    /// Legacy BIOS.
    Bios,
    /// Not found out.
    #[default]
    Unknown,
}

/// SMBIOS type 1. Texts are as the firmware gives them, trimmed; empty when absent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct System {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    pub manufacturer: String,
    pub product_name: String,
    pub version: String,
    pub serial_number: String,
    pub sku_number: String,
    pub family: String,
}

/// Processors.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Compute {
    /// Cores over all sockets.
    pub total_core_count: u32,
    /// Threads over all sockets.
    pub total_thread_count: u32,
    /// One for each populated socket.
    pub processors: Vec<Processor>,
}

/// SMBIOS type 4.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Processor {
    pub manufacturer: String,
    pub product_name: String,
    pub serial_number: String,
    /// MHz.
    pub speed: u32,
    pub core_count: u32,
    pub thread_count: u32,
}

/// Memory.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Installed, bytes: the sum of the modules, or what the kernel sees where SMBIOS tells of none.
    pub total_bytes: u64,
    /// What the kernel can use (MemTotal), bytes.
    pub usable_bytes: u64,
    /// One for each populated slot.
    pub modules: Vec<MemoryModule>,
}

/// SMBIOS type 17.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct MemoryModule {
    pub manufacturer: String,
    pub product_name: String,
    pub serial_number: String,
    /// Such as DDR4.
    pub r#type: String,
    /// MB (2^20 bytes).
    pub size: u32,
    /// MT/s.
    pub speed: u32,
}

/// One whole block device.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Disk {
    /// Kernel name, such as `nvme0n1`.
    pub name: String,
    /// Such as `/dev/nvme0n1`.
    pub device_name: String,
    /// SSD, HDD, NVMe, SD or Unknown.
    pub r#type: String,
    /// Bytes.
    pub size: u64,
    /// Logical sector, bytes.
    pub sector_size: u32,
    pub model: String,
    pub serial_number: String,
    pub wwid: String,
    pub uuid: String,
    /// How it is attached: nvme, ata, sas, virtio, usb, mmc, ... or empty.
    pub transport: String,
    pub removable: bool,
    pub read_only: bool,
}

/// One network interface.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// As Go prints them: `up|broadcast|multicast`.
    pub flags: String,
    pub mtu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// CIDR texts.
    pub addresses: Vec<String>,
    /// Mbit/s; 0 where unknown or without a link.
    pub speed_mbps: u32,
    /// Carrier present.
    pub link: bool,
    /// Kernel driver, such as `ixgbe`.
    pub driver: String,
    /// PCI `vendor:device` in hex, or empty.
    pub pci_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_version_1_are_frozen() {
        // Agents burned into an old initramfs must go on being understood: do not change these texts.
        let text = r#"{"version":1,"order":{"id":0,"kind":"hold"},"poll_seconds":5}"#;
        let answer = Answer { version: 1, order: Order { id: 0, kind: OrderKind::Hold }, poll_seconds: 5 };
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), answer);
        let newer = r#"{"version":9,"order":{"id":4,"kind":"transmogrify","into":"toad"},"poll_seconds":5,"more":1}"#;
        assert_eq!(serde_json::from_str::<Answer>(newer).unwrap().order, Order { id: 4, kind: OrderKind::Unknown });
    }

    #[test]
    fn orders_of_version_1_are_frozen() {
        for text in [
            r#"{"id":3,"kind":"wipe","target":{"uuid":"00112233-4455-6677-8899-aabbccddeeff","serial_number":"S1","macs":["52:54:00:12:34:56"]},"disks":[{"wwid":"naa.5","serial_number":"D1","model":"M","size":67108864,"name":"sda"}],"method":"auto"}"#,
            r#"{"id":4,"kind":"write_image","target":{},"disk":{"size":1,"name":"vda"},"url":"http://e/i","sha256":"00","length":9,"format":"zst","grow":true,"data_source":"no-cloud"}"#,
            r#"{"id":5,"kind":"kexec","target":{},"kernel_url":"http://e/k","kernel_sha256":"00","args":"quiet"}"#,
            r#"{"id":6,"kind":"set_up_bmc","target":{},"user":"stoker","password":"p"}"#,
        ] {
            let order: Order = serde_json::from_str(text).unwrap();
            assert_ne!(order.kind, OrderKind::Unknown, "{text}");
            assert_eq!(serde_json::to_string(&order).unwrap(), text);
        }
        let text = r#"{"version":1,"order":3,"go":true}"#;
        let go = Confirmed { version: 1, order: 3, go: true, why: String::new() };
        assert_eq!(serde_json::to_string(&go).unwrap(), text);
        assert_eq!(serde_json::from_str::<Confirmed>(text).unwrap(), go);
    }

    #[test]
    fn a_password_is_not_printed() {
        let order = OrderKind::SetUpBmc(BmcOrder { password: Hidden("hunter2".into()), ..BmcOrder::default() });
        assert!(!alloc::format!("{order:?}").contains("hunter2"));
    }

    #[test]
    fn a_hello_of_version_1_is_understood() {
        let text = r#"{"version":1,"agent":"0.1.0","boot_id":"b","uptime_s":1.5,"facts":{"storage":[{"name":"vda","size":67108864}]}}"#;
        let hello: Hello = serde_json::from_str(text).unwrap();
        assert_eq!((hello.facts.storage[0].size, hello.attempt), (64 << 20, None));
    }
}
