//! What is known of the way to a peer: how large a packet may be, and whether
//! the kernel copies what it sends there.
//!
//! Asked of the kernel once a peer and remembered for a while, so that a
//! window costs a table look-up and no system call.

use super::sys;
use crate::limits::{ROUTE_AGE_MS, ROUTES};
use protocol::time::{Duration, Instant};
use socket2::SockRef;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// Where there is no answer: Ethernet.
const MTU_UNKNOWN: u32 = 1500;

/// The way to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The largest IP packet that goes there in one piece, bytes.
    pub mtu: u32,
    /// The kernel copies zero-copy pages on this way (loopback, veth, tap), so they gain nothing.
    pub copies: bool,
    /// Our address that the kernel sends from when it is not told one.
    pub source: Option<IpAddr>,
    /// UDP GSO works; false once the kernel has refused it.
    pub gso: bool,
}

/// What is known of all peers.
#[derive(Default)]
pub struct Routes {
    known: HashMap<IpAddr, (Route, Instant)>,
    /// The one that was asked for last, and until when it holds: most sends follow others to the same peer.
    last: Option<(IpAddr, Route, Instant)>,
    /// Our addresses, and whether their interface copies.
    ours: Vec<(IpAddr, bool)>,
    ours_until: Instant,
    /// A socket is bound to one device: what the kernel sends from by itself
    /// there need not be what an unbound socket tells.
    to_device: bool,
    /// Tests take loopback for a NIC, to go the zero-copy ways.
    #[cfg(test)]
    pub take_for_nic: bool,
}

impl Routes {
    /// A UDP socket that will be sent from.
    pub fn socket(&mut self, socket: BorrowedFd<'_>) {
        self.to_device |= !matches!(SockRef::from(&socket).device(), Ok(None));
        self.last = None;
        self.known.clear();
    }

    /// The way to `peer`.
    pub fn to(&mut self, peer: IpAddr, now: Instant) -> Route {
        if let Some((ip, route, until)) = self.last
            && ip == peer
            && until > now
        {
            return route;
        }
        if let Some(&(route, until)) = self.known.get(&peer)
            && until > now
        {
            self.last = Some((peer, route, until));
            return route;
        }
        #[cfg(test)]
        let nic = self.take_for_nic;
        #[cfg(not(test))]
        let nic = false;
        let gso = self.known.get(&peer).is_none_or(|(old, _)| old.gso);
        let asked = self.ask(peer, now);
        let route = Route { gso, copies: asked.copies && !nic, ..asked };
        if self.known.len() >= ROUTES {
            self.known.clear();
        }
        self.known.insert(peer, (route, now + Duration::from_millis(ROUTE_AGE_MS)));
        route
    }

    /// The kernel has refused GSO on the way to `peer`.
    pub fn without_gso(&mut self, peer: IpAddr, now: Instant) {
        self.to(peer, now);
        if let Some((route, _)) = self.known.get_mut(&peer) {
            route.gso = false;
            self.last = None;
        }
    }

    /// The kernel has copied pages that were sent to `peer` without a copy.
    pub fn copied(&mut self, peer: IpAddr) {
        if let Some((route, _)) = self.known.get_mut(&peer) {
            route.copies = true;
            self.last = None;
        }
    }

    fn ask(&mut self, peer: IpAddr, now: Instant) -> Route {
        let (mtu, local) = mtu_and_source(peer).unwrap_or((MTU_UNKNOWN, None));
        let copies = peer.is_loopback() || local.is_none_or(|l| l == peer || self.copying(l, now));
        let source = local.filter(|_| !self.to_device);
        Route { mtu, copies, source, gso: true }
    }

    /// Whether the interface with our address `local` copies.
    fn copying(&mut self, local: IpAddr, now: Instant) -> bool {
        if now >= self.ours_until {
            self.ours_until = now + Duration::from_millis(ROUTE_AGE_MS);
            self.ours = copying_interfaces();
        }
        self.ours.iter().any(|&(ip, copies)| ip == local && copies)
    }
}

/// IP_MTU and our address of a socket connected to `peer`; nothing is sent.
fn mtu_and_source(peer: IpAddr) -> Option<(u32, Option<IpAddr>)> {
    /// Where nothing is sent, any port will do (discard).
    const PORT: u16 = 9;
    let (any, level, name) = match peer {
        IpAddr::V4(_) => (IpAddr::from(Ipv4Addr::UNSPECIFIED), libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (IpAddr::from(Ipv6Addr::UNSPECIFIED), libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer, PORT)).ok()?;
    let mtu = sys::get_option(socket.as_fd(), level, name).ok()?;
    Some((u32::try_from(mtu).ok()?, socket.local_addr().ok().map(|a| a.ip())))
}

/// Our addresses, each with whether its interface hands pages to a reader on this host.
fn copying_interfaces() -> Vec<(IpAddr, bool)> {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return Vec::new() };
    sys::interface_addresses()
        .into_iter()
        .map(|(interface, ip)| {
            let driver = sys::interface_driver(socket.as_fd(), &interface);
            (ip, ip.is_loopback() || matches!(driver.as_deref(), Some("veth" | "tun")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t18_a_socket_bound_to_a_device_is_always_told_its_source() {
        let mut routes = Routes::default();
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        routes.socket(free.as_fd());
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(routes.to(loopback, Instant::ZERO).source, Some(loopback));
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&bound).bind_device(Some(b"lo")).unwrap();
        routes.socket(bound.as_fd());
        assert_eq!(routes.to(loopback, Instant::ZERO).source, None);
    }

    #[test]
    fn loopback_copies_and_has_its_mtu() {
        let mut routes = Routes::default();
        let route = routes.to("127.0.0.1".parse().unwrap(), Instant::ZERO);
        assert!(route.copies && route.gso, "{route:?}");
        assert!(route.mtu >= 16384, "{route:?}");
        assert_eq!(route.source, "127.0.0.1".parse().ok());
    }

    #[test]
    fn a_refusal_of_gso_is_remembered_beyond_the_age_of_the_entry() {
        let mut routes = Routes::default();
        let peer = "127.0.0.9".parse().unwrap();
        assert!(routes.to(peer, Instant::ZERO).gso);
        routes.without_gso(peer, Instant::ZERO);
        assert!(!routes.to(peer, Instant::ZERO).gso);
        assert!(!routes.to(peer, Instant::from_millis(ROUTE_AGE_MS * 3)).gso);
    }

    #[test]
    fn peers_in_turn_do_not_get_each_others_route() {
        let mut routes = Routes::default();
        let peers = ["127.0.0.1", "::1", "127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for peer in peers {
            assert_eq!(routes.to(peer, Instant::ZERO).source.map(|s| s.is_ipv4()), Some(peer.is_ipv4()));
        }
        routes.copied(peers[0]);
        assert!(routes.to(peers[0], Instant::ZERO).copies);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut routes = Routes::default();
        for i in 0..ROUTES as u32 + 10 {
            let ip = IpAddr::from(Ipv4Addr::from(0x7f00_0001 + i));
            routes.known.insert(ip, (Route { mtu: 1500, copies: true, source: None, gso: true }, Instant::ZERO));
        }
        routes.to("127.0.0.1".parse().unwrap(), Instant::from_millis(1));
        assert!(routes.known.len() <= ROUTES);
    }
}
