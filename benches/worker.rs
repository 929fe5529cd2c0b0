//! The worker loop: the TFTP service on a ring without a kernel (what user
//! space costs), and a whole worker over loopback on both drivers (what it
//! costs with the kernel, client included).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edge::events::EventSender;
use edge::listen::{self, Address, Plan};
use edge::metrics::WorkerMetrics;
use edge::ring::epoll::Epoll;
use edge::ring::fake::Fake;
use edge::ring::probe;
use edge::ring::uring::Uring;
use edge::ring::{Datagram, Ring, UdpId, UdpPayload};
use edge::tftp;
use edge::worker::{Mailbox, Nobody, Service, UdpRole, UdpService, Worker};
use protocol::tftp::fetch::{Ask, End, Fetch, Output};
use protocol::time::{Duration, Instant};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use stoker_benches::{IMAGE, NAME, ack, catalog, rrq};

/// A lost datagram may not stop a bench for longer than this.
const RECEIVE: std::time::Duration = std::time::Duration::from_millis(200);

fn tftp_service() -> tftp::Service {
    tftp::Service::new(tftp::Config::default(), EventSender::off(), WorkerMetrics::alone(0))
}

/// A file through the service by hand; returns how many datagrams came in.
fn serve_on_fake(service: &mut tftp::Service, ring: &mut Fake, request: &[u8], client: SocketAddr) -> u64 {
    let local = Some(Ipv4Addr::new(10, 0, 0, 1).into());
    let give = |service: &mut tftp::Service, ring: &mut Fake, socket, bytes: &[u8]| {
        ring.time = ring.time + Duration::from_micros(50);
        service.datagram(Datagram { socket, peer: client, local, group: false, bytes }, ring.time);
        service.tick(ring.time);
        UdpService::flush(service, ring, ring.time);
    };
    give(service, ring, UdpId(0), request);
    let mut datagrams = 1;
    while let Some(send) = ring.udp.pop() {
        ring.udp.clear();
        let last = match send.payload {
            UdpPayload::Blocks { first, count, .. } => first + u64::from(count) - 1,
            UdpPayload::Small(_) => 0,
        };
        give(service, ring, send.socket, &ack(last));
        datagrams += 1;
    }
    datagrams
}

fn user_space(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker/user_space_1_MB");
    for windowsize in [1, 16] {
        let request = rrq(windowsize);
        let mut service = tftp_service();
        let mut ring = Fake::new().expect("a descriptor");
        service.socket(UdpId(0), (Ipv4Addr::UNSPECIFIED, 69).into(), UdpRole::Requests { single_port: false });
        service.socket(UdpId(1), (Ipv4Addr::UNSPECIFIED, 40_000).into(), UdpRole::Tid);
        Service::catalog(&mut service, catalog());
        let mut port = 1024;
        let mut next = || {
            port = if port == u16::MAX { 1024 } else { port + 1 };
            SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), port))
        };
        let datagrams = serve_on_fake(&mut service, &mut ring, &request, next());
        assert!(datagrams > IMAGE as u64 / 1468 / u64::from(windowsize), "only {datagrams} datagrams");
        group.throughput(Throughput::Elements(datagrams));
        group.bench_function(format!("windowsize_{windowsize}"), |b| {
            b.iter(|| serve_on_fake(&mut service, &mut ring, &request, next()));
        });
    }
}

/// Runs `client` beside a worker on this ring; it is told where to ask.
///
/// The ring belongs to the thread that made it, so the worker makes its own.
fn beside_a_worker<R: Ring>(ring: impl FnOnce() -> io::Result<R> + Send, client: impl FnOnce(SocketAddr)) {
    let tftp = vec![Address { at: (Ipv4Addr::LOCALHOST, 0).into(), optional: false }];
    let mut opened = listen::open(&Plan { tftp, workers: 1, ..Plan::default() }).expect("sockets on loopback");
    let (sockets, address) = (opened.workers.remove(0), opened.tftp[0]);
    let mailbox = Mailbox::new();
    mailbox.publish(catalog());
    std::thread::scope(|scope| {
        let mail = Arc::clone(&mailbox);
        scope.spawn(move || {
            let metrics = WorkerMetrics::alone(0);
            let ring = ring().expect("a ring");
            let mut worker = Worker::new(ring, tftp_service(), Nobody, mail, metrics, sockets).expect("a worker");
            worker.run().expect("the worker");
        });
        client(address);
        mailbox.stop();
    });
}

/// One node's file, as fast as it goes.
fn fetch(server: SocketAddr, windowsize: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.set_read_timeout(Some(RECEIVE)).expect("a timeout");
    let clock = std::time::Instant::now();
    let now = || Instant(u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let ask = Ask { name: NAME.as_bytes(), windowsize: (windowsize > 1).then_some(windowsize), ..Ask::default() };
    let mut fetch = Fetch::start(server, &ask, now());
    let mut buffer = [0; 2048];
    loop {
        while let Some(output) = fetch.poll_output() {
            match output {
                Output::Send { to, bytes } => assert!(socket.send_to(bytes, to).is_ok()),
                Output::Ended(end) => return assert_eq!(end, End::Complete),
            }
        }
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => drop(fetch.handle(from, &buffer[..n], now())),
            Err(_) => fetch.timer(now()),
        }
    }
}

fn over_loopback(c: &mut Criterion) {
    for windowsize in [1, 16] {
        let mut group = c.benchmark_group(format!("worker/loopback_1_MB/windowsize_{windowsize}"));
        group.throughput(Throughput::Bytes(IMAGE as u64)).sample_size(20);
        let mut client = |driver: &str, server| {
            group.bench_function(driver, |b| b.iter(|| fetch(server, windowsize)));
        };
        match probe::uring() {
            Ok(_) => beside_a_worker(Uring::new, |server| client("uring", server)),
            Err(refused) => eprintln!("the ring is not measured: {}", refused.0),
        }
        beside_a_worker(Epoll::new, |server| client("epoll", server));
    }
}

criterion_group!(all, user_space, over_loopback);
criterion_main!(all);
