//! From an Environment that is applied to a machine that has its configuration,
//! over real sockets.

mod harness;

use control::api::types::{EnvironmentList, EnvironmentStatus};
use control::resource::{Object, Server, Typed as _};
use harness::{MAC, Running, UUID, ask, bundle, edge_serves, hello, start};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const CONFIG: &str = "\
version: v1alpha1
machine:
  type: worker
  token: of-the-cluster
  network: {hostname: before}
---
apiVersion: v1alpha1
kind: KmsgLogConfig
name: remote
url: tcp://10.0.0.1:514
";

fn post(control: &Running, path: &str, body: &Value) -> (u16, Value) {
    let text = body.to_string();
    let (code, answer) = control.api(&["-X", "POST", "-H", "Content-Type: application/json", "-d", &text], path);
    (code, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
}

fn apply(control: &Running, kind: &str, name: &str, spec: Value) {
    let document =
        json!({"apiVersion": "metal.sidero.dev/v1alpha2", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let (code, answer) = post(control, "/api/v1/objects", &document);
    assert_eq!(code, 200, "{answer}");
}

fn environment(control: &Running, name: &str, fits: impl Fn(&EnvironmentStatus) -> bool) -> EnvironmentStatus {
    let list = control
        .until("/api/v1/environments", |l: &EnvironmentList| l.environments.iter().any(|e| e.name == name && fits(e)));
    list.environments.into_iter().find(|e| e.name == name).unwrap()
}

fn server(control: &Running, fits: impl Fn(&Server) -> bool) -> Server {
    let path = format!("/api/v1/objects/server/{UUID}");
    let object = control.until(&path, |o: &Object| fits(&Server::from_object(o).unwrap()));
    Server::from_object(&object).unwrap()
}

fn phase(control: &Running, phase: &str) {
    server(control, |s| s.status.phase.is_some_and(|p| p.name() == phase));
}

/// A machine that has reported, is accepted as it is, and is free.
fn free_machine(control: &Running) {
    let body = serde_json::to_string(&hello("b1")).unwrap();
    assert_eq!(control.curl(&["-d", &body], "/agent/v1/hello").0, 200);
    phase(control, "Discovered");
    assert_eq!(post(control, &format!("/api/v1/servers/{UUID}/accept?as=clean"), &json!({})).0, 200);
    phase(control, "Available");
}

fn files(dir: &Path) -> Value {
    std::fs::write(dir.join("k"), "kernel").unwrap();
    std::fs::write(dir.join("i"), "initrd").unwrap();
    let url = |name: &str| format!("file://{}/{name}", dir.display());
    json!({"kernel": {"url": url("k"), "args": ["console=tty0", "talos.platform=metal"]}, "initrd": {"url": url("i")}})
}

/// The value of a kernel argument in a script, less control's own address.
fn argument(script: &str, key: &str) -> Option<String> {
    let line = script.lines().find(|l| l.starts_with("kernel "))?;
    let value = line.split(' ').find_map(|word| word.strip_prefix(&format!("{key}=")))?;
    value.strip_prefix("http://").and_then(|rest| rest.split_once('/')).map(|(_, path)| format!("/{path}"))
}

fn condition(s: &Server) -> Option<(String, String)> {
    s.status.conditions.iter().find(|c| c.r#type == "ConfigReady").map(|c| (c.status.clone(), c.message.clone()))
}

#[test]
fn a_machine_gets_its_own_configuration_by_the_token_of_its_boot() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), &bundle(dir.path()));
    free_machine(&control);
    apply(
        &control,
        "ServerClass",
        "c",
        json!({
            "environmentRef": {"name": "talos"},
            "configPatches": [{"op": "replace", "path": "/machine/network/hostname", "value": "by-class"}],
            "strategicPatches": ["machine: {network: {nameservers: [10.0.0.1]}}"],
        }),
    );
    let document = json!({"apiVersion": "metal.sidero.dev/v1alpha2", "kind": "Server", "metadata": {"name": UUID}, "spec": {
        "accepted": true,
        "configPatches": [{"op": "add", "path": "/machine/install", "value": {"disk": "/dev/vda"}}],
        "strategicPatches": ["machine: {network: {hostname: by-server}}\n---\napiVersion: v1alpha1\nkind: KmsgLogConfig\nname: remote\nurl: tcp://10.0.0.2:514\n"],
    }});
    assert_eq!(post(&control, "/api/v1/objects", &document).0, 200);

    // Refused early: an Environment that does not exist. Warned early: one that is not ready.
    let ask_for = |environment: Option<&str>| json!({"name": "web-1", "from": {"class": "c"}, "config": CONFIG, "environment": environment});
    let (code, why) = post(&control, "/api/v1/allocations", &ask_for(Some("nosuch")));
    assert!(code == 404 && why.to_string().contains("no Environment nosuch"), "{code} {why}");
    let (code, got) = post(&control, "/api/v1/allocations", &ask_for(None));
    assert_eq!(code, 200, "{got}");
    assert!(got["warnings"][0].as_str().unwrap().contains("no Environment talos"), "{got}");
    let waits = server(&control, |s| s.status.reason == "EnvironmentNotReady");
    assert!(waits.status.message.contains("no Environment talos"), "{}", waits.status.message);
    assert!(
        control.curl(&[], &ask(&MAC.replace(':', "-"))).1.contains("agent-amd64"),
        "until then it holds in the agent"
    );

    apply(&control, "Environment", "talos", files(dir.path()));
    environment(&control, "talos", |e| e.ready);
    // Without waiting for its next look: the Environment's readiness wakes it.
    server(&control, |s| s.status.reason != "EnvironmentNotReady");
    edge_serves(&control, &[]);
    let (code, script) = control.curl(&[], &ask(&MAC.replace(':', "-")));
    assert_eq!(code, 200, "{script}");
    assert!(script.contains("/env/talos/x86_64/vmlinuz ") && script.contains(" console=tty0 "), "{script}");
    let config = argument(&script, "talos.config").unwrap();
    assert_eq!(argument(&script, "stoker.config").as_ref(), Some(&config));

    // Nobody else has it: no token, a wrong one, another machine's.
    for path in ["/configdata".into(), format!("/configdata?uuid={UUID}"), config.replace("token=", "token=0")] {
        let (code, body) = control.curl(&[], &path);
        assert!(code == 403 && !body.contains("of-the-cluster"), "{path}: {code} {body}");
    }
    let (code, body) = control.curl(&[], &config);
    assert_eq!(code, 200, "{body}");
    for part in [
        "token: of-the-cluster",
        "hostname: by-server",
        "disk: /dev/vda",
        "nameservers",
        "10.0.0.1",
        "url: tcp://10.0.0.2:514",
        &format!("metal.sidero.dev/uuid={UUID}"),
        &format!("sidero://{UUID}"),
    ] {
        assert!(body.contains(part), "{part} is missing: {body}");
    }
    assert!(!body.contains("by-class") && !body.contains("10.0.0.1:514"), "the server's patches come last: {body}");
    let made = server(&control, |s| condition(s).is_some());
    assert_eq!(condition(&made), Some(("True".into(), String::new())));

    // A patch that does not apply: a condition, no configuration, and nothing of it to whoever asks.
    let mut object: Object = control.get(&format!("/api/v1/objects/server/{UUID}"));
    object.spec["configPatches"] = json!([{"op": "replace", "path": "/machine/nothing/here", "value": "s3cr3t"}]);
    let text = serde_json::to_string(&object).unwrap();
    assert_eq!(
        control.api(&["-X", "PUT", "-H", "Content-Type: application/json", "-d", &text], "/api/v1/objects").0,
        200
    );
    let (code, body) = control.curl(&[], &config);
    assert!(code == 500 && !body.contains("s3cr3t") && !body.contains("nothing"), "{code} {body}");
    let broken = server(&control, |s| condition(s).is_some_and(|(status, _)| status == "False"));
    let (_, why) = condition(&broken).unwrap();
    assert!(
        why.contains("config patch 1 of the server (replace /machine/nothing/here)") && !why.contains("s3cr3t"),
        "{why}"
    );

    let mut object: Object = control.get(&format!("/api/v1/objects/server/{UUID}"));
    object.spec["configPatches"] = json!([]);
    let text = serde_json::to_string(&object).unwrap();
    assert_eq!(
        control.api(&["-X", "PUT", "-H", "Content-Type: application/json", "-d", &text], "/api/v1/objects").0,
        200
    );
    assert_eq!(control.curl(&[], &config).0, 200);
    server(&control, |s| condition(s) == Some(("True".into(), String::new())));
    control.end();
}

#[test]
fn in_the_open_mode_the_uuid_is_enough_as_with_sidero() {
    let dir = tempfile::tempdir().unwrap();
    let control = start(dir.path(), &format!("config_access: open\n{}", bundle(dir.path())));
    free_machine(&control);
    let (code, _) = control.curl(&[], &format!("/configdata?uuid={UUID}"));
    assert_eq!(code, 403, "nobody has it yet");
    let ask_for = json!({"name": "web-1", "from": {"server": UUID}, "config": "#cloud-config\nhostname: x\n"});
    let (code, got) = post(&control, "/api/v1/allocations", &ask_for);
    assert_eq!(code, 200, "{got}");
    assert!(got["warnings"][0].as_str().unwrap().contains("no Environment default"), "{got}");
    let (code, body) = control.curl(&[], &format!("/configdata?uuid={UUID}"));
    assert_eq!(
        (code, body.as_str()),
        (200, "#cloud-config\nhostname: x\n"),
        "what is no Talos configuration is handed on as it is"
    );
    control.end();
}

/// Serves one file by TLS until the test's process ends; returns its URL and the certificate of its authority.
fn tls(body: &'static [u8]) -> (String, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/vmlinuz", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(64).flatten() {
            let Ok(session) = rustls::ServerConnection::new(config.clone()) else { return };
            let mut tls = rustls::StreamOwned::new(session, stream);
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = tls.write_all(answer.as_bytes()).and_then(|()| tls.write_all(body)).and_then(|()| tls.flush());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    (url, own.cert.pem())
}

/// The program itself, with a certificate store of its own; returns what it says of the environment.
fn fetched_by_tls(url: &str, authority: &str) -> EnvironmentStatus {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority).unwrap();
    std::fs::write(dir.path().join("i"), "initrd").unwrap();
    let state = dir.path().join("state");
    let config = format!(
        "interface: lo\naddress: 127.0.0.1\ndhcp: {{mode: 'off'}}\nstate: {}\nenvironments:\n  e: {{kernel: '{url}', initrd: 'file://{}/i'}}\n",
        state.display(),
        dir.path().display()
    );
    std::fs::write(dir.path().join("stoker.yaml"), config).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_stoker-control"))
        .args(["--http-port", "0", "--config"])
        .arg(dir.path().join("stoker.yaml"))
        .env("SSL_CERT_FILE", dir.path().join("ca.pem"))
        .env_remove("SSL_CERT_DIR")
        .env("STOKER_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let serves = log.find(|line| line.contains("serves") || line.contains("rror"));
    assert!(serves.as_ref().is_some_and(|line| line.contains("stoker-control serves")), "{serves:?}");
    // Read on, or a full pipe would stop it.
    let reader = std::thread::spawn(move || log.count());
    let mut found = None;
    for _ in 0..1200 {
        let out = Command::new("curl")
            .args(["-s", "-m", "20", "--unix-socket"])
            .arg(state.join("run/control.sock"))
            .arg("http://stoker/api/v1/environments")
            .output()
            .unwrap();
        let list: EnvironmentList = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        found = list.environments.into_iter().find(|e| e.name == "e");
        if found.as_ref().is_some_and(|e| e.ready) || text.contains("\"failed\"") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
    found.unwrap()
}

#[test]
fn https_is_fetched_from_whom_the_host_trusts_and_from_nobody_else() {
    let (url, authority) = tls(b"a kernel over TLS");
    let trusted = fetched_by_tls(&url, &authority);
    assert!(trusted.ready, "{trusted:?}");
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let refused = fetched_by_tls(&url, &stranger);
    let text = format!("{refused:?}").to_lowercase();
    assert!(!refused.ready && text.contains("certificate"), "{text}");
}
