//! The life of a Server, as its status tells it: phase, order, effect, records.

use super::schema;
use protocol::report::{DiskResult, OrderKind, WipeMethod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a machine is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It has reported; nobody has accepted it. It is left as it is.
    Discovered,
    /// Ours; a wipe order stands.
    Wiping,
    /// Clean, off (or holding, where there is no BMC), free.
    Available,
    /// Claimed by a ServerBinding; not yet sent to its installer.
    Allocated,
    /// Sent to its installer or being written an image.
    Installing,
    /// Boots from its disk.
    Running,
    /// Told to leave: being taken from its cluster; a wipe order stands.
    Releasing,
    /// Facts disagree, or are gone. Nothing is done to it until a human or its binding explains.
    Quarantined,
}

impl Phase {
    /// All, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Discovered,
        Self::Wiping,
        Self::Available,
        Self::Allocated,
        Self::Installing,
        Self::Running,
        Self::Releasing,
        Self::Quarantined,
    ];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discovered => "Discovered",
            Self::Wiping => "Wiping",
            Self::Available => "Available",
            Self::Allocated => "Allocated",
            Self::Installing => "Installing",
            Self::Running => "Running",
            Self::Releasing => "Releasing",
            Self::Quarantined => "Quarantined",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// How machines are erased.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WipePolicy {
    /// By which method.
    #[schemars(schema_with = "schema::wipe_method")]
    pub method: WipeMethod,
    /// Disks that are left alone, by WWID, serial number or kernel name. A machine with such a disk
    /// is clean when all others are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_disks: Vec<String>,
    /// Erase also disks that bear the signature of a shared or foreign file system.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Tell what would be erased, erase nothing. The machine stays in `Wiping`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What acceptance does.
    pub on_accept: OnAccept,
}

/// What acceptance does with the disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnAccept {
    /// They are erased.
    #[default]
    Wipe,
    /// They are left as they are: the operator says that this machine is clean.
    Keep,
}

/// Which disk is meant; every hint that is set must hold. The names are those of Metal3.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RootDeviceHints {
    /// `/dev/sda` or `sda`. Names may change from boot to boot: better use another hint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_name: String,
    /// Part of the model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Part of the vendor (which most disks write into the model).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// The whole serial number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// The whole WWID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wwn: String,
    /// GiB at least.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_size_gigabytes: u64,
    /// SSD, HDD or NVMe.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Whether it turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// By what a machine is known whose UUID is no name. All that is set must match its report.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// SMBIOS serial number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// One of these network cards must be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<String>,
}

/// An order as it is kept. What is secret in it (tokens, passwords) is not here: it is put in when
/// the order is handed out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderRecord {
    /// Its id; rises over the machine's whole life.
    pub id: u64,
    /// What is to be done, with the machine and disks that it is for.
    #[schemars(schema_with = "schema::object")]
    pub order: OrderKind,
    /// How far it is.
    pub state: OrderState,
    /// Why it was made: `Accepted`, `Released`, `Requested`, `Installing`, `Resumed`.
    pub reason: String,
    /// Who asked for it, where that is known: the object, or `operator`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub requested_by: String,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339: not handed out after this; empty where it never ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expires: String,
    /// What the agent says of it; every disk, of a wipe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::objects")]
    pub disks: Vec<DiskResult>,
    /// The agent's last progress counter.
    #[serde(default)]
    pub counter: u64,
    /// RFC 3339: when that counter last rose.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub heard: String,
    /// The agent's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How far an order is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum OrderState {
    /// Made; the agent has not taken it.
    #[default]
    Pending,
    /// The agent works on it.
    Running,
    /// The agent has been told to go on: disks may be half erased. Only `Done` leads out of this.
    Erasing,
    /// Done and verified.
    Done,
    /// Given up.
    Failed,
}

/// Something done to a machine from outside. Written before it is done (`Intended`), and after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectRecord {
    /// Its id, out of the same row as those of orders.
    pub id: u64,
    /// What.
    pub kind: EffectKind,
    /// How far.
    pub state: EffectState,
    /// RFC 3339: when it was intended.
    pub at: String,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// Words, where it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What is done from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub enum EffectKind {
    /// Boot device network, then on (or cycle where it is on).
    NetworkBoot,
    /// Boot device disk, then on (or cycle).
    DiskBoot,
    /// Off.
    PowerOff,
    /// On, from whatever it boots.
    PowerOn,
}

/// How far an effect is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub enum EffectState {
    /// About to be done; after a crash: perhaps done.
    Intended,
    /// The BMC said so, and read back so.
    Done,
    /// Not done.
    Failed,
}

/// A finished wipe, signed by control's key over the JSON of all other fields.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WipeRecord {
    /// The order's id.
    pub order: u64,
    /// The Server's name and uid, as one text `name/uid`.
    pub server: String,
    /// RFC 3339.
    pub finished: String,
    /// The agent's boot that finished it.
    pub boot_id: String,
    /// Every disk.
    #[schemars(schema_with = "schema::objects")]
    pub disks: Vec<DiskResult>,
    /// Ed25519 (RFC 8032) public key, hex.
    pub key: String,
    /// Signature, hex.
    pub signature: String,
}

/// How the installation for an allocation goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstallRecord {
    /// The binding's uid: another allocation, another installation.
    pub binding: String,
    /// From which Environment.
    pub environment: String,
    /// RFC 3339: the machine was first sent there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub started: String,
    /// RFC 3339: it has fetched its configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config_fetched: String,
    /// RFC 3339: it is installed; network boots go to its disk from now on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub installed: String,
    /// RFC 3339: it said that it runs, or its Node is there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub running: String,
}
