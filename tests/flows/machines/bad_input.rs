//! Machines and strangers that say what is not so: nothing is lost or wiped, and
//! whoever looks at the Server sees it.

use super::{QUICK, accept, go, meet, phase, prepare};
use control::resource::{OrderState, Phase};
use protocol::report::{Disk, DiskResult, DiskState, Interface, Level, MAX_REPORT, OrderKind};
use serde_json::{Value, json};
use stoker_tests::node::{Node, Runs};
use stoker_tests::site::{Site, address};

/// A machine that waits for its wipe order, and the order.
fn ordered(site: &Site, node: &mut Node) -> (String, u64) {
    let name = meet(site, node);
    accept(site, &name);
    let mut id = 0;
    site.until("ordered", |site| {
        let order = node.poll(site, 0, Level::Holding, Vec::new());
        id = order.id;
        matches!(order.kind, OrderKind::Wipe(_))
    });
    (name, id)
}

#[test]
fn a_report_of_nonsense_is_refused_or_told_as_it_is_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut good = Node::new(1);
    let name = prepare(&site, &mut good);
    let node = Node::new(2);
    let mut hello = serde_json::to_value(node.hello_body()).unwrap();
    let bad: [(&str, Value); 8] = [
        ("/version", json!("one")),
        ("/boot_id", Value::Null),
        ("/uptime_s", json!("long")),
        ("/boot_mac", json!("52:54:00")),
        ("/facts/system/uuid", json!("not-a-uuid")),
        ("/facts/storage", json!({"sda": 1})),
        ("/facts/storage/0/size", json!(-1)),
        ("/facts/network/0/mac", json!("ff:ff:ff:ff:ff:ff:ff")),
    ];
    for (at, value) in bad {
        let mut bad = hello.clone();
        *bad.pointer_mut(at).unwrap() = value;
        let answer = site.node(node.from, "POST", "/agent/v1/hello", "", &bad.to_string());
        assert_eq!(answer.status, 400, "{at}: {answer:?}");
    }
    for body in ["", "{", "[]", "null", "\u{0}\u{0}"] {
        assert_eq!(
            site.node(node.from, "POST", "/agent/v1/hello", "content-length: 0\r\n", body).status,
            400,
            "{body:?}"
        );
    }
    let huge = format!("{{\"version\":1,\"agent\":\"{}\"}}", "x".repeat(MAX_REPORT));
    assert_eq!(site.node(node.from, "POST", "/agent/v1/hello", "", &huge).status, 413);
    assert_eq!(site.servers().len(), 1, "none of them is a machine");

    // Words that are meant for a terminal, sizes that no disk has, a thousand disks.
    let odd = Disk { name: "sda\u{1b}[2J".into(), size: u64::MAX, model: "\n\r\u{7}".into(), ..Disk::default() };
    let mut odd = vec![serde_json::to_value(odd).unwrap()];
    odd.extend((0..1000).map(|n| json!({"name": format!("sd{n}"), "size": n})));
    *hello.pointer_mut("/facts/storage").unwrap() = Value::Array(odd);
    *hello.pointer_mut("/facts/system/serial_number").unwrap() = json!("\u{1b}]0;owned\u{7}");
    assert_eq!(site.node(node.from, "POST", "/agent/v1/hello", "", &hello.to_string()).status, 200);
    let odd = node.uuid().unwrap().to_string();
    site.until("it is there", |site| phase(site, &odd) == Some(Phase::Discovered));
    for command in ["servers", "describe"] {
        let args = if command == "servers" { vec![command] } else { vec![command, "server", &odd] };
        let text = stoker(&site, &args);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{command}: {text:?}");
        assert!(text.contains(&odd), "{text}");
    }
    assert_eq!(phase(&site, &name), Some(Phase::Available), "the other one is not disturbed");
}

/// The command that operators have, on this site.
fn stoker(site: &Site, args: &[&str]) -> String {
    let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("stoker");
    let output = std::process::Command::new(program).args(args).arg("--state").arg(&site.state).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn w06_an_agent_that_lies_about_its_disks_makes_no_clean_machine() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let clean = |node: &Node| {
        let disk = control::plan::server::disk_target(&node.facts.storage[0]);
        DiskResult { disk, state: DiskState::Clean, verified: 9, ..DiskResult::default() }
    };
    let mut other = clean(&Node::new(1));
    other.disk.serial_number = "ANOTHER".into();
    type Lie = fn(DiskResult, DiskResult) -> Vec<DiskResult>;
    let lies: [(&str, bool, Lie); 6] = [
        ("no disks", true, |_, _| vec![]),
        ("another disk", true, |_, other| vec![other]),
        ("the same disk twice", true, |good, _| vec![good.clone(), good]),
        ("a disk that failed", true, |good, _| vec![DiskResult { state: DiskState::Failed, ..good }]),
        ("a disk being erased", true, |good, _| vec![DiskResult { state: DiskState::Erasing, ..good }]),
        ("w05: without having asked", false, |good, _| vec![good]),
    ];
    for (n, (what, asks, lie)) in lies.into_iter().enumerate() {
        let mut node = Node::new(10 + u16::try_from(n).unwrap());
        let (name, id) = ordered(&site, &mut node);
        if asks {
            assert!(node.confirm(&site, id).go, "{what}");
        }
        node.poll(&site, id, Level::Done, lie(clean(&node), other.clone()));
        site.until(what, |site| {
            site.server(&name).unwrap().status.order.is_some_and(|o| o.state == OrderState::Failed)
        });
        let server = site.server(&name).unwrap();
        assert_eq!((server.status.phase, server.status.reason.as_str()), (Some(Phase::Wiping), "WipeFailed"), "{what}");
        assert!(!server.status.is_clean && server.status.wiped.is_none(), "{what}");
        let ask = json!({"name": "m", "from": {"server": name}}).to_string();
        assert_eq!(site.api("POST", "/api/v1/allocations", &ask).status, 409, "{what}");
    }
}

#[test]
fn w03_an_order_is_not_told_to_a_machine_that_is_another_one_and_the_server_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut node = Node::new(1);
    let (name, _) = ordered(&site, &mut node);
    // Before it began, its board was changed: the same card and UUID, another serial number and disk.
    node.facts.system.serial_number = "SN-OTHER-1".into();
    node.facts.storage[0].serial_number = "DISK-OF-ANOTHER".into();
    node.runs = Runs::Firmware;
    for _ in 0..10 {
        node.turn(&site);
    }
    site.until("it says so", |site| site.server(&name).unwrap().status.reason == "OrderForAnother");
    let message = site.server(&name).unwrap().status.message;
    assert!(message.contains("another serial number") && node.data.is_some(), "{message}");
    // A human looks, and orders anew: over the disks that are there now.
    site.call("POST", &format!("/api/v1/servers/{name}/retry"), &json!({}));
    go(&site, &mut node, "wiped", |site, _| phase(site, &name) == Some(Phase::Available));
    assert_eq!(site.server(&name).unwrap().status.wiped.unwrap().disks[0].disk.serial_number, "DISK-OF-ANOTHER");
}

#[test]
fn w04_without_the_token_of_its_boot_nobody_speaks_for_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut node = Node::new(1);
    let (name, id) = ordered(&site, &mut node);
    let before = site.server(&name).unwrap();
    // Strangers: without a token, with an invented one, with a stolen one from elsewhere, with that of another machine.
    let mut neighbour = Node::new(2);
    meet(&site, &mut neighbour);
    for (what, from, token) in [
        ("no token", node.from, String::new()),
        ("an invented token", node.from, "a".repeat(64)),
        ("a stolen token from elsewhere", address(66), node.token.clone()),
        ("another machine's token", neighbour.from, neighbour.token.clone()),
    ] {
        let mut stranger = Node { from, token, ..node.clone() };
        stranger.boots = 77;
        stranger.facts.storage = vec![Disk { name: "sdz".into(), size: 5, ..Disk::default() }];
        stranger.facts.network.push(Interface { mac: Some(Node::new(99).mac), ..Interface::default() });
        assert_eq!(stranger.hello(&site).status, 200, "{what}: it is told to hold");
        assert_eq!(stranger.poll(&site, id, Level::Done, node.results(id)).id, 0, "{what}");
        let confirmed = stranger.confirm(&site, id);
        assert!(!confirmed.go, "{what}: {confirmed:?}");
    }
    let after = site.server(&name).unwrap();
    assert_eq!(after.spec.hardware, before.spec.hardware, "a stranger does not change what is known of it");
    assert_eq!(after.status.order.unwrap().state, OrderState::Pending);
    // The machine itself goes on.
    go(&site, &mut node, "wiped", |site, _| phase(site, &name) == Some(Phase::Available));
    assert_eq!(node.wiped, [id]);
}

#[test]
fn w05_w11_w13_control_says_no_where_the_order_does_not_stand() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut node = Node::new(1);
    let name = meet(&site, &mut node);
    assert!(!node.confirm(&site, 1).go, "w11: not accepted");
    accept(&site, &name);
    let mut id = 0;
    site.until("ordered", |site| {
        id = node.poll(site, 0, Level::Holding, Vec::new()).id;
        id > 0
    });
    assert!(!node.confirm(&site, id + 1).go, "an order that never was");
    // Paused: nothing is told and nothing confirmed; unpaused, it goes on.
    let path = format!("/api/v1/objects/server/{name}");
    let pause = |on: bool| {
        site.edit(&path, |object| {
            object.metadata.annotations.remove("cluster.x-k8s.io/paused");
            if on {
                object.metadata.annotations.insert("cluster.x-k8s.io/paused".into(), String::new());
            }
        });
    };
    pause(true);
    assert_eq!(node.poll(&site, 0, Level::Holding, Vec::new()).id, 0);
    let confirmed = node.confirm(&site, id);
    assert!(!confirmed.go && confirmed.why.contains("paused"), "{confirmed:?}");
    pause(false);
    // Acceptance is taken back while its agent waits.
    site.apply(control::resource::Kind::Server, &name, &json!({"accepted": false}));
    assert!(!node.confirm(&site, id).go, "w11");
    assert!(node.data.is_some());
    site.apply(control::resource::Kind::Server, &name, &json!({"accepted": true}));
    go(&site, &mut node, "wiped", |site, _| phase(site, &name) == Some(Phase::Available));
    assert!(!node.confirm(&site, id).go, "w10: what is done is done");
}

#[test]
fn w12_more_machines_than_may_be_erased_at_once_wait() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), "agent: {poll_seconds: 1, wipes_per_minute: 2}\n");
    let mut nodes: Vec<_> = (1..=3).map(Node::new).collect();
    let orders: Vec<_> = nodes.iter_mut().map(|node| ordered(&site, node)).collect();
    let told: Vec<_> = nodes.iter().zip(&orders).map(|(node, (_, id))| node.confirm(&site, *id)).collect();
    assert_eq!(told.iter().filter(|c| c.go).count(), 2);
    let waits = told.iter().find(|c| !c.go).unwrap();
    assert!(waits.why.contains("more than 2 machines"), "{waits:?}");
    // Who may begin may ask again, and is not counted twice.
    assert!(nodes[0].confirm(&site, orders[0].1).go);
}

#[test]
fn f29_a_binding_whose_finalizer_was_stripped_quarantines_its_machine() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut node = Node::new(1);
    let name = prepare(&site, &mut node);
    super::allocate(&site, "web-1", json!({"server": name}), "version: v1alpha1\n");
    go(&site, &mut node, "it runs", |site, _| phase(site, &name) == Some(Phase::Running));
    let path = format!("/api/v1/objects/serverbinding/{name}");
    site.edit(&path, |binding| binding.metadata.finalizers.clear());
    site.call("DELETE", &path, &json!({}));
    site.until("quarantined", |site| phase(site, &name) == Some(Phase::Quarantined));
    for _ in 0..5 {
        node.runs = Runs::Firmware;
        node.turn(&site);
        node.turn(&site);
    }
    assert!(node.data.is_some(), "r6: it is not wiped");
    assert_eq!(site.server(&name).unwrap().status.reason, "BindingGone");
    site.call("POST", &format!("/api/v1/servers/{name}/lift?as=wipe"), &json!({}));
    site.until("to be wiped", |site| phase(site, &name) == Some(Phase::Wiping));
    node.runs = Runs::Firmware;
    go(&site, &mut node, "wiped by a human's word", |site, _| phase(site, &name) == Some(Phase::Available));
    assert!(node.data.is_none());
}
