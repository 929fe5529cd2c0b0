//! A Server: one machine, named by its SMBIOS UUID.

use super::bmc_setup::BmcSetup;
use super::life::{EffectRecord, Identity, InstallRecord, OrderRecord, Phase, RootDeviceHints, WipePolicy, WipeRecord};
use super::meta::{Condition, ObjectReference};
use super::{schema, typed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

typed! {
    /// One machine. Its name is its SMBIOS UUID in lower case.
    Server, ServerSpec, ServerStatus
}

/// What the operator says of a machine (and the agent, of its hardware).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ServerSpec {
    /// Overrides the class's and the default Environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_ref: Option<ObjectReference>,
    /// What the agent found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
    /// A fake BMC over HTTP, for machines that are virtual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management_api: Option<ManagementApi>,
    /// RFC 6902, applied after those of the class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub config_patches: Vec<ConfigPatch>,
    /// Talos strategic merge patches (YAML), applied after `configPatches`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strategic_patches: Vec<String>,
    /// The operator's word that this machine is ours. Without it nothing is ever wiped or switched.
    pub accepted: bool,
    /// Keeps it out of allocation.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// Boots from the network even when installed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pxe_boot_always: bool,
    /// How iPXE hands over to the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_from_disk_method: Option<BootFromDisk>,
    /// Which boot flag the BMC gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pxe_mode: Option<PxeMode>,
    /// Ours: how this machine is erased; over the class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe: Option<WipePolicy>,
    /// Ours: which disk an image is written to; over the class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
    /// Ours: by what the machine is known whose own UUID is no name (placeholder, shared with another).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// How iPXE hands over to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootFromDisk {
    /// Leave iPXE; the firmware goes on to its next boot entry.
    IpxeExit,
    /// An empty 404 in place of a script.
    #[serde(rename = "http-404")]
    Http404,
    /// iPXE starts the first BIOS disk itself.
    IpxeSanboot,
}

/// Which firmware the BMC's boot flag names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum PxeMode {
    Uefi,
    Bios,
}

/// How to reach a BMC.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Bmc {
    pub endpoint: String,
    /// 623 (IPMI), 443 (Redfish) or 80 (`redfish+http`) when 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_from: Option<ValueFrom>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pass: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_from: Option<ValueFrom>,
    /// `lanplus` (IPMI 2.0) when empty; ours: `redfish`, `redfish+http` (for tests: no TLS), and `none`
    /// (there is one, and it is not to be used).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// Ours: which TLS certificate of a `redfish` BMC is believed; `pin` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BmcTls>,
}

impl Bmc {
    /// Whether it is to be used.
    pub fn is_used(&self) -> bool {
        self.interface != "none"
    }
}

/// Which TLS certificate of a BMC is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BmcTls {
    /// The one that it showed first; the annotation `stoker.dev/bmc-certificate` holds its fingerprint.
    #[default]
    Pin,
    /// One that an authority has signed which this host knows.
    Verify,
    /// Any. Whoever is on the path can read the password.
    Insecure,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A value kept in a Secret.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ValueFrom {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// Which key of which Secret.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct SecretKeyRef {
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub name: String,
    pub key: String,
}

/// A fake BMC over HTTP.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct ManagementApi {
    pub endpoint: String,
}

/// One RFC 6902 operation.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ConfigPatch {
    pub op: String,
    pub path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schemars(schema_with = "schema::any")]
    pub value: Value,
}

/// The hardware groups of Sidero's inventory.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Hardware {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<System>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

macro_rules! hardware {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs)]
        pub struct $name {
            $(#[serde(skip_serializing_if = "is_default")] pub $field: $type,)*
        }
    };
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

hardware! {
    /// SMBIOS type 1.
    System {
        uuid: String, manufacturer: String, product_name: String, version: String,
        serial_number: String, sku_number: String, family: String,
    }
}
hardware! {
    /// Processors, counted over all sockets.
    Compute { total_core_count: u32, total_thread_count: u32, processor_count: u32, processors: Vec<Processor> }
}
hardware! {
    /// SMBIOS type 4; speed in MHz.
    Processor {
        manufacturer: String, product_name: String, serial_number: String,
        speed: u32, core_count: u32, thread_count: u32,
    }
}
hardware! {
    /// Memory; `totalSize` is a text such as `64 GB`.
    Memory { total_size: String, module_count: u32, modules: Vec<MemoryModule> }
}
hardware! {
    /// SMBIOS type 17; size in MB, speed in MT/s.
    MemoryModule {
        manufacturer: String, product_name: String, serial_number: String,
        r#type: String, size: u32, speed: u32,
    }
}
hardware! {
    /// Disks; `totalSize` is a text such as `2 TB`.
    Storage { total_size: String, device_count: u32, devices: Vec<StorageDevice> }
}
hardware! {
    /// One disk; size in bytes.
    StorageDevice {
        r#type: String, size: u64, product_name: String, serial_number: String,
        name: String, device_name: String, uuid: String, wwid: String,
    }
}
hardware! {
    /// Network interfaces.
    Network { interface_count: u32, interfaces: Vec<NetworkInterface> }
}
hardware! {
    /// One interface; addresses are CIDR texts.
    NetworkInterface { index: u32, name: String, flags: String, mtu: u32, mac: String, addresses: Vec<String> }
}

/// What stoker found and did.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ServerStatus {
    pub ready: bool,
    pub in_use: bool,
    pub is_clean: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// `on`, `off` or `unknown`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub power: String,
    /// Ours, all that follow. Absent: nothing is known of this machine's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// One CamelCase word: why it is in this phase.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence for people: why, and what is waited for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// RFC 3339: in this phase since.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// RFC 3339: when the present step counts as failed; empty where it may take for ever.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deadline: String,
    /// What comes next, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// How often the present step was begun.
    pub attempts: u32,
    /// The highest order or effect id ever given to this machine; ids only rise.
    pub last_id: u64,
    /// The order that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderRecord>,
    /// The last thing that was to be done to the machine from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<EffectRecord>,
    /// The last wish for a power cycle (annotation `stoker.dev/power-cycle`) that was heeded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cycled: String,
    /// The last wipe that was finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wiped: Option<WipeRecord>,
    /// The installation for the present allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<InstallRecord>,
    /// The last set-up of its BMC by its agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bmc_setup: Option<BmcSetup>,
}

/// An address of a machine (core/v1 NodeAddress).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NodeAddress {
    pub r#type: String,
    pub address: String,
}
