//! Just enough rtnetlink (rtnetlink(7)): set links up, list, add and remove
//! IPv4 addresses, set the default route. Messages are laid out by hand; what
//! comes back is read with bounds checked everywhere.

use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// One answer of the kernel, bytes; dumps come in pieces of at most this.
const BUFFER: usize = 32 << 10;
/// Pieces of one dump that are read at most.
const MAX_PIECES: usize = 64;

/// An address on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its network prefix, bits.
    pub prefix: u8,
}

/// A netlink socket of the routing family (protocol 0).
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let patience = Some(std::time::Duration::from_secs(5));
        rustix::net::sockopt::set_socket_timeout(&fd, rustix::net::sockopt::Timeout::Recv, patience)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link_up(&mut self, index: u32) -> io::Result<()> {
        let mut body = vec![0, 0, 0, 0]; // ifinfomsg: family, padding, type
        body.extend(index.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes()); // flags
        body.extend(IFF_UP.to_ne_bytes()); // which of them change
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body).map(drop)
    }

    /// Gives an interface an IPv4 address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&mut self, index: u32, ip: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let mut body = address_head(index, prefix);
        attribute(&mut body, IFA_LOCAL, &ip.octets());
        attribute(&mut body, IFA_ADDRESS, &ip.octets());
        attribute(&mut body, IFA_BROADCAST, &(u32::from(ip) | host).to_be_bytes());
        self.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &body).map(drop)
    }

    /// Takes an IPv4 address from an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_address(&mut self, index: u32, ip: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut body = address_head(index, prefix);
        attribute(&mut body, IFA_LOCAL, &ip.octets());
        self.ask(RTM_DELADDR, NLM_F_ACK, &body).map(drop)
    }

    /// Sends everything without a better route through this router.
    ///
    /// # Errors
    /// The kernel's.
    pub fn default_route(&mut self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        // rtmsg: family, dst_len, src_len, tos, table main, protocol boot, scope universe, type unicast, flags
        let mut body = vec![AF_INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        attribute(&mut body, RTA_GATEWAY, &gateway.octets());
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.ask(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &body).map(drop)
    }

    /// All addresses of all interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        let messages = self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8])?;
        Ok(messages
            .iter()
            .filter(|(kind, _)| *kind == RTM_NEWADDR)
            .filter_map(|(_, body)| parse_address(body))
            .collect())
    }

    /// One request and all that the kernel answers to it: (type, body).
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        rustix::net::sendto(&self.fd, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;

        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER];
        for _ in 0..MAX_PIECES {
            let (length, _) = rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            for (kind, sequence, body) in split(buffer.get(..length).unwrap_or_default()) {
                if sequence != self.sequence {
                    continue; // the late end of a request that was given up
                }
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(-5, i32::from_ne_bytes);
                        return if code == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => answers.push((kind, body.to_vec())),
                }
            }
        }
        Err(io::Error::other("the kernel's netlink answer has no end"))
    }
}

fn address_head(index: u32, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0]; // ifaddrmsg: family, prefix length, flags, scope
    body.extend(index.to_ne_bytes());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Cuts a datagram into messages: (type, sequence, body). Stops at the first that does not fit.
fn split(mut bytes: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let mut messages = Vec::new();
    while let Some(head) = bytes.first_chunk::<16>() {
        let [l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..] = *head;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = bytes.get(16..length) else { break };
        messages.push((u16::from_ne_bytes([t0, t1]), u32::from_ne_bytes([s0, s1, s2, s3]), body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

fn parse_address(body: &[u8]) -> Option<InterfaceAddress> {
    let [family, prefix, _, _, i0, i1, i2, i3] = *body.first_chunk::<8>()?;
    let (mut local, mut peer) = (None, None);
    let mut rest = body.get(8..)?;
    while let Some([l0, l1, k0, k1]) = rest.first_chunk::<4>().copied() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = rest.get(4..length) else { break };
        let ip = match family {
            AF_INET => value.try_into().ok().map(|b: [u8; 4]| IpAddr::V4(Ipv4Addr::from(b))),
            AF_INET6 => value.try_into().ok().map(|b: [u8; 16]| IpAddr::V6(Ipv6Addr::from(b))),
            _ => None,
        };
        match u16::from_ne_bytes([k0, k1]) {
            IFA_LOCAL => local = ip,
            IFA_ADDRESS => peer = ip,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(InterfaceAddress { index: u32::from_ne_bytes([i0, i1, i2, i3]), ip: local.or(peer)?, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_interface_has_its_address() {
        let addresses = Netlink::open().unwrap().addresses().unwrap();
        let lo = InterfaceAddress { index: 1, ip: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 8 };
        assert!(addresses.contains(&lo), "{addresses:?}");
    }

    #[test]
    fn the_kernels_refusal_is_an_error() {
        let error = Netlink::open().unwrap().link_up(0x7fff_ffff).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_can_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, _, body) in split(&bytes) {
                let _ = parse_address(body);
            }
            let _ = parse_address(&bytes);
        }
    }
}
