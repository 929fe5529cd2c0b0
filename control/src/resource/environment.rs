//! An Environment: what a machine boots from the network.

use super::typed;
use serde::{Deserialize, Serialize};

typed! {
    /// A kernel, an initrd and arguments.
    Environment, EnvironmentSpec, EnvironmentStatus
}

/// What to boot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct EnvironmentSpec {
    pub kernel: Kernel,
    pub initrd: Asset,
}

/// The kernel and its arguments.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Kernel {
    #[serde(flatten)]
    pub asset: Asset,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// A file by URL.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Asset {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// 128 hex digits. Verified; without it the file is taken as it comes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
}

/// Whether the assets are here.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct EnvironmentStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<AssetCondition>,
}

/// One asset's state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AssetCondition {
    pub url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// `True` or `False`.
    pub status: String,
    /// `Ready`.
    pub r#type: String,
    /// Words, where it is not ready.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}
