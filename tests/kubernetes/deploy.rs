//! What is deployed: the manifests are taken as they are, and the roles in them suffice for the store.

use super::{NAMESPACE, cluster, runtime};
use control::objects::kubernetes::Cluster as Store;
use control::objects::{Error, Objects as _, Preconditions, conformance};
use control::resource::{Kind, Object};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The service account of the manifests.
const ACCOUNT: &str = "system:serviceaccount:stoker:stoker";

fn kustomize(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/deploy/kustomize").join(folder)
}

#[test]
fn manifests_are_taken_by_the_api_server_as_they_are() {
    let cluster = cluster();
    for folder in ["base", "overlays/single-port"] {
        let said = cluster.kubectl(&["apply", "--server-side", "-k", &kustomize(folder).display().to_string()]);
        assert!(said.good && said.err.is_empty(), "{folder}: {}", said.err);
        let said = cluster.kubectl(&["get", "daemonset", "-n", NAMESPACE, "stoker", "-o", "json"]);
        let set: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!((pod["hostNetwork"].clone(), pod["containers"][0]["name"].clone()), (true.into(), "edge".into()));
        let single = pod["containers"][0]["args"].as_array().unwrap().contains(&"--single-port".into());
        assert_eq!(single, folder.ends_with("single-port"));
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{}", container["name"]);
            assert_eq!(context["allowPrivilegeEscalation"], false);
        }
    }
}

#[test]
fn c40_the_shipped_roles_suffice_and_allow_no_more() {
    let cluster = cluster();
    let said = cluster.kubectl(&["apply", "--server-side", "-k", &kustomize("base").display().to_string()]);
    assert!(said.good, "{}", said.err);
    let admin = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let narrow = cluster.kubeconfig().with_file_name("kubeconfig-of-stoker");
    let user = "user: {token";
    assert!(admin.contains(user), "{admin}");
    std::fs::write(&narrow, admin.replace(user, &format!("user: {{as: '{ACCOUNT}', token"))).unwrap();
    runtime().block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = Store::connect(Some(&narrow), NAMESPACE).await.unwrap();
        conformance::run(&store).await;
        for kind in Kind::ALL.into_iter().filter(|k| !matches!(k, Kind::Cluster | Kind::Machine)) {
            store.list(kind).await.unwrap_or_else(|e| panic!("{kind} cannot be listed: {e}"));
        }
        let secret = |namespace: &str| {
            let metadata = json!({"name": "narrow", "namespace": namespace});
            Object::read(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"value": "YQ=="}}))
                .unwrap()
        };
        let made = store.create(secret(NAMESPACE)).await.unwrap();
        store.delete(Kind::Secret, NAMESPACE, &made.metadata.name, Preconditions::default()).await.unwrap();
        let refused = store.create(secret("default")).await;
        assert!(!matches!(refused, Ok(_) | Err(Error::Exists(_))), "a Secret elsewhere is not its to write");
        let found = store.get(Kind::Secret, "default", "narrow").await;
        assert!(matches!(found, Err(Error::NotFound(_))), "but to read, where an object refers to one: {found:?}");
    });
}
