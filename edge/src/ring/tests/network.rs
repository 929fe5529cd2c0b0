//! What loopback as it is cannot show: other MTUs, devices that take pages without a copy.

use super::tcp::an_answer_arrives_whole;
use super::udp::a_window_arrives_block_by_block;
use super::*;

/// Runs `test` in a new network namespace, made ready by `ip` commands.
fn in_namespace(commands: &[&str], test: impl FnOnce() + Send) {
    if !rustix::process::getuid().is_root() {
        return say_so("edge ring tests in network namespaces: not root");
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: a new network namespace changes nothing of the process's memory or descriptors.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
            ["link set lo up"].iter().chain(commands).for_each(|c| ip(c));
            test();
        });
        thread.join().unwrap();
    });
}

/// A child is in the namespace of the thread that starts it.
fn ip(command: &str) {
    let status = std::process::Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

/// The MTU shrinks under a cached route: the kernel refuses to cut, and no block is lost.
fn a_refused_train_is_sent_in_pieces<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let bytes = pattern(1024 * 8);
    let image = Image::from_bytes(&bytes).unwrap();
    for mtu in [65536, 600, 600] {
        ip(&format!("link set lo mtu {mtu}"));
        let payload = UdpPayload::Blocks { image: Arc::clone(&image), blksize: 1024, first: 1, count: 8, rollover: 0 };
        bench.send(socket, client.local_addr().unwrap(), payload);
        bench.quiet(1);
        for number in 1..=8 {
            let mut got = vec![0; 2000];
            let n = client.recv(&mut got).unwrap();
            assert!(got[..n] == packet(&bytes, 1024, number, 0), "block {number} at MTU {mtu}");
        }
    }
}

fn t44_the_mtu_is_that_of_the_route<R: Ring>(mut ring: R) {
    assert_eq!(ring.path_mtu("10.99.0.2".parse().unwrap()), 1500);
    assert_eq!(ring.path_mtu("10.98.0.2".parse().unwrap()), 1400);
    assert_eq!(ring.path_mtu("fd99::2".parse().unwrap()), 1500);
    assert_eq!(ring.path_mtu("192.0.2.1".parse().unwrap()), 1500, "no route: Ethernet");
}

/// An ifb drops what is sent to it, and frees its pages as they are: to the sender like a NIC.
const NIC: [&str; 5] = [
    "link add nic0 type ifb",
    "address add 10.99.0.1/24 dev nic0",
    "-6 address add fd99::1/64 dev nic0 nodad",
    "link set nic0 up",
    "route add 10.98.0.0/24 dev nic0 mtu 1400",
];

#[test]
fn a_refused_train_is_sent_in_pieces_on_both_drivers() {
    in_namespace(&[], || {
        if let Some(ring) = uring_or_say_so() {
            a_refused_train_is_sent_in_pieces(ring);
        }
        a_refused_train_is_sent_in_pieces(Epoll::new().unwrap());
    });
}

#[test]
fn t44_the_mtu_is_that_of_the_route_on_both_drivers() {
    in_namespace(&NIC, || {
        if let Some(ring) = uring_or_say_so() {
            t44_the_mtu_is_that_of_the_route(ring);
        }
        t44_the_mtu_is_that_of_the_route(Epoll::new().unwrap());
    });
}

/// A device that takes pages gets the image's own; the ring notices, and lets the image go afterwards.
#[test]
fn a_window_to_a_nic_is_not_copied() {
    in_namespace(&NIC, || {
        let Some(ring) = uring_or_say_so() else { return };
        let mut bench = Bench::new(ring);
        let (socket, _) = bench.udp("10.99.0.1:0");
        let image = Image::from_bytes(&pattern(1468 * 64)).unwrap();
        image.make_framed(1468, &crate::catalog::Budget::new(1 << 30)).unwrap();
        for _ in 0..4 {
            let payload =
                UdpPayload::Blocks { image: Arc::clone(&image), blksize: 1468, first: 1, count: 16, rollover: 0 };
            bench.send(socket, ([10, 99, 0, 2], 2070).into(), payload);
        }
        bench.quiet(5);
        let counts = bench.ring.counts();
        assert_eq!((counts.zc_uncopied, counts.zc_copied), (4, 0));
        assert_eq!(Arc::strong_count(&image), 1);
    });
}

// ---- zero-copy ways, on loopback taken for a NIC -------------------------------

#[test]
fn a_body_without_copy_arrives_whole_and_the_copied_flag_is_believed() {
    let Some(mut ring) = uring_or_say_so() else { return };
    ring.take_for_nic();
    an_answer_arrives_whole(ring);
    let Some(mut ring) = uring_or_say_so() else { return };
    ring.take_for_nic();
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let image = Image::from_bytes(&pattern(1 << 20)).unwrap();
    let (mut stream, conn) = bench.connected(at);
    for _ in 0..2 {
        let body = Some(Body { image: Arc::clone(&image), range: 0..100_000 });
        bench.ring.conn_send(ConnSend { conn, head: b"h".to_vec(), body });
        assert!(matches!(bench.next(), Seen::Sent(_, 100_001, None)));
        stream.read_exact(&mut vec![0; 100_001]).unwrap();
        bench.quiet(2);
    }
    // Loopback copies: the first send said so, the second went another way.
    assert_eq!(bench.ring.counts(), Counts { zc_copied: 1, ..Counts::default() });
    assert_eq!(Arc::strong_count(&image), 1);
}

#[test]
fn a_window_without_copy_arrives_whole() {
    let Some(mut ring) = uring_or_say_so() else { return };
    ring.take_for_nic();
    a_window_arrives_block_by_block(ring);
}
