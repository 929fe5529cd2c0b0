//! The BMC's Redfish side (DSP0266): one system, one manager, one chassis, one log, over plain
//! HTTP. TLS, where a test wants it, is put in front.

use super::{Action, Boot, Device, State, lock};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the server looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);
const ROOT: &str = "/redfish/v1";
const SYSTEM: &str = "/redfish/v1/Systems/1";
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";
const ENTRIES: &str = "/redfish/v1/Systems/1/LogServices/SEL/Entries";
const RESETS: [(&str, Action); 5] = [
    ("On", Action::On),
    ("ForceOff", Action::Off),
    ("ForceRestart", Action::Reset),
    ("GracefulShutdown", Action::Soft),
    ("PowerCycle", Action::Cycle),
];
const TARGETS: [(&str, Device); 5] = [
    ("None", Device::Default),
    ("Pxe", Device::Network),
    ("Hdd", Device::Disk),
    ("Cd", Device::Cd),
    ("BiosSetup", Device::Setup),
];

struct Server {
    state: Arc<Mutex<State>>,
    /// Tokens of open sessions, and how many may be.
    sessions: Mutex<Sessions>,
    limit: usize,
}

#[derive(Default)]
struct Sessions {
    by_token: HashMap<String, u64>,
    next: u64,
    /// Changes of the system: its entity tag.
    version: u64,
}

/// Answers until told to stop.
pub(super) fn run(listener: TcpListener, state: Arc<Mutex<State>>, limit: usize, stop: &AtomicBool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        let server = Arc::new(Server { state, sessions: Mutex::default(), limit });
        let app = Router::new().fallback(answer).with_state(server);
        tokio::select! {
            _ = axum::serve(listener, app) => {}
            () = async { while !stop.load(Ordering::Relaxed) { tokio::time::sleep(TICK).await } } => {}
        }
    });
    // Requests that hang as they were told to hang with it.
    runtime.shutdown_background();
}

async fn answer(
    Shared(server): Shared<Arc<Server>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let faults = {
        let mut state = lock(&server.state);
        if state.faults.drop_first > 0 {
            state.faults.drop_first -= 1;
            let broken = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("dropped")) });
            return Response::new(Body::from_stream(broken));
        }
        state.faults.clone()
    };
    if faults.silent {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(faults.delay).await;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let path = uri.path().trim_end_matches('/').to_owned();
    let reply = server.reply(&method, &path, &headers, &body);
    if faults.loses_power_reply && path.ends_with("ComputerSystem.Reset") {
        std::future::pending::<()>().await;
    }
    reply
}

impl Server {
    fn reply(&self, method: &Method, path: &str, headers: &HeaderMap, body: &Value) -> Response {
        let faults = lock(&self.state).faults.clone();
        match (method.as_str(), path) {
            ("GET", ROOT) => return self.root(faults.no_session_service),
            ("POST", SESSIONS) if !faults.no_session_service => return self.log_in(body),
            _ => {}
        }
        if !self.knows(headers) {
            return refuse(StatusCode::UNAUTHORIZED, "NoValidSession", "log in first");
        }
        if faults.code != 0 && method != Method::DELETE {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "something went wrong");
        }
        match (method.as_str(), path) {
            ("DELETE", session) if session.starts_with(SESSIONS) => self.log_out(session),
            ("PATCH", SYSTEM) => self.patch(headers, body),
            ("POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset") => self.reset(body),
            ("POST", "/redfish/v1/Systems/1/LogServices/SEL/Actions/LogService.ClearLog") => {
                lock(&self.state).events.clear();
                StatusCode::NO_CONTENT.into_response()
            }
            ("GET", SYSTEM) => {
                let etag = format!("\"{}\"", lock_sessions(&self.sessions).version);
                ([(header::ETAG, etag)], axum::Json(self.system())).into_response()
            }
            ("GET", path) => match self.resource(path) {
                Some(resource) => axum::Json(resource).into_response(),
                None => refuse(StatusCode::NOT_FOUND, "ResourceMissingAtURI", "there is no such resource"),
            },
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "OperationNotAllowed", "not allowed"),
        }
    }

    fn root(&self, no_sessions: bool) -> Response {
        let mut root = json!({
            "@odata.id": "/redfish/v1/",
            "RedfishVersion": "1.15.0",
            "Vendor": "stoker",
            "Product": "virtual BMC",
            "Systems": { "@odata.id": "/redfish/v1/Systems" },
            "Managers": { "@odata.id": "/redfish/v1/Managers" },
            "Links": {},
        });
        if !no_sessions {
            root["Links"]["Sessions"] = json!({ "@odata.id": SESSIONS });
        }
        axum::Json(root).into_response()
    }

    fn log_in(&self, body: &Value) -> Response {
        let (good, full) = {
            let mut state = lock(&self.state);
            state.logins += 1;
            (
                body["UserName"] == state.user.as_str() && body["Password"] == state.password.as_str(),
                state.faults.no_sessions,
            )
        };
        if !good {
            return refuse(StatusCode::UNAUTHORIZED, "InsufficientPrivilege", "wrong user name or password");
        }
        let mut sessions = lock_sessions(&self.sessions);
        if full || sessions.by_token.len() >= self.limit {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "SessionLimitExceeded", "too many sessions");
        }
        sessions.next += 1;
        let id = sessions.next;
        let token = format!("token-{id:08x}");
        sessions.by_token.insert(token.clone(), id);
        lock(&self.state).open += 1;
        let location = format!("{SESSIONS}/{id}");
        let headers = [("x-auth-token", token), ("location", location.clone())];
        (StatusCode::CREATED, headers, axum::Json(json!({ "@odata.id": location }))).into_response()
    }

    fn log_out(&self, path: &str) -> Response {
        let id = path.rsplit('/').next().and_then(|id| id.parse::<u64>().ok());
        let mut sessions = lock_sessions(&self.sessions);
        let before = sessions.by_token.len();
        sessions.by_token.retain(|_, session| Some(*session) != id);
        if sessions.by_token.len() < before {
            lock(&self.state).open -= 1;
        }
        StatusCode::NO_CONTENT.into_response()
    }

    /// Whether a request bears the token of a session, or the password.
    fn knows(&self, headers: &HeaderMap) -> bool {
        use base64::Engine as _;
        if let Some(token) = headers.get("x-auth-token").and_then(|t| t.to_str().ok()) {
            return lock_sessions(&self.sessions).by_token.contains_key(token);
        }
        let mut state = lock(&self.state);
        let both = format!("{}:{}", state.user, state.password);
        let right = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both));
        let given = headers.get(header::AUTHORIZATION).and_then(|a| a.to_str().ok());
        state.logins += u64::from(given.is_some());
        given == Some(right.as_str())
    }

    fn patch(&self, headers: &HeaderMap, body: &Value) -> Response {
        let mut state = lock(&self.state);
        let mut sessions = lock_sessions(&self.sessions);
        let condition = headers.get(header::IF_MATCH).and_then(|c| c.to_str().ok());
        if let Some(tag) = condition
            && (state.faults.wrong_etags || tag != format!("\"{}\"", sessions.version))
        {
            return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "the resource has changed");
        }
        let boot = &body["Boot"];
        let now = state.boot();
        let word = |field: &str| boot[field].as_str();
        let device = match word("BootSourceOverrideTarget") {
            None => now.device,
            Some(target) => match TARGETS.iter().find(|(word, _)| *word == target) {
                Some((_, device)) => *device,
                None => return refuse(StatusCode::BAD_REQUEST, "PropertyValueNotInList", "no such boot source"),
            },
        };
        let disabled = word("BootSourceOverrideEnabled") == Some("Disabled");
        state.boot_from(Boot {
            device: if disabled { Device::Default } else { device },
            efi: word("BootSourceOverrideMode").map_or(now.efi, |mode| mode == "UEFI"),
            persistent: word("BootSourceOverrideEnabled") == Some("Continuous"),
        });
        sessions.version += 1;
        StatusCode::NO_CONTENT.into_response()
    }

    fn reset(&self, body: &Value) -> Response {
        let Some((_, action)) = RESETS.iter().find(|(word, _)| body["ResetType"] == *word) else {
            return refuse(StatusCode::BAD_REQUEST, "ActionParameterNotSupported", "no such reset type");
        };
        let mut state = lock(&self.state);
        match (action, state.is_on()) {
            (Action::Cycle | Action::Reset | Action::Soft, false) => {
                return refuse(StatusCode::CONFLICT, "ResourceInUse", "the machine is off");
            }
            _ => state.power(*action),
        }
        StatusCode::NO_CONTENT.into_response()
    }

    fn system(&self) -> Value {
        let mut state = lock(&self.state);
        let boot = state.boot();
        let target = TARGETS.iter().find(|(_, device)| *device == boot.device).map_or("None", |(word, _)| word);
        let enabled = match (boot.device, boot.persistent) {
            (Device::Default, _) => "Disabled",
            (_, true) => "Continuous",
            (_, false) => "Once",
        };
        json!({
            "@odata.id": SYSTEM,
            "Id": "1",
            "UUID": state.identity.uuid,
            "SerialNumber": state.identity.serial,
            "Manufacturer": "stoker",
            "Model": "virtual machine",
            "PowerState": if state.is_on() { "On" } else { "Off" },
            "Status": { "State": "Enabled", "Health": "OK" },
            "Boot": {
                "BootSourceOverrideEnabled": enabled,
                "BootSourceOverrideTarget": target,
                "BootSourceOverrideTarget@Redfish.AllowableValues": TARGETS.map(|(word, _)| word),
                "BootSourceOverrideMode": if boot.efi { "UEFI" } else { "Legacy" },
                "BootSourceOverrideMode@Redfish.AllowableValues": ["Legacy", "UEFI"],
            },
            "EthernetInterfaces": { "@odata.id": "/redfish/v1/Systems/1/EthernetInterfaces" },
            "LogServices": { "@odata.id": "/redfish/v1/Systems/1/LogServices" },
            "Links": {
                "Chassis": [{ "@odata.id": "/redfish/v1/Chassis/1" }],
                "ManagedBy": [{ "@odata.id": "/redfish/v1/Managers/1" }],
            },
            "Actions": { "#ComputerSystem.Reset": {
                "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset",
                "@Redfish.ActionInfo": "/redfish/v1/Systems/1/ResetActionInfo",
            } },
        })
    }

    fn resource(&self, path: &str) -> Option<Value> {
        let state = lock(&self.state);
        let members = |paths: Vec<String>| {
            let links: Vec<_> = paths.iter().map(|p| json!({ "@odata.id": p })).collect();
            json!({ "Members@odata.count": links.len(), "Members": links })
        };
        let under = |rest: &str| path.strip_prefix(SYSTEM).is_some_and(|p| p == rest);
        Some(match path {
            "/redfish/v1/Systems" => members(vec![SYSTEM.into()]),
            "/redfish/v1/Managers" => members(vec!["/redfish/v1/Managers/1".into()]),
            "/redfish/v1/Managers/1" => json!({ "Id": "1", "Model": "virtual BMC", "FirmwareVersion": "1.0" }),
            "/redfish/v1/Chassis/1" => json!({
                "Id": "1",
                "Thermal": { "@odata.id": "/redfish/v1/Chassis/1/Thermal" },
            }),
            "/redfish/v1/Chassis/1/Thermal" => json!({ "Temperatures": [
                { "Name": "Inlet", "ReadingCelsius": super::INLET, "Status": { "State": "Enabled", "Health": "OK" } },
            ] }),
            _ if under("/ResetActionInfo") => json!({ "Parameters": [
                { "Name": "ResetType", "AllowableValues": RESETS.map(|(word, _)| word) },
            ] }),
            _ if under("/EthernetInterfaces") => {
                let cards = 0..state.identity.macs.len();
                members(cards.map(|i| format!("{SYSTEM}/EthernetInterfaces/{i}")).collect())
            }
            _ if under("/LogServices") => members(vec![format!("{SYSTEM}/LogServices/SEL")]),
            _ if under("/LogServices/SEL") => json!({
                "Id": "SEL",
                "Entries": { "@odata.id": ENTRIES },
                "Actions": { "#LogService.ClearLog": {
                    "target": "/redfish/v1/Systems/1/LogServices/SEL/Actions/LogService.ClearLog",
                } },
            }),
            ENTRIES => {
                let entries = state.events.iter().enumerate().map(|(i, at_s)| {
                    json!({
                        "Id": (i + 1).to_string(),
                        "Created": crate::objects::rfc3339(u64::from(*at_s) * 1000),
                        "Severity": "Critical",
                        "Message": "Inlet: upper critical going high",
                    })
                });
                json!({ "Members": entries.collect::<Vec<_>>() })
            }
            _ => {
                let card = path.strip_prefix(SYSTEM)?.strip_prefix("/EthernetInterfaces/")?;
                json!({ "Id": card, "MACAddress": state.identity.macs.get(card.parse::<usize>().ok()?)? })
            }
        })
    }
}

fn lock_sessions(sessions: &Mutex<Sessions>) -> std::sync::MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An error as DSP0266 has it.
fn refuse(status: StatusCode, id: &str, message: &str) -> Response {
    let info = json!([{ "MessageId": format!("Base.1.8.{id}"), "Message": message }]);
    let error =
        json!({ "error": { "code": format!("Base.1.8.{id}"), "message": message, "@Message.ExtendedInfo": info } });
    (status, axum::Json(error)).into_response()
}
