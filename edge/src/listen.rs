//! Opens and tunes the sockets, before privileges are dropped. Moves no packet.
//!
//! Each worker has its own set, told apart by the kernel (`SO_REUSEPORT`): a
//! client's packets to port 69 or 8080 always reach the same worker. The TID
//! sockets of multi-port mode are a worker's own, so what a client sends to
//! the TID that answered it reaches the worker that runs its transfer.

use crate::limits::{BACKLOG, TID_SOCKETS, UDP_RCVBUF, UDP_SNDBUF};
use crate::ring::sys;
use crate::worker::UdpRole;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// What to listen on.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// TFTP request addresses.
    pub tftp: Vec<Address>,
    /// HTTP addresses.
    pub http: Vec<Address>,
    /// Only by this interface.
    pub interface: Option<String>,
    /// Answer from the request port instead of a TID socket.
    pub single_port: bool,
    /// How many sets of sockets.
    pub workers: usize,
}

/// An address to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Where.
    pub at: SocketAddr,
    /// A host without this address family may do without (defaults only).
    pub optional: bool,
}

/// The sockets of one worker.
#[derive(Debug, Default)]
pub struct WorkerSockets {
    /// For TFTP.
    pub udp: Vec<Udp>,
    /// Listening, for HTTP.
    pub tcp: Vec<OwnedFd>,
}

/// A bound UDP socket.
#[derive(Debug)]
pub struct Udp {
    /// The socket.
    pub socket: OwnedFd,
    /// Its address.
    pub local: SocketAddr,
    /// What it is for.
    pub role: UdpRole,
}

/// All that was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// One set a worker.
    pub workers: Vec<WorkerSockets>,
    /// Where TFTP requests are taken (with the port that the kernel chose, where it was 0).
    pub tftp: Vec<SocketAddr>,
    /// Where HTTP is served.
    pub http: Vec<SocketAddr>,
    /// What the operator should know, one sentence each.
    pub notes: Vec<String>,
}

/// Opens everything in the plan, or nothing.
///
/// # Errors
/// The first socket that could not be had, in words with the remedy.
pub fn open(plan: &Plan) -> Result<Opened, ListenError> {
    let mut opened = Opened::default();
    opened.workers.resize_with(plan.workers.max(1), WorkerSockets::default);
    for &Address { mut at, optional } in &plan.tftp {
        for worker in 0..opened.workers.len() {
            match open_udp(plan, at, true) {
                Ok(mut udp) => {
                    udp.role = UdpRole::Requests { single_port: plan.single_port };
                    note_buffer(&udp, &mut opened.notes);
                    at.set_port(udp.local.port()); // the same for all workers, where it was 0
                    opened.workers[worker].udp.push(udp);
                }
                Err(e) if optional && e.kind == Kind::NoFamily => {
                    opened.notes.push(format!("no IPv6 on this host: TFTP is not served on {at}"));
                    break;
                }
                Err(e) => return Err(e),
            }
            if worker == 0 {
                opened.tftp.push(at);
            }
            if !plan.single_port {
                for _ in 0..TID_SOCKETS {
                    let udp = open_udp(plan, SocketAddr::new(at.ip(), 0), false)?;
                    opened.workers[worker].udp.push(udp);
                }
            }
        }
    }
    for &Address { mut at, optional } in &plan.http {
        for worker in 0..opened.workers.len() {
            match open_tcp(plan, at) {
                Ok((socket, local)) => {
                    at.set_port(local.port());
                    opened.workers[worker].tcp.push(socket);
                }
                Err(e) if optional && e.kind == Kind::NoFamily => {
                    opened.notes.push(format!("no IPv6 on this host: HTTP is not served on {at}"));
                    break;
                }
                Err(e) => return Err(e),
            }
            if worker == 0 {
                opened.http.push(at);
            }
        }
    }
    Ok(opened)
}

fn open_udp(plan: &Plan, at: SocketAddr, shared: bool) -> Result<Udp, ListenError> {
    let fail = |error| ListenError::new("UDP", at, plan, error);
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP)).map_err(fail)?;
    prepare(&socket, at, plan, shared).map_err(fail)?;
    let (level, info, discover, off) = if at.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_PKTINFO, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    sys::set_option(socket.as_fd(), level, info, 1).map_err(fail)?;
    // No DF: a router with a smaller MTU shall fragment. Boot firmware takes fragments, but it does not shrink its
    // blksize after an ICMP message it never sees (tftpd-hpa and dnsmasq do the same).
    sys::set_option(socket.as_fd(), level, discover, off).map_err(fail)?;
    grow_buffers(&socket);
    socket.bind(&SockAddr::from(at)).map_err(fail)?;
    let local = local_of(&socket).map_err(fail)?;
    Ok(Udp { socket: socket.into(), local, role: UdpRole::Tid })
}

fn open_tcp(plan: &Plan, at: SocketAddr) -> Result<(OwnedFd, SocketAddr), ListenError> {
    let fail = |error| ListenError::new("TCP", at, plan, error);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP)).map_err(fail)?;
    prepare(&socket, at, plan, true).map_err(fail)?;
    socket.set_reuse_address(true).map_err(fail)?;
    // Inherited by what is accepted. Head and body are corked by MSG_MORE, not by Nagle.
    socket.set_tcp_nodelay(true).map_err(fail)?;
    socket.bind(&SockAddr::from(at)).map_err(fail)?;
    socket.listen(BACKLOG).map_err(fail)?;
    let local = local_of(&socket).map_err(fail)?;
    Ok((socket.into(), local))
}

fn prepare(socket: &Socket, at: SocketAddr, plan: &Plan, shared: bool) -> io::Result<()> {
    if at.is_ipv6() {
        socket.set_only_v6(true)?; // IPv4 has sockets of its own, so that its addresses look like IPv4
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    if let Some(interface) = &plan.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(())
}

fn local_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Past `net.core.rmem_max` where we may (CAP_NET_ADMIN), else as far as it allows.
fn grow_buffers(socket: &Socket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, UDP_RCVBUF).is_err() {
        let _ = socket.set_recv_buffer_size(UDP_RCVBUF);
    }
    let _ = socket.set_send_buffer_size(UDP_SNDBUF);
}

/// Says so once where the receive buffer stayed small.
fn note_buffer(udp: &Udp, notes: &mut Vec<String>) {
    // The kernel doubles what is asked for, for its own bookkeeping, and shows the double.
    let got = sockopt::socket_recv_buffer_size(&udp.socket).unwrap_or(0) / 2;
    let word = "the UDP receive buffer";
    if got < UDP_RCVBUF && !notes.iter().any(|n| n.starts_with(word)) {
        notes.push(format!(
            "{word} is {} KB, not {} KB: a burst of ACKs may be lost. Remedy: sysctl net.core.rmem_max={UDP_RCVBUF}, or give the edge CAP_NET_ADMIN at start",
            got >> 10,
            UDP_RCVBUF >> 10
        ));
    }
}

/// A socket that could not be had.
#[derive(Debug)]
pub struct ListenError {
    /// What kind of trouble; decides the exit code.
    pub kind: Kind,
    what: &'static str,
    at: SocketAddr,
    interface: Option<String>,
    error: io::Error,
}

/// Kinds of trouble with a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Somebody else has the port.
    InUse,
    /// A capability is missing.
    NotAllowed,
    /// There is no such interface.
    NoInterface,
    /// The address is not one of this host's.
    NoAddress,
    /// The host has no such address family.
    NoFamily,
    /// Something else.
    Other,
}

impl ListenError {
    /// `what` that is opened elsewhere than here.
    pub(crate) fn of(what: &'static str, at: SocketAddr, error: io::Error) -> Self {
        Self::new(what, at, &Plan::default(), error)
    }

    fn new(what: &'static str, at: SocketAddr, plan: &Plan, error: io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Kind::InUse,
            Some(libc::EACCES | libc::EPERM) => Kind::NotAllowed,
            Some(libc::ENODEV) => Kind::NoInterface,
            Some(libc::EADDRNOTAVAIL) if at.is_ipv6() && at.ip().is_unspecified() => Kind::NoFamily,
            Some(libc::EADDRNOTAVAIL) => Kind::NoAddress,
            Some(libc::EAFNOSUPPORT) => Kind::NoFamily,
            _ => Kind::Other,
        };
        Self { kind, what, at, interface: plan.interface.clone(), error }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, at, error, .. } = self;
        let port = at.port();
        let (flag, ss) = match *what {
            "UDP" => ("--tftp", "ss -lunp"),
            "TCP" => ("--http", "ss -ltnp"),
            _ => ("--metrics", "ss -ltnp"),
        };
        let interface = self.interface.as_deref().unwrap_or("");
        match self.kind {
            Kind::InUse => write!(
                out,
                "{what} port {port} of {} is in use by another program: find it with `{ss} 'sport = :{port}'` and stop it, or choose another port with {flag}",
                at.ip()
            ),
            Kind::NotAllowed if !interface.is_empty() && port >= 1024 => write!(
                out,
                "not allowed to bind to interface {interface}: run as root, or give the edge CAP_NET_RAW ({error})"
            ),
            Kind::NotAllowed => write!(
                out,
                "not allowed to open {what} {at}: run as root, give the edge CAP_NET_BIND_SERVICE (setcap cap_net_bind_service+ep, or AmbientCapabilities= of systemd), or choose a port from 1024 on with {flag} ({error})"
            ),
            Kind::NoInterface => {
                write!(
                    out,
                    "there is no interface {interface}: `ip link` lists them; give one of those with --interface"
                )
            }
            Kind::NoAddress => write!(
                out,
                "{} is not an address of this host: `ip address` lists them; give one of those, or 0.0.0.0, with {flag}",
                at.ip()
            ),
            Kind::NoFamily => {
                write!(out, "this host has no IPv6, so {what} {at} cannot be opened: give an IPv4 address with {flag}")
            }
            Kind::Other => write!(out, "{what} {at} could not be opened: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workers: usize) -> Plan {
        let at = |s: &str| Address { at: s.parse().unwrap(), optional: false };
        Plan { tftp: vec![at("127.0.0.1:0")], http: vec![at("127.0.0.1:0")], workers, ..Plan::default() }
    }

    #[test]
    fn each_worker_has_its_own_set_on_the_same_ports() {
        let opened = open(&plan(3)).unwrap();
        assert_eq!(opened.workers.len(), 3);
        for worker in &opened.workers {
            let requests: Vec<_> =
                worker.udp.iter().filter(|u| u.role == UdpRole::Requests { single_port: false }).collect();
            assert_eq!(requests.iter().map(|u| u.local).collect::<Vec<_>>(), opened.tftp);
            assert_eq!(worker.tcp.len(), 1);
        }
        // TID sockets are nobody else's.
        let mut tids: Vec<_> = opened
            .workers
            .iter()
            .flat_map(|w| w.udp.iter().filter(|u| u.role == UdpRole::Tid).map(|u| u.local.port()))
            .collect();
        assert_eq!(tids.len(), 3 * TID_SOCKETS);
        tids.sort_unstable();
        tids.dedup();
        assert_eq!(tids.len(), 3 * TID_SOCKETS, "t19: each TID is a port of its own");
        assert!(!tids.contains(&opened.tftp[0].port()));
    }

    #[test]
    fn single_port_mode_has_no_tid_sockets() {
        let opened = open(&Plan { single_port: true, ..plan(1) }).unwrap();
        assert_eq!(opened.workers[0].udp.len(), 1);
        assert_eq!(opened.workers[0].udp[0].role, UdpRole::Requests { single_port: true });
    }

    #[test]
    fn a_port_in_use_is_one_clear_sentence() {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut plan = plan(1);
        plan.tftp[0].at = other.local_addr().unwrap();
        let error = open(&plan).unwrap_err();
        assert_eq!(error.kind, Kind::InUse);
        let text = error.to_string();
        assert!(text.contains("in use") && text.contains("ss -lunp") && text.contains("--tftp"), "{text}");
    }

    #[test]
    fn an_unknown_interface_and_a_foreign_address_are_named() {
        let mut bad = plan(1);
        bad.interface = Some("nosuch0".into());
        let error = open(&bad).unwrap_err();
        assert_eq!(error.kind, Kind::NoInterface, "{error}");
        assert!(error.to_string().contains("nosuch0") && error.to_string().contains("ip link"));
        let mut bad = plan(1);
        bad.http[0].at = "192.0.2.1:0".parse().unwrap();
        let error = open(&bad).unwrap_err();
        assert_eq!(error.kind, Kind::NoAddress, "{error}");
    }
}
