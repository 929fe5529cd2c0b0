//! What is done with arbitrary bytes, one function a decoder, shared by the
//! fuzz targets (nightly, `cargo fuzz`) and by `tests/replay.rs` (stable, in
//! every `make test`). None may panic, hang, or break what it asserts.

use protocol::dhcp::{self, Firmware, vendor};
use protocol::event::Event;
use protocol::http::{Connection, Resource, Step, connection, range};
use protocol::ipmi::{session, wire};
use protocol::manifest::{EdgeState, Manifest, ObjectId, is_plain_path};
use protocol::report::{Answer, Facts, Hello, Status};
use protocol::tftp::fetch::{self, Ask, Fetch};
use protocol::tftp::options::{Policy, negotiate};
use protocol::tftp::transfer::{self, Input, Settings};
use protocol::tftp::{Packet, Transfer};
use protocol::time::{Duration, Instant};
use std::net::Ipv4Addr;

/// One decoder: its name is the name of the fuzz target and of the folder of seeds.
pub type Body = (&'static str, fn(&[u8]));

/// All of them.
pub const BODIES: &[Body] = &[
    ("tftp_packet", tftp_packet),
    ("tftp_transfer", tftp_transfer),
    ("tftp_fetch", tftp_fetch),
    ("http_head", http_head),
    ("http_range", http_range),
    ("dhcp", dhcp),
    ("manifest", manifest),
    ("event", event),
    ("report", report),
    ("smbios", smbios),
    ("ipmi", ipmi),
];

/// A wall clock for heads: seconds since 1970 UTC.
const DATE: u64 = 1_795_000_000;
/// Outputs after one input at most; more is a storm or a loop.
const OUTPUTS_MAX: usize = 1100;

/// A datagram for port 69 or a TID.
pub fn tftp_packet(bytes: &[u8]) {
    match Packet::decode(bytes) {
        Ok(Packet::Request(request)) => {
            assert!(!request.name.is_empty() && !request.name.contains(&0) && bytes.len() <= 512);
            for (name, value) in request.options {
                assert!(!name.contains(&0) && !value.contains(&0));
            }
            let policy = Policy::default();
            let agreed = negotiate(request.options, request.mode, 1 << 33, &policy);
            assert!(agreed.blksize() <= policy.max_blksize.max(512) && agreed.windowsize() <= policy.max_windowsize);
            assert!(agreed.oack().as_bytes().len() <= 512);
        }
        Ok(Packet::Data { payload, .. }) => assert_eq!(payload.len(), bytes.len() - 4),
        Ok(Packet::Oack(options)) => assert!(options.into_iter().count() <= bytes.len()),
        Ok(Packet::Ack { .. } | Packet::Error { .. }) => {}
        Err(bad) => drop((bad.answer(), bad.to_string())),
    }
}

/// A client that says whatever it likes to a running transfer: the first line
/// of bytes is its request, then lengths and packets, with time going by.
pub fn tftp_transfer(bytes: &[u8]) {
    const SIZE: u64 = 300_000;
    let (request, mut rest) = cut(bytes);
    let Ok(Packet::Request(request)) = Packet::decode(request) else { return };
    let agreed = negotiate(request.options, request.mode, SIZE, &Policy::default());
    let blocks = SIZE / u64::from(agreed.blksize()) + 1;
    let mut now = Instant::ZERO;
    let mut transfer = Transfer::start(agreed, SIZE, Settings::default(), now);
    let mut over = false;
    while !over {
        for outputs in 0.. {
            assert!(outputs < OUTPUTS_MAX, "the transfer does not come to rest");
            match transfer.poll_output() {
                Some(transfer::Output::Blocks { first, count }) => {
                    assert!(first >= 1 && count >= 1 && count <= agreed.windowsize().max(1));
                    assert!(first + u64::from(count) - 1 <= blocks, "blocks {first}+{count} of {blocks}");
                }
                Some(transfer::Output::Ended(_)) => over = true,
                Some(_) => {}
                None => break,
            }
        }
        assert!(over == transfer.deadline().is_none());
        assert!(transfer.bytes_acked() <= SIZE);
        if rest.is_empty() {
            return;
        }
        let packet;
        (packet, rest) = cut(rest);
        match Packet::decode(packet) {
            Ok(Packet::Request(_)) => transfer.handle(Input::Repeat, now),
            Ok(packet) => transfer.handle(Input::Packet(packet), now),
            Err(_) => {
                now = transfer.deadline().unwrap_or(now);
                transfer.handle(Input::Timer, now);
            }
        }
    }
}

/// A server that says whatever it likes to our client.
pub fn tftp_fetch(bytes: &[u8]) {
    let server = (Ipv4Addr::LOCALHOST, 69).into();
    let tid = (Ipv4Addr::LOCALHOST, 2070).into();
    let mut now = Instant::ZERO;
    let ask = Ask { name: b"a", windowsize: Some(4), ..Ask::default() };
    let mut fetch = Fetch::start(server, &ask, now);
    let mut rest = bytes;
    let mut delivered = 0;
    while !rest.is_empty() {
        let packet;
        (packet, rest) = cut(rest);
        if packet.is_empty() {
            now = fetch.deadline().unwrap_or(now);
            fetch.timer(now);
        } else {
            let from = if packet.len() == 7 { server } else { tid };
            delivered += fetch.handle(from, packet, now).map_or(0, <[u8]>::len) as u64;
        }
        assert_eq!(delivered, fetch.report().bytes);
        for outputs in 0.. {
            assert!(outputs < OUTPUTS_MAX, "the client does not come to rest");
            match fetch.poll_output() {
                Some(fetch::Output::Send { bytes, .. }) => assert!(Packet::decode(bytes).is_ok()),
                Some(fetch::Output::Ended(_)) => {}
                None => break,
            }
        }
        assert!(fetch.report().text.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
    }
}

/// A connection that sends these bytes, in pieces.
pub fn http_head(bytes: &[u8]) {
    let patience = connection::Patience { head: Duration::from_secs(10), idle: Duration::from_secs(60) };
    let resource =
        Resource { length: 5000, digest: ObjectId([7; 32]), content_type: "text/plain", modified: 1_700_000_000 };
    let mut connection = Connection::new(patience, Instant::ZERO);
    let piece = bytes.first().map_or(1, |&b| usize::from(b) * 16 + 1);
    let mut pieces = bytes.chunks(piece);
    // Each turn takes a piece or answers a request, and a request takes bytes.
    for _ in 0..=bytes.len() * 2 + 16 {
        let answer = match connection.poll(DATE) {
            Step::Read => {
                match pieces.next() {
                    Some(piece) => connection.receive(piece, Instant::ZERO),
                    None => connection.receive(&[], Instant::ZERO),
                }
                continue;
            }
            Step::Request(request) => match request.path() {
                Ok(path) => {
                    assert!(!path.contains(&0));
                    request.answer(&resource, DATE)
                }
                Err(bad) => request.refuse(bad, DATE),
            },
            Step::Reject(answer) => {
                well_formed(&answer);
                connection.sent(Instant::ZERO);
                continue;
            }
            Step::Close => return,
            Step::Wait => unreachable!("nothing is under way"),
        };
        well_formed(&answer);
        connection.begin(&answer);
        assert!(matches!(connection.poll(DATE), Step::Wait));
        connection.sent(Instant::ZERO);
    }
    unreachable!("the connection does not come to rest");
}

fn well_formed(answer: &protocol::http::Answer) {
    let head = String::from_utf8(answer.head.clone()).expect("heads are ASCII");
    assert!(head.starts_with("HTTP/1.1 ") && head.contains("\r\n\r\n") && head.contains("\r\nDate: "), "{head}");
    if let Some(body) = &answer.body {
        assert!(body.start < body.end && body.end <= 5000);
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.end - body.start)), "{head}");
    }
}

/// A Range field for an object whose length the first 8 bytes give.
pub fn http_range(bytes: &[u8]) {
    let Some((length, value)) = bytes.split_first_chunk::<8>() else { return };
    let length = u64::from_le_bytes(*length);
    if let range::Asked::Part(part) = range::parse(value, length) {
        assert!(part.start < part.end && part.end <= length);
    }
}

/// A datagram for port 67 or 4011.
pub fn dhcp(bytes: &[u8]) {
    let options = dhcp::Options::scan(bytes);
    assert!(options.iter().map(|(_, value)| value.len()).sum::<usize>() <= bytes.len());
    for (_, value) in options.iter() {
        assert!(vendor::items(value).count() <= value.len());
    }
    let _ = Firmware::classify(&options);
    let Ok(request) = dhcp::Request::read(bytes) else { return };
    assert!(bytes.len() >= 240);
    let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    assert!(printable(&request.describe()) && printable(&request.vendor_class_text()));
    assert!(request.room() >= 200 && request.key().0.len() <= bytes.len());
    let _ =
        (request.mac(), request.machine_id(), request.boot_item(), request.server_id(), request.requested_address());
    let _ = request.destination(dhcp::MessageType::Offer, Ipv4Addr::UNSPECIFIED);
}

/// A manifest file, or an edge's answer.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert!(manifest.entries.keys().all(|name| is_plain_path(name)));
        assert_eq!(Manifest::parse(&manifest.to_bytes()), Ok(manifest));
    }
    drop(serde_json::from_slice::<EdgeState>(bytes));
}

/// A datagram from the edge to control.
pub fn event(bytes: &[u8]) {
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        let again = serde_json::to_vec(&event).expect("an event can be written");
        assert_eq!(serde_json::from_slice::<Event>(&again).expect("and read"), event);
    }
}

/// What an agent posts, and what control answers.
pub fn report(bytes: &[u8]) {
    // Not asked to be equal: the last digit of a decimal fraction may change.
    fn round<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(bytes) {
            let again = serde_json::to_vec(&value).expect("it can be written");
            assert!(serde_json::from_slice::<T>(&again).is_ok(), "and read");
        }
    }
    round::<Hello>(bytes);
    round::<Status>(bytes);
    round::<Answer>(bytes);
    round::<Facts>(bytes);
}

/// A machine's SMBIOS table; the first two bytes are its version.
pub fn smbios(bytes: &[u8]) {
    let Some((&[major, minor], table)) = bytes.split_first_chunk::<2>() else { return };
    let table = agent::facts::smbios::Table::parse((major, minor), table);
    let _ = (table.system(), table.processors().len(), table.memory_modules().len(), table.describes_bmc());
}

/// What a BMC may answer, inside and outside a session.
pub fn ipmi(bytes: &[u8]) {
    struct Fixed;
    impl session::Random for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(5);
        }
    }
    let message = wire::read_sessionless(bytes).unwrap_or(bytes);
    let _ = (wire::read_setup(bytes), wire::read_message(message));
    let config = session::Config {
        user: b"admin".to_vec(),
        password: b"secret".to_vec(),
        kg: None,
        privilege: session::Privilege::Operator,
        suite: None,
        allow_suite_3: true,
    };
    let mut now = Instant::ZERO;
    let mut session = session::Session::start(config, Fixed, now);
    let mut rest = bytes;
    while !rest.is_empty() {
        let packet;
        (packet, rest) = cut(rest);
        session.handle(packet, now);
        for outputs in 0.. {
            assert!(outputs < OUTPUTS_MAX, "the session does not come to rest");
            if session.poll_output().is_none() {
                break;
            }
        }
        assert!(!session.is_ready(), "a session without the password");
        now = session.deadline().unwrap_or(now);
        session.tick(now);
    }
}

/// A packet behind its length (two bytes, little-endian), and what follows.
fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return (bytes, &[]) };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    rest.split_at(length)
}
