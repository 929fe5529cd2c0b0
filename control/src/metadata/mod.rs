//! What nodes ask of control over HTTP: scripts, redirects to the edge, and
//! the agent's API.

mod agent;
mod config;
pub mod script;
mod scripts;
pub mod source;
pub mod tokens;
pub mod words;

use crate::config::Settings;
use crate::environments::Environments;
use crate::http::Peer;
use crate::inventory::Inventory;
use crate::lifecycle::Lifecycle;
use crate::objects::declared::Declared;
use crate::observe::Observer;
use crate::publish::Publisher;
use crate::store::machines::Machines;
use crate::telemetry::Metrics;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use protocol::manifest::is_plain_path;
use script::Scripts;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokens::Tokens;

/// What the handlers need.
pub struct Node {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Script templates.
    pub scripts: Scripts,
    /// Where milestones go.
    pub observer: Observer,
    /// Files of environments.
    pub environments: Arc<Environments>,
    /// Known machines.
    pub machines: Arc<Machines>,
    /// Published names.
    pub publisher: Arc<Publisher>,
    /// Secret addresses in orders that are being carried out, by Server: an order keeps its own.
    pub filled: Mutex<BTreeMap<String, (u64, String)>>,
    /// Boot attempts.
    pub tokens: Arc<Tokens>,
    /// Declared objects.
    pub objects: Declared,
    /// Which machine is which Server.
    pub inventory: Arc<Inventory<Declared>>,
    /// What becomes of them.
    pub lifecycle: Lifecycle<Declared>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The router of the nodes' port.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/boot.ipxe", get(scripts::boot))
        .route("/autoexec.ipxe", get(scripts::boot))
        .route("/ipxe", get(scripts::machine))
        .route("/env/{*path}", get(env))
        .route("/tftp/{*path}", get(tftp))
        .route("/agent/v1/hello", post(agent::hello))
        .route("/agent/v1/status", post(agent::status))
        .route("/agent/v1/confirm", post(agent::confirm))
        .route("/configdata", get(config::configdata))
        .route("/report", post(config::report))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(node)
}

async fn env(node: State<Arc<Node>>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    to_edge(&node, &format!("env/{path}"), &headers)
}

async fn tftp(node: State<Arc<Node>>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    to_edge(&node, &format!("tftp/{path}"), &headers)
}

/// Files are the edge's; it is on the host that the machine asked.
fn to_edge(node: &Node, name: &str, headers: &HeaderMap) -> Response {
    if !is_plain_path(name) || node.publisher.entry(name).is_none() {
        return text(StatusCode::NOT_FOUND, format!("{} is not published\n", words::clean(name)));
    }
    let url = format!("{}/{name}", edge_url(node, headers));
    (StatusCode::FOUND, [(LOCATION, url)]).into_response()
}

async fn metrics(node: State<Arc<Node>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], node.metrics.encode()).into_response()
}

/// Base URL of control as the machine named it.
fn control_url(node: &Node, headers: &HeaderMap) -> String {
    format!("http://{}", authority(node, headers, node.settings.http_port))
}

/// Base URL of the edge, by the host name or address that the machine used for us.
fn edge_url(node: &Node, headers: &HeaderMap) -> String {
    format!("http://{}", authority(node, headers, node.settings.edge_http_port))
}

fn authority(node: &Node, headers: &HeaderMap, port: u16) -> String {
    let host = headers.get("host").and_then(|h| h.to_str().ok()).and_then(host_of);
    host.map_or_else(|| SocketAddr::new(node.settings.address, port).to_string(), |host| format!("{host}:{port}"))
}

/// The host of a Host header without its port (RFC 9110 section 7.2); nothing
/// where it is not a plain name or address.
fn host_of(header: &str) -> Option<&str> {
    let host = match header.strip_prefix('[') {
        Some(rest) => {
            let (v6, _) = rest.split_once(']')?;
            v6.parse::<std::net::Ipv6Addr>().ok()?;
            header.get(..v6.len() + 2)?
        }
        None => header.split_once(':').map_or(header, |(host, _)| host),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let fits = host.starts_with('[') || host.bytes().all(plain);
    (fits && (1..=253).contains(&host.len())).then_some(host)
}

/// A text that nobody may keep.
fn text(status: StatusCode, body: String) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

/// The machine's address.
fn ip(peer: Option<axum::Extension<Peer>>) -> Option<std::net::IpAddr> {
    peer.and_then(|p| p.0.ip())
}

#[cfg(test)]
mod host_tests {
    use super::host_of;

    #[test]
    fn a_host_is_taken_only_where_it_is_plain() {
        for (header, host) in [
            ("10.0.0.2:8081", "10.0.0.2"),
            ("boot.rack-1.example", "boot.rack-1.example"),
            ("[fd77::1]:8081", "[fd77::1]"),
            ("[fd77::1]", "[fd77::1]"),
        ] {
            assert_eq!(host_of(header), Some(host), "{header}");
        }
        for bad in ["", ":8081", "a b", "a\nb", "x/../y", "[nonsense]", "[::1", "a${b}", "user@host", &"x".repeat(300)]
        {
            assert_eq!(host_of(bad), None, "{bad:?}");
        }
    }
}
