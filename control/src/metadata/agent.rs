//! The agent's API (`protocol::report`): hellos and statuses in, orders out.

use super::tokens::{Ask, Denied, Grant, Purpose};
use super::words::clean;
use super::{Node, ip, source, text};
use crate::http::{self, Peer};
use crate::observe::{Milestone, Observation, now_ms};
use crate::store::machines::NotKept;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use protocol::id::{Mac, MachineId};
use protocol::report::{Answer, CURRENT, Facts, Hello, MAX_REPORT, Order, OrderKind, Status};
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
    let _proof = proof(&node, hello.attempt.take().as_deref(), hello.facts.system.uuid, ip);
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
    match node.machines.hello(hello, ip, now_ms()).await {
        Ok(record) => {
            for warning in &record.warnings {
                tracing::warn!(machine = record.id, "{warning}");
            }
            answer(&node, record.uuid, record.mac)
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
    let status: Status = match read(body).await {
        Ok(status) => status,
        Err(refusal) => return refuse(&node, "status", ip, refusal),
    };
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
    answer(&node, status.uuid, status.boot_mac)
}

/// Whether the agent runs in a boot that control has sent this machine into.
fn proof(node: &Node, token: Option<&str>, uuid: Option<MachineId>, ip: Option<IpAddr>) -> Result<Grant, Denied> {
    let ask = Ask { purpose: Purpose::Agent, uuid, ip, neighbour: ip.and_then(source::neighbour), binding: "" };
    node.tokens.check(token.unwrap_or_default(), ask, now_ms())
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

fn answer(node: &Node, uuid: Option<MachineId>, mac: Option<Mac>) -> Response {
    let answer = Answer { version: CURRENT, order: order(uuid, mac), poll_seconds: node.settings.agent.poll_seconds };
    ([(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// The present order of a machine. Nobody can give orders yet, so all hold.
fn order(_uuid: Option<MachineId>, _mac: Option<Mac>) -> Order {
    Order { id: 0, kind: OrderKind::Hold }
}

/// A line for people.
fn summary(facts: &Facts) -> String {
    let disks: u64 = facts.storage.iter().map(|d| d.size).sum();
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
