//! DHCP and ProxyDHCP (RFC 2131, PXE 2.1): who boots is told what to boot.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | the `dhcp:` section of stoker.yaml |
//! | [`plan`] | the decision, a pure function |
//! | [`book`] | who has which address |
//! | [`encode`] | a reply as bytes, through dhcproto behind a guard |
//! | [`sockets`], `serve` | packets in, decisions, replies out |
//! | `journal`, `store::leases` | leases on disk before they are confirmed |
//! | [`probe`] | is an address in use? |
//! | [`watch`] | offers of other servers |
//! | [`v6`] | boot files by DHCPv6 |
//! | [`advertise`] | IPv6 router advertisements that only end iPXE's wait |
//!
//! [`Dhcp::open`] takes the ports (before privileges are dropped), [`Dhcp::run`] serves.

pub mod advertise;
pub mod book;
pub mod encode;
mod gate;
mod journal;
pub mod metrics;
pub mod plan;
pub mod probe;
pub mod rate;
mod serve;
pub mod settings;
pub mod sockets;
pub mod v6;
pub mod watch;
mod watched;

pub use metrics::Metrics;
pub use plan::Place;
pub use settings::{Mode, Settings};
pub use sockets::OpenError;

/// The user class (option 77) of `stoker doctor`'s own DISCOVER: answered like any other, but no machine that boots.
pub const DOCTOR_CLASS: &[u8] = b"stoker-doctor";

use crate::limits;
use crate::observe::Observer;
use crate::store::{Store, leases};
use advertise::Advertiser;
use book::Book;
use protocol::dhcp::MAX_PACKET;
use serve::{Event, Exit, Serve};
use settings::Rules;
use sockets::Endpoint;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// DHCP with its ports open.
pub struct Dhcp {
    rules: Arc<Rules>,
    places: Vec<Arc<Place>>,
    endpoints: Vec<Endpoint>,
    watches: Vec<(Arc<Place>, std::net::UdpSocket)>,
    advertisers: Vec<Advertiser>,
    v6: Vec<v6::Server>,
    book: Arc<Mutex<Book>>,
    store: Option<Arc<Store>>,
    metrics: Metrics,
}

impl Dhcp {
    /// Opens every port, and reads the leases in server mode. `settings` must
    /// have passed [`Settings::check`].
    ///
    /// # Errors
    /// One sentence with the remedy: port in use, capability missing, no such interface or address.
    pub fn open(settings: Settings, places: Vec<Place>, store: Option<Arc<Store>>) -> Result<Self, OpenError> {
        let places: Vec<_> = places.into_iter().map(Arc::new).collect();
        let mut endpoints = Vec::new();
        let (mut watches, mut advertisers, mut v6) = (Vec::new(), Vec::new(), Vec::new());
        for place in &places {
            endpoints.extend(sockets::open(place, &settings)?);
            if settings.serves_v6() {
                v6.push(v6::Server::open(place, &settings)?);
            }
            if settings.mode == Mode::Proxy && settings.watch_foreign {
                match sockets::watch(place) {
                    Ok(socket) => watches.push((place.clone(), socket)),
                    Err(e) => tracing::warn!(
                        interface = place.interface,
                        "offers of other DHCP servers will not be seen: {e}"
                    ),
                }
            }
            if settings.advertises() {
                match Advertiser::open(place) {
                    Ok(advertiser) => advertisers.push(advertiser),
                    Err(e) => {
                        tracing::warn!(interface = place.interface, error = %e, "no IPv6 router advertisements (CAP_NET_RAW, and IPv6 on the interface, are needed); iPXE waits 4 to 16 s longer at each DHCP")
                    }
                }
            }
        }
        let book = match (settings.mode, &store) {
            (Mode::Server, None) => return Err(OpenError::NoStore),
            (Mode::Server, Some(store)) => {
                let kept = leases::read(store).map_err(|e| OpenError::Leases(e.to_string()))?;
                let served = |a: &std::net::Ipv4Addr| settings.server.subnets.iter().any(|s| s.network.contains(a));
                Book::load(kept.into_iter().filter(|(address, _)| served(address)))
            }
            _ => Book::default(),
        };
        Ok(Self {
            rules: Arc::new(Rules::new(settings)),
            places,
            endpoints,
            watches,
            advertisers,
            v6,
            book: Arc::new(Mutex::new(book)),
            store,
            metrics: Metrics::default(),
        })
    }

    /// The counters.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The lease book, to be shown; only DHCP itself alters it.
    pub fn book(&self) -> Arc<Mutex<Book>> {
        self.book.clone()
    }

    /// Serves until told to stop; then writes what is still to be written.
    ///
    /// # Errors
    /// When a socket cannot be handed to the runtime.
    pub async fn run(self, observer: Observer, stop: CancellationToken) -> std::io::Result<()> {
        let mode = self.rules.mode;
        for place in &self.places {
            tracing::info!(interface = place.interface, address = %place.address, %mode, dry_run = self.rules.dry_run, advertise = self.rules.advertises(), "DHCP");
        }
        let (events, mut queue) = mpsc::channel(limits::DHCP_QUEUE);
        let mut readers = JoinSet::new();
        let mut exits = Vec::new();
        for (index, endpoint) in self.endpoints.into_iter().enumerate() {
            let probing = mode == Mode::Server && self.rules.server.probe_ms > 0 && endpoint.port == plan::Port::Dhcp;
            let prober = if probing { Some(Arc::new(probe::Prober::start(&endpoint.place)?)) } else { None };
            exits.push(Exit { place: endpoint.place, port: endpoint.port, socket: endpoint.send, prober });
            let make = move |source, bytes| Event::Packet { endpoint: index, source, bytes };
            readers.spawn(read(UdpSocket::from_std(endpoint.receive)?, events.clone(), make));
        }
        for (place, socket) in self.watches {
            let make = move |source: std::net::SocketAddrV4, bytes| Event::Foreign {
                place: place.clone(),
                source: *source.ip(),
                bytes,
            };
            readers.spawn(read(UdpSocket::from_std(socket)?, events.clone(), make));
        }
        for advertiser in self.advertisers {
            let (metrics, stop) = (self.metrics.clone(), stop.clone());
            readers.spawn(async move {
                if let Err(e) = advertiser.run(metrics, stop).await {
                    tracing::warn!(error = %e, "router advertisements ended");
                }
            });
        }
        for server in self.v6 {
            let (rules, observer) = (self.rules.clone(), observer.clone());
            let (metrics, stop) = (self.metrics.clone(), stop.clone());
            readers.spawn(async move {
                if let Err(e) = server.run(rules, observer, metrics, stop).await {
                    tracing::warn!(error = %e, "DHCPv6 ended");
                }
            });
        }
        let (journal, writer) = match self.store.filter(|_| mode == Mode::Server) {
            Some(store) => {
                let (save, saves) = mpsc::channel(limits::DHCP_JOURNAL);
                (Some(save), Some(tokio::spawn(journal::run(store, saves, events.clone()))))
            }
            None => (None, None),
        };
        let mut serve = Serve::new(self.rules, exits, self.book, observer, self.metrics, journal, events);
        let mut clock = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = queue.recv() => serve.handle(event),
                _ = clock.tick() => serve.tick(),
            }
        }
        readers.shutdown().await;
        // Closing the journal's queue ends it once all is written; its replies still go out.
        serve.journal = None;
        if let Some(mut writer) = writer {
            let drained = async {
                loop {
                    tokio::select! {
                        _ = &mut writer => break,
                        Some(event) = queue.recv() => serve.handle(event),
                    }
                }
                while let Ok(event) = queue.try_recv() {
                    serve.handle(event);
                }
            };
            if tokio::time::timeout(limits::DRAIN_TIME, drained).await.is_err() {
                tracing::warn!("DHCP ended before all leases were written; they were not confirmed to their machines");
            }
        }
        Ok(())
    }
}

/// Reads one socket for as long as the loop listens.
async fn read(socket: UdpSocket, events: mpsc::Sender<Event>, make: impl Fn(std::net::SocketAddrV4, Vec<u8>) -> Event) {
    // One byte more than is taken, so that what is too long is seen to be.
    let mut buffer = [0; MAX_PACKET + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, SocketAddr::V4(source))) => {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if events.send(make(source, bytes)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // A network that is down now may be up again; do not spin on its error.
            Err(e) => {
                tracing::debug!(error = %e, "DHCP socket");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}
