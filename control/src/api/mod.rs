//! The operator's API. What it says is in [`types`]; this serves it.

mod allocations;
pub mod bmc;
pub mod objects;
pub mod types;

use crate::allocation::Allocation;
use crate::config::Settings;
use crate::environments::Environments;
use crate::lifecycle::{BmcHands, Lifecycle};
use crate::limits;
use crate::metadata::words::clean;
use crate::objects::Objects as _;
use crate::objects::declared::Declared;
use crate::observe::{Milestone, Observation, Observer, now_ms};
use crate::publish::Publisher;
use crate::resource::Kind;
use crate::store::machines::Machines;
use crate::timeline::Timeline;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use protocol::id::{Mac, MachineId};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use types::{
    BootList, EdgeStatus, EnvironmentList, MachineList, MachineRecord, MachineStory, PowerOn, Problem, Refetching,
    Status, WatchLine,
};

/// What the handlers need.
pub struct Operator {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Boots.
    pub timeline: Arc<Timeline>,
    /// Known machines.
    pub machines: Arc<Machines>,
    /// Environments.
    pub environments: Arc<Environments>,
    /// Published names, and the edge.
    pub publisher: Arc<Publisher>,
    /// Where power-ons go; and for the count of lost observations.
    pub observer: Observer,
    /// Declared objects.
    pub objects: Declared,
    /// The BMCs of all Servers.
    pub hands: Arc<BmcHands<Declared>>,
    /// The life of machines, which is told what was done by hand.
    pub lifecycle: Lifecycle<Declared>,
    /// Who has which machine.
    pub allocation: Arc<Allocation<Declared>>,
    /// When control started, ms since 1970 UTC.
    pub started_ms: u64,
    /// Ends watches, so that a drain need not wait for them.
    pub stop: CancellationToken,
}

type Answer<T> = Result<Json<T>, (StatusCode, Json<Problem>)>;

/// The router.
pub fn router(operator: Arc<Operator>) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/boots", get(boots))
        .route("/api/v1/boots/watch", get(watch))
        .route("/api/v1/boots/{mac}", get(story))
        .route("/api/v1/boots/{mac}/power-on", post(power_on))
        .route("/api/v1/machines", get(machines))
        .route("/api/v1/machines/{id}", get(machine))
        .route("/api/v1/environments", get(environments))
        .route("/api/v1/environments/{name}/refetch", post(refetch))
        .route(
            "/api/v1/allocations",
            // A configuration may be larger than other requests; JSON may double it.
            post(allocations::allocate).layer(DefaultBodyLimit::max(2 * crate::machineconfig::MAX_BYTES)),
        )
        .route("/api/v1/objects", post(objects::apply).put(objects::replace))
        .route("/api/v1/objects/{kind}", get(objects::list))
        .route("/api/v1/objects/{kind}/{name}", get(objects::one).delete(objects::remove))
        .route("/api/v1/servers/{name}/bmc", post(bmc::by_hand))
        .route("/api/v1/servers/{name}/{verb}", post(objects::act))
        .route("/api/v1/export", get(objects::export))
        .route("/api/v1/import", post(objects::import).layer(DefaultBodyLimit::max(limits::IMPORT_BYTES)))
        .route("/api/v1/allocations/{which}", delete(allocations::release))
        .fallback(|| async {
            no(StatusCode::NOT_FOUND, "there is no such path in this API", "use the `stoker` of the same version")
        })
        .layer(DefaultBodyLimit::max(limits::API_BODY_BYTES))
        .with_state(operator)
}

async fn status(State(operator): State<Arc<Operator>>) -> Json<Status> {
    let settings = &operator.settings;
    let edge = operator.publisher.edge_state().map(|state| EdgeStatus {
        pid: state.pid,
        alive: is_alive(state.pid),
        generation: state.generation,
        driver: state.driver,
        refused: state.refused,
        listen: state.listen,
        at_ms: state.at_ms,
    });
    let now = now_ms();
    let gap = u64::try_from(limits::BOOT_GAP.as_millis()).unwrap_or(u64::MAX);
    let under_way = |b: &types::BootSummary| !b.phase.is_goal() && now.saturating_sub(b.last_ms) < gap;
    let booting = operator.timeline.boots().iter().filter(|b| under_way(b)).count() as u64;
    let generation = operator.publisher.generation();
    Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started_ms: operator.started_ms,
        now_ms: now,
        interface: settings.interface.clone(),
        address: settings.address,
        control_url: settings.control_url(),
        edge_url: settings.edge_url(),
        dhcp_mode: settings.dhcp.mode.to_string(),
        state_dir: settings.state.display().to_string(),
        generation,
        problems: problems(&operator, edge.as_ref(), generation),
        edge,
        bundle: operator.environments.bundle_version(),
        machines: operator.machines.len() as u64,
        booting,
        observations_lost: operator.observer.lost(),
    })
}

/// What stands in the way of booting machines.
fn problems(operator: &Operator, edge: Option<&EdgeStatus>, generation: u64) -> Vec<String> {
    let mut problems = Vec::new();
    match edge {
        None => problems.push("no edge serves files: start stoker-edge with the same --state".into()),
        Some(edge) if !edge.alive => {
            problems.push(format!("the edge (process {}) has ended: start stoker-edge again", edge.pid));
        }
        Some(edge) => {
            if edge.generation < generation {
                problems.push(format!("the edge serves generation {}, {generation} is published", edge.generation));
            }
            problems.extend(edge.refused.iter().map(|(name, why)| format!("the edge refuses {name}: {why}")));
        }
    }
    if operator.environments.bundle_version().is_none() {
        let why = match &operator.settings.bundle {
            None => "no bundle is configured: set `bundle` to the folder that stoker-bundle made".to_owned(),
            Some(folder) => format!("the bundle {} is not published: see the log", folder.display()),
        };
        problems.push(format!("no boot loaders and no agent: {why}"));
    }
    for environment in operator.environments.list(&[]).environments.iter().filter(|e| !e.ready) {
        problems.push(format!("environment {} is not ready: see stoker environments", environment.name));
    }
    for machine in operator.machines.list() {
        problems.extend(machine.warnings.iter().map(|w| format!("machine {}: {w}", machine.id)));
    }
    problems
}

fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}/stat")).exists()
}

async fn boots(State(operator): State<Arc<Operator>>) -> Json<BootList> {
    Json(BootList { boots: operator.timeline.boots() })
}

/// Whoever switches a machine on without a BMC of ours says so here: its boot begins.
async fn power_on(
    State(operator): State<Arc<Operator>>,
    Path(mac): Path<String>,
    Json(said): Json<PowerOn>,
) -> Answer<PowerOn> {
    let Ok(mac) = mac.parse::<Mac>() else {
        let what = format!("{} is no MAC address", clean(&mac));
        return Err(no(StatusCode::BAD_REQUEST, what, "write it as 52:54:00:12:34:56"));
    };
    let name = clean(&said.name);
    let what = Milestone::PowerOn { name: name.clone() };
    operator.observer.see(Observation { at_ms: now_ms(), mac: Some(mac), ip: None, uuid: None, what });
    Ok(Json(PowerOn { name }))
}

async fn story(State(operator): State<Arc<Operator>>, Path(id): Path<String>) -> Answer<MachineStory> {
    let by_uuid = || id.parse::<MachineId>().ok().and_then(|uuid| operator.timeline.mac_of(uuid));
    let Some(mac) = id.parse::<Mac>().ok().or_else(by_uuid) else {
        let what = format!("{} is neither a MAC address nor a known UUID", clean(&id));
        return Err(no(StatusCode::NOT_FOUND, what, "write it as 52:54:00:12:34:56; `stoker boots` lists them"));
    };
    let machine = operator.machines.get(&mac.to_string());
    match operator.timeline.story(mac) {
        Some(boots) => Ok(Json(MachineStory { mac, boots, machine })),
        None if machine.is_some() => Ok(Json(MachineStory { mac, boots: Vec::new(), machine })),
        None => {
            let remedy =
                "switch the machine on; if nothing shows up, its DHCP does not reach this host (stoker doctor)";
            Err(no(StatusCode::NOT_FOUND, format!("nothing was ever seen of {mac}"), remedy))
        }
    }
}

async fn machines(State(operator): State<Arc<Operator>>) -> Json<MachineList> {
    Json(MachineList { machines: operator.machines.list() })
}

async fn machine(State(operator): State<Arc<Operator>>, Path(id): Path<String>) -> Answer<MachineRecord> {
    operator.machines.get(&id).map(Json).ok_or_else(|| {
        no(StatusCode::NOT_FOUND, format!("no machine {} ever reported", clean(&id)), "boot it into the agent")
    })
}

async fn environments(State(operator): State<Arc<Operator>>) -> Answer<EnvironmentList> {
    let objects = operator.objects.list(Kind::Environment).await.map_err(|e| {
        no(StatusCode::INTERNAL_SERVER_ERROR, format!("the declared environments cannot be read: {e}"), "")
    })?;
    Ok(Json(operator.environments.list(&objects.objects)))
}

async fn refetch(State(operator): State<Arc<Operator>>, Path(name): Path<String>) -> Response {
    match operator.environments.refetch(&name) {
        Some(assets) => (StatusCode::ACCEPTED, Json(Refetching { assets })).into_response(),
        None => {
            let what = format!("there is no environment {} with files of its own", clean(&name));
            no(StatusCode::NOT_FOUND, what, "`stoker environments` lists them").into_response()
        }
    }
}

async fn watch(State(operator): State<Arc<Operator>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let only = match query.get("mac").map(|mac| mac.parse::<Mac>()) {
        Some(Err(e)) => return no(StatusCode::BAD_REQUEST, format!("mac: {e}"), "").into_response(),
        Some(Ok(mac)) => Some(mac),
        None => None,
    };
    let watch = Watch::begin(operator, only);
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines(watch))).into_response()
}

/// A running watch.
struct Watch {
    operator: Arc<Operator>,
    only: Option<Mac>,
    waiting: VecDeque<WatchLine>,
    news: broadcast::Receiver<WatchLine>,
}

impl Watch {
    fn begin(operator: Arc<Operator>, only: Option<Mac>) -> Self {
        let (now, news) = operator.timeline.watch();
        let mut watch = Self { operator, only, waiting: VecDeque::new(), news };
        watch.present(now);
        watch.waiting.push_back(WatchLine::Synced);
        watch
    }

    fn present(&mut self, boots: Vec<types::BootSummary>) {
        let lines = boots.into_iter().map(|boot| WatchLine::Boot { boot, seen: None });
        self.waiting.extend(lines.filter(|line| wanted(self.only, line)));
    }

    async fn next(&mut self) -> Option<WatchLine> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(line);
            }
            let news = tokio::select! {
                () = self.operator.stop.cancelled() => return None,
                news = tokio::time::timeout(limits::WATCH_ALIVE, self.news.recv()) => news,
            };
            match news {
                Err(_) => return Some(WatchLine::Alive { now_ms: now_ms() }),
                Ok(Ok(line)) if wanted(self.only, &line) => return Some(line),
                Ok(Ok(_)) => {}
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(missed))) => {
                    // Whole again: everything that is, then what comes after it.
                    let (now, news) = self.operator.timeline.watch();
                    self.news = news;
                    self.waiting.push_back(WatchLine::Lagged { missed });
                    self.present(now);
                }
            }
        }
    }
}

fn wanted(only: Option<Mac>, line: &WatchLine) -> bool {
    match (only, line) {
        (Some(mac), WatchLine::Boot { boot, .. }) => boot.mac == mac,
        _ => true,
    }
}

fn lines(watch: Watch) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some((Ok(Bytes::from(text)), watch))
    })
}

fn no(status: StatusCode, error: impl Into<String>, remedy: &str) -> (StatusCode, Json<Problem>) {
    (status, Json(Problem { error: error.into(), remedy: remedy.into() }))
}
