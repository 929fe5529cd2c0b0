//! MetalMachine and its template: one machine of a cluster, as Cluster API
//! means it (contract v1beta2, with the fields of v1beta1 beside them).

use super::cluster::{Initialization, TemplateSpec};
use super::meta::{Condition, ObjectReference};
use super::server::NodeAddress;
use super::typed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

typed! {
    /// One machine of a cluster: the wish for a Server, and which one it got.
    MetalMachine, MetalMachineSpec, MetalMachineStatus
}

typed! {
    /// What Cluster API makes MetalMachines of.
    MetalMachineTemplate, TemplateSpec<MetalMachineSpec>, MetalMachineTemplateStatus
}

/// What the user wants. One of the two references is given; the other fields are stoker's to write.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalMachineSpec {
    /// `sidero://<uuid>` once a Server is claimed; equal to that of the Node.
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    /// The Server: by the user, who wants this one, or by stoker, who has claimed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_ref: Option<ObjectReference>,
    /// Any free Server of this class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_class_ref: Option<ObjectReference>,
}

/// What stoker tells.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalMachineStatus {
    /// Contract v1beta1.
    pub ready: bool,
    /// Contract v1beta2.
    #[serde(skip_serializing_if = "Initialization::is_unset")]
    pub initialization: Initialization,
    /// Of the installed machine; the types are Cluster API's (`InternalIP`, `Hostname`, ...).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// Where it stands: the zone label of its Server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
    /// `Ready` and `Paused`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Contract v1beta1; not written any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// Contract v1beta1; not written any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_message: Option<String>,
}

/// What a machine made from the template would have, for an autoscaler that scales from zero.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalMachineTemplateStatus {
    /// Kubernetes quantities by resource (`cpu`, `memory`): the least that a Server of the class has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, String>,
    /// Architecture and system.
    #[serde(skip_serializing_if = "NodeInfo::is_empty")]
    pub node_info: NodeInfo,
}

/// What kind of node it would be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    /// `amd64` or `arm64`; empty where the class has both.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// `linux`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operating_system: String,
}

impl NodeInfo {
    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.architecture.is_empty() && self.operating_system.is_empty()
    }
}
