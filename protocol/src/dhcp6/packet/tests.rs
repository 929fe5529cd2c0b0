use super::*;
use crate::dhcp::Firmware;
use crate::dhcp::Processor;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const DUID: &[u8] = &[0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const CLASS: &[u8] = b"\x00\x00\x01\x57\x00\x20PXEClient:Arch:00007:UNDI:003000";

fn message(kind: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![kind, 0xab, 0xcd, 0xef];
    put(&mut bytes, options);
    bytes
}

fn put(bytes: &mut Vec<u8>, options: &[(u16, &[u8])]) {
    for (code, value) in options {
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(value);
    }
}

fn envelope(hops: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![12, hops];
    bytes.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend_from_slice(&"fe80::5054:ff:fe00:1".parse::<Ipv6Addr>().unwrap().octets());
    put(&mut bytes, options);
    bytes
}

fn nested(times: usize) -> Vec<u8> {
    let innermost = message(1, &[(1, DUID), (6, &[0, 59])]);
    (0..times).fold(innermost, |inner, hops| envelope(hops as u8, &[(18, b"eth7"), (9, &inner)]))
}

#[test]
fn d45_what_firmware_says_is_read() {
    let bytes = message(
        1,
        &[(1, DUID), (3, &[0; 12]), (6, &[0, 59, 0, 60]), (62, &[1, 3, 0]), (61, &[0, 7]), (16, CLASS), (4711, b"?")],
    );
    let packet = Packet::read(&bytes).unwrap();
    let m = &packet.message;
    assert_eq!((m.kind, m.xid, m.client_id, m.server_id), (Kind::Solicit, [0xab, 0xcd, 0xef], Some(DUID), None));
    assert!(m.wants_address && m.requests(59) && m.requests(60) && !m.requests(23) && !packet.relayed());
    assert_eq!((m.network_interface, m.enterprise()), (&[1, 3, 0][..], Some(343)));
    assert_eq!(m.firmware(), Firmware::UefiPxe(Processor::X64));
    assert_eq!(packet.mac(Ipv6Addr::UNSPECIFIED).unwrap().to_string(), "52:54:00:12:34:56");
    let nic = "fe80::5054:ff:fe00:7".parse().unwrap();
    assert_eq!(packet.mac(nic).unwrap().to_string(), "52:54:00:00:00:07", "the NIC that asks, not the one in the DUID");
}

#[test]
fn d45_clients_are_told_apart_as_over_ipv4() {
    let says = |options: &[(u16, &[u8])]| Packet::read(&message(11, options)).unwrap().message.firmware().to_string();
    for (arch, word) in [
        (0u16, "BIOS PXE"),
        (6, "UEFI ia32 PXE"),
        (7, "UEFI x64 PXE"),
        (9, "UEFI x64 PXE"),
        (11, "UEFI arm64 PXE"),
        (16, "UEFI x64 HTTP boot"),
        (19, "UEFI arm64 HTTP boot"),
        (20, "PXE client of architecture 20"),
        (2, "PXE client of architecture 2"),
    ] {
        assert_eq!(says(&[(61, &arch.to_be_bytes())]), word, "RFC 5970 knows no vendor class");
    }
    assert_eq!(says(&[(61, &[0, 16]), (16, b"\x00\x00\x01\x57\x00\x0aHTTPClient")]), "UEFI x64 HTTP boot");
    assert_eq!(says(&[(61, &[0, 99, 0, 7])]), "UEFI x64 PXE", "the first that we know");
    assert_eq!(says(&[(61, &[0, 7]), (15, b"\x00\x04iPXE")]), "iPXE (UEFI x64)");
    assert_eq!(says(&[(15, b"\x00\x03foo\x00\x04iPXE")]), "iPXE");
    assert_eq!(says(&[(16, CLASS)]), "PXE client that names no architecture");
    assert_eq!(says(&[]), "DHCP client");
    for other in [(61, &[0][..]), (16, b"\x00\x00\x01\x37\x00\x03foo"), (15, b"\x00\x09iPXE"), (16, b"PXE")] {
        assert_eq!(says(&[other]), "DHCP client", "{other:?}");
    }
}

#[test]
fn d45_envelopes_are_opened_eight_deep_and_no_deeper() {
    let bytes = nested(8);
    let packet = Packet::read(&bytes).unwrap();
    assert_eq!(packet.relays().map(|r| r.hops).collect::<Vec<_>>(), [7, 6, 5, 4, 3, 2, 1, 0]);
    assert!(packet.relays().all(|r| r.interface_id == Some(b"eth7")));
    assert_eq!(packet.message.kind, Kind::Solicit);
    assert_eq!(packet.mac("fe80::5054:ff:fe99:9".parse().unwrap()).unwrap().to_string(), "52:54:00:00:00:01");
    assert_eq!(Packet::read(&nested(9)), Err(Malformed::Relays));
    assert_eq!(Packet::read(&nested(40)), Err(Malformed::Long));
}

#[test]
fn d45_the_relays_word_on_the_hardware_address_counts_first() {
    let inner = message(1, &[(1, DUID)]);
    let bytes = envelope(0, &[(79, &[0, 1, 2, 0, 0, 0, 0, 9]), (9, &inner)]);
    assert_eq!(Packet::read(&bytes).unwrap().mac(Ipv6Addr::UNSPECIFIED).unwrap().to_string(), "02:00:00:00:00:09");
}

#[test]
fn d45_what_is_no_packet_of_a_client_is_refused_with_its_reason() {
    for (bytes, reason) in [
        (vec![], Malformed::Short),
        (vec![1, 2, 3], Malformed::Short),
        (vec![12; 33], Malformed::Short),
        (vec![1; 1501], Malformed::Long),
        (message(2, &[(1, DUID), (2, DUID)]), Malformed::Kind),
        (message(7, &[(1, DUID), (2, DUID)]), Malformed::Kind),
        (message(10, &[]), Malformed::Kind),
        (message(13, &[]), Malformed::Kind),
        (message(0, &[]), Malformed::Kind),
        (envelope(0, &[(18, b"x")]), Malformed::Empty),
        (envelope(0, &[(9, b"")]), Malformed::Short),
        (message(1, &[]), Malformed::Duid),
        (message(1, &[(1, DUID), (2, DUID)]), Malformed::Duid),
        (message(3, &[(1, DUID)]), Malformed::Duid),
        (message(1, &[(1, &[0, 3])]), Malformed::Duid),
        (message(1, &[(1, &[0; 131])]), Malformed::Duid),
        (message(11, &[(1, DUID), (3, &[0; 12])]), Malformed::Option),
        ([message(1, &[(1, DUID)]), vec![0, 6, 0, 9, 0]].concat(), Malformed::Option),
    ] {
        assert_eq!(Packet::read(&bytes), Err(reason), "{bytes:?}");
    }
    assert!(Packet::read(&message(1, &[(1, &[0; 130])])).is_ok());
    assert!(Packet::read(&message(11, &[])).is_ok());
}

#[test]
fn d45_of_what_may_stand_once_the_first_counts() {
    let bytes = message(1, &[(1, DUID), (61, &[0, 7]), (61, &[0, 11]), (1, b"other")]);
    let packet = Packet::read(&bytes).unwrap();
    assert_eq!((packet.message.client_id, packet.message.architectures), (Some(DUID), &[0, 7][..]));
}
