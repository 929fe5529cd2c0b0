use super::*;
use proptest::prelude::*;
use std::vec::Vec;

fn request(bytes: &[u8]) -> Result<Request<'_>, BadPacket> {
    match Packet::decode(bytes)? {
        Packet::Request(request) => Ok(request),
        other => panic!("{other:?} is no request"),
    }
}

#[test]
fn every_kind_is_read_as_rfc_1350_and_2347_draw_it() {
    assert_eq!(Packet::decode(b"\0\x03\x01\x02xyz"), Ok(Packet::Data { block: 0x102, payload: b"xyz" }));
    assert_eq!(Packet::decode(b"\0\x03\0\x01"), Ok(Packet::Data { block: 1, payload: b"" }));
    assert_eq!(Packet::decode(b"\0\x04\xff\xff"), Ok(Packet::Ack { block: 65535 }));
    let error = Packet::Error { code: ErrorCode(8), text: b"User aborted the transfer" };
    assert_eq!(Packet::decode(b"\0\x05\0\x08User aborted the transfer\0"), Ok(error));
    assert_eq!(Packet::decode(b"\0\x05\0\x08User aborted the transfer"), Ok(error), "several clients forget the NUL");
    let Ok(Packet::Oack(options)) = Packet::decode(b"\0\x06blksize\x001468\0tsize\x000\0") else { panic!() };
    assert_eq!(options.into_iter().collect::<Vec<_>>(), [(&b"blksize"[..], &b"1468"[..]), (b"tsize", b"0")]);
}

#[test]
fn requests_of_real_firmware_are_understood() {
    // OVMF 2022 and 2025: tsize, blksize, windowsize; iPXE 1.21: blksize, tsize.
    let ovmf = b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0";
    let read = request(ovmf).unwrap();
    assert_eq!((read.write, read.name, read.mode), (false, &b"snponly.efi"[..], Mode::Octet));
    assert_eq!(read.options.into_iter().count(), 3);
    assert_eq!(
        request(b"\0\x01autoexec.ipxe\0octet\0blksize\x001432\0tsize\x000\0").unwrap().options.into_iter().count(),
        2
    );
}

#[test]
fn t06_the_mode_is_read_in_any_case() {
    for (word, mode) in [("octet", Mode::Octet), ("OcTeT", Mode::Octet), ("NETASCII", Mode::Netascii)] {
        let bytes = [b"\0\x01f\0", word.as_bytes(), b"\0"].concat();
        assert_eq!(request(&bytes).unwrap().mode, mode, "{word}");
    }
}

#[test]
fn t08_mail_is_refused_with_error_4() {
    let bad = request(b"\0\x01f\0mail\0").unwrap_err();
    assert_eq!((bad, bad.answer().unwrap().0), (BadPacket::Mode, ErrorCode::ILLEGAL));
}

#[test]
fn t09_an_unknown_mode_is_refused_with_error_4() {
    for word in ["binary", "image", "octets", "", "oct"] {
        let bad = request(&[b"\0\x01f\0", word.as_bytes(), b"\0"].concat()).unwrap_err();
        assert_eq!((bad, bad.answer().unwrap().0), (BadPacket::Mode, ErrorCode::ILLEGAL), "{word}");
    }
}

#[test]
fn t13_unknown_operations_are_met_with_silence() {
    for opcode in [0_u16, 7, 8, 255, 256, 0x0100, 65535] {
        let bad = Packet::decode(&[&opcode.to_be_bytes()[..], b"f\0octet\0"].concat()).unwrap_err();
        assert_eq!((bad, bad.answer()), (BadPacket::Opcode, None), "{opcode}");
    }
}

#[test]
fn t14_packets_of_0_to_3_bytes_are_met_with_silence() {
    for bytes in [&b""[..], b"\0", b"\0\x03", b"\0\x04", b"\0\x05", b"\0\x03\0", b"\0\x04\0", b"\0\x05\0"] {
        let bad = Packet::decode(bytes).unwrap_err();
        assert_eq!((bad, bad.answer()), (BadPacket::Short, None), "{bytes:?}");
    }
    // An RRQ that ends at once is malformed, an OACK that ends at once has no options.
    assert_eq!(Packet::decode(b"\0\x01"), Err(BadPacket::Unterminated));
    assert!(matches!(Packet::decode(b"\0\x06"), Ok(Packet::Oack(o)) if o.is_empty()));
}

#[test]
fn t15_texts_without_their_nul_are_refused() {
    for (bytes, bad) in [
        (&b"\0\x01file"[..], BadPacket::Unterminated),
        (b"\0\x01file\0", BadPacket::Unterminated),
        (b"\0\x01file\0octet", BadPacket::Unterminated),
        (b"\0\x01\0octet\0", BadPacket::Unterminated),
        (b"\0\x01file\0octet\0blksize", BadPacket::Options),
        (b"\0\x01file\0octet\0blksize\0", BadPacket::Options),
        (b"\0\x01file\0octet\0blksize\x001468", BadPacket::Options),
        (b"\0\x01file\0octet\0\x001468\0", BadPacket::Options),
        (b"\0\x01file\0octet\0blksize\x001468\0tsize", BadPacket::Options),
    ] {
        assert_eq!(Packet::decode(bytes), Err(bad), "{}", bytes.escape_ascii());
        assert!(bad.answer().is_some());
    }
}

#[test]
fn t15_padding_behind_the_last_option_is_let_pass() {
    let padded = b"\0\x01file\0octet\0blksize\x001468\0\0\0\0\0";
    assert_eq!(request(padded).unwrap().options.into_iter().count(), 1);
    assert!(request(b"\0\x01file\0octet\0\0\0\0").unwrap().options.is_empty());
}

#[test]
fn t16_a_request_of_more_than_512_bytes_is_refused() {
    let longest = [b"\0\x01", &[b'a'; 512 - 9][..], b"\0octet\0"].concat();
    assert_eq!(longest.len(), 512);
    assert!(request(&longest).is_ok());
    let longer = [b"\0\x01", &[b'a'; 513 - 9][..], b"\0octet\0"].concat();
    assert_eq!(request(&longer), Err(BadPacket::TooLong));
    assert_eq!(BadPacket::TooLong.answer().unwrap().0, ErrorCode::ILLEGAL);
}

#[test]
fn t65_error_texts_end_in_nul_and_within_128_bytes() {
    let longest = "x".repeat(1000);
    for text in ["", "file not found", &longest] {
        let packet = Short::error(ErrorCode::NOT_FOUND, text);
        let bytes = packet.as_bytes();
        assert!(bytes.starts_with(b"\0\x05\0\x01") && bytes.ends_with(b"\0"));
        assert!(bytes.len() - 4 <= 128 && !bytes[4..bytes.len() - 1].contains(&0));
    }
    for bad in [BadPacket::TooLong, BadPacket::Unterminated, BadPacket::Mode, BadPacket::Options] {
        let text = bad.answer().unwrap().1;
        assert!(text.len() < MAX_ERROR_TEXT && !text.contains('/'), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        name in "[!-~]{1,100}", netascii: bool, blksize in 8_u64..65465, tsize: u64, window in 1_u64..65536,
    ) {
        let mode = if netascii { Mode::Netascii } else { Mode::Octet };
        let mut bytes = Vec::new();
        encode_rrq(&mut bytes, name.as_bytes(), mode, &[("blksize", blksize), ("tsize", tsize), ("windowsize", window)]);
        let read = request(&bytes).unwrap();
        prop_assert_eq!((read.write, read.name, read.mode), (false, name.as_bytes(), mode));
        let values: Vec<u64> = read.options.into_iter().map(|(_, v)| core::str::from_utf8(v).unwrap().parse().unwrap()).collect();
        prop_assert_eq!(values, [blksize, tsize, window]);
    }
}

/// xorshift64*: fast enough for a million packets in an unoptimised build.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[test]
fn t69_a_million_random_and_mutated_packets_are_read_or_refused() {
    let good: [&[u8]; 6] = [
        b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0",
        b"\0\x02x\0netascii\0timeout\x003\0",
        b"\0\x03\0\x01payload",
        b"\0\x04\0\x01",
        b"\0\x05\0\x01file not found\0",
        b"\0\x06blksize\x001468\0tsize\x001020416\0windowsize\x004\0",
    ];
    let policy = super::super::Policy::default();
    let mut random = Random(0x5eed_0069);
    let (mut read, mut refused) = (0_u32, 0_u32);
    let mut buffer = [0_u8; 64];
    for round in 0..1_000_000_u32 {
        let seed = random.next();
        let length = if round % 2 == 0 {
            for chunk in buffer.chunks_mut(8) {
                chunk.copy_from_slice(&random.next().to_le_bytes());
            }
            buffer[0] = 0;
            buffer[1] = (seed % 8) as u8;
            seed as usize / 8 % buffer.len()
        } else {
            let packet = good[seed as usize % good.len()];
            buffer[..packet.len()].copy_from_slice(packet);
            for _ in 0..=(seed >> 8) % 3 {
                let change = random.next();
                buffer[change as usize % packet.len()] = (change >> 32) as u8;
            }
            packet.len() - (seed >> 16) as usize % 3 % packet.len()
        };
        match Packet::decode(&buffer[..length]) {
            Ok(Packet::Request(request)) => {
                assert!(!request.name.is_empty() && !request.name.contains(&0));
                let agreed = super::super::options::negotiate(request.options, request.mode, 1 << 33, &policy);
                assert!(agreed.blksize() <= 1468 && agreed.windowsize() <= 64);
                read += 1;
            }
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 100_000 && refused > 100_000, "{read} read, {refused} refused");
}
