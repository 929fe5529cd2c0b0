//! Requests of real firmware (tests/fixtures/dhcp) and damaged ones.

use super::*;
use crate::dhcp::{Features, Platform, Processor};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/dhcp/", $name, ".bin")).as_slice()
    };
}

const EVERY: [(&str, &[u8]); 24] = [
    ("UEFI x64 PXE", fixture!("ovmf-pxe-discover")),
    ("UEFI x64 PXE", fixture!("ovmf-pxe-request")),
    ("UEFI x64 PXE", fixture!("ovmf-4011-request")),
    ("UEFI x64 PXE", fixture!("ovmf-4011-request-boot-item")),
    ("UEFI x64 PXE", fixture!("ovmf-e1000-pxe-discover")),
    ("UEFI x64 PXE", fixture!("ovmf2022-pxe-discover")),
    ("UEFI x64 HTTP boot", fixture!("ovmf-http-discover")),
    ("UEFI x64 HTTP boot", fixture!("ovmf-http-request")),
    ("UEFI x64 HTTP boot", fixture!("ovmf2022-http-discover")),
    ("UEFI arm64 PXE", fixture!("aavmf-pxe-discover")),
    ("UEFI arm64 PXE", fixture!("aavmf-pxe-request")),
    ("iPXE (UEFI x64)", fixture!("ipxe2025-efi-discover")),
    ("iPXE (UEFI x64)", fixture!("ipxe2025-efi-request")),
    ("iPXE (UEFI x64)", fixture!("ipxe2025-snponly-discover")),
    ("iPXE (UEFI x64)", fixture!("ipxe2025-efi-bare-class-discover")),
    ("iPXE (UEFI x64)", fixture!("ipxe2019-efi-rom-discover")),
    ("iPXE (BIOS)", fixture!("ipxe2025-bios-rom-discover")),
    ("iPXE (BIOS)", fixture!("ipxe2025-undionly-discover")),
    ("iPXE (BIOS)", fixture!("ipxe2025-pxe-discover")),
    ("iPXE (BIOS)", fixture!("ipxe2019-bios-rom-discover")),
    ("iPXE (BIOS)", fixture!("ipxe2019-bios-rom-request")),
    ("iPXE (BIOS)", fixture!("ipxe2019-bios-rom-request-other-server")),
    ("Linux", fixture!("udhcpc-discover")),
    ("Linux", fixture!("udhcpc-request")),
];

#[test]
fn d33_every_real_client_is_called_by_its_name() {
    for (name, packet) in EVERY {
        let request = Request::read(packet).unwrap();
        assert_eq!(request.describe(), name);
        assert!(request.mac().unwrap().to_string().starts_with("52:54:00:"));
        assert!(!request.options.truncated());
    }
}

#[test]
fn d25_the_uuid_is_read_in_smbios_order() {
    let request = Request::read(fixture!("ovmf-pxe-discover")).unwrap();
    assert_eq!(request.machine_id_option().unwrap().len(), 17);
    assert_eq!(request.machine_id().unwrap().to_string(), "2e92a356-4f9b-4eeb-838c-19828d41283f");
    let mut blank = fixture!("ovmf-pxe-discover").to_vec();
    let at = blank.windows(3).position(|w| w == [97, 17, 0]).unwrap();
    blank[at + 3..at + 19].fill(0xff);
    assert_eq!(Request::read(&blank).unwrap().machine_id(), None);
    blank[at + 2] = 1;
    assert_eq!(Request::read(&blank).unwrap().machine_id_option(), None, "type 1 is not a UUID");
}

#[test]
fn d20_firmware_ipxe_and_linux_of_one_machine_share_a_key() {
    let firmware = Request::read(fixture!("ovmf-pxe-discover")).unwrap();
    let ipxe = Request::read(fixture!("ipxe2025-snponly-discover")).unwrap();
    assert_eq!(firmware.client_id(), None);
    assert!(ipxe.client_id().is_some());
    assert_eq!(firmware.key(), ipxe.key());
}

#[test]
fn d20_a_client_id_comes_before_the_hardware_address() {
    let request = Request::read(&discover(&[61, 3, 0xff, 1, 2])).unwrap();
    assert_eq!(request.key(), ClientKey(vec![0xff, 1, 2]));
    let too_short = Request::read(&discover(&[61, 1, 9])).unwrap();
    assert_eq!(too_short.key(), ClientKey(vec![1, 0x52, 0x54, 0, 1, 2, 3]));
}

#[test]
fn d33_the_ipxe_of_2019_has_no_vlan_and_no_https_and_is_still_ipxe() {
    let features = |packet| match Request::read(packet).unwrap().firmware {
        Firmware::Ipxe(ipxe) => ipxe.features,
        other => panic!("{other:?}"),
    };
    let old = features(fixture!("ipxe2019-bios-rom-discover"));
    let new = features(fixture!("ipxe2025-bios-rom-discover"));
    assert!(old.has(Features::HTTP) && !old.has(Features::HTTPS) && !old.has(Features::VLAN));
    assert!(new.has(Features::HTTP) && new.has(Features::HTTPS) && new.has(Features::VLAN));
    assert!(new.has(Features::PXE) && !new.has(Features::EFI));
}

#[test]
fn d28_a_bare_class_leaves_the_architecture_to_93() {
    let request = Request::read(fixture!("ipxe2025-efi-bare-class-discover")).unwrap();
    assert_eq!(request.options.get(60), Some(&b"PXEClient"[..]));
    assert_eq!(request.firmware.platform(), Some(Platform::Uefi(Processor::X64)));
}

#[test]
fn d31_the_boot_item_chosen_in_a_menu_is_read() {
    assert_eq!(Request::read(fixture!("ovmf-4011-request-boot-item")).unwrap().boot_item(), Some([0x80, 2, 0, 0]));
    assert_eq!(Request::read(fixture!("ovmf-4011-request")).unwrap().boot_item(), None);
}

#[test]
fn d37_the_server_that_was_chosen_is_read() {
    let server = |p| Request::read(p).unwrap().server_id().unwrap().to_string();
    assert_eq!(server(fixture!("ovmf-pxe-request")), "10.77.0.1");
    assert_eq!(server(fixture!("ovmf-pxe-request-other-server")), "10.77.0.2");
}

#[test]
fn d01_what_is_no_dhcp_request_is_refused_with_its_reason() {
    let good = discover(&[]);
    let broken = |at: usize, byte: u8| {
        let mut p = good.clone();
        p[at] = byte;
        Request::read(&p).unwrap_err()
    };
    assert_eq!(Request::read(&good[..HEADER - 1]), Err(Malformed::Short));
    assert_eq!(Request::read(&[]), Err(Malformed::Short));
    assert_eq!(Request::read(&vec![1; MAX_PACKET + 1]), Err(Malformed::Long));
    assert_eq!(broken(0, 2), Malformed::NotARequest);
    assert_eq!(broken(236, 98), Malformed::Cookie);
    assert_eq!(broken(HEADER, 0), Malformed::Bootp);
    assert_eq!(Request::read(fixture!("dnsmasq-offer")), Err(Malformed::NotARequest));
}

#[test]
fn d06_impossible_hardware_addresses_are_refused() {
    let with = |htype: u8, hlen: u8, first: u8| {
        let mut p = discover(&[]);
        p[1] = htype;
        p[2] = hlen;
        p[28] = first;
        Request::read(&p).map(|r| r.mac())
    };
    assert_eq!(with(1, 255, 0x52), Err(Malformed::HardwareAddress));
    assert_eq!(with(1, 17, 0x52), Err(Malformed::HardwareAddress));
    assert_eq!(with(6, 17, 0x52), Err(Malformed::HardwareAddress));
    assert_eq!(with(1, 0, 0x52), Err(Malformed::HardwareAddress));
    assert_eq!(with(1, 6, 0xff), Err(Malformed::HardwareAddress), "a group address");
    assert_eq!(with(27, 8, 0x52), Ok(None), "an EUI-64 is kept, but is no MAC");
    assert!(with(6, 6, 0x52).unwrap().is_some(), "IEEE 802");
}

#[test]
fn d43_infiniband_is_known_by_its_client_id_and_answered_by_broadcast() {
    let ib = |options: &[u8]| {
        let mut p = discover(options);
        (p[1], p[2]) = (32, 0);
        p[28..34].fill(0);
        Request::read(&p)
    };
    let request = ib(&[61, 4, 0xff, 7, 8, 9]).unwrap();
    assert_eq!((request.mac(), request.key()), (None, ClientKey(vec![0xff, 7, 8, 9])));
    assert_eq!(ib(&[]), Err(Malformed::HardwareAddress));
}

#[test]
fn d07_only_what_clients_send_is_read() {
    for (byte, known) in (0..=20u8).map(|b| (b, matches!(b, 1 | 3 | 4 | 7 | 8))) {
        let mut p = discover(&[]);
        p[HEADER + 2] = byte;
        assert_eq!(Request::read(&p).is_ok(), known, "type {byte}");
    }
}

#[test]
fn d40_a_packet_that_passed_17_relays_is_dropped() {
    let mut p = discover(&[]);
    p[3] = 16;
    assert!(Request::read(&p).is_ok());
    p[3] = 17;
    assert_eq!(Request::read(&p), Err(Malformed::Hops));
}

#[test]
fn d15_addresses_that_no_machine_can_have_are_refused() {
    for (at, address) in
        [(12, [255; 4]), (12, [127, 0, 0, 1]), (24, [224, 0, 0, 1]), (24, [255; 4]), (12, [0, 0, 0, 1])]
    {
        let mut p = discover(&[]);
        p[at..at + 4].copy_from_slice(&address);
        assert_eq!(Request::read(&p), Err(Malformed::Address), "{address:?} at {at}");
    }
}

#[test]
fn d12_room_is_option_57_within_reason() {
    let room = |options: &[u8]| Request::read(&discover(options)).unwrap().room();
    assert_eq!(room(&[]), 548);
    assert_eq!(room(&[57, 2, 0x05, 0xc0]), 1472 - 28);
    assert_eq!(room(&[57, 2, 0xff, 0]), 1472);
    assert_eq!(room(&[57, 2, 0, 100]), 548);
    assert_eq!(room(&[57, 1, 9]), 548);
}

#[test]
fn d14_to_d17_the_destination_rule() {
    use Destination::{Broadcast, Client, Hardware, Relay};
    use MessageType::{Ack, Nak, Offer};
    let (ip, relay, none) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::UNSPECIFIED);
    let mut r = Request::read(&discover(&[])).unwrap();
    assert_eq!(r.destination(Offer, ip), Hardware(ip));
    assert_eq!(r.destination(Offer, none), Broadcast, "proxy");
    r.flags = Request::BROADCAST;
    assert_eq!(r.destination(Offer, ip), Broadcast);
    r.ciaddr = ip;
    assert_eq!(r.destination(Ack, ip), Client(ip));
    assert_eq!(r.destination(Nak, none), Broadcast, "a client that is told no has no address");
    r.giaddr = relay;
    assert_eq!(r.destination(Ack, ip), Relay(relay));
    assert_eq!(r.destination(Nak, none), Relay(relay));
    r.kind = MessageType::Inform;
    assert_eq!(r.destination(Ack, none), Client(ip), "RFC 2131 section 4.3.5");
}

#[test]
fn d23_vendor_class_text_cannot_carry_control_characters() {
    let request = Request::read(&discover(&[60, 4, b'a', 0x1b, b'[', 0xff])).unwrap();
    assert_eq!(request.vendor_class_text(), "a\\x1b[\\xff");
}

/// A DHCPDISCOVER of 52:54:00:01:02:03 with these options behind option 53.
fn discover(options: &[u8]) -> Vec<u8> {
    let mut p = vec![0; HEADER];
    p[..4].copy_from_slice(&[1, 1, 6, 0]);
    p[28..34].copy_from_slice(&[0x52, 0x54, 0, 1, 2, 3]);
    p[236..240].copy_from_slice(&COOKIE);
    p.extend_from_slice(&[53, 1, 1]);
    p.extend_from_slice(options);
    p.push(255);
    p
}

/// Everything that can be asked of a request, so that no accessor can panic either.
fn exercise(packet: &[u8]) {
    if let Ok(r) = Request::read(packet) {
        let _ = (r.mac(), r.key().to_string(), r.describe(), r.vendor_class_text(), r.machine_id(), r.boot_item());
        let _ = (r.server_id(), r.requested_address(), r.wants(67), r.firmware.reply_class());
        assert!((MIN_REPLY..=MAX_PACKET).contains(&r.room()));
        let _ = r.destination(MessageType::Ack, Ipv4Addr::UNSPECIFIED);
    }
}

proptest! {
    #[test]
    fn d46_any_bytes_end_in_ok_or_err(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
        exercise(&bytes);
    }

    #[test]
    fn d46_any_options_behind_a_good_header_end_in_ok_or_err(options in proptest::collection::vec(any::<u8>(), 0..600)) {
        exercise(&discover(&options));
    }

    #[test]
    fn d04_scanning_finds_what_was_written(values in proptest::collection::btree_map(1u8..255, proptest::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let mut packet = vec![0; HEADER];
        for (code, value) in &values {
            let mut parts = value.chunks(255).peekable();
            if parts.peek().is_none() {
                packet.extend_from_slice(&[*code, 0]);
            }
            for part in parts {
                packet.extend_from_slice(&[*code, u8::try_from(part.len()).unwrap()]);
                packet.extend_from_slice(part);
            }
        }
        packet.push(255);
        // Option 52 would make the scan read `file` and `sname`, which are all pads here.
        let options = Options::scan(&packet);
        let found: Vec<_> = options.iter().map(|(code, value)| (code, value.to_vec())).collect();
        prop_assert_eq!(found, values.into_iter().collect::<Vec<_>>());
    }
}
