//! The CustomResourceDefinitions of stoker's kinds, made from the Rust types.
//!
//! `schema` turns a type's JSON Schema into the structural schema that the
//! Kubernetes API server takes; `rules` adds in CEL what
//! [`crate::resource::validate`] checks, so that a cluster refuses the same
//! objects as the embedded store does. What they give is committed under
//! `assets/deploy/crds`; a test compares both.

mod rules;
mod schema;

use crate::resource::{
    EnvironmentSpec, EnvironmentStatus, Kind, MetalClusterSpec, MetalClusterStatus, MetalMachineSpec,
    MetalMachineStatus, MetalMachineTemplateStatus, MetalRemediationSpec, MetalRemediationStatus, NoStatus,
    ServerBindingSpec, ServerBindingStatus, ServerClassSpec, ServerClassStatus, ServerSpec, ServerStatus, TemplateSpec,
};
use serde_json::{Value, json};

/// What Cluster API calls us: as Sidero Metal, whose kinds these are.
pub const PROVIDER: &str = "infrastructure-sidero";

/// One kind, as the API server is to know it.
struct Definition {
    kind: Kind,
    /// Lower-case plural, as paths have it.
    plural: &'static str,
    /// For `kubectl explain`.
    about: &'static str,
    /// Groups of kinds that `kubectl get` takes as one word.
    categories: &'static [&'static str],
    columns: &'static [Column],
    /// Beside the provider's label.
    labels: &'static [(&'static str, &'static str)],
    spec: fn() -> Value,
    status: fn() -> Value,
}

/// What `kubectl get` shows.
struct Column {
    name: &'static str,
    r#type: &'static str,
    path: &'static str,
    /// Only with `-o wide`.
    wide: bool,
}

const fn column(name: &'static str, r#type: &'static str, path: &'static str) -> Column {
    Column { name, r#type, path, wide: false }
}

const fn wide(name: &'static str, r#type: &'static str, path: &'static str) -> Column {
    Column { name, r#type, path, wide: true }
}

const AGE: Column = column("Age", "date", ".metadata.creationTimestamp");
const CLUSTER: &str = r".metadata.labels.cluster\.x-k8s\.io/cluster-name";
/// `clusterctl move` carries objects of a kind that has this, though no Cluster owns them.
const MOVE: (&str, &str) = ("clusterctl.cluster.x-k8s.io/move", "");
/// Which of our versions speak which contract of Cluster API.
const CONTRACTS: &[(&str, &str)] =
    &[("cluster.x-k8s.io/v1beta1", "v1alpha3"), ("cluster.x-k8s.io/v1beta2", "v1alpha3")];

/// The columns are Sidero Metal's, and what stoker knows beside them.
const DEFINITIONS: &[Definition] = &[
    Definition {
        kind: Kind::Environment,
        plural: "environments",
        about: "What a machine boots from the network: kernel, initrd and arguments, or a disk image.",
        categories: &["stoker"],
        columns: &[
            column("Kernel", "string", ".spec.kernel.url"),
            column("Initrd", "string", ".spec.initrd.url"),
            wide("Image", "string", ".spec.image.url"),
            column("Ready", "string", r#".status.conditions[?(@.type=="Ready")].status"#),
            AGE,
        ],
        labels: &[MOVE],
        spec: schema::of::<EnvironmentSpec>,
        status: schema::of::<EnvironmentStatus>,
    },
    Definition {
        kind: Kind::ServerClass,
        plural: "serverclasses",
        about: "Which machines are alike, and what all of them get.",
        categories: &["stoker"],
        columns: &[
            column("Available", "string", ".status.serversAvailable"),
            column("In Use", "string", ".status.serversInUse"),
            wide("Environment", "string", ".spec.environmentRef.name"),
            AGE,
        ],
        labels: &[MOVE],
        spec: schema::of::<ServerClassSpec>,
        status: schema::of::<ServerClassStatus>,
    },
    Definition {
        kind: Kind::Server,
        plural: "servers",
        about: "One machine, named by its SMBIOS UUID in lower case.",
        categories: &["stoker"],
        columns: &[
            column("Hostname", "string", ".spec.hostname"),
            wide("BMC IP", "string", ".spec.bmc.endpoint"),
            column("Accepted", "boolean", ".spec.accepted"),
            column("Cordoned", "boolean", ".spec.cordoned"),
            column("Allocated", "boolean", ".status.inUse"),
            column("Clean", "boolean", ".status.isClean"),
            column("Power", "string", ".status.power"),
            column("Phase", "string", ".status.phase"),
            wide("Reason", "string", ".status.reason"),
            AGE,
        ],
        labels: &[MOVE],
        spec: schema::of::<ServerSpec>,
        status: schema::of::<ServerStatus>,
    },
    Definition {
        kind: Kind::ServerBinding,
        plural: "serverbindings",
        about: "The claim on one machine. It is named as the Server, so that there can be only one.",
        categories: &["stoker"],
        columns: &[
            column("Ready", "boolean", ".status.ready"),
            wide("Server", "string", ".metadata.name"),
            wide("ServerClass", "string", ".spec.serverClassRef.name"),
            wide("MetalMachine", "string", ".spec.metalMachineRef.name"),
            wide("Cluster", "string", CLUSTER),
            AGE,
        ],
        labels: &[MOVE, CONTRACTS[0], CONTRACTS[1]],
        spec: schema::of::<ServerBindingSpec>,
        status: schema::of::<ServerBindingStatus>,
    },
    Definition {
        kind: Kind::MetalCluster,
        plural: "metalclusters",
        about: "The infrastructure of one cluster: where its API is reached, and its failure domains.",
        categories: &["cluster-api"],
        columns: &[
            column("Cluster", "string", CLUSTER),
            column("Ready", "boolean", ".status.ready"),
            wide("Endpoint", "string", ".spec.controlPlaneEndpoint.host"),
            AGE,
        ],
        labels: CONTRACTS,
        spec: schema::of::<MetalClusterSpec>,
        status: schema::of::<MetalClusterStatus>,
    },
    Definition {
        kind: Kind::MetalClusterTemplate,
        plural: "metalclustertemplates",
        about: "What a ClusterClass makes MetalClusters of.",
        categories: &["cluster-api"],
        columns: &[AGE],
        labels: CONTRACTS,
        spec: schema::of::<TemplateSpec<MetalClusterSpec>>,
        status: schema::of::<NoStatus>,
    },
    Definition {
        kind: Kind::MetalMachine,
        plural: "metalmachines",
        about: "One machine of a cluster: the wish for a Server, and which one it got.",
        categories: &["cluster-api"],
        columns: &[
            column("Ready", "boolean", ".status.ready"),
            wide("Cluster", "string", CLUSTER),
            wide("Machine", "string", r#".metadata.ownerReferences[?(@.kind=="Machine")].name"#),
            wide("Server", "string", ".spec.serverRef.name"),
            column("Reason", "string", r#".status.conditions[?(@.type=="Ready")].reason"#),
            AGE,
        ],
        labels: CONTRACTS,
        spec: schema::of::<MetalMachineSpec>,
        status: schema::of::<MetalMachineStatus>,
    },
    Definition {
        kind: Kind::MetalMachineTemplate,
        plural: "metalmachinetemplates",
        about: "What Cluster API makes MetalMachines of.",
        categories: &["cluster-api"],
        columns: &[column("ServerClass", "string", ".spec.template.spec.serverClassRef.name"), AGE],
        labels: CONTRACTS,
        spec: schema::of::<TemplateSpec<MetalMachineSpec>>,
        status: schema::of::<MetalMachineTemplateStatus>,
    },
    Definition {
        kind: Kind::MetalRemediation,
        plural: "metalremediations",
        about: "A power cycle of the Machine of the same name, until its node is well or the tries are used up.",
        categories: &["cluster-api"],
        columns: &[
            column("Phase", "string", ".status.phase"),
            column("Tries", "integer", ".status.retryCount"),
            column("Limit", "integer", ".spec.retryLimit"),
            AGE,
        ],
        labels: CONTRACTS,
        spec: schema::of::<MetalRemediationSpec>,
        status: schema::of::<MetalRemediationStatus>,
    },
    Definition {
        kind: Kind::MetalRemediationTemplate,
        plural: "metalremediationtemplates",
        about: "What a MachineHealthCheck makes MetalRemediations of.",
        categories: &["cluster-api"],
        columns: &[AGE],
        labels: CONTRACTS,
        spec: schema::of::<TemplateSpec<MetalRemediationSpec>>,
        status: schema::of::<NoStatus>,
    },
];

/// Every definition.
pub fn all() -> Vec<Value> {
    DEFINITIONS.iter().map(Definition::object).collect()
}

/// The plural of a kind, as paths of the API have it.
pub fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Secret => "secrets",
        Kind::Cluster => "clusters",
        Kind::Machine => "machines",
        kind => DEFINITIONS.iter().find(|d| d.kind == kind).map_or("", |d| d.plural),
    }
}

/// The file of a definition, as the generators of Go projects name them: `GROUP_PLURAL.yaml`.
pub fn file_name(definition: &Value) -> String {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}_{}.yaml", text("/spec/group"), text("/spec/names/plural"))
}

/// The file by which kustomize takes all of them.
pub fn kustomization() -> (&'static str, String) {
    let mut names: Vec<String> = all().iter().map(file_name).collect();
    names.sort();
    let resources: String = names.iter().map(|name| format!("  - {name}\n")).collect();
    (
        "kustomization.yaml",
        format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"),
    )
}

/// A definition as YAML.
///
/// # Errors
/// None is known: it holds nothing that YAML cannot say.
pub fn yaml(definition: &Value) -> Result<String, String> {
    serde_saphyr::to_string(definition).map(|text| format!("---\n{text}")).map_err(|e| e.to_string())
}

impl Definition {
    fn object(&self) -> Value {
        let (group, version) = self.kind.api_version().split_once('/').unwrap_or(("", self.kind.api_version()));
        let kind = self.kind.name();
        let labels = self.labels.iter().copied().chain([("cluster.x-k8s.io/provider", PROVIDER)]);
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{}.{group}", self.plural),
                "labels": labels.map(|(k, v)| (k.to_owned(), json!(v))).collect::<serde_json::Map<_, _>>(),
            },
            "spec": {
                "group": group,
                "scope": if self.kind.namespaced() { "Namespaced" } else { "Cluster" },
                "names": {
                    "kind": kind,
                    "listKind": format!("{kind}List"),
                    "plural": self.plural,
                    "singular": kind.to_ascii_lowercase(),
                    "categories": self.categories,
                },
                "versions": [{
                    "name": version,
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": self.columns.iter().map(Column::object).collect::<Vec<_>>(),
                    "schema": {"openAPIV3Schema": self.schema()},
                }],
            },
        })
    }

    fn schema(&self) -> Value {
        let mut whole = json!({
            "type": "object",
            "description": self.about,
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": (self.spec)(),
                "status": (self.status)(),
            },
        });
        rules::add(self.kind, &mut whole);
        whole
    }
}

impl Column {
    fn object(&self) -> Value {
        let mut column = json!({"name": self.name, "type": self.r#type, "jsonPath": self.path});
        if self.wide {
            column["priority"] = json!(1);
        }
        column
    }
}

#[cfg(test)]
mod tests;
