//! The loop: packets in, decisions, replies out. One task owns every decision,
//! so the lease book has one writer; probes and the disk work beside it.

use super::book::{Book, Change, Entry, State};
use super::encode::encode;
use super::gate::Gate;
use super::journal::Save;
use super::metrics::Metrics;
use super::plan::{self, Answer, Decision, Place, Port, Reply, View, Why};
use super::probe::{Found, Prober};
use super::rate::{Excess, Limiter};
use super::settings::{Mode, Rules};
use super::{watch, watched::Watched};
use crate::limits;
use crate::observe::{Milestone, Observation, Observer, now_ms};
use protocol::dhcp::options::code;
use protocol::dhcp::{CLIENT_PORT, ClientKey, Destination, MessageType, Request, SERVER_PORT, text};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What wakes the loop.
#[derive(Debug)]
pub enum Event {
    /// A packet came in.
    Packet {
        /// On which endpoint.
        endpoint: usize,
        /// From where.
        source: SocketAddrV4,
        /// What.
        bytes: Vec<u8>,
    },
    /// A packet came to port 68.
    Foreign {
        /// Where.
        place: Arc<Place>,
        /// From where.
        source: Ipv4Addr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Lease changes are on disk, or could not be written.
    Saved {
        /// [`Save::token`].
        token: u64,
        /// The addresses concerned.
        addresses: Vec<Ipv4Addr>,
        /// How it went.
        result: Result<(), String>,
    },
    /// A probe ended.
    Probed {
        /// For whom.
        key: ClientKey,
        /// Which address.
        address: Ipv4Addr,
        /// What was found.
        found: Found,
    },
}

/// Where replies of one endpoint leave from.
#[derive(Clone, Debug)]
pub(super) struct Exit {
    pub place: Arc<Place>,
    pub port: Port,
    pub socket: Arc<UdpSocket>,
    pub prober: Option<Arc<Prober>>,
}

/// A request as it came in; kept while its address is probed or its lease is written.
#[derive(Clone, Debug)]
struct Asked {
    endpoint: usize,
    source: SocketAddrV4,
    request: Request,
    probes: u32,
}

pub(super) struct Serve {
    pub rules: Arc<Rules>,
    pub exits: Vec<Exit>,
    pub book: Arc<Mutex<Book>>,
    pub observer: Observer,
    pub metrics: Metrics,
    pub journal: Option<mpsc::Sender<Save>>,
    /// For probes to report back.
    pub events: mpsc::Sender<Event>,
    limiter: Limiter,
    started: Instant,
    probing: HashMap<ClientKey, Asked>,
    unsent: HashMap<u64, (Asked, Box<Reply>)>,
    next_token: u64,
    watched: Watched,
    gate: Gate,
}

impl Serve {
    pub fn new(
        rules: Arc<Rules>,
        exits: Vec<Exit>,
        book: Arc<Mutex<Book>>,
        observer: Observer,
        metrics: Metrics,
        journal: Option<mpsc::Sender<Save>>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let limiter = Limiter::new(rules.rate);
        Self {
            rules,
            exits,
            book,
            observer,
            metrics,
            journal,
            events,
            limiter,
            started: Instant::now(),
            probing: HashMap::new(),
            unsent: HashMap::new(),
            next_token: 0,
            watched: Watched::default(),
            gate: Gate::default(),
        }
    }

    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Packet { endpoint, source, bytes } => self.packet(endpoint, source, &bytes),
            Event::Foreign { place, source, bytes } => self.foreign(&place, source, &bytes),
            Event::Saved { token, addresses, result } => self.saved(token, &addresses, result),
            Event::Probed { key, address, found } => self.probed(&key, address, found),
        }
    }

    /// Once in a while: what only changes with time.
    pub fn tick(&mut self) {
        let leased = self.book().leased(now());
        self.metrics.leases(leased);
        self.gate.tick();
    }

    fn packet(&mut self, endpoint: usize, source: SocketAddrV4, bytes: &[u8]) {
        let request = match Request::read(bytes) {
            Ok(request) => request,
            Err(bad) => {
                self.metrics.malformed(bad.label());
                return;
            }
        };
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Err(excess) = self.limiter.admit(&request.chaddr, ms) {
            let label = match excess {
                Excess::Machine => "rate_machine",
                Excess::Total => "rate_total",
            };
            self.metrics.dropped(label);
            let mac = request.mac().map(|m| m.to_string());
            self.complain(
                label,
                &format!(
                    "more DHCP packets than dhcp.rate allows are dropped, the last from {}",
                    mac.unwrap_or_default()
                ),
            );
            return;
        }
        self.metrics.request(kind_label(request.kind));
        let asked = Asked { endpoint, source, request, probes: 0 };
        self.see_request(&asked);
        self.decide(asked);
    }

    fn decide(&mut self, asked: Asked) {
        let Some(exit) = self.exits.get(asked.endpoint).cloned() else { return };
        let decision = {
            let book = self.book();
            let view = View {
                settings: &self.rules,
                place: &exit.place,
                book: &book,
                now: now(),
                port: exit.port,
                source: asked.source,
            };
            catch_unwind(AssertUnwindSafe(|| plan::plan(&asked.request, &view)))
        };
        let Ok(decision) = decision else {
            self.metrics.dropped("panic");
            self.complain("panic", "a DHCP decision panicked; its request was dropped");
            return;
        };
        self.act(asked, decision);
    }

    fn act(&mut self, asked: Asked, decision: Decision) {
        if let Some(why) = &decision.no_boot {
            self.see(
                &asked,
                None,
                Milestone::DhcpIgnored { why: format!("gets an address but no boot file: {}", why.text) },
            );
        }
        let entries = self.apply(decision.changes);
        match decision.answer {
            Answer::Ignore(why) => {
                self.save(entries, None);
                self.ignored(&asked, &why);
            }
            Answer::Probe { address, key } => self.probe(asked, address, key),
            Answer::Reply(reply) if entries.is_empty() => self.send(&asked, &reply),
            Answer::Reply(reply) => self.save(entries, Some((asked, reply))),
        }
    }

    /// Applies changes to the book; returns what has to reach the disk.
    fn apply(&mut self, changes: Vec<Change>) -> Vec<(Ipv4Addr, Entry)> {
        let mut entries = Vec::new();
        let durable = !self.rules.dry_run;
        let mut book = self.book();
        for change in changes {
            if let (true, true, Change::Set(address, entry)) = (durable, change.durable(), &change) {
                entries.push((*address, entry.clone()));
                book.saving(*address);
            }
            // A dry run must not remember leases that nobody was given.
            if durable || !change.durable() {
                book.apply(change);
            }
        }
        entries
    }

    fn save(&mut self, entries: Vec<(Ipv4Addr, Entry)>, then: Option<(Asked, Box<Reply>)>) {
        if entries.is_empty() {
            return;
        }
        self.next_token += 1;
        let token = self.next_token;
        let sent = self.journal.as_ref().is_some_and(|j| j.try_send(Save { token, entries }).is_ok());
        if !sent {
            self.metrics.dropped("journal");
            self.complain(
                "journal",
                "leases cannot be written fast enough; the replies are withheld and clients ask again",
            );
        } else if let Some(then) = then {
            self.unsent.insert(token, then);
        }
    }

    fn saved(&mut self, token: u64, addresses: &[Ipv4Addr], result: Result<(), String>) {
        let waiting = self.unsent.remove(&token);
        if let Err(e) = result {
            self.metrics.dropped("journal");
            self.complain("journal", &format!("leases cannot be written, so no address is confirmed: {e}"));
            return;
        }
        for address in addresses {
            self.book().saved(*address);
        }
        if let Some((asked, reply)) = waiting {
            self.send(&asked, &reply);
        }
    }

    fn probe(&mut self, asked: Asked, address: Ipv4Addr, key: ClientKey) {
        let prober = self.exits.get(asked.endpoint).and_then(|e| e.prober.clone());
        let (Some(prober), true) = (prober, self.probing.len() < limits::DHCP_PROBES) else {
            self.metrics.dropped("probe");
            self.complain(
                "probe",
                "too many addresses are being probed; further clients wait for their next DHCPDISCOVER",
            );
            self.book().apply(Change::Forget(address));
            return;
        };
        let client = asked.request.mac();
        let patience = Duration::from_millis(self.rules.server.probe_ms);
        let events = self.events.clone();
        self.probing.insert(key.clone(), asked);
        tokio::spawn(async move {
            let found = prober.probe(address, client, patience).await;
            let _ = events.send(Event::Probed { key, address, found }).await;
        });
    }

    fn probed(&mut self, key: &ClientKey, address: Ipv4Addr, found: Found) {
        let Some(mut asked) = self.probing.remove(key) else { return };
        let (server, mac) = (&self.rules.server, asked.request.mac());
        let user = match found {
            Found::Free => {
                self.metrics.probed("free");
                let until = now() + u64::from(server.offer_seconds);
                let offered = Entry { key: key.0.clone(), mac, state: State::Offered, until };
                self.book().apply(Change::Set(address, offered));
                return self.decide(asked);
            }
            Found::Echo => "a machine that answers ping".to_owned(),
            Found::Arp(mac) => mac.to_string(),
        };
        self.metrics.probed("in_use");
        let seconds = server.quarantine_seconds;
        self.complain(
            "in_use",
            &format!("{address} is used by {user} without a lease; it is set aside for {seconds} s"),
        );
        let taken = Entry { key: Vec::new(), mac: None, state: State::Quarantined, until: now() + u64::from(seconds) };
        let entries = self.apply(vec![Change::Set(address, taken)]);
        self.save(entries, None);
        asked.probes += 1;
        if asked.probes < limits::DHCP_PROBE_TRIES {
            self.decide(asked);
        } else {
            let why = Why { label: "in_use", text: "every address that was tried for it is in use".into(), loud: true };
            self.ignored(&asked, &why);
        }
    }

    fn send(&mut self, asked: &Asked, reply: &Reply) {
        let Some(exit) = self.exits.get(asked.endpoint).cloned() else { return };
        let bytes = match encode(&asked.request, reply) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.metrics.dropped("encode");
                self.complain("encode", &e.to_string());
                return self.see(asked, None, Milestone::DhcpIgnored { why: e.to_string() });
            }
        };
        let to = match reply.destination {
            Destination::Relay(ip) => SocketAddrV4::new(ip, SERVER_PORT),
            Destination::Client(ip) => SocketAddrV4::new(ip, CLIENT_PORT),
            // Without its address the client cannot be asked for by ARP; RFC 2131 section 4.1 allows the broadcast.
            Destination::Broadcast | Destination::Hardware(_) => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
            Destination::Source => asked.source,
        };
        let client = asked.request.mac().map(|m| m.to_string()).unwrap_or_default();
        let words = format!(
            "{} to {to} for {client} ({}): address {}, boot file {}",
            reply.kind,
            asked.request.describe(),
            reply.yiaddr,
            text::printable(reply.boot.as_bytes(), limits::NETWORK_TEXT)
        );
        if self.rules.dry_run {
            tracing::info!(interface = exit.place.interface, "dry run, not sent: {words}");
            return self.see(
                asked,
                None,
                Milestone::DhcpIgnored { why: format!("dry run: would have sent {}", reply.kind) },
            );
        }
        match exit.socket.send_to(&bytes, to) {
            Ok(_) => {
                tracing::debug!(interface = exit.place.interface, "{words}");
                self.metrics.reply(kind_label(reply.kind));
                self.see_reply(asked, reply);
            }
            Err(e) => {
                self.metrics.dropped("send");
                self.complain("send", &format!("a reply to {to} cannot be sent: {e}"));
                self.see(asked, None, Milestone::DhcpIgnored { why: format!("the reply could not be sent: {e}") });
            }
        }
    }

    fn ignored(&mut self, asked: &Asked, why: &Why) {
        self.metrics.ignored(why.label);
        if why.loud {
            let client = asked.request.mac().map(|m| m.to_string()).unwrap_or_default();
            self.complain(
                why.label,
                &format!(
                    "{} from {client} ({}) is not answered: {}",
                    asked.request.kind,
                    asked.request.describe(),
                    why.text
                ),
            );
        }
        // What the DHCPREQUEST itself shows, or what ends in a reply soon, is not worth another line.
        if !matches!(why.label, "other_server" | "probing") {
            self.see(asked, None, Milestone::DhcpIgnored { why: why.text.to_string() });
        }
    }

    fn foreign(&mut self, place: &Place, source: Ipv4Addr, bytes: &[u8]) {
        let Some(offer) = watch::offer(bytes, source) else { return };
        let ours = self.exits.iter().any(|e| e.place.address == offer.server);
        if ours || source == place.address || !self.watched.has(offer.mac) {
            return;
        }
        self.metrics.foreign();
        let ip = Some(offer.address).filter(|a| !a.is_unspecified()).map(IpAddr::V4);
        let what = Milestone::ForeignOffer { server: offer.server.into() };
        self.observer.see(Observation { at_ms: now_ms(), mac: Some(offer.mac), ip, uuid: None, what });
    }

    fn see_request(&mut self, asked: &Asked) {
        let r = &asked.request;
        if let (true, Some(mac)) = (r.firmware.is_boot(), r.mac()) {
            self.watched.add(mac);
        }
        let port = self.exits.get(asked.endpoint).map(|e| e.port);
        let requested = r.requested_address().or(Some(r.ciaddr).filter(|a| !a.is_unspecified()));
        let (ip, what) = match (port, r.kind) {
            (Some(Port::Pxe), _) => (Some(*asked.source.ip()).filter(|a| !a.is_unspecified()), Milestone::PxeRequest),
            (_, MessageType::Discover) => {
                let relay = Some(r.giaddr).filter(|a| !a.is_unspecified()).map(IpAddr::V4);
                (None, Milestone::DhcpDiscover { client: r.describe(), relay })
            }
            (_, MessageType::Request) => (requested, Milestone::DhcpRequest { server: r.server_id().map(IpAddr::V4) }),
            _ => return,
        };
        self.see(asked, ip, what);
    }

    fn see_reply(&mut self, asked: &Asked, reply: &Reply) {
        let address = Some(reply.yiaddr).filter(|a| !a.is_unspecified());
        let file = reply.boot.clone();
        let what = match reply.kind {
            MessageType::Offer => Milestone::DhcpOffer { file, address: address.map(IpAddr::V4) },
            MessageType::Nak => {
                let why = reply.option(code::MESSAGE).unwrap_or_default();
                Milestone::DhcpNak { why: text::printable(why, limits::NETWORK_TEXT) }
            }
            _ => Milestone::DhcpAck { file },
        };
        // An offer is no address yet.
        let ip = address.filter(|_| reply.kind == MessageType::Ack);
        self.see(asked, ip, what);
    }

    /// Shows something of a machine that boots, or that booted through us. Who
    /// never did is none of our business, unless we give the addresses.
    fn see(&mut self, asked: &Asked, ip: Option<Ipv4Addr>, what: Milestone) {
        let mac = asked.request.mac();
        let ours = self.rules.mode == Mode::Server
            || asked.request.firmware.is_boot()
            || mac.is_some_and(|m| self.watched.has(m));
        let doctor = asked.request.options.get(code::USER_CLASS) == Some(super::DOCTOR_CLASS);
        if ours && !doctor {
            let uuid = asked.request.machine_id();
            self.observer.see(Observation { at_ms: now_ms(), mac, ip: ip.map(IpAddr::V4), uuid, what });
        }
    }

    /// Logs a complaint, each kind at most every ten seconds.
    fn complain(&mut self, label: &'static str, what: &str) {
        self.gate.complain(label, what);
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall clock, seconds: leases outlive this process, so a monotonic clock will not do.
fn now() -> u64 {
    now_ms() / 1000
}

const fn kind_label(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Discover => "discover",
        MessageType::Offer => "offer",
        MessageType::Request => "request",
        MessageType::Decline => "decline",
        MessageType::Ack => "ack",
        MessageType::Nak => "nak",
        MessageType::Release => "release",
        MessageType::Inform => "inform",
    }
}
