//! Every test of `udp`, `tcp` and `wait` runs on both drivers.

macro_rules! on_both_drivers {
    ($($name:ident)*) => {
        mod on_uring { $(#[test] fn $name() { if let Some(ring) = crate::ring::tests::uring_or_say_so() { super::$name(ring); } })* }
        mod on_epoll { $(#[test] fn $name() { super::$name(crate::ring::epoll::Epoll::new().unwrap()); })* }
    };
}

mod network;
mod tcp;
mod udp;
mod wait;

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
