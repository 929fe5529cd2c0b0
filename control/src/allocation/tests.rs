//! The claim on the embedded store: alone, in a crowd, and dying at every write.

use super::follow::Claims;
use super::*;
use crate::leader::Leading;
use crate::limits;
use crate::objects::embedded::Embedded;
use crate::objects::{Error, Listed, Preconditions, Revision};
use crate::resource::{
    Environment, EnvironmentSpec, Kind, Meta, Object, Phase, Qualifiers, Server, ServerBinding, ServerClass,
    ServerClassSpec, ServerSpec, ServerStatus, Typed, marks,
};
use crate::store::Store;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const CONFIG: &str = "version: v1alpha1\nmachine:\n  type: worker\n";

fn uuid(n: u32) -> String {
    format!("6f0c4e2a-0b1d-4c5e-8f90-{n:012x}")
}

async fn objects() -> Embedded {
    Embedded::open(Arc::new(Store::in_memory().unwrap())).await.unwrap()
}

async fn put_server(objects: &impl Objects, n: u32, change: impl Fn(&mut Server)) {
    let mut server = Server {
        metadata: Meta { name: uuid(n), ..Meta::default() },
        spec: ServerSpec { accepted: true, ..ServerSpec::default() },
        status: ServerStatus { phase: Some(Phase::Available), is_clean: true, ..ServerStatus::default() },
    };
    change(&mut server);
    let made = objects.create(server.to_object()).await.unwrap();
    objects.replace_status(Object { status: server.to_object().status, ..made }).await.unwrap();
}

async fn put_class(objects: &impl Objects, name: &str, spec: ServerClassSpec) {
    let metadata = Meta { name: name.into(), ..Meta::default() };
    objects.create(ServerClass { metadata, spec, status: Default::default() }.to_object()).await.unwrap();
}

/// An allocation with its index up to date and kept so.
async fn running<O: Objects>(objects: O) -> (Arc<Allocation<O>>, CancellationToken) {
    let allocation = Allocation::new(objects);
    allocation.ensure_any().await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(follow(allocation.clone(), Leading::always(), stop.clone()));
    (allocation, stop)
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < end, "never came true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ask(name: &str) -> Ask {
    Ask { name: name.into(), from: From::Class(ANY.into()), config: Some(CONFIG.into()), environment: None }
}

async fn bindings(objects: &impl Objects) -> Vec<ServerBinding> {
    let listed = objects.list(Kind::ServerBinding).await.unwrap().objects;
    listed.iter().map(|o| ServerBinding::from_object(o).unwrap()).collect()
}

#[tokio::test]
async fn an_allocation_is_a_binding_with_its_configuration_and_asked_again_the_same() {
    let objects = objects().await;
    put_server(&objects, 1, |_| ()).await;
    let (allocation, _stop) = running(objects.clone()).await;
    until(async || allocation.index().free(ANY, 0, 9).len() == 1).await;

    let first = allocation.allocate(ask("web-1")).await.unwrap();
    assert_eq!(first, Allocated { name: "web-1".into(), server: uuid(1), already: false, warnings: vec![] });
    let again = allocation.allocate(ask("web-1")).await.unwrap();
    assert_eq!(again, Allocated { already: true, ..first });
    let binding = bindings(&objects).await.pop().unwrap();
    assert_eq!(binding.metadata.finalizers, [marks::RELEASE_FINALIZER]);
    assert_eq!((binding.spec.hostname.as_str(), binding.metadata.name), ("web-1", uuid(1)));
    let secret = objects.get(Kind::Secret, marks::NAMESPACE, "web-1-config").await.unwrap();
    assert!(secret.data.get(marks::CONFIG_KEY).is_some());
    let server = objects.get(Kind::Server, "", &uuid(1)).await.unwrap();
    assert!(!server.metadata.annotations.contains_key(marks::CLAIMED_BY), "the claim has ended");
    until(async || {
        let class = objects.get(Kind::ServerClass, "", ANY).await.unwrap();
        ServerClass::from_object(&class).unwrap().status.servers_in_use == [uuid(1)]
    })
    .await;

    let other = Ask { from: From::Server(uuid(2)), ..ask("web-1") };
    assert!(allocation.allocate(other).await.unwrap_err().to_string().contains("web-1 has machine"));
    let none = allocation.allocate(ask("web-2")).await.unwrap_err().to_string();
    assert!(none.contains("1 in use"), "{none}");
}

#[tokio::test]
async fn what_cannot_be_allocated_says_why_and_changes_nothing() {
    let objects = objects().await;
    put_server(&objects, 1, |s| s.spec.cordoned = true).await;
    put_server(&objects, 2, |s| s.status.phase = Some(Phase::Wiping)).await;
    put_server(&objects, 3, |_| ()).await;
    let patch = "op: add\npath: /machine/nothing/there\nvalue: 1";
    let patch: crate::resource::ConfigPatch = serde_saphyr::from_str(patch).unwrap();
    put_class(&objects, "broken", ServerClassSpec { config_patches: vec![patch], ..Default::default() }).await;
    let big = Qualifiers { requirements: vec!["memory >= 1Ti".into()], ..Qualifiers::default() };
    put_class(&objects, "big", ServerClassSpec { qualifiers: big, ..Default::default() }).await;
    let (allocation, _stop) = running(objects.clone()).await;
    until(async || allocation.index().free(ANY, 0, 9).len() == 1).await;
    until(async || allocation.index().knows("broken") && allocation.index().knows("big")).await;
    let before = objects.list(Kind::Server).await.unwrap().objects;

    let from = |name: &str, from: From| Ask { from, ..ask(name) };
    for (ask, words) in [
        (from("a", From::Server(uuid(1))), "cordoned"),
        (from("a", From::Server(uuid(2))), "not clean"),
        (from("a", From::Server(uuid(9))), "no Server"),
        (from("a", From::Class("nope".into())), "no ServerClass nope"),
        (from("a", From::Class("big".into())), "no machine matches it"),
        (from("a", From::Class("broken".into())), "config patch 1 of the class"),
        (from("Web_1", From::Class(ANY.into())), "lower-case"),
        (Ask { environment: Some("talos".into()), ..ask("a") }, "no Environment talos"),
        (Ask { config: Some("x".repeat(crate::machineconfig::MAX_BYTES + 1)), ..ask("a") }, "larger than"),
    ] {
        let what = format!("{:?} {:?}", ask.name, ask.from);
        let why = allocation.allocate(ask).await.unwrap_err().to_string();
        assert!(why.contains(words), "{what}: {why}");
    }
    assert!(bindings(&objects).await.is_empty());
    assert!(objects.list(Kind::Secret).await.unwrap().objects.is_empty());
    assert_eq!(objects.list(Kind::Server).await.unwrap().objects, before);
    let environment = Environment {
        metadata: Meta { name: "talos".into(), ..Meta::default() },
        spec: EnvironmentSpec::default(),
        status: Default::default(),
    };
    objects.create(environment.to_object()).await.unwrap();
    allocation.allocate(Ask { environment: Some("talos".into()), ..ask("a") }).await.unwrap();
}

#[tokio::test]
async fn a_crowd_gets_each_machine_once() {
    let objects = objects().await;
    for n in 1..=10 {
        put_server(&objects, n, |_| ()).await;
    }
    // Two processes, each with an index of its own.
    let (one, _stop) = running(objects.clone()).await;
    let (two, _stop) = running(objects.clone()).await;
    until(async || one.index().free(ANY, 0, 99).len() == 10 && two.index().free(ANY, 0, 99).len() == 10).await;
    let crowd = (0..50).map(|n| {
        let allocation = if n % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { allocation.allocate(ask(&format!("m{n}"))).await })
    });
    let mut got = Vec::new();
    let mut none = 0;
    for asked in crowd.collect::<Vec<_>>() {
        match asked.await.unwrap() {
            Ok(allocated) => got.push(allocated.server),
            Err(Refused::NoneFree { .. }) => none += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!((got.len(), none), (10, 40));
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 10);
    assert_eq!(bindings(&objects).await.len(), 10);
    let claimed = |o: &Object| o.metadata.annotations.contains_key(marks::CLAIMED_BY);
    assert!(!objects.list(Kind::Server).await.unwrap().objects.iter().any(claimed), "no claim is left");
}

#[tokio::test]
async fn a_change_of_one_of_many_servers_is_compared_with_the_classes_once_and_writes_only_what_changes() {
    const SERVERS: u32 = 300;
    const CLASSES: u64 = 10;
    let objects = objects().await;
    for n in 1..=SERVERS {
        put_server(&objects, n, |s| drop(s.metadata.labels.insert("rack".into(), (n % 9).to_string()))).await;
    }
    // Nine classes of a rack each, by label expression, beside the one of all.
    for rack in 0..9 {
        let expression = serde_json::json!({"key": "rack", "operator": "In", "values": [rack.to_string()]});
        let spec = serde_json::json!({"selector": {"matchExpressions": [expression]}});
        put_class(&objects, &format!("rack{rack}"), serde_json::from_value(spec).unwrap()).await;
    }
    let (allocation, _stop) = running(objects.clone()).await;
    let class = async |name: &str| {
        let object = objects.get(Kind::ServerClass, "", name).await.unwrap();
        ServerClass::from_object(&object).unwrap()
    };
    until(async || class(ANY).await.status.servers_available.len() == SERVERS as usize).await;
    until(async || {
        let mut all = 0;
        for rack in 0..9 {
            all += class(&format!("rack{rack}")).await.status.servers_available.len();
        }
        all == SERVERS as usize
    })
    .await;
    let quiet = objects.list(Kind::Server).await.unwrap().revision;
    let before = allocation.compared();

    // A change that moves it out of what is free: its two classes are written, no other.
    let mut server = objects.get(Kind::Server, "", &uuid(4)).await.unwrap();
    server.spec["cordoned"] = true.into();
    objects.replace(server).await.unwrap();
    until(async || class("rack4").await.status.servers_available.len() == 32).await;
    until(async || class(ANY).await.status.servers_available.len() == SERVERS as usize - 1).await;
    assert_eq!(allocation.compared() - before, CLASSES, "one Server with each class");
    assert_eq!(objects.list(Kind::Server).await.unwrap().revision - quiet, 3, "the Server and two statuses");

    // A change that moves nothing writes nothing.
    let mut server = objects.get(Kind::Server, "", &uuid(5)).await.unwrap();
    server.metadata.labels.insert("owner".into(), "me".into());
    objects.replace(server).await.unwrap();
    until(async || allocation.compared() - before == 2 * CLASSES).await;
    tokio::time::sleep(2 * limits::CLASS_STATUS_PAUSE).await;
    assert_eq!(objects.list(Kind::Server).await.unwrap().revision - quiet, 4);
}

#[tokio::test]
async fn a_release_marks_the_binding_and_leaves_the_wipe_to_the_reconciler() {
    let objects = objects().await;
    put_server(&objects, 1, |_| ()).await;
    let (allocation, _stop) = running(objects.clone()).await;
    until(async || allocation.index().free(ANY, 0, 9).len() == 1).await;
    allocation.allocate(ask("web-1")).await.unwrap();
    for (which, already) in [("web-1", false), (uuid(1).as_str(), true)] {
        let released = allocation.release(which).await.unwrap();
        assert_eq!(released, Released { name: "web-1".into(), server: uuid(1), already });
    }
    assert!(bindings(&objects).await[0].metadata.deletion_timestamp.is_some(), "its finalizer holds it");
    assert!(matches!(allocation.allocate(ask("web-1")).await, Err(Refused::Taken { .. })), "until it is gone");
    allocation.sweep(&[]).await;
    assert_eq!(objects.list(Kind::Secret).await.unwrap().objects.len(), 1, "its configuration is still held");

    let mut binding = objects.get(Kind::ServerBinding, "", &uuid(1)).await.unwrap();
    binding.metadata.finalizers.clear();
    objects.replace(binding).await.unwrap();
    allocation.sweep(&[]).await;
    assert!(objects.list(Kind::Secret).await.unwrap().objects.is_empty(), "and goes with the binding");
    assert!(matches!(allocation.release("web-1").await, Err(Refused::NotAllocated(_))));
}

#[tokio::test]
async fn a_machine_of_a_cluster_is_not_released_behind_its_back() {
    let objects = objects().await;
    let mut binding = ServerBinding {
        metadata: Meta { name: uuid(1), ..Meta::default() },
        spec: Default::default(),
        status: Default::default(),
    };
    binding.spec.metal_machine_ref.kind = "MetalMachine".into();
    binding.spec.metal_machine_ref.name = "worker-0".into();
    objects.create(binding.to_object()).await.unwrap();
    let why = Allocation::new(objects.clone()).release(&uuid(1)).await.unwrap_err().to_string();
    assert!(why.contains("MetalMachine worker-0"), "{why}");
    assert_eq!(bindings(&objects).await.len(), 1);
}

/// A store whose process dies at the nth write: that one and all later ones fail.
#[derive(Clone)]
struct Dying {
    store: Embedded,
    left: Arc<AtomicUsize>,
}

impl Dying {
    fn write(&self) -> Result<(), Error> {
        let spent = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.map(|_| ()).map_err(|_| Error::Store("dead".into()))
    }
}

impl Objects for Dying {
    type Watch = <Embedded as Objects>::Watch;

    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Object, Error> {
        self.store.get(kind, namespace, name).await
    }
    async fn list(&self, kind: Kind) -> Result<Listed, Error> {
        self.store.list(kind).await
    }
    async fn watch(&self, kind: Kind, from: Revision) -> Result<Self::Watch, Error> {
        self.store.watch(kind, from).await
    }
    async fn create(&self, object: Object) -> Result<Object, Error> {
        self.write()?;
        self.store.create(object).await
    }
    async fn replace(&self, object: Object) -> Result<Object, Error> {
        self.write()?;
        self.store.replace(object).await
    }
    async fn replace_status(&self, object: Object) -> Result<Object, Error> {
        self.write()?;
        self.store.replace_status(object).await
    }
    async fn delete(&self, kind: Kind, namespace: &str, name: &str, only: Preconditions) -> Result<(), Error> {
        self.write()?;
        self.store.delete(kind, namespace, name, only).await
    }
}

#[tokio::test]
async fn a_death_at_any_write_leaves_one_machine_for_one_name() {
    let mut deaths = 0;
    for writes in 0.. {
        assert!(writes < 20, "an allocation has an end");
        let objects = objects().await;
        put_server(&objects, 1, |_| ()).await;
        put_server(&objects, 2, |_| ()).await;
        let dying = Dying { store: objects.clone(), left: Arc::new(AtomicUsize::new(writes)) };
        let died = Allocation::new(dying.clone()).allocate(Ask { from: From::Server(uuid(1)), ..ask("web-1") }).await;
        deaths += usize::from(died.is_err());
        let clean = died.is_ok() && dying.left.load(Ordering::SeqCst) > 0;

        // The next process: ends the claim by its age, then is asked again.
        let next = Allocation::new(objects.clone());
        let old: Vec<_> = {
            let object = objects.get(Kind::Server, "", &uuid(1)).await.unwrap();
            let claim = object.metadata.annotations.get(marks::CLAIMED_BY).cloned();
            claim.map(|c| (uuid(1), c)).into_iter().collect()
        };
        next.sweep(&old).await;
        let got = next.allocate(Ask { from: From::Server(uuid(1)), ..ask("web-1") }).await.unwrap();
        assert_eq!(got.server, uuid(1), "after {writes} writes");
        assert_eq!(bindings(&objects).await.len(), 1);
        let object = objects.get(Kind::Server, "", &uuid(1)).await.unwrap();
        assert!(!object.metadata.annotations.contains_key(marks::CLAIMED_BY), "after {writes} writes");
        assert_eq!(objects.list(Kind::Secret).await.unwrap().objects.len(), 1);
        if clean {
            break;
        }
    }
    assert!(deaths >= 3, "claim, Secret and binding are three writes, {deaths} deaths were seen");
}

#[test]
fn a_claim_is_old_when_it_has_been_seen_for_its_age() {
    let mut claims = Claims::default();
    let now = Instant::now();
    let claim = |c: &str| vec![(uuid(1), c.to_owned())];
    assert!(claims.old(claim("a/1"), now).is_empty());
    let later = now + limits::CLAIM_AGE;
    assert!(claims.old(claim("b/1"), later).is_empty(), "another claim begins anew");
    assert_eq!(claims.old(claim("b/1"), later + limits::CLAIM_AGE), claim("b/1"));
    assert!(claims.old(vec![], later).is_empty());
}
