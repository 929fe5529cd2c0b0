//! The contract's rules, one table or case each; the numbers are those of docs/conformance/cluster-api.md.

use super::*;
use crate::allocation::From;
use crate::resource::capi::{BLOCK_MOVE, MANAGED_BY};
use crate::resource::{
    Bmc, Endpoint, FailureDomain, Machine, MetalCluster, MetalMachine, MetalRemediation, Object, ObjectReference,
    OwnerReference, Phase, RemediationPhase, Server, ServerBinding, Typed,
};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000_000;
const UUID: &str = "4c4c4544-0039-3010-804a-b4c04f4e3132";

fn read<T: Typed>(metadata: Value, spec: Value, status: Value) -> T {
    let document = json!({"apiVersion": T::KIND.api_version(), "kind": T::KIND.name(), "metadata": metadata,
        "spec": spec, "status": status});
    T::from_object(&serde_json::from_value::<Object>(document).unwrap()).unwrap()
}

fn cluster_of_capi(provisioned: bool) -> Cluster {
    let endpoint = json!({"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}});
    let status = json!({"initialization": {"infrastructureProvisioned": provisioned}});
    read(json!({"name": "c", "namespace": "ns", "uid": "cu"}), endpoint, status)
}

fn capi_machine(secret: &str, zone: &str) -> Machine {
    let spec = json!({"clusterName": "c", "bootstrap": {"dataSecretName": secret}, "failureDomain": zone});
    read(json!({"name": "m", "namespace": "ns", "uid": "mu"}), spec, json!({}))
}

fn metal(spec: Value) -> MetalMachine {
    let metadata = json!({
        "name": "m", "namespace": "ns", "uid": "u1", "generation": 3, "finalizers": [MACHINE_FINALIZER],
        "annotations": {BLOCK_MOVE: ""}, "labels": {"cluster.x-k8s.io/cluster-name": "c"},
        "ownerReferences": [{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "name": "m", "uid": "mu"}],
    });
    read(metadata, spec, json!({}))
}

fn recorded() -> MetalMachine {
    metal(
        json!({"serverClassRef": {"name": "any"}, "serverRef": {"name": UUID}, "providerID": format!("sidero://{UUID}")}),
    )
}

fn binding(uid: &str) -> ServerBinding {
    let of = json!({"metalMachineRef": {"kind": "MetalMachine", "name": "m", "namespace": "ns", "uid": uid},
        "hostname": "m"});
    read(json!({"name": UUID, "uid": "b1", "finalizers": ["stoker.dev/release"]}), of, json!({}))
}

fn server(phase: Option<Phase>) -> Server {
    let mut server: Server = read(json!({"name": UUID, "uid": "s1"}), json!({"accepted": true}), json!({}));
    server.status.phase = phase;
    server
}

fn deleted(meta: &mut Meta) {
    meta.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
}

/// A view with everything there.
struct World {
    metal: MetalMachine,
    machine: Option<Machine>,
    cluster: Option<Cluster>,
    binding: Option<ServerBinding>,
    surplus: Option<ServerBinding>,
    server: Option<Server>,
    refused: Option<&'static str>,
}

impl World {
    fn new(metal: MetalMachine) -> Self {
        let (machine, cluster) = (Some(capi_machine("data", "")), Some(cluster_of_capi(true)));
        Self { metal, machine, cluster, binding: None, surplus: None, server: None, refused: None }
    }

    fn bound(phase: Option<Phase>) -> Self {
        Self { binding: Some(binding("u1")), server: Some(server(phase)), ..Self::new(recorded()) }
    }

    fn decide(&self) -> MachineDecision {
        let view = MachineView {
            metal: &self.metal,
            machine: self.machine.as_ref(),
            cluster: self.cluster.as_ref(),
            binding: self.binding.as_ref(),
            surplus: self.surplus.as_ref(),
            server: self.server.as_ref(),
            refused: self.refused,
        };
        machine(view, NOW)
    }
}

fn ready(conditions: &[Condition]) -> (String, String) {
    let ready = conditions.iter().find(|c| c.r#type == kinds::READY);
    ready.map(|c| (c.status.clone(), c.reason.clone())).unwrap_or_default()
}

// --- MetalCluster -------------------------------------------------------------

fn metal_cluster(spec: Value) -> MetalCluster {
    let owner = json!([{"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster", "name": "c", "uid": "cu"}]);
    let metadata = json!({"name": "mc", "namespace": "ns", "generation": 2, "ownerReferences": owner,
        "finalizers": [CLUSTER_FINALIZER]});
    read(metadata, spec, json!({}))
}

#[test]
fn c04_c05_c06_c07_the_endpoint_is_passed_on_or_waited_for() {
    let whole = json!({"controlPlaneEndpoint": {"host": "a", "port": 1}, "failureDomains": [{"name": "r1", "controlPlane": true}]});
    let none = || Cluster { spec: Default::default(), ..cluster_of_capi(false) };
    for (spec, cluster_has_one, there) in
        [(whole.clone(), false, true), (json!({}), true, true), (json!({}), false, false)]
    {
        let of = if cluster_has_one { cluster_of_capi(false) } else { none() };
        let metal = metal_cluster(spec);
        let done = cluster(ClusterView { metal: &metal, cluster: Some(&of) }, NOW);
        assert_eq!((done.status.ready, done.status.initialization.provisioned.is_some()), (there, there));
        let expected = if there { ("True", reasons::PROVISIONED) } else { ("False", reasons::WAITING_FOR_ENDPOINT) };
        assert_eq!(ready(&done.status.conditions), (expected.0.to_owned(), expected.1.to_owned()));
    }
    let metal = metal_cluster(whole);
    let done = cluster(ClusterView { metal: &metal, cluster: Some(&none()) }, NOW);
    let domain = FailureDomain { name: "r1".into(), control_plane: true, ..FailureDomain::default() };
    assert_eq!(done.status.failure_domains, [domain]);
    assert!(
        !Endpoint { host: "a".into(), port: 0 }.is_whole() && !Endpoint { host: String::new(), port: 1 }.is_whole()
    );
}

#[test]
fn c08_what_somebody_else_manages_is_not_touched() {
    let mut metal = metal_cluster(json!({"controlPlaneEndpoint": {"host": "a", "port": 1}}));
    metal.metadata.finalizers.clear();
    metal.metadata.annotations.insert(MANAGED_BY.into(), "other".into());
    let done = cluster(ClusterView { metal: &metal, cluster: Some(&cluster_of_capi(false)) }, NOW);
    assert_eq!(done, ClusterDecision { status: metal.status.clone(), act: ClusterAct::None });
}

#[test]
fn c09_c10_c11_owners_are_found_by_kind_and_group() {
    let mut metal = metal_cluster(json!({"controlPlaneEndpoint": {"host": "a", "port": 1}}));
    let decide = |metal: &MetalCluster| cluster(ClusterView { metal, cluster: Some(&cluster_of_capi(false)) }, NOW);
    assert!(decide(&metal).status.ready, "controller is not set, and the version is another");
    for (version, kind) in [("example.com/v1", "Cluster"), ("cluster.x-k8s.io/v1beta2", "Other"), ("v1", "Cluster")] {
        let owner = OwnerReference { api_version: version.into(), kind: kind.into(), ..OwnerReference::default() };
        metal.metadata.owner_references = vec![owner];
        assert_eq!(decide(&metal).status, metal.status, "{version} {kind}: nothing is written");
    }
    metal.metadata.owner_references.clear();
    metal.metadata.finalizers.clear();
    assert_eq!(decide(&metal).act, ClusterAct::None);
}

#[test]
fn c12_c13_c16_c20_finalizers_of_clusters() {
    let mut metal = metal_cluster(json!({}));
    metal.metadata.finalizers.clear();
    let of = cluster_of_capi(false);
    assert_eq!(cluster(ClusterView { metal: &metal, cluster: Some(&of) }, NOW).act, ClusterAct::AddFinalizer);
    deleted(&mut metal.metadata);
    assert_eq!(cluster(ClusterView { metal: &metal, cluster: Some(&of) }, NOW).act, ClusterAct::None);
    metal.metadata.finalizers.push(CLUSTER_FINALIZER.into());
    assert_eq!(cluster(ClusterView { metal: &metal, cluster: None }, NOW).act, ClusterAct::RemoveFinalizer);
    let mut resting = of.clone();
    resting.spec.paused = true;
    assert_eq!(cluster(ClusterView { metal: &metal, cluster: Some(&resting) }, NOW).act, ClusterAct::None);
}

// --- MetalMachine: to a machine -------------------------------------------------

#[test]
fn c11_c12_c14_c15_c24_each_wait_says_for_what() {
    let class = || metal(json!({"serverClassRef": {"name": "any"}}));
    let mut w = World::new(class());
    w.metal.metadata.finalizers.clear();
    w.machine = None;
    assert_eq!(
        w.decide(),
        MachineDecision { status: w.metal.status.clone(), act: MachineAct::None },
        "no owner, no write"
    );
    w.machine = Some(capi_machine("data", ""));
    assert_eq!(w.decide().act, MachineAct::AddFinalizer, "before anything else");

    let mut w = World::new(class());
    w.cluster = Some(cluster_of_capi(false));
    assert_eq!(
        (ready(&w.decide().status.conditions).1.as_str(), w.decide().act),
        (reasons::WAITING_FOR_CLUSTER, MachineAct::None)
    );
    let mut w = World::new(class());
    w.machine = Some(capi_machine("", ""));
    assert_eq!(
        (ready(&w.decide().status.conditions).1.as_str(), w.decide().act),
        (reasons::WAITING_FOR_BOOTSTRAP, MachineAct::None)
    );
    assert!(!w.decide().status.ready && w.decide().status.initialization.provisioned.is_none());
}

#[test]
fn c29_the_claim_names_class_zone_and_secret() {
    let mut w = World::new(metal(json!({"serverClassRef": {"name": "any"}})));
    w.machine = Some(capi_machine("data", "rack-7"));
    w.refused = Some("no machine of class any is free: 3 in use");
    let done = w.decide();
    let zone = Some("rack-7".to_owned());
    assert_eq!(done.act, MachineAct::Claim { from: From::Class("any".into()), zone, secret: "data".into() });
    let said = done.status.conditions.iter().find(|c| c.r#type == kinds::READY).unwrap();
    assert!(said.message.contains("3 in use") && said.observed_generation == 3);
    let w = World::new(metal(json!({"serverRef": {"name": UUID}})));
    assert!(matches!(w.decide().act, MachineAct::Claim { from: From::Server(s), .. } if s == UUID));
    assert_eq!(ready(&w.decide().status.conditions).1, reasons::SERVER_UNAVAILABLE);
}

#[test]
fn a_server_that_is_somebody_elses_is_not_ours() {
    let mut w = World::new(metal(json!({"serverRef": {"name": UUID}})));
    w.binding = Some(binding("u1"));
    w.binding.as_mut().unwrap().spec.metal_machine_ref.name = "other".into();
    w.server = Some(server(Some(Phase::Running)));
    let done = w.decide();
    assert!(!done.status.ready && matches!(done.act, MachineAct::Claim { .. }), "the claim itself is refused");
    // A new MetalMachine of the same name does not inherit.
    w.binding = Some(binding("old-uid"));
    assert_eq!(ours(&w.metal, w.binding.as_ref()), Held::Theirs);
    // Unless its spec records that it had this Server: it was moved.
    assert_eq!(ours(&recorded(), w.binding.as_ref()), Held::Moved);
    w.metal = recorded();
    assert_eq!(w.decide().act, MachineAct::Adopt);
}

#[test]
fn c23_c25_c26_c27_the_provider_id_stands_before_provisioned_and_stays() {
    let mut w = World::bound(Some(Phase::Allocated));
    w.metal = metal(json!({"serverClassRef": {"name": "any"}}));
    let done = w.decide();
    assert!(!done.status.ready);
    let MachineAct::Record(spec) = done.act else { panic!("{done:?}") };
    assert_eq!(spec.provider_id, format!("sidero://{UUID}"));
    assert_eq!(spec.server_class_ref.as_ref().unwrap().name, "any", "what the user wrote stays");

    for phase in Phase::ALL {
        let w = World::bound(Some(phase));
        let done = w.decide();
        let running = phase == Phase::Running;
        assert_eq!((done.status.ready, done.status.initialization.provisioned), (running, running.then_some(true)));
        assert_eq!(done.act, MachineAct::None, "{phase}");
        assert_eq!(ready(&done.status.conditions).0, if running { "True" } else { "False" });
    }
    let mut w = World::bound(Some(Phase::Quarantined));
    w.metal.status.ready = true;
    w.metal.status.initialization.provisioned = Some(true);
    let done = w.decide();
    assert!(done.status.ready && done.status.initialization.provisioned == Some(true), "never taken back");
    assert_eq!(ready(&done.status.conditions), ("False".into(), reasons::QUARANTINED.into()));

    let mut w = World::bound(Some(Phase::Running));
    let own = |t: &str, a: &str| crate::resource::NodeAddress { r#type: t.into(), address: a.into() };
    let server = w.server.as_mut().unwrap();
    server.status.addresses = vec![own("InternalIP", "10.0.0.7"), own("Serial", "x")];
    server.metadata.labels.insert(marks::ZONE.into(), "rack-7".into());
    let done = w.decide();
    assert_eq!(done.status.addresses, [own("InternalIP", "10.0.0.7"), own("Hostname", "m")]);
    assert_eq!(done.status.failure_domain, "rack-7");
}

#[test]
fn a_machine_that_has_lost_its_server_gets_no_other_one() {
    let w = World::new(recorded());
    let done = w.decide();
    assert_eq!((done.act, ready(&done.status.conditions).1.as_str()), (MachineAct::None, reasons::SERVER_GONE));
    let mut w = World::bound(Some(Phase::Running));
    w.server = None;
    assert_eq!(ready(&w.decide().status.conditions).1, reasons::SERVER_GONE);
}

#[test]
fn f30_of_two_claims_the_one_that_is_not_recorded_is_given_back() {
    let mut w = World::bound(Some(Phase::Installing));
    let mut other = binding("u1");
    other.metadata.name = "4c4c4544-0039-3010-804a-b4c04f4e3199".into();
    w.surplus = Some(other);
    assert_eq!(w.decide().act, MachineAct::ReleaseSurplus);
    deleted(&mut w.surplus.as_mut().unwrap().metadata);
    assert_eq!(w.decide().act, MachineAct::None);
}

// --- and back -------------------------------------------------------------------

#[test]
fn c16_c21_deletion_waits_for_the_machine_and_for_nothing_else() {
    let mut w = World::bound(Some(Phase::Running));
    deleted(&mut w.metal.metadata);
    (w.machine, w.cluster) = (None, None);
    let done = w.decide();
    assert_eq!((done.act, ready(&done.status.conditions).1.as_str()), (MachineAct::Release, reasons::DELETING));
    deleted(&mut w.binding.as_mut().unwrap().metadata);
    assert_eq!(w.decide().act, MachineAct::None, "not gone before the claim has ended");
    w.metal.metadata.annotations.insert(ABANDON.into(), String::new());
    assert_eq!(w.decide().act, MachineAct::RemoveFinalizer, "unless a human ends the wait");
    w.metal.metadata.annotations.remove(ABANDON);
    w.binding = None;
    assert_eq!(w.decide().act, MachineAct::RemoveFinalizer);
    // Somebody else's binding on the Server it names is left alone.
    w.binding = Some(binding("u1"));
    w.binding.as_mut().unwrap().spec.metal_machine_ref.name = "other".into();
    assert_eq!(w.decide().act, MachineAct::RemoveFinalizer);
    // Moved away: nothing at all.
    w.binding = Some(binding("u1"));
    w.metal.metadata.annotations = [(crate::resource::capi::DELETE_FOR_MOVE.to_owned(), String::new())].into();
    assert_eq!(w.decide().act, MachineAct::None);
    w.metal.metadata.finalizers.clear();
    assert_eq!(w.decide().act, MachineAct::None);
}

#[test]
fn c17_c18_c19_c20_c22_pause_comes_before_everything() {
    for by_cluster in [true, false] {
        for dying in [true, false] {
            for mut w in
                [World::bound(Some(Phase::Running)), World::new(metal(json!({"serverClassRef": {"name": "any"}})))]
            {
                if by_cluster {
                    w.cluster.as_mut().unwrap().spec.paused = true;
                } else {
                    w.metal.metadata.annotations.insert(marks::PAUSED.into(), String::new());
                }
                if dying {
                    deleted(&mut w.metal.metadata);
                }
                let done = w.decide();
                let paused = done.status.conditions.iter().find(|c| c.r#type == kinds::PAUSED).unwrap();
                assert_eq!((paused.status.as_str(), paused.observed_generation), ("True", 3));
                // The Server rests first, then a move may begin, then there is nothing more.
                let held = w.binding.is_some();
                assert_eq!(done.act, if held { MachineAct::Pause(true) } else { MachineAct::BlockMove(false) });
                if let Some(binding) = &mut w.binding {
                    binding.metadata.annotations.insert(marks::PAUSED.into(), PAUSED_BY_CLUSTER.into());
                    assert_eq!(w.decide().act, MachineAct::BlockMove(false));
                }
                w.metal.metadata.annotations.remove(BLOCK_MOVE);
                assert_eq!(w.decide().act, MachineAct::None);
                // And back again.
                w.metal.metadata.annotations.remove(marks::PAUSED);
                w.metal.metadata.deletion_timestamp = None;
                w.cluster.as_mut().unwrap().spec.paused = false;
                let done = w.decide();
                assert_eq!(done.act, if held { MachineAct::Pause(false) } else { MachineAct::BlockMove(true) });
                let paused = done.status.conditions.iter().find(|c| c.r#type == kinds::PAUSED).unwrap();
                assert_eq!((paused.status.as_str(), paused.reason.as_str()), ("False", reasons::NOT_PAUSED));
            }
        }
    }
    let mut w = World::bound(Some(Phase::Running));
    w.binding.as_mut().unwrap().metadata.annotations.insert(marks::PAUSED.into(), "by hand".into());
    assert_eq!(w.decide().act, MachineAct::None, "somebody else's pause is not taken off");
}

#[test]
fn r3_a_moved_machine_that_has_its_node_explains_its_server() {
    let mut w = World::bound(Some(Phase::Quarantined));
    w.server.as_mut().unwrap().status.reason = "StatusLost".into();
    assert_eq!(w.decide().act, MachineAct::None, "a machine that never had a node explains nothing");
    w.machine.as_mut().unwrap().status.node_ref = Some(ObjectReference { name: "n".into(), ..Default::default() });
    assert_eq!(w.decide().act, MachineAct::Explain);
    w.server.as_mut().unwrap().metadata.annotations.insert(marks::LIFT.into(), "running".into());
    assert_eq!(w.decide().act, MachineAct::None);
    let server = w.server.as_mut().unwrap();
    server.metadata.annotations.clear();
    server.status.reason = "BindingReplaced".into();
    assert_eq!(w.decide().act, MachineAct::None, "only what a move loses");
}

#[test]
fn c28_every_reason_that_is_written_is_documented() {
    let mut seen = std::collections::BTreeSet::new();
    let mut take = |conditions: &[Condition]| seen.extend(conditions.iter().map(|c| c.reason.clone()));
    for phase in Phase::ALL {
        let mut w = World::bound(Some(phase));
        take(&w.decide().status.conditions);
        deleted(&mut w.metal.metadata);
        take(&w.decide().status.conditions);
        w.metal.metadata.annotations.insert(marks::PAUSED.into(), String::new());
        take(&w.decide().status.conditions);
    }
    take(&World::new(recorded()).decide().status.conditions);
    assert!(seen.iter().all(|r| reasons::ALL.contains(&r.as_str())), "{seen:?}");
    assert!(seen.len() >= 7, "{seen:?}");
}

// --- MetalRemediation -------------------------------------------------------------

fn remedy(tries: u32) -> MetalRemediation {
    let metadata = json!({"name": "m", "namespace": "ns", "uid": "r1"});
    read(metadata, json!({"retryLimit": tries, "timeoutSeconds": 60}), json!({}))
}

#[test]
fn c39_a_remediation_cycles_waits_and_gives_up() {
    let (of, metal) = (cluster_of_capi(true), recorded());
    let mut s = server(Some(Phase::Running));
    s.spec.bmc = Some(Bmc { endpoint: "10.0.0.9".into(), ..Bmc::default() });
    let decide = |it: &MetalRemediation, server: &Server, now: u64| {
        let view = RemediationView { remediation: it, cluster: Some(&of), metal: Some(&metal), server: Some(server) };
        remediation(view, now)
    };
    let mut it = remedy(2);
    for n in 1..=2 {
        let now = NOW + u64::from(n) * 60_000;
        let done = decide(&it, &s, now);
        assert_eq!((done.act, done.status.phase), (RemediationAct::Cycle(n), Some(RemediationPhase::Waiting)));
        it.status = done.status;
        let done = decide(&it, &s, now + 59_000);
        assert_eq!((done.act, done.recheck_ms), (RemediationAct::None, Some(now + 60_000)), "it has time to come back");
    }
    let done = decide(&it, &s, NOW + 180_000);
    assert_eq!((done.act, done.status.phase), (RemediationAct::None, Some(RemediationPhase::Failed)));
    it.status = done.status;
    assert_eq!(decide(&it, &s, NOW + 999_000).status, it.status, "and that is all");

    // A machine that cannot be switched is not waited for for ever, and is not switched.
    s.spec.bmc = None;
    let mut it = remedy(1);
    let done = decide(&it, &s, NOW);
    assert_eq!((done.act, ready(&done.status.conditions).1.as_str()), (RemediationAct::None, reasons::NOT_SWITCHABLE));
    it.status = done.status;
    assert_eq!(decide(&it, &s, NOW + 60_000).status.phase, Some(RemediationPhase::Failed));

    // R5, and pauses.
    s.spec.bmc = Some(Bmc::default());
    let it = remedy(1);
    let view = RemediationView { remediation: &it, cluster: None, metal: Some(&metal), server: Some(&s) };
    assert_eq!(remediation(view, NOW).act, RemediationAct::None, "a Cluster that is not there counts as paused");
    let mut resting = of.clone();
    resting.spec.paused = true;
    let view = RemediationView { cluster: Some(&resting), ..view };
    assert_eq!(remediation(view, NOW).act, RemediationAct::None);
}
