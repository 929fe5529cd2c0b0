//! What Cluster API is told and what is done for it: from its objects and ours
//! to the next status and at most one act. Pure.
//!
//! The contract is v1beta2, with the fields of v1beta1 beside. Its rules on
//! pausing, moving and deleting are law here (R1 to R6): what is paused or
//! being moved is not touched, not even to delete it; a machine leaves a
//! cluster only by its binding's own release.

mod cluster;
mod machine;
mod remediation;

#[cfg(test)]
mod tests;

pub use cluster::{ClusterAct, ClusterDecision, ClusterView, cluster};
pub use machine::{Held, MachineAct, MachineDecision, MachineView, machine, ours};
pub use remediation::{RemediationAct, RemediationDecision, RemediationView, remediation};

use crate::allocation::Size;
use crate::objects::rfc3339;
use crate::resource::capi::{DELETE_FOR_MOVE, GROUP};
use crate::resource::{Cluster, Condition, Meta, MetalMachineTemplateStatus, NodeInfo, marks};

/// Finalizer of a MetalCluster, as Sidero's.
pub const CLUSTER_FINALIZER: &str = "metalcluster.infrastructure.cluster.x-k8s.io";
/// Finalizer of a MetalMachine, as Sidero's.
pub const MACHINE_FINALIZER: &str = "metalmachine.infrastructure.cluster.x-k8s.io";
/// Annotation of a MetalMachine: its deletion does not wait for the machine. The release goes on without it.
pub const ABANDON: &str = "stoker.dev/abandon";
/// How a providerID begins; the Server's name follows.
pub const PROVIDER: &str = "sidero://";
/// Label of a MetalMachineTemplate: the architecture of its machines, in Kubernetes' words.
pub const ARCH: &str = "kubernetes.io/arch";
/// Value of [`marks::PAUSED`] on a ServerBinding whose cluster is paused; what others have put there stays.
pub const PAUSED_BY_CLUSTER: &str = "stoker.dev/cluster";

/// Condition types of Cluster API.
pub mod kinds {
    /// The object does what it is for.
    pub const READY: &str = "Ready";
    /// Nothing is done to the object.
    pub const PAUSED: &str = "Paused";
}

/// Reasons of conditions: every one that stoker writes on Cluster API's kinds.
pub mod reasons {
    /// `Paused`: the Cluster or the object is paused.
    pub const PAUSED: &str = "Paused";
    /// `Paused`: it is not.
    pub const NOT_PAUSED: &str = "NotPaused";
    /// `Ready`: the cluster's endpoint is known.
    pub const PROVISIONED: &str = "Provisioned";
    /// `Ready`: neither MetalCluster nor Cluster says where the API is reached.
    pub const WAITING_FOR_ENDPOINT: &str = "WaitingForControlPlaneEndpoint";
    /// `Ready`: the object is being deleted.
    pub const DELETING: &str = "Deleting";
    /// `Ready`: the Cluster's infrastructure is not there yet.
    pub const WAITING_FOR_CLUSTER: &str = "WaitingForClusterInfrastructure";
    /// `Ready`: the bootstrap provider has not written the machine's configuration yet.
    pub const WAITING_FOR_BOOTSTRAP: &str = "WaitingForBootstrapData";
    /// `Ready`: no Server of the class is free.
    pub const NO_SERVER: &str = "NoServerAvailable";
    /// `Ready`: the Server that was asked for cannot be had.
    pub const SERVER_UNAVAILABLE: &str = "ServerNotAvailable";
    /// `Ready`: the Server is gone from under the machine.
    pub const SERVER_GONE: &str = "ServerGone";
    /// `Ready`: the Server is being booted and installed.
    pub const PROVISIONING: &str = "Provisioning";
    /// `Ready`: facts about the Server disagree; a human is asked.
    pub const QUARANTINED: &str = "ServerQuarantined";
    /// `Ready`: it runs from its disk.
    pub const RUNNING: &str = "Running";
    /// `Ready` of a remediation: the machine was power-cycled and has time to come back.
    pub const REMEDIATING: &str = "Remediating";
    /// `Ready` of a remediation: all tries are used up.
    pub const REMEDIATION_FAILED: &str = "RemediationFailed";
    /// `Ready` of a remediation: the machine has no Server that could be switched.
    pub const NOT_SWITCHABLE: &str = "NotSwitchable";

    /// All of them.
    pub const ALL: [&str; 16] = [
        PAUSED,
        NOT_PAUSED,
        PROVISIONED,
        WAITING_FOR_ENDPOINT,
        DELETING,
        WAITING_FOR_CLUSTER,
        WAITING_FOR_BOOTSTRAP,
        NO_SERVER,
        SERVER_UNAVAILABLE,
        SERVER_GONE,
        PROVISIONING,
        QUARANTINED,
        RUNNING,
        REMEDIATING,
        REMEDIATION_FAILED,
        NOT_SWITCHABLE,
    ];
}

/// Whether nothing may be done to an object, not even to delete it.
pub fn paused(meta: &Meta, cluster: Option<&Cluster>) -> bool {
    let marked = |mark| meta.annotations.contains_key(mark);
    marked(marks::PAUSED) || marked(DELETE_FOR_MOVE) || cluster.is_some_and(|c| c.spec.paused)
}

/// The name of the owner of this kind of Cluster API's, whichever version and whether it controls or not.
pub fn owner<'a>(meta: &'a Meta, kind: &str) -> Option<&'a str> {
    let of = |r: &&crate::resource::OwnerReference| {
        r.kind == kind && r.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
    };
    meta.owner_references.iter().find(of).map(|r| r.name.as_str())
}

/// What a template tells an autoscaler that scales from zero: the least of its class, and the architecture where the
/// template's own label says it.
pub fn template(least: Option<Size>, meta: &Meta) -> MetalMachineTemplateStatus {
    let Some(least) = least else { return MetalMachineTemplateStatus::default() };
    let capacity = [("cpu", least.threads.to_string()), ("memory", least.memory.to_string())];
    let architecture = meta.labels.get(ARCH).cloned().unwrap_or_default();
    MetalMachineTemplateStatus {
        capacity: capacity.map(|(k, v)| (k.to_owned(), v)).into(),
        node_info: NodeInfo { architecture, operating_system: "linux".to_owned() },
    }
}

/// Sets a condition; its time changes only with its status.
fn condition(
    conditions: &mut Vec<Condition>,
    (kind, holds): (&str, bool),
    reason: &str,
    message: &str,
    generation: u64,
    now_ms: u64,
) {
    let status = if holds { "True" } else { "False" };
    let before = conditions.iter().find(|c| c.r#type == kind && c.status == status);
    let since = before.map(|c| c.last_transition_time.clone()).filter(|t| !t.is_empty());
    let fresh = Condition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        last_transition_time: since.unwrap_or_else(|| rfc3339(now_ms)),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        ..Condition::default()
    };
    match conditions.iter_mut().find(|c| c.r#type == kind) {
        Some(there) => *there = fresh,
        None => conditions.push(fresh),
    }
}

/// The condition `Paused`.
fn tell_paused(conditions: &mut Vec<Condition>, paused: bool, generation: u64, now_ms: u64) {
    let reason = if paused { reasons::PAUSED } else { reasons::NOT_PAUSED };
    let message = if paused { "nothing is done before it is unpaused" } else { "" };
    condition(conditions, (kinds::PAUSED, paused), reason, message, generation, now_ms);
}
