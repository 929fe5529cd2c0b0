//! A ServerClass: which machines are alike, and what all of them get.

use super::life::{RootDeviceHints, WipePolicy};
use super::meta::ObjectReference;
use super::requirement::Requirement;
use super::server::{BootFromDisk, ConfigPatch, Hardware};
use super::{Server, typed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

typed! {
    /// A class of machines.
    ServerClass, ServerClassSpec, ServerClassStatus
}

/// Which machines, and what they get.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct ServerClassSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_ref: Option<ObjectReference>,
    pub qualifiers: Qualifiers,
    /// Must hold beside the qualifiers.
    pub selector: LabelSelector,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub config_patches: Vec<ConfigPatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strategic_patches: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_from_disk_method: Option<BootFromDisk>,
    /// Ours: how machines of this class are erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe: Option<WipePolicy>,
    /// Ours: which disk an image is written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
}

/// Conditions on hardware and labels; empty lists hold for every machine.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Qualifiers {
    /// One of these must match: every field that is set must be equal, lists by index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<Hardware>,
    /// One of these must match: every label in it must be equal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_selectors: Vec<BTreeMap<String, String>>,
    /// Ours: all of these must hold ([`Requirement`]): `memory >= 64Gi`, `disk.type = NVMe`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
}

/// metav1.LabelSelector.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

/// One expression of a selector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct LabelExpression {
    pub key: String,
    pub operator: Operator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How an expression compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// Which machines are of the class now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerClassStatus {
    /// Accepted, not cordoned, matching, free; sorted.
    pub servers_available: Vec<String>,
    /// Matching and allocated; sorted.
    pub servers_in_use: Vec<String>,
}

impl ServerClassSpec {
    /// Whether a machine belongs to the class, by hardware and labels alone.
    pub fn matches(&self, server: &Server) -> bool {
        let labels = &server.metadata.labels;
        let q = &self.qualifiers;
        // Compared as JSON, in which a field that is not set is not there.
        let by_hardware = q.hardware.is_empty() || {
            let has = serde_json::to_value(server.spec.hardware.clone().unwrap_or_default()).unwrap_or_default();
            q.hardware.iter().any(|want| covers(&has, &serde_json::to_value(want).unwrap_or_default()))
        };
        let by_labels = q.label_selectors.is_empty()
            || q.label_selectors.iter().any(|want| want.iter().all(|(k, v)| labels.get(k) == Some(v)));
        by_hardware && by_labels && self.selector.matches(labels) && self.meets_requirements(server)
    }
}

impl ServerClassSpec {
    /// One that cannot be read (validation refuses it) holds for no machine.
    fn meets_requirements(&self, server: &Server) -> bool {
        let nothing = Hardware::default();
        let hardware = server.spec.hardware.as_ref().unwrap_or(&nothing);
        self.qualifiers.requirements.iter().all(|text| text.parse::<Requirement>().is_ok_and(|r| r.holds(hardware)))
    }
}

impl LabelSelector {
    /// Whether these labels satisfy the selector; an empty one holds always.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|e| match (e.operator, labels.get(&e.key)) {
                (Operator::In, Some(v)) => e.values.contains(v),
                (Operator::NotIn, Some(v)) => !e.values.contains(v),
                (Operator::Exists, v) => v.is_some(),
                (Operator::NotIn | Operator::DoesNotExist, None) => true,
                (Operator::In, None) | (Operator::DoesNotExist, Some(_)) => false,
            })
    }
}

/// Whether `have` has everything that `want` asks for: fields that are unset
/// in `want` do not count (they are not written), lists are compared by index.
fn covers(have: &serde_json::Value, want: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    match (have, want) {
        (Object(have), Object(want)) => want.iter().all(|(k, w)| have.get(k).is_some_and(|h| covers(h, w))),
        (Array(have), Array(want)) => want.iter().enumerate().all(|(i, w)| have.get(i).is_some_and(|h| covers(h, w))),
        (have, want) => have == want,
    }
}
