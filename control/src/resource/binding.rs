//! A ServerBinding: its existence, under the Server's name, is the allocation.

use super::meta::{Condition, ObjectReference};
use super::typed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

typed! {
    /// The claim on one machine. Named as the Server, so that there can be only one.
    ServerBinding, ServerBindingSpec, ServerBindingStatus
}

/// For whom, out of which class.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ServerBindingSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_class_ref: Option<ObjectReference>,
    pub metal_machine_ref: ObjectReference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub siderolink: Option<SideroLink>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Ours: the Secret with the machine's configuration, under the key `value`. Without it the
    /// Machine that owns the MetalMachine names one (Cluster API).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_secret_ref: Option<ObjectReference>,
    /// Ours: over the Environment of Server and class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_ref: Option<ObjectReference>,
}

/// Kept for objects that Sidero made; stoker does not use it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct SideroLink {
    pub address: String,
    pub public_key: String,
}

/// How the installation goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ServerBindingStatus {
    pub ready: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
