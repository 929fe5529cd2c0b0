//! A ring without a kernel, for tests and benches: what the services send is
//! recorded, what they are to receive is put in, and time stands still until
//! it is moved.

use super::{Close, Completion, ConnId, ConnSend, Counts, Datagram, Full, ListenerId, Ring, UdpId, UdpSend, Waker};
use protocol::time::Instant;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A completion to be handed over, with its bytes owned.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Input {
    Datagram { socket: UdpId, peer: SocketAddr, local: Option<IpAddr>, group: bool, bytes: Vec<u8> },
    UdpFailed { socket: UdpId, to: SocketAddr, errno: i32 },
    Accepted { listener: ListenerId, conn: ConnId, peer: SocketAddr, local: SocketAddr },
    Received { conn: ConnId, bytes: Vec<u8> },
    Sent { conn: ConnId, bytes: u64, errno: Option<i32> },
    ConnFailed { conn: ConnId, errno: i32 },
    Closed { conn: ConnId },
    Woken,
}

/// See the module's description.
pub struct Fake {
    /// What [`Ring::now`] says.
    pub time: Instant,
    /// Handed over by the next [`Ring::wait`]. With none, time jumps to the deadline.
    pub inputs: VecDeque<Input>,
    /// UDP sends so far, oldest first.
    pub udp: Vec<UdpSend>,
    /// UDP sends taken before the ring is [`Full`].
    pub udp_room: usize,
    /// TCP sends so far.
    pub sends: Vec<ConnSend>,
    /// Connections that asked for bytes.
    pub receives: Vec<ConnId>,
    /// Connections closed, and how.
    pub closes: Vec<(ConnId, Close)>,
    /// UDP sockets closed.
    pub udp_closed: Vec<UdpId>,
    /// Listeners closed.
    pub listeners_closed: Vec<ListenerId>,
    /// What [`Ring::path_mtu`] says.
    pub mtu: u32,
    sockets: Vec<OwnedFd>,
    listeners: Vec<OwnedFd>,
    wake: Arc<OwnedFd>,
}

impl Fake {
    /// At time zero, with room for everything.
    ///
    /// # Errors
    /// No descriptor left for the waker.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            time: Instant::ZERO,
            inputs: VecDeque::new(),
            udp: Vec::new(),
            udp_room: usize::MAX,
            sends: Vec::new(),
            receives: Vec::new(),
            closes: Vec::new(),
            udp_closed: Vec::new(),
            listeners_closed: Vec::new(),
            mtu: 1500,
            sockets: Vec::new(),
            listeners: Vec::new(),
            wake: Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?),
        })
    }
}

impl Ring for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn udp_add(&mut self, socket: OwnedFd) -> io::Result<UdpId> {
        self.sockets.push(socket);
        Ok(UdpId(self.sockets.len() as u32 - 1))
    }

    fn udp_send(&mut self, send: UdpSend) -> Result<(), (Full, UdpSend)> {
        if self.udp.len() >= self.udp_room {
            return Err((Full, send));
        }
        self.udp.push(send);
        Ok(())
    }

    fn udp_close(&mut self, socket: UdpId) {
        self.udp_closed.push(socket);
    }

    fn path_mtu(&mut self, _: IpAddr) -> u32 {
        self.mtu
    }

    fn listener_add(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        self.listeners.push(socket);
        Ok(ListenerId(self.listeners.len() as u32 - 1))
    }

    fn listener_close(&mut self, listener: ListenerId) {
        self.listeners_closed.push(listener);
    }

    fn conn_recv(&mut self, conn: ConnId) {
        self.receives.push(conn);
    }

    fn conn_send(&mut self, send: ConnSend) {
        self.sends.push(send);
    }

    fn conn_close(&mut self, conn: ConnId, how: Close) {
        self.closes.push((conn, how));
    }

    fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    fn wait(&mut self, deadline: Option<Instant>, told: &mut dyn FnMut(Instant, Completion<'_>)) -> io::Result<()> {
        let woken = rustix::io::read(&*self.wake, &mut [0; 8]).is_ok();
        if !woken && self.inputs.is_empty() {
            match deadline {
                Some(at) => self.time = self.time.max(at),
                None => return Err(io::Error::other("a wait for ever, and nothing that could end it")),
            }
        }
        let now = self.time;
        let mut sink = |completion: Completion<'_>| told(now, completion);
        if woken {
            sink(Completion::Woken);
        }
        let error = io::Error::from_raw_os_error;
        while let Some(input) = self.inputs.pop_front() {
            match input {
                Input::Datagram { socket, peer, local, group, bytes } => {
                    sink(Completion::Datagram(Datagram { socket, peer, local, group, bytes: &bytes }));
                }
                Input::UdpFailed { socket, to, errno } => {
                    sink(Completion::UdpFailed { socket, to, error: error(errno) });
                }
                Input::Accepted { listener, conn, peer, local } => {
                    sink(Completion::Accepted { listener, conn, peer, local });
                }
                Input::Received { conn, bytes } => sink(Completion::Received { conn, bytes: &bytes }),
                Input::Sent { conn, bytes, errno } => {
                    sink(Completion::Sent { conn, bytes, error: errno.map(error) });
                }
                Input::ConnFailed { conn, errno } => sink(Completion::ConnFailed { conn, error: error(errno) }),
                Input::Closed { conn } => sink(Completion::Closed { conn }),
                Input::Woken => sink(Completion::Woken),
            }
        }
        Ok(())
    }

    fn counts(&mut self) -> Counts {
        Counts::default()
    }

    fn now(&self) -> Instant {
        self.time
    }
}
