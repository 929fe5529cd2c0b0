//! A Server's BMC by its name: `stoker power` and `stoker bmc` through a running control, with the
//! credentials of a Secret; what is asked for --force; what is shown on the Server.

use control::config::{self, Overrides};
use control::rack::bmc::{Bmc, Switch};
use control::run::Control;
use protocol::ipmi::Suite;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

struct Site {
    dir: tempfile::TempDir,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Site {
    /// Control in a runtime of its own, without DHCP.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let stop = CancellationToken::new();
        let (tell, told) = std::sync::mpsc::channel();
        let ending = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let control = Control::open(settings).await.unwrap();
                tell.send(()).unwrap();
                control.serve(ending).await.unwrap();
            });
        });
        told.recv_timeout(Duration::from_secs(60)).unwrap();
        Self { dir, stop, thread: Some(thread) }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Exit code and all that it said.
    fn stoker(&self, args: &[&str]) -> (i32, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_stoker"))
            .args(args)
            .env("STOKER_STATE", self.state())
            .env_remove("STOKER_BMC")
            .output()
            .unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, text) = self.stoker(args);
        assert_eq!(code, 0, "stoker {args:?}: {text}");
        text
    }

    fn apply(&self, yaml: &str) {
        let file = self.dir.path().join("objects.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.ok(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// A Server with this BMC, and the Secret of its password.
    fn server(&self, address: SocketAddr, password: &str, more: &str) {
        use base64::Engine as _;
        let password = base64::engine::general_purpose::STANDARD.encode(password);
        self.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bmc, namespace: stoker}}\ndata: {{pass: {password}}}\n---\n\
             apiVersion: metal.sidero.dev/v1alpha2\nkind: Server\nmetadata: {{name: {UUID}}}\nspec:\n  accepted: false\n  \
             bmc:\n    endpoint: {}\n    port: {}\n    user: admin\n    \
             passFrom: {{secretKeyRef: {{namespace: stoker, name: bmc, key: pass}}}}\n    {more}\n",
            address.ip(),
            address.port()
        ));
    }
}

fn settings(dir: &Path) -> config::Settings {
    let state = dir.join("state");
    let text = format!("interface: lo\naddress: 127.0.0.1\ndhcp: {{mode: 'off'}}\nstate: {}\n", state.display());
    let file = dir.join("stoker.yaml");
    std::fs::write(&file, text).unwrap();
    let mut settings = config::load(Some(&file), &Overrides::default()).unwrap_or_else(|p| panic!("{p:#?}"));
    settings.http_port = 0;
    settings
}

#[test]
fn a_server_is_switched_by_its_name_and_with_force_where_it_is_not_free() {
    let machine = Switch::default();
    let bmc = Bmc::start(&[Suite::S17, Suite::S3], 4, machine.clone());
    let site = Site::start();
    site.server(bmc.address, control::rack::bmc::PASSWORD, "");

    assert!(site.ok(&["power", "status", UUID]).contains("power  off"));
    let (code, refused) = site.stoker(&["power", "on", UUID]);
    assert!(code == 1 && refused.contains("not accepted") && refused.contains("--force"), "{refused}");
    assert!(machine.done().is_empty(), "and nothing was done");
    assert!(site.ok(&["power", "on", &UUID[..8], "--force"]).contains("the machine is on"));
    assert!(site.ok(&["power", "pxe", UUID, "--force", "--cycle"]).contains("pxe, next boot only, UEFI"));
    assert_eq!(machine.done(), ["on", "boot Network once", "cycle"]);
    assert!(site.ok(&["bmc", "info", UUID]).contains("IPMI 2.0"));
    assert!(site.ok(&["bmc", "sensors", UUID]).contains("35"));
    let events: Value = serde_json::from_str(&site.ok(&["bmc", "sel", UUID, "--json"])).unwrap();
    assert_eq!(events, Value::Array(vec![]));
    let logins = bmc.state().logins;
    assert_eq!(logins, 1, "one session for all of it");

    let (code, nobody) = site.stoker(&["power", "status", "ffffffff"]);
    assert!(code == 1 && nobody.contains("no Server"), "{nobody}");
    assert_eq!(site.stoker(&["power", "status"]).0, 2);
    drop(site);
    let open = bmc.state().open;
    assert_eq!(open, 0, "the session is given back when control ends");
}

#[test]
fn f21_a_refused_login_is_a_condition_without_secrets_and_a_new_secret_mends_it() {
    let bmc = Bmc::start(&[Suite::S17], 4, Switch::default());
    let site = Site::start();
    site.server(bmc.address, "wrong-secret", "");
    for _ in 0..5 {
        let (code, text) = site.stoker(&["power", "status", UUID]);
        assert!(code == 1 && text.contains("login") && !text.contains("wrong-secret"), "{text}");
    }
    let logins = bmc.state().logins;
    assert_eq!(logins, 3);
    let condition = |kind: &str| {
        let server: Value = serde_json::from_str(&site.ok(&["get", "server", UUID, "-o", "json"])).unwrap();
        let all = server["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == kind).map(|c| c["status"].as_str().unwrap_or_default().to_owned())
    };
    let until = |kind: &str, wanted: &str| {
        let fits = || {
            std::thread::sleep(Duration::from_millis(50));
            condition(kind).as_deref() == Some(wanted)
        };
        assert!((0..400).any(|_| fits()), "{kind} never became {wanted}: {:?}", condition(kind));
    };
    until("BMCAuthFailed", "True");
    until("BMCReachable", "True");
    let whole = site.ok(&["get", "server", UUID, "-o", "yaml"]);
    assert!(!whole.contains("wrong-secret"), "{whole}");

    site.server(bmc.address, control::rack::bmc::PASSWORD, "");
    site.ok(&["power", "status", UUID]);
    until("BMCAuthFailed", "False");
}

#[test]
fn a_server_may_have_a_redfish_bmc() {
    let machine = Switch::default();
    let mut bmc = Bmc::new(control::rack::bmc::USER, control::rack::bmc::PASSWORD, machine.clone());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = bmc.serve_redfish(listener, 4).unwrap();
    let site = Site::start();
    site.server(address, control::rack::bmc::PASSWORD, "interface: redfish+http");
    assert!(site.ok(&["power", "status", UUID]).contains("power  off"));
    site.ok(&["power", "on", UUID, "--force"]);
    assert_eq!(machine.done(), ["on"]);
    assert!(site.ok(&["bmc", "info", UUID]).contains("Redfish 1.15.0"));

    let by_address = Command::new(env!("CARGO_BIN_EXE_stoker"))
        .args(["power", "--bmc", &address.to_string(), "--user", "admin", "--interface", "redfish+http", "status"])
        .env("STOKER_BMC_PASSWORD", control::rack::bmc::PASSWORD)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&by_address.stdout).into_owned();
    assert!(by_address.status.success() && text.contains("power  on"), "{text}{by_address:?}");
}
