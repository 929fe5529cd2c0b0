//! Simulated machines against the whole of control, over its real sockets:
//! who they are, what they are told, what they may have, what goes wrong.

mod bad_input;
mod fleet;
mod identity;
mod secrets;

use control::resource::{Phase, Server};
use serde_json::json;
use std::time::{Duration, Instant};
use stoker_tests::node::{Node, Runs};
use stoker_tests::site::{PATIENCE, Site};

/// Agents ask every second.
const QUICK: &str = "agent: {poll_seconds: 1}\n";

/// The phase of a Server.
fn phase(site: &Site, server: &str) -> Option<Phase> {
    site.server(server).and_then(|s| s.status.phase)
}

/// Lets a machine go on until it holds.
fn go(site: &Site, node: &mut Node, what: &str, mut holds: impl FnMut(&Site, &Node) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(site, node) {
        assert!(Instant::now() < end, "never: {what}; {node:?}; {:#?}", site.servers());
        node.turn(site);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Boots a machine for the first time and waits until its Server is there; gives its name.
fn meet(site: &Site, node: &mut Node) -> String {
    let name = node.uuid().unwrap().to_string();
    go(site, node, "it reports", |site, _| phase(site, &name) == Some(Phase::Discovered));
    name
}

fn accept(site: &Site, server: &str) {
    site.call("POST", &format!("/api/v1/servers/{server}/accept"), &json!({}));
}

/// From first power-on to clean and free. The machine is sent into a new boot after its acceptance.
fn prepare(site: &Site, node: &mut Node) -> String {
    let name = meet(site, node);
    accept(site, &name);
    go(site, node, "clean and free", |site, _| phase(site, &name) == Some(Phase::Available));
    assert!(node.data.is_none() && node.wiped.len() == 1, "{node:?}");
    name
}

fn allocate(site: &Site, name: &str, from: serde_json::Value, config: &str) {
    site.call("POST", "/api/v1/allocations", &json!({"name": name, "from": from, "config": config}));
}

/// Gives a machine to `name` and lets it boot into its installer's script.
fn to_installer(site: &Site, node: &mut Node, server: &str, name: &str, config: &str) {
    allocate(site, name, json!({"server": server}), config);
    go(site, node, "told to boot again", |_, node| node.runs == Runs::Firmware);
    site.until("allocated", |site| matches!(phase(site, server), Some(Phase::Allocated | Phase::Installing)));
}

fn data_of(server: &Server) -> String {
    serde_json::to_string(&server.status).unwrap()
}
