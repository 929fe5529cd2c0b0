//! A ServerBinding: its existence, under the Server's name, is the allocation.

use super::meta::{Condition, ObjectReference};
use super::typed;
use serde::{Deserialize, Serialize};

typed! {
    /// The claim on one machine. Named as the Server, so that there can be only one.
    ServerBinding, ServerBindingSpec, ServerBindingStatus
}

/// For whom, out of which class.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
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
}

/// Kept for objects that Sidero made; stoker does not use it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct SideroLink {
    pub address: String,
    pub public_key: String,
}

/// How the installation goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ServerBindingStatus {
    pub ready: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
