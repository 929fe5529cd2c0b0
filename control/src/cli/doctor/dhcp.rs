//! Who answers DHCP on the boot network: a real DHCPDISCOVER of a PXE client,
//! which everybody answers who would answer one: servers with addresses and
//! ProxyDHCP servers with boot files. Nothing is ever requested.

use super::Finding;
use control::api::types::Status;
use control::dhcp::DOCTOR_CLASS;
use protocol::dhcp::options::{Options, code};
use protocol::dhcp::text::printable;
use protocol::dhcp::{CLIENT_PORT, COOKIE, HEADER, MAX_PACKET, MIN_REPLY, SERVER_PORT};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// When the DISCOVER is sent, counted from the start.
const SENDS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(1200)];
/// How long offers are collected: dnsmasq pings an address for 3 s before it offers it.
const LISTEN: Duration = Duration::from_millis(4500);
/// Servers that are listed.
const MAX_SERVERS: usize = 64;
/// Bytes of a boot file's name that are shown.
const MAX_TEXT: usize = 128;

pub fn examine(interface: &str, status: Option<&Status>) -> Vec<Finding> {
    match discover(interface) {
        Ok(offers) => judge(&offers, status),
        Err(e) => {
            let remedy = match e.kind() {
                ErrorKind::PermissionDenied => "run it with sudo",
                ErrorKind::AddrInUse => "a DHCP client of this host holds port 68: run the check from another host",
                _ => {
                    "name the interface that machines boot on; for a virtual rack run doctor inside its namespace (ip netns exec)"
                }
            };
            vec![Finding::look("DHCP servers", format!("cannot be looked for on {interface}: {e}"), remedy)]
        }
    }
}

/// What one server offered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Offer {
    /// An address for the client.
    address: Option<Ipv4Addr>,
    /// A boot file or URL; empty where none was offered.
    file: String,
}

/// Sends DISCOVERs and collects offers, by server.
fn discover(interface: &str) -> std::io::Result<BTreeMap<Ipv4Addr, Offer>> {
    let mac = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))
        .map_err(|_| Error::new(ErrorKind::NotFound, "it is not in this network namespace"))?;
    let mac: protocol::id::Mac =
        mac.trim().parse().map_err(|_| Error::new(ErrorKind::InvalidInput, "it is no Ethernet"))?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Beside a DHCP client or a watching stoker: a broadcast reaches every such socket.
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).into())?;
    let socket = UdpSocket::from(socket);

    let mut xid = [0; 4];
    getrandom::fill(&mut xid).map_err(|e| Error::other(e.to_string()))?;
    let mut offers = BTreeMap::new();
    let mut sends = SENDS.iter().enumerate().peekable();
    let began = Instant::now();
    let mut packet = [0; MAX_PACKET];
    while began.elapsed() < LISTEN {
        while let Some((i, _)) = sends.next_if(|(_, at)| began.elapsed() >= **at) {
            let secs = u16::try_from(i).unwrap_or(0) * 4;
            socket.send_to(&discover_packet(mac, xid, secs), (Ipv4Addr::BROADCAST, SERVER_PORT))?;
        }
        let next = sends.peek().map_or(LISTEN, |(_, at)| **at);
        let wait = next.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait))?;
        match socket.recv(&mut packet) {
            Ok(n) => {
                if let Some((server, offer)) = read_offer(packet.get(..n).unwrap_or_default(), xid)
                    && (offers.len() < MAX_SERVERS || offers.contains_key(&server))
                {
                    offers.insert(server, offer);
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(offers)
}

/// A DHCPDISCOVER as UEFI x64 firmware sends it (RFC 2131, RFC 4578), with the
/// broadcast flag, since we have no address to be answered at.
fn discover_packet(mac: protocol::id::Mac, xid: [u8; 4], secs: u16) -> Vec<u8> {
    let mut p = vec![0; HEADER - COOKIE.len()];
    p[..4].copy_from_slice(&[1, 1, 6, 0]);
    p[4..8].copy_from_slice(&xid);
    p[8..10].copy_from_slice(&secs.to_be_bytes());
    p[10] = 0x80;
    p[28..34].copy_from_slice(&mac.0);
    p.extend(COOKIE);
    p.extend([code::MESSAGE_TYPE, 1, 1]);
    p.extend([code::MAX_MESSAGE, 2, 0x05, 0xc0]);
    p.extend([code::ARCHITECTURE, 2, 0, 7]);
    p.extend([code::NETWORK_INTERFACE, 3, 1, 3, 0]);
    let wanted = [
        code::SUBNET_MASK,
        code::ROUTER,
        code::VENDOR_SPECIFIC,
        code::LEASE_TIME,
        code::SERVER_ID,
        code::VENDOR_CLASS,
        code::TFTP_SERVER,
        code::BOOT_FILE,
    ];
    p.extend([code::PARAMETER_LIST, wanted.len() as u8]);
    p.extend(wanted);
    let class = b"PXEClient:Arch:00007:UNDI:003000";
    p.extend([code::VENDOR_CLASS, class.len() as u8]);
    p.extend(class);
    // So that a stoker that answers does not take us for a machine that boots.
    p.extend([code::USER_CLASS, DOCTOR_CLASS.len() as u8]);
    p.extend(DOCTOR_CLASS);
    p.push(code::END);
    p.resize(p.len().max(MIN_REPLY), 0);
    p
}

/// The server's identifier (option 54) and what it offers, if this is an offer to us.
fn read_offer(packet: &[u8], xid: [u8; 4]) -> Option<(Ipv4Addr, Offer)> {
    if packet.len() < HEADER || packet.first() != Some(&2) || packet.get(4..8)? != xid {
        return None;
    }
    let options = Options::scan(packet);
    if options.get(code::MESSAGE_TYPE)? != [2] {
        return None;
    }
    let server = options.address(code::SERVER_ID)?;
    let yiaddr: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let field = packet.get(108..236)?;
    let file = options.get(code::BOOT_FILE).unwrap_or_else(|| field.split(|&b| b == 0).next().unwrap_or_default());
    let address = Some(Ipv4Addr::from(yiaddr)).filter(|a| !a.is_unspecified());
    Some((server, Offer { address, file: printable(file.strip_suffix(&[0]).unwrap_or(file), MAX_TEXT) }))
}

fn judge(offers: &BTreeMap<Ipv4Addr, Offer>, status: Option<&Status>) -> Vec<Finding> {
    let ours = |server: &Ipv4Addr| status.is_some_and(|s| s.address == IpAddr::V4(*server));
    let describe = |server: &Ipv4Addr, offer: &Offer| {
        let who = if ours(server) { format!("stoker itself ({server})") } else { server.to_string() };
        match (offer.address, offer.file.as_str()) {
            (Some(_), "") => format!("{who} gives addresses"),
            (Some(_), file) => format!("{who} gives addresses and boot file {file}"),
            (None, file) => format!("{who} gives boot file {file}"),
        }
    };
    let list: Vec<_> = offers.iter().map(|(server, offer)| describe(server, offer)).collect();
    let list = if list.is_empty() { "nobody answers".to_owned() } else { list.join("; ") };
    let others = || offers.iter().filter(|(server, _)| !ours(server));
    let foreign_addresses = others().any(|(_, o)| o.address.is_some());
    let foreign_files = others().any(|(_, o)| !o.file.is_empty());
    let mode = status.map(|s| s.dhcp_mode.as_str());
    let what = "DHCP servers";
    vec![match mode {
        Some("server") if foreign_addresses => Finding::bad(
            what,
            list,
            "two servers give addresses on one network: switch the other off, or run stoker with --dhcp-mode proxy",
        ),
        Some("proxy") if !foreign_addresses => Finding::bad(
            what,
            list,
            "in proxy mode another server must give addresses: start it, or run stoker with --dhcp-mode server",
        ),
        Some(_) if !offers.keys().any(ours) && mode != Some("off") => {
            Finding::bad(what, list, "stoker runs but does not answer: see its log, and the firewall finding")
        }
        _ if foreign_files => Finding::look(
            what,
            list,
            "another boot server may win the race for machines: remove its boot file (options 66, 67 or next-server)",
        ),
        None if foreign_addresses => {
            Finding::good(what, format!("{list}: run stoker in proxy mode beside it (the default)"))
        }
        None => Finding::good(what, format!("{list}: run stoker with --dhcp-mode server to give addresses")),
        Some(_) => Finding::good(what, list),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use protocol::id::Mac;

    fn offer(xid: [u8; 4], yiaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut p = discover_packet(Mac([2, 0, 0, 0, 0, 1]), xid, 0);
        p[0] = 2;
        p[16..20].copy_from_slice(&yiaddr);
        p.truncate(HEADER);
        p.extend([53, 1, 2, 54, 4, 10, 0, 0, 1]);
        p.extend(options);
        p.push(255);
        p
    }

    #[test]
    fn our_discover_reads_as_uefi_firmware() {
        let p = discover_packet(Mac([0x52, 0x54, 0, 1, 2, 3]), [1, 2, 3, 4], 4);
        let request = protocol::dhcp::Request::read(&p).unwrap();
        assert_eq!(request.mac(), Some(Mac([0x52, 0x54, 0, 1, 2, 3])));
        assert!(p.len() >= MIN_REPLY);
    }

    #[test]
    fn offers_are_told_apart() {
        let server = Ipv4Addr::new(10, 0, 0, 1);
        let plain = read_offer(&offer([9; 4], [10, 0, 0, 50], &[]), [9; 4]).unwrap();
        assert_eq!(plain, (server, Offer { address: Some(Ipv4Addr::new(10, 0, 0, 50)), file: String::new() }));
        let proxy = read_offer(&offer([9; 4], [0; 4], b"\x43\x05x.efi"), [9; 4]).unwrap();
        assert_eq!(proxy.1, Offer { address: None, file: "x.efi".into() });
        assert_eq!(read_offer(&offer([9; 4], [0; 4], &[]), [8; 4]), None, "another client's");
        for n in 0..240 {
            assert_eq!(read_offer(&offer([9; 4], [0; 4], &[])[..n], [9; 4]), None);
        }
    }

    #[test]
    fn without_stoker_the_fitting_mode_is_named() {
        let addresses = Offer { address: Some(Ipv4Addr::new(10, 0, 0, 50)), file: String::new() };
        let with = |offer: Offer| BTreeMap::from([(Ipv4Addr::new(10, 0, 0, 1), offer)]);
        let findings = judge(&with(addresses), None);
        assert!(findings[0].text.contains("proxy mode") && findings[0].verdict == Verdict::Good);
        assert!(judge(&BTreeMap::new(), None)[0].text.contains("--dhcp-mode server"));
        let rival = Offer { address: None, file: "pxelinux.0".into() };
        assert_eq!(judge(&with(rival), None)[0].verdict, Verdict::Look);
    }
}
