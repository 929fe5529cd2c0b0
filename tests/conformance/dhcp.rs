//! DHCP over real sockets, with real clients and real packets, in network
//! namespaces: what the tables of `control::dhcp::plan` cannot show.

mod dhcp_net;

use control::dhcp::{Dhcp, OpenError, Settings};
use control::observe::Milestone;
use control::store::{Store, leases};
use dhcp_net::{Net, OTHER, Process, SERVER, place, receive, silent, until};
use protocol::dhcp::Options;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

const BROADCAST: (Ipv4Addr, u16) = (Ipv4Addr::BROADCAST, 67);
const RACK: &str = r#"{"mode":"server","router_advertisements":false,"server":{"offer_seconds":5,"probe_ms":100,
    "subnets":[{"network":"10.77.0.0/24","pools":["10.77.0.100-10.77.0.199"],"router":"10.77.0.1","dns":["10.77.0.1"]}]}}"#;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/dhcp/{name}.bin"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text(packet: &[u8], code: u8) -> String {
    String::from_utf8(Options::scan(packet).get(code).unwrap_or_default().to_vec()).unwrap()
}

fn kind(packet: &[u8]) -> u8 {
    Options::scan(packet).get(53).unwrap()[0]
}

fn yiaddr(packet: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(&packet[16..20]).unwrap().into()
}

#[test]
fn d18_d24_replayed_firmware_is_answered_by_the_proxy_from_our_address_and_port() {
    let net = Net::new();
    let dhcp = net.dhcp("{}", None);
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    for (name, boot) in [
        ("ovmf-pxe-discover", "52-54-00-2e-92-a3/snponly.efi"),
        ("ovmf-http-discover", "http://10.77.0.1:8080/52-54-00-81-d9-1c/snponly.efi"),
        ("aavmf-pxe-discover", "52-54-00-4a-2d-66/ipxe-arm64.efi"),
        ("ipxe2025-efi-discover", "http://10.77.0.1:8081/boot.ipxe"),
        ("ipxe2019-bios-rom-discover", "http://10.77.0.1:8081/boot.ipxe"),
    ] {
        client.send_to(&fixture(name), BROADCAST).unwrap();
        let (offer, from) = receive(&client);
        assert_eq!((from.ip(), from.port()), (&SERVER, 67), "{name}: iPXE wants port 67");
        assert_eq!(
            (kind(&offer), text(&offer, 67).as_str(), yiaddr(&offer)),
            (2, boot, Ipv4Addr::UNSPECIFIED),
            "{name}"
        );
    }
    client.send_to(&fixture("ovmf-pxe-request-other-server"), BROADCAST).unwrap();
    client.send_to(&fixture("udhcpc-discover"), BROADCAST).unwrap();
    silent(&client);
    client.send_to(&fixture("ovmf-pxe-request"), BROADCAST).unwrap();
    assert_eq!(kind(&receive(&client).0), 5);
    let seen = dhcp.saw(
        "the offer",
        |m| matches!(m, Milestone::DhcpOffer { file, address: None } if file.ends_with("snponly.efi")),
    );
    assert_eq!(seen.uuid.unwrap().to_string(), "2e92a356-4f9b-4eeb-838c-19828d41283f");
    dhcp.saw("the discover", |m| matches!(m, Milestone::DhcpDiscover { client, .. } if client == "UEFI x64 PXE"));
    dhcp.saw("the other server", |m| matches!(m, Milestone::DhcpRequest { server: Some(s) } if *s == OTHER));
}

#[test]
fn d31_port_4011_answers_uefi_on_4011_and_ipxe_on_68() {
    let net = Net::new();
    net.ip("c", &["address", "add", "10.77.0.173/24", "dev", "c0"]);
    let dhcp = net.dhcp("{}", None);
    let uefi = net.socket("c", [10, 77, 0, 173].into(), 4011);
    uefi.send_to(&fixture("ovmf-4011-request"), (SERVER, 4011)).unwrap();
    let (ack, from) = receive(&uefi);
    assert_eq!((kind(&ack), from.to_string().as_str()), (5, "10.77.0.1:4011"));
    assert_eq!((text(&ack, 67).as_str(), &ack[12..16]), ("52-54-00-0c-d0-30/snponly.efi", &[10, 77, 0, 173][..]));
    let mut question = fixture("ipxe2019-bios-rom-request-other-server");
    let at = question.windows(2).position(|w| w == [54, 4]).unwrap();
    question.drain(at..at + 6); // iPXE asks 4011 without option 54
    question[12..16].copy_from_slice(&[10, 77, 0, 173]);
    let ipxe = net.socket("c", [10, 77, 0, 173].into(), 68);
    ipxe.send_to(&question, (SERVER, 4011)).unwrap();
    let (ack, from) = receive(&ipxe);
    assert_eq!((kind(&ack), from.port(), &ack[20..24]), (5, 4011, &SERVER.octets()[..]));
    assert_eq!(text(&ack, 67), "http://10.77.0.1:8081/boot.ipxe");
    dhcp.saw("the PXE request", |m| matches!(m, Milestone::PxeRequest));
    dhcp.saw("its answer", |m| matches!(m, Milestone::DhcpAck { file } if file.ends_with("boot.ipxe")));
}

#[test]
fn d32_f35_beside_dnsmasq_we_give_the_boot_file_and_it_gives_the_address() {
    let net = Net::new();
    let dhcp = net.dhcp("{}", None);
    let _dnsmasq = net.dnsmasq();
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    client.send_to(&fixture("ovmf-pxe-discover"), BROADCAST).unwrap();
    let offers: BTreeMap<Ipv4Addr, Vec<u8>> =
        (0..2).map(|_| receive(&client)).map(|(p, from)| (*from.ip(), p)).collect();
    let (ours, theirs) = (&offers[&SERVER], &offers[&OTHER]);
    assert!(yiaddr(ours).is_unspecified() && !text(ours, 67).is_empty());
    assert!(!yiaddr(theirs).is_unspecified() && text(theirs, 67).is_empty());
    let seen = dhcp.saw("dnsmasq's offer", |m| matches!(m, Milestone::ForeignOffer { server } if *server == OTHER));
    assert_eq!(seen.mac.unwrap().to_string(), "52:54:00:2e:92:a3");
    // A system's client on the same wire gets its address from dnsmasq, and nothing from us.
    drop(client);
    let lease = Udhcpc::new(&net).once(&[]);
    assert_eq!((lease["serverid"].as_str(), lease.contains_key("boot_file")), ("10.77.0.2", false));
    assert!(!dhcp.all().iter().any(|m| matches!(m, Milestone::DhcpAck { .. })));
}

#[test]
fn d32_a_proxy_on_the_dhcp_servers_own_host_leaves_it_its_unicasts() {
    let net = Net::new();
    let theirs = net.socket("s", Ipv4Addr::UNSPECIFIED, 67);
    let dhcp = net.dhcp("{}", None);
    net.ip("c", &["address", "add", "10.77.0.173/24", "dev", "c0"]);
    let client = net.socket("c", [10, 77, 0, 173].into(), 68);
    client.send_to(b"a renewal", (SERVER, 67)).unwrap();
    assert_eq!(receive(&theirs).0, b"a renewal");
    client.send_to(&fixture("ovmf-pxe-discover"), BROADCAST).unwrap();
    assert_eq!(receive(&theirs).0, fixture("ovmf-pxe-discover"), "broadcasts reach both");
    dhcp.saw("it", |m| matches!(m, Milestone::DhcpOffer { .. }));
}

#[test]
fn d41_d42_udhcpc_leases_renews_releases_and_takes_no_for_an_answer() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("control.redb");
    let dhcp = net.dhcp(RACK, Some(&store));
    let udhcpc = Udhcpc::new(&net);
    let mut running = udhcpc.start(&["-f", "-R"]);
    let bound = udhcpc.event("bound");
    let address: Ipv4Addr = bound["ip"].parse().unwrap();
    assert_eq!(
        (bound["router"].as_str(), bound["dns"].as_str(), bound["lease"].as_str(), bound["mask"].as_str()),
        ("10.77.0.1", "10.77.0.1", "3600", "24")
    );
    dhcp.saw("the offer", |m| matches!(m, Milestone::DhcpOffer { address: Some(a), .. } if *a == address));
    running.signal(Signal::USR1);
    let renewed = udhcpc.event("renew");
    assert_eq!(renewed["ip"], bound["ip"]);
    running.signal(Signal::USR2); // release
    udhcpc.event("deconfig");
    dhcp.saw(
        "the release",
        |m| matches!(m, Milestone::DhcpIgnored { why } if why.contains("gave") && why.contains(&bound["ip"])),
    );
    running.signal(Signal::USR1); // and again from the start: the same address
    assert_eq!(udhcpc.event("bound")["ip"], bound["ip"]);
    // The operator gives the machine another address: its renewal is refused, and it gets the new one.
    dhcp.stop();
    let moved = RACK.replace(
        "\"subnets\"",
        &format!("\"reservations\":[{{\"mac\":\"{}\",\"address\":\"10.77.0.9\"}}],\"subnets\"", udhcpc.mac()),
    );
    let dhcp = net.dhcp(&moved, Some(&store));
    running.signal(Signal::USR1);
    dhcp.saw("the refusal", |m| matches!(m, Milestone::DhcpNak { why } if why.contains("10.77.0.9 is reserved")));
    until(|| udhcpc.now("bound").is_some_and(|e| e["ip"] == "10.77.0.9"), "the new address");
    running.0.kill().unwrap();
}

#[test]
fn d21_leases_survive_a_restart_of_the_server() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("control.redb");
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    let before = net.dhcp(RACK, Some(&store));
    let given: Vec<_> = (1..=5).map(|n| lease(&client, n)).collect();
    before.stop();
    let after = net.dhcp(RACK, Some(&store));
    assert_eq!((1..=5).map(|n| lease(&client, n)).collect::<Vec<_>>(), given);
    let others = lease(&client, 9);
    assert!(!given.contains(&others));
    after.stop();
}

#[test]
fn an_address_in_use_is_not_offered_even_if_its_user_drops_ping() {
    let net = Net::new();
    for address in ["10.77.0.100/24", "10.77.0.101/24"] {
        net.ip("d", &["address", "add", address, "dev", "d0"]);
    }
    net.inside("d", || std::fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dhcp = net.dhcp(
        &RACK.replace("100-10.77.0.199", "100-10.77.0.102").replace("\"probe_ms\":100", "\"probe_ms\":1000"),
        Some(&dir.path().join("s")),
    );
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    assert_eq!(lease(&client, 1), Ipv4Addr::new(10, 77, 0, 102));
    assert_eq!(discover(&client, 2), None, "nothing is left");
    dhcp.saw("the reason", |m| matches!(m, Milestone::DhcpIgnored { why } if why.contains("all 3 addresses")));
}

#[test]
fn an_address_whose_user_answers_ping_is_not_offered() {
    let net = Net::new();
    for address in ["10.77.0.100", "10.77.0.101"] {
        net.ip("d", &["address", "add", &format!("{address}/24"), "dev", "d0"]);
        // An old neighbour entry proves nothing, so that only the echo can tell.
        net.inside("s", || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (address, 9)).unwrap());
        until(|| net.ip("s", &["neighbour", "show", address]).contains("lladdr"), "the neighbour entry");
    }
    let dir = tempfile::tempdir().unwrap();
    let dhcp = net.dhcp(
        &RACK.replace("100-10.77.0.199", "100-10.77.0.102").replace("\"probe_ms\":100", "\"probe_ms\":1000"),
        Some(&dir.path().join("s")),
    );
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    let offered: Vec<_> = (1..=3).map(|n| discover(&client, n).map(|p| yiaddr(&p))).collect();
    assert_eq!(offered[0], Some([10, 77, 0, 102].into()), "{:#?}", dhcp.all());
    assert!(
        !offered.contains(&Some([10, 77, 0, 100].into())) && !offered.contains(&Some([10, 77, 0, 101].into())),
        "{offered:?}"
    );
}

#[test]
fn d14_d19_a_relay_is_answered_by_unicast_on_port_67() {
    let net = Net::new();
    net.ip("c", &["address", "add", "10.77.0.9/24", "dev", "c0"]);
    let _dhcp = net.dhcp(r#"{"relays":["10.77.0.9/32"]}"#, None);
    let relay = net.socket("c", [10, 77, 0, 9].into(), 67);
    let mut packet = fixture("ovmf-pxe-discover");
    packet[3] = 1;
    packet[24..28].copy_from_slice(&[10, 77, 0, 9]);
    packet.pop();
    packet.extend_from_slice(&[82, 4, 1, 2, 0xde, 0xad, 255]);
    relay.send_to(&packet, (SERVER, 67)).unwrap();
    let (offer, from) = receive(&relay);
    assert_eq!((kind(&offer), from.to_string().as_str()), (2, "10.77.0.1:67"));
    assert_eq!(Options::scan(&offer).get(82), Some(&[1, 2, 0xde, 0xad][..]));
}

#[test]
fn d39_a_dry_run_decides_and_sends_nothing() {
    let net = Net::new();
    let dhcp = net.dhcp(r#"{"dry_run":true}"#, None);
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    client.send_to(&fixture("ovmf-pxe-discover"), BROADCAST).unwrap();
    dhcp.saw(
        "what it would do",
        |m| matches!(m, Milestone::DhcpIgnored { why } if why.contains("would have sent DHCPOFFER")),
    );
    silent(&client);
}

#[test]
fn d01_d39_damaged_packets_and_floods_are_counted_and_change_nothing() {
    let net = Net::new();
    let dhcp = net.dhcp("{}", None);
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    let good = fixture("ovmf-pxe-discover");
    for bad in [&good[..200], &[0; 240][..], &[][..], &[1; 1501][..]] {
        client.send_to(bad, BROADCAST).unwrap();
    }
    until(|| dhcp.metrics.malformed_count("short") == 2 && dhcp.metrics.malformed_count("long") == 1, "the counts");
    assert_eq!(dhcp.metrics.malformed_count("not_a_request"), 1);
    for _ in 0..40 {
        client.send_to(&good, BROADCAST).unwrap();
    }
    until(|| dhcp.metrics.dropped_count("rate_machine") >= 15, "the limit");
    client.send_to(&fixture("aavmf-pxe-discover"), BROADCAST).unwrap();
    let arm = [0x52, 0x54, 0, 0x4a, 0x2d, 0x66];
    assert!((0..40).any(|_| receive(&client).0[28..34] == arm), "another machine is served all the same");
}

#[test]
fn what_keeps_dhcp_from_starting_is_one_sentence_with_its_remedy() {
    let net = Net::new();
    let open = |json: &str, change: &(dyn Fn(&mut control::dhcp::Place) + Sync)| {
        let settings: Settings = serde_json::from_str(json).unwrap();
        let dir = tempfile::tempdir().unwrap();
        net.inside("s", || {
            let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
            let mut place = place();
            change(&mut place);
            Dhcp::open(settings, vec![place], Some(store)).map(drop)
        })
    };
    let failure = |result: Result<(), OpenError>| result.unwrap_err().to_string();
    assert!(open(RACK, &|_| {}).is_ok());
    let taken = net.socket("s", Ipv4Addr::UNSPECIFIED, 67);
    let said = failure(open(RACK, &|_| {}));
    assert!(said.contains("UDP port 67 on br0 is in use") && said.contains("dhcp.mode: proxy"), "{said}");
    assert!(open("{}", &|_| {}).is_ok(), "a proxy shares the port");
    drop(taken);
    let _boot_server = net.socket("s", Ipv4Addr::UNSPECIFIED, 4011);
    let said = failure(open("{}", &|_| {}));
    assert!(said.contains("UDP port 4011 on br0 is in use"), "{said}");
    let said = failure(open("{}", &|p| p.interface = "nosuch0".into()));
    assert!(said.contains("there is no interface nosuch0"), "{said}");
    let said = failure(open(RACK, &|p| p.address = [10, 99, 0, 1].into()));
    assert!(said.contains("br0 does not have the address 10.99.0.1"), "{said}");
    assert!(open(r#"{"mode":"off"}"#, &|p| p.interface = "nosuch0".into()).is_ok(), "off needs nothing");
}

#[test]
fn a_router_advertisement_answers_a_solicitation_and_gives_neither_address_nor_route() {
    let net = Net::new();
    let ready = || !net.ip("s", &["-6", "address", "show", "dev", "br0", "scope", "link", "-tentative"]).is_empty();
    until(ready, "br0's link-local address");
    let dhcp = net.dhcp(r#"{"router_advertisements":true}"#, None);
    until(|| dhcp.metrics.advertisement_count() >= 1, "one unasked");
    until(
        || !net.ip("c", &["-6", "address", "show", "dev", "c0", "scope", "link", "-tentative"]).is_empty(),
        "c0's link-local address",
    );
    let (socket, index) = net.inside("c", || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, Some(socket2::Protocol::ICMPV6)).unwrap();
        let index = rustix::net::netdevice::name_to_index(&socket, "c0").unwrap();
        socket.bind_device(Some(b"c0")).unwrap();
        socket.set_multicast_hops_v6(255).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        (UdpSocket::from(socket), index)
    });
    let routers = std::net::SocketAddrV6::new("ff02::2".parse().unwrap(), 0, 0, index);
    // Twice within three seconds: the second answer is for the asker alone.
    for _ in 0..2 {
        socket.send_to(&[133, 0, 0, 0, 0, 0, 0, 0], SocketAddr::V6(routers)).unwrap();
        socket.set_read_timeout(Some(dhcp_net::PATIENCE)).unwrap();
        let mut buffer = [0; 200];
        let advertisement = (0..50).find_map(|_| {
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            (buffer[0] == 134).then(|| buffer[..length].to_vec())
        });
        let advertisement = advertisement.unwrap();
        assert_eq!(
            (advertisement.len(), &advertisement[5..8]),
            (16, &[0, 0, 0][..]),
            "no flags, lifetime 0, no options"
        );
    }
    assert_eq!(net.ip("c", &["-6", "route", "show", "default"]), "");
    assert_eq!(net.ip("c", &["-6", "address", "show", "dev", "c0", "scope", "global"]), "");
}

/// Both sides of the kill test: as a child this test is the server, and is killed.
#[test]
fn d21_a_lease_that_was_acknowledged_survives_kill_9() {
    if let (Ok(id), Ok(path)) = (std::env::var("STOKER_DHCP_NET"), std::env::var("STOKER_DHCP_STORE")) {
        let _dhcp = Net::of(&id).dhcp(RACK, Some(Path::new(&path)));
        println!("serving");
        std::io::stdout().flush().unwrap();
        std::thread::park_timeout(dhcp_net::PATIENCE * 6);
        return;
    }
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("control.redb");
    let client = net.socket("c", Ipv4Addr::UNSPECIFIED, 68);
    let mut acknowledged: BTreeMap<u8, Ipv4Addr> = BTreeMap::new();
    for round in 0..6u8 {
        let server = child(&net, &store);
        let machines: Vec<u8> = (1..=10).map(|n| round * 10 + n).collect();
        let offers: Vec<_> = machines.iter().map(|n| (*n, discover(&client, *n).expect("an offer"))).collect();
        for (n, offer) in &offers {
            client.send_to(&request(*n, yiaddr(offer)), BROADCAST).unwrap();
        }
        // Killed in the middle: some are acknowledged, others never will be.
        for _ in 0..=round {
            let (ack, _) = receive(&client);
            assert_eq!(kind(&ack), 5);
            acknowledged.insert(ack[33], yiaddr(&ack));
        }
        server.signal(Signal::KILL);
        drop(server);
        client.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 2000];
        while let Ok((length, _)) = client.recv_from(&mut buffer) {
            let ack = &buffer[..length];
            acknowledged.insert(ack[33], yiaddr(ack));
        }
        let kept: BTreeMap<Ipv4Addr, _> = leases::read(&Store::open(&store).unwrap()).unwrap().into_iter().collect();
        for (machine, address) in &acknowledged {
            let mac = kept.get(address).and_then(|e| e.mac).unwrap_or_else(|| panic!("{address} is forgotten"));
            assert_eq!(mac.0[5], *machine, "{address}");
        }
    }
    assert!(acknowledged.len() >= 21, "{} acknowledged", acknowledged.len());
    let _server = child(&net, &store);
    for (machine, address) in &acknowledged {
        assert_eq!(lease(&client, *machine), *address);
    }
}

fn child(net: &Net, store: &Path) -> Process {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "d21_a_lease_that_was_acknowledged_survives_kill_9", "--nocapture"])
        .env("STOKER_DHCP_NET", net.id())
        .env("STOKER_DHCP_STORE", store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.by_ref().take(10).any(|l| l.unwrap().contains("serving")), "the server starts");
    // Keep its pipe open, so that it never meets a broken one.
    std::thread::spawn(move || lines.for_each(drop));
    Process(child)
}

/// A DHCP packet of machine 52:54:00:00:00:NN.
fn packet(n: u8, options: &[u8]) -> Vec<u8> {
    let mut p = vec![0; protocol::dhcp::HEADER];
    p[..3].copy_from_slice(&[1, 1, 6]);
    p[4..8].copy_from_slice(&[0x11, 0x22, 0x33, n]);
    p[10] = 0x80;
    p[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, n]);
    p[236..240].copy_from_slice(&protocol::dhcp::COOKIE);
    p.extend_from_slice(options);
    p.push(255);
    p
}

fn request(n: u8, address: Ipv4Addr) -> Vec<u8> {
    let mut options = vec![53, 1, 3, 50, 4];
    options.extend_from_slice(&address.octets());
    options.extend_from_slice(&[54, 4]);
    options.extend_from_slice(&SERVER.octets());
    packet(n, &options)
}

/// A DHCPDISCOVER and its offer; none within a few seconds means none at all.
fn discover(client: &UdpSocket, n: u8) -> Option<Vec<u8>> {
    client.send_to(&packet(n, &[53, 1, 1]), BROADCAST).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(6))).unwrap();
    let mut buffer = [0; 2000];
    while let Ok((length, _)) = client.recv_from(&mut buffer) {
        let reply = &buffer[..length];
        if kind(reply) == 2 && reply[33] == n {
            return Some(reply.to_vec());
        }
    }
    None
}

fn lease(client: &UdpSocket, n: u8) -> Ipv4Addr {
    let offer = discover(client, n).expect("an offer");
    client.send_to(&request(n, yiaddr(&offer)), BROADCAST).unwrap();
    loop {
        let (ack, _) = receive(client);
        if kind(&ack) == 5 && ack[33] == n {
            return yiaddr(&ack);
        }
    }
}

/// busybox udhcpc on c0, with a script that writes down what it is told.
struct Udhcpc<'a> {
    net: &'a Net,
    dir: tempfile::TempDir,
}

impl<'a> Udhcpc<'a> {
    fn new(net: &'a Net) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let text = format!(
            "#!/bin/sh\nset -e\ncase $1 in bound|renew) ip address flush dev c0; ip address add $ip/$mask dev c0;; deconfig) ip address flush dev c0;; esac\nenv > {0}/new\nmv {0}/new {0}/$1\n",
            dir.path().display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { net, dir }
    }

    fn start(&self, args: &[&str]) -> Process {
        let script: PathBuf = self.dir.path().join("script");
        let child = self
            .net
            .command("c", "busybox")
            .args(["udhcpc", "-i", "c0", "-t", "10", "-T", "2", "-s"])
            .arg(script)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox is installed");
        Process(child)
    }

    /// Gets one lease and ends.
    fn once(&self, args: &[&str]) -> BTreeMap<String, String> {
        let mut all = vec!["-f", "-n", "-q"];
        all.extend_from_slice(args);
        let mut client = self.start(&all);
        assert!(client.0.wait().unwrap().success(), "udhcpc got no lease");
        self.event("bound")
    }

    /// Waits for an event of its script, and takes it away.
    fn event(&self, name: &str) -> BTreeMap<String, String> {
        until(|| self.dir.path().join(name).exists(), &format!("udhcpc's {name}"));
        let event = self.now(name).unwrap();
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
        event
    }

    fn now(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let text = std::fs::read_to_string(self.dir.path().join(name)).ok()?;
        Some(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
    }

    fn mac(&self) -> String {
        let shown = self.net.ip("c", &["-o", "link", "show", "c0"]);
        shown.split("link/ether ").nth(1).unwrap()[..17].to_owned()
    }
}
