//! DHCPv6, for the boot file alone (RFC 8415, RFC 5970): addresses come from a
//! router or another server, as with ProxyDHCP over IPv4.
//!
//! What clients do with that (read in their sources):
//! - EDK2 takes an ADVERTISE without an address for a boot server's if its
//!   vendor class is of enterprise 343 and says `PXEClient`. It then asks again,
//!   from port 4011 to port 4011 of the host in the URL. It needs an address of
//!   another server beside ours.
//! - iPXE takes a boot file only from the server that gave the address, or in
//!   the answer to an INFORMATION-REQUEST.
//!
//! | module | what |
//! |---|---|
//! | [`plan`] | the decision, a pure function |
//! | here | the sockets of one interface, and their task |

pub mod plan;

use super::OpenError;
use super::gate::Gate;
use super::metrics::Metrics;
use super::plan::{Port, Why};
use super::rate::{Excess, Limiter};
use super::settings::{Rules, Settings};
use crate::limits;
use crate::observe::{Milestone, Observation, Observer, now_ms};
use plan::{Answer, Place, View};
use protocol::dhcp::{Firmware, text};
use protocol::dhcp6::{ALL_RELAYS_AND_SERVERS, ALL_SERVERS, Kind, MAX_PACKET, PXE_PORT, Packet, SERVER_PORT, duid};
use protocol::id::Mac;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// DHCPv6 on one interface, its ports open.
#[derive(Debug)]
pub struct Server {
    place: Place,
    dhcp: std::net::UdpSocket,
    pxe: std::net::UdpSocket,
}

impl Server {
    /// Opens both ports. `beside` is where DHCP over IPv4 is served.
    ///
    /// # Errors
    /// One sentence with the remedy.
    pub fn open(beside: &super::Place, settings: &Settings) -> Result<Self, OpenError> {
        let interface = beside.interface.clone();
        let address = match settings.v6.address {
            Some(address) => address,
            None => routable(&interface).ok_or_else(|| OpenError::NoAddress6(interface.clone()))?,
        };
        let fail = |port| {
            let interface = interface.clone();
            move |e| OpenError::of(e, port, interface.clone(), IN_USE)
        };
        let dhcp = udp(&interface, Ipv6Addr::UNSPECIFIED, SERVER_PORT).map_err(fail(SERVER_PORT))?;
        let index = rustix::net::netdevice::name_to_index(&dhcp, &interface)
            .map_err(|_| OpenError::NoInterface(interface.clone()))?;
        for group in [ALL_RELAYS_AND_SERVERS, ALL_SERVERS] {
            dhcp.join_multicast_v6(&group, index).map_err(fail(SERVER_PORT))?;
        }
        let pxe = udp(&interface, address, PXE_PORT).map_err(fail(PXE_PORT))?;
        let place = Place {
            address,
            script_host: beside.address,
            http_port: beside.http_port,
            edge_http_port: beside.edge_http_port,
            server_id: identifier(&interface),
            interface,
        };
        Ok(Self { place, dhcp: dhcp.into(), pxe: pxe.into() })
    }

    /// Answers until told to stop.
    ///
    /// # Errors
    /// When a socket cannot be handed to the runtime.
    pub async fn run(
        self,
        rules: Arc<Rules>,
        observer: Observer,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let Self { place, dhcp, pxe } = self;
        tracing::info!(interface = place.interface, address = %place.address, dry_run = rules.dry_run, "DHCPv6 boot files");
        let (dhcp, pxe) = (UdpSocket::from_std(dhcp)?, UdpSocket::from_std(pxe)?);
        let limiter = Limiter::new(rules.rate);
        let (started, gate, known) = (Instant::now(), Gate::default(), HashMap::new());
        let mut desk = Desk { place, rules, observer, metrics, limiter, started, gate, known };
        // One byte more than is taken, so that what is too long is seen to be.
        let (mut first, mut second) = ([0; MAX_PACKET + 1], [0; MAX_PACKET + 1]);
        loop {
            let (port, socket, bytes, received) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                received = dhcp.recv_from(&mut first) => (Port::Dhcp, &dhcp, &first, received),
                received = pxe.recv_from(&mut second) => (Port::Pxe, &pxe, &second, received),
            };
            match received {
                Ok((length, SocketAddr::V6(source))) => {
                    let bytes = bytes.get(..length).unwrap_or_default();
                    desk.packet(port, source, bytes, socket).await;
                }
                Ok(_) => {}
                // A network that is down now may be up again; do not spin on its error.
                Err(e) => {
                    tracing::debug!(error = %e, "DHCPv6 socket");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What to do about a port that is taken.
const IN_USE: &str = ", or leave dhcp.v6.enabled out: one host has one DHCPv6 server";

/// What the packets of one interface are answered with.
struct Desk {
    place: Place,
    rules: Arc<Rules>,
    observer: Observer,
    metrics: Metrics,
    limiter: Limiter,
    started: Instant,
    gate: Gate,
    /// Identifiers whose MAC is known.
    known: HashMap<Vec<u8>, Mac>,
}

/// A packet and what is known of its sender.
struct Asked<'a> {
    packet: &'a Packet<'a>,
    source: SocketAddrV6,
    mac: Option<Mac>,
    firmware: Firmware,
}

impl Desk {
    async fn packet(&mut self, port: Port, source: SocketAddrV6, bytes: &[u8], socket: &UdpSocket) {
        let packet = match Packet::read(bytes) {
            Ok(packet) => packet,
            Err(bad) => return self.metrics.malformed(bad.label()),
        };
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Err(excess) = self.limiter.admit(&bucket(&packet, source), ms) {
            let label = match excess {
                Excess::Machine => "rate_machine",
                Excess::Total => "rate_total",
            };
            self.metrics.dropped(label);
            let words = format!("more DHCPv6 packets than dhcp.rate allows are dropped, the last from {source}");
            return self.gate.complain(label, &words);
        }
        self.metrics.request(packet.message.kind.label());
        let mac = self.mac(&packet, source);
        let asked = Asked { packet: &packet, source, mac, firmware: packet.message.firmware() };
        self.see_request(&asked, port);
        let view = View { settings: &self.rules, place: &self.place, port, source, mac };
        let answer = match plan::plan(&packet, &view) {
            Ok(answer) => answer,
            Err(why) => return self.ignored(&asked, &why),
        };
        match answer.encode(&packet, &self.place.server_id) {
            Ok(bytes) => self.send(&asked, &answer, &bytes, socket).await,
            Err(e) => {
                self.metrics.dropped("encode");
                self.gate.complain("encode", &e.to_string());
                self.see(&asked, Milestone::DhcpIgnored { why: e.to_string() });
            }
        }
    }

    /// The NIC that asks. What comes to 4011 comes from an address that tells no
    /// MAC, but with the identifier of the SOLICIT before it.
    fn mac(&mut self, packet: &Packet<'_>, source: SocketAddrV6) -> Option<Mac> {
        let told = packet.mac(*source.ip());
        let Some(client) = packet.message.client_id else { return told };
        let Some(mac) = told else { return self.known.get(client).copied() };
        // Forgotten, a machine asks for its file without its MAC in the name: no more is lost.
        if self.known.len() >= limits::DHCP6_CLIENTS && !self.known.contains_key(client) {
            self.known.clear();
        }
        self.known.insert(client.to_vec(), mac);
        told
    }

    async fn send(&mut self, asked: &Asked<'_>, answer: &Answer, bytes: &[u8], socket: &UdpSocket) {
        let url = text::printable(answer.url.as_bytes(), limits::NETWORK_TEXT);
        let words = format!("{} to {} ({}): boot file {url}", answer.kind, answer.to, asked.firmware);
        if self.rules.dry_run {
            tracing::info!(interface = self.place.interface, "dry run, not sent: {words}");
            let why = format!("dry run: would have sent {}", answer.kind);
            return self.see(asked, Milestone::DhcpIgnored { why });
        }
        match socket.send_to(bytes, answer.to).await {
            Ok(_) => {
                tracing::debug!(interface = self.place.interface, "{words}");
                self.metrics.reply(answer.kind.label());
                let what = match answer.kind {
                    Kind::Advertise => Milestone::DhcpOffer { file: url, address: None },
                    _ => Milestone::DhcpAck { file: url },
                };
                self.see(asked, what);
            }
            Err(e) => {
                self.metrics.dropped("send");
                self.gate.complain("send", &format!("a DHCPv6 reply to {} cannot be sent: {e}", answer.to));
                let why = format!("the reply could not be sent: {e}");
                self.see(asked, Milestone::DhcpIgnored { why });
            }
        }
    }

    fn ignored(&mut self, asked: &Asked<'_>, why: &Why) {
        self.metrics.ignored(why.label);
        if why.loud {
            let Asked { packet, source, firmware, .. } = asked;
            let words =
                format!("DHCPv6 {} from {source} ({firmware}) is not answered: {}", packet.message.kind, why.text);
            self.gate.complain(why.label, &words);
        }
        // What a REQUEST to another server shows is not worth another line.
        if why.label != "other_server" {
            self.see(asked, Milestone::DhcpIgnored { why: why.text.to_string() });
        }
    }

    fn see_request(&self, asked: &Asked<'_>, port: Port) {
        let packet = asked.packet;
        let what = match (port, packet.message.kind) {
            (Port::Pxe, _) => Milestone::PxeRequest,
            (_, Kind::Solicit | Kind::InformationRequest) => Milestone::DhcpDiscover {
                client: asked.firmware.to_string(),
                relay: packet.relayed().then(|| IpAddr::V6(*asked.source.ip())),
            },
            (_, Kind::Request) => Milestone::DhcpRequest { server: None },
            _ => return,
        };
        self.see(asked, what);
    }

    /// Shows something of a machine that boots; other clients are none of our business.
    fn see(&self, asked: &Asked<'_>, what: Milestone) {
        if !asked.firmware.is_boot() || asked.mac.is_none() {
            return;
        }
        let ipxe = matches!(asked.firmware, Firmware::Ipxe(_));
        let uuid = asked.packet.message.client_id.and_then(|id| duid::machine_id(id, ipxe));
        self.observer.see(Observation { at_ms: now_ms(), mac: asked.mac, ip: None, uuid, what });
    }
}

/// A machine's bucket: its MAC, else who sent the packet.
fn bucket(packet: &Packet<'_>, source: SocketAddrV6) -> [u8; 16] {
    match packet.mac(*source.ip()) {
        Some(mac) => std::array::from_fn(|i| mac.0.get(i).copied().unwrap_or_default()),
        None => source.ip().octets(),
    }
}

fn udp(interface: &str, address: Ipv6Addr, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_only_v6(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // An address that was added a moment ago is still being checked for duplicates, and could not be bound to.
    socket.set_freebind_v6(true)?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
    Ok(socket)
}

/// The address of an interface that machines of its network can use.
fn routable(interface: &str) -> Option<Ipv6Addr> {
    let all = crate::interface::all().ok()?;
    all.into_iter().filter(|a| a.interface == interface).find_map(|a| match a.ip {
        IpAddr::V6(ip) if !ip.is_unicast_link_local() && !ip.is_loopback() => Some(ip),
        _ => None,
    })
}

/// The identifier of this server: by the interface's hardware address (DUID-LL,
/// RFC 8415 section 11.4), so that it is the same after a restart.
fn identifier(interface: &str) -> Vec<u8> {
    let path = format!("/sys/class/net/{interface}/address");
    let mac = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<Mac>().ok());
    let mut duid = vec![0, 3, 0, 1];
    duid.extend_from_slice(&mac.map_or([0; 6], |mac| mac.0));
    duid
}
