//! Who may have a machine's configuration: the list of `docs/conformance/metadata.md`.

use super::{QUICK, go, phase, prepare, to_installer};
use control::resource::{Kind, Phase, marks};
use serde_json::json;
use std::time::Duration;
use stoker_tests::node::{Node, Runs, uuid};
use stoker_tests::site::{Answer, Site, address};

const CONFIG: &str = "version: v1alpha1\nmachine:\n  token: hunter2\n";

/// A machine that has been sent to its installer and has not asked for its configuration yet.
struct Ready {
    site: Site,
    node: Node,
    server: String,
    _folder: tempfile::TempDir,
}

impl Ready {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), QUICK);
        let mut node = Node::new(1);
        let server = prepare(&site, &mut node);
        to_installer(&site, &mut node, &server, "web-1", CONFIG);
        let mut ready = Self { site, node, server, _folder: folder };
        ready.script();
        ready
    }

    /// Another script: another attempt, with a token of its own.
    fn script(&mut self) {
        let script = self.node.script(&self.site);
        let url = |key: &str| {
            let word = script
                .body
                .split_whitespace()
                .find_map(|w| w.strip_prefix(key))
                .unwrap_or_else(|| panic!("{script:?}"));
            format!("/{}", word.split_once("://").unwrap().1.split_once('/').unwrap().1)
        };
        (self.node.config, self.node.report) = (url("stoker.config="), url("stoker.report="));
    }

    fn fetch(&self) -> Answer {
        self.site.node(self.node.from, "GET", &self.node.config, "", "")
    }

    /// What everybody hears who may not have it.
    fn is_refused(&self, answer: &Answer, what: &str) {
        assert_eq!((answer.status, answer.body.as_str()), (403, "Forbidden\n"), "{what}");
        assert!(answer.head.contains("cache-control: no-store"), "{what}: {}", answer.head);
    }
}

#[test]
fn m01_m03_m07_the_machine_has_it_as_often_as_it_asks_and_nobody_else_by_its_token() {
    let ready = Ready::new();
    let first = ready.fetch();
    assert!(first.status == 200 && first.body.contains("hunter2"), "{first:?}");
    assert!(first.head.contains("cache-control: no-store") && !first.head.contains("etag"), "m15: {}", first.head);
    // A retry after a lost answer.
    assert_eq!(ready.fetch().body, first.body, "m02");
    // The stolen token, from elsewhere, at the same time as the machine itself.
    let (own, stolen): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let own: Vec<_> = (0..4).map(|_| scope.spawn(|| ready.fetch())).collect();
        let thief = |n| ready.site.node(address(n), "GET", &ready.node.config, "", "");
        let stolen: Vec<_> = (50..54).map(|n| scope.spawn(move || thief(n))).collect();
        (own.into_iter().map(|t| t.join().unwrap()).collect(), stolen.into_iter().map(|t| t.join().unwrap()).collect())
    });
    assert!(own.iter().all(|a: &Answer| a.body == first.body), "{own:?}");
    stolen.iter().for_each(|a| ready.is_refused(a, "a thief"));
    // The operator sees it: a condition and a counter.
    ready.site.until("seen", |site| site.condition(&ready.server, marks::CONFIG_REFUSED).is_some());
    let why = ready.site.condition(&ready.server, marks::CONFIG_REFUSED).unwrap().message;
    assert!(why.contains("127.7.0.") && why.contains("the token was given to"), "{why}");
    let refused = ready.site.node(address(1), "GET", "/metrics", "", "").body;
    assert!(refused.lines().any(|l| l.contains("config") && l.contains("403")), "{refused}");
}

#[test]
fn m08_who_says_that_he_forwards_for_the_machine_is_not_believed() {
    let ready = Ready::new();
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip"] {
        let own = ready.node.from;
        let value = if header == "forwarded" { format!("for={own}") } else { own.to_string() };
        let answer = ready.site.node(address(60), "GET", &ready.node.config, &format!("{header}: {value}\r\n"), "");
        ready.is_refused(&answer, header);
    }
}

#[test]
fn m09_m10_a_head_consumes_nothing_and_a_part_is_not_given() {
    let ready = Ready::new();
    let head = ready.site.node(ready.node.from, "HEAD", &ready.node.config, "", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(ready.site.server(&ready.server).unwrap().status.install.unwrap().config_fetched.is_empty(), "m09");
    let part = ready.site.node(ready.node.from, "GET", &ready.node.config, "range: bytes=0-9\r\n", "");
    assert_eq!((part.status, part.body.as_str()), (416, ""), "m10");
    assert!(ready.site.server(&ready.server).unwrap().status.install.unwrap().config_fetched.is_empty());
    assert_eq!(ready.fetch().status, 200);
    assert!(!ready.site.server(&ready.server).unwrap().status.install.unwrap().config_fetched.is_empty());
}

#[test]
fn m05_m11_m13_f38_a_scanner_hears_the_same_of_every_machine() {
    let ready = Ready::new();
    let mut free = Node::new(2);
    let unbound = prepare(&ready.site, &mut free);
    let token = "0".repeat(64);
    let bound = &ready.server;
    let asks = [
        ("a machine that nobody knows", format!("/configdata?uuid={}", uuid(99))),
        ("one that is not allocated", format!("/configdata?uuid={unbound}")),
        ("an allocated one, without a token", format!("/configdata?uuid={bound}")),
        ("an allocated one, with an invented token", format!("/configdata?uuid={bound}&token={token}")),
        ("a known one with the token of its agent", format!("/configdata?uuid={unbound}&token={}", free.token)),
        ("m13: the agent's token of an allocated one", format!("/configdata?uuid={bound}&token={}", ready.node.token)),
        ("no machine at all", "/configdata".to_owned()),
        ("nonsense", "/configdata?uuid=%00%ff&token=%0a".to_owned()),
        ("a report", format!("/report?uuid={bound}&token={token}&event=running")),
    ];
    let mut heads = Vec::new();
    for (what, path) in asks {
        let method = if path.starts_with("/report") { "POST" } else { "GET" };
        let answer = ready.site.node(address(70), method, &path, "", "");
        ready.is_refused(&answer, what);
        let head = answer.head.lines().filter(|l| !l.starts_with("date:")).collect::<Vec<_>>().join("\n");
        heads.push(head);
    }
    heads.dedup();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert_eq!(ready.fetch().status, 200, "the machine itself is not disturbed");
}

#[test]
fn m05_before_its_script_a_machine_has_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), QUICK);
    let mut node = Node::new(1);
    let server = prepare(&site, &mut node);
    to_installer(&site, &mut node, &server, "web-1", CONFIG);
    let answer = site.node(node.from, "GET", &format!("/configdata?uuid={server}"), "", "");
    assert_eq!(answer.status, 403, "from its own address, without a token");
}

#[test]
fn m06_an_installed_machine_hands_nothing_on_and_m14_a_released_one_neither() {
    let mut ready = Ready::new();
    assert_eq!(ready.fetch().status, 200);
    let before = ready.node.config.clone();
    assert_eq!(ready.node.tell(&ready.site, "installed").status, 200);
    ready.is_refused(&ready.fetch(), "m06: installed");
    assert_eq!(ready.node.tell(&ready.site, "installed").status, 200, "its reports are still heard, also twice");
    // Later, with a token of later.
    ready.node.data = Some(CONFIG.into());
    let (site, server) = (&ready.site, ready.server.clone());
    go(site, &mut ready.node, "it runs", |site, _| phase(site, &server) == Some(Phase::Running));
    assert_eq!(site.node(ready.node.from, "GET", &before, "", "").status, 403);

    // Released while it is being installed: the window closes at once (F28).
    let mut ready = Ready::new();
    ready.site.call("DELETE", "/api/v1/allocations/web-1", &json!({}));
    ready.is_refused(&ready.fetch(), "m14: being released");
    ready.site.until("leaving", |site| phase(site, &ready.server) == Some(Phase::Releasing));
    // Only a boot after the second of the release counts.
    std::thread::sleep(Duration::from_millis(1100));
    ready.node.runs = Runs::Firmware;
    let (site, server) = (&ready.site, ready.server.clone());
    go(site, &mut ready.node, "wiped", |site, _| phase(site, &server) == Some(Phase::Available));
    // To somebody else: the old token is of an allocation that has ended.
    let old = ready.node.config.clone();
    to_installer(site, &mut ready.node, &server, "web-2", CONFIG);
    ready.is_refused(&site.node(ready.node.from, "GET", &old, "", ""), "m14: another allocation");
    ready.script();
    assert_eq!(ready.fetch().status, 200);
}

#[test]
fn m12_f33_two_machines_with_one_uuid() {
    let ready = Ready::new();
    // The other one asks in the first one's name, card and all, from its own address.
    let mut other = Node::new(5);
    other.facts.system.uuid = ready.node.uuid();
    other.boot(&ready.site);
    assert!(other.config.is_empty(), "it gets the agent");
    ready.is_refused(&ready.site.node(other.from, "GET", &ready.node.config, "", ""), "the first one's token");
    assert_eq!(ready.fetch().status, 200, "the first one itself has it");
}

#[test]
fn m16_f39_a_secret_that_is_gone_is_waited_for_and_said() {
    let ready = Ready::new();
    let secret = "/api/v1/objects/secret/web-1-config?namespace=stoker";
    let kept: control::resource::Object = ready.site.api("GET", secret, "").json();
    ready.site.call("DELETE", secret, &json!({}));
    let answer = ready.fetch();
    assert_eq!((answer.status, answer.body.as_str()), (503, "Service Unavailable\n"));
    assert!(answer.head.contains("retry-after:"), "{}", answer.head);
    let says = |site: &Site| {
        let server = site.server(&ready.server).unwrap();
        server.status.conditions.into_iter().find(|c| c.r#type == marks::CONFIG_READY)
    };
    ready
        .site
        .until("said", |site| says(site).is_some_and(|c| c.status == "False" && c.message.contains("is missing")));
    let again = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web-1-config", "namespace": "stoker",
        "labels": kept.metadata.labels}, "data": kept.data});
    ready.site.call("POST", "/api/v1/objects", &again);
    assert_eq!(ready.fetch().status, 200);
    ready.site.until("well again", |site| says(site).is_some_and(|c| c.status == "True"));
}

#[test]
fn m17_a_patch_that_does_not_apply_is_said_on_the_server_and_to_nobody_else() {
    let ready = Ready::new();
    let patch = json!({"accepted": true, "configPatches": [{"op": "replace", "path": "/machine/nosuch/thing", "value": "hunter3"}]});
    ready.site.apply(Kind::Server, &ready.server, &patch);
    let answer = ready.fetch();
    assert_eq!((answer.status, answer.body.as_str()), (500, "Internal Server Error\n"), "no word of the patch");
    ready.site.until("said", |site| {
        let conditions = site.server(&ready.server).unwrap().status.conditions;
        conditions.iter().any(|c| c.r#type == marks::CONFIG_READY && c.status == "False" && c.message.contains("patch"))
    });
    assert!(matches!(phase(&ready.site, &ready.server), Some(Phase::Allocated | Phase::Installing)), "it waits");
    ready.site.apply(Kind::Server, &ready.server, &json!({"accepted": true}));
    assert_eq!(ready.fetch().status, 200);
}

#[test]
fn m04_tokens_survive_a_restart_of_control() {
    let ready = Ready::new();
    let Ready { site, node, server, _folder } = ready;
    let ready = Ready { site: site.restarted(), node, server, _folder };
    assert_eq!(ready.fetch().status, 200);
    ready.is_refused(&ready.site.node(address(9), "GET", &ready.node.config, "", ""), "still bound to its source");
}
