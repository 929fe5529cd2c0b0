//! A node that fetches a file by TFTP, driven by the same client machine as
//! `stoker tftp get`: [`protocol::tftp::Fetch`].

use crate::engine::{Marks, Progress, Protocol, Watch, Why};
use crate::image::Image;
use protocol::tftp::Fetch;
use protocol::tftp::fetch::{Ask, End, Output, Patience};
use protocol::time::{Duration, Instant};
use rustix::event::epoll::EventFlags;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

/// The largest datagram that can come, bytes.
const DATAGRAM: usize = 65_536;
/// How a node behaves in time: near what EDK2 and iPXE do, with no lingering,
/// since a load's nodes go away when they have their file.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(1),
    max: Duration::from_secs(4),
    give_up: Duration::from_secs(20),
    dally: Duration::ZERO,
};

/// What the nodes fetch, and how.
pub struct Tftp {
    target: SocketAddr,
    name: Vec<u8>,
    blksize: Option<u16>,
    windowsize: Option<u16>,
    image: Image,
    verify: bool,
    buffer: Vec<u8>,
}

impl Tftp {
    /// Nodes that fetch `name` from `target`, ask for these options, and expect `image`.
    pub fn new(
        target: SocketAddr,
        name: &str,
        blksize: Option<u16>,
        windowsize: Option<u16>,
        image: Image,
        verify: bool,
    ) -> Self {
        let name = name.as_bytes().to_vec();
        Self { target, name, blksize, windowsize, image, verify, buffer: vec![0; DATAGRAM] }
    }

    fn take_in(&mut self, node: &mut Node, marks: &mut Marks, now: Instant) -> Option<Progress> {
        let (n, from) = match node.socket.recv_from(&mut self.buffer) {
            Ok(got) => got,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            // A refused port (ICMP) is no verdict: the server may be starting, and the machine asks again.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return None,
            Err(e) => return Some(Progress::Failed(format!("receive: {}", e.kind()))),
        };
        let offset = node.fetch.report().bytes;
        let payload = node.fetch.handle(from, self.buffer.get(..n).unwrap_or_default(), now);
        if let Some(payload) = payload {
            marks.first_byte.get_or_insert(now);
            if self.verify && !self.image.holds(offset, payload) {
                return Some(Progress::Failed("WRONG BYTES".to_owned()));
            }
        }
        if !node.connected
            && let Some(tid) = node.fetch.tid()
        {
            // From now on the kernel drops what comes from elsewhere, and finds the route once.
            node.connected = node.socket.connect(tid).is_ok();
        }
        self.send(node)
    }

    fn send(&self, node: &mut Node) -> Option<Progress> {
        while let Some(output) = node.fetch.poll_output() {
            match output {
                // A full queue loses the packet, as a network would; the machine's timer mends it.
                Output::Send { bytes, .. } if node.connected => drop(node.socket.send(bytes)),
                Output::Send { to, bytes } => drop(node.socket.send_to(bytes, to)),
                Output::Ended(end) => return Some(self.verdict(node, end)),
            }
        }
        None
    }

    fn verdict(&self, node: &Node, end: End) -> Progress {
        let report = node.fetch.report();
        match end {
            End::Complete if report.bytes == self.image.len() => Progress::Done,
            End::Complete => Progress::Failed(format!("short: {} of {} bytes", report.bytes, self.image.len())),
            End::Refused(code) => Progress::Failed(format!("refused: {} {}", code.0, report.text)),
            End::NoAnswer => Progress::Failed("no answer".to_owned()),
            End::TimedOut => Progress::Failed("fell silent".to_owned()),
            other => Progress::Failed(format!("{other:?}")),
        }
    }
}

/// A socket with a transfer on it.
pub struct Node {
    socket: UdpSocket,
    fetch: Fetch,
    connected: bool,
    /// Datagrams to take in before other nodes get their turn: one window.
    turn: u16,
}

impl Protocol for Tftp {
    type Node = Node;

    fn begin(&mut self, watch: &Watch<'_>, now: Instant) -> Result<Node, String> {
        let any = if self.target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).map_err(|e| format!("socket: {}", e.kind()))?;
        socket.set_nonblocking(true).map_err(|e| format!("socket: {}", e.kind()))?;
        watch.add(socket.as_fd(), EventFlags::IN).map_err(|e| format!("epoll: {e}"))?;
        let ask = Ask {
            name: &self.name,
            blksize: self.blksize,
            windowsize: self.windowsize,
            patience: PATIENCE,
            ..Ask::default()
        };
        let fetch = Fetch::start(self.target, &ask, now);
        let mut node = Node { socket, fetch, connected: false, turn: self.windowsize.unwrap_or(1).max(1) };
        match self.send(&mut node) {
            Some(Progress::Failed(cause)) => Err(cause),
            _ => Ok(node),
        }
    }

    fn step(&mut self, node: &mut Node, marks: &mut Marks, why: Why, _: &Watch<'_>, now: Instant) -> Progress {
        let mut progress = None;
        match why {
            Why::Ready => {
                for _ in 0..node.turn {
                    let before = node.fetch.report().received;
                    progress = self.take_in(node, marks, now);
                    if progress.is_some() || node.fetch.report().received == before {
                        break;
                    }
                }
            }
            Why::Deadline => {
                node.fetch.timer(now);
                progress = self.send(node);
            }
        }
        let report = node.fetch.report();
        marks.bytes = report.bytes;
        marks.retransmissions = report.retransmissions.into();
        marks.duplicates = report.duplicates.into();
        progress.unwrap_or(Progress::Going)
    }

    fn deadline(&self, node: &Node) -> Option<Instant> {
        node.fetch.deadline()
    }

    fn end(&mut self, _: Node, _: bool) {}
}
