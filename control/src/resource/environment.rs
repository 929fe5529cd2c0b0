//! An Environment: what a machine boots from the network.

use super::{schema, typed};
use protocol::report::{DataSource, ImageFormat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

typed! {
    /// A kernel, an initrd and arguments.
    Environment, EnvironmentSpec, EnvironmentStatus
}

/// What to boot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct EnvironmentSpec {
    pub kernel: Kernel,
    pub initrd: Asset,
    /// Ours: a disk image that the agent writes, in place of kernel and initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Ours: what x86_64 machines get in place of the files above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x86_64: Option<Variant>,
    /// Ours: what arm64 machines get in place of the files above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm64: Option<Variant>,
    /// Ours: what counts as installed. [`InstalledWhen::NextBoot`] where it is not said.
    #[serde(rename = "installedWhen", skip_serializing_if = "Option::is_none")]
    pub installed_when: Option<InstalledWhen>,
}

/// What machines of one architecture get.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Variant {
    pub kernel: Kernel,
    pub initrd: Asset,
    /// In place of kernel and initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// When a machine that was sent to an installer counts as installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub enum InstalledWhen {
    /// When it asks to boot again after it has fetched its configuration (Talos says nothing itself).
    NextBoot,
    /// When the installer says so (`POST /report`, event `installed`).
    Reported,
}

/// A disk image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// Where it is fetched from: http, https or file.
    pub url: String,
    /// 128 hex digits, of the file as fetched. Verified; without it the file is taken as it comes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// How it is packed; by the URL's suffix where it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::image_format")]
    pub format: Option<ImageFormat>,
    /// Let the last partition grow to the disk's end.
    pub grow: bool,
    /// Where the system finds its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::data_source")]
    pub data_source: Option<DataSource>,
    /// Loader for the UEFI boot entry (`\\EFI\\debian\\grubx64.efi`); empty: the removable-media path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub efi_loader: String,
}

/// The kernel and its arguments.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Kernel {
    #[serde(flatten)]
    pub asset: Asset,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// A file by URL.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct EnvironmentStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<AssetCondition>,
}

/// One asset's state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct AssetCondition {
    pub url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// `True` or `False`.
    pub status: String,
    /// `Ready`.
    pub r#type: String,
    /// Ours: `Pending`, `Fetching`, `Failed`, `Incomplete`, `Ready`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Words: how far it is, or why it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Ours: which generation of the spec this is about, so that `kubectl wait` is not content with
    /// what was true before a change.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}
