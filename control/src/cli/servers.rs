//! `stoker servers`, `accept`, `cordon`, `uncordon`, `retry`, `quarantine`:
//! machines and where they are in their lives.

use super::api::Api;
use super::{Failure, Reach, table, time};
use control::api::objects::ObjectList;
use control::objects::parse_rfc3339;
use control::observe::now_ms;
use control::resource::{Kind, Object, OrderState, Phase, Server, Typed as _};
use hyper::Method;
use protocol::report::OrderKind;
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `stoker servers`.
#[derive(clap::Args)]
#[command(after_help = "\
Phases: Discovered (not ours yet), Wiping, Available (clean, off, free), Allocated,
Installing, Running, Releasing, Quarantined (facts disagree: a human is needed).

Examples:
  stoker servers             where each machine is, since when, why, and what comes next
  stoker servers --watch")]
pub struct Servers {
    #[command(flatten)]
    reach: Reach,
    /// Keep showing
    #[arg(short, long)]
    watch: bool,
}

/// Arguments of `stoker accept`.
#[derive(clap::Args)]
#[command(after_help = "\
An accepted machine is ours: ALL ITS DISKS ARE ERASED, then it is switched off and free.
With --clean nothing is erased: you say that it is clean.

Examples:
  stoker accept 6f0c4e2a-0b1d-4c5e-8f90-123456789abc
  stoker accept --all")]
pub struct Accept {
    #[command(flatten)]
    reach: Reach,
    /// UUIDs of Servers
    #[arg(required_unless_present = "all", value_name = "UUID")]
    servers: Vec<String>,
    /// Every machine that has been discovered
    #[arg(long, conflicts_with = "servers")]
    all: bool,
    /// Leave the disks as they are
    #[arg(long)]
    clean: bool,
}

/// Which Servers a one-word command is for.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker cordon 6f0c4e2a-0b1d-4c5e-8f90-123456789abc      keep it out of allocation
  stoker uncordon 6f0c4e2a-0b1d-4c5e-8f90-123456789abc    and let it in again
  stoker retry 6f0c4e2a-0b1d-4c5e-8f90-123456789abc       try again what was given up")]
pub struct Which {
    #[command(flatten)]
    reach: Reach,
    /// UUIDs of Servers
    #[arg(required = true, value_name = "UUID")]
    servers: Vec<String>,
}

/// What can be done about a quarantined machine.
#[derive(clap::Subcommand)]
pub enum Quarantine {
    /// Explain a quarantined machine, so that it goes on
    #[command(after_help = "\
Examples:
  stoker quarantine lift --as running 6f0c4e2a-...   its ServerBinding is right: leave it as it is
  stoker quarantine lift --as wipe 6f0c4e2a-...      nobody has it: ERASE it")]
    Lift {
        #[command(flatten)]
        which: Which,
        /// What it is
        #[arg(long = "as", value_parser = ["running", "wipe"])]
        how: String,
    },
}

impl Servers {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let api = Api::new(&self.reach);
        let mut screen = table::Screen::default();
        loop {
            let list: ObjectList = api.get("/api/v1/objects/server").await?;
            let lines = lines(&list.items);
            if !self.watch {
                lines.iter().for_each(|line| table::line(line));
                return Ok(ExitCode::SUCCESS);
            }
            screen.draw(&lines);
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Accept {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let api = Api::new(&self.reach);
        let mut servers = self.servers.clone();
        if self.all {
            let list: ObjectList = api.get("/api/v1/objects/server").await?;
            let waits = |s: &Server| !s.spec.accepted && s.status.phase == Some(Phase::Discovered);
            let found = list.items.iter().filter_map(|o| Server::from_object(o).ok()).filter(waits);
            servers = found.map(|s| s.metadata.name).collect();
            if servers.is_empty() {
                table::line("no machine waits to be accepted");
            }
        }
        let (verb, words) = if self.clean { ("accept?as=clean", "as it is") } else { ("accept", "and will be wiped") };
        each(&api, &servers, verb, &format!("accepted {words}")).await
    }
}

impl Which {
    pub async fn run(&self, verb: &str, words: &str) -> Result<ExitCode, Failure> {
        each(&Api::new(&self.reach), &self.servers, verb, words).await
    }
}

impl Quarantine {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let Self::Lift { which, how } = self;
        which.run(&format!("lift?as={how}"), &format!("explained: {how}")).await
    }
}

async fn each(api: &Api, servers: &[String], verb: &str, words: &str) -> Result<ExitCode, Failure> {
    let mut failed = Vec::new();
    for server in servers {
        if server.is_empty() || !server.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-') {
            return Err(Failure::Usage(format!("{server:?} is not the UUID of a Server; `stoker servers` lists them")));
        }
        let path = format!("/api/v1/servers/{}/{verb}", server.to_ascii_lowercase());
        match api.call::<Value>(Method::POST, &path, None::<&()>).await {
            Ok(_) => table::line(&format!("server/{server} {words}")),
            Err(Failure::Failed(why)) => failed.push(why),
            Err(other) => return Err(other),
        }
    }
    if failed.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Failure::Failed(failed.join("; "))) }
}

fn lines(objects: &[Object]) -> Vec<String> {
    if objects.is_empty() {
        return vec!["no machine has reported yet".into()];
    }
    let rows: Vec<_> = objects.iter().filter_map(|o| Server::from_object(o).ok()).map(|s| row(&s)).collect();
    table::columns(&["SERVER", "NAME", "PHASE", "SINCE", "POWER", "WHY", "NEXT"], &rows)
}

fn row(server: &Server) -> Vec<String> {
    let s = &server.status;
    let why = if s.message.is_empty() { &s.reason } else { &s.message };
    vec![
        server.metadata.name.clone(),
        or_dash(&server.spec.hostname),
        s.phase.map_or("-", Phase::name).to_owned(),
        since(&s.since),
        or_dash(&s.power),
        or_dash(why),
        or_dash(&s.next),
    ]
}

fn since(text: &str) -> String {
    parse_rfc3339(text).map_or_else(|| "-".into(), |at| time::span(now_ms().saturating_sub(at)))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

/// `stoker get`: a table for each kind.
pub fn show(kind: Kind, objects: &[Object], wide: bool) {
    let age = |o: &Object| since(o.metadata.creation_timestamp.as_deref().unwrap_or_default());
    let at = |o: &Object, path: &str| {
        let whole = serde_json::to_value(o).unwrap_or_default();
        whole.pointer(path).map_or_else(|| "-".into(), |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    let count =
        |o: &Object, path: &str| o.status.pointer(path).and_then(Value::as_array).map_or(0, Vec::len).to_string();
    let (headings, cells): (Vec<&str>, Vec<Vec<String>>) = match kind {
        Kind::Server => {
            let mut headings = vec!["NAME", "HOSTNAME", "ACCEPTED", "ALLOCATED", "CLEAN", "POWER", "PHASE", "AGE"];
            if wide {
                headings.extend(["PRODUCT", "MEMORY", "BMC"]);
            }
            let rows = objects.iter().map(|o| {
                let mut row = vec![
                    o.metadata.name.clone(),
                    at(o, "/spec/hostname"),
                    at(o, "/spec/accepted"),
                    at(o, "/status/inUse"),
                    at(o, "/status/isClean"),
                    at(o, "/status/power"),
                    at(o, "/status/phase"),
                    age(o),
                ];
                if wide {
                    row.extend([
                        at(o, "/spec/hardware/system/productName"),
                        at(o, "/spec/hardware/memory/totalSize"),
                        at(o, "/spec/bmc/endpoint"),
                    ]);
                }
                row
            });
            (headings, rows.collect())
        }
        Kind::ServerClass => (
            vec!["NAME", "AVAILABLE", "IN USE", "AGE"],
            objects
                .iter()
                .map(|o| {
                    vec![o.metadata.name.clone(), count(o, "/serversAvailable"), count(o, "/serversInUse"), age(o)]
                })
                .collect(),
        ),
        Kind::Environment => (
            vec!["NAME", "KERNEL", "INITRD", "AGE"],
            objects
                .iter()
                .map(|o| vec![o.metadata.name.clone(), at(o, "/spec/kernel/url"), at(o, "/spec/initrd/url"), age(o)])
                .collect(),
        ),
        Kind::ServerBinding => (
            vec!["SERVER", "FOR", "CLASS", "RELEASED", "AGE"],
            objects
                .iter()
                .map(|o| {
                    vec![
                        o.metadata.name.clone(),
                        at(o, "/spec/metalMachineRef/name"),
                        at(o, "/spec/serverClassRef/name"),
                        if o.metadata.deletion_timestamp.is_some() { "yes".into() } else { "no".into() },
                        age(o),
                    ]
                })
                .collect(),
        ),
        Kind::MetalMachine => (
            vec!["NAMESPACE", "NAME", "READY", "SERVER", "CLUSTER", "AGE"],
            objects
                .iter()
                .map(|o| {
                    let cluster = o.metadata.labels.get(control::resource::capi::CLUSTER_NAME);
                    vec![
                        o.metadata.namespace.clone(),
                        o.metadata.name.clone(),
                        at(o, "/status/ready"),
                        at(o, "/spec/serverRef/name"),
                        cluster.cloned().unwrap_or_else(|| "-".into()),
                        age(o),
                    ]
                })
                .collect(),
        ),
        Kind::MetalCluster
        | Kind::MetalClusterTemplate
        | Kind::MetalMachineTemplate
        | Kind::MetalRemediation
        | Kind::MetalRemediationTemplate
        | Kind::Cluster
        | Kind::Machine => (
            vec!["NAMESPACE", "NAME", "AGE"],
            objects.iter().map(|o| vec![o.metadata.namespace.clone(), o.metadata.name.clone(), age(o)]).collect(),
        ),
        Kind::Secret => (
            vec!["NAMESPACE", "NAME", "KEYS", "AGE"],
            objects
                .iter()
                .map(|o| {
                    let keys = o.data.as_object().map_or(0, serde_json::Map::len).to_string();
                    vec![o.metadata.namespace.clone(), o.metadata.name.clone(), keys, age(o)]
                })
                .collect(),
        ),
    };
    if cells.is_empty() {
        table::line("none");
    } else {
        table::columns(&headings, &cells).iter().for_each(|line| table::line(line));
    }
}

/// `stoker describe server`.
pub fn sheet(object: &Object) -> Result<Vec<String>, Failure> {
    let server = Server::from_object(object).map_err(Failure::from_error)?;
    let (spec, s) = (&server.spec, &server.status);
    let mut lines = vec![
        format!("server     {}", server.metadata.name),
        format!("phase      {} ({}) for {}", s.phase.map_or("-", Phase::name), or_dash(&s.reason), since(&s.since)),
    ];
    let mut say = |what: &str, text: &str| {
        if !text.is_empty() {
            lines.push(format!("{what:10} {text}"));
        }
    };
    say("why", &s.message);
    say("next", &s.next);
    say("deadline", &s.deadline);
    if s.attempts > 0 {
        say("tries", &s.attempts.to_string());
    }
    say("power", &s.power);
    say("accepted", if spec.accepted { "yes" } else { "no" });
    say("cordoned", if spec.cordoned { "yes" } else { "" });
    if let Some(bmc) = &spec.bmc {
        let by = if bmc.interface.is_empty() { "lanplus" } else { &bmc.interface };
        say("BMC", &format!("{} port {} by {by}", bmc.endpoint, if bmc.port == 0 { 623 } else { bmc.port }));
    } else {
        say("BMC", "none: it cannot be switched from here");
    }
    if let Some(o) = &s.order {
        let kind = match &o.order {
            OrderKind::Wipe(w) => format!("wipe of {} disks", w.disks.len()),
            OrderKind::WriteImage(w) => format!("image onto {}", w.disk.name),
            other => format!("{other:?}").to_lowercase(),
        };
        let state =
            if o.state == OrderState::Erasing { "erasing".to_owned() } else { format!("{:?}", o.state).to_lowercase() };
        say("order", &format!("{} {kind}: {state} ({}, {}) {}", o.id, o.reason, o.created, o.message));
        for d in &o.disks {
            let state = format!("{:?}", d.state).to_lowercase();
            say("  disk", &format!("{} {state} {} {}", d.disk.name, d.method, d.why));
        }
    }
    if let Some(e) = &s.effect {
        let state = format!("{:?}", e.state).to_lowercase();
        say("effect", &format!("{} {:?}: {state} at {} {}", e.id, e.kind, e.at, e.why));
    }
    if let Some(i) = &s.install {
        for (what, at) in [
            ("sent to its installer", &i.started),
            ("has its configuration", &i.config_fetched),
            ("installed", &i.installed),
            ("runs", &i.running),
        ] {
            if !at.is_empty() {
                say("install", &format!("{at} {what}"));
            }
        }
    }
    if let Some(w) = &s.wiped {
        let good = if control::lifecycle::holds(w) { "signature good" } else { "SIGNATURE DOES NOT HOLD" };
        say("wiped", &format!("{} by order {}, {} disks, {good}", w.finished, w.order, w.disks.len()));
        for d in &w.disks {
            say(
                "  disk",
                &format!("{} {} {}, {} samples read back", d.disk.name, d.disk.serial_number, d.method, d.verified),
            );
        }
    }
    for c in &s.conditions {
        say("condition", &format!("{} {} {} {}", c.r#type, c.status, c.reason, c.message));
    }
    if let Some(h) = &spec.hardware {
        if let Some(system) = &h.system {
            say(
                "hardware",
                &format!("{} {}, serial {}", system.manufacturer, system.product_name, or_dash(&system.serial_number)),
            );
        }
        for d in h.storage.iter().flat_map(|s| &s.devices) {
            say("  disk", &format!("{} {} {} {}", d.name, time::bytes(d.size), d.r#type, d.serial_number));
        }
        for i in h.network.iter().flat_map(|n| &n.interfaces) {
            say("  card", &format!("{} {}", i.name, i.mac));
        }
    }
    Ok(lines)
}
