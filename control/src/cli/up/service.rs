//! Edge and control as child processes: started, waited for, looked after, stopped.

use super::log_tail;
use crate::Failure;
use crate::api::Api;
use crate::table;
use control::api::types::Status;
use control::rack::Network;
use control::rack::process::{self, Process};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long both may take to be ready: a bundle of some hundred MB is hashed and copied once.
const READY: Duration = Duration::from_secs(120);
/// How long control may take to publish a bundle: it reads and checks some ten files.
const BUNDLE: Duration = Duration::from_secs(30);
const NO_BUNDLE: &str = "the bundle is not published";
/// How often readiness is asked for.
const ASK: Duration = Duration::from_millis(50);
/// How long a service may take to end; the edge finishes transfers meanwhile.
const DRAIN: Duration = Duration::from_secs(5);
/// A service that ends this often within [`RESTART_WINDOW`] is given up.
const RESTARTS: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// Where and how the services run.
pub struct Place<'a> {
    /// The namespace of a virtual rack; else this host's own network.
    pub network: Option<&'a Network>,
    /// State directory.
    pub state: &'a Path,
    /// Boot interface.
    pub interface: Option<&'a str>,
    /// Our address.
    pub address: Option<IpAddr>,
    /// `proxy`, `server` or `off`.
    pub dhcp_mode: Option<&'a str>,
    /// Control's configuration file.
    pub config: Option<&'a Path>,
    /// The bundle.
    pub bundle: Option<&'a Path>,
    /// The edge's driver.
    pub driver: &'a str,
    /// The edge's workers.
    pub workers: Option<u16>,
}

/// One supervised child.
struct Service {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    namespace: Option<String>,
    process: Process,
    restarts: Vec<Instant>,
}

/// Both.
pub struct Services {
    state: PathBuf,
    with_bundle: bool,
    control: Service,
    edge: Service,
}

impl Services {
    /// Starts control, then the edge.
    pub fn start(place: &Place<'_>) -> Result<Self, Failure> {
        let control = Service::start("stoker-control", control_args(place)?, place)?;
        let edge = Service::start("stoker-edge", edge_args(place), place)?;
        Ok(Self { state: place.state.to_owned(), with_bundle: place.bundle.is_some(), control, edge })
    }

    /// Waits until the edge serves what control has published.
    pub async fn wait_until_ready(&mut self, api: &Api) -> Result<Status, Failure> {
        let began = Instant::now();
        let mut last = "neither has said anything".to_owned();
        loop {
            for service in [&mut self.control, &mut self.edge] {
                if let Some(status) = service.process.ended() {
                    let tail = log_tail(&service.process, &service.log);
                    return Err(Failure::Failed(format!("{} ended ({status}):\n  {tail}", service.name)));
                }
            }
            match api.get::<Status>("/api/v1/status").await {
                Ok(status) => match self.missing(&status) {
                    None => return Ok(status),
                    Some(missing) => last = missing,
                },
                Err(Failure::Unreachable(_)) => "control does not answer yet".clone_into(&mut last),
                Err(e) => return Err(e),
            }
            let limit = if last == NO_BUNDLE { BUNDLE } else { READY };
            if began.elapsed() > limit {
                return Err(Failure::Failed(format!(
                    "not ready after {} s: {last}:\n  {}",
                    limit.as_secs(),
                    log_tail(&self.control.process, &self.control.log)
                )));
            }
            tokio::time::sleep(ASK).await;
        }
    }

    fn missing(&self, status: &Status) -> Option<String> {
        let pid = self.edge.process.pid();
        match &status.edge {
            _ if status.pid != self.control.process.pid() => Some("another stoker-control answers".to_owned()),
            None => Some("the edge has not written its state".to_owned()),
            Some(edge) if edge.pid != pid => Some("the edge has not written its state since it started".to_owned()),
            _ if status.generation == 0 => Some("control has not published anything".to_owned()),
            _ if self.with_bundle && status.bundle.is_none() => Some(NO_BUNDLE.to_owned()),
            Some(edge) if edge.generation < status.generation => {
                Some(format!("the edge serves generation {}, published is {}", edge.generation, status.generation))
            }
            Some(_) => None,
        }
    }

    /// Starts again what has ended by itself; tells about it.
    pub fn look_after(&mut self) -> Result<Vec<String>, Failure> {
        let mut words = Vec::new();
        for service in [&mut self.control, &mut self.edge] {
            words.extend(service.look_after()?);
        }
        Ok(words)
    }

    /// Asks both to leave, waits, insists.
    pub fn stop(&mut self) {
        self.edge.process.terminate();
        self.control.process.terminate();
        self.edge.process.stop(DRAIN);
        self.control.process.stop(DRAIN);
        // A killed process leaves its sockets in the file system.
        for name in ["control.sock", "events.sock"] {
            let _ = std::fs::remove_file(self.state.join("run").join(name));
        }
    }
}

impl Service {
    fn start(name: &'static str, args: Vec<String>, place: &Place<'_>) -> Result<Self, Failure> {
        let program = find(name);
        let log = place.state.join("log").join(format!("{name}.log"));
        // Each run begins its log anew; the one before is kept beside.
        let _ = std::fs::rename(&log, log.with_extension("log.1"));
        let namespace = place.network.map(|n| n.name().to_owned());
        table::line(&format!("starting   {name} {}", args.join(" ")));
        let process = spawn(name, &program, &args, namespace.as_deref(), &log)?;
        Ok(Self { name, program, args, log, namespace, process, restarts: Vec::new() })
    }

    fn look_after(&mut self) -> Result<Option<String>, Failure> {
        let Some(status) = self.process.ended() else { return Ok(None) };
        let tail = log_tail(&self.process, &self.log);
        self.restarts.retain(|at| at.elapsed() < RESTART_WINDOW);
        if self.restarts.len() >= RESTARTS {
            return Err(Failure::Failed(format!("{} ends again and again ({status}):\n  {tail}", self.name)));
        }
        self.restarts.push(Instant::now());
        self.process = spawn(self.name, &self.program, &self.args, self.namespace.as_deref(), &self.log)?;
        let last = tail.lines().last().unwrap_or_default().trim();
        Ok(Some(format!("!! {} ended ({status}; {last}) and was started again", self.name)))
    }
}

/// What to tell once both are ready.
pub fn ready_lines(status: &Status) -> Vec<String> {
    let driver = status.edge.as_ref().map_or("?", |e| e.driver.as_str());
    let mut lines = vec![
        format!(
            "ready      {} on {}, DHCP mode {}",
            status.address,
            status.interface.as_deref().unwrap_or("every interface"),
            status.dhcp_mode
        ),
        format!("scripts    {}/boot.ipxe", status.control_url),
        format!("files      {} and TFTP, driver {driver}, generation {}", status.edge_url, status.generation),
        format!("state      {} (logs in log/)", status.state_dir),
    ];
    lines.extend(status.problems.iter().map(|p| format!("!! {p}")));
    lines
}

fn control_args(place: &Place<'_>) -> Result<Vec<String>, Failure> {
    let mut args = vec!["--state".to_owned(), text(place.state)?];
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            args.extend([name.to_owned(), value]);
        }
    };
    flag("--config", place.config.map(text).transpose()?);
    flag("--interface", place.interface.map(str::to_owned));
    flag("--address", place.address.map(|ip| ip.to_string()));
    flag("--dhcp-mode", place.dhcp_mode.map(str::to_owned));
    flag("--bundle", place.bundle.map(text).transpose()?);
    Ok(args)
}

fn edge_args(place: &Place<'_>) -> Vec<String> {
    let state = place.state.display().to_string();
    // Whoever presses Ctrl-C does not want to wait for the rest of an image.
    let drain = (DRAIN.as_secs() - 1).to_string();
    let flags = [("--state", state.as_str()), ("--driver", place.driver), ("--drain-timeout", &drain)];
    let mut args: Vec<String> = flags.iter().flat_map(|(flag, value)| [flag.to_string(), value.to_string()]).collect();
    if let Some(workers) = place.workers {
        args.extend(["--workers".to_owned(), workers.to_string()]);
    }
    args
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::Usage(format!("{} is not a name in UTF-8", path.display())))
}

/// The binary beside this one (a build, an installation), else the one in PATH.
pub fn find(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}

fn spawn(name: &str, program: &Path, args: &[String], namespace: Option<&str>, log: &Path) -> Result<Process, Failure> {
    // TERM, not KILL: if this command is killed, its services still drain.
    let mut command: Command = match namespace {
        Some(namespace) => control::rack::network::in_namespace(namespace, program, "TERM"),
        None => process::dies_with_us(program, "TERM"),
    };
    command.args(args);
    Process::spawn(name, command, log).map_err(Failure::from_error)
}
