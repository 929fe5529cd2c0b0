//! The sockets of DHCP: one set per interface, bound to it, so that requests
//! are answered out of the interface that they came in on.
//!
//! | mode | port 67 | why |
//! |---|---|---|
//! | server | 0.0.0.0 for broadcasts, our address for relays and renewals | nobody else may have the port |
//! | proxy | 255.255.255.255, shared; our address only for listed relays | the DHCP server may run on this very host, and its unicasts must reach it |
//!
//! Replies leave from the socket with our address where there is one, else the
//! kernel picks the interface's address.

use super::plan::{Place, Port};
use super::settings::{Mode, Settings};
use protocol::dhcp::{CLIENT_PORT, PXE_PORT, SERVER_PORT};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;

/// Why DHCP cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has the port.
    #[error("UDP port {port} on {interface} is in use; stop the program that has it (ss -lunp sport = :{port}){hint}")]
    InUse {
        /// The port.
        port: u16,
        /// The interface.
        interface: String,
        /// More to do.
        hint: &'static str,
    },
    /// A capability is missing.
    #[error(
        "not allowed to open UDP port {port} on {interface}; start stoker as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW"
    )]
    Denied {
        /// The port.
        port: u16,
        /// The interface.
        interface: String,
    },
    /// No such interface.
    #[error("there is no interface {0}; ip -brief link lists what there is")]
    NoInterface(String),
    /// The interface does not have our address.
    #[error(
        "{interface} does not have the address {address}; give it that address (ip address add), or set the right one with --address"
    )]
    NoAddress {
        /// The interface.
        interface: String,
        /// Our address.
        address: Ipv4Addr,
    },
    /// The interface has no IPv6 address that machines could use.
    #[error(
        "dhcp.v6 is enabled, but {0} has no IPv6 address that machines can reach; give it one (ip address add fd00:77::1/64 dev {0}), or set dhcp.v6.address"
    )]
    NoAddress6(String),
    /// Server mode without a store.
    #[error("dhcp.mode server needs the store, to keep leases")]
    NoStore,
    /// The store cannot be read.
    #[error("leases cannot be read: {0}")]
    Leases(String),
    /// Anything else.
    #[error("UDP port {port} on {interface} cannot be opened: {source}")]
    Io {
        /// The port.
        port: u16,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenError {
    /// What the kernel's refusal of a port means. `hint` goes with a port in use.
    pub(super) fn of(e: io::Error, port: u16, interface: String, hint: &'static str) -> Self {
        match e.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRINUSE) => Self::InUse { port, interface, hint },
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied { port, interface },
            Some(Errno::NODEV) => Self::NoInterface(interface),
            _ => Self::Io { port, interface, source: e },
        }
    }
}

/// One socket that requests come in on, and the one that its replies leave from.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub place: Arc<Place>,
    /// Which of our ports.
    pub port: Port,
    /// For receiving.
    pub receive: UdpSocket,
    /// For sending.
    pub send: Arc<UdpSocket>,
}

/// Opens everything that one place needs.
///
/// # Errors
/// One sentence with the remedy.
pub fn open(place: &Arc<Place>, settings: &Settings) -> Result<Vec<Endpoint>, OpenError> {
    if settings.mode == Mode::Off {
        return Ok(Vec::new());
    }
    let own_address = settings.mode == Mode::Server
        || !settings.relays.is_empty()
        || usual_address(place).is_none_or(|usual| usual != place.address);
    let mut endpoints = Vec::new();
    let broadcasts = match settings.mode {
        Mode::Server => udp(place, Ipv4Addr::UNSPECIFIED, SERVER_PORT, Share::Never)?,
        _ => udp(place, Ipv4Addr::BROADCAST, SERVER_PORT, Share::Always)?,
    };
    let broadcasts = Arc::new(broadcasts);
    let mut sender = broadcasts.clone();
    if own_address {
        // Two sockets of ours on one port: shared for the moment of binding only.
        broadcasts.set_reuse_address(true).map_err(|e| io_error(place, SERVER_PORT, e))?;
        let own = Arc::new(udp(place, place.address, SERVER_PORT, Share::Always)?);
        if settings.mode == Mode::Server {
            for socket in [&broadcasts, &own] {
                socket.set_reuse_address(false).map_err(|e| io_error(place, SERVER_PORT, e))?;
            }
        }
        sender = own.clone();
        endpoints.push(endpoint(place, Port::Dhcp, &own, &own)?);
    }
    endpoints.push(endpoint(place, Port::Dhcp, &broadcasts, &sender)?);
    let pxe = Arc::new(udp(place, Ipv4Addr::UNSPECIFIED, PXE_PORT, Share::Never)?);
    endpoints.push(endpoint(place, Port::Pxe, &pxe, &pxe)?);
    Ok(endpoints)
}

/// A socket that hears broadcast offers of any server, beside whatever DHCP client runs here.
///
/// # Errors
/// As [`open`].
pub fn watch(place: &Place) -> Result<UdpSocket, OpenError> {
    udp(place, Ipv4Addr::BROADCAST, CLIENT_PORT, Share::Always).map(UdpSocket::from)
}

fn endpoint(place: &Arc<Place>, port: Port, receive: &Socket, send: &Socket) -> Result<Endpoint, OpenError> {
    let copy = |socket: &Socket| socket.try_clone().map(UdpSocket::from).map_err(|e| io_error(place, 67, e));
    Ok(Endpoint { place: place.clone(), port, receive: copy(receive)?, send: Arc::new(copy(send)?) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Never,
    Always,
}

fn udp(place: &Place, address: Ipv4Addr, port: u16, share: Share) -> Result<Socket, OpenError> {
    let fail = |e: io::Error| explain(place, address, port, share, e);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    socket.set_broadcast(true).map_err(fail)?;
    socket.bind_device(Some(place.interface.as_bytes())).map_err(fail)?;
    if share == Share::Always {
        socket.set_reuse_address(true).map_err(fail)?;
    }
    socket.bind(&SocketAddr::from((address, port)).into()).map_err(fail)?;
    Ok(socket)
}

fn explain(place: &Place, address: Ipv4Addr, port: u16, share: Share, e: io::Error) -> OpenError {
    let interface = place.interface.clone();
    let hint = match (port, share) {
        (SERVER_PORT, Share::Never) => ", or set dhcp.mode: proxy to work beside it",
        (SERVER_PORT, Share::Always) => ": it does not share the port; let one of the two run on another host",
        _ => "",
    };
    match e.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRNOTAVAIL) => OpenError::NoAddress { interface, address },
        _ => OpenError::of(e, port, interface, hint),
    }
}

fn io_error(place: &Place, port: u16, source: io::Error) -> OpenError {
    OpenError::Io { port, interface: place.interface.clone(), source }
}

/// The source address that the kernel would pick for a broadcast on this interface.
fn usual_address(place: &Place) -> Option<Ipv4Addr> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).ok()?;
    socket.set_broadcast(true).ok()?;
    socket.bind_device(Some(place.interface.as_bytes())).ok()?;
    socket.connect(&SocketAddr::from(SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT)).into()).ok()?;
    Some(*socket.local_addr().ok()?.as_socket_ipv4()?.ip())
}
