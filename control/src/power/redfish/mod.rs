//! Redfish (DSP0266): power, boot override, inventory, logs and sensors of the
//! one system that a BMC is built into.

pub mod http;
mod read;
pub mod tls;

pub use read::{Belongs, Machine, belongs};
pub use tls::{Trust, fingerprint, is_fingerprint};

use super::session::{Answer, BmcInfo, Session, SystemInfo};
use super::target::Target;
use super::{BootFlags, ChassisStatus, Error, Event, Power, Sensor};
use crate::limits;
use futures_util::future::BoxFuture;
use http::{Http, Reply, Timeouts};
use read::{link, links, word};
use reqwest::header::{HeaderName, HeaderValue, IF_MATCH};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Where every Redfish service begins (DSP0266, 6.2).
const ROOT: &str = "/redfish/v1/";
/// Systems that are looked through for the right one; managers, chassis and logs likewise.
const MEMBERS: usize = 16;
/// A machine must be off so soon after ForceOff, where a cycle is made of two commands.
const OFF_LIMIT: Duration = Duration::from_secs(15);
const OFF_POLL: Duration = Duration::from_millis(500);

/// An open session.
pub struct Client {
    http: Http,
    root: Value,
    /// The path of the system; empty where nobody logged in.
    system: String,
    /// The session's own resource, to be deleted; `None` with basic authentication.
    session: Option<String>,
}

impl Client {
    /// Looks at the service, logs in, and finds the system. Without `trust` over plain HTTP. With
    /// [`Trust::FirstSight`] it does not log in, and can tell no more than [`Session::info`].
    ///
    /// # Errors
    /// See [`Error`]. A system that is another machine's is [`Error::OtherMachine`].
    pub async fn open(target: &Target, trust: Option<&Trust>) -> Result<Self, Error> {
        let mut http = match trust {
            Some(trust) => Http::tls(&format!("https://{}", target.place), trust, Timeouts::default())?,
            None => Http::plain(&format!("http://{}", target.place), Timeouts::default())?,
        };
        let root = http.send(Method::GET, ROOT, None, &[]).await?;
        if root.status == StatusCode::NOT_FOUND || !root.body.is_object() {
            return Err(Error::Refused(format!("GET {ROOT}: there is no Redfish at {}", target.place)));
        }
        let root = root.done(ROOT)?;
        if trust == Some(&Trust::FirstSight) {
            return Ok(Self { http, root, system: String::new(), session: None });
        }
        let session = log_in(&mut http, &root, target).await?;
        let mut client = Self { http, root, system: String::new(), session };
        match client.find(&target.machine).await {
            Ok(system) => {
                client.system = system;
                Ok(client)
            }
            Err(e) => {
                let basic = client.session.is_none();
                client.log_out().await;
                // With basic authentication the first real request is the login.
                Err(if basic && matches!(e, Error::Closed) { Error::Login(401) } else { e })
            }
        }
    }

    async fn get(&self, path: &str) -> Result<Value, Error> {
        self.http.send(Method::GET, path, None, &[]).await?.done(path)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.http.send(Method::POST, path, Some(body), &[]).await?.done(path)
    }

    /// The system of this machine.
    async fn find(&self, machine: &Machine) -> Result<String, Error> {
        let collection = link(&self.root, "Systems").unwrap_or_else(|| format!("{ROOT}Systems"));
        let members = links(&self.get(&collection).await?["Members"], MEMBERS);
        let mut unknown = Vec::new();
        let mut other = None;
        for path in &members {
            let system = self.get(path).await?;
            let mut info = read::system_info(&system);
            let mut verdict = belongs(machine, &info);
            if verdict != Belongs::Yes && !machine.macs.is_empty() {
                info.macs = self.macs(&system).await;
                verdict = belongs(machine, &info);
            }
            match verdict {
                Belongs::Yes => return Ok(path.clone()),
                Belongs::No => other = Some(info),
                Belongs::Unknown => unknown.push(path.clone()),
            }
        }
        match (&unknown[..], other) {
            ([only], None) => Ok(only.clone()),
            ([], Some(info)) => Err(Error::OtherMachine(format!(
                "this BMC belongs to another machine (serial number {}, UUID {}): correct spec.bmc.endpoint; nothing was done",
                info.serial, info.uuid
            ))),
            ([], None) => Err(Error::Refused(format!("GET {collection}: it lists no system"))),
            _ => Err(Error::OtherMachine(format!(
                "this BMC has {} systems, and none of them is known to be this machine: its serial number or MAC addresses are needed (an agent's report)",
                members.len()
            ))),
        }
    }

    async fn macs(&self, system: &Value) -> Vec<String> {
        let Some(path) = link(system, "EthernetInterfaces") else { return Vec::new() };
        let Ok(collection) = self.get(&path).await else { return Vec::new() };
        let mut macs = Vec::new();
        for path in links(&collection["Members"], MEMBERS) {
            if let Ok(card) = self.get(&path).await {
                let mac = ["MACAddress", "PermanentMACAddress"].map(|f| word(&card, f));
                macs.extend(mac.into_iter().find(|m| !m.is_empty()));
            }
        }
        macs
    }

    /// What `ComputerSystem.Reset` may be told.
    async fn reset_types(&self, action: &Value) -> Vec<String> {
        let listed = read::allowable(action, "ResetType");
        match action.get("@Redfish.ActionInfo").and_then(Value::as_str) {
            Some(info) if listed.is_empty() => match self.get(info).await {
                Ok(info) => read::action_info(&info, "ResetType"),
                Err(_) => listed,
            },
            _ => listed,
        }
    }

    async fn reset(&self, wanted: Power) -> Result<(), Error> {
        let system = self.get(&self.system).await?;
        let action = &system["Actions"]["#ComputerSystem.Reset"];
        let Some(target) = action["target"].as_str() else {
            return Err(Error::Unsupported("this BMC offers no ComputerSystem.Reset".to_owned()));
        };
        let allowed = self.reset_types(action).await;
        let Some(steps) = read::resets(wanted, &allowed) else {
            return Err(Error::Unsupported(format!(
                "this BMC has no reset type for it; it has {}",
                allowed.join(", ")
            )));
        };
        for (i, step) in steps.iter().enumerate() {
            self.post(target, &json!({ "ResetType": step })).await?;
            if i + 1 < steps.len() {
                self.until_off().await?;
            }
        }
        Ok(())
    }

    async fn until_off(&self) -> Result<(), Error> {
        let deadline = Instant::now() + OFF_LIMIT;
        loop {
            if read::is_on(&self.get(&self.system).await?) == Some(false) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::PowerNotReached(true));
            }
            sleep(OFF_POLL).await;
        }
    }

    /// Writes the boot override over the version that was read; a second time where it has changed
    /// meanwhile, and a third time without a condition, for BMCs that get their own tags wrong.
    async fn patch_boot(&self, flags: BootFlags) -> Result<(), Error> {
        for conditional in [true, true, false] {
            let reply = self.http.send(Method::GET, &self.system, None, &[]).await?;
            let header = reply.etag.clone();
            let system = reply.done(&self.system)?;
            let patch = read::boot_patch(&system, flags).map_err(Error::Unsupported)?;
            let etag = header.or_else(|| system["@odata.etag"].as_str().map(str::to_owned)).filter(|_| conditional);
            let condition: Vec<(HeaderName, HeaderValue)> =
                etag.and_then(|e| HeaderValue::from_str(&e).ok()).map(|e| (IF_MATCH, e)).into_iter().collect();
            let reply = self.http.send(Method::PATCH, &self.system, Some(&patch), &condition).await?;
            if conditional && !condition.is_empty() && reply.status == StatusCode::PRECONDITION_FAILED {
                continue;
            }
            return reply.done("the boot override").map(|_| ());
        }
        Err(Error::Refused("the boot override: it changes too fast".to_owned()))
    }

    /// The log that holds hardware events: a service named SEL, else the first one.
    async fn log(&self) -> Result<Value, Error> {
        let system = self.get(&self.system).await?;
        let mut owners = vec![system.clone()];
        for path in links(&system["Links"]["ManagedBy"], MEMBERS) {
            owners.push(self.get(&path).await?);
        }
        let mut first = None;
        for owner in &owners {
            let Some(services) = link(owner, "LogServices") else { continue };
            for path in links(&self.get(&services).await?["Members"], MEMBERS) {
                let is_sel = path.rsplit('/').find(|p| !p.is_empty()).is_some_and(|p| p.eq_ignore_ascii_case("sel"));
                let service = self.get(&path).await?;
                if is_sel {
                    return Ok(service);
                }
                first.get_or_insert(service);
            }
        }
        first.ok_or_else(|| Error::Unsupported("this BMC has no log".to_owned()))
    }

    async fn events(&self) -> Result<Vec<Event>, Error> {
        let log = self.log().await?;
        let mut next = link(&log, "Entries");
        let mut events = Vec::new();
        for _ in 0..limits::BMC_PAGES {
            let Some(path) = next.take() else { break };
            let page = self.get(&path).await?;
            let members = page["Members"].as_array().map(Vec::as_slice).unwrap_or_default();
            for entry in members {
                // Some list links only.
                let whole = match (entry.get("Message"), entry["@odata.id"].as_str()) {
                    (None, Some(path)) => Some(self.get(path).await?),
                    _ => None,
                };
                events.push(read::event(events.len(), whole.as_ref().unwrap_or(entry)));
                if events.len() >= limits::BMC_EVENTS {
                    return Ok(in_order(events));
                }
            }
            next = page["Members@odata.nextLink"].as_str().map(str::to_owned);
        }
        Ok(in_order(events))
    }

    async fn all_sensors(&self) -> Result<Vec<Sensor>, Error> {
        let system = self.get(&self.system).await?;
        let mut found = Vec::new();
        for path in links(&system["Links"]["Chassis"], MEMBERS) {
            let chassis = self.get(&path).await?;
            for part in ["Thermal", "Power"] {
                if let Some(path) = link(&chassis, part) {
                    found.extend(read::sensors(&self.get(&path).await?, limits::BMC_SENSORS));
                }
            }
            if found.is_empty()
                && let Some(path) = link(&chassis, "Sensors")
            {
                for path in links(&self.get(&path).await?["Members"], limits::BMC_SENSORS) {
                    found.push(read::sensor(&self.get(&path).await?, &["Reading"], ""));
                }
            }
        }
        found.truncate(limits::BMC_SENSORS);
        Ok(found)
    }

    async fn log_out(self) {
        if let Some(session) = &self.session {
            // It ends by itself otherwise.
            let _ = self.http.send(Method::DELETE, session, None, &[]).await;
        }
    }
}

/// Opens a session; where the service has none, every request carries the password.
/// Returns the session's path.
async fn log_in(http: &mut Http, root: &Value, target: &Target) -> Result<Option<String>, Error> {
    let (user, password) = (target.user.as_str(), target.password.as_str());
    let sessions = root.get("Links").and_then(|links| link(links, "Sessions"));
    let Some(sessions) = sessions else {
        http.authenticate(None, Some((user, password)));
        return Ok(None);
    };
    let body = json!({ "UserName": user, "Password": password });
    let reply = http.send(Method::POST, &sessions, Some(&body), &[]).await?;
    match reply {
        Reply { status, token: Some(token), location, ref body, .. } if status.is_success() => {
            let own = location.or_else(|| body["@odata.id"].as_str().map(str::to_owned));
            http.authenticate(Some(token), None);
            Ok(own)
        }
        Reply { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
            Err(Error::Login(reply.status.as_u16()))
        }
        reply if reply.body.to_string().contains("SessionLimitExceeded") => Err(Error::NoSession),
        Reply { status: StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, .. } => Err(Error::NoSession),
        Reply {
            status: StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED, ..
        } => {
            http.authenticate(None, Some((user, password)));
            Ok(None)
        }
        reply => reply.done("the login").and(Err(Error::Refused("the login: no token in the answer".to_owned()))),
    }
}

/// Oldest first, as IPMI has it: many services list the newest first.
fn in_order(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(|e| (e.at_s, e.id));
    events
}

impl Session for Client {
    fn info(&mut self) -> Answer<'_, BmcInfo> {
        Box::pin(async move {
            let mut info = BmcInfo {
                speaks: format!("Redfish {}", word(&self.root, "RedfishVersion")),
                manufacturer: word(&self.root, "Vendor"),
                product: word(&self.root, "Product"),
                firmware: String::new(),
                certificate: self.http.certificate(),
                system: None,
            };
            if self.system.is_empty() {
                return Ok(info);
            }
            let system = self.get(&self.system).await?;
            let mut machine: SystemInfo = read::system_info(&system);
            machine.macs = self.macs(&system).await;
            if let Some(path) = links(&system["Links"]["ManagedBy"], 1).first() {
                let manager = self.get(path).await?;
                info.firmware = word(&manager, "FirmwareVersion");
                if info.product.is_empty() {
                    info.product = word(&manager, "Model");
                }
            }
            if info.manufacturer.is_empty() {
                info.manufacturer.clone_from(&machine.manufacturer);
            }
            info.system = Some(machine);
            Ok(info)
        })
    }

    fn status(&mut self) -> Answer<'_, ChassisStatus> {
        Box::pin(async move {
            let system = self.get(&self.system).await?;
            let Some(on) = read::is_on(&system) else {
                return Err(Error::Refused(format!("GET {}: it does not tell PowerState", self.system)));
            };
            let drive_fault = read::is_faulty(&system, "StorageSummary") || read::is_faulty(&system, "Storage");
            Ok(ChassisStatus { on, drive_fault, ..ChassisStatus::default() })
        })
    }

    fn switch(&mut self, action: Power) -> Answer<'_, ()> {
        Box::pin(self.reset(action))
    }

    fn boot_flags(&mut self) -> Answer<'_, BootFlags> {
        Box::pin(async move { Ok(read::boot_flags(&self.get(&self.system).await?)) })
    }

    fn write_boot(&mut self, flags: BootFlags) -> Answer<'_, ()> {
        Box::pin(self.patch_boot(flags))
    }

    fn sel(&mut self) -> Answer<'_, Vec<Event>> {
        Box::pin(self.events())
    }

    fn sel_clear(&mut self) -> Answer<'_, ()> {
        Box::pin(async move {
            let log = self.log().await?;
            let Some(target) = log["Actions"]["#LogService.ClearLog"]["target"].as_str() else {
                return Err(Error::Unsupported("the log of this BMC cannot be cleared".to_owned()));
            };
            self.post(target, &json!({})).await.map(|_| ())
        })
    }

    fn sensors(&mut self) -> Answer<'_, Vec<Sensor>> {
        Box::pin(self.all_sensors())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.log_out())
    }
}
