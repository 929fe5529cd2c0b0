//! Cluster API's kinds: examples as people write them, and what is refused.

use super::*;
use serde_json::{Value, json};

fn machine(spec: Value) -> Value {
    json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha3", "kind": "MetalMachine",
        "metadata": {"name": "m", "namespace": "default"}, "spec": spec,
    })
}

fn template(spec: Value) -> Value {
    json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha3", "kind": "MetalMachineTemplate",
        "metadata": {"name": "t", "namespace": "default"}, "spec": {"template": {"spec": spec}},
    })
}

fn cluster(spec: Value) -> Value {
    json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha3", "kind": "MetalCluster",
        "metadata": {"name": "c", "namespace": "default"}, "spec": spec,
    })
}

fn refused(document: Value) -> String {
    Object::read(document).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn sideros_examples_are_read_and_written_back() {
    let class = json!({"apiVersion": "metal.sidero.dev/v1alpha2", "kind": "ServerClass", "name": "any"});
    let object = Object::read(template(json!({"serverClassRef": class}))).unwrap();
    let typed = MetalMachineTemplate::from_object(&object).unwrap();
    assert_eq!(typed.spec.template.spec.server_class_ref.as_ref().unwrap().name, "any");
    assert_eq!(typed.to_object().spec, object.spec);

    let endpoint = json!({"controlPlaneEndpoint": {"host": "1.2.3.4", "port": 6443}});
    let object = Object::read(cluster(endpoint.clone())).unwrap();
    let typed = MetalCluster::from_object(&object).unwrap();
    assert!(typed.spec.control_plane_endpoint.as_ref().unwrap().is_whole());
    assert_eq!(typed.to_object().spec, endpoint);
    assert!(Object::read(cluster(json!({}))).is_ok(), "the endpoint may be the Cluster's");

    let bound = json!({"providerID": "sidero://4c4c4544-0039-3010-804a-b4c04f4e3132", "serverRef": {"name": "x"}});
    let typed = MetalMachine::from_object(&Object::read(machine(bound.clone())).unwrap()).unwrap();
    assert_eq!(typed.to_object().spec, bound);
}

#[test]
fn c23_c31_c32_what_does_not_fit_is_refused() {
    assert!(refused(machine(json!({}))).contains("serverClassRef"));
    assert!(refused(machine(json!({"serverRef": {"name": "x"}, "providerID": "aws://x"}))).contains("sidero://"));
    let both = json!({"serverClassRef": {"name": "any"}, "providerID": "sidero://x"});
    assert!(refused(template(both)).contains("a template has none"));
    assert!(refused(cluster(json!({"controlPlaneEndpoint": {"host": "a"}}))).contains("host and a port"));
    let twice = json!({"failureDomains": [{"name": "a"}, {"name": "a"}]});
    assert!(refused(cluster(twice)).contains("failureDomains"));

    let read = |v| Object::read(v).unwrap();
    let any = || json!({"name": "any"});
    let old = read(machine(json!({"serverClassRef": any(), "providerID": "sidero://a"})));
    let new = read(machine(json!({"serverClassRef": any(), "providerID": "sidero://b"})));
    assert!(validate(&new, Some(&old))[0].to_string().contains("cannot be changed"));
    assert!(validate(&old, Some(&old)).is_empty());
    let old = read(template(json!({"serverClassRef": any()})));
    let new = read(template(json!({"serverClassRef": {"name": "other"}})));
    assert!(validate(&new, Some(&old))[0].to_string().contains("make another template"));
}

#[test]
fn what_is_read_of_cluster_apis_own_objects() {
    let object = Object::read(json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
        "metadata": {"name": "m", "namespace": "default", "labels": {"cluster.x-k8s.io/cluster-name": "c"}},
        "spec": {"clusterName": "c", "bootstrap": {"dataSecretName": "s"}, "failureDomain": "rack-1",
                 "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "MetalMachine", "name": "m"},
                 "deletion": {"nodeDrainTimeoutSeconds": 10}},
        "status": {"nodeRef": {"name": "n"}, "phase": "Running"},
    }))
    .unwrap();
    let machine = Machine::from_object(&object).unwrap();
    assert_eq!(
        (machine.spec.bootstrap.data_secret_name.as_str(), machine.spec.failure_domain.as_str()),
        ("s", "rack-1")
    );
    assert_eq!(machine.status.node_ref.unwrap().name, "n");
    let status: capi::ClusterStatus =
        serde_json::from_value(json!({"initialization": {"infrastructureProvisioned": true}})).unwrap();
    assert!(status.infrastructure() && !capi::ClusterStatus::default().infrastructure());
}
