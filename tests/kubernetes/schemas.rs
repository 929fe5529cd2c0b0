//! The definitions: what they take, what they refuse and with which words.

use super::{cluster, runtime, store_of};
use control::objects::Objects as _;
use control::resource::{Kind, Object, validate};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";

fn object(kind: Kind, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": kind.api_version(), "kind": kind.name(), "metadata": {"name": name}, "spec": spec,
    });
    if kind.namespaced() {
        object["metadata"]["namespace"] = json!("default");
    }
    object
}

/// Objects that are right, among them those of Sidero Metal's documentation.
fn right() -> Vec<Value> {
    vec![
        object(
            Kind::Server,
            "00000000-0000-0000-0000-d05099d33360",
            json!({
                "accepted": true, "hostname": "rack-1",
                "bmc": {
                    "endpoint": "10.0.0.25",
                    "userFrom": {"secretKeyRef": {"namespace": "sidero-system", "name": "bmc", "key": "user"}},
                    "passFrom": {"secretKeyRef": {"namespace": "sidero-system", "name": "bmc", "key": "pass"}},
                },
                "configPatches": [
                    {"op": "replace", "path": "/machine/install", "value": {"disk": "/dev/sda", "any": [1, null, "x"]}},
                    {"op": "remove", "path": ""},
                    {"op": "copy", "path": "/a", "from": "/b"},
                ],
                "strategicPatches": ["machine:\n  network:\n    hostname: a\n"],
                "hardware": {
                    "system": {"manufacturer": "Supermicro", "productName": "X11"},
                    "compute": {"totalCoreCount": 8, "processors": [{"manufacturer": "Intel", "coreCount": 8}]},
                    "memory": {"totalSize": "64 GB"},
                    "storage": {"devices": [{"type": "NVMe", "size": 9_000_000_000_000_000_000_u64, "deviceName": "/dev/nvme0n1"}]},
                },
                "bootFromDiskMethod": "http-404", "pxeMode": "uefi",
                "wipe": {"method": "fast", "keepDisks": ["sda"], "onAccept": "Keep"},
                "rootDeviceHints": {"type": "SSD", "minSizeGigabytes": 10, "rotational": false},
                "identity": {"serialNumber": "S1", "macs": ["52:54:00:00:00:01"]},
            }),
        ),
        object(
            Kind::ServerClass,
            "any-intel",
            json!({
                "qualifiers": {
                    "hardware": [
                        {"system": {"manufacturer": "Supermicro"}, "compute": {"processors": [{"manufacturer": "Intel"}]}},
                        {"memory": {"totalSize": "1 GB"}},
                    ],
                    "labelSelectors": [{"my-label": "true"}],
                    "requirements": [
                        "memory >= 64Gi", "disk.size >= 1TB", "product = PowerEdge*", "DISK.TYPE = \"NVMe\"",
                        " cores>8", "manufacturer != \"Dell Inc.\"", "storage < 1.5 TiB", "cpu.mhz = 2000",
                    ],
                },
                "selector": {"matchExpressions": [{"key": "my-label", "operator": "In", "values": ["true", "yes"]}]},
            }),
        ),
        object(Kind::ServerClass, "any", json!({})),
        object(
            Kind::Environment,
            "default",
            json!({
                "kernel": {
                    "url": "https://example.com/vmlinuz-amd64", "sha512": "a".repeat(128),
                    "args": ["console=tty0", "console=ttyS0 quiet", "talos.platform=metal"],
                },
                "initrd": {"url": "file:///srv/initramfs.xz", "sha512": ""},
                "arm64": {"kernel": {"url": "https://example.com/vmlinuz-arm64"}},
                "installedWhen": "Reported",
            }),
        ),
        object(
            Kind::Environment,
            "debian",
            json!({
                "image": {
                    "url": "http://example.com/i.raw.zst", "format": "zst", "dataSource": "config-drive", "grow": true,
                    "efiLoader": "\\EFI\\debian\\shimx64.efi",
                },
            }),
        ),
        object(
            Kind::ServerBinding,
            UUID,
            json!({
                "metalMachineRef": {"apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha3", "kind": "MetalMachine", "name": "m", "namespace": "default"},
                "siderolink": {"address": "fd::1", "publicKey": "k"}, "addresses": ["10.0.0.1"], "hostname": "h",
            }),
        ),
        object(
            Kind::MetalCluster,
            "c",
            json!({"controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443}, "failureDomains": [{"name": "a", "controlPlane": true}]}),
        ),
        object(
            Kind::MetalMachine,
            "m",
            json!({"serverClassRef": {"apiVersion": "metal.sidero.dev/v1alpha2", "kind": "ServerClass", "name": "any"}}),
        ),
        object(
            Kind::MetalMachineTemplate,
            "t",
            json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"serverClassRef": {"kind": "ServerClass", "name": "any"}}}}),
        ),
        object(Kind::MetalRemediation, "r", json!({"retryLimit": 2})),
        object(
            Kind::MetalRemediationTemplate,
            "rt",
            json!({"template": {"spec": {"retryLimit": 2, "timeoutSeconds": 60}}}),
        ),
        object(Kind::MetalClusterTemplate, "ct", json!({"template": {"spec": {"failureDomains": [{"name": "a"}]}}})),
    ]
}

#[test]
fn what_is_right_is_taken_and_comes_back_unchanged() {
    let cluster = cluster();
    for wanted in right() {
        // As a user would: strictly, so that a field that the schema has forgotten is an error.
        let said = cluster.kubectl_with(&["create", "--validate=strict", "-f", "-", "-o", "json"], &wanted.to_string());
        assert!(said.good && said.err.is_empty(), "{wanted:#}\n{}", said.err);
        let kept: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(kept["spec"], wanted["spec"], "no field is lost, none is invented");
        assert!(Object::read(wanted).is_ok(), "the embedded store takes it too");
    }
    let shown = cluster.kubectl(&["get", "servers,serverclasses,environments,serverbindings", "-o", "wide"]);
    assert!(shown.good, "{}", shown.err);
    for word in [
        "HOSTNAME",
        "BMC IP",
        "ACCEPTED",
        "CLEAN",
        "POWER",
        "PHASE",
        "AVAILABLE",
        "KERNEL",
        "METALMACHINE",
        "10.0.0.25",
    ] {
        assert!(shown.out.contains(word), "{word} in:\n{}", shown.out);
    }
    let told = cluster.kubectl(&["explain", "server.spec.accepted"]);
    let words = told.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("ever wiped or switched"), "{}", told.out);
}

/// Objects that are wrong: what is said must name the remedy.
fn wrong() -> Vec<(Value, &'static str)> {
    let server = |spec: Value| object(Kind::Server, UUID, spec);
    let class = |spec: Value| object(Kind::ServerClass, "c", spec);
    let environment = |spec: Value| object(Kind::Environment, "e", spec);
    let requirement = |text: &str| class(json!({"qualifiers": {"requirements": [text]}}));
    vec![
        (object(Kind::Server, "rack-1", json!({})), "SMBIOS UUID"),
        (object(Kind::Server, "ffffffff-ffff-ffff-ffff-ffffffffffff", json!({})), "placeholder"),
        (server(json!({"bmc": {}})), "endpoint is missing"),
        (server(json!({"bmc": {"endpoint": "a", "port": 70000}})), "port"),
        (server(json!({"bmc": {"endpoint": "a", "user": "u", "userFrom": {}}})), "keep one"),
        (server(json!({"bmc": {"endpoint": "a", "pass": "u", "passFrom": {}}})), "keep one"),
        (server(json!({"bmc": {"endpoint": "a", "interface": "lan"}})), "lanplus, redfish"),
        (server(json!({"bmc": {"endpoint": "a", "tls": "pin"}})), "redfish only"),
        (server(json!({"configPatches": [{"op": "change", "path": "/a"}]})), "add, remove, replace"),
        (server(json!({"configPatches": [{"path": "/a"}]})), "add, remove, replace"),
        (server(json!({"configPatches": [{"op": "add", "path": "a"}]})), "starts with '/'"),
        (server(json!({"configPatches": [{"op": "move", "path": "/a"}]})), "from"),
        (server(json!({"accepted": "yes"})), "boolean"),
        (server(json!({"bootFromDiskMethod": "grub"})), "ipxe-exit"),
        (server(json!({"pxeMode": "coreboot"})), "uefi"),
        (server(json!({"wipe": {"method": "burn"}})), "secure"),
        (requirement("memory"), "memory >= 64Gi"),
        (requirement("colour = red"), "known are"),
        (requirement("memory >= much"), "memory >= 64Gi"),
        (requirement("cores >= 1.5"), "memory >= 64Gi"),
        (requirement("product >= a"), "PowerEdge"),
        (requirement("product = "), "PowerEdge"),
        (class(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})), "needs? values"),
        (
            class(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}})),
            "takes? no values",
        ),
        (class(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}})), "NotIn"),
        (environment(json!({"kernel": {"url": "ftp://a/b"}})), "https://"),
        (environment(json!({"initrd": {"sha512": "abc"}})), "128 hex digits"),
        (environment(json!({"image": {"url": "a"}})), "https://"),
        (environment(json!({"image": {"format": "qcow2"}})), "zst"),
        (environment(json!({"kernel": {"args": ["a\nb"]}})), "control character"),
        (environment(json!({"kernel": {"args": vec!["a"; 257]}})), "256"),
        (environment(json!({"kernel": {"args": ["a", "#b"]}})), "iPXE"),
        (environment(json!({"kernel": {"args": ["a || b"]}})), "iPXE"),
        (environment(json!({"arm64": {"initrd": {"url": "a"}}})), "https://"),
        (environment(json!({"image": {"url": "http://a/b"}, "kernel": {"url": "http://a/c"}})), "keep one"),
        (environment(json!({"image": {"efiLoader": "a b"}})), "space"),
        (object(Kind::Environment, "agent-amd64", json!({})), "choose another"),
        (object(Kind::ServerBinding, "a", json!({"metalMachineRef": {"name": "m"}})), "UUID"),
        (object(Kind::ServerBinding, UUID, json!({})), "metalMachineRef.name is missing"),
        (object(Kind::MetalCluster, "c", json!({"controlPlaneEndpoint": {"host": "a"}})), "or neither"),
        (object(Kind::MetalCluster, "c", json!({"failureDomains": [{"name": "a"}, {"name": "a"}]})), "failureDomains"),
        (object(Kind::MetalMachine, "m", json!({})), "serverClassRef"),
        (object(Kind::MetalMachine, "m", json!({"serverRef": {"name": "a"}, "providerID": "x"})), "sidero://"),
        (object(Kind::MetalMachineTemplate, "t", json!({"template": {"spec": {}}})), "serverClassRef"),
        (
            object(
                Kind::MetalMachineTemplate,
                "t",
                json!({"template": {"spec": {"serverRef": {"name": "a"}, "providerID": "sidero://a"}}}),
            ),
            "providerID",
        ),
    ]
}

#[test]
fn what_is_wrong_is_refused_by_the_cluster_and_by_us_with_the_remedy() {
    let cluster = cluster();
    for (bad, says) in wrong() {
        // Without the client's own checks: the API server must refuse it.
        let said = cluster.kubectl_with(&["create", "--validate=false", "-f", "-"], &bad.to_string());
        assert!(!said.good, "the cluster takes {bad:#}");
        let alternatives: Vec<String> = match says.split_once("s? ") {
            Some((verb, rest)) => vec![format!("{verb} {rest}"), format!("{verb}s {rest}")],
            None => vec![says.to_owned()],
        };
        assert!(alternatives.iter().any(|text| said.err.contains(text)), "{says:?} in: {}", said.err);
        let ours = Object::read(bad.clone()).expect_err(&format!("the embedded store takes {bad:#}"));
        assert!(!ours.is_empty());
    }
}

#[test]
fn c23_a_provider_id_is_set_once() {
    let cluster = cluster();
    runtime().block_on(async {
        let store = store_of(&cluster).await;
        let machine = object(Kind::MetalMachine, "m", json!({"serverRef": {"name": "a"}}));
        let made = store.create(Object::read(machine).unwrap()).await.unwrap();
        let mut claimed = made;
        claimed.spec["providerID"] = json!(format!("sidero://{UUID}"));
        let claimed = store.replace(claimed).await.unwrap();
        for other in [json!("sidero://other"), Value::Null] {
            let mut changed = claimed.clone();
            changed.spec["providerID"] = other;
            if changed.spec["providerID"].is_null() {
                changed.spec.as_object_mut().unwrap().remove("providerID");
            }
            assert!(!validate(&changed, Some(&claimed)).is_empty(), "the embedded store refuses it");
            let refused = store.replace(changed).await.unwrap_err().to_string();
            assert!(refused.contains("providerID cannot be changed once it is set"), "{refused}");
        }
    });
}

#[test]
fn c32_a_template_is_not_changed_but_in_the_dry_runs_of_the_topology_controller() {
    let cluster = cluster();
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/deploy/policies");
    let said = cluster.kubectl(&["apply", "--server-side", "-f", &policies.display().to_string()]);
    assert!(said.good, "{}", said.err);
    let template = |class: &str, note: Option<&str>| {
        let mut template = object(
            Kind::MetalMachineTemplate,
            "fixed",
            json!({"template": {"spec": {"serverClassRef": {"name": class}}}}),
        );
        if let Some(note) = note {
            template["metadata"]["annotations"] = json!({ note: "" });
        }
        template.to_string()
    };
    let apply = |text: &str, more: &[&str]| {
        let arguments = [&["apply", "--server-side", "--force-conflicts", "-f", "-"], more].concat();
        cluster.kubectl_with(&arguments, text)
    };
    assert!(apply(&template("a", None), &[]).good);
    // The API server learns of a policy some time after it has taken it.
    let until = Instant::now() + Duration::from_secs(240);
    let refused = loop {
        let said = apply(&template("b", None), &["--dry-run=server"]);
        if !said.good {
            break said.err;
        }
        assert!(Instant::now() < until, "the policy is never heeded");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(refused.contains("make another template"), "{refused}");
    assert!(
        !apply(&template("b", Some("topology.cluster.x-k8s.io/dry-run")), &[]).good,
        "the annotation opens nothing"
    );
    let tried = apply(&template("b", Some("topology.cluster.x-k8s.io/dry-run")), &["--dry-run=server"]);
    assert!(tried.good, "{}", tried.err);
    let said = apply(&template("a", Some("note")), &[]);
    assert!(said.good, "metadata may change: {}", said.err);
}
