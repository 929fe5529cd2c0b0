//! A running `stoker up` and what a case asks of it.

use control::api::types::{MachineList, MachineRecord, MachineStory, Status};
use control::rack::machine::console_tail;
use control::rack::process::{self, Process};
use control::rack::qmp::connect_short;
use control::rack::{Disk, Network, Spec};
use protocol::report::FirmwareKind;
use serde::de::DeserializeOwned;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// From the start of `stoker up` until edge and control are ready: 2 s measured.
const READY: Duration = Duration::from_secs(60);
/// From SIGTERM until everything is gone: 1 s measured.
const GONE: Duration = Duration::from_secs(20);

/// `stoker up` with a state directory of its own.
pub struct Stage {
    /// Its state directory.
    pub state: PathBuf,
    /// Kept until the end of the case.
    _dir: tempfile::TempDir,
    up: Process,
}

impl Stage {
    /// Starts it with these arguments; inside `network` where one is given, else in this host's own.
    pub fn start(network: Option<&Network>, args: &[&str]) -> Self {
        let bundle = crate::ways::bundle().expect("no bundle: run `make bundle` first, or name one with STOKER_BUNDLE");
        Self::start_from(&bundle, network, args)
    }

    /// The same with a bundle of its own.
    pub fn start_from(bundle: &Path, network: Option<&Network>, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let stoker = program("stoker");
        let mut command: Command = match network {
            Some(network) => network.command(&stoker, "TERM"),
            None => process::dies_with_us(&stoker, "TERM"),
        };
        command.arg("up").arg("--state").arg(&state).arg("--bundle").arg(bundle).args(args);
        let up = Process::spawn("stoker up", command, &dir.path().join("up.log")).unwrap();
        Self { state, up, _dir: dir }
    }

    /// Waits until control answers and the edge serves what it published.
    pub fn ready(&mut self) -> Status {
        self.until("ready", READY, |stage| {
            let status: Status = stage.get("/api/v1/status")?;
            let edge = status.edge.as_ref()?;
            (status.bundle.is_some() && edge.alive && edge.generation >= status.generation).then_some(status)
        })
    }

    /// Waits for the agent's report of a machine.
    pub fn report_of(&mut self, spec: &Spec, limit: Duration) -> MachineRecord {
        let found = self.until(&format!("report of {}", spec.name), limit, |stage| {
            let list: MachineList = stage.get("/api/v1/machines")?;
            list.machines.into_iter().find(|m| m.mac == Some(spec.mac()))
        });
        assert_eq!(
            self.get::<MachineList>("/api/v1/machines").map(|l| l.machines.len()),
            Some(1),
            "one machine, one record"
        );
        found
    }

    /// The story of a machine's present boot.
    pub fn story_of(&self, spec: &Spec) -> MachineStory {
        self.get(&format!("/api/v1/boots/{}", spec.mac())).expect("a machine that reported has a story")
    }

    /// Ends it as Ctrl-C would, and checks that nothing is left.
    pub fn stop(mut self) {
        self.up.terminate();
        let status = self.up.wait(GONE);
        assert!(status.is_some_and(|s| s.success()), "it ended with {status:?}:\n{}", self.log());
        let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let own = format!("stoker-rack-{}-", self.up.pid());
        let left: Vec<_> = namespaces.filter(|e| e.file_name().to_string_lossy().starts_with(&own)).collect();
        assert!(left.is_empty(), "namespaces were left behind: {left:?}");
        let running = processes_about(&self.state);
        assert!(running.is_empty(), "processes were left behind: {running:?}");
        for name in ["control.sock", "events.sock"] {
            assert!(!self.state.join("run").join(name).exists(), "{name} was left behind");
        }
    }

    /// Waits until `check` finds something.
    ///
    /// # Panics
    /// After `limit`, with everything that helps to understand it.
    pub fn until<T>(&mut self, what: &str, limit: Duration, mut check: impl FnMut(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = check(self) {
                return found;
            }
            let ended = self.up.wait(Duration::from_millis(100));
            if ended.is_some() || began.elapsed() > limit {
                panic!(
                    "no {what} after {:.1} s (stoker up: {ended:?})\n{}",
                    began.elapsed().as_secs_f64(),
                    self.everything()
                );
            }
        }
    }

    /// Asks the operator's API; nothing where it does not answer 200.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let mut stream = connect_short(&self.state.join("run"), "control.sock").ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: stoker\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then_some(())?;
        Some(serde_json::from_str(body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
    }

    fn log(&self) -> String {
        let log = self.state.with_file_name("up.log");
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// All that helps to understand a failure: stories, consoles, logs.
    fn everything(&self) -> String {
        let mut text = format!("--- stoker up\n{}", self.log());
        let boots: Option<serde_json::Value> = self.get("/api/v1/boots");
        for boot in boots.iter().filter_map(|b| b["boots"].as_array()).flatten() {
            let mac = boot["mac"].as_str().unwrap_or_default();
            let told = Command::new(program("stoker"))
                .args(["boot", "log", mac, "--all", "--state"])
                .arg(&self.state)
                .output();
            text += &format!(
                "--- boot log {mac}\n{}",
                told.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
            );
        }
        let files = [self.state.join("log"), self.state.join("rack"), self.state.with_file_name("machines")];
        for folder in files.iter().flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten()) {
            let path = folder.path();
            let path = if path.is_dir() { path.join("console.log") } else { path };
            text += &format!("--- {}\n{}\n", path.display(), console_tail(&path, 30).join("\n"));
        }
        text
    }
}

/// The report must tell the truth about the machine that sent it.
pub fn assert_true(record: &MachineRecord, spec: &Spec) {
    let facts = &record.hello.facts;
    assert_eq!(record.uuid, Some(spec.uuid()));
    assert_eq!(facts.system.uuid, Some(spec.uuid()));
    assert_eq!(facts.system.serial_number, spec.serial());
    assert_eq!(facts.memory.total_bytes, u64::from(spec.memory_mib) << 20);
    assert!(
        facts.memory.usable_bytes < facts.memory.total_bytes
            && facts.memory.usable_bytes > facts.memory.total_bytes / 2
    );
    assert_eq!(facts.compute.total_core_count, spec.cpus);
    let kind = if spec.firmware.is_uefi() { FirmwareKind::Uefi } else { FirmwareKind::Bios };
    assert_eq!(facts.firmware, kind);
    assert!(facts.network.iter().any(|i| i.mac == Some(spec.mac()) && i.link), "{:?}", facts.network);
    let mut told: Vec<_> = facts.storage.iter().map(|d| (d.serial_number.clone(), d.size)).collect();
    let mut built: Vec<_> = spec.disks.iter().enumerate().map(|(i, d)| (spec.disk_serial(i), d.bytes())).collect();
    told.sort();
    built.sort();
    assert_eq!(told, built);
    let nvme = spec.disks.iter().any(|d| matches!(d, Disk::Nvme(_)));
    assert_eq!(facts.storage.iter().any(|d| d.transport == "nvme"), nvme, "{:?}", facts.storage);
}

/// A program of this workspace, beside the folder of this test program.
pub fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.is_file(), "{} is not built: `cargo build --workspace --bins` first", path.display());
    path
}

/// Processes whose command line names this path.
fn processes_about(path: &Path) -> Vec<String> {
    let needle = path.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines.map(|l| String::from_utf8_lossy(&l).replace('\0', " ")).filter(|l| l.contains(needle)).collect()
}
