//! The service on a ring without a kernel.

use super::*;
use crate::catalog::Named;
use crate::metrics::WorkerMetrics;
use crate::ring::fake::Fake;
use crate::worker::{Service as _, TcpService as _};
use protocol::event::{Event, Kind};
use std::os::unix::net::UnixDatagram;
use std::sync::LazyLock;

const LISTENER: ListenerId = ListenerId(0);
const BULK: u64 = 3 << 20;

struct Bench {
    ring: Fake,
    service: Service,
    metrics: Arc<WorkerMetrics>,
    control: UnixDatagram,
    _dir: tempfile::TempDir,
    peers: u16,
    served: usize,
    closed: usize,
}

fn image(name: &str) -> Vec<u8> {
    match name {
        "bulk" => (0..BULK as u32 / 4).flat_map(u32::to_le_bytes).collect(),
        name => name.as_bytes().to_vec(),
    }
}

fn catalog(generation: u64, names: &[&str]) -> Arc<Catalog> {
    static BULK_IMAGE: LazyLock<Arc<Image>> = LazyLock::new(|| Image::from_bytes(&image("bulk")).unwrap());
    let image = |name: &str| if name == "bulk" { BULK_IMAGE.clone() } else { Image::from_bytes(&image(name)).unwrap() };
    let named = |name: &&str| ((*name).into(), Named::new(image(name), "text/plain"));
    Arc::new(Catalog { generation, names: names.iter().map(named).collect(), ..Catalog::default() })
}

impl Bench {
    fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let control = UnixDatagram::bind(&path).unwrap();
        control.set_nonblocking(true).unwrap();
        let metrics = WorkerMetrics::alone(0);
        let events = EventSender::new(Some(path), metrics.clone());
        let mut service = Service::new(config, events, metrics.clone());
        service.catalog(catalog(1, &["small", "bulk", "empty"]));
        let ring = Fake::new().unwrap();
        Self { ring, service, metrics, control, _dir: dir, peers: 0, served: 0, closed: 0 }
    }

    fn now(&self) -> Instant {
        self.ring.time
    }

    fn flush(&mut self) {
        let now = self.now();
        self.service.tick(now);
        self.service.flush(&mut self.ring, now);
    }

    fn connect(&mut self) -> ConnId {
        self.peers += 1;
        let n = self.peers;
        self.connect_from(SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 40000)))
    }

    fn connect_from(&mut self, peer: SocketAddr) -> ConnId {
        self.peers += 1;
        let id = ConnId(u64::from(self.peers));
        let now = self.now();
        self.service.accepted(LISTENER, id, peer, SocketAddr::from(([10, 0, 0, 1], 8080)), now);
        self.flush();
        id
    }

    fn say(&mut self, id: ConnId, text: &str) {
        let now = self.now();
        self.service.received(id, text.as_bytes(), now);
        self.flush();
    }

    fn get(&mut self, id: ConnId, path: &str) {
        self.say(id, &format!("GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n"));
    }

    /// The next send given to the ring, as the client would read it.
    fn send(&mut self) -> Option<(ConnId, Vec<u8>)> {
        let send = self.ring.sends.get(self.served)?;
        self.served += 1;
        let mut bytes = send.head.clone();
        if let Some(body) = &send.body {
            bytes.extend_from_slice(&body.image.bytes()[body.range.start as usize..body.range.end as usize]);
        }
        Some((send.conn, bytes))
    }

    /// The kernel takes the next send whole.
    fn take(&mut self) -> Option<(ConnId, Vec<u8>)> {
        let (id, bytes) = self.send()?;
        let now = self.now();
        self.service.sent(id, bytes.len() as u64, None, now);
        self.flush();
        Some((id, bytes))
    }

    /// Everything that this connection gets until nothing more is to be sent.
    fn take_all(&mut self, id: ConnId) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((to, bytes)) = self.take() {
            assert_eq!(to, id);
            all.extend(bytes);
        }
        all
    }

    fn closes(&mut self) -> Vec<(ConnId, Close)> {
        let new = self.ring.closes[self.closed..].to_vec();
        self.closed = self.ring.closes.len();
        let now = self.now();
        for (id, _) in &new {
            self.service.closed(*id, now);
        }
        new
    }

    fn pass(&mut self, seconds: u64) {
        self.ring.time = self.ring.time + Duration::from_secs(seconds);
        self.flush();
    }

    fn events(&self) -> Vec<Event> {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| {
            self.control.recv(&mut buffer).ok().map(|n| serde_json::from_slice(&buffer[..n]).unwrap())
        })
        .collect()
    }
}

fn split(answer: &[u8]) -> (String, Vec<u8>) {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
}

fn bench() -> Bench {
    Bench::new(Config::default())
}

#[test]
fn h01_h10_a_file_is_sent_whole_and_the_connection_goes_on() {
    let mut b = bench();
    let id = b.connect();
    for _ in 0..2 {
        b.get(id, "/bulk?x=1");
        let (head, body) = split(&b.take_all(id));
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains(&format!("Content-Length: {BULK}\r\n")));
        assert!(body == image("bulk"));
    }
    b.say(id, "HEAD /bulk HTTP/1.1\r\nHost: e\r\n\r\n");
    let (head, body) = split(&b.take_all(id));
    assert!(head.contains(&format!("Content-Length: {BULK}\r\n")) && body.is_empty());
    assert!(b.closes().is_empty());
    assert_eq!(
        (b.metrics.http.bytes.get(), b.metrics.http.started.get(), b.metrics.http.active.get()),
        (2 * BULK, 2, 0)
    );
    assert_eq!(b.metrics.http.outcome(Outcome::Complete).get(), 2, "HEAD is no transfer");
}

#[test]
fn h05_one_answer_at_a_time_in_order() {
    let mut b = bench();
    let id = b.connect();
    b.say(id, &"GET /small HTTP/1.1\r\nHost: e\r\n\r\nGET /missing HTTP/1.1\r\nHost: e\r\n\r\n".repeat(4));
    assert_eq!(b.ring.sends.len(), 1, "the second waits for the first");
    let all = String::from_utf8(b.take_all(id)).unwrap();
    let statuses: Vec<_> = all.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404"].repeat(4));
    assert_eq!(b.ring.receives.len(), 2, "read again only after the last answer");
}

#[test]
fn h08_paths_that_lead_out_are_refused_with_a_word() {
    let mut b = bench();
    let id = b.connect();
    for (path, status) in [
        ("/../etc/passwd", "400"),
        ("/%2e%2e%2fsmall", "400"),
        ("/a/%2e%2e/small", "400"),
        ("//small", "400"),
        ("/a\\..\\small", "400"),
        ("/small%00", "400"),
        ("/%zz", "400"),
        ("/", "404"),
        ("/small/", "400"),
        ("/SMALL", "404"),
        ("/%73mall", "200"),
        ("/small", "200"),
    ] {
        b.get(id, path);
        let (head, _) = split(&b.take_all(id));
        assert_eq!(&head[9..12], status, "{path}");
    }
    assert_eq!(b.metrics.http.refused(Refusal::BadPath).get(), 8);
    assert_eq!(b.metrics.http.refused(Refusal::NotFound).get(), 2);
    let refused = b.events().into_iter().filter(|e| matches!(e.kind, Kind::Refused { .. })).count();
    assert_eq!(refused, 10);
}

#[test]
fn a_mac_in_front_is_stripped_and_told() {
    let mut b = bench();
    let id = b.connect();
    b.get(id, "/52-54-00-12-34-56/bulk");
    assert!(split(&b.take_all(id)).1 == image("bulk"));
    let events = b.events();
    let mac = Some("52:54:00:12:34:56".parse().unwrap());
    assert!(
        events.iter().all(|e| e.mac == mac
            && e.name == "bulk"
            && e.peer == "10.0.0.1:40000"
            && e.transfer == events[0].transfer)
    );
    let kinds: Vec<_> = events.iter().map(|e| &e.kind).collect();
    let first = limits::HTTP_QUANTUM_FIRST;
    match kinds[..] {
        [
            Kind::Started { total: BULK, blksize: 0, windowsize: 0 },
            Kind::Progress { bytes: a, total: BULK },
            Kind::Progress { bytes: c, total: BULK },
            Kind::Ended { outcome: Outcome::Complete, bytes: BULK, total: BULK, retries: 0, .. },
        ] => assert_eq!((*a, *c), (first + limits::HTTP_QUANTUM, first + 2 * limits::HTTP_QUANTUM)),
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn first_pieces_go_before_further_pieces_and_a_turn_is_bounded() {
    let mut b = bench();
    let turn = (limits::HTTP_TURN / limits::HTTP_QUANTUM) as usize;
    let bulk: Vec<_> = (0..turn * 3).map(|_| b.connect()).collect();
    for &id in &bulk {
        b.get(id, "/bulk");
    }
    let firsts = bulk.len();
    assert_eq!(b.ring.sends.len(), firsts, "everyone gets a first piece at once");
    // All first pieces go out in one turn of the loop, and a newcomer comes in.
    let late = b.connect();
    let now = b.now();
    for &id in &bulk {
        let (_, bytes) = b.send().unwrap();
        b.service.sent(id, bytes.len() as u64, None, now);
    }
    b.service.received(late, b"GET /small HTTP/1.1\r\nHost: e\r\n\r\n", now);
    b.flush();
    let sent: Vec<_> = b.ring.sends[firsts..].iter().map(|s| s.conn).collect();
    assert_eq!(sent[0], late, "the newcomer does not wait for bulk");
    assert_eq!(sent[1..], bulk[..turn], "and bulk goes round, a bounded piece of it in a turn");
    assert_eq!(b.service.deadline(), Some(Instant::ZERO), "the rest at once in the next turn");
    b.flush();
    b.flush();
    assert_eq!(b.ring.sends[firsts + 1 + turn..].iter().map(|s| s.conn).collect::<Vec<_>>(), bulk[turn..]);
    assert_ne!(b.service.deadline(), Some(Instant::ZERO), "no spinning");
}

#[test]
fn h30_a_slow_head_gets_408_and_a_slow_reader_is_cut_off_and_others_are_not() {
    let mut b = bench();
    let (slow_head, silent, slow_reader, good) = (b.connect(), b.connect(), b.connect(), b.connect());
    b.get(slow_reader, "/bulk");
    b.get(good, "/bulk");
    for byte in "GET /small HTTP/1.1".chars().take(11) {
        b.pass(1);
        b.say(slow_head, &byte.to_string());
    }
    assert_eq!(b.closes(), [(silent, Close::Graceful)], "silence for 10 s");
    let reader = b.send().unwrap();
    assert_eq!(reader.0, slow_reader);
    let (id, bytes) = b.send().unwrap();
    assert_eq!(id, good);
    let answer = b.send().unwrap();
    assert_eq!((answer.0, &answer.1[9..12]), (slow_head, &b"408"[..]));
    let now = b.now();
    b.service.sent(slow_head, answer.1.len() as u64, None, now);
    b.flush();
    assert_eq!(b.closes(), [(slow_head, Close::Graceful)]);
    // 30 s and 16 KiB a second for the first quantum: 46 s from its start.
    b.pass(25);
    assert!(b.closes().is_empty());
    let now = b.now();
    b.service.sent(good, bytes.len() as u64, None, now);
    b.pass(11);
    assert_eq!(b.closes(), [(slow_reader, Close::Reset)], "reset, so that it cannot be taken for whole");
    assert_eq!(b.metrics.http.outcome(Outcome::TimedOut).get(), 1);
    assert_eq!(b.metrics.http.refused(Refusal::TooSlow).get(), 2);
    while b.take().is_some() {}
    assert_eq!(b.metrics.http.outcome(Outcome::Complete).get(), 1);
}

#[test]
fn h31_a_client_that_leaves_mid_body_is_reset_and_forgotten() {
    let mut b = bench();
    let id = b.connect();
    b.get(id, "/bulk");
    let (_, bytes) = b.take().unwrap();
    let now = b.now();
    b.service.sent(id, 1000, Some(&io::Error::from(io::ErrorKind::BrokenPipe)), now);
    b.flush();
    assert_eq!(b.closes(), [(id, Close::Reset)]);
    assert!(b.service.idle() && b.service.clients.is_empty() && b.service.deadline().is_none());
    assert_eq!((b.metrics.http.active.get(), b.metrics.connections.get()), (0, 0));
    let body = split(&bytes).1.len() as u64 + 1000;
    assert!(
        matches!(b.events().last().unwrap().kind, Kind::Ended { outcome: Outcome::Aborted, bytes, .. } if bytes == body)
    );
    // While reading: no transfer, no event.
    let id = b.connect();
    b.service.failed(id, &io::Error::from(io::ErrorKind::ConnectionReset), now);
    b.flush();
    assert_eq!((b.closes(), b.events().len()), (vec![(id, Close::Reset)], 0));
}

#[test]
fn h32_a_half_closed_client_is_answered_then_closed() {
    let mut b = bench();
    let id = b.connect();
    b.get(id, "/bulk");
    let mut body = split(&b.take_all(id)).1;
    assert!(body == image("bulk"));
    b.say(id, "GET /small HTTP/1.1\r\nHost: e\r\n\r\n");
    body = split(&b.take_all(id)).1;
    assert_eq!(body, b"small");
    b.say(id, "");
    assert_eq!(b.closes(), [(id, Close::Graceful)]);
}

#[test]
fn h33_idle_connections_are_bounded_and_the_oldest_goes_first() {
    let mut b = Bench::new(Config { connections: 10, ..Config::default() });
    let busy = b.connect();
    b.get(busy, "/bulk");
    let idle: Vec<_> = (0..9)
        .map(|_| {
            b.pass(1);
            let id = b.connect();
            b.get(id, "/small");
            id
        })
        .collect();
    b.served = 1; // the busy one's send stays under way
    while b.take().is_some() {}
    for &victim in &idle[..3] {
        b.pass(1);
        let id = b.connect();
        assert_eq!(b.closes(), [(victim, Close::Graceful)]);
        // Makes itself not idle.
        b.say(id, "G");
    }
    assert_eq!((b.metrics.evicted.get(), b.service.conns.len()), (3, 10));

    // Nobody idle: the newcomer is told so.
    let mut b = Bench::new(Config { connections: 2, ..Config::default() });
    for _ in 0..2 {
        let id = b.connect();
        b.say(id, "G");
    }
    let late = b.connect();
    let (id, answer) = b.take().unwrap();
    assert_eq!((id, &answer[9..12]), (late, &b"503"[..]));
    assert!(String::from_utf8(answer).unwrap().contains("Connection: close"));
    assert_eq!(b.closes(), [(late, Close::Graceful)]);
    assert_eq!(b.metrics.http.refused(Refusal::Full).get(), 1);
}

#[test]
fn one_address_cannot_take_all_slots() {
    let mut b = Bench::new(Config { per_client: 2, ..Config::default() });
    for port in 1..=2 {
        b.connect_from(SocketAddr::from(([10, 9, 9, 9], port)));
    }
    // The same address, written as IPv6 sockets write it.
    let third = b.connect_from("[::ffff:10.9.9.9]:3".parse().unwrap());
    let (id, answer) = b.take().unwrap();
    assert_eq!((id, &answer[9..12]), (third, &b"503"[..]));
    b.closes();
    let other = b.connect();
    b.get(other, "/small");
    assert_eq!(&b.take().unwrap().1[9..12], b"200");
    assert_eq!(b.metrics.http.refused(Refusal::PerClient).get(), 1);
}

#[test]
fn h38_a_new_generation_does_not_touch_running_answers_and_a_short_one_is_reset() {
    let mut b = bench();
    let id = b.connect();
    b.get(id, "/bulk");
    let (_, first) = b.take().unwrap();
    b.service.catalog(catalog(2, &["other"]));
    let (head, mut body) = split(&first);
    assert!(head.contains(&format!("Content-Length: {BULK}")));
    body.extend(b.take_all(id));
    assert!(body == image("bulk"), "the old bytes to the end");
    b.get(id, "/bulk");
    assert_eq!(&b.take_all(id)[9..12], b"404", "gone for new requests");
    b.get(id, "/other");
    let (_, bytes) = b.send().unwrap();
    let now = b.now();
    b.service.sent(id, bytes.len() as u64 - 1, None, now);
    b.flush();
    assert_eq!(b.closes(), [(id, Close::Reset)], "less than promised, and no error: still no silence about it");
    assert_eq!(b.metrics.http.outcome(Outcome::Failed).get(), 1);
}

#[test]
fn health_follows_the_manifest_and_the_drain() {
    let mut b = bench();
    b.service.catalog(Arc::default());
    let id = b.connect();
    let ask = |b: &mut Bench, path: &str| {
        b.get(id, path);
        String::from_utf8(b.take_all(id)).unwrap()
    };
    let answer = ask(&mut b, "/healthz");
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("Retry-After")
            && answer.ends_with("no manifest loaded yet\n")
    );
    assert!(ask(&mut b, "/small").starts_with("HTTP/1.1 503 "), "not 404 before anything is known");
    b.service.catalog(catalog(1, &["small"]));
    assert!(ask(&mut b, "/healthz").starts_with("HTTP/1.1 200 "));
    let mut broken = Catalog { generation: 2, ..Catalog::default() };
    broken.refused.insert("small".into());
    b.service.catalog(Arc::new(broken));
    assert!(ask(&mut b, "/small").starts_with("HTTP/1.1 503 "), "named, but its object is damaged");
}

#[test]
fn a_drain_ends_what_runs_and_closes_the_rest() {
    let mut b = bench();
    let (idle, busy) = (b.connect(), b.connect());
    b.get(busy, "/bulk");
    b.service.drain();
    b.flush();
    assert_eq!(b.closes(), [(idle, Close::Graceful)]);
    assert!(!b.service.idle());
    assert!(split(&b.take_all(busy)).1 == image("bulk"));
    assert_eq!(b.closes(), [(busy, Close::Graceful)]);
    assert!(b.service.idle());
    let late = b.connect();
    assert_eq!(&b.take().unwrap().1[9..12], b"503");
    assert_eq!(b.closes(), [(late, Close::Graceful)]);
}

#[test]
fn h43_any_order_of_completions_is_survived() {
    use proptest::prelude::*;
    let texts = [
        "GET /small HTTP/1.1\r\nHost: e\r\n\r\n",
        "GET /bulk HTTP/1.0\r\n\r\n",
        "\r\n",
        "GET",
        "",
        "\0",
        "HEAD /bulk HTTP/1.1\r\nHost: e\r\n\r\n",
    ];
    let step = (0..9u8, 0..6u64, 0..texts.len());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) };
    proptest!(config, |(steps in proptest::collection::vec(step, 1..120))| {
        let mut b = Bench::new(Config { connections: 3, ..Config::default() });
        for (what, n, text) in steps {
            let (id, now) = (ConnId(n), b.now());
            match what {
                0 => drop(b.connect()),
                1..4 => b.say(id, texts[text]),
                4 | 5 => drop(b.take()),
                6 => b.service.sent(id, n * 1000, None, now),
                7 => b.service.failed(id, &io::Error::other("x"), now),
                _ => b.pass(n * 5),
            }
            b.flush();
            b.closes();
        }
        // Left alone, everything ends.
        for _ in 0..40 {
            b.pass(100);
            b.closes();
        }
        prop_assert!(b.service.idle() && b.service.clients.is_empty());
        prop_assert_eq!((b.metrics.http.active.get(), b.metrics.connections.get()), (0, 0));
    });
}
