//! MetalRemediation and its template: what a MachineHealthCheck has done to a
//! machine whose node is ill, before it has it replaced.

use super::cluster::{NoStatus, TemplateSpec};
use super::meta::Condition;
use super::typed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

typed! {
    /// A power cycle of the machine of the same name, until its node is well or the tries are used up.
    /// Made and deleted by Cluster API.
    MetalRemediation, MetalRemediationSpec, MetalRemediationStatus
}

typed! {
    /// What a MachineHealthCheck makes MetalRemediations of.
    MetalRemediationTemplate, TemplateSpec<MetalRemediationSpec>, NoStatus
}

/// How hard it is tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalRemediationSpec {
    /// Power cycles at most.
    pub retry_limit: u32,
    /// Seconds that the node has to come back after each.
    pub timeout_seconds: u32,
}

impl Default for MetalRemediationSpec {
    fn default() -> Self {
        Self { retry_limit: 1, timeout_seconds: 600 }
    }
}

/// How far it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetalRemediationStatus {
    /// Empty before the first power cycle; then one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<RemediationPhase>,
    /// Power cycles asked for so far.
    pub retry_count: u32,
    /// RFC 3339: when the last one was asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_remediated: String,
    /// `Ready` and `Paused`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where a remediation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub enum RemediationPhase {
    /// The machine was power-cycled and has time to come back.
    Waiting,
    /// All tries are used up: the machine is to be replaced by its owner.
    Failed,
}
