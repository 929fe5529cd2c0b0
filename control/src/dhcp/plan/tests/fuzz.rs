//! A million damaged packets through decoder, decision and encoder (D46).

use super::*;

const SEEDS: [&str; 12] = [
    "ovmf-pxe-discover",
    "ovmf-pxe-request",
    "ovmf-4011-request-boot-item",
    "ovmf-http-discover",
    "ovmf-http-request",
    "aavmf-pxe-discover",
    "ipxe2025-efi-discover",
    "ipxe2025-efi-bare-class-discover",
    "ipxe2019-bios-rom-discover",
    "ipxe2019-bios-rom-request",
    "udhcpc-discover",
    "udhcpc-request",
];
const PACKETS: u32 = 1_000_000;

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }
}

#[test]
fn d46_a_million_mutated_packets_end_in_a_reply_or_in_silence() {
    let lease = r#"{"mode":"server","relays":["10.0.0.0/8"],"server":{"probe_ms":0,"authoritative":true,
        "subnets":[{"network":"10.77.0.0/24","pools":["10.77.0.100-10.77.0.200"]}]}}"#;
    let mut worlds = [World::new("{}"), World::new(r#"{"relays":["10.0.0.0/8"]}"#), World::new(lease)];
    let mut random = Xorshift(0x2545_f491_4f6c_dd1d);
    let seeds = SEEDS.map(fixture);
    let (mut replies, mut refused) = (0u32, 0u32);
    let mut packet = Vec::with_capacity(2048);
    for round in 0..PACKETS {
        packet.clear();
        packet.extend_from_slice(seeds[random.next() % seeds.len()]);
        mutate(&mut packet, &mut random);
        let Ok(request) = Request::read(&packet) else {
            refused += 1;
            continue;
        };
        let world = &mut worlds[random.next() % 3];
        world.port = if random.next().is_multiple_of(4) { Port::Pxe } else { Port::Dhcp };
        world.now += u64::from(round % 64 == 0);
        let decision = world.plan(&request);
        let _ = (request.describe(), request.vendor_class_text());
        if let Answer::Reply(reply) = &decision.answer
            && let Ok(bytes) = encode(&request, reply)
        {
            replies += 1;
            assert!((MIN_REPLY..=request.room()).contains(&bytes.len()), "{} bytes", bytes.len());
            let hardware = usize::from(request.hlen);
            assert_eq!((bytes[0], bytes[1], bytes[2]), (2, request.htype, request.hlen));
            assert_eq!(bytes[4..8], request.xid.to_be_bytes());
            assert_eq!(bytes[28..28 + hardware], request.chaddr[..hardware]);
            let options = Options::scan(&bytes);
            assert_eq!(options.get(53), Some(&[reply.kind as u8][..]));
            assert_eq!(options.address(54), Some(US));
            assert!(!options.truncated());
        }
        for change in decision.changes {
            world.book.apply(change);
        }
    }
    assert!(replies > PACKETS / 20, "{replies} replies: the mutations are too wild to prove anything");
    assert!(refused > PACKETS / 50, "{refused} refused: the mutations are too tame to prove anything");
}

/// One to eight cuts, flips, insertions and overwrites; half of them in the options.
fn mutate(packet: &mut Vec<u8>, random: &mut Xorshift) {
    for _ in 0..=random.next() % 8 {
        let from = if random.next().is_multiple_of(8) { 0 } else { 240.min(packet.len()) };
        let span = packet.len().saturating_sub(from).max(1);
        let at = (from + random.next() % span).min(packet.len().saturating_sub(1));
        match random.next() % 12 {
            0 => packet.truncate(at),
            1 => packet.insert(at, random.next() as u8),
            2 => {
                packet.remove(at);
            }
            3 => packet[at] = 255,
            4 => packet[at] = 0,
            5 => {
                let end = (at + random.next() % 64).min(packet.len());
                let copy = packet[at..end].to_vec();
                let to = random.next() % packet.len();
                packet.splice(to..to, copy);
                packet.truncate(1600);
            }
            6 => packet[at] = packet[at].wrapping_add(1),
            _ => packet[at] ^= 1 << (random.next() % 8),
        }
        if packet.is_empty() {
            packet.push(1);
        }
    }
}
