//! MetalCluster and its template: a cluster's infrastructure, as Cluster API
//! means it (contract v1beta2, with the fields of v1beta1 beside them).

use super::meta::Condition;
use super::typed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

typed! {
    /// The infrastructure of one cluster: where its API is to be reached, and its failure domains.
    MetalCluster, MetalClusterSpec, MetalClusterStatus
}

typed! {
    /// What a ClusterClass makes MetalClusters of.
    MetalClusterTemplate, TemplateSpec<MetalClusterSpec>, NoStatus
}

/// What the user wants.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalClusterSpec {
    /// Where the cluster's API server is reached. stoker makes no load balancer: the user brings the
    /// address. Absent: that of the Cluster is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<Endpoint>,
    /// Ours: the failure domains that the cluster may use, by the value of the label
    /// `topology.kubernetes.io/zone` of Servers. Absent: none are told to Cluster API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure_domains: Vec<FailureDomain>,
}

/// Host and port.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Endpoint {
    /// A name or an address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// 1 to 65535.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
}

impl Endpoint {
    /// Whether it can be reached: Cluster API takes no half of one.
    pub const fn is_whole(&self) -> bool {
        !self.host.is_empty() && self.port > 0 && self.port <= 65_535
    }
}

const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Machines that fail together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureDomain {
    /// The value of the Servers' zone label.
    pub name: String,
    /// Whether control plane machines may stand in it.
    pub control_plane: bool,
    /// Words for those who choose.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What stoker tells.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalClusterStatus {
    /// Contract v1beta1.
    pub ready: bool,
    /// Contract v1beta2.
    #[serde(skip_serializing_if = "Initialization::is_unset")]
    pub initialization: Initialization,
    /// As in `spec`, for Cluster API to read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure_domains: Vec<FailureDomain>,
    /// `Ready` and `Paused`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Whether what was asked for has been there once; it is never taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Initialization {
    /// The infrastructure is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioned: Option<bool>,
}

impl Initialization {
    /// Whether nothing has been said.
    pub const fn is_unset(&self) -> bool {
        self.provisioned.is_none()
    }
}

/// What a template holds: metadata and spec of what is made from it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, bound(deserialize = "T: Default + Deserialize<'de>"))]
#[schemars(bound = "T: Default + Serialize + JsonSchema")]
pub struct TemplateSpec<T> {
    /// What is copied.
    pub template: Template<T>,
}

/// The copied part of a template.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, bound(deserialize = "T: Default + Deserialize<'de>"))]
#[schemars(bound = "T: Default + Serialize + JsonSchema")]
pub struct Template<T> {
    /// Labels and annotations of what is made.
    #[serde(skip_serializing_if = "TemplateMeta::is_empty")]
    pub metadata: TemplateMeta,
    /// Its spec.
    pub spec: T,
}

/// Cluster API's ObjectMeta: what of the metadata can be given in a template.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct TemplateMeta {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl TemplateMeta {
    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

/// A kind that has no status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NoStatus {}
