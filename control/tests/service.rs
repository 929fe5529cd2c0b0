//! Control as a whole, over real sockets: started from a configuration file,
//! asked by curl, watched over its Unix socket, ended and started again.

mod harness;

use control::api::types::{BootList, EnvironmentList, MachineRecord, MachineStory, Phase, Problem, Status, WatchLine};
use control::run::{Control, StartError};
use harness::{MAC, UUID, ask, bundle, edge_serves, hello, settings, start};
use protocol::event::{CURRENT, Event, Kind, Outcome, Proto};
use protocol::manifest::{Manifest, ObjectId};
use protocol::report::{Answer, OrderKind};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::time::Duration;

#[test]
fn sidero_arguments_and_status_codes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("k"), "kernel").unwrap();
    let here = dir.path().display();
    let more = format!(
        "{}environments:\n  ready: {{kernel: 'file://{here}/k', initrd: 'file://{here}/k'}}\n  waiting: {{kernel: 'file://{here}/nosuch', initrd: 'file://{here}/k'}}\n\
         machines:\n  - {{mac: '52:54:00:00:00:01', environment: ready, args: [x=1]}}\n  - {{mac: '52:54:00:00:00:02', environment: waiting}}\n\
         \x20 - {{mac: '52:54:00:00:00:03', boot: disk}}\n  - {{mac: '52:54:00:00:00:04', boot: disk, boot_from_disk_method: http-404}}\n\
         \x20 - {{mac: '52:54:00:00:00:05', boot: disk, boot_from_disk_method: ipxe-sanboot}}\n",
        bundle(dir.path())
    );
    let control = start(dir.path(), &more);
    control.until("/api/v1/status", |s: &Status| s.bundle.is_some());
    control.until("/api/v1/environments", |e: &EnvironmentList| {
        e.environments.iter().any(|e| e.name == "ready" && e.ready)
    });

    let (code, why) = control.curl(&[], &ask("52-54-00-00-00-01"));
    assert!(code == 412 && why.contains("is stoker-edge running"), "nobody serves its files: {code} {why}");
    assert_eq!(control.curl(&[], &ask("52-54-00-00-00-03")).0, 200, "a local disk needs no edge");
    edge_serves(&control, &[("env/ready/x86_64/vmlinuz", "object is damaged")]);
    let (code, why) = control.curl(&[], &ask("52-54-00-00-00-01"));
    assert!(code == 412 && why.contains("vmlinuz: object is damaged"), "{code} {why}");
    assert_eq!(control.curl(&[], &ask("52-54-00-12-34-56")).0, 200, "the agent's files are well");
    edge_serves(&control, &[]);

    let (code, script) = control.curl(&[], &ask("52-54-00-12-34-56"));
    assert_eq!(code, 200);
    assert!(
        script.starts_with("#!ipxe\n")
            && script.contains("/52-54-00-12-34-56/env/agent-amd64/vmlinuz initrd=initramfs.xz "),
        "{script}"
    );
    assert!(script.contains(&format!(" stoker.mac={MAC} stoker.control={} stoker.attempt=", control.url)), "{script}");
    assert!(script.contains(" panic=30 ") && script.contains(" stoker.ip=${netX/ip} "), "{script}");

    let (code, script) = control.curl(&[], &ask("nonsense"));
    assert_eq!(code, 200, "a bad MAC is dropped");
    assert!(script.contains("stoker.mac=${netX/mac}"), "{script}");

    let (code, script) = control.curl(&[], &ask("52-54-00-00-00-01"));
    assert_eq!(code, 200);
    assert!(script.contains("/env/ready/x86_64/vmlinuz initrd=initramfs.xz x=1 ||"), "{script}");

    let (code, why) = control.curl(&[], &ask("52-54-00-00-00-02"));
    assert_eq!(code, 412);
    assert!(why.contains("environment waiting is not ready") && why.contains("nosuch"), "{why}");

    let (code, script) = control.curl(&[], &ask("52-54-00-00-00-03"));
    assert_eq!(code, 200);
    assert!(script.contains("iseq ${platform} efi && exit 1 ||"), "by the firmware where no method is named: {script}");
    assert_eq!(control.curl(&[], &ask("52-54-00-00-00-04")), (404, String::new()));
    assert!(control.curl(&[], &ask("52-54-00-00-00-05")).1.contains("sanboot --no-describe --drive 0x80"));
    let (code, why) = control.curl(&[], "/ipxe?arch=arm64");
    assert!(code == 404 && why.contains("no agent for arm64"), "{code} {why}");

    for path in ["/boot.ipxe", "/autoexec.ipxe"] {
        let (code, script) = control.curl(&["-D", "-"], path);
        assert_eq!(code, 200);
        assert!(script.contains("#!ipxe") && script.contains(&format!("set stoker {}", control.url)), "{script}");
        assert!(script.to_lowercase().contains("cache-control: no-store"), "h37: {script}");
    }
    control.end();
}

#[test]
fn files_are_the_edges_and_it_is_on_the_host_that_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), &bundle(dir.path()));
    control.until("/api/v1/status", |s: &Status| s.bundle.is_some());
    let (code, head) = control.curl(&["-D", "-"], "/env/agent-amd64/vmlinuz");
    assert_eq!(code, 302);
    assert!(head.contains("location: http://127.0.0.1:8080/env/agent-amd64/vmlinuz"), "{head}");
    let (_, head) = control.curl(&["-D", "-", "-H", "Host: [fd77::1]:8081"], "/tftp/snponly.efi");
    assert!(head.contains("location: http://[fd77::1]:8080/tftp/snponly.efi"), "{head}");
    let (_, head) = control.curl(&["-D", "-", "-H", "Host: vip.example"], "/tftp/snponly.efi");
    assert!(head.contains("location: http://vip.example:8080/tftp/snponly.efi"), "{head}");
    for path in [
        "/env/",
        "/env",
        "/tftp/",
        "/tftp/nosuch",
        "/env/agent-amd64/",
        "/env/../../etc/passwd",
        "/tftp/%2e%2e/manifest.json",
        "/",
    ] {
        assert_eq!(control.curl(&["--path-as-is"], path).0, 404, "{path}");
    }
    let manifest = Manifest::parse(&std::fs::read(control.state.join("publish/manifest.json")).unwrap()).unwrap();
    for name in
        ["autoexec.ipxe", "tftp/autoexec.ipxe", "snponly.efi", "tftp/snponly.efi", "env/agent-amd64/initramfs.xz"]
    {
        let entry = manifest.entries.get(name).unwrap_or_else(|| panic!("{name}"));
        let bytes = std::fs::read(control.state.join("publish/objects/sha256").join(entry.object.to_string())).unwrap();
        assert_eq!((ObjectId::of(&bytes), bytes.len() as u64), (entry.object, entry.length), "{name}");
    }
    assert_eq!(control.curl(&[], "/healthz"), (200, "ok\n".into()));
    assert!(control.curl(&[], "/metrics").1.contains("stoker_control_manifest_generation"));
    control.end();
}

#[test]
fn an_agent_reports_and_its_facts_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), "agent: {poll_seconds: 7}\n");
    let body = serde_json::to_string(&hello("b1")).unwrap();
    let (code, answer) = control.curl(&["-d", &body], "/agent/v1/hello");
    assert_eq!(code, 200, "{answer}");
    let answer: Answer = serde_json::from_str(&answer).unwrap();
    assert_eq!((answer.order.id, answer.order.kind, answer.poll_seconds), (0, OrderKind::Hold, 7));
    let status =
        format!(r#"{{"version":1,"boot_id":"b1","uuid":"{UUID}","boot_mac":"{MAC}","order":0,"level":"holding"}}"#);
    assert_eq!(control.curl(&["-d", &status], "/agent/v1/status").0, 200);

    for (bad, code) in
        [("{", 400), ("[]", 400), (r#"{"version":1,"agent":"x","boot_id":"b","uptime_s":1,"facts":{}}"#, 400)]
    {
        assert_eq!(control.curl(&["-d", bad], "/agent/v1/hello").0, code, "{bad}");
    }
    let big = dir.path().join("big");
    std::fs::write(&big, vec![b' '; protocol::report::MAX_REPORT + 1]).unwrap();
    assert_eq!(
        control.curl(&["-H", "Expect:", "--data-binary", &format!("@{}", big.display())], "/agent/v1/hello").0,
        413
    );
    assert_eq!(control.curl(&[], "/agent/v1/hello").0, 405);

    let story: MachineStory = control.until(&format!("/api/v1/boots/{MAC}"), |s: &MachineStory| !s.boots.is_empty());
    assert_eq!(story.boots[0].summary.phase, Phase::Agent);
    assert_eq!(story.machine.unwrap().hello, hello("b1"));
    control.end();

    let control = start(dir.path(), "");
    for id in [UUID, MAC, "52-54-00-12-34-56"] {
        let record: MachineRecord = control.get(&format!("/api/v1/machines/{id}"));
        assert_eq!((record.id.as_str(), record.hello.clone()), (UUID, hello("b1")), "{id}");
    }
    let boots: BootList = control.get("/api/v1/boots");
    assert_eq!(boots.boots.len(), 1, "boots survive too");
    let (code, body) = control.api(&[], "/api/v1/machines/52:54:00:00:00:99");
    let problem: Problem = serde_json::from_str(&body).unwrap();
    assert!(code == 404 && !problem.remedy.is_empty(), "{body}");
    control.end();
}

#[test]
fn the_edges_events_reach_a_watcher_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), "");
    let mut watch = UnixStream::connect(control.state.join("run/control.sock")).unwrap();
    watch.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    watch.write_all(b"GET /api/v1/boots/watch?mac=52:54:00:12:34:56 HTTP/1.1\r\nHost: stoker\r\n\r\n").unwrap();
    let mut lines = BufReader::new(watch)
        .lines()
        .map(|l| l.unwrap())
        .filter(|l| l.starts_with('{'))
        .map(|l| serde_json::from_str::<WatchLine>(&l).unwrap());
    assert_eq!(lines.next(), Some(WatchLine::Synced), "nothing is there yet");

    let edge = UnixDatagram::unbound().unwrap();
    edge.connect(control.state.join("run/events.sock")).unwrap();
    let mode = std::fs::metadata(control.state.join("run/events.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o222, 0o222, "the edge runs as another user");
    let mode = std::fs::metadata(control.state.join("run/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let event = |mac: Option<&str>, peer: &str, at_ms, kind| Event {
        v: CURRENT,
        at_ms,
        transfer: 1,
        proto: Proto::Tftp,
        peer: peer.into(),
        mac: mac.map(|m| m.parse().unwrap()),
        name: "snponly.efi".into(),
        kind,
    };
    let send = |event: Event| edge.send(&serde_json::to_vec(&event).unwrap()).unwrap();
    edge.send(b"not an event").unwrap();
    let now = control::observe::now_ms();
    send(event(
        Some("52:54:00:99:99:99"),
        "10.0.0.8:2070",
        now,
        Kind::Started { total: 4, blksize: 1468, windowsize: 4 },
    ));
    send(event(Some(MAC), "10.0.0.7:2070", now, Kind::Started { total: 4, blksize: 1468, windowsize: 4 }));
    send(event(
        None,
        "10.0.0.7:2070",
        now + 1,
        Kind::Ended { outcome: Outcome::Complete, bytes: 4, total: 4, retries: 0, elapsed_us: 9, why: String::new() },
    ));
    let Some(WatchLine::Boot { boot, seen: Some(_) }) = lines.next() else { panic!("no boot") };
    assert_eq!(
        (boot.mac.to_string().as_str(), boot.phase),
        (MAC, Phase::Loader),
        "another machine's news are left out"
    );
    let whole = |s: &MachineStory| s.boots[0].steps[0].bytes == 4;
    let story: MachineStory = control.until(&format!("/api/v1/boots/{MAC}"), whole);
    assert_eq!(story.boots[0].summary.phase, Phase::Ipxe, "an event without a MAC goes by address");
    // Ends although a watch is open.
    control.end();
    assert!(lines.all(|l| matches!(l, WatchLine::Boot { .. } | WatchLine::Alive { .. })), "and the watch ends with it");
}

#[test]
fn a_slow_head_is_cut_off_and_does_not_hold_others_up() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), "");
    let mut slow = std::net::TcpStream::connect(control.url.trim_start_matches("http://")).unwrap();
    slow.write_all(b"GET /boot.ipxe HTTP/1.1\r\nHost: x\r\n").unwrap();
    assert_eq!(control.curl(&[], "/boot.ipxe").0, 200);
    slow.set_read_timeout(Some(control::limits::HTTP_HEADER_TIME * 4)).unwrap();
    let mut rest = Vec::new();
    let begun = std::time::Instant::now();
    let _ = slow.read_to_end(&mut rest);
    assert!(
        begun.elapsed() < control::limits::HTTP_HEADER_TIME * 3 && !rest.starts_with(b"HTTP/1.1 200"),
        "{:?}",
        begun.elapsed()
    );
    let long = format!("X: {}", "x".repeat(40_000));
    assert!(matches!(control.curl(&["-H", &long], "/boot.ipxe").0, 400 | 431));
    control.end();
}

#[test]
fn what_another_process_has_is_said_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = |settings| runtime.block_on(async { Control::open(settings).await }).err().expect("started twice");
    let why = refused(settings(dir.path(), ""));
    assert!(
        matches!(&why, StartError::Store(_)) && why.to_string().contains("another stoker-control uses it"),
        "{why}"
    );
    let other = tempfile::tempdir().unwrap();
    let mut second = settings(other.path(), "");
    second.http_port = control.url.rsplit(':').next().unwrap().parse().unwrap();
    let why = refused(second);
    assert_eq!(why.exit_code(), 3);
    assert!(why.to_string().contains("is in use by another process") && !why.to_string().contains('\n'), "{why}");
    control.end();
}

#[test]
fn the_command_checks_its_configuration_and_ends_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    std::fs::write(&file, "http_port: x\nnope: 1\naddress: 127.0.0.1\n").unwrap();
    let program = env!("CARGO_BIN_EXE_stoker-control");
    let out = Command::new(program).arg("--config").arg(&file).arg("--check-config").output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{text}");
    assert!(
        text.contains("line 1: http_port") && text.contains("line 2: nope") && text.contains("2 problems"),
        "{text}"
    );

    let state = dir.path().join("state");
    let mut child = Command::new(program)
        .args(["--address", "127.0.0.1", "--dhcp-mode", "off", "--log-format", "json", "--http-port", "1", "--state"])
        .arg(&state)
        .env("STOKER_LOG", "info")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let first = log
        .find(|line| line.contains("serves") || line.contains("in use") || line.contains("may not be opened"))
        .unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&first).is_ok(), "{first}");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    let served = first.contains("serves");
    assert!(killed.success() || !served);
    assert_eq!(status.code(), Some(if served { 0 } else { 3 }), "{first}");
    assert!(!served || !state.join("run/control.sock").exists());
}
