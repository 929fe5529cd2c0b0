//! Is somebody using this address? Asked before an address is offered that is
//! not known to be the client's (RFC 2131 section 3.1 step 2).
//!
//! An ICMP echo goes out; an answer means yes. Sending it makes the kernel ask
//! by ARP, which hosts answer that drop ICMP: a neighbour entry that was not
//! there before means yes, too. An old entry proves nothing and is not counted.

use super::plan::Place;
use protocol::id::Mac;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

/// What a probe found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nobody.
    Free,
    /// Somebody answered an ICMP echo.
    Echo,
    /// Somebody with this MAC answered ARP.
    Arp(Mac),
}

/// Probes on one interface.
#[derive(Debug)]
pub struct Prober {
    interface: String,
    icmp: Option<Arc<UdpSocket>>,
    /// In place of ICMP where that is not allowed: the ARP request is what matters.
    udp: UdpSocket,
    waiting: Arc<Mutex<HashMap<Ipv4Addr, oneshot::Sender<()>>>>,
}

/// Port 9, discard: whoever receives it does nothing with it.
const DISCARD: u16 = 9;
/// Echo request (8), code 0, checksum 0xf7ff, identifier 0, sequence 0: the sum of all words is 0xffff.
const ECHO: [u8; 8] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
/// Of this thread's network namespace; `/proc/net` is that of the process's first thread.
const ARP_TABLE: &str = "/proc/thread-self/net/arp";

impl Prober {
    /// Opens the sockets and begins to listen. Must be called inside a runtime.
    ///
    /// # Errors
    /// When not even a UDP socket can be had.
    pub fn start(place: &Place) -> io::Result<Self> {
        let udp = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        udp.set_nonblocking(true)?;
        udp.bind_device(Some(place.interface.as_bytes()))?;
        let waiting: Arc<Mutex<HashMap<Ipv4Addr, oneshot::Sender<()>>>> = Arc::default();
        let icmp = match icmp_socket(place) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(e) => {
                tracing::warn!(interface = place.interface, error = %e, "no ICMP socket (CAP_NET_RAW): addresses are probed by ARP alone");
                None
            }
        };
        if let Some(socket) = icmp.clone() {
            tokio::spawn(listen(socket, Arc::downgrade(&waiting)));
        }
        Ok(Self { interface: place.interface.clone(), icmp, udp: UdpSocket::from_std(udp.into())?, waiting })
    }

    /// Looks for a user of an address, other than the client itself.
    pub async fn probe(&self, address: Ipv4Addr, client: Option<Mac>, patience: Duration) -> Found {
        let before = self.neighbour(address).await;
        let (tell, told) = oneshot::channel();
        self.lock().insert(address, tell);
        self.send(address).await;
        let echo = tokio::time::timeout(patience, told).await;
        self.lock().remove(&address);
        let neighbour = self.neighbour(address).await.filter(|mac| before.is_none() && Some(*mac) != client);
        match (echo, neighbour) {
            (_, Some(mac)) => Found::Arp(mac),
            // The client itself may answer: a machine that still runs its old system.
            (Ok(Ok(())), None) if self.neighbour(address).await != client || client.is_none() => Found::Echo,
            _ => Found::Free,
        }
    }

    async fn send(&self, address: Ipv4Addr) {
        if let Some(icmp) = &self.icmp
            && icmp.send_to(&ECHO, (address, 0)).await.is_ok()
        {
            return;
        }
        // An error here (no route, neighbour table full) leaves the address unproven, not taken.
        let _ = self.udp.send_to(&[0], (address, DISCARD)).await;
    }

    async fn neighbour(&self, address: Ipv4Addr) -> Option<Mac> {
        let table = tokio::fs::read_to_string(ARP_TABLE).await.ok()?;
        neighbour(&table, &self.interface, address)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Ipv4Addr, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn icmp_socket(place: &Place) -> io::Result<UdpSocket> {
    // Raw needs CAP_NET_RAW; a datagram socket needs net.ipv4.ping_group_range.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
        .or_else(|_| Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(place.interface.as_bytes()))?;
    // tokio knows no ICMP sockets; one of UDP's type sends and receives datagrams just the same.
    UdpSocket::from_std(socket.into())
}

/// Tells the waiting probe of each echo reply; ends with the prober.
async fn listen(socket: Arc<UdpSocket>, waiting: std::sync::Weak<Mutex<HashMap<Ipv4Addr, oneshot::Sender<()>>>>) {
    let mut buffer = [0; 256];
    loop {
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
        let Some(waiting) = waiting.upgrade() else { return };
        let (length, from) = match received {
            Ok(Ok((length, SocketAddr::V4(from)))) => (length, from),
            Ok(Err(_)) => {
                // The interface is down, perhaps; do not spin on it.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            _ => continue,
        };
        if is_echo_reply(buffer.get(..length).unwrap_or_default())
            && let Some(probe) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(from.ip())
        {
            let _ = probe.send(());
        }
    }
}

/// An ICMP echo reply (type 0), bare or behind its IPv4 header.
fn is_echo_reply(packet: &[u8]) -> bool {
    let icmp = match packet.first() {
        Some(first) if first >> 4 == 4 => packet.get(usize::from(first & 15) * 4..).unwrap_or_default(),
        _ => packet,
    };
    icmp.len() >= 8 && icmp.first() == Some(&0)
}

/// The MAC of a complete entry in the kernel's ARP table.
fn neighbour(table: &str, interface: &str, address: Ipv4Addr) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let ip: Ipv4Addr = words.next()?.parse().ok()?;
        let flags = u32::from_str_radix(words.nth(1)?.trim_start_matches("0x"), 16).ok()?;
        let mac: Mac = words.next()?.parse().ok()?;
        (ip == address && flags & 2 != 0 && words.nth(1) == Some(interface)).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arp_table_is_read_by_address_interface_and_completeness() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.7         0x1         0x2         52:54:00:00:00:07     *        br0\n\
                     10.0.0.8         0x1         0x0         00:00:00:00:00:00     *        br0\n\
                     10.0.0.9         0x1         0x6         52:54:00:00:00:09     *        eth1\n\
                     rubbish\n";
        let mac = |last| Some(Mac([0x52, 0x54, 0, 0, 0, last]));
        assert_eq!(neighbour(table, "br0", [10, 0, 0, 7].into()), mac(7));
        assert_eq!(neighbour(table, "br0", [10, 0, 0, 8].into()), None, "incomplete");
        assert_eq!(neighbour(table, "br0", [10, 0, 0, 9].into()), None, "another interface");
        assert_eq!(neighbour(table, "eth1", [10, 0, 0, 9].into()), mac(9));
        assert_eq!(neighbour("", "br0", [10, 0, 0, 7].into()), None);
    }

    #[test]
    fn echo_replies_are_told_from_other_icmp_with_and_without_header() {
        assert!(is_echo_reply(&[0; 8]));
        let mut raw = vec![0x45; 1];
        raw.resize(28, 0);
        assert!(is_echo_reply(&raw));
        raw[20] = 3;
        assert!(!is_echo_reply(&raw));
        assert!(!is_echo_reply(&ECHO) && !is_echo_reply(&[]) && !is_echo_reply(&[0x4f]));
    }

    #[test]
    fn the_echo_request_has_a_right_checksum() {
        let sum: u32 = ECHO.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
