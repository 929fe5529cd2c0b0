use super::*;
use crate::api::types::{Phase, StepState};
use crate::observe::{Milestone, Observer};
use protocol::event::{Outcome, Proto};

const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

fn at(at_ms: u64, what: Milestone) -> Observation {
    Observation { at_ms, mac: Some(MAC), ip: None, uuid: None, what }
}

fn discover(client: &str) -> Milestone {
    Milestone::DhcpDiscover { client: client.into(), relay: None }
}

fn offer() -> Milestone {
    Milestone::DhcpOffer { file: "52-54-00-12-34-56/snponly.efi".into(), address: None }
}

fn started(proto: Proto, name: &str, total: u64) -> Milestone {
    let (blksize, windowsize) = if proto == Proto::Tftp { (1468, 4) } else { (0, 0) };
    Milestone::FileStarted { proto, name: name.into(), total, blksize, windowsize }
}

fn ended(proto: Proto, name: &str, outcome: Outcome, bytes: u64, total: u64) -> Milestone {
    let why = String::new();
    Milestone::FileEnded { proto, name: name.into(), outcome, bytes, total, retries: 0, elapsed_us: 250_000, why }
}

fn script(to: &str, status: u16, why: &str) -> Milestone {
    Milestone::Script { to: to.into(), status, why: why.into() }
}

fn hello(uptime_s: f64) -> Milestone {
    Milestone::AgentHello { version: "0.1.0".into(), uptime_s, arch: None, summary: "a machine".into() }
}

const SNP: &str = "/52-54-00-12-34-56/snponly.efi";
const KERNEL: &str = "env/agent-amd64/vmlinuz";
const INITRD: &str = "env/agent-amd64/initramfs.xz";

/// A boot of OVMF over TFTP, as the lab measured it, milliseconds.
fn good_boot(start: u64) -> Vec<Observation> {
    let steps = [
        (0, discover("UEFI x64 PXE")),
        (1, offer()),
        (3_800, Milestone::DhcpRequest { server: None }),
        (3_801, Milestone::DhcpAck { file: "snponly.efi".into() }),
        (3_810, started(Proto::Tftp, SNP, 285_000)),
        (3_811, ended(Proto::Tftp, SNP, Outcome::Probe, 0, 285_000)),
        (3_812, started(Proto::Tftp, SNP, 285_000)),
        (3_900, Milestone::FileProgress { proto: Proto::Tftp, name: SNP.into(), bytes: 142_500, total: 285_000 }),
        (4_060, ended(Proto::Tftp, SNP, Outcome::Complete, 285_000, 285_000)),
        (6_300, started(Proto::Tftp, "autoexec.ipxe", 1500)),
        (6_301, ended(Proto::Tftp, "autoexec.ipxe", Outcome::Complete, 1500, 1500)),
        (6_400, script("agent agent-amd64", 200, "")),
        (6_500, started(Proto::Http, KERNEL, 12_000_000)),
        (7_100, ended(Proto::Http, KERNEL, Outcome::Complete, 12_000_000, 12_000_000)),
        (7_200, started(Proto::Http, INITRD, 6_000_000)),
        (7_500, ended(Proto::Http, INITRD, Outcome::Complete, 6_000_000, 6_000_000)),
        (13_000, hello(5.2)),
    ];
    steps.into_iter().map(|(ms, what)| at(start + ms, what)).collect()
}

fn timeline(dir: &tempfile::TempDir) -> Arc<Timeline> {
    let metrics = Arc::new(Metrics::new(Observer::new().0));
    Timeline::open(dir.path().join("boots.jsonl"), metrics)
}

fn boot_of(seen: &[Observation]) -> Boot {
    let mut boot = story::begin(1, MAC, seen.first().map_or(0, |s| s.at_ms));
    seen.iter().for_each(|s| story::fold(&mut boot, s));
    boot
}

#[test]
fn a_good_boot_is_told_in_order_and_its_percentage_never_falls() {
    let mut boot = story::begin(1, MAC, 1_000);
    let mut percent = 0;
    let mut phases = Vec::new();
    for seen in good_boot(1_000) {
        assert!(!story::begins_another(&boot, &seen), "{seen:?}");
        story::fold(&mut boot, &seen);
        assert!(boot.summary.percent >= percent, "{seen:?}");
        percent = boot.summary.percent;
        if phases.last() != Some(&boot.summary.phase) {
            phases.push(boot.summary.phase);
        }
        assert_eq!(diagnose::diagnose(&boot, seen.at_ms), None, "{seen:?}");
    }
    use Phase::*;
    assert_eq!(phases, [Dhcp, Loader, Ipxe, Script, Kernel, Initrd, Starting, Agent]);
    assert_eq!((percent, boot.summary.reached_ms, boot.summary.firmware.as_str()), (100, Some(14_000), "UEFI x64 PXE"));
    let titles: Vec<_> = boot.steps.iter().map(|s| s.title.as_str()).collect();
    assert_eq!(titles[4..7], ["TFTP snponly.efi", "TFTP autoexec.ipxe", "script: agent agent-amd64"]);
    let loader = &boot.steps[4];
    assert_eq!((loader.count, loader.bytes, loader.state), (2, 285_000, StepState::Ok));
    assert!(loader.detail.contains("windowsize 4") && loader.detail.contains("0.25 s"), "{}", loader.detail);
}

#[test]
fn every_prefix_of_every_order_folds_without_a_panic_and_within_bounds() {
    // Datagrams get lost, doubled and reordered; the story must bear all of it.
    let good = good_boot(0);
    for step in 1..good.len() {
        let mut boot = story::begin(1, MAC, 0);
        for i in 0..200 {
            story::fold(&mut boot, &good[(i * step) % good.len()]);
            assert!(boot.summary.percent <= 100 && boot.steps.len() <= limits::STEPS);
        }
    }
    let mut boot = story::begin(1, MAC, 0);
    for i in 0..1000 {
        story::fold(&mut boot, &at(i, started(Proto::Http, &format!("file-{i}"), 1)));
        story::fold(&mut boot, &at(i, offer()));
    }
    assert!(boot.steps.len() <= limits::STEPS && boot.steps_lost > 0);
}

#[test]
fn the_next_boot_is_told_apart_from_the_same_one_going_on() {
    let all = good_boot(0);
    let after = |n: usize| boot_of(&all[..n]);
    let another = |boot: &Boot, ms, what| story::begins_another(boot, &at(ms, what));
    assert!(!another(&after(2), 4_000, discover("UEFI x64 PXE")), "firmware repeats itself");
    assert!(another(&after(9), 6_000, discover("UEFI x64 PXE")), "firmware starts over");
    assert!(!another(&after(9), 6_000, discover("iPXE (UEFI x64)")), "iPXE after its loader");
    assert!(!another(&after(12), 9_000, discover("iPXE (UEFI x64)")), "iPXE in its rounds");
    assert!(another(&after(17), 60_000, discover("iPXE (BIOS)")), "a ROM after an agent");
    assert!(!another(&after(17), 60_000, discover("Linux")), "the agent's own DHCP");
    assert!(another(&after(17), 60_000, script("agent", 200, "")));
    assert!(!another(&after(17), 20_000, hello(12.0)), "a repeated hello");
    assert!(another(&after(17), 60_000, hello(5.0)), "an agent whose kernel is new");
    assert!(another(&after(2), 700_000, discover("UEFI x64 PXE")), "a long silence");
    assert!(!another(
        &after(17),
        20_000,
        Milestone::AgentStatus { order: 0, level: "holding".into(), detail: String::new() }
    ));
}

#[test]
fn goals_by_what_the_script_was_for() {
    let to = |target: &str, status| {
        let mut seen = vec![at(0, discover("iPXE (BIOS)")), at(1, script(target, status, ""))];
        seen.push(at(2, ended(Proto::Http, KERNEL, Outcome::Complete, 1, 1)));
        seen.push(at(3, ended(Proto::Http, INITRD, Outcome::Complete, 1, 1)));
        boot_of(&seen).summary.phase
    };
    assert_eq!(to("environment talos", 200), Phase::Handed);
    assert_eq!(to("agent agent-amd64", 200), Phase::Starting);
    assert_eq!(to("local disk", 200), Phase::Disk);
    assert_eq!(to("local disk (http-404)", 404), Phase::Disk);
}

/// Each way not to boot, at a time, and the rule that must name it.
#[test]
fn every_rule_speaks_for_its_cause_and_for_no_other() {
    let dhcp = || vec![at(0, discover("UEFI x64 PXE")), at(1, offer())];
    let with = |more: Vec<Observation>| [dhcp(), more].concat();
    let loaded = || good_boot(0)[..9].to_vec();
    let scripted = || good_boot(0)[..12].to_vec();
    let foreign = Milestone::ForeignOffer { server: [10, 0, 0, 1].into() };
    let address = Milestone::DhcpOffer { file: "x".into(), address: Some([10, 0, 0, 7].into()) };
    type Row = (&'static str, Vec<Observation>, u64, Option<&'static str>, &'static str);
    let table: Vec<Row> = vec![
        ("asked, just now", dhcp(), 5_000, None, ""),
        ("offered, no taker", dhcp(), 25_000, Some("offer-without-request"), "dhcp.mode: server"),
        ("offered beside another server", with(vec![at(2, foreign)]), 25_000, Some("offer-without-request"), "VLAN"),
        (
            "address offered",
            vec![at(0, discover("x")), at(1, address)],
            25_000,
            Some("offer-without-request"),
            "another DHCP server",
        ),
        (
            "ignored",
            vec![at(0, discover("x")), at(1, Milestone::DhcpIgnored { why: "denied by policy".into() })],
            2,
            Some("dhcp-not-answered"),
            "policy",
        ),
        (
            "ignored, then served",
            vec![at(0, Milestone::DhcpIgnored { why: "rate".into() }), at(1, offer())],
            2,
            None,
            "",
        ),
        (
            "leased, nothing asked",
            with(vec![at(4_000, Milestone::DhcpAck { file: "f".into() })]),
            20_000,
            Some("file-not-asked"),
            "UDP 69",
        ),
        (
            "refused",
            with(vec![at(
                4_000,
                Milestone::FileRefused { proto: Proto::Tftp, name: "x.efi".into(), why: "no such file".into() },
            )]),
            4_001,
            Some("file-refused"),
            "dhcp.files",
        ),
        (
            "autoexec refused is harmless",
            with(vec![at(
                4_000,
                Milestone::FileRefused { proto: Proto::Tftp, name: "autoexec.ipxe".into(), why: "no such file".into() },
            )]),
            4_001,
            None,
            "",
        ),
        (
            "broken",
            with(vec![
                at(4_000, started(Proto::Tftp, SNP, 9)),
                at(5_000, ended(Proto::Tftp, SNP, Outcome::TimedOut, 3, 9)),
            ]),
            12_000,
            Some("transfer-broken"),
            "MTU",
        ),
        (
            "broken without a byte",
            with(vec![
                at(4_000, started(Proto::Tftp, SNP, 9)),
                at(5_000, ended(Proto::Tftp, SNP, Outcome::TimedOut, 0, 9)),
            ]),
            12_000,
            Some("transfer-broken"),
            "firewall",
        ),
        (
            "stalled",
            with(vec![at(4_000, started(Proto::Tftp, SNP, 9))]),
            40_000,
            Some("transfer-stalled"),
            "power and link",
        ),
        (
            "slow but going on",
            with(vec![
                at(4_000, started(Proto::Tftp, SNP, 9)),
                at(30_000, Milestone::FileProgress { proto: Proto::Tftp, name: SNP.into(), bytes: 1, total: 9 }),
            ]),
            40_000,
            None,
            "",
        ),
        ("loader silent", loaded(), 70_000, Some("loader-silent"), "Secure Boot"),
        ("loader just loaded", loaded(), 10_000, None, ""),
        (
            "script 412",
            [loaded(), vec![at(7_000, script("environment talos", 412, "kernel is being fetched, 40 %"))]].concat(),
            7_001,
            Some("script-refused"),
            "stoker environments",
        ),
        (
            "script 404",
            [loaded(), vec![at(7_000, script("environment x", 404, "there is none"))]].concat(),
            7_001,
            Some("script-refused"),
            "stoker.yaml",
        ),
        (
            "script 412, then 200",
            [
                loaded(),
                vec![at(7_000, script("environment talos", 412, "w")), at(8_000, script("environment talos", 200, ""))],
            ]
            .concat(),
            9_000,
            None,
            "",
        ),
        ("no kernel", scripted(), 30_000, Some("kernel-not-asked"), "TCP 8080"),
        (
            "kernel only",
            [scripted(), vec![at(7_000, ended(Proto::Http, KERNEL, Outcome::Complete, 1, 1))]].concat(),
            90_000,
            Some("load-stopped"),
            "console",
        ),
        ("no agent", good_boot(0)[..16].to_vec(), 200_000, Some("no-agent"), "console"),
        ("agent starting", good_boot(0)[..16].to_vec(), 20_000, None, ""),
        ("agent there", good_boot(0), 10_000_000, None, ""),
    ];
    for (case, seen, now, rule, remedy) in table {
        let diagnosis = diagnose::diagnose(&boot_of(&seen), now);
        assert_eq!(diagnosis.as_ref().map(|d| d.rule.as_str()), rule, "{case}: {diagnosis:?}");
        if let Some(d) = diagnosis {
            assert!(d.remedy.contains(remedy) && !d.cause.is_empty(), "{case}: {d:?}");
        }
    }
}

#[test]
fn transfers_without_a_mac_are_tied_by_address_and_strangers_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let t = timeline(&dir);
    let ip: IpAddr = [10, 0, 0, 7].into();
    t.take(Observation { ip: Some(ip), ..at(1, discover("UEFI x64 PXE")) });
    let event = br#"{"v":1,"at_ms":5,"transfer":1,"proto":"tftp","peer":"10.0.0.7:2070","name":"autoexec.ipxe","kind":"started","total":9,"blksize":1432,"windowsize":1}"#;
    t.take(events::observation(event).unwrap());
    let stranger = String::from_utf8(event.to_vec()).unwrap().replace("10.0.0.7", "10.0.0.8");
    t.take(events::observation(stranger.as_bytes()).unwrap());
    assert_eq!(t.story(MAC).unwrap()[0].steps.len(), 2);
    assert_eq!(t.boots().len(), 1);
    let mapped = String::from_utf8(event.to_vec()).unwrap().replace("10.0.0.7:2070", "[::ffff:10.0.0.7]:2070");
    assert_eq!(events::observation(mapped.as_bytes()).unwrap().ip, Some(ip));
    assert_eq!(events::observation(b"{}"), None);
    assert_eq!(events::observation(&[0xff; 2048]), None);
}

#[test]
fn a_name_from_the_network_cannot_carry_control_characters_into_the_story() {
    let event = br#"{"v":1,"at_ms":5,"transfer":1,"proto":"tftp","peer":"10.0.0.7:2070","mac":"52:54:00:12:34:56","name":"a\u001b[2J\nb","kind":"refused","code":1,"why":"x\u0007"}"#;
    let seen = events::observation(event).unwrap();
    let text = serde_json::to_string(&boot_of(&[seen])).unwrap();
    assert!(!text.contains("\\u001b") && !text.contains("\\u0007") && text.contains("a\\\\u{1b}[2J\\\\nb"), "{text}");
}

#[tokio::test]
async fn boots_survive_a_restart_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let t = timeline(&dir);
    good_boot(1_000).into_iter().for_each(|s| t.take(s));
    let before = t.story(MAC).unwrap();
    t.clone().save().await;
    std::fs::OpenOptions::new()
        .append(true)
        .open(dir.path().join("boots.jsonl"))
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"{half a line"))
        .unwrap();
    let t = timeline(&dir);
    assert_eq!(t.story(MAC).unwrap(), before, "and a damaged line is left out");
    t.take(at(60_000, discover("UEFI x64 PXE")));
    let numbers: Vec<u64> = t.story(MAC).unwrap().iter().map(|b| b.summary.boot).collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn only_so_many_boots_and_machines_are_kept() {
    let mut inner = Inner { next: 1, ..Inner::default() };
    for i in 0..20_u64 {
        inner.take(&at(i * 1_000_000, discover("UEFI x64 PXE")));
    }
    assert_eq!(inner.stories[&MAC].len(), limits::BOOTS);
    for i in 0..limits::STORIES as u32 + 10 {
        let [a, b, c, d] = i.to_be_bytes();
        let ip = Some(IpAddr::from([10, b, c, d]));
        let seen = Observation {
            mac: Some(Mac([2, 0, a, b, c, d])),
            ip,
            ..at(100_000_000 + u64::from(i), discover("UEFI x64 PXE"))
        };
        inner.take(&seen);
    }
    assert_eq!(inner.stories.len(), limits::STORIES);
    assert!(!inner.stories.contains_key(&MAC), "the one that was silent the longest made room");
    assert!(inner.by_ip.len() <= limits::IP_TABLE);
}

#[test]
fn a_watch_sees_everything_from_the_moment_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let t = timeline(&dir);
    t.take(at(1, discover("UEFI x64 PXE")));
    let (now, mut news) = t.watch();
    assert_eq!(now.len(), 1);
    t.take(at(2, offer()));
    match news.try_recv().unwrap() {
        WatchLine::Boot { boot, seen: Some(seen) } => assert_eq!((boot.last_ms, seen.at_ms), (2, 2)),
        other => panic!("{other:?}"),
    }
    t.look(60_000);
    match news.try_recv().unwrap() {
        WatchLine::Boot { boot, seen: None } => assert_eq!(boot.diagnosis.unwrap().rule, "offer-without-request"),
        other => panic!("{other:?}"),
    }
    t.look(61_000);
    assert!(news.try_recv().is_err(), "said once");
}

#[test]
fn a_boot_begins_with_its_power_on_and_silence_after_it_is_told() {
    let on = || Milestone::PowerOn { name: "uefi-1".into() };
    let mut boot = story::begin(1, MAC, 1_000);
    assert!(!story::begins_another(&boot, &at(1_000, on())), "of a boot that has just begun it is the first step");
    story::fold(&mut boot, &at(1_000, on()));
    assert_eq!(
        (boot.summary.doing.as_str(), boot.summary.phase, boot.summary.percent),
        ("switched on", Phase::Dhcp, 2)
    );
    assert!(diagnose::diagnose(&boot, 200_000).is_none(), "servers take minutes");
    let found = diagnose::diagnose(&boot, 302_000).unwrap();
    assert!(found.rule == "nothing-after-power-on" && found.cause.contains("301 s"), "{found:?}");
    let asks = at(9_000, discover("UEFI x64 PXE"));
    assert!(!story::begins_another(&boot, &asks), "the same boot");
    story::fold(&mut boot, &asks);
    assert!(diagnose::diagnose(&boot, 400_000).is_none_or(|d| d.rule != "nothing-after-power-on"));
    assert_eq!(boot.summary.started_ms, 1_000, "counted from power-on");
    assert!(story::begins_another(&boot, &at(20_000, on())), "switched on again");
}
