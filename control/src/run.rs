//! Starts everything, keeps it running, ends it in order.

use crate::allocation::{self, Allocation};
use crate::api::{self, Operator};
use crate::config::{ConfigAccess, Settings, StoreChoice};
use crate::dhcp::{self, Dhcp, Place};
use crate::environments::{Environments, is_environments};
use crate::http::{self, ListenError, Listener};
use crate::inventory::Inventory;
use crate::leader::{self, Leading};
use crate::lifecycle::{self, BmcHands, Lifecycle, ServedEnvironments};
use crate::limits;
use crate::metadata::{self, Node, script::Scripts, tokens::Tokens};
use crate::objects::declared::Declared;
use crate::objects::embedded::Embedded;
use crate::objects::kubernetes::{Cluster, ConnectError};
use crate::observe::{Observer, now_ms};
use crate::provider::Provider;
use crate::publish::{Names, PublishError, Publisher};
use crate::store::machines::Machines;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::timeline::{Timeline, events};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::{TcpListener, UnixDatagram, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why control does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder of the state directory.
    #[error("the state directory {0} cannot be used: {1}; give another with --state, or make this one writable")]
    State(PathBuf, io::Error),
    /// A port or socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// DHCP's ports.
    #[error("DHCP: {0}")]
    Dhcp(#[from] dhcp::OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The declared objects in it.
    #[error("the declared objects cannot be read: {0}")]
    Objects(#[from] crate::objects::Error),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// The object folder.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A template.
    #[error("templates: {0}")]
    Script(#[from] metadata::script::BadScript),
}

impl StartError {
    /// The exit code: 3 where another process has what we need, 4 for the disk.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Listen(_) | Self::Dhcp(_) => 3,
            Self::State(..) | Self::Store(_) | Self::Objects(_) | Self::Cluster(_) | Self::Publish(_) => 4,
            Self::Script(_) => 2,
        }
    }
}

/// Control with its sockets open and its state read, not yet serving.
pub struct Control {
    settings: Arc<Settings>,
    nodes: TcpListener,
    operators: UnixListener,
    operators_tcp: Option<TcpListener>,
    edge: UnixDatagram,
    dhcp: Dhcp,
    store: Arc<Store>,
    publisher: Arc<Publisher>,
    environments: Arc<Environments>,
    machines: Arc<Machines>,
    tokens: Arc<Tokens>,
    objects: Declared,
    timeline: Arc<Timeline>,
    observer: Observer,
    observations: mpsc::Receiver<crate::observe::Observation>,
    metrics: Arc<Metrics>,
    scripts: Scripts,
}

impl Control {
    /// Opens everything that can be refused, so that a start either works or says why.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open(mut settings: Settings) -> Result<Self, StartError> {
        // Every TLS user of this process has the same provider; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let state = settings.state.clone();
        for folder in ["run", "control", "publish"] {
            folder_of(&state, folder)?;
        }
        let scripts = Scripts::new(&settings.templates)?;
        let store = Arc::new(Store::open(&state.join("control/store.redb"))?);
        let nodes = http::listen(settings.address, settings.http_port)?;
        if let Ok(bound) = nodes.local_addr() {
            settings.http_port = bound.port();
        }
        let operators = http::listen_unix(&state.join("run/control.sock"))?;
        let operators_tcp = settings.api_listen.map(http::listen_on).transpose()?;
        let events = state.join("run/events.sock");
        let edge = events::bind(&events).map_err(|e| StartError::State(events, e))?;
        let dhcp = Dhcp::open(settings.dhcp.clone(), places(&settings), Some(store.clone()))?;
        let publisher = Arc::new(Publisher::open(&state)?);
        let settings = Arc::new(settings);
        let (observer, observations) = Observer::new();
        let metrics = Arc::new(Metrics::new(observer.clone()));
        metrics.register(|registry| dhcp.metrics().register(registry));
        let environments = Arc::new(Environments::new(&settings, publisher.clone(), store.clone()));
        let machines = Arc::new(Machines::open(store.clone())?);
        let tokens = Arc::new(Tokens::open(store.clone())?);
        let objects = declared(&settings, &store).await?;
        environments.read(&objects).await?;
        let timeline = Timeline::open(state.join("control/boots.jsonl"), metrics.clone());
        Ok(Self {
            settings,
            nodes,
            operators,
            operators_tcp,
            edge,
            dhcp,
            store,
            publisher,
            environments,
            machines,
            tokens,
            objects,
            timeline,
            observer,
            observations,
            metrics,
            scripts,
        })
    }

    /// The address on which nodes are served.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn node_address(&self) -> io::Result<SocketAddr> {
        self.nodes.local_addr()
    }

    /// Serves until `stop`, then ends in order: no new requests, running ones
    /// finish, the timeline is written down, the store is closed.
    ///
    /// # Errors
    /// When what must be published first cannot be.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), StartError> {
        let Self { settings, nodes, operators, operators_tcp, edge, dhcp, store, publisher, .. } = self;
        let Self {
            environments, machines, tokens, objects, timeline, observer, observations, metrics, scripts, ..
        } = self;
        let allocation = Allocation::knowing(objects.clone(), settings.environments.keys().cloned().collect());
        allocation.ensure_any().await?;
        let inventory = Inventory::open(objects.clone(), machines.clone()).await?;
        let key = settings.state.join("control/wipe-records.key");
        let signer = lifecycle::Signer::open(&key).map_err(|e| StartError::State(key, e))?;
        let hands = Arc::new(BmcHands::new(objects.clone()));
        metrics.register(|registry| hands.pool().metrics().register(registry));
        let lifecycle = Lifecycle::new(
            objects.clone(),
            machines.clone(),
            inventory.clone(),
            hands.clone(),
            Box::new(ServedEnvironments { environments: environments.clone(), edge_url: settings.edge_url() }),
            signer,
        )
        .with_bmc_setup(settings.agent.auto_bmc_setup)
        .with_observer(observer.clone())
        .with_wipes_per_minute(settings.agent.wipes_per_minute);
        if settings.config_access == ConfigAccess::Open {
            tracing::warn!(
                "config_access is open: whoever knows a machine's UUID can fetch its configuration with all secrets in it"
            );
        }
        let node = Arc::new(Node {
            settings: settings.clone(),
            scripts,
            observer: observer.clone(),
            environments: environments.clone(),
            machines: machines.clone(),
            publisher: publisher.clone(),
            tokens,
            objects: objects.clone(),
            filled: Default::default(),
            inventory,
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
        });
        publish_static(&node)?;
        let declared = objects.clone();
        let operator = Arc::new(Operator {
            settings: settings.clone(),
            timeline: timeline.clone(),
            machines: machines.clone(),
            environments: environments.clone(),
            publisher: publisher.clone(),
            observer: observer.clone(),
            objects: objects.clone(),
            hands: hands.clone(),
            lifecycle: lifecycle.clone(),
            allocation: allocation.clone(),
            started_ms: now_ms(),
            stop: stop.clone(),
        });

        // The timeline ends last, so that it sees what the others still tell; the Lease is given
        // away when nothing is done under it any more.
        let last = CancellationToken::new();
        let (leading, standing) = leading(&objects, last.clone());
        let telling = tokio::spawn(timeline.clone().run(observations, edge, last.clone()));
        let tasks = TaskTracker::new();
        tasks.spawn(http::serve(Listener::Tcp(nodes), metadata::router(node), limits::HTTP_CONNECTIONS, stop.clone()));
        let app = api::router(operator);
        tasks.spawn(http::serve(Listener::Unix(operators), app.clone(), limits::API_CONNECTIONS, stop.clone()));
        if let Some(listener) = operators_tcp {
            tasks.spawn(http::serve(Listener::Tcp(listener), app, limits::API_CONNECTIONS, stop.clone()));
        }
        let (seeing, ending) = (observer.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(e) = dhcp.run(seeing, ending).await {
                tracing::error!(error = %e, "DHCP has ended: machines get no boot file; restart stoker-control");
            }
        });
        if let Some(folder) = settings.bundle.clone() {
            let environments = environments.clone();
            tasks.spawn(async move {
                if let Err(e) = environments.publish_bundle(&folder).await {
                    tracing::error!(error = %e, "the bundle is not published");
                }
            });
        }
        tasks.spawn(environments.clone().run(declared, stop.clone()));
        let looking = leading.clone();
        let ending = stop.clone();
        tasks.spawn(async move { looking.during(ending, |term| lifecycle.clone().run(term)).await });
        let provider = Provider::new(objects, allocation.clone(), settings.scope.clone());
        let (looking, ending) = (leading.clone(), stop.clone());
        tasks.spawn(async move { looking.during(ending, |term| provider.clone().run(term)).await });
        tasks.spawn(allocation::follow(allocation, leading, stop.clone()));
        tasks.spawn(sweep(publisher.clone(), metrics.clone(), stop.clone()));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            control = settings.control_url(),
            edge = settings.edge_url(),
            interface = settings.interface.as_deref().unwrap_or("-"),
            dhcp = %settings.dhcp.mode,
            state = %settings.state.display(),
            "stoker-control serves"
        );

        stop.cancelled().await;
        tracing::info!("ending");
        tasks.close();
        if tokio::time::timeout(limits::DRAIN_TIME * 2, tasks.wait()).await.is_err() {
            tracing::warn!("some work did not end in time and is left behind");
        }
        hands.pool().close().await;
        last.cancel();
        let _ = telling.await;
        let _ = standing.await;
        let _ = std::fs::remove_file(settings.state.join("run/control.sock"));
        drop(store);
        Ok(())
    }
}

/// The store of declared objects that was chosen.
async fn declared(settings: &Settings, store: &Arc<Store>) -> Result<Declared, StartError> {
    Ok(match &settings.store {
        StoreChoice::Embedded => Declared::Embedded(Embedded::open(store.clone()).await?),
        StoreChoice::Kubernetes { kubeconfig, namespace } => {
            Declared::Kubernetes(Cluster::connect(kubeconfig.as_deref(), namespace).await?)
        }
    })
}

/// Whether this control looks after machines: always, where the objects are its own; else while it
/// holds the cluster's Lease, for which it stands until `stop`.
fn leading(objects: &Declared, stop: CancellationToken) -> (Leading, tokio::task::JoinHandle<()>) {
    match objects {
        Declared::Embedded(_) => (Leading::always(), tokio::spawn(async {})),
        Declared::Kubernetes(cluster) => {
            let (leading, standing) = leader::stand(cluster.clone(), leader::identity(), stop);
            (leading, tokio::spawn(standing))
        }
    }
}

/// Where DHCP is answered. The configuration has made sure that there is an
/// interface and an IPv4 address unless DHCP is off.
fn places(settings: &Settings) -> Vec<Place> {
    let (Some(interface), std::net::IpAddr::V4(address)) = (settings.interface.clone(), settings.address) else {
        return Vec::new();
    };
    let (http_port, edge_http_port) = (settings.http_port, settings.edge_http_port);
    vec![Place { interface, address, http_port, edge_http_port }]
}

fn folder_of(state: &Path, name: &str) -> Result<(), StartError> {
    let folder = state.join(name);
    std::fs::create_dir_all(&folder).map_err(|e| StartError::State(folder, e))
}

/// Scripts that are the same for all machines: firmware and iPXE look for them
/// at the edge, under these names.
fn publish_static(node: &Node) -> Result<(), StartError> {
    let script = node.scripts.boot(&node.settings.control_url())?;
    let entry = node.publisher.objects().put(script.as_bytes())?.entry("text/plain; charset=utf-8");
    let names = ["autoexec.ipxe", "tftp/autoexec.ipxe", "boot.ipxe", "tftp/boot.ipxe"];
    let names: Names = names.map(|name| (name.to_owned(), entry.clone())).into();
    node.publisher.set("static", names)?;
    if node.settings.bundle.is_none() {
        // A bundle of the last run that is not configured any more is not served.
        node.publisher.disown(|name| !is_environments(name))?;
    }
    Ok(())
}

/// Keeps the object folder small.
async fn sweep(publisher: Arc<Publisher>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut due = Instant::now() + limits::OBJECT_SWEEP;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(limits::EDGE_STATE_LOOK) => {}
        }
        metrics.generation(publisher.generation());
        if Instant::now() >= due {
            due = Instant::now() + limits::OBJECT_SWEEP;
            let publisher = publisher.clone();
            let swept = tokio::task::spawn_blocking(move || publisher.sweep(limits::OBJECT_AGE, Instant::now())).await;
            if let Ok(removed @ 1..) = swept {
                tracing::info!(removed, "old objects removed");
            }
        }
    }
}
