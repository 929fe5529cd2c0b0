use super::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const SERVER: &str = "10.0.0.1:69";
const TID: &str = "10.0.0.1:40000";

struct Bench {
    fetch: Fetch,
    now: Instant,
    file: Vec<u8>,
}

impl Bench {
    fn new(ask: &Ask<'_>) -> (Self, Vec<(SocketAddr, Vec<u8>)>) {
        let fetch = Fetch::start(addr(SERVER), ask, Instant::ZERO);
        let mut bench = Self { fetch, now: Instant::ZERO, file: Vec::new() };
        let sent = bench.sent();
        (bench, sent)
    }

    /// A transfer with an OACK of `blksize 8 windowsize window`.
    fn windowed(window: u16) -> Self {
        let ask = Ask { name: b"f", blksize: Some(8), windowsize: Some(window), tsize: false, ..Ask::default() };
        let (mut bench, _) = Self::new(&ask);
        let oack = [&b"\0\x06blksize\x008\0windowsize\0"[..], window.to_string().as_bytes(), b"\0"].concat();
        assert_eq!(bench.give(&oack), [ack(0)]);
        bench
    }

    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(output) = self.fetch.poll_output() {
            if let Output::Send { to, bytes } = output {
                all.push((to, bytes.to_vec()));
            }
        }
        all
    }

    fn from(&mut self, peer: &str, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        if let Some(bytes) = self.fetch.handle(addr(peer), datagram, self.now) {
            self.file.extend_from_slice(bytes);
        }
        self.sent()
    }

    fn give(&mut self, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        self.from(TID, datagram)
    }

    fn block(&mut self, number: u16, payload: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        self.give(&[&super::super::packet::data_header(number), payload].concat())
    }

    fn expire(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.now = self.fetch.deadline().unwrap();
        self.fetch.timer(self.now);
        self.sent()
    }

    fn end(&self) -> Option<End> {
        self.fetch.report().end
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ack(block: u16) -> (SocketAddr, Vec<u8>) {
    (addr(TID), Short::ack(block).as_bytes().to_vec())
}

#[test]
fn a_request_holds_the_options_that_were_wanted() {
    let (_, sent) = Bench::new(&Ask { name: b"snponly.efi", windowsize: Some(4), timeout: Some(2), ..Ask::default() });
    let rrq = b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0timeout\x002\0windowsize\x004\0".to_vec();
    assert_eq!(sent, [(addr(SERVER), rrq)]);
    let plain = Ask { name: b"f", mode: Mode::Netascii, blksize: None, ..Ask::default() };
    assert_eq!(Bench::new(&plain).1, [(addr(SERVER), b"\0\x01f\0netascii\0".to_vec())]);
}

#[test]
fn a_name_that_does_not_fit_is_refused_before_anything_is_sent() {
    let (bench, sent) = Bench::new(&Ask { name: &[b'a'; 600], ..Ask::default() });
    assert_eq!((sent, bench.end()), (vec![], Some(End::Protocol(Fault::LongRequest))));
}

#[test]
fn a_plain_transfer_goes_lock_step_from_the_port_that_answered() {
    let (mut bench, _) = Bench::new(&Ask { name: b"f", blksize: None, tsize: false, ..Ask::default() });
    assert_eq!(bench.block(1, &[b'x'; 512]), [ack(1)]);
    assert_eq!(bench.block(2, b"end"), [ack(2)]);
    assert_eq!(bench.end(), Some(End::Complete));
    assert_eq!((bench.file.len(), bench.fetch.report().blocks, bench.fetch.tid()), (515, 2, Some(addr(TID))));
    // Dallying: the last block again is acknowledged again, until the time is over.
    assert_eq!(bench.block(2, b"end"), [ack(2)]);
    assert_eq!((bench.expire(), bench.fetch.deadline()), (vec![], None));
}

#[test]
fn only_the_end_of_a_window_is_acknowledged() {
    let mut bench = Bench::windowed(4);
    for block in 1..=3 {
        assert_eq!(bench.block(block, &[0; 8]), []);
    }
    assert_eq!(bench.block(4, &[0; 8]), [ack(4)]);
    assert_eq!(bench.block(5, b"end"), [ack(5)]);
    assert_eq!(bench.end(), Some(End::Complete));
}

#[test]
fn a_gap_is_reported_once_and_the_window_begins_there_anew() {
    let mut bench = Bench::windowed(4);
    bench.block(1, &[0; 8]);
    assert_eq!(bench.block(3, &[0; 8]), [ack(1)]);
    assert_eq!(bench.block(4, &[0; 8]), [], "not for each that follows");
    for block in 2..=4 {
        assert_eq!(bench.block(block, &[0; 8]), []);
    }
    assert_eq!(bench.block(5, &[0; 8]), [ack(5)]);
    assert_eq!(bench.fetch.report().gaps, 1);
}

#[test]
fn a_lost_ack_is_sent_again_for_the_repeated_end_of_the_window() {
    let mut bench = Bench::windowed(2);
    bench.block(1, &[0; 8]);
    assert_eq!(bench.block(2, &[0; 8]), [ack(2)]);
    assert_eq!(bench.block(1, &[0; 8]), []);
    assert_eq!(bench.block(2, &[0; 8]), [ack(2)]);
    assert_eq!((bench.fetch.report().duplicates, bench.file.len()), (2, 16));
}

#[test]
fn silence_brings_the_request_then_the_last_ack_again_then_the_end() {
    let (mut bench, sent) = Bench::new(&Ask { name: b"f", ..Ask::default() });
    assert_eq!(bench.expire(), sent);
    assert_eq!(bench.now, Instant::from_millis(1000));
    bench.expire();
    assert_eq!(bench.now, Instant::from_millis(3000));
    while bench.end().is_none() {
        bench.expire();
    }
    assert_eq!(bench.end(), Some(End::NoAnswer));

    let mut bench = Bench::windowed(4);
    bench.block(1, &[0; 8]);
    assert_eq!(bench.expire(), [ack(1)]);
    while bench.end().is_none() {
        bench.expire();
    }
    assert_eq!(bench.end(), Some(End::TimedOut));
}

#[test]
fn strangers_get_error_5_and_do_no_harm() {
    let mut bench = Bench::windowed(1);
    let stranger = "10.0.0.1:5555";
    let sent = bench.from(stranger, &[&super::super::packet::data_header(1)[..], b"bad"].concat());
    assert_eq!(
        sent,
        [(addr(stranger), Short::error(ErrorCode::UNKNOWN_TID, "unknown transfer id").as_bytes().to_vec())]
    );
    assert_eq!(bench.from(stranger, b"\0\x05\0\x01no\0"), [], "never an ERROR for an ERROR");
    assert_eq!(bench.block(1, b"good"), [ack(1)]);
    assert_eq!((&bench.file[..], bench.fetch.report().strangers), (&b"good"[..], 2));
    // Before the first answer, another host is not believed at all.
    let (mut bench, _) = Bench::new(&Ask { name: b"f", ..Ask::default() });
    assert_eq!(bench.from("10.0.0.9:69", b"\0\x05\0\x01no\0"), []);
    assert_eq!(bench.end(), None);
}

#[test]
fn the_servers_words_are_escaped_and_cut() {
    let (mut bench, _) = Bench::new(&Ask { name: b"f", ..Ask::default() });
    let error = [&b"\0\x05\0\x01\x1b[31m"[..], &[b'a'; 500], b"\0"].concat();
    assert_eq!(bench.give(&error), []);
    assert_eq!(bench.end(), Some(End::Refused(ErrorCode::NOT_FOUND)));
    let text = &bench.fetch.report().text;
    assert!(text.starts_with("\\x1b[31maaa") && text.len() < 200, "{text}");
}

#[test]
fn a_probe_ends_with_error_8_and_the_size() {
    let (mut bench, _) = Bench::new(&Ask { name: b"f", probe: true, ..Ask::default() });
    let sent = bench.give(b"\0\x06tsize\x001020416\0blksize\x001468\0");
    assert!(sent.len() == 1 && sent[0].1.starts_with(b"\0\x05\0\x08"));
    assert_eq!((bench.end(), bench.fetch.deadline()), (Some(End::Probed), None));
    assert_eq!(bench.fetch.report().agreed.unwrap().tsize(), Some(1_020_416));
}

#[test]
fn a_server_that_breaks_the_rules_is_told_and_left() {
    let (mut bench, _) = Bench::new(&Ask { name: b"f", ..Ask::default() });
    let sent = bench.give(b"\0\x06windowsize\x004\0");
    assert!(sent[0].1.starts_with(b"\0\x05\0\x08"));
    assert_eq!(bench.end(), Some(End::Protocol(Fault::Option("windowsize"))));

    let mut bench = Bench::windowed(1);
    assert!(bench.block(1, &[0; 9])[0].1.starts_with(b"\0\x05\0\x04"));
    assert_eq!(bench.end(), Some(End::Protocol(Fault::LongBlock)));

    let (mut bench, _) = Bench::new(&Ask { name: b"f", ..Ask::default() });
    bench.give(b"\0\x06tsize\x00100\0");
    bench.block(1, b"short");
    assert_eq!(bench.end(), Some(End::Protocol(Fault::Length)), "a short file is no success");
}

#[test]
fn t69_a_million_datagrams_at_random_end_a_fetch_or_do_nothing() {
    let mut seed = 0x0069_5eed_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut bench = Bench::windowed(4);
    let mut ends = 0;
    let mut bytes = [0; 16];
    for _ in 0..1_000_000 {
        let random = next();
        bytes[..8].copy_from_slice(&random.to_le_bytes());
        bytes[0] = 0;
        bytes[1] %= 8;
        bytes[2] &= 1;
        bytes[3] %= 16;
        let before = bench.fetch.report().bytes;
        let brought = bench.fetch.handle(addr(TID), &bytes[..random as usize % 17], Instant::ZERO);
        assert_eq!(bench.fetch.report().bytes - before, brought.map_or(0, <[u8]>::len) as u64);
        while bench.fetch.poll_output().is_some() {}
        if bench.fetch.report().end.is_some() {
            ends += 1;
            bench = Bench::windowed(4);
        }
    }
    assert!(ends > 1000, "{ends}");
}
