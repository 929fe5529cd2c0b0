//! The nodes against servers that keep the rules and servers that break them,
//! in threads of this process, on ports the kernel chose.

use loadtest::engine::{self, Arrival, Schedule};
use loadtest::http::Http;
use loadtest::image::Image;
use loadtest::tally::Tally;
use loadtest::tftp::Tftp;
use protocol::tftp::options::{Policy, negotiate};
use protocol::tftp::packet::data_header;
use protocol::tftp::transfer::{Input, Output, Settings};
use protocol::tftp::{Mode, Packet, Transfer};
use protocol::time::Instant;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A thread that serves until it is dropped.
struct Server {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the TCP server out of its accept; means nothing to the UDP one.
        drop(std::net::TcpStream::connect(self.address));
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Serves `file` by TFTP from one port, in lock-step or windows, whoever asks.
fn tftp_server(file: Vec<u8>) -> Server {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let address = socket.local_addr().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        let clock = std::time::Instant::now();
        let mut transfers: HashMap<SocketAddr, Transfer> = HashMap::new();
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            let now = Instant(clock.elapsed().as_nanos() as u64);
            if let Ok((n, peer)) = socket.recv_from(&mut buffer) {
                match Packet::decode(&buffer[..n]) {
                    Ok(Packet::Request(r)) if r.name == b"missing" => {
                        socket.send_to(b"\0\x05\0\x01nobody knows it\0", peer).unwrap();
                    }
                    Ok(Packet::Request(r)) => {
                        let agreed = negotiate(r.options, Mode::Octet, file.len() as u64, &Policy::default());
                        transfers.insert(peer, Transfer::start(agreed, file.len() as u64, Settings::default(), now));
                    }
                    Ok(packet) => {
                        if let Some(t) = transfers.get_mut(&peer) {
                            t.handle(Input::Packet(packet), now);
                        }
                    }
                    Err(bad) => panic!("{bad}"),
                }
            }
            for (peer, transfer) in &mut transfers {
                transfer.handle(Input::Timer, now);
                while let Some(output) = transfer.poll_output() {
                    match output {
                        Output::Oack(oack) => drop(socket.send_to(oack.as_bytes(), peer)),
                        Output::Blocks { first, count } => send_blocks(&socket, *peer, &file, transfer, first, count),
                        Output::Error { .. } | Output::Ended(_) => {}
                    }
                }
            }
        }
    });
    Server { address, over, thread: Some(thread) }
}

fn send_blocks(socket: &UdpSocket, peer: SocketAddr, file: &[u8], transfer: &Transfer, first: u64, count: u16) {
    let size = usize::from(transfer.agreed().blksize());
    for block in first..first + u64::from(count) {
        let start = (block as usize - 1) * size;
        let mut datagram = data_header(block as u16).to_vec();
        datagram.extend_from_slice(&file[start..file.len().min(start + size)]);
        drop(socket.send_to(&datagram, peer));
    }
}

/// Answers every request on every connection with these bytes.
fn http_server(answer: Vec<u8>) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        std::thread::scope(|scope| {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let answer = &answer;
                scope.spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|n| n == 1) {
                        head.push(byte[0]);
                        if head.ends_with(b"\r\n\r\n") {
                            let last = head.windows(17).any(|w| w == b"Connection: close");
                            head.clear();
                            if stream.write_all(answer).is_err() || last {
                                return;
                            }
                        }
                    }
                });
            }
        });
    });
    Server { address, over, thread: Some(thread) }
}

fn schedule(clients: usize, transfers: u64) -> Schedule {
    let (arrival, patience) = (Arrival::Burst, Duration::from_secs(20));
    Schedule { clients, transfers: Some(transfers), arrival, duration: None, patience }
}

fn image() -> Image {
    Image::generate(100_000).unwrap()
}

fn tftp(server: &Server, name: &str, windowsize: Option<u16>, schedule: Schedule) -> Tally {
    let mut nodes = Tftp::new(server.address, name, Some(1000), windowsize, image(), true);
    engine::run(&mut nodes, schedule).unwrap()
}

#[test]
fn every_tftp_node_gets_the_file() {
    let server = tftp_server(image().bytes.to_vec());
    for windowsize in [None, Some(8)] {
        let tally = tftp(&server, "image.bin", windowsize, schedule(20, 60));
        assert_eq!((tally.started, tally.completed, tally.failed_count()), (60, 60, 0), "{:?}", tally.failures);
        assert_eq!(tally.bytes, 6_000_000);
        assert_eq!((tally.total.len(), tally.first_byte.len()), (60, 60));
        assert!(tally.first_byte.max() <= tally.total.max());
    }
}

#[test]
fn an_open_loop_starts_on_time() {
    let server = tftp_server(image().bytes.to_vec());
    let paced = Schedule { arrival: Arrival::Rate(100.0), ..schedule(50, 30) };
    let tally = tftp(&server, "image.bin", Some(8), paced);
    assert_eq!(tally.completed, 30);
    // The last of 30 is due after 290 ms.
    assert!(tally.elapsed >= Duration::from_millis(290), "{:?}", tally.elapsed);
}

#[test]
fn one_wrong_byte_is_a_failure() {
    let mut file = image().bytes.to_vec();
    file[77_777] ^= 1;
    let tally = tftp(&tftp_server(file.clone()), "image.bin", Some(4), schedule(3, 3));
    assert_eq!(tally.failures["WRONG BYTES"], 3);

    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()).into_bytes();
    answer.extend(file);
    let server = http_server(answer);
    let nodes = |verify| {
        let mut nodes = Http::new(server.address, "image.bin", image(), verify, false);
        engine::run(&mut nodes, schedule(3, 3)).unwrap()
    };
    assert_eq!(nodes(true).failures["WRONG BYTES"], 3);
    assert_eq!(nodes(false).completed, 3);
}

#[test]
fn a_short_file_is_a_failure() {
    let tally = tftp(&tftp_server(image().bytes[..50_500].to_vec()), "image.bin", None, schedule(2, 2));
    assert_eq!(tally.failures["short: 50500 of 100000 bytes"], 2);
}

#[test]
fn refusals_and_silence_have_names() {
    let server = tftp_server(Vec::new());
    let tally = tftp(&server, "missing", None, schedule(2, 4));
    assert_eq!(tally.failures["refused: 1 nobody knows it"], 4);

    let deaf = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut nodes = Tftp::new(deaf.local_addr().unwrap(), "x", None, None, image(), true);
    let impatient = Schedule { patience: Duration::from_millis(100), ..schedule(2, 2) };
    let tally = engine::run(&mut nodes, impatient).unwrap();
    assert_eq!(tally.failures["no answer in time"], 2);
}

#[test]
fn http_nodes_share_connections_or_not() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    answer.extend_from_slice(&image().bytes);
    let server = http_server(answer);
    for (verify, keep_alive) in [(true, true), (true, false), (false, true)] {
        let mut nodes = Http::new(server.address, "image.bin", image(), verify, keep_alive);
        let tally = engine::run(&mut nodes, schedule(4, 20)).unwrap();
        assert_eq!((tally.completed, tally.bytes), (20, 2_000_000), "{:?}", tally.failures);
    }
}

#[test]
fn http_answers_that_are_not_the_file_are_failures() {
    let cases: [(&[u8], &str); 5] = [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "the answer says 5 bytes instead of 100000"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "closed in the middle of the file"),
        (b"ssh is not http\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n", "closed before the answer"),
    ];
    for (answer, cause) in cases {
        let server = http_server(answer.to_vec());
        let mut nodes = Http::new(server.address, "image.bin", image(), false, false);
        let tally = engine::run(&mut nodes, schedule(2, 2)).unwrap();
        assert_eq!(tally.failures.get(cause), Some(&2), "{cause}: {:?}", tally.failures);
    }
}
