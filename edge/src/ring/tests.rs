//! Every test here runs on both drivers.

use super::epoll::Epoll;
use super::uring::Uring;
use super::*;
use crate::limits::{BODY_QUANTUM_MAX, UDP_BUFFERS, UDP_RCVBUF, UDP_SENDS};
use protocol::time::Duration;
use rustix::net::sockopt;
use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration as StdDuration;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A completion with its bytes owned.
#[derive(Debug)]
enum Seen {
    Datagram { peer: SocketAddr, local: Option<IpAddr>, group: bool, bytes: Vec<u8> },
    UdpFailed { _to: SocketAddr, _error: io::Error },
    Accepted(ConnId, SocketAddr, SocketAddr),
    Received(ConnId, Vec<u8>),
    Sent(ConnId, u64, Option<io::Error>),
    ConnFailed(ConnId),
    Closed(ConnId),
    Woken,
}

struct Bench<R> {
    ring: R,
    seen: VecDeque<Seen>,
}

impl<R: Ring> Bench<R> {
    fn new(ring: R) -> Self {
        Self { ring, seen: VecDeque::new() }
    }

    fn turn(&mut self, deadline: Option<Instant>) {
        let seen = &mut self.seen;
        self.ring
            .wait(deadline, &mut |_, completion| {
                seen.push_back(match completion {
                    Completion::Datagram(d) => {
                        Seen::Datagram { peer: d.peer, local: d.local, group: d.group, bytes: d.bytes.to_vec() }
                    }
                    Completion::UdpFailed { to, error, .. } => Seen::UdpFailed { _to: to, _error: error },
                    Completion::Accepted { conn, peer, local, .. } => Seen::Accepted(conn, peer, local),
                    Completion::Received { conn, bytes } => Seen::Received(conn, bytes.to_vec()),
                    Completion::Sent { conn, bytes, error } => Seen::Sent(conn, bytes, error),
                    Completion::ConnFailed { conn, .. } => Seen::ConnFailed(conn),
                    Completion::Closed { conn } => Seen::Closed(conn),
                    Completion::Woken => Seen::Woken,
                });
            })
            .unwrap();
    }

    /// The next completion.
    fn next(&mut self) -> Seen {
        let until = self.ring.now() + PATIENCE;
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return seen;
            }
            assert!(self.ring.now() < until, "nothing happened");
            self.turn(Some(until));
        }
    }

    /// Lets the ring work for a moment in which nothing may be handed over.
    fn quiet(&mut self, ms: u64) {
        let until = self.ring.now() + Duration::from_millis(ms);
        while self.ring.now() < until {
            self.turn(Some(until));
        }
        assert!(self.seen.is_empty(), "{:?}", self.seen);
    }

    fn udp(&mut self, address: &str) -> (UdpId, SocketAddr) {
        let at = crate::listen::Address { at: address.parse().unwrap(), optional: false };
        let plan = crate::listen::Plan { tftp: vec![at], single_port: true, workers: 1, ..Default::default() };
        let mut opened = crate::listen::open(&plan).unwrap();
        let udp = opened.workers[0].udp.remove(0);
        (self.ring.udp_add(udp.socket).unwrap(), udp.local)
    }

    fn listener(&mut self) -> (ListenerId, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        (self.ring.listener_add(listener.into()).unwrap(), at)
    }

    /// A client and the ring's end of it.
    fn connected(&mut self, at: SocketAddr) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(StdDuration::from_secs(20))).unwrap();
        match self.next() {
            Seen::Accepted(conn, peer, local) => {
                assert_eq!((peer, local), (client.local_addr().unwrap(), at));
                (client, conn)
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, socket: UdpId, to: SocketAddr, payload: UdpPayload) {
        assert!(self.ring.udp_send(UdpSend { socket, to, from: None, payload }).is_ok());
        // The kernel has it once the ring has waited.
        let now = self.ring.now();
        self.turn(Some(now));
    }
}

fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(StdDuration::from_secs(20))).unwrap();
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, UDP_RCVBUF);
    socket
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).take(len).collect()
}

/// What block `number` (from 1) of `image` must look like on the wire.
fn packet(image: &[u8], blksize: usize, number: u64, rollover: u16) -> Vec<u8> {
    let mut wire = 0u32;
    for _ in 0..number {
        wire = if wire == 65535 { u32::from(rollover) } else { wire + 1 };
    }
    let start = (number as usize - 1) * blksize;
    let mut out = vec![0, 3, (wire >> 8) as u8, wire as u8];
    out.extend_from_slice(&image[start..(start + blksize).min(image.len())]);
    out
}

fn echo_leaves_from_the_address_asked<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    for (bind, asked, from) in [("0.0.0.0:0", "127.0.0.5", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")] {
        let (socket, at) = bench.udp(bind);
        let client = client(from);
        let asked: IpAddr = asked.parse().unwrap();
        client.send_to(b"hello", (asked, at.port())).unwrap();
        let Seen::Datagram { peer, local, group, bytes } = bench.next() else { panic!("no datagram") };
        assert_eq!((peer, local, group, &bytes[..]), (client.local_addr().unwrap(), Some(asked), false, &b"hello"[..]));
        let send = UdpSend { socket, to: peer, from: local, payload: UdpPayload::Small(b"world".to_vec()) };
        assert!(bench.ring.udp_send(send).is_ok());
        bench.quiet(1);
        let mut answer = [0; 16];
        let (n, from) = client.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..n], from), (&b"world"[..], SocketAddr::new(asked, at.port())));
    }
}

fn a_broadcast_is_told_apart<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.udp("0.0.0.0:0");
    let client = client("127.0.0.1:0");
    client.set_broadcast(true).unwrap();
    client.send_to(b"x", ("127.255.255.255", at.port())).unwrap();
    let Seen::Datagram { group, bytes, .. } = bench.next() else { panic!("no datagram") };
    assert!(group && bytes == b"x");
}

fn a_long_datagram_is_cut<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.udp("127.0.0.1:0");
    client("127.0.0.1:0").send_to(&[7; 9000], at).unwrap();
    let Seen::Datagram { bytes, .. } = bench.next() else { panic!("no datagram") };
    assert_eq!(bytes, [7; crate::limits::UDP_PAYLOAD_MAX]);
}

/// Windows of every shape arrive as single datagrams with the right bytes.
fn a_window_arrives_block_by_block<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let to = client.local_addr().unwrap();
    let bytes = pattern(100 * 1468 + 77);
    let budget = crate::catalog::Budget::new(1 << 30);
    for framed in [false, true] {
        let image = Image::from_bytes(&bytes).unwrap();
        // (blksize, first, count asked, count that there is, rollover)
        for (blksize, first, count, there, rollover) in [
            (1468u16, 1u64, 16u16, 16u64, 0u16), // one train
            (1468, 3, 100, 99, 0),               // two trains, the last block short
            (1468, 101, 1, 1, 0),                // the short one alone
            (512, 200, 64, 64, 0),
            (512, 287, 5, 1, 0),  // nothing behind the end
            (8, 18357, 3, 3, 0),  // tiny blocks
            (65464, 1, 4, 3, 0),  // no two fit one send
            (1468, 200, 4, 0, 0), // wholly behind the end
        ] {
            if framed {
                image.make_framed(blksize, &budget).unwrap();
            }
            let payload = UdpPayload::Blocks { image: Arc::clone(&image), blksize, first, count, rollover };
            bench.send(socket, to, payload);
            for number in first..first + there {
                let mut got = vec![0; 70_000];
                let n = client.recv(&mut got).unwrap();
                assert_eq!(n, packet(&bytes, blksize.into(), number, rollover).len(), "length of block {number}");
                assert!(got[..n] == packet(&bytes, blksize.into(), number, rollover), "block {number} of {blksize}");
            }
            bench.quiet(1);
            client.set_nonblocking(true).unwrap();
            assert!(client.recv(&mut [0; 1]).is_err(), "more than {there} blocks");
            client.set_nonblocking(false).unwrap();
        }
    }
}

fn t60_numbers_wrap_to_either<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let bytes = pattern(8 * 65600);
    let budget = crate::catalog::Budget::new(1 << 30);
    let image = Image::from_bytes(&bytes).unwrap();
    for framed in [false, true] {
        if framed {
            image.make_framed(8, &budget).unwrap();
        }
        for rollover in [0, 1] {
            let payload =
                UdpPayload::Blocks { image: Arc::clone(&image), blksize: 8, first: 65530, count: 12, rollover };
            bench.send(socket, client.local_addr().unwrap(), payload);
            for number in 65530..65542 {
                let mut got = [0; 64];
                let n = client.recv(&mut got).unwrap();
                assert_eq!(got[..n], packet(&bytes, 8, number, rollover), "block {number}, rollover {rollover}");
            }
        }
    }
}

/// A route on which the kernel refuses to cut: the blocks go one by one, and are not lost.
fn a_window_over_the_mtu_goes_block_by_block<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let bytes = pattern(40_000 * 3);
    let image = Image::from_bytes(&bytes).unwrap();
    let payload = UdpPayload::Blocks { image, blksize: 40_000, first: 1, count: 4, rollover: 0 };
    bench.send(socket, client.local_addr().unwrap(), payload);
    for number in 1..=4 {
        let mut got = vec![0; 70_000];
        let n = client.recv(&mut got).unwrap();
        assert!(got[..n] == packet(&bytes, 40_000, number, 0), "block {number}");
    }
}

fn full_hands_the_send_back<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let to = client.local_addr().unwrap();
    let mut taken = 0;
    let refused = loop {
        let payload = UdpPayload::Small(vec![taken as u8]);
        match bench.ring.udp_send(UdpSend { socket, to, from: None, payload }) {
            Ok(()) => taken += 1,
            Err((Full, send)) => break send,
        }
        assert!(taken <= UDP_SENDS);
    };
    assert_eq!(taken, UDP_SENDS);
    let until = bench.ring.now() + PATIENCE;
    let mut again = Some(refused);
    while let Some(send) = again.take() {
        assert!(bench.ring.now() < until);
        bench.turn(Some(bench.ring.now()));
        again = bench.ring.udp_send(send).err().map(|(Full, send)| send);
    }
}

/// More datagrams than there are buffers: reception goes on (io_uring: ENOBUFS ends a multishot).
fn a_burst_beyond_the_buffers_is_received<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let total = usize::from(UDP_BUFFERS) + 700;
    for i in 0..total as u32 {
        client.send_to(&i.to_be_bytes(), at).unwrap();
    }
    for i in 0..total as u32 {
        let Seen::Datagram { bytes, .. } = bench.next() else { panic!("no datagram") };
        assert_eq!(bytes, i.to_be_bytes());
    }
    client.send_to(b"after", at).unwrap();
    assert!(matches!(bench.next(), Seen::Datagram { .. }));
}

fn a_closed_udp_socket_is_silent<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, at) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let payload = UdpPayload::Small(b"last words".to_vec());
    let to = client.local_addr().unwrap();
    assert!(bench.ring.udp_send(UdpSend { socket, to, from: None, payload }).is_ok());
    bench.ring.udp_close(socket);
    bench.quiet(1);
    let mut got = [0; 16];
    assert_eq!(client.recv(&mut got).unwrap(), 10);
    client.connect(at).unwrap();
    client.send(b"x").unwrap();
    assert_eq!(client.recv(&mut got).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let payload = UdpPayload::Small(vec![1]);
    assert!(bench.ring.udp_send(UdpSend { socket, to, from: None, payload }).is_ok());
    bench.quiet(1);
}

/// Request in, head and body out, in quanta, to a client that reads slowly.
fn an_answer_arrives_whole<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let bytes = pattern(5 << 20);
    let image = Image::from_bytes(&bytes).unwrap();
    let (mut stream, conn) = bench.connected(at);
    stream.write_all(b"GET /").unwrap();
    bench.ring.conn_recv(conn);
    assert!(matches!(bench.next(), Seen::Received(c, b) if c == conn && b == b"GET /"));
    let reader = thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), [0; 20_000]);
        loop {
            let n = stream.read(&mut some).unwrap();
            all.extend_from_slice(&some[..n]);
            if n == 0 {
                return all;
            }
            thread::yield_now();
        }
    });
    let (mut at, mut head) = (0, b"HEAD:".to_vec());
    while at < bytes.len() as u64 {
        let end = (at + BODY_QUANTUM_MAX - 11).min(bytes.len() as u64);
        let asked = head.len() as u64 + end - at;
        let body = Some(Body { image: Arc::clone(&image), range: at..end });
        bench.ring.conn_send(ConnSend { conn, head: std::mem::take(&mut head), body });
        let Seen::Sent(_, sent, error) = bench.next() else { panic!("not sent") };
        assert_eq!(sent, asked, "{error:?}");
        at = end;
    }
    bench.ring.conn_close(conn, Close::Graceful);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    let all = reader.join().unwrap();
    assert!(all[..5] == *b"HEAD:" && all[5..] == bytes[..]);
}

fn short_answers_and_heads_alone<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let image = Image::from_bytes(b"0123456789").unwrap();
    let (mut stream, conn) = bench.connected(at);
    for (head, range, expected) in
        [(&b"H"[..], Some(2..5), &b"H234"[..]), (b"only", None, b"only"), (b"", Some(0..10), b"0123456789")]
    {
        let body = range.map(|range| Body { image: Arc::clone(&image), range });
        bench.ring.conn_send(ConnSend { conn, head: head.to_vec(), body });
        let Seen::Sent(_, sent, None) = bench.next() else { panic!("not sent") };
        assert_eq!(sent, expected.len() as u64);
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
    }
    // A range outside the image is refused, and nothing of it sent.
    let body = Some(Body { image, range: 5..11 });
    bench.ring.conn_send(ConnSend { conn, head: b"never".to_vec(), body });
    assert!(matches!(bench.next(), Seen::Sent(_, 0, Some(_))));
}

fn a_reset_is_no_end<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_recv(conn); // a pending receive is given up
    bench.quiet(1);
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_recv(conn);
    bench.quiet(1);
    bench.ring.conn_close(conn, Close::Graceful);
    bench.quiet(1); // lingers for the client's FIN
    stream.write_all(b"more than was asked for").unwrap();
    bench.quiet(1);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    drop(stream);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
}

fn a_reset_cuts_off_a_blocked_send<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let image = Image::from_bytes(&pattern(16 << 20)).unwrap();
    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_send(ConnSend { conn, head: vec![1], body: Some(Body { image, range: 0..16 << 20 }) });
    bench.quiet(5);
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    let mut all = Vec::new();
    assert_eq!(stream.read_to_end(&mut all).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(all.len() < 16 << 20);
}

fn a_client_that_lingers_is_dropped_in_time<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let (_stream, conn) = bench.connected(at);
    let start = bench.ring.now();
    bench.ring.conn_close(conn, Close::Graceful);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    assert!(bench.ring.now() - start >= Duration::from_millis(crate::limits::LINGER_MS - 50));
}

fn a_client_that_leaves_is_noticed<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    // Half-closed: the end of its bytes, and the answer still reaches it.
    let (mut stream, conn) = bench.connected(at);
    stream.shutdown(Shutdown::Write).unwrap();
    bench.ring.conn_recv(conn);
    assert!(matches!(bench.next(), Seen::Received(c, b) if c == conn && b.is_empty()));
    bench.ring.conn_send(ConnSend { conn, head: b"late".to_vec(), body: None });
    assert!(matches!(bench.next(), Seen::Sent(_, 4, None)));
    bench.ring.conn_close(conn, Close::Graceful);
    assert!(matches!(bench.next(), Seen::Closed(_)));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"late");
    // Reset while being read from.
    let (stream, conn) = bench.connected(at);
    bench.ring.conn_recv(conn);
    bench.quiet(1);
    super::sys::reset_on_close(std::os::fd::AsRawFd::as_raw_fd(&stream));
    drop(stream);
    assert!(matches!(bench.next(), Seen::ConnFailed(c) if c == conn));
    // Reset while being sent to.
    bench.ring.conn_send(ConnSend { conn, head: b"x".to_vec(), body: None });
    assert!(matches!(bench.next(), Seen::Sent(c, 0, Some(_)) if c == conn));
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
}

fn an_id_that_is_gone_is_harmless<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let (_a, conn) = bench.connected(at);
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(_)));
    let (_b, next) = bench.connected(at);
    assert_ne!(conn, next);
    bench.ring.conn_recv(conn);
    bench.ring.conn_send(ConnSend { conn, head: b"x".to_vec(), body: None });
    bench.ring.conn_close(conn, Close::Reset);
    bench.quiet(1);
}

fn a_thousand_connections_are_served<R: Ring>(ring: R) {
    const N: usize = 1000;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let bytes = pattern(100_000);
    let image = Image::from_bytes(&bytes).unwrap();
    let clients = thread::spawn(move || {
        let mut streams: Vec<_> = (0..N).map(|_| TcpStream::connect(at).unwrap()).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&(i as u32).to_be_bytes()).unwrap();
        }
        for (i, stream) in streams.iter_mut().enumerate() {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert!(all[..4] == (i as u32).to_be_bytes() && all[4..] == bytes[..], "client {i}");
        }
    });
    let (mut closed, mut state) = (0, HashMap::new());
    while closed < N {
        match bench.next() {
            Seen::Accepted(conn, ..) => bench.ring.conn_recv(conn),
            Seen::Received(conn, bytes) => {
                assert!(state.insert(conn, ()).is_none());
                let body = Some(Body { image: Arc::clone(&image), range: 0..100_000 });
                bench.ring.conn_send(ConnSend { conn, head: bytes, body });
            }
            Seen::Sent(conn, sent, error) => {
                assert_eq!(sent, 100_004, "{error:?}");
                bench.ring.conn_close(conn, Close::Graceful);
            }
            Seen::Closed(_) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    clients.join().unwrap();
}

fn f10_a_closing_listener_serves_who_has_connected<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (listener, at) = bench.listener();
    let _waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
    bench.ring.listener_close(listener);
    for _ in 0..5 {
        assert!(matches!(bench.next(), Seen::Accepted(..)));
    }
    bench.quiet(1);
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

fn a_waker_ends_the_wait<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let waker = bench.ring.waker();
    for _ in 0..3 {
        let waker = waker.clone();
        let other = thread::spawn(move || waker.wake());
        bench.turn(None);
        while bench.seen.is_empty() {
            bench.turn(None);
        }
        assert!(matches!(bench.seen.pop_front(), Some(Seen::Woken)));
        other.join().unwrap();
        bench.quiet(1);
    }
}

fn a_deadline_ends_the_wait<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let start = bench.ring.now();
    let until = start + Duration::from_millis(30);
    let mut turns = 0;
    while bench.ring.now() < until {
        bench.turn(Some(until));
        turns += 1;
    }
    assert!(turns <= 3, "{turns} turns: the wait spins");
    assert!(bench.ring.now() - start < Duration::from_secs(5));
}

/// An idle ring sleeps: sends that have gone out leave nothing that keeps waking it.
fn an_idle_ring_costs_nothing<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let _listener = bench.listener();
    let client = client("127.0.0.1:0");
    bench.send(socket, client.local_addr().unwrap(), UdpPayload::Small(vec![1]));
    bench.quiet(10);
    let until = bench.ring.now() + Duration::from_millis(200);
    let mut turns = 0;
    while bench.ring.now() < until {
        bench.turn(Some(until));
        turns += 1;
    }
    assert!(turns <= 3, "{turns} turns in 200 ms of silence");
}

/// Where io_uring is refused, half of these tests have nothing to run on: that is said, not hidden.
fn uring_or_say_so() -> Option<Uring> {
    match Uring::new() {
        Ok(ring) => Some(ring),
        Err(e) => {
            let why = probe::uring().err().map_or(e.to_string(), |refused| refused.to_string());
            say_so(&format!("edge ring tests on epoll only: {why}"));
            None
        }
    }
}

fn say_so(what: &str) {
    eprintln!("{what}");
    if let Some(path) = std::env::var_os("STOKER_SLOWER_WAY") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{what}").unwrap();
    }
}

macro_rules! on_both_drivers {
    ($($name:ident)*) => {
        mod on_uring { $(#[test] fn $name() { if let Some(ring) = super::uring_or_say_so() { super::$name(ring); } })* }
        mod on_epoll { $(#[test] fn $name() { super::$name(super::Epoll::new().unwrap()); })* }
    };
}

on_both_drivers! {
    echo_leaves_from_the_address_asked
    a_broadcast_is_told_apart
    a_long_datagram_is_cut
    a_window_arrives_block_by_block
    t60_numbers_wrap_to_either
    a_window_over_the_mtu_goes_block_by_block
    full_hands_the_send_back
    a_burst_beyond_the_buffers_is_received
    a_closed_udp_socket_is_silent
    an_answer_arrives_whole
    short_answers_and_heads_alone
    a_reset_is_no_end
    a_reset_cuts_off_a_blocked_send
    a_client_that_lingers_is_dropped_in_time
    a_client_that_leaves_is_noticed
    an_id_that_is_gone_is_harmless
    a_thousand_connections_are_served
    f10_a_closing_listener_serves_who_has_connected
    a_waker_ends_the_wait
    a_deadline_ends_the_wait
    an_idle_ring_costs_nothing
}

// ---- in a network namespace of the test's own thread ---------------------------

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
