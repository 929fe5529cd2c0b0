use super::*;
use crate::dhcp6::options::{Items, strings};
use std::vec;
use std::vec::Vec;

const OURS: [u8; 18] = [0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const SOLICIT: [u8; 18] = [1, 0xab, 0xcd, 0xef, 0, 1, 0, 10, 0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const REPLY: Reply<'_> = Reply {
    kind: Kind::Advertise,
    server_id: &OURS,
    url: "tftp://[2001:db8::1]/snponly.efi",
    params: &[],
    class: Some((343, "PXEClient")),
};

fn relayed(inner: &[u8], id: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![12, 3];
    bytes.extend_from_slice(&[0x11; 16]);
    bytes.extend_from_slice(&[0x22; 16]);
    if let Some(id) = id {
        option(&mut bytes, 18, &[id]).unwrap();
    }
    option(&mut bytes, 9, &[inner]).unwrap();
    bytes
}

fn options(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    Items::new(bytes).map(|item| item.expect("whole")).collect()
}

#[test]
fn d45_an_answer_has_a_boot_file_and_no_address() {
    let params = ["console=ttyS0", "quiet"];
    let bytes = Reply { params: &params, ..REPLY }.encode(&Packet::read(&SOLICIT).unwrap()).unwrap();
    assert_eq!(bytes[..4], [2, 0xab, 0xcd, 0xef]);
    let options = options(&bytes[4..]);
    assert_eq!(options.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [1, 2, 59, 60, 16]);
    assert_eq!((options[0].1, options[1].1), (&SOLICIT[8..], &OURS[..]));
    assert_eq!(options[2].1, REPLY.url.as_bytes());
    assert_eq!(strings(options[3].1).collect::<Vec<_>>(), params.map(str::as_bytes));
    assert_eq!(options[4].1, b"\x00\x00\x01\x57\x00\x09PXEClient");
    let plain = Reply { class: None, ..REPLY }.encode(&Packet::read(&[11, 1, 2, 3]).unwrap()).unwrap();
    assert_eq!(options_of(&plain), [2, 59], "who has no identifier gets none back");
}

fn options_of(bytes: &[u8]) -> Vec<u16> {
    options(&bytes[4..]).iter().map(|(code, _)| *code).collect()
}

#[test]
fn d45_an_answer_goes_back_in_the_envelopes_that_the_question_came_in() {
    let bare = REPLY.encode(&Packet::read(&SOLICIT).unwrap()).unwrap();
    let mut question = SOLICIT.to_vec();
    let mut expected = bare;
    for id in [Some(&b"vlan7"[..]), None, Some(b""), Some(b"x"), None, Some(b"y"), None, None] {
        question = relayed(&question, id);
        expected = relayed(&expected, id);
        expected[0] = 13;
        assert_eq!(REPLY.encode(&Packet::read(&question).unwrap()).unwrap(), expected);
    }
}

#[test]
fn d45_nothing_longer_than_firmware_can_bear_is_sent() {
    let bare = Packet::read(&SOLICIT).unwrap();
    assert_eq!(Reply { server_id: &[0; 21], ..REPLY }.encode(&bare), Err(TooLong), "PixieFail");
    assert!(Reply { server_id: &[0; 20], ..REPLY }.encode(&bare).is_ok());
    let long = "x".repeat(MAX_REPLY);
    assert_eq!(Reply { url: &long, ..REPLY }.encode(&bare), Err(TooLong));
    assert_eq!(Reply { params: &[&"x".repeat(70_000)], ..REPLY }.encode(&bare), Err(TooLong));
    let question = relayed(&SOLICIT, Some(&[7; MAX_REPLY]));
    assert_eq!(REPLY.encode(&Packet::read(&question).unwrap()), Err(TooLong));
}

/// Xorshift: the same packets in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }
}

#[test]
fn d45_a_million_mutated_packets_end_in_an_answer_or_in_a_reason() {
    const PACKETS: u32 = 1_000_000;
    let mut whole = SOLICIT.to_vec();
    for (code, value) in [
        (6, &[0, 59, 0, 60][..]),
        (61, &[0, 7]),
        (62, &[1, 3, 0]),
        (15, b"\x00\x04iPXE"),
        (16, b"\x00\x00\x01\x57\x00\x20PXEClient:Arch:00007:UNDI:003000"),
    ] {
        option(&mut whole, code, &[value]).unwrap();
    }
    let mut request = whole.clone();
    request[0] = 3;
    option(&mut request, 2, &[&OURS]).unwrap();
    let deep = (0..8).fold(whole.clone(), |inner, i| relayed(&inner, [None, Some(&b"id"[..])][i % 2]));
    let seeds = [whole.clone(), request, relayed(&whole, Some(b"eth0")), deep];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut answered, mut refused) = (0u32, 0u32);
    let mut bytes = Vec::with_capacity(2048);
    for _ in 0..PACKETS {
        bytes.clear();
        bytes.extend_from_slice(&seeds[random.next() % seeds.len()]);
        mutate(&mut bytes, &mut random);
        let Ok(packet) = Packet::read(&bytes) else {
            refused += 1;
            continue;
        };
        let _ = (packet.mac([0; 16].into()), packet.message.firmware(), packet.message.requests(59));
        let _ = packet.message.client_id.map(|id| crate::dhcp6::duid::machine_id(id, true));
        let Ok(answer) = REPLY.encode(&packet) else { continue };
        answered += 1;
        assert!(answer.len() <= MAX_REPLY);
        // A relay opens our envelopes as we opened its own, and finds the answer.
        let mut back = answer.clone();
        for _ in packet.relays() {
            assert_eq!(back[0], 13);
            let carried = options(&back[34..]).iter().find(|(c, _)| *c == 9).expect("a packet").1.to_vec();
            back = carried;
        }
        assert_eq!((back[0], &back[1..4]), (2, &packet.message.xid[..]));
        let options = options(&back[4..]);
        let of = |code| options.iter().find(|(c, _)| *c == code).map(|(_, value)| *value);
        assert_eq!((of(1), of(2)), (packet.message.client_id, Some(&OURS[..])));
        assert!(of(3).is_none() && of(13).is_none());
    }
    assert!(answered > PACKETS / 10, "{answered} answers: the mutations are too wild to prove anything");
    assert!(refused > PACKETS / 10, "{refused} refused: the mutations are too tame to prove anything");
}

/// One to four cuts, flips, insertions and copies.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.next() % 4 {
        let at = random.next() % bytes.len();
        match random.next() % 8 {
            0 => bytes.truncate(at.max(1)),
            1 => bytes.insert(at, random.next() as u8),
            2 if bytes.len() > 1 => {
                bytes.remove(at);
            }
            3 => bytes[at] = [0, 255][random.next() % 2],
            4 => {
                let end = (at + random.next() % 64).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.next() % bytes.len();
                bytes.splice(to..to, copy);
                bytes.truncate(1600);
            }
            _ => bytes[at] ^= 1 << (random.next() % 8),
        }
    }
}
