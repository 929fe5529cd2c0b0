//! Two hundred machines at once on one control, and what that costs the store.

use super::{accept, phase};
use control::lifecycle::holds;
use control::resource::{Phase, ServerClass, Typed as _};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use stoker_tests::node::{Node, Runs};
use stoker_tests::site::Site;

/// Machines.
const FLEET: u16 = 200;
/// Threads that play them.
const HANDS: usize = 4;
/// Writes of objects that one machine may cost in its whole life: the Server made, accepted (twice: the
/// operator's word, the mark of it), ordered, erasing, erased, claimed, unclaimed, its Secret and binding,
/// allocated, sent, fetched, installed, running, released, leaving, wiped, released for good, free.
const WRITES: u64 = 34;

/// Lets all machines go on until it holds of each.
fn all(site: &Site, fleet: &[Mutex<Node>], what: &str, holds: impl Fn(&Node) -> bool + Sync) {
    let done: Vec<_> = fleet.iter().map(|_| AtomicUsize::new(0)).collect();
    site.until(what, |site| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..HANDS {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        let (Some(node), Some(done)) = (fleet.get(n), done.get(n)) else { return };
                        let mut node = node.lock().unwrap();
                        if !holds(&node) {
                            node.turn(site);
                        }
                        done.store(usize::from(holds(&node)), Ordering::SeqCst);
                    }
                });
            }
        });
        done.iter().all(|d| d.load(Ordering::SeqCst) == 1)
    });
}

fn count(site: &Site, phase: Phase) -> usize {
    site.servers().iter().filter(|s| s.status.phase == Some(phase)).count()
}

#[test]
fn two_hundred_machines_live_their_lives_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), "agent: {poll_seconds: 1, wipes_per_minute: 1000}\n");
    let fleet: Vec<_> = (1..=FLEET).map(|n| Mutex::new(Node::new(n))).collect();
    let number = usize::from(FLEET);
    let began = site.revision();

    all(&site, &fleet, "all report", |n| n.boots > 0);
    site.until("all are Servers", |site| count(site, Phase::Discovered) == number);
    let discovered = site.revision();
    site.servers().iter().for_each(|s| accept(&site, &s.metadata.name));
    all(&site, &fleet, "all are erased", |n| n.wiped.len() == 1);
    all(&site, &fleet, "all have said so", |n| {
        let name = n.uuid().unwrap().to_string();
        phase(&site, &name) == Some(Phase::Available)
    });
    let free = site.revision();
    for server in site.servers() {
        let record = server.status.wiped.expect("a record of each");
        assert!(holds(&record) && server.status.is_clean, "{record:?}");
    }

    // All at once: each gets a machine of its own.
    std::thread::scope(|scope| {
        for hand in 0..HANDS {
            let site = &site;
            scope.spawn(move || {
                for n in (0..number).skip(hand).step_by(HANDS) {
                    super::allocate(site, &format!("m{n}"), json!({"class": "any"}), &format!("of: m{n}\n"));
                }
            });
        }
    });
    let none = site.api("POST", "/api/v1/allocations", &json!({"name": "more", "from": {"class": "any"}}).to_string());
    assert!(none.status == 409 && none.body.contains("200 in use"), "{none:?}");
    all(&site, &fleet, "all are installed", |n| matches!(n.runs, Runs::System(_)));
    all(&site, &fleet, "all run", |n| phase(&site, &n.uuid().unwrap().to_string()) == Some(Phase::Running));
    let running = site.revision();
    let configs: BTreeSet<_> = fleet.iter().filter_map(|n| n.lock().unwrap().data.clone()).collect();
    assert_eq!(configs.len(), number, "every machine has a configuration of its own");
    let any: control::resource::Object = site.api("GET", "/api/v1/objects/serverclass/any", "").json();
    site.until("the class says so", |site| {
        let any: control::resource::Object = site.api("GET", "/api/v1/objects/serverclass/any", "").json();
        let status = ServerClass::from_object(&any).unwrap().status;
        status.servers_in_use.len() == number && status.servers_available.is_empty()
    });

    for n in 0..number {
        site.call("DELETE", &format!("/api/v1/allocations/m{n}"), &json!({}));
    }
    site.until("all are to leave", |site| count(site, Phase::Releasing) == number);
    // Without BMCs somebody walks along the racks, some time later.
    std::thread::sleep(Duration::from_millis(1100));
    fleet.iter().for_each(|n| n.lock().unwrap().runs = Runs::Firmware);
    all(&site, &fleet, "all are erased again", |n| n.wiped.len() == 2);
    all(&site, &fleet, "all are free again", |n| {
        phase(&site, &n.uuid().unwrap().to_string()) == Some(Phase::Available)
    });
    assert!(fleet.iter().all(|n| n.lock().unwrap().data.is_none()));
    site.until("no claim is left", |site| {
        site.api("GET", "/api/v1/objects/serverbinding", "")
            .json::<control::api::objects::ObjectList>()
            .items
            .is_empty()
    });

    // What it cost: nothing grows with the number of machines.
    let each = |from: u64, to: u64| (to - from) as f64 / f64::from(FLEET);
    let class = any.metadata.resource_version;
    let end = site.revision();
    println!(
        "writes of objects for each machine: {:.1} discovered, {:.1} accepted and wiped, {:.1} allocated and installed, {:.1} released; class {class}",
        each(began, discovered),
        each(discovered, free),
        each(free, running),
        each(running, end)
    );
    assert!(end - began <= WRITES * u64::from(FLEET), "{} writes for {FLEET} machines", end - began);
    // Polls without news cost nothing. What the class tells comes a moment after its machines.
    site.until("the class says that all are free", |site| {
        let any: control::resource::Object = site.api("GET", "/api/v1/objects/serverclass/any", "").json();
        ServerClass::from_object(&any).unwrap().status.servers_available.len() == number
    });
    let before = site.revision();
    fleet.iter().for_each(|n| n.lock().unwrap().turn(&site));
    fleet.iter().for_each(|n| n.lock().unwrap().turn(&site));
    assert_eq!(site.revision(), before);
}
