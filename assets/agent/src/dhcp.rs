//! A small DHCPv4 client (RFC 2131): used where the command line brings no
//! lease, and to keep the lease that the firmware got. Messages here, the
//! exchange over a socket below them.

use crate::cmdline::{Address, prefix_length};
use crate::sys;
use protocol::id::Mac;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// RFC 2131 section 2: every client must take this many bytes.
const MAX_MESSAGE: usize = 1500;
/// The shortest message that relays and servers of old accept (RFC 1542 section 2.1).
const MIN_MESSAGE: usize = 300;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const BROADCAST: u16 = 0x8000;
/// What the agent calls itself in option 60.
const VENDOR: &[u8] = b"stoker-agent";
/// The first wait for an answer; doubled at each try up to the last (RFC 2131 section 4.1, but quicker).
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(8);
/// Leases without a time, or with a shorter one, are treated as this long, seconds.
const MIN_LEASE: u32 = 60;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// An address, and for how long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// What to set on the interface.
    pub address: Address,
    /// Who gave it.
    pub server: Option<Ipv4Addr>,
    /// How long it is good for from the ACK on, seconds.
    pub seconds: u32,
}

impl Lease {
    /// T1 (RFC 2131 section 4.4.5): half of the lease.
    pub fn renew_after(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds.max(MIN_LEASE)) / 2)
    }
}

/// A server's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    kind: u8,
    lease: Lease,
}

/// What to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Any address.
    Discover,
    /// This address, of this server where there is one (SELECTING with, INIT-REBOOT without).
    Request(Ipv4Addr, Option<Ipv4Addr>),
}

/// Gets a lease from nothing: DISCOVER, OFFER, REQUEST, ACK; at most `tries` rounds.
///
/// # Errors
/// Why the last round failed.
pub fn acquire(interface: &str, mac: Mac, tries: u32) -> Result<Lease, String> {
    let mut client = Client::open(interface, mac)?;
    let mut why = String::from("no try was made");
    for round in 0..tries {
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(round)).min(LAST_WAIT);
        let offer = match client.exchange(Ask::Discover, wait) {
            Ok(Reply { kind: OFFER, lease }) => lease,
            Ok(_) => continue,
            Err(e) => {
                why = format!("no DHCP offer: {e}");
                continue;
            }
        };
        match client.exchange(Ask::Request(offer.address.ip, offer.server), wait) {
            Ok(Reply { kind: ACK, lease }) => return Ok(lease),
            Ok(_) => why = format!("the DHCP server took its offer of {} back (NAK)", offer.address.ip),
            Err(e) => why = format!("no DHCP acknowledgement: {e}"),
        }
    }
    Err(why)
}

/// Asks for the address that the machine has already (INIT-REBOOT, RFC 2131
/// section 3.2): `Ok(None)` when the server says that it must not be used.
///
/// # Errors
/// When nobody answers.
pub fn confirm(interface: &str, mac: Mac, ip: Ipv4Addr) -> Result<Option<Lease>, String> {
    let mut client = Client::open(interface, mac)?;
    let mut last = String::new();
    for wait in [FIRST_WAIT, FIRST_WAIT * 2, FIRST_WAIT * 4] {
        match client.exchange(Ask::Request(ip, None), wait) {
            Ok(Reply { kind: ACK, lease }) => return Ok(Some(lease)),
            Ok(_) => return Ok(None),
            Err(e) => last = e,
        }
    }
    Err(last)
}

struct Client {
    socket: UdpSocket,
    mac: Mac,
    xid: u32,
    began: Instant,
}

impl Client {
    fn open(interface: &str, mac: Mac) -> Result<Self, String> {
        let open = || -> io::Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            socket.set_broadcast(true)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
            Ok(socket.into())
        };
        let socket = open().map_err(|e| format!("cannot open a DHCP socket on {interface}: {e}"))?;
        let [a, b, c, d, ..] = sys::random();
        Ok(Self { socket, mac, xid: u32::from_ne_bytes([a, b, c, d]), began: Instant::now() })
    }

    /// Sends once and waits for an answer to just that.
    fn exchange(&mut self, ask: Ask, wait: Duration) -> Result<Reply, String> {
        self.xid = self.xid.wrapping_add(1);
        let secs = u16::try_from(self.began.elapsed().as_secs()).unwrap_or(u16::MAX);
        let message = write(ask, self.mac, self.xid, secs);
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        self.socket.send_to(&message, to).map_err(|e| format!("sending: {e}"))?;
        let deadline = Instant::now() + wait;
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no answer within {wait:?}"));
            }
            self.socket.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let Some(reply) = read(buffer.get(..length).unwrap_or_default(), self.mac, self.xid) else { continue };
            match (ask, reply.kind) {
                (Ask::Discover, OFFER) | (Ask::Request(..), ACK | NAK) => return Ok(reply),
                _ => {}
            }
        }
    }
}

/// A DISCOVER or REQUEST. The answer is asked for as a broadcast, since the interface has no address yet.
fn write(ask: Ask, mac: Mac, xid: u32, secs: u16) -> Vec<u8> {
    let mut m = vec![1, 1, 6, 0]; // BOOTREQUEST, Ethernet, address length, hops
    m.extend(xid.to_be_bytes());
    m.extend(secs.to_be_bytes());
    m.extend(BROADCAST.to_be_bytes());
    m.extend([0; 16]); // ciaddr, yiaddr, siaddr, giaddr
    m.extend(mac.0);
    m.extend([0; 10 + 64 + 128]); // rest of chaddr, sname, file
    m.extend(MAGIC);
    let mut option = |code: u8, value: &[u8]| {
        m.extend([code, value.len() as u8]);
        m.extend(value);
    };
    match ask {
        Ask::Discover => option(53, &[DISCOVER]),
        Ask::Request(ip, server) => {
            option(53, &[REQUEST]);
            option(50, &ip.octets());
            if let Some(server) = server {
                option(54, &server.octets());
            }
        }
    }
    // iPXE identifies itself as hardware type and address too: one machine, one lease.
    let [a, b, c, d, e, f] = mac.0;
    option(61, &[1, a, b, c, d, e, f]);
    option(57, &(MAX_MESSAGE as u16 - 28).to_be_bytes());
    option(60, VENDOR);
    option(55, &[1, 3, 6, 51, 54]);
    m.push(255);
    m.resize(m.len().max(MIN_MESSAGE), 0);
    m
}

/// A reply to this client's present question; none for anything else or anything malformed.
fn read(m: &[u8], mac: Mac, xid: u32) -> Option<Reply> {
    if m.first()? != &2 || m.get(4..8)? != xid.to_be_bytes() || m.get(28..34)? != mac.0 || m.get(236..240)? != MAGIC {
        return None;
    }
    let ip = |bytes: &[u8]| bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b));
    let yiaddr = ip(m.get(16..20)?)?;
    let (mut kind, mut mask, mut gateway, mut dns, mut seconds, mut server) =
        (None, None, None, Vec::new(), None, None);
    let mut rest = m.get(240..)?;
    while let Some((&code, after)) = rest.split_first() {
        match code {
            0 => {
                rest = after;
                continue;
            }
            255 => break,
            _ => {}
        }
        let length = usize::from(*after.first()?);
        let value = after.get(1..1 + length)?;
        match code {
            53 => kind = value.first().copied(),
            1 => mask = ip(value).and_then(prefix_length),
            3 => gateway = ip(value),
            6 => dns = value.chunks_exact(4).filter_map(ip).collect(),
            51 => seconds = value.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)),
            54 => server = ip(value),
            _ => {}
        }
        rest = after.get(1 + length..)?;
    }
    let kind = kind?;
    if kind != NAK && (yiaddr.is_unspecified() || yiaddr.is_broadcast() || yiaddr.is_multicast()) {
        return None;
    }
    // Without a mask the network is taken to be what the address' first bits said before CIDR: /24 is the useful guess.
    let address = Address { ip: yiaddr, prefix: mask.unwrap_or(24), gateway, dns };
    Some(Reply { kind, lease: Lease { address, server, seconds: seconds.unwrap_or(MIN_LEASE) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    fn reply(kind: u8, options: &[u8]) -> Vec<u8> {
        let mut m = write(Ask::Discover, MAC, 7, 0);
        m.truncate(240);
        m[0] = 2;
        m[16..20].copy_from_slice(&[10, 0, 0, 9]);
        m.extend([53, 1, kind]);
        m.extend(options);
        m.push(255);
        m
    }

    #[test]
    fn a_request_carries_what_servers_look_at() {
        let m = write(Ask::Request(Ipv4Addr::new(10, 0, 0, 9), None), MAC, 0x0102_0304, 3);
        assert!(m.len() >= MIN_MESSAGE);
        assert_eq!((&m[..4], &m[4..8], &m[10..12]), (&[1, 1, 6, 0][..], &[1, 2, 3, 4][..], &[0x80, 0][..]));
        assert_eq!(&m[28..34], &MAC.0);
        assert_eq!(&m[236..249], &[99, 130, 83, 99, 53, 1, 3, 50, 4, 10, 0, 0, 9]);
        assert!(m.windows(14).any(|w| w == b"\x3c\x0cstoker-agent"));
    }

    #[test]
    fn an_offer_is_read() {
        let m = reply(OFFER, b"\x01\x04\xff\xff\xff\0\x03\x04\x0a\0\0\x01\x06\x08\x0a\0\0\x02\x0a\0\0\x03\x33\x04\0\0\x0e\x10\x36\x04\x0a\0\0\x01");
        let Reply { kind, lease } = read(&m, MAC, 7).unwrap();
        assert_eq!((kind, lease.seconds, lease.server), (OFFER, 3600, Some(Ipv4Addr::new(10, 0, 0, 1))));
        assert_eq!((lease.address.ip, lease.address.prefix), (Ipv4Addr::new(10, 0, 0, 9), 24));
        assert_eq!(lease.address.dns.len(), 2);
        assert_eq!(lease.renew_after(), Duration::from_secs(1800));
    }

    #[test]
    fn replies_to_others_are_not_ours() {
        let m = reply(ACK, &[]);
        assert!(read(&m, MAC, 7).is_some());
        assert_eq!(read(&m, MAC, 8), None, "other transaction");
        assert_eq!(read(&m, Mac([0; 6]), 7), None, "other machine");
        let mut request = m;
        request[0] = 1;
        assert_eq!(read(&request, MAC, 7), None, "a request");
    }

    proptest! {
        #[test]
        fn no_reply_can_break_the_reader(tail in proptest::collection::vec(any::<u8>(), 0..400), cut in 0_usize..600) {
            let mut m = reply(ACK, &tail);
            m.truncate(cut);
            let _ = read(&m, MAC, 7);
        }
    }
}
