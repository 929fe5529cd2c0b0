//! The provider on the embedded store, with a test that plays Cluster API's
//! core and the life of the machines: each step is one write.

use super::*;
use crate::allocation::{ANY, follow as follow_allocation};
use crate::leader::Leading;
use crate::objects::Preconditions;
use crate::objects::embedded::Embedded;
use crate::plan::provider::{CLUSTER_FINALIZER, MACHINE_FINALIZER};
use crate::resource::capi::{BLOCK_MOVE, DELETE_FOR_MOVE};
use crate::resource::{MetalMachine, Object, Phase, Server, ServerBinding, ServerSpec, ServerStatus, Typed, marks};
use crate::store::Store;
use serde_json::{Value, json};

const NS: &str = "team";

struct World {
    _folder: tempfile::TempDir,
    objects: Embedded,
    stop: CancellationToken,
    running: Vec<tokio::task::JoinHandle<()>>,
}

fn uuid(n: usize) -> String {
    format!("6f0c4e2a-0b1d-4c5e-8f90-{n:012x}")
}

fn object(kind: Kind, name: &str, metadata: Value, spec: Value) -> Object {
    let mut document =
        json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": spec});
    document["metadata"]["name"] = name.into();
    document["metadata"]["namespace"] = NS.into();
    serde_json::from_value(document).unwrap()
}

impl World {
    async fn new(servers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&folder.path().join("store.redb")).unwrap());
        let objects = Embedded::open(store).await.unwrap();
        let world = Self { _folder: folder, objects, stop: CancellationToken::new(), running: Vec::new() };
        for n in 0..servers {
            let server = Server {
                metadata: Meta { name: uuid(n), ..Meta::default() },
                spec: ServerSpec { accepted: true, ..ServerSpec::default() },
                status: ServerStatus::default(),
            };
            let made = world.objects.create(server.to_object()).await.unwrap();
            let mut server = Server::from_object(&made).unwrap();
            server.status.phase = Some(Phase::Available);
            world.objects.replace_status(server.to_object()).await.unwrap();
        }
        world
    }

    /// One control process; more than one may run at once.
    async fn control(&mut self) {
        let allocation = Allocation::new(self.objects.clone());
        allocation.ensure_any().await.unwrap();
        let provider = Provider::new(self.objects.clone(), allocation.clone(), Scope::default());
        self.running.push(tokio::spawn(follow_allocation(allocation, Leading::always(), self.stop.clone())));
        self.running.push(tokio::spawn(provider.run(self.stop.clone())));
    }

    async fn end(&mut self) {
        self.stop.cancel();
        for task in self.running.drain(..) {
            task.await.unwrap();
        }
        self.stop = CancellationToken::new();
    }

    async fn get(&self, kind: Kind, name: &str) -> Option<Object> {
        let namespace = if kind.namespaced() { NS } else { "" };
        match self.objects.get(kind, namespace, name).await {
            Ok(object) => Some(object),
            Err(Error::NotFound(_)) => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn metal(&self, name: &str) -> Option<MetalMachine> {
        self.get(Kind::MetalMachine, name).await.map(|o| MetalMachine::from_object(&o).unwrap())
    }

    async fn bindings(&self) -> Vec<ServerBinding> {
        let all = self.objects.list(Kind::ServerBinding).await.unwrap().objects;
        all.iter().map(|o| ServerBinding::from_object(o).unwrap()).collect()
    }

    /// Changes an object, however often somebody else does so too.
    async fn change(&self, kind: Kind, name: &str, change: impl Fn(&mut Object)) {
        for _ in 0..100 {
            let mut object = self.get(kind, name).await.unwrap();
            let status = object.status.clone();
            change(&mut object);
            let done = if object.status == status {
                self.objects.replace(object).await
            } else {
                self.objects.replace_status(object).await
            };
            match done {
                Ok(_) => return,
                Err(Error::Conflict { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        panic!("{kind} {name} does not hold still");
    }

    async fn delete(&self, kind: Kind, name: &str) {
        let namespace = if kind.namespaced() { NS } else { "" };
        self.objects.delete(kind, namespace, name, Preconditions::default()).await.unwrap();
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..3000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within a minute: {what}");
    }

    // --- Cluster API's part ---------------------------------------------------------

    async fn cluster(&self) {
        let endpoint = json!({"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}});
        let cluster = object(Kind::Cluster, "c", json!({}), json!({"infrastructureRef": {"name": "c"}}));
        self.objects.create(cluster).await.unwrap();
        let owner = json!([{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": "c", "uid": "x"}]);
        let metal = object(Kind::MetalCluster, "c", json!({"ownerReferences": owner}), endpoint);
        self.objects.create(metal).await.unwrap();
    }

    async fn cluster_is_provisioned(&self) {
        self.until("MetalCluster provisioned", async || {
            let metal = self.get(Kind::MetalCluster, "c").await.unwrap();
            metal.status["initialization"]["provisioned"] == true && metal.status["ready"] == true
        })
        .await;
        let status = json!({"initialization": {"infrastructureProvisioned": true}});
        self.change(Kind::Cluster, "c", |o| o.status = status.clone()).await;
    }

    /// A Machine and its MetalMachine; first owned by a MachineSet, then by the Machine, as core does.
    async fn machine(&self, name: &str, spec: Value) {
        let labels = json!({"cluster.x-k8s.io/cluster-name": "c"});
        let owner =
            |kind: &str| json!([{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind, "name": name, "uid": "x"}]);
        let metadata = json!({"labels": labels, "ownerReferences": owner("MachineSet")});
        self.objects.create(object(Kind::MetalMachine, name, metadata, spec)).await.unwrap();
        let of = json!({"clusterName": "c", "bootstrap": {"dataSecretName": format!("{name}-data")},
            "infrastructureRef": {"kind": "MetalMachine", "name": name}});
        self.objects.create(object(Kind::Machine, name, json!({"labels": labels}), of)).await.unwrap();
        let owners = serde_json::from_value::<Vec<_>>(owner("Machine")).unwrap();
        self.change(Kind::MetalMachine, name, |o| o.metadata.owner_references = owners.clone()).await;
    }

    // --- the life of machines ---------------------------------------------------------

    async fn phase(&self, server: &str, phase: Phase) {
        self.change(Kind::Server, server, |o| {
            let mut server = Server::from_object(o).unwrap();
            server.status.phase = Some(phase);
            server.status.in_use = phase != Phase::Available;
            o.status = serde_json::to_value(server.status).unwrap();
        })
        .await;
    }

    /// The machine is in our hands, and its wipe is on record: the claim ends.
    async fn hand_back(&self, server: &str) {
        self.phase(server, Phase::Wiping).await;
        self.change(Kind::ServerBinding, server, |o| o.metadata.finalizers.clear()).await;
        self.phase(server, Phase::Available).await;
    }
}

fn any() -> Value {
    json!({"serverClassRef": {"name": ANY}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_its_cluster_and_leaves_it() {
    let mut w = World::new(1).await;
    w.control().await;
    w.cluster().await;
    w.machine("m", any()).await;
    w.until("waits for its cluster", async || {
        let m = w.metal("m").await.unwrap();
        m.metadata.finalizers == [MACHINE_FINALIZER]
            && m.status.conditions.iter().any(|c| c.reason == "WaitingForClusterInfrastructure")
    })
    .await;
    assert!(w.bindings().await.is_empty());
    w.cluster_is_provisioned().await;
    assert_eq!(w.get(Kind::MetalCluster, "c").await.unwrap().metadata.finalizers, [CLUSTER_FINALIZER]);

    w.until("claimed", async || w.metal("m").await.unwrap().spec.provider_id == format!("sidero://{}", uuid(0))).await;
    let binding = w.bindings().await.pop().unwrap();
    let (of, data) = (&binding.spec.metal_machine_ref, binding.spec.data_secret_ref.as_ref().unwrap());
    assert_eq!((of.name.as_str(), of.namespace.as_str(), of.uid.is_empty()), ("m", NS, false));
    assert_eq!((data.name.as_str(), data.namespace.as_str()), ("m-data", NS));
    assert!(binding.metadata.finalizers.contains(&marks::RELEASE_FINALIZER.to_owned()));
    let m = w.metal("m").await.unwrap();
    assert!(!m.status.ready && !m.metadata.annotations.contains_key(marks::CLAIMING));

    w.phase(&uuid(0), Phase::Installing).await;
    w.until("told", async || {
        w.metal("m").await.unwrap().status.conditions.iter().any(|c| c.message.contains("Installing"))
    })
    .await;
    w.phase(&uuid(0), Phase::Running).await;
    w.until("provisioned", async || w.metal("m").await.unwrap().status.initialization.provisioned == Some(true)).await;

    w.delete(Kind::MetalMachine, "m").await;
    w.until("released", async || w.bindings().await.iter().all(|b| b.metadata.deletion_timestamp.is_some())).await;
    assert!(w.metal("m").await.is_some(), "not gone before the machine is in our hands");
    w.hand_back(&uuid(0)).await;
    w.until("gone", async || w.metal("m").await.is_none()).await;
    w.delete(Kind::MetalCluster, "c").await;
    w.until("gone", async || w.get(Kind::MetalCluster, "c").await.is_none()).await;
    w.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_two_providers_at_once_give_each_machine_one_server() {
    const SERVERS: usize = 8;
    const MACHINES: usize = 11;
    let mut w = World::new(SERVERS).await;
    w.cluster().await;
    for n in 0..MACHINES {
        w.machine(&format!("m{n}"), any()).await;
    }
    w.control().await;
    w.control().await;
    w.cluster_is_provisioned().await;
    w.until("all Servers are given", async || {
        let recorded = futures_util::future::join_all((0..MACHINES).map(|n| {
            let w = &w;
            async move { w.metal(&format!("m{n}")).await.unwrap().spec.provider_id }
        }))
        .await;
        recorded.iter().filter(|id| !id.is_empty()).count() == SERVERS
    })
    .await;
    let mut owners: Vec<String> = w.bindings().await.iter().map(|b| b.spec.metal_machine_ref.name.clone()).collect();
    owners.sort();
    owners.dedup();
    assert_eq!((owners.len(), w.bindings().await.len()), (SERVERS, SERVERS));
    w.until("the others know why", async || {
        let mut told = 0;
        for n in 0..MACHINES {
            let m = w.metal(&format!("m{n}")).await.unwrap();
            told += usize::from(m.status.conditions.iter().any(|c| c.message.contains("8 in use")));
        }
        told == MACHINES - SERVERS
    })
    .await;

    // One comes free: it goes to one of those who wait.
    let freed = w.bindings().await.pop().unwrap();
    w.delete(Kind::MetalMachine, &freed.spec.metal_machine_ref.name).await;
    let name = freed.metadata.name.clone();
    w.until("released", async || {
        w.get(Kind::ServerBinding, &name).await.is_some_and(|b| b.metadata.deletion_timestamp.is_some())
    })
    .await;
    w.hand_back(&name).await;
    w.until("given again", async || {
        w.get(Kind::ServerBinding, &name).await.is_some_and(|b| b.metadata.uid != freed.metadata.uid)
    })
    .await;
    w.end().await;
}

/// `clusterctl move`: paused, deleted at the source without finalizers, made again elsewhere without status and
/// with other uids. Nothing is released, and the moved machine keeps its Server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c21_c22_a_move_releases_nothing() {
    let mut w = World::new(1).await;
    w.control().await;
    w.cluster().await;
    w.machine("m", any()).await;
    w.cluster_is_provisioned().await;
    w.until("claimed", async || !w.metal("m").await.unwrap().spec.provider_id.is_empty()).await;
    w.phase(&uuid(0), Phase::Running).await;
    w.until("provisioned", async || w.metal("m").await.unwrap().status.ready).await;
    let before = w.bindings().await.pop().unwrap();
    assert!(w.metal("m").await.unwrap().metadata.annotations.contains_key(BLOCK_MOVE), "a move waits");

    w.change(Kind::Cluster, "c", |o| o.spec["paused"] = true.into()).await;
    w.until("at rest", async || !w.metal("m").await.unwrap().metadata.annotations.contains_key(BLOCK_MOVE)).await;
    let resting = w.bindings().await.pop().unwrap();
    assert!(resting.metadata.annotations.contains_key(marks::PAUSED), "nothing is done to its Server either");

    // The mover's three writes at the source.
    let moved = w.get(Kind::MetalMachine, "m").await.unwrap();
    let owner = w.get(Kind::Machine, "m").await.unwrap();
    w.change(Kind::MetalMachine, "m", |o| {
        o.metadata.annotations = [(DELETE_FOR_MOVE.to_owned(), String::new())].into();
    })
    .await;
    w.delete(Kind::MetalMachine, "m").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    w.change(Kind::MetalMachine, "m", |o| o.metadata.finalizers.clear()).await;
    w.until("gone", async || w.metal("m").await.is_none()).await;
    w.delete(Kind::Machine, "m").await;
    let left = w.bindings().await.pop().unwrap();
    assert_eq!((&left.metadata.uid, left.metadata.deletion_timestamp.as_deref()), (&before.metadata.uid, None));

    // The target: the same objects, new uids, no status; then unpaused.
    let clean = |mut o: Object| {
        let meta = &mut o.metadata;
        (meta.uid, meta.resource_version, meta.creation_timestamp) = Default::default();
        meta.finalizers.clear();
        o
    };
    w.objects.create(clean(owner)).await.unwrap();
    w.objects.create(clean(moved)).await.unwrap();
    w.change(Kind::Cluster, "c", |o| o.spec["paused"] = false.into()).await;
    w.until("adopted and at work again", async || {
        let uid = w.metal("m").await.unwrap().metadata.uid;
        let b = w.bindings().await.pop().unwrap();
        b.spec.metal_machine_ref.uid == uid && !b.metadata.annotations.contains_key(marks::PAUSED)
    })
    .await;
    w.until("ready", async || w.metal("m").await.unwrap().status.ready).await;
    let after = w.bindings().await.pop().unwrap();
    assert_eq!((after.metadata.uid, after.metadata.deletion_timestamp), (before.metadata.uid, None));
    w.end().await;
}

/// Stopped after every single write, at each of them in turn, another process ends it the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_dies_anywhere_leaves_one_server_for_one_machine() {
    for wait_ms in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        let mut w = World::new(3).await;
        w.cluster().await;
        w.machine("m", any()).await;
        let status = json!({"initialization": {"infrastructureProvisioned": true}});
        w.change(Kind::Cluster, "c", |o| o.status = status.clone()).await;
        w.control().await;
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        // Not asked: dropped where it stands.
        for task in w.running.drain(..) {
            task.abort();
            let _ = task.await;
        }
        w.control().await;
        // What died between its steps is swept after a while; the claim's own age is not waited for here.
        w.until("claimed", async || {
            for n in 0..3 {
                let server = w.get(Kind::Server, &uuid(n)).await.unwrap();
                let bound = w.get(Kind::ServerBinding, &uuid(n)).await.is_some();
                if server.metadata.annotations.contains_key(marks::CLAIMED_BY) && !bound {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    w.change(Kind::Server, &uuid(n), |o| _ = o.metadata.annotations.remove(marks::CLAIMED_BY)).await;
                }
            }
            !w.metal("m").await.unwrap().spec.provider_id.is_empty()
        })
        .await;
        let bindings = w.bindings().await;
        let own = format!("sidero://{}", bindings[0].metadata.name);
        assert_eq!((bindings.len(), w.metal("m").await.unwrap().spec.provider_id), (1, own), "after {wait_ms} ms");
        w.end().await;
    }
}

/// A wish for a power cycle is one wish, however often it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c39_a_remediation_asks_once_for_each_try_and_tells_the_owner_in_the_end() {
    let mut w = World::new(1).await;
    w.change(Kind::Server, &uuid(0), |o| o.spec["bmc"] = json!({"endpoint": "192.0.2.1"})).await;
    w.control().await;
    w.cluster().await;
    w.machine("m", any()).await;
    w.cluster_is_provisioned().await;
    w.until("claimed", async || !w.metal("m").await.unwrap().spec.provider_id.is_empty()).await;
    w.phase(&uuid(0), Phase::Running).await;
    w.change(Kind::Machine, "m", |o| o.status = json!({"phase": "Running", "nodeRef": {"name": "n"}})).await;

    let labels = json!({"labels": {"cluster.x-k8s.io/cluster-name": "c"}});
    let spec = json!({"retryLimit": 1, "timeoutSeconds": 1});
    let made = w.objects.create(object(Kind::MetalRemediation, "m", labels, spec)).await.unwrap();
    w.until("asked for", async || {
        let server = w.get(Kind::Server, &uuid(0)).await.unwrap();
        server.metadata.annotations.get(marks::POWER_CYCLE) == Some(&format!("{}/1", made.metadata.uid))
    })
    .await;
    w.until("given up", async || w.get(Kind::MetalRemediation, "m").await.unwrap().status["phase"] == "Failed").await;
    w.until("the owner knows", async || {
        let status = w.get(Kind::Machine, "m").await.unwrap().status;
        let told = status["conditions"].as_array().is_some_and(|c| c[0]["type"] == "OwnerRemediated");
        told && status["phase"] == "Running" && status["nodeRef"]["name"] == "n"
    })
    .await;
    w.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c33_a_template_tells_the_least_of_its_class() {
    let mut w = World::new(3).await;
    let hardware =
        |threads: u32, memory: &str| json!({"compute": {"totalThreadCount": threads}, "memory": {"totalSize": memory}});
    w.change(Kind::Server, &uuid(0), |o| o.spec["hardware"] = hardware(64, "256 GB")).await;
    w.change(Kind::Server, &uuid(1), |o| o.spec["hardware"] = hardware(32, "512 GB")).await;
    let labels = json!({"labels": {"kubernetes.io/arch": "amd64"}});
    let spec = json!({"template": {"spec": any()}});
    w.objects.create(object(Kind::MetalMachineTemplate, "t", labels, spec)).await.unwrap();
    w.control().await;
    let says = |cpu: &'static str, memory: u64| {
        let w = &w;
        async move || {
            let status = w.get(Kind::MetalMachineTemplate, "t").await.unwrap().status;
            status["capacity"]["cpu"] == cpu
                && status["capacity"]["memory"].as_str() == Some(memory.to_string().as_str())
        }
    };
    w.until("the least of each", says("32", 256 << 30)).await;
    let status = w.get(Kind::MetalMachineTemplate, "t").await.unwrap().status;
    assert_eq!(status["nodeInfo"], json!({"architecture": "amd64", "operatingSystem": "linux"}));
    // A machine that is not ours says nothing of what one would get; the class tells of the change.
    w.change(Kind::Server, &uuid(1), |o| o.spec["accepted"] = false.into()).await;
    w.until("without the one that was taken out", says("64", 256 << 30)).await;
    w.end().await;
}

#[test]
fn c34_c35_what_is_out_of_scope_is_left_alone() {
    let meta = |namespace: &str, filter: Option<&str>| Meta {
        namespace: namespace.to_owned(),
        labels: filter.map(|f| (WATCH_FILTER.to_owned(), f.to_owned())).into_iter().collect(),
        ..Meta::default()
    };
    let all = Scope::default();
    assert!(all.has(&meta("a", None)) && all.has(&meta("b", Some("x"))));
    let one = Scope { namespace: Some("a".into()), watch_filter: Some("x".into()) };
    assert!(one.has(&meta("a", Some("x"))));
    for other in [meta("b", Some("x")), meta("a", None), meta("a", Some("y"))] {
        assert!(!one.has(&other), "{other:?}");
    }
}
