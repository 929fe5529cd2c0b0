//! F33, F34: machines whose UUID is no name.

use super::{QUICK, accept, allocate, go, meet, phase, prepare};
use control::resource::{Kind, Phase, marks};
use protocol::report::{Interface, Level};
use serde_json::json;
use stoker_tests::node::{Node, Runs, uuid};
use stoker_tests::site::Site;

/// Another machine of the same UUID, with cards and disks of its own.
fn twin(of: u16, n: u16) -> Node {
    let mut twin = Node::new(n);
    twin.facts.system.uuid = uuid(of).parse().ok();
    twin
}

#[test]
fn f33_a_second_machine_with_the_same_uuid_gets_nothing_of_the_first_and_both_wait_for_a_human() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let (mut first, mut second) = (Node::new(1), twin(1, 2));
    let name = prepare(&site, &mut first);
    allocate(&site, "web-1", json!({"server": name}), "secret: of-the-first\n");

    // The twin boots while the first one is to be installed: it gets the agent, not the installer.
    second.boot(&site);
    assert!(matches!(second.runs, Runs::Agent(_)) && second.config.is_empty(), "{second:?}");
    assert_eq!(second.poll(&site, 0, Level::Holding, Vec::new()).id, 0, "no orders of the first");
    site.until("the first one says so", |site| site.condition(&name, marks::IDENTITY_CONFLICT).is_some());
    let why = site.condition(&name, marks::IDENTITY_CONFLICT).unwrap().message;
    assert!(why.contains(&second.mac.to_string()) && why.contains("spec.identity"), "{why}");
    // Nor its configuration, by no token of its own.
    for token in [second.token.as_str(), "x"] {
        let path = format!("/configdata?uuid={name}&token={token}");
        assert_eq!(site.node(second.from, "GET", &path, "", "").status, 403);
    }
    // Whoever has the first one keeps it: it is installed and runs.
    go(&site, &mut first, "it runs", |site, _| phase(site, &name) == Some(Phase::Running));
    assert_eq!(first.data.as_deref().map(|d| d.contains("of-the-first")), Some(true));

    // The remedy: a Server of its own for the second machine.
    let own = uuid(2);
    site.apply(Kind::Server, &own, &json!({"accepted": false, "identity": {"macs": [second.mac.to_string()]}}));
    site.until("told apart", |site| site.condition(&name, marks::IDENTITY_CONFLICT).is_none());
    second.runs = Runs::Firmware;
    go(&site, &mut second, "known by its card", |site, _| {
        site.server(&own).is_some_and(|s| s.spec.hardware.is_some() && s.status.phase == Some(Phase::Discovered))
    });
    accept(&site, &own);
    go(&site, &mut second, "wiped", |site, _| phase(site, &own) == Some(Phase::Available));
    assert!(second.data.is_none() && first.data.is_some(), "the second one, and only that");
    assert_eq!(phase(&site, &name), Some(Phase::Running));
}

#[test]
fn f33_neither_of_two_is_accepted_or_allocated_before_they_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let (mut first, mut second) = (Node::new(1), twin(1, 2));
    // Before acceptance.
    let name = meet(&site, &mut first);
    second.boot(&site);
    site.until("seen", |site| site.condition(&name, marks::IDENTITY_CONFLICT).is_some());
    let refused = site.api("POST", &format!("/api/v1/servers/{name}/accept"), "{}");
    assert!(refused.status == 409 && refused.body.contains("tell the two machines apart"), "{refused:?}");
    // Whoever sets the field by hand gets no wipe either.
    site.apply(Kind::Server, &name, &json!({"accepted": true}));
    for _ in 0..20 {
        first.turn(&site);
        second.turn(&site);
    }
    let server = site.server(&name).unwrap();
    assert_eq!((server.status.phase, server.status.reason.as_str()), (Some(Phase::Discovered), "IdentityConflict"));
    assert!(first.data.is_some() && second.data.is_some(), "nobody is erased");

    // The second one's firmware is given a UUID of its own: it is another machine, and the first is alone.
    second.facts.system.uuid = uuid(2).parse().ok();
    second.runs = Runs::Firmware;
    second.boot(&site);
    go(&site, &mut first, "free", |site, _| phase(site, &name) == Some(Phase::Available));
    assert!(second.data.is_some() && phase(&site, &uuid(2)) == Some(Phase::Discovered));

    // A twin of a free machine: it is not given away.
    let mut third = twin(1, 3);
    third.boot(&site);
    site.until("seen", |site| site.condition(&name, marks::IDENTITY_CONFLICT).is_some());
    let ask = json!({"name": "web-1", "from": {"server": name}, "config": "a: b\n"}).to_string();
    let refused = site.api("POST", "/api/v1/allocations", &ask);
    assert!(refused.status == 409 && refused.body.contains("identity conflict"), "{refused:?}");
    let any = json!({"name": "web-1", "from": {"class": "any"}, "config": "a: b\n"}).to_string();
    site.until("the class knows", |site| {
        site.api("POST", "/api/v1/allocations", &any).body.contains("in an identity conflict")
    });
}

#[test]
fn f33_machines_without_a_uuid_of_their_own_are_known_by_their_cards() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::start(folder.path(), QUICK);
    for (n, placeholder) in [
        (1, "00000000-0000-0000-0000-000000000000"),
        (2, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        (3, "03000200-0400-0500-0006-000700080009"),
    ] {
        let mut node = Node::new(n);
        node.facts.system.uuid = placeholder.parse().ok();
        node.facts.system.serial_number = "Default string".into();
        let before = site.servers().len();
        go(&site, &mut node, "it reports", |site, _| site.servers().len() == before + 1);
        let server = site
            .servers()
            .into_iter()
            .find(|s| s.spec.identity.as_ref().is_some_and(|i| i.macs.contains(&node.mac.to_string())));
        let name = server.expect("known by its card").metadata.name;
        accept(&site, &name);
        go(&site, &mut node, "clean", |site, _| phase(site, &name) == Some(Phase::Available));
        // After a restart of control, and to its end.
        site = site.restarted();
        allocate(&site, &format!("m{n}"), json!({"server": name}), "a: b\n");
        go(&site, &mut node, "runs", |site, _| phase(site, &name) == Some(Phase::Running));
        assert_eq!(node.wiped.len(), 1);
    }
}

#[test]
fn f33_firmware_that_tells_its_uuid_in_the_other_byte_order_is_the_same_machine() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut node = Node::new(1);
    let own = node.uuid().unwrap();
    let name = prepare(&site, &mut node);
    allocate(&site, "web-1", json!({"server": name}), "version: v1alpha1\n");
    go(&site, &mut node, "told to boot again", |_, node| node.runs == Runs::Firmware);
    // iPXE and the installer say it the other way round.
    node.facts.system.uuid = Some(own.swapped());
    node.boot(&site);
    assert!(node.data.as_deref().is_some_and(|d| d.contains("v1alpha1")), "{node:?}");
    go(&site, &mut node, "it runs", |site, _| phase(site, &name) == Some(Phase::Running));
    assert_eq!(site.servers().len(), 1, "no second Server");
}

#[test]
fn f34_a_changed_card_is_the_same_machine_and_a_card_that_moved_steals_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    let first = prepare(&site, &mut one);
    let second = meet(&site, &mut two);
    // Serviced: another card, the same board.
    let (old, new) = (one.mac, Node::new(9).mac);
    one.mac = new;
    one.facts.network = vec![Interface { mac: Some(new), ..Interface::default() }];
    one.runs = Runs::Firmware;
    one.boot(&site);
    site.until("its new card is known", |site| {
        site.server(&first).is_some_and(|s| super::data_of(&s).contains("phase")) && {
            let hardware = site.server(&first).unwrap().spec.hardware.unwrap();
            serde_json::to_string(&hardware).unwrap().contains(&new.to_string())
        }
    });
    assert!(site.condition(&first, marks::IDENTITY_CONFLICT).is_none());
    assert_eq!(phase(&site, &first), Some(Phase::Available));
    // Its old card goes into the other machine: that one stays itself.
    two.facts.network.push(Interface { mac: Some(old), ..Interface::default() });
    two.runs = Runs::Firmware;
    two.boot(&site);
    two.turn(&site);
    assert_eq!(phase(&site, &second), Some(Phase::Discovered));
    assert_eq!(site.servers().len(), 2);
    assert!(two.data.is_some());
}
