//! Tables of (packet of real firmware, settings) to reply, through encoder and
//! an independent decoder (dhcproto's).

use super::*;
use crate::dhcp::encode::encode;
use crate::dhcp::settings::{Rules, Settings};
use dhcproto::v4::{self, Message};
use dhcproto::{Decodable, Decoder};
use protocol::dhcp::{MIN_REPLY, Options};

mod fuzz;
mod lease;

macro_rules! fixtures {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("../../../../tests/fixtures/dhcp/", $name, ".bin")).as_slice())),*]
    };
}

const FIXTURES: &[(&str, &[u8])] = fixtures! {
    "aavmf-pxe-discover"
    "aavmf-pxe-request"
    "dnsmasq-offer"
    "dnsmasq-proxy-offer"
    "ipxe2019-bios-rom-discover"
    "ipxe2019-bios-rom-request"
    "ipxe2019-bios-rom-request-other-server"
    "ipxe2019-efi-rom-discover"
    "ipxe2025-bios-rom-discover"
    "ipxe2025-efi-bare-class-discover"
    "ipxe2025-efi-discover"
    "ipxe2025-efi-request"
    "ipxe2025-efi-request-other-server"
    "ipxe2025-pxe-discover"
    "ipxe2025-snponly-discover"
    "ipxe2025-undionly-discover"
    "ovmf-4011-request"
    "ovmf-4011-request-boot-item"
    "ovmf-e1000-pxe-discover"
    "ovmf-http-discover"
    "ovmf-http-request"
    "ovmf-pxe-discover"
    "ovmf-pxe-request"
    "ovmf-pxe-request-other-server"
    "ovmf2022-http-discover"
    "ovmf2022-pxe-discover"
    "udhcpc-discover"
    "udhcpc-request"
};

/// A packet of tests/fixtures/dhcp.
fn fixture(name: &str) -> &'static [u8] {
    FIXTURES.iter().find(|(n, _)| *n == name).unwrap().1
}

pub(super) const US: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Settings, a place and a book to decide with.
pub(super) struct World {
    pub rules: Rules,
    pub place: Place,
    pub book: Book,
    pub now: u64,
    pub port: Port,
    pub source: SocketAddrV4,
}

impl World {
    pub fn new(json: &str) -> Self {
        let settings: Settings = serde_json::from_str(json).unwrap();
        assert_eq!(settings.check(), [], "{json}");
        Self {
            rules: Rules::new(settings),
            place: Place { interface: "br0".into(), address: US, http_port: 8081, edge_http_port: 8080 },
            book: Book::default(),
            now: 1_000_000,
            port: Port::Dhcp,
            source: "0.0.0.0:68".parse().unwrap(),
        }
    }

    pub fn plan(&self, request: &Request) -> Decision {
        let (settings, place, book) = (&self.rules, &self.place, &self.book);
        plan(request, &View { settings, place, book, now: self.now, port: self.port, source: self.source })
    }

    /// The reply, which must be one, as struct and as bytes.
    fn answer(&self, packet: &[u8]) -> (Reply, Vec<u8>) {
        let request = Request::read(packet).unwrap();
        match self.plan(&request).answer {
            Answer::Reply(reply) => {
                let bytes = encode(&request, &reply).unwrap();
                (*reply, bytes)
            }
            other => panic!("{other:?}"),
        }
    }

    fn silence(&self, packet: &[u8]) -> Why {
        match self.plan(&Request::read(packet).unwrap()).answer {
            Answer::Ignore(why) => why,
            other => panic!("{other:?}"),
        }
    }
}

fn option(bytes: &[u8], code: u8) -> Option<Vec<u8>> {
    Options::scan(bytes).get(code).map(<[u8]>::to_vec)
}

fn text(bytes: &[u8], code: u8) -> String {
    String::from_utf8(option(bytes, code).unwrap_or_default()).unwrap()
}

/// The `file` field as text.
fn file(bytes: &[u8]) -> String {
    let field = &bytes[108..236];
    String::from_utf8(field.iter().copied().take_while(|b| *b != 0).collect()).unwrap()
}

#[test]
fn d24_d29_d30_each_firmware_gets_a_complete_offer_from_the_proxy() {
    let world = World::new("{}");
    let script = "http://10.77.0.1:8081/boot.ipxe";
    for (packet, class, boot) in [
        (fixture("ovmf-pxe-discover"), "PXEClient", "52-54-00-2e-92-a3/snponly.efi"),
        (fixture("ovmf-e1000-pxe-discover"), "PXEClient", "52-54-00-3d-1c-b5/snponly.efi"),
        (fixture("ovmf2022-pxe-discover"), "PXEClient", "52-54-00-61-7f-8f/snponly.efi"),
        (fixture("aavmf-pxe-discover"), "PXEClient", "52-54-00-4a-2d-66/ipxe-arm64.efi"),
        (fixture("ipxe2025-efi-discover"), "PXEClient", script),
        (fixture("ipxe2025-snponly-discover"), "PXEClient", script),
        (fixture("ipxe2025-efi-bare-class-discover"), "PXEClient", script),
        (fixture("ipxe2025-bios-rom-discover"), "PXEClient", script),
        (fixture("ipxe2025-undionly-discover"), "PXEClient", script),
        (fixture("ipxe2025-pxe-discover"), "PXEClient", script),
        (fixture("ipxe2019-bios-rom-discover"), "PXEClient", script),
        (fixture("ipxe2019-efi-rom-discover"), "PXEClient", script),
    ] {
        let request = Request::read(packet).unwrap();
        let (reply, bytes) = world.answer(packet);
        assert_eq!((reply.kind, reply.destination), (MessageType::Offer, Destination::Broadcast));
        let offer = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(offer.opcode(), v4::Opcode::BootReply);
        assert_eq!(offer.opts().msg_type(), Some(v4::MessageType::Offer));
        assert_eq!((offer.xid(), offer.hops(), offer.secs()), (request.xid, 0, 0));
        assert_eq!(offer.chaddr(), &request.chaddr[..6]);
        assert_eq!(offer.siaddr(), US);
        assert_eq!(
            offer.sname().and_then(|s| std::str::from_utf8(s).ok()).map(|s| s.trim_end_matches('\0')),
            Some("10.77.0.1")
        );
        assert_eq!(option(&bytes, 54).unwrap(), US.octets());
        assert_eq!(text(&bytes, 60), class);
        assert_eq!(option(&bytes, 43).unwrap(), [6, 1, 8, 255]);
        assert_eq!((text(&bytes, 66), text(&bytes, 67), file(&bytes)), ("10.77.0.1".into(), boot.into(), boot.into()));
        assert_eq!(option(&bytes, 97).as_deref(), request.machine_id_option());
        let ipxe = matches!(request.firmware, protocol::dhcp::Firmware::Ipxe(_));
        assert_eq!(option(&bytes, 175), ipxe.then(|| vec![176, 1, 1]));
    }
}

#[test]
fn d09_a_proxy_gives_no_address_and_nothing_that_goes_with_one() {
    for packet in [fixture("ovmf-pxe-discover"), fixture("ovmf-http-discover"), fixture("ipxe2019-bios-rom-discover")] {
        let (_, bytes) = World::new("{}").answer(packet);
        assert_eq!((&bytes[12..16], &bytes[16..20]), (&[0; 4][..], &[0; 4][..]), "ciaddr and yiaddr");
        for code in [1, 3, 6, 12, 15, 28, 42, 50, 51, 58, 59, 121] {
            assert_eq!(option(&bytes, code), None, "option {code}");
        }
    }
}

#[test]
fn d34_http_boot_gets_a_url_the_class_httpclient_and_no_tftp_server() {
    let world = World::new("{}");
    for packet in [fixture("ovmf-http-discover"), fixture("ovmf2022-http-discover")] {
        let (_, bytes) = world.answer(packet);
        let mac = Request::read(packet).unwrap().mac().unwrap().hyphenated();
        let url = format!("http://10.77.0.1:8080/{mac}/snponly.efi");
        assert_eq!((text(&bytes, 60).as_str(), text(&bytes, 67), file(&bytes)), ("HTTPClient", url.clone(), url));
        assert_eq!((&bytes[20..24], option(&bytes, 66), option(&bytes, 43)), (&[0; 4][..], None, None));
    }
}

#[test]
fn d33_an_ipxe_never_gets_a_boot_loader_unless_it_has_no_http() {
    let world = World::new("{}");
    // Take feature 19 (HTTP) away from a real packet: it becomes 27 (SRP).
    let mut packet = fixture("ipxe2019-bios-rom-discover").to_vec();
    let at = packet
        .windows(4)
        .position(|w| w == [25, 1, 1, 19])
        .map(|i| i + 3)
        .or_else(|| packet.windows(3).position(|w| w == [19, 1, 1]))
        .unwrap();
    packet[at] = 27;
    let (reply, _) = world.answer(&packet);
    assert_eq!(reply.boot, "52-54-00-5a-ee-6a/undionly.kpxe", "ours can HTTP, so this is no loop");
}

#[test]
fn d29_names_follow_the_settings() {
    let world = World::new(
        r#"{"mac_in_path":false,"tftp_server":"10.9.9.9","script_url":"http://boot.example/s","http_boot_url":"https://files.example/b/",
        "files":{"bios":null,"uefi_x64":"/ipxe.efi"}}"#,
    );
    let (reply, bytes) = world.answer(fixture("ovmf-pxe-discover"));
    assert_eq!(
        (reply.boot.as_str(), text(&bytes, 66).as_str(), reply.siaddr),
        ("/ipxe.efi", "10.9.9.9", [10, 9, 9, 9].into())
    );
    assert_eq!(world.answer(fixture("ipxe2019-bios-rom-discover")).0.boot, "http://boot.example/s");
    assert_eq!(world.answer(fixture("ovmf-http-discover")).0.boot, "https://files.example/b//ipxe.efi");
}

#[test]
fn d29_a_url_too_long_for_the_file_field_stands_in_67_alone() {
    let url = format!("http://10.77.0.1:8081/{}", "x".repeat(115));
    let (_, bytes) = World::new(&format!(r#"{{"script_url":"{url}"}}"#)).answer(fixture("ipxe2019-bios-rom-discover"));
    assert_eq!((text(&bytes, 67), file(&bytes)), (url, String::new()));
}

#[test]
fn d26_an_architecture_without_a_file_is_not_answered_and_the_remedy_is_said() {
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    let at = packet.windows(4).position(|w| w == [93, 2, 0, 7]).unwrap();
    packet[at + 3] = 6;
    let why = World::new("{}").silence(&packet);
    assert_eq!((why.label, why.loud), ("no_file", true));
    assert!(why.text.contains("set dhcp.files.uefi_ia32"), "{}", why.text);
    packet[at + 3] = 99;
    let why = World::new("{}").silence(&packet);
    assert_eq!((why.label, why.loud), ("architecture", true));
    assert!(why.text.contains("architecture 99"), "{}", why.text);
}

#[test]
fn d23_who_is_not_booting_hears_nothing_from_a_proxy() {
    assert_eq!(World::new("{}").silence(fixture("udhcpc-discover")).label, "not_booting");
    assert_eq!(World::new("{}").silence(fixture("udhcpc-request")).label, "not_booting");
}

#[test]
fn d37_a_request_is_answered_only_if_it_names_us() {
    let world = World::new("{}");
    for packet in [
        fixture("ovmf-pxe-request"),
        fixture("ipxe2025-efi-request"),
        fixture("ipxe2019-bios-rom-request"),
        fixture("aavmf-pxe-request"),
        fixture("ovmf-http-request"),
    ] {
        assert_eq!(world.answer(packet).0.kind, MessageType::Ack);
    }
    for packet in [
        fixture("ovmf-pxe-request-other-server"),
        fixture("ipxe2025-efi-request-other-server"),
        fixture("ipxe2019-bios-rom-request-other-server"),
    ] {
        assert_eq!(world.silence(packet).label, "other_server");
    }
}

#[test]
fn d42_decline_release_and_inform_are_not_a_proxys_business() {
    for kind in [4, 7, 8] {
        let mut packet = fixture("ovmf-pxe-discover").to_vec();
        packet[242] = kind;
        assert_eq!(World::new("{}").silence(&packet).label, "not_ours");
    }
}

#[test]
fn d31_port_4011_answers_to_where_the_question_came_from() {
    let mut world = World::new("{}");
    world.port = Port::Pxe;
    world.source = "10.77.0.173:4011".parse().unwrap();
    let (reply, bytes) = world.answer(fixture("ovmf-4011-request"));
    assert_eq!((reply.kind, reply.destination), (MessageType::Ack, Destination::Source));
    assert_eq!(
        (&bytes[12..16], &bytes[16..20]),
        (&[10, 77, 0, 173][..], &[0; 4][..]),
        "ciaddr is copied, yiaddr is not given"
    );
    assert_eq!(text(&bytes, 67), "52-54-00-0c-d0-30/snponly.efi");
    assert_eq!(option(&bytes, 43).unwrap(), [6, 1, 8, 255]);
}

#[test]
fn d31_the_boot_item_of_a_menu_is_echoed() {
    let mut world = World::new("{}");
    world.port = Port::Pxe;
    world.source = "10.77.0.173:4011".parse().unwrap();
    let (_, bytes) = world.answer(fixture("ovmf-4011-request-boot-item"));
    assert_eq!(option(&bytes, 43).unwrap(), [6, 1, 8, 71, 4, 0x80, 2, 0, 0, 255]);
}

#[test]
fn d31_ipxe_asks_4011_from_port_68_and_gets_its_script_with_siaddr_and_file() {
    let mut world = World::new("{}");
    world.port = Port::Pxe;
    world.source = "10.77.0.162:68".parse().unwrap();
    let mut packet = fixture("ipxe2019-bios-rom-discover").to_vec();
    packet[242] = 3;
    packet[12..16].copy_from_slice(&[10, 77, 0, 162]);
    let (reply, bytes) = world.answer(&packet);
    assert_eq!((reply.kind, reply.destination, reply.siaddr), (MessageType::Ack, Destination::Source, US));
    assert_eq!(file(&bytes), "http://10.77.0.1:8081/boot.ipxe");
}

#[test]
fn d31_4011_is_silent_to_those_who_ask_another_server_or_do_not_boot() {
    let mut world = World::new("{}");
    world.port = Port::Pxe;
    world.source = "10.77.0.162:68".parse().unwrap();
    assert_eq!(world.silence(fixture("ovmf-pxe-request-other-server")).label, "other_server");
    assert_eq!(world.silence(fixture("udhcpc-discover")).label, "not_booting");
}

#[test]
fn d19_relay_information_comes_back_unaltered_and_last() {
    let world = World::new(r#"{"relays":["10.9.0.0/16"]}"#);
    let mut packet = relayed(fixture("ovmf-pxe-discover"), [10, 9, 0, 1]);
    let info = [1, 4, 0, 7, 255, 0, 2, 3, b'a', b'b', b'c', 5, 0];
    packet.pop();
    packet.extend_from_slice(&[82, 13]);
    packet.extend_from_slice(&info);
    packet.push(255);
    let (reply, bytes) = world.answer(&packet);
    assert_eq!(reply.destination, Destination::Relay([10, 9, 0, 1].into()));
    assert_eq!(&bytes[24..28], [10, 9, 0, 1], "giaddr is copied");
    let end = bytes.iter().rposition(|b| *b == 255).unwrap();
    let mut expected = vec![82, 13];
    expected.extend_from_slice(&info);
    assert_eq!(&bytes[end - expected.len()..end], expected);
    assert_eq!(option(&bytes, 82).unwrap(), info, "and once: parts would be joined");
}

#[test]
fn d14_relays_that_nobody_listed_are_ignored_loudly() {
    let packet = relayed(fixture("ovmf-pxe-discover"), [10, 9, 0, 1]);
    let why = World::new(r#"{"relays":["10.8.0.0/16"]}"#).silence(&packet);
    assert_eq!((why.label, why.loud), ("relay", true));
    assert!(why.text.contains("add it to dhcp.relays"), "{}", why.text);
}

#[test]
fn d15_d16_d17_the_flags_of_the_request_choose_the_way_back() {
    let world = World::new("{}");
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    assert_eq!(packet[10], 0x80);
    let (_, bytes) = world.answer(&packet);
    assert_eq!(bytes[10], 0x80, "flags are copied");
    packet[10] = 0;
    let (reply, bytes) = world.answer(&packet);
    assert_eq!((reply.destination, bytes[10]), (Destination::Broadcast, 0), "a proxy knows no address to unicast to");
}

#[test]
fn d35_d36_policy_decides_who_is_answered() {
    let ovmf = fixture("ovmf-pxe-discover");
    let deny = World::new(r#"{"policy":{"deny":["52:54:00:2e:92:a3"],"allow":["52:54:00:2e:92:a3"]}}"#);
    assert_eq!(deny.silence(ovmf).label, "policy");
    let strict = World::new(r#"{"policy":{"unknown":"ignore","allow":["52:54:00:61:7f:8f"]}}"#);
    assert_eq!(strict.silence(ovmf).label, "policy");
    assert_eq!(strict.answer(fixture("ovmf2022-pxe-discover")).0.kind, MessageType::Offer);
    let off = World::new(r#"{"mode":"off"}"#);
    assert_eq!(off.silence(ovmf).label, "off");
}

#[test]
fn d11_d20_a_client_id_is_echoed_and_nothing_else_of_the_request() {
    let (_, bytes) = World::new("{}").answer(fixture("ipxe2025-efi-request"));
    assert_eq!(option(&bytes, 61).unwrap(), [1, 0x52, 0x54, 0, 0xee, 0xc6, 0x3c]);
    for code in [50, 55, 57, 77, 93, 94] {
        assert_eq!(option(&bytes, code), None, "option {code}");
    }
    assert_eq!(option(&World::new("{}").answer(fixture("ovmf-pxe-discover")).1, 61), None);
}

#[test]
fn d25_a_uuid_of_a_wrong_length_is_not_echoed_and_costs_nothing_else() {
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    let at = packet.windows(2).position(|w| w == [97, 17]).unwrap();
    packet[at + 1] = 16;
    packet[at + 18] = 0; // the byte that was the UUID's last becomes a pad
    let (_, bytes) = World::new("{}").answer(&packet);
    assert_eq!((option(&bytes, 97), text(&bytes, 60).as_str()), (None, "PXEClient"));
}

#[test]
fn d13_replies_are_padded_and_d12_fit_what_the_client_takes() {
    let (_, bytes) = World::new("{}").answer(fixture("ovmf-pxe-discover"));
    assert!(bytes.len() >= MIN_REPLY);
    // A client of 576 bytes with 250 bytes of relay information: what can be spared goes.
    let mut packet = relayed(fixture("ovmf-pxe-discover"), [10, 9, 0, 1]);
    let at = packet.windows(2).position(|w| w == [57, 2]).unwrap();
    packet[at + 2..at + 4].copy_from_slice(&[2, 0x40]);
    packet.pop();
    packet.extend_from_slice(&[82, 225]);
    packet.extend_from_slice(&[7; 225]);
    packet.push(255);
    let (_, bytes) = World::new(r#"{"relays":["10.9.0.0/16"]}"#).answer(&packet);
    assert!(bytes.len() <= 548, "{}", bytes.len());
    assert_eq!(option(&bytes, 66), None, "66 is in siaddr and sname as well");
    assert_eq!((option(&bytes, 82).unwrap().len(), text(&bytes, 60).as_str()), (225, "PXEClient"));
    assert!(option(&bytes, 67).is_some() && option(&bytes, 97).is_some() && option(&bytes, 43).is_some());
}

#[test]
fn d12_what_cannot_fit_is_an_error_and_no_torn_packet() {
    let mut packet = relayed(fixture("ovmf-pxe-discover"), [10, 9, 0, 1]);
    let at = packet.windows(2).position(|w| w == [57, 2]).unwrap();
    packet[at + 2..at + 4].copy_from_slice(&[2, 0x40]);
    packet.pop();
    packet.extend_from_slice(&[82, 255]);
    packet.extend_from_slice(&[7; 255]);
    packet.push(255);
    let world = World::new(r#"{"relays":["10.9.0.0/16"]}"#);
    let request = Request::read(&packet).unwrap();
    let Answer::Reply(reply) = world.plan(&request).answer else { panic!() };
    let error = encode(&request, &reply).unwrap_err();
    assert!(error.to_string().contains("548 bytes"), "{error}");
}

#[test]
fn d21_the_same_question_gets_the_same_answer() {
    let world = World::new("{}");
    assert_eq!(world.answer(fixture("ovmf-pxe-discover")).1, world.answer(fixture("ovmf-pxe-discover")).1);
}

#[test]
fn d08_the_header_of_a_reply_follows_table_3() {
    let mut packet = relayed(fixture("ovmf-pxe-discover"), [10, 9, 0, 1]);
    packet[8..10].copy_from_slice(&[0, 28]);
    let (_, bytes) = World::new(r#"{"relays":["10.9.0.0/16"]}"#).answer(&packet);
    assert_eq!((&bytes[..4], &bytes[8..10]), (&[2, 1, 6, 0][..], &[0, 0][..]), "op, htype, hlen, no hops; no secs");
    assert_eq!((&bytes[4..8], &bytes[10..12]), (&packet[4..8], &packet[10..12]), "xid and flags");
    assert_eq!((&bytes[24..28], &bytes[28..44]), (&packet[24..28], &packet[28..44]), "giaddr and chaddr");
    assert_eq!(bytes[236..240], protocol::dhcp::COOKIE);
}

#[test]
fn d27_option_94_is_ignored_whatever_it_holds() {
    let sound = World::new("{}").answer(fixture("ovmf-pxe-discover")).1;
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    let at = packet.windows(2).position(|w| w == [94, 3]).unwrap();
    packet.splice(at..at + 5, [94, 1, 9]);
    assert_eq!(World::new("{}").answer(&packet).1, sound);
}

#[test]
fn d38_how_long_a_client_has_waited_changes_no_answer() {
    let at_once = World::new("{}").answer(fixture("ovmf-pxe-discover")).1;
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    packet[8..10].copy_from_slice(&[255, 255]);
    assert_eq!(World::new("{}").answer(&packet).1, at_once, "so of several servers each answers, and all the same");
}

#[test]
fn d43_infiniband_is_answered_by_broadcast_and_without_a_hardware_address() {
    let mut packet = fixture("ovmf-pxe-discover").to_vec();
    (packet[1], packet[2]) = (32, 0);
    packet[28..34].fill(0);
    packet.pop();
    packet.extend_from_slice(&[61, 4, 255, 1, 2, 3, 255]);
    let (reply, bytes) = World::new("{}").answer(&packet);
    assert_eq!((reply.destination, &bytes[1..3]), (Destination::Broadcast, &[32, 0][..]));
    assert_eq!((reply.boot.as_str(), option(&bytes, 61).unwrap()), ("snponly.efi", vec![255, 1, 2, 3]));
}

#[test]
fn d10_every_reply_names_its_type_and_its_server() {
    for packet in [fixture("ovmf-pxe-discover"), fixture("ovmf-pxe-request"), fixture("ovmf-http-discover")] {
        let (reply, bytes) = World::new("{}").answer(packet);
        assert_eq!(option(&bytes, 53).unwrap(), [reply.kind as u8]);
        assert_eq!(option(&bytes, 54).unwrap(), US.octets());
        assert_eq!(bytes[0], 2);
    }
}

/// The packet as a relay would pass it on.
pub(super) fn relayed(packet: &[u8], giaddr: [u8; 4]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[3] += 1;
    packet[24..28].copy_from_slice(&giaddr);
    packet
}
