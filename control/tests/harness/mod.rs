//! Control as a whole in a test: started from a configuration file, asked by curl.

// Each test binary uses what it needs.
#![allow(dead_code)]

use control::config::{self, Overrides};
use control::run::Control;
use protocol::manifest::{EdgeState, Manifest, ObjectId};
use protocol::report::{Facts, FirmwareKind, Hello, Interface, System};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
pub const MAC: &str = "52:54:00:12:34:56";

/// Control, in a runtime of its own.
pub struct Running {
    pub url: String,
    pub state: PathBuf,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub fn settings(dir: &Path, more: &str) -> config::Settings {
    let text = format!(
        "interface: lo\naddress: 127.0.0.1\ndhcp: {{mode: 'off'}}\nstate: {}\n{more}",
        dir.join("state").display()
    );
    let file = dir.join("stoker.yaml");
    std::fs::write(&file, text).unwrap();
    let mut settings = config::load(Some(&file), &Overrides::default()).unwrap_or_else(|p| panic!("{p:#?}"));
    settings.http_port = 0;
    settings
}

/// Starts control on a port that the kernel chooses, in a runtime of its own.
pub fn start(dir: &Path, more: &str) -> Running {
    let settings = settings(dir, more);
    let state = settings.state.clone();
    let stop = CancellationToken::new();
    let (tell, told) = std::sync::mpsc::channel();
    let ending = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let control = Control::open(settings).await.unwrap();
            tell.send(control.node_address().unwrap()).unwrap();
            control.serve(ending).await.unwrap();
        });
    });
    let address = told.recv_timeout(Duration::from_secs(20)).unwrap();
    Running { url: format!("http://{address}"), state, stop, thread: Some(thread) }
}

impl Running {
    /// Status and body, by curl.
    pub fn curl(&self, args: &[&str], path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.url);
        let out = Command::new("curl")
            .args(["-s", "-m", "20", "-w", "\n%{http_code}"])
            .args(args)
            .arg(&url)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    pub fn api(&self, args: &[&str], path: &str) -> (u16, String) {
        let socket = self.state.join("run/control.sock");
        let all = [&["--unix-socket", socket.to_str().unwrap()], args].concat();
        let out = Command::new("curl")
            .args(["-s", "-m", "20", "-w", "\n%{http_code}"])
            .args(all)
            .arg(format!("http://stoker{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (code, body) = self.api(&[], path);
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    /// Asks until it fits: for what another thread brings about.
    pub fn until<T: DeserializeOwned + std::fmt::Debug>(&self, path: &str, fits: impl Fn(&T) -> bool) -> T {
        let mut last = None;
        for _ in 0..400 {
            let now: T = self.get(path);
            if fits(&now) {
                return now;
            }
            last = Some(now);
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("{path} never fitted: {last:#?}");
    }

    pub fn end(mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A bundle folder with an agent and a boot loader.
pub fn bundle(dir: &Path) -> String {
    let files: Vec<_> = [("tftp/snponly.efi", "efi"), ("env/agent-amd64/vmlinuz", "kernel"), ("env/agent-amd64/initramfs.xz", "initrd")]
        .iter()
        .map(|(path, bytes)| {
            let at = dir.join("bundle").join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, bytes).unwrap();
            serde_json::json!({"path": path, "sha256": ObjectId::of(bytes.as_bytes()), "length": bytes.len(), "content_type": "application/octet-stream", "role": "x", "arch": "x86_64"})
        })
        .collect();
    let index = serde_json::json!({"version": 1, "name": "test bundle", "files": files}).to_string();
    std::fs::write(dir.join("bundle/bundle.json"), index).unwrap();
    "bundle: bundle\n".into()
}

/// What the edge would write: it serves what is published now, but for these names.
pub fn edge_serves(control: &Running, refused: &[(&str, &str)]) {
    let manifest = Manifest::parse(&std::fs::read(control.state.join("publish/manifest.json")).unwrap()).unwrap();
    let state = EdgeState {
        version: 1,
        pid: 1,
        at_ms: 0,
        generation: manifest.generation,
        refused: refused.iter().map(|(name, why)| (name.to_string(), why.to_string())).collect(),
        driver: "epoll".into(),
        listen: Default::default(),
    };
    std::fs::create_dir_all(control.state.join("edge")).unwrap();
    let path = control.state.join("edge/edge.state");
    control::publish::replace_file(&path, &serde_json::to_vec(&state).unwrap()).unwrap();
}

pub fn ask(mac: &str) -> String {
    format!("/ipxe?uuid={UUID}&mac={mac}&domain=&hostname=&serial=&arch=x86_64")
}

/// What an agent says first.
pub fn hello(boot_id: &str) -> Hello {
    let mac = MAC.parse().ok();
    let system = System { uuid: UUID.parse().ok(), product_name: "Standard PC".into(), ..System::default() };
    let network = vec![Interface { mac, ..Interface::default() }];
    let facts = Facts { system, network, firmware: FirmwareKind::Uefi, ..Facts::default() };
    Hello {
        version: 1,
        agent: "0.1.0".into(),
        boot_id: boot_id.into(),
        attempt: None,
        boot_mac: mac,
        uptime_s: 4.5,
        facts,
    }
}
