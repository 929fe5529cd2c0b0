//! stoker's objects in a real Kubernetes API server.
//!
//! One cluster serves all tests of this program, one after another: each
//! begins without objects.

mod deploy;
mod schemas;
mod store;

use control::objects::Objects as _;
use control::objects::kubernetes::Cluster as Store;
use control::resource::Kind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use stoker_tests::kubernetes::Cluster;

/// The namespace of stoker's Secrets.
const NAMESPACE: &str = "stoker";

/// The cluster, with stoker's kinds in it and none of their objects.
fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Mutex::new(started().unwrap_or_else(|e| panic!("{e:#}"))));
    // A test that failed has left the cluster as good as any.
    let guard = cluster.lock().unwrap_or_else(PoisonError::into_inner);
    empty(&guard);
    guard
}

fn started() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start("objects")?;
    let definitions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/deploy/crds");
    let said = cluster.kubectl(&["apply", "--server-side", "-k", &definitions.display().to_string()]);
    // A warning is a schema that the API server understands otherwise than we do.
    anyhow::ensure!(said.good && said.err.is_empty(), "the definitions are not taken as they are: {}", said.err);
    let said = cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd", "--all"]);
    anyhow::ensure!(said.good, "{}", said.err);
    let said = cluster.kubectl(&["create", "namespace", NAMESPACE]);
    anyhow::ensure!(said.good, "{}", said.err);
    Ok(cluster)
}

/// Takes every object of ours away, whatever holds it.
fn empty(cluster: &Cluster) {
    runtime().block_on(async {
        let store = store_of(cluster).await;
        for kind in Kind::ALL.into_iter().filter(|k| !matches!(k, Kind::Cluster | Kind::Machine)) {
            for mut object in store.list(kind).await.expect("the API server lists").objects {
                if !object.metadata.finalizers.is_empty() {
                    object.metadata.finalizers.clear();
                    let _ = store.replace(object.clone()).await;
                }
                let meta = &object.metadata;
                let _ = store.delete(kind, &meta.namespace, &meta.name, Default::default()).await;
            }
        }
    });
}

async fn store_of(cluster: &Cluster) -> Store {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Store::connect(Some(&cluster.kubeconfig()), NAMESPACE).await.expect("the kubeconfig is good")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
