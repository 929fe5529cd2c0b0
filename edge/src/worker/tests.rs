use super::*;
use crate::limits::TID_SOCKETS;
use crate::listen::{Address, Plan, open};
use crate::ring::fake::{Fake, Input};
use crate::ring::{Close, ConnSend, UdpPayload, UdpSend};
use protocol::time::Duration;
use std::net::IpAddr;
use std::sync::mpsc;

/// Echoes, waits as long as it is told, and remembers what it was told.
#[derive(Default)]
struct Service {
    sockets: Vec<(UdpId, UdpRole)>,
    sends: Vec<UdpSend>,
    heard: Vec<(ConnId, Vec<u8>)>,
    log: Vec<String>,
    deadline: Option<Instant>,
    ticks: Vec<Instant>,
    generation: u64,
    draining: bool,
    busy: bool,
}

impl super::Service for Service {
    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
    fn tick(&mut self, now: Instant) {
        self.ticks.push(now);
    }
    fn catalog(&mut self, catalog: Arc<Catalog>) {
        self.generation = catalog.generation;
    }
    fn drain(&mut self) {
        self.draining = true;
    }
    fn idle(&self) -> bool {
        !self.busy
    }
}

impl UdpService for Service {
    fn socket(&mut self, socket: UdpId, _: SocketAddr, role: UdpRole) {
        self.sockets.push((socket, role));
    }
    fn datagram(&mut self, d: Datagram<'_>, _: Instant) {
        let payload = UdpPayload::Small(d.bytes.to_vec());
        self.sends.push(UdpSend { socket: d.socket, to: d.peer, from: d.local, payload });
    }
    fn failed(&mut self, _: UdpId, to: SocketAddr, error: &io::Error, _: Instant) {
        self.log.push(format!("failed {to} {:?}", error.raw_os_error()));
    }
    fn flush(&mut self, ring: &mut impl Ring, _: Instant) {
        for send in self.sends.drain(..) {
            assert!(ring.udp_send(send).is_ok());
        }
    }
}

impl TcpService for Service {
    fn accepted(&mut self, _: ListenerId, conn: ConnId, peer: SocketAddr, _: SocketAddr, _: Instant) {
        self.log.push(format!("accepted {} {peer}", conn.0));
        self.heard.push((conn, Vec::new()));
    }
    fn received(&mut self, conn: ConnId, bytes: &[u8], _: Instant) {
        self.heard.push((conn, bytes.to_vec()));
    }
    fn sent(&mut self, conn: ConnId, bytes: u64, error: Option<&io::Error>, _: Instant) {
        self.log.push(format!("sent {} {bytes} {}", conn.0, error.is_some()));
    }
    fn failed(&mut self, conn: ConnId, _: &io::Error, _: Instant) {
        self.log.push(format!("failed {}", conn.0));
    }
    fn closed(&mut self, conn: ConnId, _: Instant) {
        self.log.push(format!("closed {}", conn.0));
    }
    fn flush(&mut self, ring: &mut impl Ring, _: Instant) {
        for (conn, bytes) in self.heard.drain(..) {
            if bytes.is_empty() {
                ring.conn_recv(conn);
            } else {
                ring.conn_send(ConnSend { conn, head: bytes, body: None });
                ring.conn_close(conn, Close::Graceful);
            }
        }
    }
}

fn sockets(single_port: bool) -> WorkerSockets {
    let at = |s: &str| Address { at: s.parse().unwrap(), optional: false };
    let plan = Plan {
        tftp: vec![at("127.0.0.1:0")],
        http: vec![at("127.0.0.1:0")],
        single_port,
        workers: 1,
        ..Plan::default()
    };
    open(&plan).unwrap().workers.remove(0)
}

fn worker(single_port: bool) -> Worker<Fake, Service, Service> {
    let (a, b) = (Service::default(), Service::default());
    Worker::new(Fake::new().unwrap(), a, b, Mailbox::new(), WorkerMetrics::alone(0), sockets(single_port)).unwrap()
}

const PEER: ([u8; 4], u16) = ([10, 0, 0, 7], 2070);

#[test]
fn each_completion_reaches_its_service_and_answers_go_out_in_the_same_turn() {
    let mut worker = worker(false);
    let (peer, conn) = (SocketAddr::from(PEER), ConnId(3));
    let local = Some(IpAddr::from([10, 0, 0, 1]));
    let listener = ListenerId(0);
    worker.ring.inputs.extend([
        Input::Datagram { socket: UdpId(0), peer, local, group: false, bytes: b"rrq".to_vec() },
        Input::UdpFailed { socket: UdpId(0), to: peer, errno: libc::ENETUNREACH },
        Input::Accepted { listener, conn, peer, local: peer },
        Input::Received { conn: ConnId(4), bytes: b"get".to_vec() },
        Input::Sent { conn, bytes: 9, errno: Some(libc::EPIPE) },
        Input::ConnFailed { conn, errno: libc::ECONNRESET },
        Input::Closed { conn },
    ]);
    assert!(worker.turn().unwrap());
    assert_eq!(worker.tftp.log, [format!("failed {peer} Some({})", libc::ENETUNREACH)]);
    assert_eq!(
        worker.http.log,
        [format!("accepted 3 {peer}"), "sent 3 9 true".into(), "failed 3".into(), "closed 3".into()]
    );
    assert_eq!((worker.ring.udp[0].to, worker.ring.udp[0].from), (peer, local));
    assert_eq!(worker.ring.receives, [conn]);
    assert_eq!((worker.ring.sends[0].conn, &worker.ring.sends[0].head[..]), (ConnId(4), &b"get"[..]));
    assert_eq!(worker.ring.closes, [(ConnId(4), Close::Graceful)]);
}

#[test]
fn the_earlier_deadline_of_both_services_ends_the_wait() {
    let mut worker = worker(false);
    let ms = Instant::from_millis;
    for (tftp, http, expected) in [(Some(ms(7)), Some(ms(5)), 5), (Some(ms(9)), None, 9), (None, Some(ms(11)), 11)] {
        (worker.tftp.deadline, worker.http.deadline) = (tftp, http);
        worker.turn().unwrap();
        assert_eq!((worker.tftp.ticks.last(), worker.http.ticks.last()), (Some(&ms(expected)), Some(&ms(expected))));
    }
    (worker.tftp.deadline, worker.http.deadline) = (None, None);
    assert!(worker.turn().is_err(), "without a deadline the fake ring has nothing to wait for");
}

#[test]
fn a_catalog_published_before_and_after_the_start_is_served() {
    let mailbox = Mailbox::new();
    let of = |generation| Arc::new(Catalog { generation, ..Catalog::default() });
    mailbox.publish(of(1));
    let (a, b) = (Service::default(), Service::default());
    let mut worker =
        Worker::new(Fake::new().unwrap(), a, b, Arc::clone(&mailbox), WorkerMetrics::alone(0), sockets(true)).unwrap();
    assert_eq!((worker.tftp.generation, worker.http.generation), (1, 1));
    mailbox.publish(of(2));
    mailbox.publish(of(3));
    worker.turn().unwrap();
    assert_eq!((worker.tftp.generation, worker.http.generation), (3, 3));
}

#[test]
fn f10_a_drain_closes_the_doors_and_ends_with_the_last_transfer() {
    let mut worker = worker(false);
    worker.tftp.busy = true;
    worker.tftp.deadline = Some(Instant::from_millis(5));
    worker.mailbox.drain();
    assert!(worker.turn().unwrap());
    assert!(worker.tftp.draining && worker.http.draining);
    assert_eq!(worker.ring.udp_closed, [worker.tftp.sockets[0].0], "the TID sockets stay");
    assert_eq!(worker.tftp.sockets.len(), 1 + TID_SOCKETS);
    assert_eq!(worker.ring.listeners_closed, [ListenerId(0)]);
    assert!(worker.turn().unwrap());
    worker.tftp.busy = false;
    worker.tftp.deadline = None;
    assert!(!worker.turn().unwrap());
}

#[test]
fn f10_in_single_port_mode_a_drain_keeps_the_socket_of_its_transfers() {
    let mut worker = worker(true);
    worker.mailbox.drain();
    worker.turn().unwrap();
    assert!(worker.tftp.draining && worker.ring.udp_closed.is_empty());
}

#[test]
fn a_stop_ends_at_once_even_with_transfers() {
    let mut worker = worker(false);
    worker.tftp.busy = true;
    worker.mailbox.drain();
    worker.mailbox.stop();
    worker.mailbox.drain(); // a late word does not undo it
    assert!(!worker.turn().unwrap());
}

/// On a real ring: a word from another thread ends a wait without deadline.
fn words_reach_a_sleeping_worker<R: Ring>(ring: impl FnOnce() -> R + Send + 'static) {
    let mailbox = Mailbox::new();
    let theirs = Arc::clone(&mailbox);
    let (said, heard) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (a, b) = (Service::default(), Service::default());
        let mut worker = Worker::new(ring(), a, b, theirs, WorkerMetrics::alone(0), sockets(false)).unwrap();
        said.send(()).unwrap();
        worker.run().unwrap();
        worker.tftp.generation
    });
    heard.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    mailbox.publish(Arc::new(Catalog { generation: 7, ..Catalog::default() }));
    mailbox.drain();
    assert_eq!(thread.join().unwrap(), 7);
}

#[test]
fn words_reach_a_sleeping_worker_on_uring() {
    words_reach_a_sleeping_worker(|| crate::ring::uring::Uring::new().unwrap());
}

#[test]
fn words_reach_a_sleeping_worker_on_epoll() {
    words_reach_a_sleeping_worker(|| crate::ring::epoll::Epoll::new().unwrap());
}

#[test]
fn time_never_runs_backwards_for_the_services() {
    let mut worker = worker(false);
    for ms in [3, 4, 9] {
        worker.tftp.deadline = Some(Instant::from_millis(ms));
        worker.turn().unwrap();
    }
    assert!(worker.tftp.ticks.is_sorted());
    assert_eq!(*worker.tftp.ticks.last().unwrap() - Instant::ZERO, Duration::from_millis(9));
}
