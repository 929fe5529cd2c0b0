use super::*;
use crate::dhcp::Settings;
use proptest::prelude::*;
use protocol::dhcp6::options::Items;

const OURS: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const CLIENT: &str = "fe80::5054:ff:fe12:3456";
const UEFI_X64: u16 = 7;
const UEFI_X64_HTTP: u16 = 16;

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// A message of firmware: its type, its class, its architecture, the server that it means.
fn message(kind: u8, class: &str, arch: u16, server: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![kind, 1, 2, 3];
    bytes.extend(option(code::CLIENT_ID, &[0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]));
    if let Some(server) = server {
        bytes.extend(option(code::SERVER_ID, server));
    }
    if kind == 1 {
        bytes.extend(option(code::IA_NA, &[0; 12]));
    }
    bytes.extend(option(code::OPTION_REQUEST, &[0, 59, 0, 60]));
    bytes.extend(option(code::ARCHITECTURE, &arch.to_be_bytes()));
    let text = class.as_bytes();
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    bytes.extend(option(code::VENDOR_CLASS, &[&343u32.to_be_bytes()[..], &length, text].concat()));
    bytes
}

/// The answer as its URL and class, or the label of the reason for silence.
fn answer(bytes: &[u8], settings: &str, port: Port, source: &str) -> Result<Answer, &'static str> {
    let settings: Settings = serde_json::from_str(settings).unwrap();
    assert_eq!(settings.check(), []);
    let place = Place {
        interface: "br0".into(),
        address: "fd00:77::1".parse().unwrap(),
        script_host: Ipv4Addr::new(10, 77, 0, 1),
        http_port: 8081,
        edge_http_port: 8080,
        server_id: OURS.to_vec(),
    };
    let source = SocketAddrV6::new(source.parse().unwrap(), 1546, 0, 3);
    let rules = Rules::new(settings);
    let packet = Packet::read(bytes).unwrap();
    let mac = packet.mac(*source.ip());
    plan(&packet, &View { settings: &rules, place: &place, port, source, mac }).map_err(|why| why.label)
}

#[test]
fn d45_each_firmware_gets_its_url_class_and_destination() {
    let pxe = "PXEClient:Arch:00007:UNDI:003001";
    let http = "HTTPClient:Arch:00016:UNDI:003001";
    let tftp = "tftp://[fd00:77::1]/52-54-00-12-34-56/snponly.efi";
    let by_http = "http://[fd00:77::1]:8080/52-54-00-12-34-56/snponly.efi";
    let script = "http://10.77.0.1:8081/boot.ipxe";
    for (kind, class, arch, server, port, expected) in [
        (1, pxe, UEFI_X64, None, Port::Dhcp, Ok((Kind::Advertise, tftp, Some("PXEClient"), 546))),
        (1, http, UEFI_X64_HTTP, None, Port::Dhcp, Ok((Kind::Advertise, by_http, Some("HTTPClient"), 546))),
        (3, pxe, UEFI_X64, Some(&OURS[..]), Port::Pxe, Ok((Kind::Reply, tftp, Some("PXEClient"), 1546))),
        (3, pxe, UEFI_X64, Some(&OURS[..]), Port::Dhcp, Ok((Kind::Reply, tftp, Some("PXEClient"), 546))),
        (3, pxe, UEFI_X64, Some(&[0, 3, 0, 1, 9][..]), Port::Dhcp, Err("other_server")),
        (11, "iPXE", UEFI_X64, None, Port::Dhcp, Ok((Kind::Reply, script, None, 546))),
        (1, "iPXE", UEFI_X64, None, Port::Dhcp, Err("ipxe")),
        (5, pxe, UEFI_X64, Some(&OURS[..]), Port::Dhcp, Err("not_ours")),
        (1, "anaconda", 0xffff, None, Port::Dhcp, Err("architecture")),
        (1, pxe, 10, None, Port::Dhcp, Err("no_file")),
    ] {
        let found = answer(&message(kind, class, arch, server), "{}", port, CLIENT);
        let found = found.as_ref().map(|a| (a.kind, a.url.as_str(), a.class.map(|c| c.1), a.to.port())).map_err(|e| *e);
        assert_eq!(found, expected, "{kind} {class} {arch}");
    }
}

#[test]
fn d45_who_did_not_ask_for_a_boot_file_gets_none_but_on_4011() {
    let mut bytes = message(1, "PXEClient", UEFI_X64, None);
    let at = bytes.windows(6).position(|w| w == [0, 6, 0, 4, 0, 59]).unwrap();
    bytes[at + 5] = 23;
    assert_eq!(answer(&bytes, "{}", Port::Dhcp, CLIENT).unwrap_err(), "not_booting");
    assert!(answer(&bytes, "{}", Port::Pxe, CLIENT).is_ok());
}

#[test]
fn d45_policy_and_settings_count_as_over_ipv4() {
    let bytes = message(1, "PXEClient", UEFI_X64, None);
    let denied = r#"{"policy":{"deny":["52:54:00:12:34:56"]}}"#;
    assert_eq!(answer(&bytes, denied, Port::Dhcp, CLIENT).unwrap_err(), "policy");
    let unknown = r#"{"policy":{"unknown":"ignore"}}"#;
    assert_eq!(answer(&bytes, unknown, Port::Dhcp, CLIENT).unwrap_err(), "policy");
    let plain = answer(&bytes, r#"{"mac_in_path":false}"#, Port::Dhcp, CLIENT).unwrap();
    assert_eq!(plain.url, "tftp://[fd00:77::1]/snponly.efi");
    let base = r#"{"v6":{"http_boot_url":"https://boot.example/"}}"#;
    let there = answer(&message(1, "HTTPClient", UEFI_X64_HTTP, None), base, Port::Dhcp, CLIENT).unwrap();
    assert_eq!(there.url, "https://boot.example/52-54-00-12-34-56/snponly.efi");
}

#[test]
fn d45_relays_from_afar_must_be_listed_and_are_answered_on_their_port() {
    let inner = message(1, "PXEClient", UEFI_X64, None);
    let peer: Ipv6Addr = CLIENT.parse().unwrap();
    let link: Ipv6Addr = "fd00:78::1".parse().unwrap();
    let head = [&[12u8, 0][..], &link.octets(), &peer.octets()].concat();
    let bytes = [head, option(code::INTERFACE_ID, b"port 7"), option(code::RELAY_MESSAGE, &inner)].concat();
    assert_eq!(answer(&bytes, "{}", Port::Dhcp, "fd00:78::1").unwrap_err(), "relay");
    assert!(answer(&bytes, "{}", Port::Dhcp, "fe80::1").is_ok(), "a relay on the link");
    let listed = answer(&bytes, r#"{"v6":{"relays":["fd00:78::/64"]}}"#, Port::Dhcp, "fd00:78::1").unwrap();
    assert_eq!(listed.to.port(), 547);
    assert!(listed.url.contains("52-54-00-12-34-56"), "the client's MAC, not the relay's: {}", listed.url);
}

#[test]
fn d45_an_answer_has_no_address_no_parameters_and_a_short_identifier() {
    let bytes = message(1, "PXEClient", UEFI_X64, None);
    let answer = answer(&bytes, "{}", Port::Dhcp, CLIENT).unwrap();
    let encoded = answer.encode(&Packet::read(&bytes).unwrap(), &OURS).unwrap();
    assert_eq!(encoded[..4], [2, 1, 2, 3]);
    let codes: Vec<u16> = Items::new(&encoded[4..]).map(|item| item.unwrap().0).collect();
    assert_eq!(codes, [code::CLIENT_ID, code::SERVER_ID, code::BOOT_FILE_URL, code::VENDOR_CLASS]);
}

#[test]
fn d45_settings_that_cannot_work_are_told() {
    let bad = r#"{"v6":{"address":"fe80::1","relays":["::/0"],"script_url":"nowhere"}}"#;
    let settings: Settings = serde_json::from_str(bad).unwrap();
    let at: Vec<String> = settings.check().into_iter().map(|(at, _, _)| at).collect();
    assert_eq!(at, ["v6.script_url", "v6.relays", "v6.address"]);
}

proptest! {
    /// Whatever is in the packet: no panic, and never an answer to a packet that is not well formed.
    #[test]
    fn d45_mutated_packets_never_panic(
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..8), kind in 0u8..14, cut in 0usize..120,
    ) {
        let mut bytes = message(kind, "PXEClient:Arch:00007", UEFI_X64, Some(&OURS));
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        bytes.truncate(bytes.len().saturating_sub(cut / 4));
        if Packet::read(&bytes).is_ok()
            && let Ok(answer) = answer(&bytes, "{}", Port::Dhcp, CLIENT)
        {
            let packet = Packet::read(&bytes).unwrap();
            prop_assert!(answer.encode(&packet, &OURS).is_ok());
        }
    }
}
