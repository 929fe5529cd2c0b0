//! Cluster API's own objects, as far as stoker reads them. It never writes one:
//! what it does not know in them would be lost.

use super::cluster::Endpoint;
use super::meta::ObjectReference;
use super::typed;
use serde::{Deserialize, Serialize};

/// Group of Cluster API's objects.
pub const GROUP: &str = "cluster.x-k8s.io";
/// Label on everything that belongs to a cluster: the Cluster's name.
pub const CLUSTER_NAME: &str = "cluster.x-k8s.io/cluster-name";
/// Annotation on infrastructure that somebody else manages: not to be touched.
pub const MANAGED_BY: &str = "cluster.x-k8s.io/managed-by";
/// Annotation that `clusterctl move` puts on what it deletes at the source.
pub const DELETE_FOR_MOVE: &str = "clusterctl.cluster.x-k8s.io/delete-for-move";
/// Annotation that makes `clusterctl move` wait.
pub const BLOCK_MOVE: &str = "clusterctl.cluster.x-k8s.io/block-move";
/// Label by which an installation chooses what it looks after.
pub const WATCH_FILTER: &str = "cluster.x-k8s.io/watch-filter";

typed! {
    /// A Cluster of Cluster API. Read, never written.
    Cluster, ClusterSpec, ClusterStatus
}

typed! {
    /// A Machine of Cluster API. Read, never written.
    Machine, MachineSpec, MachineStatus
}

/// What stoker reads of a Cluster's spec.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ClusterSpec {
    pub paused: bool,
    pub control_plane_endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infrastructure_ref: Option<ObjectReference>,
}

/// What stoker reads of a Cluster's status.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Contract v1beta2.
    pub initialization: ClusterInitialization,
    /// Contract v1beta1.
    pub infrastructure_ready: bool,
}

impl ClusterStatus {
    /// Whether the cluster's infrastructure is there, in either contract's words.
    pub const fn infrastructure(&self) -> bool {
        self.initialization.infrastructure_provisioned || self.infrastructure_ready
    }
}

/// What of a Cluster has been there once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ClusterInitialization {
    pub infrastructure_provisioned: bool,
}

/// What stoker reads of a Machine's spec.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct MachineSpec {
    pub cluster_name: String,
    pub bootstrap: Bootstrap,
    pub infrastructure_ref: ObjectReference,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// Where a Machine's configuration is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bootstrap {
    /// The Secret of the Machine's namespace, once there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_secret_name: String,
}

/// What stoker reads of a Machine's status.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineStatus {
    /// The Node that it has become.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_ref: Option<ObjectReference>,
}
