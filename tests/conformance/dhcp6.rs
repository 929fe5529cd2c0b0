//! Boot files by DHCPv6 over real sockets, from a real client and by the bytes
//! of firmware, in network namespaces.

#[expect(dead_code, reason = "shared with the tests of DHCP over IPv4, which use more of it")]
mod dhcp_net;

use control::dhcp::{Dhcp, OpenError, Settings};
use control::observe::Milestone;
use dhcp_net::{Net, PATIENCE, Process, SILENCE, place, until};
use protocol::dhcp6::options::{Items, code};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

const PROXY: &str = r#"{"router_advertisements":false,"v6":{"enabled":true}}"#;
const SERVER: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// All_DHCP_Servers, for relays.
const SITE: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);
const TFTP: &str = "tftp://[fd77::1]/52-54-00-12-34-56/snponly.efi";

/// The network with IPv6 addresses on it; `c0` has the MAC of [`TFTP`].
fn net() -> Net {
    let net = Net::new();
    net.ip("s", &["address", "add", "fd77::1/64", "dev", "br0", "nodad"]);
    net.ip("s", &["address", "add", "fe80::1/64", "dev", "br0", "nodad"]);
    net.ip("c", &["address", "add", "fe80::5054:ff:fe12:3456/64", "dev", "c0", "nodad"]);
    net.ip("c", &["address", "add", "fd77::c/64", "dev", "c0", "nodad"]);
    net.ip("d", &["address", "add", "fd77::d/64", "dev", "d0", "nodad"]);
    net
}

/// A socket of a client or relay, on its interface, and that interface's index.
fn socket(net: &Net, role: &str, address: &str, port: u16) -> (UdpSocket, u32) {
    let device = format!("{role}0");
    let address: Ipv6Addr = address.parse().unwrap();
    net.inside(role, || {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        socket.bind_device(Some(device.as_bytes())).unwrap();
        let index = rustix::net::netdevice::name_to_index(&socket, &device).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        socket.set_multicast_hops_v6(8).unwrap();
        let scope = if address.is_unicast_link_local() { index } else { 0 };
        socket.bind(&SocketAddr::from(SocketAddrV6::new(address, port, 0, scope)).into()).unwrap();
        (UdpSocket::from(socket), index)
    })
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddrV6) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).expect("a reply");
    let SocketAddr::V6(from) = from else { panic!("{from}") };
    (buffer[..length].to_vec(), from)
}

fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 2000];
    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
        panic!("{length} bytes from {from}");
    }
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

fn find(options: &[u8], wanted: u16) -> Option<Vec<u8>> {
    Items::new(options).map(Result::unwrap).find(|(code, _)| *code == wanted).map(|(_, value)| value.to_vec())
}

/// What OVMF sends: its identifier, its wish for an address, for 59 and 60, its architecture and class.
fn ovmf(kind: u8, server: Option<&[u8]>) -> Vec<u8> {
    let class = b"PXEClient:Arch:00007:UNDI:003001";
    let mut bytes = vec![kind, 0xab, 0xcd, 0xef];
    bytes.extend(option(code::CLIENT_ID, &[0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]));
    if let Some(server) = server {
        bytes.extend(option(code::SERVER_ID, server));
    }
    bytes.extend(option(code::IA_NA, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
    bytes.extend(option(code::OPTION_REQUEST, &[0, 59, 0, 60]));
    bytes.extend(option(code::ARCHITECTURE, &[0, 7]));
    bytes.extend(option(code::VENDOR_CLASS, &[&[0, 0, 1, 0x57, 0, class.len() as u8][..], class].concat()));
    bytes
}

#[test]
fn d45_a_solicit_and_then_4011_give_uefi_its_boot_file() {
    let net = net();
    let dhcp = net.dhcp(PROXY, None);
    let (client, scope) = socket(&net, "c", "fe80::5054:ff:fe12:3456", 546);
    client.send_to(&ovmf(1, None), SocketAddrV6::new(GROUP, 547, 0, scope)).unwrap();
    let (offer, from) = receive(&client);
    assert_eq!((offer[..4].to_vec(), from.port()), (vec![2, 0xab, 0xcd, 0xef], 547));
    assert!(from.ip().is_unicast_link_local(), "from {from}: the address of the link");
    assert_eq!(find(&offer[4..], code::BOOT_FILE_URL).unwrap(), TFTP.as_bytes());
    assert!(find(&offer[4..], code::VENDOR_CLASS).unwrap().ends_with(b"PXEClient"));
    assert_eq!(find(&offer[4..], code::IA_NA), None, "addresses are another server's");
    dhcp.saw("DISCOVER", |m| matches!(m, Milestone::DhcpDiscover { client, .. } if client == "UEFI x64 PXE"));
    dhcp.saw("OFFER", |m| matches!(m, Milestone::DhcpOffer { file, .. } if file == TFTP));

    // With its address, EDK2 asks the host of the URL, from 4011 to 4011.
    let server = find(&offer[4..], code::SERVER_ID).unwrap();
    let (client, _) = socket(&net, "c", "fd77::c", 4011);
    client.send_to(&ovmf(3, Some(&server)), (SERVER, 4011)).unwrap();
    let (reply, from) = receive(&client);
    assert_eq!((reply[0], *from.ip(), from.port()), (7, SERVER, 4011), "from where it was asked");
    // Neither this address nor the identifier tells its MAC, but its SOLICIT did.
    assert_eq!(find(&reply[4..], code::BOOT_FILE_URL).unwrap(), TFTP.as_bytes());
    client.send_to(&ovmf(3, Some(&[0, 3, 0, 1, 9, 9, 9, 9, 9, 9])), (SERVER, 4011)).unwrap();
    silent(&client);
    dhcp.stop();
}

#[test]
fn d45_relays_are_answered_by_both_groups_and_what_is_broken_is_dropped() {
    let net = net();
    let listed = r#"{"router_advertisements":false,"v6":{"enabled":true,"relays":["fd77::d/128"]}}"#;
    let dhcp = net.dhcp(listed, None);
    let (relay, scope) = socket(&net, "d", "fd77::d", 547);
    let link: Ipv6Addr = "fd78::1".parse().unwrap();
    let peer: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
    let envelope = |hops: u8, id: &[u8], carried: &[u8]| {
        let head = [&[12, hops][..], &link.octets(), &peer.octets()].concat();
        [head, option(code::INTERFACE_ID, id), option(code::RELAY_MESSAGE, carried)].concat()
    };
    let mut nested = ovmf(1, None);
    for hops in 0..8 {
        nested = envelope(hops, b"port 7", &nested);
    }
    for to in [SocketAddrV6::new(SITE, 547, 0, scope), SocketAddrV6::new(SERVER, 547, 0, 0)] {
        for packet in [envelope(0, b"port 7", &ovmf(1, None)), nested.clone()] {
            relay.send_to(&packet, to).unwrap();
            let (reply, from) = receive(&relay);
            assert_eq!(from.port(), 547);
            let mut inner = reply;
            while inner[0] == 13 {
                assert_eq!(find(&inner[34..], code::INTERFACE_ID).unwrap(), b"port 7", "comes back as it was");
                inner = find(&inner[34..], code::RELAY_MESSAGE).unwrap();
            }
            assert_eq!(inner[0], 2);
            assert_eq!(find(&inner[4..], code::BOOT_FILE_URL).unwrap(), TFTP.as_bytes());
        }
    }
    for broken in [&b"\x01\x02"[..], &envelope(8, b"x", &nested), &[12; 34], &[0xff; 1400]] {
        relay.send_to(broken, SocketAddrV6::new(SERVER, 547, 0, 0)).unwrap();
    }
    silent(&relay);
    let counted: u64 = ["short", "relays", "empty", "kind"].map(|why| dhcp.metrics.malformed_count(why)).iter().sum();
    assert_eq!(counted, 4, "each is counted");
    // A relay from afar that nobody listed.
    let (stranger, _) = socket(&net, "c", "fd77::c", 547);
    stranger.send_to(&envelope(0, b"x", &ovmf(1, None)), (SERVER, 547)).unwrap();
    silent(&stranger);
    assert_eq!(dhcp.metrics.ignored_count("relay"), 1);
    dhcp.stop();
}

#[test]
fn d45_dhclient_gets_the_script_by_information_request() {
    let net = net();
    let dhcp = net.dhcp(PROXY, None);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    // iPXE as dhclient can play it.
    let config = "option dhcp6.class code 15 = string;\nsend dhcp6.class 00:04:69:50:58:45;\n\
        send dhcp6.client-arch-type 7;\nalso request dhcp6.bootfile-url;\n";
    std::fs::write(at("conf"), config).unwrap();
    std::fs::write(at("script"), format!("#!/bin/sh\nenv > {}.new && mv {0}.new {0}.$reason\n", at("env"))).unwrap();
    std::fs::set_permissions(at("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = net.command("c", "dhclient");
    command.args(["-6", "-S", "-d", "-1", "-cf", &at("conf"), "-sf", &at("script")]);
    command.args(["-lf", &at("leases"), "-pf", &at("pid"), "c0"]);
    let _dhclient = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dhclient"));
    let told = || {
        let all = std::fs::read_dir(dir.path()).unwrap().flatten();
        let texts = all.filter_map(|e| std::fs::read_to_string(e.path()).ok());
        texts
            .flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
            .find_map(|line| line.strip_prefix("new_dhcp6_bootfile_url=").map(str::to_owned))
    };
    until(|| told().is_some(), "dhclient is told a boot file");
    assert_eq!(told().unwrap(), "http://10.77.0.1:8081/boot.ipxe");
    dhcp.stop();
}

#[test]
fn d45_without_an_address_or_with_the_port_taken_one_sentence_says_so() {
    let net = Net::new();
    let open = || {
        let settings: Settings = serde_json::from_str(PROXY).unwrap();
        net.inside("s", || Dhcp::open(settings, vec![place()], None).map(drop))
    };
    net.ip("s", &["-6", "address", "flush", "dev", "br0"]);
    let error = open().unwrap_err();
    assert!(matches!(error, OpenError::NoAddress6(_)) && error.to_string().contains("ip address add"), "{error}");
    net.ip("s", &["address", "add", "fd77::1/64", "dev", "br0", "nodad"]);
    open().unwrap();
    let _taken = net.inside("s", || UdpSocket::bind("[::]:547").unwrap());
    let error = open().unwrap_err().to_string();
    assert!(error.contains("547") && error.contains("dhcp.v6"), "{error}");
}
