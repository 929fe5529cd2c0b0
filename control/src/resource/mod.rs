//! The things that operators declare and stoker keeps: servers, classes of
//! servers, environments, bindings.
//!
//! Wire-compatible with Sidero Metal (`metal.sidero.dev/v1alpha2` and
//! `infrastructure.cluster.x-k8s.io/v1alpha3`): same names, fields and
//! defaults, so that its YAML applies as it is. What stoker adds is optional.
//!
//! Objects travel as [`Object`] (metadata typed, `spec` and `status` as JSON)
//! between store, command line and wire; code that decides reads the typed
//! forms ([`Server`], ...) by [`Typed`].

mod binding;
mod bmc_setup;
pub mod bounds;
pub mod capi;
mod class;
mod cluster;
mod environment;
mod life;
pub mod marks;
mod meta;
mod metal_machine;
mod quantity;
mod remediation;
mod requirement;
mod schema;
mod server;
mod validate;

pub use binding::{ServerBinding, ServerBindingSpec, ServerBindingStatus};
pub use bmc_setup::{BmcSetup, BmcSetupState};
pub use capi::{Cluster, Machine};
pub use class::{LabelSelector, Qualifiers, ServerClass, ServerClassSpec, ServerClassStatus};
pub use cluster::{
    Endpoint, FailureDomain, Initialization, MetalCluster, MetalClusterSpec, MetalClusterStatus, MetalClusterTemplate,
    NoStatus, Template, TemplateMeta, TemplateSpec,
};
pub use environment::{
    Asset, AssetCondition, Environment, EnvironmentSpec, EnvironmentStatus, Image, InstalledWhen, Kernel, Variant,
};
pub use life::{
    EffectKind, EffectRecord, EffectState, Identity, InstallRecord, OnAccept, OrderRecord, OrderState, Phase,
    RootDeviceHints, WipePolicy, WipeRecord,
};
pub use meta::{Condition, Meta, ObjectReference, OwnerReference};
pub use metal_machine::{
    MetalMachine, MetalMachineSpec, MetalMachineStatus, MetalMachineTemplate, MetalMachineTemplateStatus, NodeInfo,
};
pub use quantity::{bytes_of, size_text};
pub use remediation::{
    MetalRemediation, MetalRemediationSpec, MetalRemediationStatus, MetalRemediationTemplate, RemediationPhase,
};
pub use requirement::{BadRequirement, Requirement};
pub use server::{
    Bmc, BmcTls, BootFromDisk, ConfigPatch, Hardware, ManagementApi, NodeAddress, PxeMode, SecretKeyRef, Server,
    ServerSpec, ServerStatus, ValueFrom,
};
pub use validate::{OWN_ENVIRONMENTS, validate};

/// The parts of a Server's hardware.
pub mod hardware {
    pub use super::server::{
        Compute, Memory, MemoryModule, Network, NetworkInterface, Processor, Storage, StorageDevice, System,
    };
}

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// The kinds that the store keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    Server,
    ServerClass,
    Environment,
    ServerBinding,
    MetalCluster,
    MetalClusterTemplate,
    MetalMachine,
    MetalMachineTemplate,
    MetalRemediation,
    MetalRemediationTemplate,
    /// Cluster API's; stoker reads it and never writes it.
    Cluster,
    /// Cluster API's; stoker reads it and never writes it.
    Machine,
    Secret,
}

impl Kind {
    /// All of them, in the order in which they can be restored.
    pub const ALL: [Self; 13] = [
        Self::Secret,
        Self::Environment,
        Self::ServerClass,
        Self::Server,
        Self::Cluster,
        Self::MetalClusterTemplate,
        Self::MetalCluster,
        Self::MetalMachineTemplate,
        Self::Machine,
        Self::MetalMachine,
        Self::MetalRemediationTemplate,
        Self::MetalRemediation,
        Self::ServerBinding,
    ];

    /// `apiVersion` of the stored form.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Server | Self::ServerClass | Self::Environment => "metal.sidero.dev/v1alpha2",
            Self::ServerBinding
            | Self::MetalCluster
            | Self::MetalClusterTemplate
            | Self::MetalMachine
            | Self::MetalMachineTemplate
            | Self::MetalRemediation
            | Self::MetalRemediationTemplate => "infrastructure.cluster.x-k8s.io/v1alpha3",
            Self::Cluster | Self::Machine => "cluster.x-k8s.io/v1beta2",
            Self::Secret => "v1",
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Self::Server | Self::ServerClass | Self::Environment | Self::ServerBinding)
    }

    /// `kind` as YAML writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::ServerClass => "ServerClass",
            Self::Environment => "Environment",
            Self::ServerBinding => "ServerBinding",
            Self::MetalCluster => "MetalCluster",
            Self::MetalClusterTemplate => "MetalClusterTemplate",
            Self::MetalMachine => "MetalMachine",
            Self::MetalMachineTemplate => "MetalMachineTemplate",
            Self::MetalRemediation => "MetalRemediation",
            Self::MetalRemediationTemplate => "MetalRemediationTemplate",
            Self::Cluster => "Cluster",
            Self::Machine => "Machine",
            Self::Secret => "Secret",
        }
    }

    /// From what people type: `server`, `servers`, `serverclass`, `env`, ...
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        let singular = word.strip_suffix("es").filter(|w| w.ends_with("class")).or_else(|| word.strip_suffix('s'));
        Self::ALL.into_iter().find(|kind| {
            let name = kind.name().to_ascii_lowercase();
            let short = match kind {
                Self::ServerClass => "class",
                Self::Environment => "env",
                Self::ServerBinding => "binding",
                _ => "",
            };
            [Some(word.as_str()), singular].into_iter().flatten().any(|w| w == name || !short.is_empty() && w == short)
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// An object as it is stored and sent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: Kind,
    /// Name, versions, labels, ...
    pub metadata: Meta,
    /// What the operator wants. Absent for Secrets.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub spec: Value,
    /// What stoker found and did.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub status: Value,
    /// A Secret's contents, base64.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

/// Why YAML or JSON is not an object of ours.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum BadObject {
    /// A kind we do not have.
    #[error(
        "{0}: expected one of Server, ServerClass, Environment, ServerBinding, Secret, or of Cluster API's MetalCluster, MetalMachine, MetalRemediation and their templates"
    )]
    Kind(String),
    /// A version we do not store.
    #[error("{kind} has apiVersion {found:?}, expected {expected:?}")]
    Version {
        /// The kind.
        kind: Kind,
        /// What it said.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// A field that does not fit.
    #[error("{0}")]
    Field(String),
}

/// A typed view of an [`Object`].
pub trait Typed: Sized {
    /// Which kind this is.
    const KIND: Kind;
    /// Its `spec`.
    type Spec: Serialize + DeserializeOwned;
    /// Its `status`.
    type Status: Serialize + DeserializeOwned + Default;

    /// Puts the parts together.
    fn assemble(metadata: Meta, spec: Self::Spec, status: Self::Status) -> Self;
    /// Takes them apart.
    fn parts(&self) -> (&Meta, &Self::Spec, &Self::Status);

    /// Reads an object of this kind.
    ///
    /// # Errors
    /// Where it is of another kind, or a field does not fit.
    fn from_object(object: &Object) -> Result<Self, BadObject> {
        if object.kind != Self::KIND {
            return Err(BadObject::Kind(object.kind.to_string()));
        }
        let field = |part: &str, e: serde_json::Error| {
            BadObject::Field(format!("{} {}: {part}: {e}", object.kind, object.metadata.name))
        };
        let spec = if object.spec.is_null() { Value::Object(serde_json::Map::new()) } else { object.spec.clone() };
        let spec = serde_json::from_value(spec).map_err(|e| field("spec", e))?;
        let status = if object.status.is_null() {
            Self::Status::default()
        } else {
            serde_json::from_value(object.status.clone()).map_err(|e| field("status", e))?
        };
        Ok(Self::assemble(object.metadata.clone(), spec, status))
    }

    /// Writes it as an object.
    fn to_object(&self) -> Object {
        let (metadata, spec, status) = self.parts();
        Object {
            api_version: Self::KIND.api_version().to_owned(),
            kind: Self::KIND,
            metadata: metadata.clone(),
            // The typed forms hold only what JSON can say, so these cannot fail.
            spec: serde_json::to_value(spec).unwrap_or_default(),
            status: serde_json::to_value(status).unwrap_or_default(),
            data: Value::Null,
        }
    }
}

/// Declares `struct $name { metadata, spec, status }` with its [`Typed`] and serde forms.
macro_rules! typed {
    ($(#[$doc:meta])* $name:ident, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            /// Name, versions, labels, ...
            pub metadata: $crate::resource::Meta,
            /// What the operator wants.
            pub spec: $spec,
            /// What stoker found and did.
            pub status: $status,
        }

        impl $crate::resource::Typed for $name {
            const KIND: $crate::resource::Kind = $crate::resource::Kind::$name;
            type Spec = $spec;
            type Status = $status;

            fn assemble(metadata: $crate::resource::Meta, spec: $spec, status: $status) -> Self {
                Self { metadata, spec, status }
            }

            fn parts(&self) -> (&$crate::resource::Meta, &$spec, &$status) {
                (&self.metadata, &self.spec, &self.status)
            }
        }
    };
}
pub(crate) use typed;

impl Object {
    /// From a parsed YAML or JSON document, with the checks of [`validate`].
    ///
    /// # Errors
    /// Every complaint, each with its field.
    pub fn read(document: Value) -> Result<Self, Vec<BadObject>> {
        let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (text("kind"), text("apiVersion"));
        let Some(known) = Kind::ALL.into_iter().find(|k| k.name() == kind) else {
            return Err(vec![BadObject::Kind(if kind.is_empty() { "no kind given".into() } else { kind })]);
        };
        if version != known.api_version() {
            return Err(vec![BadObject::Version { kind: known, found: version, expected: known.api_version() }]);
        }
        let object: Self =
            serde_json::from_value(document).map_err(|e| vec![BadObject::Field(format!("{known}: {e}"))])?;
        let complaints = validate(&object, None);
        if complaints.is_empty() { Ok(object) } else { Err(complaints) }
    }

    /// `Server/6f0c...`, or `Secret/namespace/name`.
    pub fn key(&self) -> String {
        key(self.kind, &self.metadata.namespace, &self.metadata.name)
    }
}

/// The store's key of an object.
pub fn key(kind: Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced() { format!("{kind}/{namespace}/{name}") } else { format!("{kind}/{name}") }
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
