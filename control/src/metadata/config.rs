//! `/configdata` and `/report`: a machine's configuration, handed out to that
//! machine in the boot in which it is to have it, and what its installer and
//! system say afterwards.
//!
//! A configuration holds the secrets of a cluster. In the mode `token` (the
//! default) it needs the token that stands in the kernel arguments of the boot
//! that control has sent the machine into, from where that boot was, for the
//! present allocation. Who is refused learns nothing of the reason; the
//! operator does.

use super::tokens::{Ask, Denied, Mint, Purpose};
use super::words::clean;
use super::{Node, ip, source, text};
use crate::config::ConfigAccess;
use crate::http::{self, Peer};
use crate::inventory::Who;
use crate::machineconfig;
use crate::objects::{Error, Objects as _};
use crate::observe::{Milestone, Observation, now_ms};
use crate::plan::server::Report;
use crate::resource::{Kind, Server, ServerBinding, ServerClass, Typed as _, marks};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RANGE, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use protocol::id::MachineId;
use protocol::report::{DataSource, Hidden, Order, OrderKind};
use std::net::IpAddr;
use std::sync::Arc;

/// The largest body of a report, bytes.
const REPORT_BYTES: usize = 16 << 10;
/// When to ask again while something of ours is missing, seconds.
const RETRY_SECONDS: &str = "10";

/// Why nothing is handed out.
enum Refusal {
    /// It may not have it. Always the same answer.
    Denied(String),
    /// It may have it, but not now.
    Later(String),
    /// It may have it, but it cannot be made.
    Broken(String),
}

/// Who asks, after all checks.
struct Bearer {
    server: String,
    binding: ServerBinding,
    token: Option<String>,
    /// The token's own name, for the operator.
    attempt: String,
    /// The configuration is closed to it: the machine is installed.
    closed: bool,
}

pub(super) async fn configdata(
    node: State<Arc<Node>>,
    peer: Option<Extension<Peer>>,
    method: Method,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let ip = ip(peer);
    let uuid = value(&query, "uuid").and_then(|u| u.parse().ok());
    if headers.contains_key(RANGE) {
        // Nobody resumes a configuration; parts of it would only hide who has read it.
        return text(StatusCode::RANGE_NOT_SATISFIABLE, String::new());
    }
    let done = hand_out(&node, uuid, value(&query, "token"), ip, method == Method::HEAD).await;
    let (status, why) = match &done {
        Ok(_) => (StatusCode::OK, String::new()),
        Err(Refusal::Denied(why)) => (StatusCode::FORBIDDEN, why.clone()),
        Err(Refusal::Later(why)) => (StatusCode::SERVICE_UNAVAILABLE, why.clone()),
        Err(Refusal::Broken(why)) => (StatusCode::INTERNAL_SERVER_ERROR, why.clone()),
    };
    if let (Err(Refusal::Denied(why)), Some(uuid)) = (&done, uuid) {
        let from = ip.map_or_else(|| "nowhere".to_owned(), |ip| ip.to_string());
        let neighbour = ip.and_then(source::neighbour);
        if let Who::Server(server) | Who::Conflict(server) = node.inventory.who(Some(uuid), neighbour, None) {
            node.lifecycle.refused(&server, &format!("from {from}: {}", clean(why)));
        }
    }
    observe(&node, "configdata", uuid, ip, status, Milestone::Config { status: status.as_u16(), why });
    match done {
        Ok(body) => {
            let headers = [(CONTENT_TYPE, "application/yaml"), (CACHE_CONTROL, "no-store")];
            (headers, body).into_response()
        }
        Err(_) => refused(status),
    }
}

pub(super) async fn report(
    node: State<Arc<Node>>,
    peer: Option<Extension<Peer>>,
    Query(query): Query<Vec<(String, String)>>,
    body: Body,
) -> Response {
    let ip = ip(peer);
    let uuid = value(&query, "uuid").and_then(|u| u.parse().ok());
    let event = value(&query, "event").unwrap_or_default();
    let detail = match http::body(body, REPORT_BYTES).await {
        Ok(bytes) => clean(&String::from_utf8_lossy(&bytes)),
        Err((status, why)) => return text(StatusCode::from_u16(status).unwrap_or_default(), format!("{why}\n")),
    };
    let said = match event {
        "installed" => Report::Installed,
        "install_failed" => Report::Failed(detail.clone()),
        "running" => Report::Running,
        _ => {
            let why = "event is none of installed, install_failed, running\n";
            return text(StatusCode::BAD_REQUEST, why.into());
        }
    };
    let (status, what) = match take(&node, uuid, value(&query, "token"), ip, said).await {
        Ok(()) => (StatusCode::OK, Milestone::Report { event: event.to_owned(), detail }),
        Err(Refusal::Denied(why)) => (StatusCode::FORBIDDEN, Milestone::Config { status: 403, why }),
        Err(Refusal::Later(why) | Refusal::Broken(why)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Milestone::Config { status: 503, why })
        }
    };
    observe(&node, "report", uuid, ip, status, what);
    if status == StatusCode::OK { text(status, "ok\n".into()) } else { refused(status) }
}

/// The configuration itself.
async fn hand_out(
    node: &Node,
    uuid: Option<MachineId>,
    token: Option<&str>,
    ip: Option<IpAddr>,
    only_look: bool,
) -> Result<String, Refusal> {
    let bearer = bearer(node, uuid, token, ip).await?;
    if bearer.closed {
        return Err(Refusal::Denied(Denied::Closed.to_string()));
    }
    let body = render(node, &bearer).await;
    let made = match &body {
        Ok(_) => Ok(()),
        Err(Refusal::Denied(why) | Refusal::Later(why) | Refusal::Broken(why)) => Err(why.clone()),
    };
    node.lifecycle.config(&bearer.server, &bearer.binding.metadata.uid, made);
    let body = body?;
    if only_look {
        return Ok(body);
    }
    if let Some(token) = &bearer.token {
        node.tokens.used(token).await.map_err(|e| Refusal::Later(e.to_string()))?;
    }
    let uid = &bearer.binding.metadata.uid;
    node.lifecycle.fetched(&bearer.server, uid).await.map_err(|e| Refusal::Later(e.to_string()))?;
    tracing::info!(server = bearer.server, attempt = bearer.attempt, ?ip, "a machine has its configuration");
    Ok(body)
}

async fn take(
    node: &Node,
    uuid: Option<MachineId>,
    token: Option<&str>,
    ip: Option<IpAddr>,
    said: Report,
) -> Result<(), Refusal> {
    let bearer = bearer(node, uuid, token, ip).await?;
    let uid = &bearer.binding.metadata.uid;
    let closes = said != Report::Running && !matches!(said, Report::Failed(_));
    node.lifecycle.reported(&bearer.server, uid, said).await.map_err(|e| Refusal::Later(e.to_string()))?;
    if closes {
        // From now on its configuration is nobody's any more.
        node.tokens.close(uid).await.map_err(|e| Refusal::Later(e.to_string()))?;
    }
    Ok(())
}

/// Whether whoever asks is the machine, in the boot in which it is to have its configuration.
async fn bearer(
    node: &Node,
    uuid: Option<MachineId>,
    token: Option<&str>,
    ip: Option<IpAddr>,
) -> Result<Bearer, Refusal> {
    let neighbour = ip.and_then(source::neighbour);
    let Who::Server(server) = node.inventory.who(uuid, neighbour, None) else {
        return Err(Refusal::Denied("no Server is known for that machine".into()));
    };
    let object = match node.objects.get(Kind::ServerBinding, "", &server).await {
        Ok(object) => object,
        Err(Error::NotFound(_)) => return Err(Refusal::Denied(format!("{server} is not allocated"))),
        Err(e) => return Err(Refusal::Later(e.to_string())),
    };
    let binding = ServerBinding::from_object(&object).map_err(|e| Refusal::Broken(e.to_string()))?;
    if binding.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::Denied(format!("{server} is being released")));
    }
    if node.settings.config_access == ConfigAccess::Open {
        return Ok(Bearer { server, binding, token: None, attempt: "-".into(), closed: false });
    }
    let token = token.ok_or_else(|| Refusal::Denied("no token".into()))?;
    let ask = Ask { purpose: Purpose::Install, uuid, ip, neighbour, binding: &binding.metadata.uid };
    let (attempt, closed) = match node.tokens.check(token, ask, now_ms()) {
        Ok(grant) => (grant.id, false),
        Err(Denied::Closed) => ("-".into(), true),
        Err(why) => return Err(Refusal::Denied(why.to_string())),
    };
    Ok(Bearer { server, binding, token: Some(token.to_owned()), attempt, closed })
}

async fn render(node: &Node, bearer: &Bearer) -> Result<String, Refusal> {
    let later = |e: Error| Refusal::Later(e.to_string());
    let broken = |e: crate::resource::BadObject| Refusal::Broken(e.to_string());
    let object = node.objects.get(Kind::Server, "", &bearer.server).await.map_err(later)?;
    let server = Server::from_object(&object).map_err(broken)?;
    let class = match &bearer.binding.spec.server_class_ref {
        Some(class) => match node.objects.get(Kind::ServerClass, "", &class.name).await {
            Ok(object) => Some(ServerClass::from_object(&object).map_err(broken)?),
            // Without its patches the configuration would be another one.
            Err(Error::NotFound(_)) => return Err(Refusal::Later(format!("ServerClass {} is gone", class.name))),
            Err(e) => return Err(later(e)),
        },
        None => None,
    };
    let bootstrap = match &bearer.binding.spec.data_secret_ref {
        Some(secret) => match node.objects.get(Kind::Secret, &secret.namespace, &secret.name).await {
            Ok(object) => {
                let value = object.data.get(marks::CONFIG_KEY).and_then(serde_json::Value::as_str);
                let bytes = value.and_then(|v| base64::engine::general_purpose::STANDARD.decode(v.trim()).ok());
                bytes.and_then(|b| String::from_utf8(b).ok()).ok_or_else(|| {
                    Refusal::Later(format!("Secret {} has no base64 text under {:?}", secret.name, marks::CONFIG_KEY))
                })?
            }
            Err(Error::NotFound(_)) => return Err(Refusal::Later(format!("Secret {} is missing", secret.name))),
            Err(e) => return Err(later(e)),
        },
        None => String::new(),
    };
    machineconfig::of(&bootstrap, &server, class.as_ref()).map_err(|e| Refusal::Broken(e.to_string()))
}

/// The kernel arguments that an installer finds its way by.
///
/// # Errors
/// When the token cannot be kept: an installer without it could do nothing.
pub(super) async fn installer_args(
    node: &Node,
    mint: Mint,
    own: &[String],
    control: &str,
) -> Result<Vec<String>, String> {
    let uuid = mint.uuid.map(|u| u.to_string()).unwrap_or_default();
    let (token, _) = node.tokens.mint(mint, now_ms()).await.map_err(|e| e.to_string())?;
    let config = format!("{control}/configdata?uuid={uuid}&token={token}");
    let mut args =
        vec![format!("stoker.config={config}"), format!("stoker.report={control}/report?uuid={uuid}&token={token}")];
    if own.iter().any(|a| a.starts_with("talos.platform=")) && !own.iter().any(|a| a.starts_with("talos.config=")) {
        args.push(format!("talos.config={config}"));
    }
    Ok(args)
}

/// Puts what is secret into an order that is handed out.
pub(super) async fn fill_in(node: &Node, server: &str, order: Order) -> Order {
    let Order { id, kind: OrderKind::WriteImage(mut image) } = order else { return order };
    if image.data_source == DataSource::None {
        return Order { id, kind: OrderKind::WriteImage(image) };
    }
    let known = |node: &Node| {
        let filled = node.filled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        filled.get(server).filter(|(of, _)| *of == id).map(|(_, url)| url.clone())
    };
    let url = match known(node) {
        Some(url) => url,
        None => {
            let mint = Mint {
                purpose: Purpose::Install,
                uuid: server.parse().ok(),
                mac: None,
                ip: None,
                neighbour: None,
                binding: image.instance_id.clone(),
            };
            let Ok((token, _)) = node.tokens.mint(mint, now_ms()).await else { return crate::plan::order::HOLD };
            let url = format!("{}/configdata?uuid={server}&token={token}", node.settings.control_url());
            let mut filled = node.filled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if filled.len() >= crate::limits::MACHINES {
                filled.pop_first();
            }
            filled.insert(server.to_owned(), (id, url.clone()));
            url
        }
    };
    image.report_url = Hidden(url.replacen("/configdata?", "/report?", 1));
    image.config_url = Hidden(url);
    Order { id, kind: OrderKind::WriteImage(image) }
}

fn observe(
    node: &Node,
    kind: &'static str,
    uuid: Option<MachineId>,
    ip: Option<IpAddr>,
    status: StatusCode,
    what: Milestone,
) {
    node.metrics.configs(kind, status.as_u16());
    if let Milestone::Config { why, .. } = &what
        && status != StatusCode::OK
    {
        let machine = uuid.map(|u| u.to_string()).unwrap_or_default();
        tracing::warn!(machine, ?ip, status = status.as_u16(), why, "{kind} refused");
    }
    // Tied to the machine by its UUID: a stranger's address must not become the machine's.
    let ip = ip.filter(|_| status == StatusCode::OK);
    node.observer.see(Observation { at_ms: now_ms(), mac: None, ip, uuid: uuid.filter(|u| !u.is_placeholder()), what });
}

/// Says nothing of the reason.
fn refused(status: StatusCode) -> Response {
    let mut answer = text(status, format!("{}\n", status.canonical_reason().unwrap_or("refused")));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static(RETRY_SECONDS));
    }
    answer
}

fn value<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    query.iter().find(|(k, v)| k.eq_ignore_ascii_case(key) && !v.is_empty()).map(|(_, v)| v.as_str())
}
