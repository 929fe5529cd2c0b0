//! The service on a ring without a kernel: one packet at a time, at a clock
//! that only the test moves.

use super::{Config, Service};
use crate::catalog::{Catalog, Image, Named};
use crate::events::EventSender;
use crate::limits;
use crate::metrics::{Refusal, WorkerMetrics};
use crate::ring::fake::Fake;
use crate::ring::{Datagram, UdpId, UdpPayload, UdpSend};
use crate::worker::{Service as _, UdpRole, UdpService};
use protocol::event::Outcome;
use protocol::tftp::fetch::{Ask, End, Fetch, Output};
use protocol::tftp::packet::data_header;
use protocol::tftp::{Mode, Rollover};
use protocol::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

mod limits_of_sources;
mod story;

const REQUESTS: UdpId = UdpId(0);
const US: &str = "10.0.0.1";

struct Bench {
    service: Service,
    ring: Fake,
    metrics: Arc<WorkerMetrics>,
}

/// What was sent: from which socket, to whom, the datagrams.
type Sent = (UdpId, SocketAddr, Vec<u8>);

impl Bench {
    fn new(config: Config, single_port: bool) -> Self {
        let metrics = WorkerMetrics::alone(0);
        let mut service = Service::new(config, EventSender::off(), Arc::clone(&metrics));
        service.socket(REQUESTS, "0.0.0.0:69".parse().unwrap(), UdpRole::Requests { single_port });
        if !single_port {
            for tid in 1..=4 {
                service.socket(UdpId(tid), format!("0.0.0.0:{}", 40_000 + tid).parse().unwrap(), UdpRole::Tid);
            }
        }
        let mut ring = Fake::new().unwrap();
        ring.time = ring.time + Duration::from_secs(1000);
        service.catalog(catalog(
            1,
            &[("tftp/nbp.efi", &[7; 5000]), ("script.ipxe", b"#!ipxe\n"), ("tftp/text", b"a\nb\rc")],
        ));
        Self { service, ring, metrics }
    }

    fn multi() -> Self {
        Self::new(Config::default(), false)
    }

    /// A datagram from a client to a socket of ours, and what is sent because of it.
    fn give(&mut self, socket: UdpId, peer: &str, bytes: &[u8]) -> Vec<Sent> {
        self.give_to(socket, peer, US, false, bytes)
    }

    fn give_to(&mut self, socket: UdpId, peer: &str, local: &str, group: bool, bytes: &[u8]) -> Vec<Sent> {
        let local = Some(local.parse().unwrap());
        let datagram = Datagram { socket, peer: peer.parse().unwrap(), local, group, bytes };
        self.service.datagram(datagram, self.ring.time);
        self.flush()
    }

    fn rrq(&mut self, peer: &str, name: &str, options: &str) -> Vec<Sent> {
        self.give(REQUESTS, peer, &rrq(name, options))
    }

    fn flush(&mut self) -> Vec<Sent> {
        let now = self.ring.time;
        self.service.flush(&mut self.ring, now);
        self.ring.udp.drain(..).flat_map(packets).collect()
    }

    /// Goes on in time, deadline by deadline, and gathers what is sent.
    fn pass(&mut self, by: Duration) -> Vec<Sent> {
        let until = self.ring.time + by;
        let mut sent = Vec::new();
        for _turn in 0..100_000 {
            match self.service.deadline().filter(|&at| at <= until) {
                Some(at) => self.ring.time = at.max(self.ring.time),
                None => {
                    self.ring.time = until;
                    return sent;
                }
            }
            self.service.tick(self.ring.time);
            sent.extend(self.flush());
        }
        panic!("the service spins");
    }

    fn refused(&self, why: Refusal) -> u64 {
        self.metrics.tftp.refused(why).get()
    }

    fn ended(&self, how: Outcome) -> u64 {
        self.metrics.tftp.outcome(how).get()
    }

    fn active(&self) -> u64 {
        self.metrics.tftp.active.get()
    }
}

fn catalog(generation: u64, files: &[(&str, &[u8])]) -> Arc<Catalog> {
    let named = |bytes: &[u8]| Named::new(Image::from_bytes(bytes).unwrap(), "application/octet-stream");
    let names = files.iter().map(|&(name, bytes)| (name.into(), named(bytes))).collect();
    Arc::new(Catalog { generation, names, ..Catalog::default() })
}

fn rrq(name: &str, options: &str) -> Vec<u8> {
    request(1, name, "octet", options)
}

fn request(opcode: u8, name: &str, mode: &str, options: &str) -> Vec<u8> {
    let mut bytes = vec![0, opcode];
    for text in [name, mode].into_iter().chain(options.split(' ').filter(|_| !options.is_empty())) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

/// The datagrams that a send stands for.
fn packets(send: UdpSend) -> Vec<Sent> {
    assert_eq!(send.from, Some(US.parse().unwrap()), "replies leave from the address that was asked");
    let datagrams = match send.payload {
        UdpPayload::Small(bytes) => vec![bytes],
        UdpPayload::Blocks { image, blksize, first, count, rollover } => {
            let numbers = if rollover == 1 { Rollover::One } else { Rollover::Zero };
            let blksize = usize::from(blksize);
            let block = |number: u64| {
                let from = (number as usize - 1) * blksize;
                let to = (from + blksize).min(image.bytes().len());
                [&data_header(numbers.wire(number))[..], &image.bytes()[from..to]].concat()
            };
            (first..first + u64::from(count)).map(block).collect()
        }
    };
    datagrams.into_iter().map(|bytes| (send.socket, send.to, bytes)).collect()
}

fn is_error(sent: &[Sent], code: u8) -> bool {
    matches!(sent, [(_, _, bytes)] if bytes.starts_with(&[0, 5, 0, code]) && bytes.ends_with(&[0]) && bytes.len() <= 132)
}

/// Fetches a file to its end with our own client.
fn fetch(bench: &mut Bench, peer: &str, ask: &Ask<'_>) -> (Option<End>, Vec<u8>) {
    let server: SocketAddr = format!("{US}:69").parse().unwrap();
    let mut fetch = Fetch::start(server, ask, bench.ring.time);
    let mut file = Vec::new();
    for _round in 0..100_000 {
        let mut out = Vec::new();
        while let Some(output) = fetch.poll_output() {
            match output {
                Output::Send { to, bytes } => {
                    out.push((UdpId(u32::from(to.port().saturating_sub(40_000)) % 29), bytes.to_vec()))
                }
                Output::Ended(end) => return (Some(end), file),
            }
        }
        let mut came = Vec::new();
        for (socket, bytes) in out {
            let socket = if bytes[1] <= 2 { REQUESTS } else { socket };
            came.extend(bench.give(socket, peer, &bytes));
        }
        if came.is_empty() {
            came = bench.pass(Duration::from_millis(10));
        }
        for (socket, _, bytes) in came {
            let from = SocketAddr::new(server.ip(), if socket == REQUESTS { 69 } else { 40_000 + socket.0 as u16 });
            if let Some(payload) = fetch.handle(from, &bytes, bench.ring.time) {
                file.extend_from_slice(payload);
            }
        }
        fetch.timer(bench.ring.time);
    }
    (None, file)
}

#[test]
fn t01_a_file_is_fetched_in_every_way() {
    for single_port in [false, true] {
        for windowsize in [None, Some(1), Some(4), Some(64)] {
            for blksize in [None, Some(8), Some(512), Some(1468)] {
                let mut bench = Bench::new(Config::default(), single_port);
                let ask = Ask { name: b"nbp.efi", blksize, windowsize, ..Ask::default() };
                let (end, file) = fetch(&mut bench, "10.0.0.7:2070", &ask);
                assert_eq!(
                    (end, file),
                    (Some(End::Complete), vec![7; 5000]),
                    "{single_port} {windowsize:?} {blksize:?}"
                );
                assert_eq!(
                    (bench.ended(Outcome::Complete), bench.active()),
                    (0, 1),
                    "the last ACK is still on its way"
                );
            }
        }
    }
}

#[test]
fn t07_netascii_is_translated_and_too_long_a_file_is_not() {
    let mut bench = Bench::multi();
    let ask = Ask { name: b"text", mode: Mode::Netascii, ..Ask::default() };
    assert_eq!(fetch(&mut bench, "10.0.0.7:5000", &ask), (Some(End::Complete), b"a\r\nb\r\0c".to_vec()));
    let long = vec![b'\n'; limits::TFTP_NETASCII_MAX as usize + 1];
    bench.service.catalog(catalog(2, &[("tftp/long", &long)]));
    let sent = bench.give(REQUESTS, "10.0.0.7:5001", &request(1, "long", "netascii", ""));
    assert!(is_error(&sent, 0), "{sent:?}");
}

#[test]
fn t10_a_name_that_means_nothing_is_error_1() {
    let mut bench = Bench::multi();
    let sent = bench.rrq("10.0.0.7:5000", "autoexec.ipxe", "blksize 1432 tsize 0");
    assert!(is_error(&sent, 1), "{sent:?}");
    assert_eq!((sent[0].0, bench.refused(Refusal::NotFound), bench.active()), (REQUESTS, 1, 0));
}

#[test]
fn t11_a_name_whose_object_could_not_be_loaded_is_error_2() {
    let mut bench = Bench::multi();
    let refused = ["tftp/damaged".into(), "env/x/vmlinuz".into()].into();
    bench.service.catalog(Arc::new(Catalog { generation: 2, refused, ..Catalog::default() }));
    for (name, code) in [("damaged", 2), ("tftp/damaged", 2), ("env/x/vmlinuz", 2), ("missing", 1)] {
        assert!(is_error(&bench.rrq("10.0.0.7:5000", name, ""), code), "{name}");
    }
}

#[test]
fn t12_a_write_request_is_error_2() {
    let mut bench = Bench::multi();
    assert!(is_error(&bench.give(REQUESTS, "10.0.0.7:5000", &request(2, "nbp.efi", "octet", "tsize 5")), 2));
    assert_eq!((bench.refused(Refusal::Unsupported), bench.active()), (1, 0));
}

#[test]
fn t13_t14_unknown_operations_and_fragments_are_met_with_silence() {
    let mut bench = Bench::multi();
    for bytes in [&b""[..], b"\0", b"\0\x01", b"\0\x03\0", b"\0\x09xyz\0octet\0", b"\xff\xff", b"\0\x05", b"\0\0"] {
        let sent = bench.give(REQUESTS, "10.0.0.7:5000", bytes);
        assert!(sent.is_empty() || bytes == b"\0\x01" && is_error(&sent, 4), "{bytes:?} {sent:?}");
    }
}

#[test]
fn t17_names_that_are_not_plain_are_error_2() {
    let mut bench = Bench::multi();
    for name in ["../etc/passwd", "a/../../b", "//etc/passwd", "..\\x", "C:\\boot.ini", "c:x", "x\u{1b}[0m", "x/", "."]
    {
        assert!(is_error(&bench.rrq("10.0.0.7:5000", name, ""), 2), "{name}");
    }
    assert_eq!(bench.refused(Refusal::BadPath), 9);
    assert!(is_error(&bench.rrq("10.0.0.7:5000", "%2e%2e/etc/passwd", ""), 1), "a name like another, and unknown");
}

#[test]
fn slash_and_mac_address_are_stripped_and_the_folder_tftp_comes_first() {
    let mut bench = Bench::multi();
    for (port, name) in
        ["nbp.efi", "/nbp.efi", "tftp/nbp.efi", "52-54-00-12-34-56/nbp.efi", "/52-54-00-12-34-56/script.ipxe"]
            .iter()
            .enumerate()
    {
        let sent = bench.rrq(&format!("10.0.0.7:{}", 5000 + port), name, "tsize 0");
        assert!(sent[0].2.starts_with(b"\0\x06tsize\0"), "{name}: {sent:?}");
    }
    let both = catalog(2, &[("tftp/x", b"folder"), ("x", b"root!!!")]);
    bench.service.catalog(both);
    assert_eq!(bench.rrq("10.0.0.8:5000", "x", "")[0].2, b"\0\x03\0\x01folder");
}

#[test]
fn t18_the_answer_leaves_from_the_address_that_was_asked() {
    let mut bench = Bench::multi();
    let datagram = |peer: &str, local: &str, socket, bytes: &'static [u8]| Datagram {
        socket,
        peer: peer.parse().unwrap(),
        local: Some(local.parse().unwrap()),
        group: false,
        bytes,
    };
    for (peer, local) in [("10.0.0.7:5000", "10.0.0.1"), ("10.0.0.8:5000", "10.0.0.200")] {
        bench.service.datagram(datagram(peer, local, REQUESTS, b"\0\x01nbp.efi\0octet\0"), bench.ring.time);
        let now = bench.ring.time;
        bench.service.flush(&mut bench.ring, now);
        let first = bench.ring.udp.pop().unwrap();
        let (socket, local): (UdpId, IpAddr) = (first.socket, local.parse().unwrap());
        assert_eq!(first.from, Some(local));
        bench.service.datagram(datagram(peer, "10.0.0.1", socket, b"\0\x04\0\x01"), bench.ring.time);
        bench.service.flush(&mut bench.ring, now);
        assert_eq!(bench.ring.udp.pop().unwrap().from, Some(local), "and so does all that follows");
    }
}

#[test]
fn t19_transfers_run_from_the_sockets_of_the_pool_in_turn() {
    let mut bench = Bench::multi();
    let sockets: BTreeSet<u32> =
        (0..8).map(|i| bench.rrq(&format!("10.0.0.{}:5000", 10 + i), "nbp.efi", "")[0].0.0).collect();
    assert_eq!(sockets, BTreeSet::from([1, 2, 3, 4]), "and never from the request port");
}

#[test]
fn t20_t21_packets_from_elsewhere_get_error_5_and_harm_nothing() {
    let mut bench = Bench::multi();
    let sent = bench.rrq("10.0.0.7:5000", "nbp.efi", "");
    let tid = sent[0].0;
    for stranger in ["10.0.0.7:5001", "10.0.0.9:5000"] {
        let sent = bench.give(tid, stranger, &ack(1));
        assert!(is_error(&sent, 5) && sent[0].1 == stranger.parse().unwrap(), "{sent:?}");
        assert_eq!(bench.give(tid, stranger, b"\0\x05\0\0bye\0"), [], "never an ERROR for an ERROR");
        assert_eq!(bench.give(tid, stranger, b"\0\x06blksize\x008\0"), [], "nor for an OACK");
    }
    // The right peer on another socket of ours is unknown there, too.
    let other = UdpId(tid.0 % 4 + 1);
    assert!(is_error(&bench.give(other, "10.0.0.7:5000", &ack(1)), 5));
    assert!(bench.give(tid, "10.0.0.7:5000", &ack(1))[0].2.starts_with(b"\0\x03\0\x02"));
}

#[test]
fn t20_errors_to_strangers_are_limited() {
    let mut bench = Bench::multi();
    let answers: usize =
        (0..10_000).map(|i| bench.give(UdpId(1), &format!("10.0.{}.7:5000", i % 256), &ack(9)).len()).sum();
    assert!(answers <= limits::TFTP_STRAY_ERRORS as usize, "{answers}");
    assert_eq!(bench.refused(Refusal::UnknownTid), 10_000);
}

#[test]
fn t22_a_repeated_request_is_one_transfer() {
    for single_port in [false, true] {
        let mut bench = Bench::new(Config::default(), single_port);
        let first = bench.rrq("10.0.0.7:2070", "nbp.efi", "blksize 1468");
        bench.pass(Duration::from_millis(250));
        assert_eq!(bench.rrq("10.0.0.7:2070", "nbp.efi", "blksize 1468"), first, "the same OACK from the same port");
        assert_eq!((bench.active(), bench.metrics.tftp.started.get()), (1, 1));
        bench.give(first[0].0, "10.0.0.7:2070", &ack(0));
        assert_eq!(bench.rrq("10.0.0.7:2070", "nbp.efi", "blksize 1468"), [], "a straggler");
    }
}

#[test]
fn t22_two_requests_in_one_turn_of_the_loop_are_one_transfer() {
    let mut bench = Bench::multi();
    let peer = "10.0.0.7:2070".parse().unwrap();
    let bytes = rrq("nbp.efi", "tsize 0");
    for _ in 0..3 {
        let datagram =
            Datagram { socket: REQUESTS, peer, local: Some(US.parse().unwrap()), group: false, bytes: &bytes };
        bench.service.datagram(datagram, bench.ring.time);
    }
    assert_eq!(bench.flush().len(), 1);
    assert_eq!(bench.active(), 1);
}

#[test]
fn t23_another_request_from_the_same_port_ends_the_old_transfer() {
    let mut bench = Bench::new(Config::default(), true);
    bench.rrq("10.0.0.7:2070", "nbp.efi", "");
    bench.give(REQUESTS, "10.0.0.7:2070", &ack(1));
    let sent = bench.rrq("10.0.0.7:2070", "script.ipxe", "");
    assert_eq!(sent[0].2, b"\0\x03\0\x01#!ipxe\n");
    assert_eq!((bench.active(), bench.ended(Outcome::Aborted)), (1, 1));
    assert_eq!(bench.give(REQUESTS, "10.0.0.7:2070", &ack(1)), []);
    assert_eq!((bench.active(), bench.ended(Outcome::Complete)), (0, 1));
}

#[test]
fn t23_the_same_request_after_a_pause_is_a_machine_that_began_anew() {
    let mut bench = Bench::new(Config::default(), true);
    let first = bench.rrq("10.0.0.7:2070", "nbp.efi", "");
    bench.give(REQUESTS, "10.0.0.7:2070", &ack(1));
    bench.pass(Duration::from_millis(limits::TFTP_RESTART_MS + 10));
    assert_eq!(bench.rrq("10.0.0.7:2070", "nbp.efi", ""), first, "from block 1");
    assert_eq!((bench.active(), bench.ended(Outcome::Aborted)), (1, 1));
}

#[test]
fn ovmf_probes_for_the_size_and_asks_again_from_another_port() {
    let mut bench = Bench::multi();
    let oack = bench.rrq("10.0.0.7:1800", "nbp.efi", "tsize 0 blksize 1468 windowsize 4");
    assert_eq!(oack[0].2, b"\0\x06tsize\x005000\0blksize\x001468\0windowsize\x004\0");
    assert_eq!(bench.give(oack[0].0, "10.0.0.7:1800", b"\0\x05\0\x08User aborted the transfer\0"), []);
    let oack = bench.rrq("10.0.0.7:1801", "nbp.efi", "blksize 1468 windowsize 4");
    assert_eq!(bench.give(oack[0].0, "10.0.0.7:1801", &ack(0)).len(), 4);
    assert_eq!(bench.give(oack[0].0, "10.0.0.7:1801", &ack(4)), []);
    assert_eq!((bench.ended(Outcome::Probe), bench.ended(Outcome::Complete), bench.active()), (1, 1, 0));
}

#[test]
fn t26_lost_data_comes_again_when_the_wheel_says_so() {
    let mut bench = Bench::multi();
    let sent = bench.rrq("10.0.0.7:5000", "nbp.efi", "");
    let again = bench.give(sent[0].0, "10.0.0.7:5000", &ack(1));
    assert_eq!(bench.pass(Duration::from_millis(49)), []);
    assert_eq!(bench.pass(Duration::from_millis(3)), again);
    assert_eq!(bench.metrics.retransmissions.get(), 1);
}

#[test]
fn t33_a_silent_client_is_given_up_and_the_table_is_empty_again() {
    let mut bench = Bench::multi();
    let sent = bench.rrq("10.0.0.7:5000", "nbp.efi", "");
    bench.give(sent[0].0, "10.0.0.7:5000", &ack(1));
    let last = bench.pass(Duration::from_secs(60)).pop().unwrap();
    assert!(is_error(&[last], 0));
    assert_eq!((bench.active(), bench.ended(Outcome::TimedOut)), (0, 1));
    assert_eq!(bench.service.deadline(), None, "an idle edge sleeps");
    assert!(bench.service.idle());
}

#[test]
fn t44_the_block_size_fits_the_path_unless_configured() {
    for (mtu, peer, blksize) in [
        (1500, "10.0.0.7:5000", 1468),
        (1400, "10.0.0.7:5000", 1368),
        (1500, "[fd00::7]:5000", 1448),
        (9000, "10.0.0.7:5000", 8192),
    ] {
        let mut bench = Bench::multi();
        bench.ring.mtu = mtu;
        let sent = bench.rrq(peer, "nbp.efi", "blksize 8192");
        assert_eq!(sent[0].2, format!("\0\x06blksize\0{blksize}\0").as_bytes(), "MTU {mtu}");
    }
    let mut bench = Bench::new(Config { max_blksize: Some(4096), ..Config::default() }, false);
    assert_eq!(bench.rrq("10.0.0.7:5000", "nbp.efi", "blksize 8192")[0].2, b"\0\x06blksize\x004096\0");
}

#[test]
fn t66_a_transfer_goes_on_with_the_bytes_it_began_with() {
    let mut bench = Bench::multi();
    let sent = bench.rrq("10.0.0.7:5000", "nbp.efi", "");
    bench.service.catalog(catalog(2, &[("tftp/nbp.efi", &[9; 5000])]));
    let next = bench.give(sent[0].0, "10.0.0.7:5000", &ack(1));
    assert_eq!(next[0].2[4..], [7; 512]);
    assert_eq!(bench.rrq("10.0.0.8:5000", "nbp.efi", "")[0].2[4..], [9; 512]);
}

#[test]
fn f08_a_block_that_does_not_fit_the_path_is_error_0_and_no_short_success() {
    let mut bench = Bench::new(Config { max_blksize: Some(8192), ..Config::default() }, false);
    let oack = bench.rrq("10.0.0.7:5000", "nbp.efi", "blksize 8192");
    bench.give(oack[0].0, "10.0.0.7:5000", &ack(0));
    let to = "10.0.0.7:5000".parse().unwrap();
    bench.service.failed(oack[0].0, to, &io::Error::from_raw_os_error(libc::ENOBUFS), bench.ring.time);
    assert_eq!(bench.flush(), [], "what may pass is left to the timer");
    bench.service.failed(oack[0].0, to, &io::Error::from_raw_os_error(libc::EMSGSIZE), bench.ring.time);
    assert!(is_error(&bench.flush(), 0));
    assert_eq!((bench.active(), bench.ended(Outcome::Failed)), (0, 1));
}

#[test]
fn a_full_ring_loses_nothing() {
    let mut bench = Bench::multi();
    bench.ring.udp_room = 0;
    for client in 1..=3 {
        assert_eq!(bench.rrq(&format!("10.0.0.{client}:5000"), "nbp.efi", ""), []);
    }
    assert_eq!(bench.rrq("10.0.0.4:5000", "missing", ""), []);
    let again = bench.service.deadline().unwrap();
    assert!(
        again > bench.ring.time && again <= bench.ring.time + Duration::from_millis(2),
        "no spinning, no long wait"
    );
    bench.ring.udp_room = usize::MAX;
    let mut peers: Vec<_> = bench.flush().into_iter().map(|(_, to, _)| to.to_string()).collect();
    peers.sort();
    assert_eq!(peers, ["10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.3:5000", "10.0.0.4:5000"]);
}

#[test]
fn a_new_transfer_goes_before_the_windows_of_old_ones() {
    let mut bench = Bench::multi();
    let old = bench.rrq("10.0.0.7:5000", "nbp.efi", "blksize 8 windowsize 4");
    bench.give(old[0].0, "10.0.0.7:5000", &ack(0));
    // In one turn of the loop: an ACK of the old transfer, then a new request.
    let local = Some(US.parse().unwrap());
    let (bulk, fresh) = ("10.0.0.7:5000".parse().unwrap(), "10.0.0.8:5000".parse().unwrap());
    let request = rrq("script.ipxe", "");
    let ack = ack(4);
    bench
        .service
        .datagram(Datagram { socket: old[0].0, peer: bulk, local, group: false, bytes: &ack }, bench.ring.time);
    bench
        .service
        .datagram(Datagram { socket: REQUESTS, peer: fresh, local, group: false, bytes: &request }, bench.ring.time);
    let order: Vec<_> = bench.flush().into_iter().map(|(_, to, _)| to).collect();
    assert_eq!((order[0], order[1], order.len()), (fresh, bulk, 5));
}

#[test]
fn before_the_first_catalog_and_while_draining_requests_are_met_with_silence() {
    let mut bench = Bench::multi();
    let running = bench.rrq("10.0.0.7:5000", "nbp.efi", "");
    bench.service.drain();
    assert_eq!(bench.rrq("10.0.0.8:5000", "nbp.efi", ""), []);
    assert!(!bench.service.idle());
    assert_eq!(bench.give(running[0].0, "10.0.0.7:5000", &ack(1)).len(), 1, "what runs goes on");
    bench.give(running[0].0, "10.0.0.7:5000", b"\0\x05\0\0done\0");
    assert!(bench.service.idle());

    let metrics = WorkerMetrics::alone(0);
    let mut service = Service::new(Config::default(), EventSender::off(), Arc::clone(&metrics));
    service.socket(REQUESTS, "0.0.0.0:69".parse().unwrap(), UdpRole::Requests { single_port: true });
    let bytes = rrq("nbp.efi", "");
    let peer = "10.0.0.7:5000".parse().unwrap();
    service.datagram(Datagram { socket: REQUESTS, peer, local: None, group: false, bytes: &bytes }, bench.ring.time);
    let now = bench.ring.time;
    service.flush(&mut bench.ring, now);
    assert!(bench.ring.udp.is_empty() && metrics.tftp.refused(Refusal::NotReady).get() == 1);
}
