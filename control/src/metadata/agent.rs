//! The agent's API (`protocol::report`): hellos and statuses in, orders out.

use super::tokens::{Ask, Purpose};
use super::words::clean;
use super::{Node, config, ip, source, text};
use crate::http::{self, Peer};
use crate::inventory::Who;
use crate::objects::{Error, Objects as _};
use crate::observe::{Milestone, Observation, now_ms};
use crate::plan::order::HOLD;
use crate::resource::{Kind, Server, Typed as _};
use crate::store::machines::NotKept;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use protocol::id::MachineId;
use protocol::report::{Answer, CURRENT, Confirmed, Facts, Hello, MAX_REPORT, Status};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) async fn hello(node: State<Arc<Node>>, peer: Option<Extension<Peer>>, body: Body) -> Response {
    let ip = ip(peer);
    let mut hello: Hello = match read(body).await {
        Ok(hello) => hello,
        Err(refusal) => return refuse(&node, "hello", ip, refusal),
    };
    // What is kept and shown of a machine must not open anything.
    let verified = proof(&node, hello.attempt.take().as_deref(), hello.facts.system.uuid, ip);
    node.metrics.reports("hello", 200);
    let (mac, uuid) = (hello.boot_mac, hello.facts.system.uuid.filter(|u| !u.is_placeholder()));
    node.observer.see(Observation {
        at_ms: now_ms(),
        mac,
        ip,
        uuid,
        what: Milestone::AgentHello {
            version: clean(&hello.agent),
            uptime_s: hello.uptime_s,
            arch: hello.facts.arch,
            summary: summary(&hello.facts),
        },
    });
    if !verified && is_ours(&node, &hello).await {
        // Whoever that is: what is known of a machine of ours changes only by its own proven words.
        let answer = Answer { version: CURRENT, order: HOLD, poll_seconds: node.settings.agent.poll_seconds };
        return ([(CACHE_CONTROL, "no-store")], Json(answer)).into_response();
    }
    match node.machines.hello(hello, ip, now_ms()).await {
        Ok(record) => {
            for warning in &record.warnings {
                tracing::warn!(machine = record.id, "{warning}");
            }
            let who = match node.inventory.reported(&record).await {
                Ok(who) => who,
                Err(e) => {
                    tracing::error!(machine = record.id, error = %e, "a machine's Server was not written");
                    return refuse(&node, "hello", ip, (503, "the store is not available".into()));
                }
            };
            match &who {
                Who::Server(server) => node.lifecycle.hello(server, &record.hello, verified),
                // The one whose name it claims has to say so.
                Who::Conflict(server) => node.lifecycle.wake(server),
                Who::Unknown => {}
            }
            answer(&node, &who, verified).await
        }
        Err(e @ (NotKept::Full | NotKept::Store(_))) => {
            // The machine boots all the same; its facts come again with its next hello.
            tracing::error!(error = %e, "a machine's facts were not kept");
            refuse(&node, "hello", ip, (503, e.to_string()))
        }
        Err(e @ NotKept::Nameless) => refuse(&node, "hello", ip, (400, e.to_string())),
    }
}

pub(super) async fn status(node: State<Arc<Node>>, peer: Option<Extension<Peer>>, body: Body) -> Response {
    let ip = ip(peer);
    let mut status: Status = match read(body).await {
        Ok(status) => status,
        Err(refusal) => return refuse(&node, "status", ip, refusal),
    };
    let verified = proof(&node, status.attempt.take().as_deref(), status.uuid, ip);
    node.metrics.reports("status", 200);
    if node.machines.status(&status, ip, now_ms()) {
        node.observer.see(Observation {
            at_ms: now_ms(),
            mac: status.boot_mac,
            ip,
            uuid: status.uuid.filter(|u| !u.is_placeholder()),
            what: Milestone::AgentStatus {
                order: status.order,
                level: format!("{:?}", status.level).to_lowercase(),
                detail: clean(&status.detail),
            },
        });
    }
    let who = who(&node, &status);
    if let Who::Server(server) = &who {
        greet(&node, server, &status, verified);
        node.lifecycle.status(server, &status, verified);
    }
    answer(&node, &who, verified).await
}

/// The question before disks are touched.
pub(super) async fn confirm(node: State<Arc<Node>>, peer: Option<Extension<Peer>>, body: Body) -> Response {
    let ip = ip(peer);
    let mut status: Status = match read(body).await {
        Ok(status) => status,
        Err(refusal) => return refuse(&node, "confirm", ip, refusal),
    };
    let verified = proof(&node, status.attempt.take().as_deref(), status.uuid, ip);
    let confirmed = match who(&node, &status) {
        Who::Server(server) => {
            greet(&node, &server, &status, verified);
            node.lifecycle.confirm(&server, &status, verified).await
        }
        Who::Conflict(_) | Who::Unknown => {
            let why = "no Server is known for this machine".into();
            Confirmed { version: CURRENT, order: status.order, go: false, why }
        }
    };
    node.metrics.reports("confirm", if confirmed.go { 200 } else { 409 });
    ([(CACHE_CONTROL, "no-store")], Json(confirmed)).into_response()
}

/// Whether a hello is in the name of a machine that is accepted. Where that cannot be told, it counts as one.
async fn is_ours(node: &Node, hello: &Hello) -> bool {
    let system = &hello.facts.system;
    let mac = hello.boot_mac.or_else(|| hello.facts.network.iter().find_map(|i| i.mac));
    let Who::Server(name) = node.inventory.who(system.uuid, mac, Some(&system.serial_number)) else { return false };
    match node.objects.get(Kind::Server, "", &name).await {
        Ok(object) => Server::from_object(&object).is_ok_and(|s| s.spec.accepted),
        Err(Error::NotFound(_)) => false,
        Err(_) => true,
    }
}

/// Which Server speaks: by its last hello, which tells more than a status.
fn who(node: &Node, status: &Status) -> Who {
    let known = status.boot_mac.and_then(|mac| node.machines.get(&mac.to_string()));
    let serial = known.as_ref().map(|r| r.hello.facts.system.serial_number.as_str());
    node.inventory.who(status.uuid, status.boot_mac, serial)
}

/// After a restart of control the agent goes on with its status: its hello is taken from what is kept.
fn greet(node: &Node, server: &str, status: &Status, verified: bool) {
    if node.lifecycle.knows(server, &status.boot_id) {
        return;
    }
    let uuid = status.uuid.filter(|u| !u.is_placeholder()).map(|u| u.to_string());
    let ids = uuid.into_iter().chain(status.boot_mac.map(|m| m.to_string()));
    let record = ids.filter_map(|id| node.machines.get(&id)).find(|r| r.hello.boot_id == status.boot_id);
    if let Some(record) = record {
        node.lifecycle.hello(server, &record.hello, verified);
    }
}

/// Whether the agent runs in a boot that control has sent this machine into (W4).
fn proof(node: &Node, token: Option<&str>, uuid: Option<MachineId>, ip: Option<IpAddr>) -> bool {
    let ask = Ask { purpose: Purpose::Agent, uuid, ip, neighbour: ip.and_then(source::neighbour), binding: "" };
    match node.tokens.check(token.unwrap_or_default(), ask, now_ms()) {
        Ok(_) => true,
        Err(why) => {
            tracing::debug!(?ip, %why, "an agent does not prove its boot: it is told to hold");
            false
        }
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, (u16, String)> {
    let bytes = http::body(body, MAX_REPORT).await?;
    serde_json::from_slice(&bytes).map_err(|e| (400, format!("not a report: {e}")))
}

fn refuse(node: &Node, what: &'static str, ip: Option<IpAddr>, (status, why): (u16, String)) -> Response {
    node.metrics.reports(what, status);
    tracing::debug!(?ip, status, why = clean(&why), "a report was refused");
    text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), format!("{}\n", clean(&why)))
}

async fn answer(node: &Node, who: &Who, verified: bool) -> Response {
    let order = match who {
        Who::Server(server) => config::fill_in(node, server, node.lifecycle.order(server, verified).await).await,
        Who::Conflict(_) | Who::Unknown => HOLD,
    };
    let answer = Answer { version: CURRENT, order, poll_seconds: node.settings.agent.poll_seconds };
    ([(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// A line for people.
fn summary(facts: &Facts) -> String {
    let disks: u64 = facts.storage.iter().fold(0, |sum, d| sum.saturating_add(d.size));
    let macs = facts.network.iter().filter(|i| i.mac.is_some()).count();
    let product = match facts.system.product_name.as_str() {
        "" => "machine without a product name",
        name => name,
    };
    let memory = if facts.memory.total_bytes > 0 { facts.memory.total_bytes } else { facts.memory.usable_bytes };
    clean(&format!(
        "{product}: {} cores, {} memory, {} disks ({}), {macs} network cards",
        facts.compute.total_core_count.max(facts.compute.total_thread_count),
        human(memory),
        facts.storage.len(),
        human(disks),
    ))
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 10.0 && unit > 0 && value.fract() > 0.05);
    format!("{value:.digits$} {}", UNITS.get(unit).copied().unwrap_or("B"))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_machine_fits_one_line() {
        let mut facts = Facts::default();
        facts.system.product_name = "Standard PC\n(Q35)".into();
        facts.compute.total_core_count = 2;
        facts.memory.total_bytes = 512 << 20;
        facts.storage.push(protocol::report::Disk { size: 3 << 29, ..Default::default() });
        assert_eq!(summary(&facts), "Standard PC\\n(Q35): 2 cores, 512 MiB memory, 1 disks (1.5 GiB), 0 network cards");
        assert_eq!((human(0), human(1023), human(1 << 50)), ("0 B".into(), "1023 B".into(), "1024 TiB".into()));
    }
}
