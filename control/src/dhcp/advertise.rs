//! IPv6 router advertisements that give nothing away.
//!
//! iPXE configures IPv6 beside IPv4 and waits for a router advertisement, 4 s
//! in builds of today and 16 s in those of 2019, at every DHCP. Ours ends the
//! wait: router lifetime 0 and no prefix, so that nobody takes us for a router
//! nor gets an address (RFC 4861 section 6.2.3 allows exactly that).

use super::metrics::Metrics;
use super::plan::Place;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ROUTER_SOLICITATION: u8 = 133;
/// Unasked, for machines whose solicitation was lost.
const EVERY: Duration = Duration::from_secs(30);
/// To all nodes at most this often (MIN_DELAY_BETWEEN_RAS, RFC 4861 section 10); in between, to the one that asks.
const TO_ALL: Duration = Duration::from_secs(3);
/// A link-local address appears some time after the interface came up.
const RETRY: Duration = Duration::from_secs(5);

/// Router advertisement (134, 0), checksum by the kernel, hop limit unspecified,
/// no flags, lifetime 0, reachable and retransmission times unspecified, no options.
pub const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The socket of one interface.
#[derive(Debug)]
pub struct Advertiser {
    socket: Socket,
    interface: String,
    index: u32,
}

impl Advertiser {
    /// Opens a raw ICMPv6 socket.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where IPv6 is switched off.
    pub fn open(place: &Place) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        let index = rustix::net::netdevice::name_to_index(&socket, &place.interface)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(place.interface.as_bytes()))?;
        // Receivers drop neighbour discovery with any other hop limit (RFC 4861 section 6.1.2).
        socket.set_multicast_hops_v6(255)?;
        socket.set_unicast_hops_v6(255)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        Ok(Self { socket, interface: place.interface.clone(), index })
    }

    /// Answers solicitations and speaks up now and then, until told to stop.
    ///
    /// # Errors
    /// When the socket cannot be registered with the runtime.
    pub async fn run(self, metrics: Metrics, stop: CancellationToken) -> io::Result<()> {
        let Self { socket, interface, index } = self;
        // tokio knows no raw sockets; one of UDP's type sends and receives datagrams just the same.
        let socket = UdpSocket::from_std(socket.into())?;
        let mut next = tokio::time::Instant::now();
        let mut last_to_all: Option<Instant> = None;
        let mut complained = false;
        let mut buffer = [0; 1500];
        loop {
            let to = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(next) => ALL_NODES,
                received = socket.recv_from(&mut buffer) => {
                    let Ok((length, SocketAddr::V6(from))) = received else {
                        // The interface is down, perhaps; do not spin on it.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    if length < 8 || buffer.first() != Some(&ROUTER_SOLICITATION) {
                        continue;
                    }
                    let recently = last_to_all.is_some_and(|t| t.elapsed() < TO_ALL);
                    match (recently, from.ip().is_unicast_link_local()) {
                        (false, _) => ALL_NODES,
                        (true, true) => *from.ip(),
                        (true, false) => continue,
                    }
                }
            };
            let scope = SocketAddrV6::new(to, 0, 0, index);
            match socket.send_to(&ADVERTISEMENT, scope).await {
                Ok(_) => {
                    metrics.advertised();
                    complained = false;
                    if to == ALL_NODES {
                        last_to_all = Some(Instant::now());
                        next = tokio::time::Instant::now() + EVERY;
                    }
                }
                Err(e) => {
                    if !complained {
                        tracing::warn!(interface, error = %e, "no router advertisement can be sent (does the interface have an IPv6 link-local address?); iPXE waits 4 to 16 s longer at each DHCP");
                        complained = true;
                    }
                    next = tokio::time::Instant::now() + RETRY;
                }
            }
        }
    }
}
