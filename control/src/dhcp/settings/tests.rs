use super::*;

fn read(json: &str) -> Settings {
    serde_json::from_str(json).unwrap()
}

#[test]
fn d09_the_default_is_a_proxy_that_answers_and_advertises_nothing() {
    let settings = read("{}");
    assert_eq!(settings, Settings::default());
    assert_eq!((settings.mode, settings.advertises(), settings.mac_in_path), (Mode::Proxy, false, true));
    assert_eq!(settings.check(), []);
    assert!(read(r#"{"mode":"server"}"#).advertises());
    assert!(!read(r#"{"mode":"off","router_advertisements":true}"#).advertises());
}

#[test]
fn a_whole_server_section_is_read() {
    let settings = read(
        r#"{"mode":"server","server":{"subnets":[{"network":"10.77.0.0/24","pools":["10.77.0.100 - 10.77.0.250"],
        "router":"10.77.0.1","dns":["10.77.0.1"],"domain":"rack.example","lease_seconds":600}],
        "reservations":[{"mac":"52:54:00:12:34:56","address":"10.77.0.7","hostname":"node-7"}],"authoritative":true}}"#,
    );
    assert_eq!(settings.check(), []);
    let subnet = &settings.server.subnets[0];
    assert!(subnet.pools_hold([10, 77, 0, 100].into()) && subnet.pools_hold([10, 77, 0, 250].into()));
    assert!(!subnet.pools_hold([10, 77, 0, 251].into()));
    assert_eq!(subnet.pools[0].len(), 151);
}

#[test]
fn every_problem_is_reported_at_once() {
    let settings = read(
        r#"{"mode":"server","rate":{"total":0},"relays":["0.0.0.0/0"],"files":{"bios":"a b"},"script_url":"boot.ipxe",
        "server":{"probe_ms":60000,"subnets":[
            {"network":"10.0.0.0/24","pools":["10.0.0.9-10.0.0.5","10.0.1.1-10.0.1.2","10.0.0.0-10.0.0.3"],"router":"10.0.0.2","lease_seconds":1,"domain":"-"},
            {"network":"10.0.0.0/16","router":"9.9.9.9"}],
        "reservations":[{"mac":"52:54:00:00:00:01","address":"11.0.0.1"},{"mac":"52:54:00:00:00:01","address":"10.0.0.2"},
            {"mac":"52:54:00:00:00:02","address":"10.0.0.2","hostname":"a_b"}]}}"#,
    );
    let problems = settings.check();
    for part in [
        "a rate of 0",
        "anybody be a relay",
        "bios: `a b`",
        "`boot.ipxe` is no URL",
        "firmware does not wait",
        "runs backwards",
        "not inside 10.0.0.0/24",
        "network or broadcast",
        "holds the router",
        "leases of 1 s",
        "not a domain name",
        "overlap",
        "outside of it",
        "in no subnet",
        "is the router's",
        "has two",
        "is given to",
        "host name of",
    ] {
        assert!(problems.iter().any(|(_, what, _)| what.contains(part)), "{part} is missing in {problems:#?}");
    }
    assert!(problems.iter().all(|(at, _, remedy)| !at.is_empty() && !remedy.is_empty()));
    let empty = read(r#"{"mode":"server"}"#).check();
    assert!(empty[0].1.contains("no subnet"), "{empty:?}");
}

#[test]
fn words_that_do_not_exist_are_refused() {
    for json in [
        r#"{"mod":"server"}"#,
        r#"{"mode":"both"}"#,
        r#"{"server":{"subnets":[{"network":"10.0.0.0/24","pools":["10.0.0.1"]}]}}"#,
    ] {
        assert!(serde_json::from_str::<Settings>(json).is_err(), "{json}");
    }
}
