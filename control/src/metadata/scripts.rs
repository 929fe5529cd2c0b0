//! `/boot.ipxe` and `/ipxe`: the arguments and status codes are Sidero's.

use super::script::Load;
use super::tokens::{Mint, Purpose};
use super::words::merge_args;
use super::{Node, config, control_url, edge_url, ip, source, text};
use crate::config::DiskMethod;
use crate::http::Peer;
use crate::inventory::Who;
use crate::lifecycle;
use crate::limits;
use crate::observe::{Milestone, Observation, now_ms};
use crate::plan::boot::{self, BootPlan, Files, Request, Sent};
use crate::plan::server::Destination;
use crate::resource::BootFromDisk;
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use protocol::id::Mac;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) async fn boot(node: State<Arc<Node>>, headers: HeaderMap) -> Response {
    node.metrics.scripts("boot", 200);
    match node.scripts.boot(&control_url(&node, &headers)) {
        Ok(script) => text(StatusCode::OK, script),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

pub(super) async fn machine(
    node: State<Arc<Node>>,
    peer: Option<Extension<Peer>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let request = request(&query);
    let ip = ip(peer);
    let serial = query.iter().find(|(k, _)| k == "serial").map(|(_, v)| v.as_str());
    let answer = match life(&node, request, serial).await {
        Ok(life) => {
            let plan = served(&node, plan(&node, request, life.as_ref())).await;
            match attempt(&node, &plan, request, ip, life.as_ref(), &headers).await {
                Ok(attempt) => {
                    let answer = render(&node, &plan, request, &headers, &attempt);
                    told(&node, life.as_ref(), &plan, answer.status);
                    answer
                }
                Err(why) => unavailable(why),
            }
        }
        Err(why) => unavailable(why.to_string()),
    };
    node.metrics.scripts(answer.kind, answer.status.as_u16());
    node.observer.see(Observation {
        at_ms: now_ms(),
        mac: request.mac,
        ip,
        uuid: request.uuid.filter(|u| !u.is_placeholder()),
        what: Milestone::Script { to: answer.to, status: answer.status.as_u16(), why: answer.why },
    });
    text(answer.status, answer.body)
}

/// What the life of a machine says about this boot.
struct Life {
    server: String,
    goal: lifecycle::Goal,
}

/// Nothing for a machine that is not ours: then the configuration's rules decide.
async fn life(node: &Node, request: Request, serial: Option<&str>) -> Result<Option<Life>, crate::objects::Error> {
    let (server, known_card) = match node.inventory.who(request.uuid, request.mac, serial) {
        // Without its card it might be either of two that share a UUID.
        Who::Server(server) => {
            let known = request.mac.is_some() || node.inventory.conflict(&server).is_none();
            (server, known)
        }
        Who::Conflict(server) => (server, false),
        Who::Unknown => return Ok(None),
    };
    Ok(node.lifecycle.goal(&server, known_card).await?.map(|goal| Life { server, goal }))
}

/// Tells the reconciler where a machine was sent.
fn told(node: &Node, life: Option<&Life>, plan: &BootPlan, status: StatusCode) {
    let to = match (life.map(|l| &l.goal), plan) {
        (Some(lifecycle::Goal::Installer { binding, .. }), BootPlan::Environment { .. }) => {
            Destination::Installer(binding.clone())
        }
        (_, BootPlan::Agent { .. }) => Destination::Agent,
        (_, BootPlan::Disk(_)) => Destination::Disk,
        _ => return,
    };
    if let Some(life) = life
        && (status == StatusCode::OK || to == Destination::Disk)
    {
        node.lifecycle.sent(&life.server, to);
    }
}

/// Where nothing is known for sure, nothing is booted: iPXE asks again (W13).
fn unavailable(why: String) -> Answer {
    tracing::error!(why, "a script was not given out");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Answer { status, kind: "failed", to: "nowhere yet".into(), body: format!("{why}\n"), why }
}

fn plan(node: &Node, request: Request, life: Option<&Life>) -> BootPlan {
    let lookup = |name: &str, arch| node.environments.files(name, arch);
    let view = boot::View {
        rule: node.settings.rule(request.uuid, request.mac),
        unknown_machines: node.settings.unknown_machines,
        default_environment: node.settings.default_environment.as_deref(),
        disk_method: node.settings.boot_from_disk_method,
        files: &lookup,
    };
    match life.map(|l| &l.goal) {
        None => boot::boot(&view, request),
        Some(lifecycle::Goal::Agent) => boot::goal(&view, request, &Sent::Agent),
        Some(lifecycle::Goal::Installer { environment, .. }) => {
            boot::goal(&view, request, &Sent::Installer(environment.clone()))
        }
        Some(lifecycle::Goal::Disk(method)) => boot::goal(&view, request, &Sent::Disk(method.map(disk_method))),
    }
}

/// A script whose files the edge does not serve yet would lead into a 404:
/// iPXE is told why, and asks again.
async fn served(node: &Node, plan: BootPlan) -> BootPlan {
    let (to, files) = match &plan {
        BootPlan::Agent { environment, files } => (format!("agent {environment}"), files),
        BootPlan::Environment { environment, files, .. } => (format!("environment {environment}"), files),
        BootPlan::Disk(_) | BootPlan::Refuse { .. } => return plan,
    };
    let names = [files.kernel.clone(), files.initrd.clone()];
    match node.publisher.ensure(&names, limits::SCRIPT_EDGE_WAIT).await {
        Ok(_) => plan,
        Err(e) => {
            let why = format!("{to} cannot be loaded yet: {e}");
            tracing::warn!(why, "a script was not given out");
            BootPlan::Refuse { to, status: StatusCode::PRECONDITION_FAILED.as_u16(), why }
        }
    }
}

const fn disk_method(method: BootFromDisk) -> DiskMethod {
    match method {
        BootFromDisk::IpxeExit => DiskMethod::IpxeExit,
        BootFromDisk::Http404 => DiskMethod::Http404,
        BootFromDisk::IpxeSanboot => DiskMethod::IpxeSanboot,
    }
}

/// What iPXE said. A value that is not what it should be is dropped, not refused:
/// a machine must not fail to boot because its firmware misprints a field.
fn request(query: &[(String, String)]) -> Request {
    let value =
        |key: &str| query.iter().find(|(k, v)| k.eq_ignore_ascii_case(key) && !v.is_empty()).map(|(_, v)| v.as_str());
    Request {
        uuid: value("uuid").and_then(|v| v.parse().ok()),
        mac: value("mac").and_then(|v| v.parse::<Mac>().ok()).filter(|m| !m.is_group()),
        arch: value("arch").and_then(|v| v.parse().ok()),
    }
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    to: String,
    why: String,
    body: String,
}

/// A boot attempt: its name, and the token that its machine shows.
struct Attempt {
    id: String,
    token: String,
    /// Kernel arguments of an installer.
    args: Vec<String>,
}

/// Makes the attempt of a script. An agent whose token could not be kept boots
/// all the same: it reports, and is told to hold. An installer could do nothing
/// without its own.
async fn attempt(
    node: &Node,
    plan: &BootPlan,
    request: Request,
    ip: Option<IpAddr>,
    life: Option<&Life>,
    headers: &HeaderMap,
) -> Result<Attempt, String> {
    let mint = |purpose, binding| Mint {
        purpose,
        uuid: request.uuid,
        mac: request.mac,
        ip,
        neighbour: ip.and_then(source::neighbour),
        binding,
    };
    match (plan, life.map(|l| &l.goal)) {
        (BootPlan::Agent { .. }, _) => {
            Ok(match node.tokens.mint(mint(Purpose::Agent, String::new()), now_ms()).await {
                Ok((token, id)) => Attempt { id, token, args: Vec::new() },
                Err(e) => {
                    tracing::error!(error = %e, "a boot attempt was not kept: its agent will only hold");
                    let id = random_id();
                    Attempt { token: id.clone(), id, args: Vec::new() }
                }
            })
        }
        (BootPlan::Environment { files, .. }, Some(lifecycle::Goal::Installer { binding, .. })) => {
            // From here on the machine is called by its Server's name: its own UUID may be nobody's, or another's.
            let name = life.and_then(|l| l.server.parse().ok()).or(request.uuid);
            let mint = Mint { uuid: name, ..mint(Purpose::Install, binding.clone()) };
            let args = config::installer_args(node, mint, &files.args, &control_url(node, headers)).await?;
            Ok(Attempt { id: random_id(), token: String::new(), args })
        }
        _ => Ok(Attempt { id: random_id(), token: String::new(), args: Vec::new() }),
    }
}

fn render(node: &Node, plan: &BootPlan, request: Request, headers: &HeaderMap, attempt: &Attempt) -> Answer {
    match plan {
        BootPlan::Agent { environment, files } => {
            let own = agent_args(files, request.mac, &control_url(node, headers), &attempt.token);
            let args = merge_args(merge_args(own, &files.args), &node.settings.agent.extra_args);
            let to = format!("agent {environment}");
            load(node, ("agent", to), files, &args, &attempt.id, request, headers)
        }
        BootPlan::Environment { environment, files, args } => {
            let mut own = vec![initrd_arg(files)];
            own.retain(|a| !files.args.iter().any(|b| b.starts_with("initrd=")) || !a.starts_with("initrd="));
            own.extend(attempt.args.iter().cloned());
            let args = merge_args(merge_args(own, &files.args), args);
            let to = format!("environment {environment}");
            load(node, ("environment", to), files, &args, &attempt.id, request, headers)
        }
        BootPlan::Disk(DiskMethod::Http404) => Answer {
            status: StatusCode::NOT_FOUND,
            kind: "disk",
            to: "local disk (http-404)".into(),
            why: String::new(),
            body: String::new(),
        },
        BootPlan::Disk(method) => finish("disk", "local disk".into(), node.scripts.disk(*method)),
        BootPlan::Refuse { to, status, why } => Answer {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            kind: "refused",
            to: to.clone(),
            why: why.clone(),
            body: format!("{why}\n"),
        },
    }
}

fn load(
    node: &Node,
    (kind, to): (&'static str, String),
    files: &Files,
    args: &[String],
    attempt: &str,
    request: Request,
    headers: &HeaderMap,
) -> Answer {
    // The MAC as first component ties the transfer to its machine; the edge strips it.
    let base = match request.mac {
        Some(mac) => format!("{}/{}", edge_url(node, headers), mac.hyphenated()),
        None => edge_url(node, headers),
    };
    let machine = match (request.mac, request.uuid) {
        (Some(mac), _) => mac.to_string(),
        (None, Some(uuid)) => uuid.to_string(),
        (None, None) => "MAC".into(),
    };
    let script = node.scripts.load(&Load {
        what: &to,
        kernel: &format!("{base}/{}", files.kernel),
        initrd: &format!("{base}/{}", files.initrd),
        args,
        attempt,
        machine: &machine,
    });
    finish(kind, to, script)
}

fn finish(kind: &'static str, to: String, script: Result<String, super::script::BadScript>) -> Answer {
    match script {
        Ok(body) => Answer { status: StatusCode::OK, kind, to, why: String::new(), body },
        Err(e) => {
            let why = e.to_string();
            tracing::error!(to, error = why, "a script was not made; correct the configuration");
            Answer { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "failed", to, body: format!("{why}\n"), why }
        }
    }
}

/// The agent's kernel command line. iPXE puts its own lease in, so that the
/// agent need not ask for another one.
fn agent_args(files: &Files, mac: Option<Mac>, control: &str, token: &str) -> Vec<String> {
    let mut args = vec![
        initrd_arg(files),
        "console=tty0".into(),
        if files.kernel.contains("arm64") { "console=ttyAMA0".into() } else { "console=ttyS0,115200".into() },
        // A serial console of 115200 baud would take seconds for the kernel's whole log; warnings still show.
        "quiet".into(),
        "panic=30".into(),
    ];
    args.push(mac.map_or_else(|| "stoker.mac=${netX/mac}".into(), |mac| format!("stoker.mac={mac}")));
    args.push(format!("stoker.control={control}"));
    args.push(format!("stoker.attempt={token}"));
    let lease = [
        "stoker.ip=${netX/ip}",
        "stoker.netmask=${netX/netmask}",
        "stoker.gw=${netX/gateway}",
        "stoker.dns=${netX/dns}",
    ];
    args.extend(lease.map(String::from));
    args
}

/// UEFI kernels find the initrd by the name that iPXE gave it.
fn initrd_arg(files: &Files) -> String {
    format!("initrd={}", files.initrd.rsplit('/').next().unwrap_or(&files.initrd))
}

/// Tells boot attempts apart; nothing secret.
fn random_id() -> String {
    let mut random = [0; 8];
    if getrandom::fill(&mut random).is_err() {
        return format!("{:016x}", now_ms());
    }
    format!("{:016x}", u64::from_ne_bytes(random))
}

#[cfg(test)]
mod unit {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Request {
        request(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_read_as_sidero_reads_them() {
        let r =
            query(&[("uuid", "00112233-4455-6677-8899-aabbccddeeff"), ("MAC", "52-54-00-12-34-56"), ("arch", "i386")]);
        assert_eq!(r.mac.unwrap().to_string(), "52:54:00:12:34:56");
        assert_eq!((r.uuid.is_some(), r.arch), (true, Some(protocol::id::Arch::X86_64)));
        let r = query(&[("mac", "nonsense"), ("uuid", "x"), ("arch", "mips"), ("more", "1")]);
        assert_eq!(r, Request::default(), "bad values are dropped");
        assert_eq!(query(&[("mac", "01-00-5e-00-00-01")]).mac, None, "a group address is nobody's");
        assert_eq!(query(&[("mac", "52:54:00:00:00:01"), ("mac", "52:54:00:00:00:02")]).mac.unwrap().0[5], 1);
    }
}
