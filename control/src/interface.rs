//! The addresses of this host, asked of the kernel over rtnetlink
//! (RTM_GETADDR, rtnetlink(7)).

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One address of one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The interface's name.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix, bits.
    pub prefix: u8,
}

// The protocol number of NETLINK_ROUTE is 0, which is what "no protocol" means.
const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;
const RTM_GETADDR: u16 = 22;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NLMSG_HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
/// Datagrams of a dump that are read at most: far more than any host has addresses for.
const DUMP_READS: usize = 4096;

/// All addresses of all interfaces, in the kernel's order.
///
/// # Errors
/// When the kernel does not answer over netlink.
pub fn all() -> io::Result<Vec<Address>> {
    let mut names = HashMap::new();
    dump(RTM_GETLINK, |kind, body| {
        if kind == RTM_NEWLINK
            && let Some(index) = u32_at(body, 4)
            && let Some(name) = attribute(body, IFINFOMSG, IFLA_IFNAME)
        {
            let name: Vec<u8> = name.iter().copied().take_while(|b| *b != 0).collect();
            names.insert(index, String::from_utf8_lossy(&name).into_owned());
        }
    })?;
    let mut found = Vec::new();
    dump(RTM_GETADDR, |kind, body| {
        if kind == RTM_NEWADDR
            && let Some(prefix) = body.get(1)
            && let Some(index) = u32_at(body, 4)
            && let Some(name) = names.get(&index)
            && let Some(ip) =
                attribute(body, IFADDRMSG, IFA_LOCAL).or_else(|| attribute(body, IFADDRMSG, IFA_ADDRESS)).and_then(ip)
        {
            found.push(Address { interface: name.clone(), index, ip, prefix: *prefix });
        }
    })?;
    Ok(found)
}

/// The address of an interface that machines should use: IPv4 before IPv6
/// (firmware asks for it first), routable before link-local.
pub fn best(all: &[Address], interface: &str) -> Option<IpAddr> {
    all.iter().filter(|a| a.interface == interface).map(|a| a.ip).min_by_key(rank)
}

/// The one interface that is neither the loopback nor without a routable IPv4
/// address; nothing where there are several.
pub fn only(all: &[Address]) -> Option<&Address> {
    let mut fit = all.iter().filter(|a| rank(&a.ip) == 0);
    let first = fit.next()?;
    fit.all(|a| a.interface == first.interface).then_some(first)
}

fn rank(ip: &IpAddr) -> u8 {
    match ip {
        IpAddr::V4(v4) if v4.is_loopback() => 3,
        IpAddr::V4(v4) if v4.is_link_local() => 2,
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_loopback() => 5,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 4,
        IpAddr::V6(_) => 1,
    }
}

fn dump(what: u16, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut request = Vec::with_capacity(NLMSG_HEADER + 1);
    request.extend_from_slice(&17_u32.to_ne_bytes());
    request.extend_from_slice(&what.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.push(0); // family: any
    send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..DUMP_READS {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let length = length as usize;
            let Some(body) = rest.get(NLMSG_HEADER..length) else { return Ok(()) };
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(io::Error::other("the kernel refused a netlink request")),
                kind => each(kind, body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Err(io::Error::other("a netlink dump that does not end"))
}

fn attribute(body: &[u8], after: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = body.get(after..)?;
    loop {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_with_its_prefix() {
        let all = all().unwrap();
        assert!(
            all.iter().any(|a| a.interface == "lo" && a.ip == IpAddr::from([127, 0, 0, 1]) && a.prefix == 8),
            "{all:?}"
        );
        assert_eq!(best(&all, "lo"), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(best(&all, "no-such"), None);
    }

    #[test]
    fn one_interface_is_chosen_only_where_there_is_no_doubt() {
        let address = |interface: &str, ip: &str| Address {
            interface: interface.into(),
            index: 1,
            ip: ip.parse().unwrap(),
            prefix: 24,
        };
        let lo = address("lo", "127.0.0.1");
        let (a, b, a2) = (address("a", "10.0.0.1"), address("b", "10.0.1.1"), address("a", "10.0.2.1"));
        assert_eq!(only(&[lo.clone(), a.clone(), a2.clone()]), Some(&a));
        assert_eq!(only(&[lo.clone(), a.clone(), b]), None);
        assert_eq!(only(&[lo, address("a", "fe80::1")]), None);
        let all =
            [address("a", "fe80::1"), address("a", "fd00::1"), address("a", "169.254.1.1"), address("a", "10.0.0.9")];
        assert_eq!(best(&all, "a"), Some("10.0.0.9".parse().unwrap()));
    }
}
