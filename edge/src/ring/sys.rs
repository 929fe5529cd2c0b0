//! Raw libc: addresses, control messages, socket calls. No policy.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Room for any IPv4 or IPv6 socket address, in the kernel's form.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Address {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Its size, which is what the kernel is told when it has to fill one.
pub const ADDRESS_LEN: libc::socklen_t = size_of::<Address>() as libc::socklen_t;

impl Address {
    /// All zero: no address.
    pub const fn empty() -> Self {
        Self {
            v6: libc::sockaddr_in6 {
                sin6_family: 0,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
                sin6_scope_id: 0,
            },
        }
    }

    /// The kernel's form of `addr` and its length.
    pub fn of(addr: SocketAddr) -> (Self, libc::socklen_t) {
        let mut out = Self::empty();
        match addr {
            SocketAddr::V4(a) => {
                out.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (out, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(a) => {
                out.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: a.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                    sin6_scope_id: a.scope_id(),
                };
                (out, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// From the bytes that the kernel wrote.
    pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
        let mut out = Self::empty();
        let n = bytes.len().min(size_of::<Self>());
        // SAFETY: `n` bytes are readable in `bytes` and writable in `out`, which is plain old data of which every
        // bit pattern is valid.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut out).cast::<u8>(), n) };
        out.get()
    }

    /// The address in it, where it is IPv4 or IPv6.
    pub fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every bit pattern of the union is valid in each of its (plain old data) fields, and `empty` has
        // written all bytes of it.
        unsafe {
            match i32::from(self.family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    let port = u16::from_be(self.v6.sin6_port);
                    Some(SocketAddrV6::new(ip, port, 0, self.v6.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }
}

/// Room for the control messages of one send: IPV6_PKTINFO (40 bytes) and UDP_SEGMENT (24), aligned.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Control {
    bytes: [u8; 64],
    len: usize,
}

impl Control {
    pub const fn empty() -> Self {
        Self { bytes: [0; 64], len: 0 }
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Leaves from this address. `scope` is the interface of a link-local peer, else 0.
    pub fn source(&mut self, from: IpAddr, scope: u32) {
        match from {
            IpAddr::V4(ip) => {
                let mut info = [0; 12]; // struct in_pktinfo: ifindex, spec_dst, addr
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(ip) => {
                let mut info = [0; 20]; // struct in6_pktinfo: addr, ifindex
                info[..16].copy_from_slice(&ip.octets());
                info[16..].copy_from_slice(&scope.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// The kernel (or the NIC) cuts the bytes into datagrams of `size` (UDP GSO).
    pub fn segments(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        const HEAD: usize = size_of::<libc::cmsghdr>();
        let at = self.len;
        let end = (at + HEAD + data.len()).next_multiple_of(8);
        let room = &mut self.bytes[at..end];
        room.fill(0);
        room[..8].copy_from_slice(&(HEAD + data.len()).to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        room[HEAD..HEAD + data.len()].copy_from_slice(data);
        self.len = end;
    }

    /// For `msg_control` and `msg_controllen`.
    pub fn parts(&mut self) -> (*mut libc::c_void, usize) {
        if self.len == 0 { (std::ptr::null_mut(), 0) } else { (self.bytes.as_mut_ptr().cast(), self.len) }
    }
}
const _: () = assert!(size_of::<libc::cmsghdr>() == 16, "Control::push writes the 64-bit layout");

/// To which address a datagram came, from its control data: (address to
/// answer from, whether the destination was a group).
pub fn destination(mut control: &[u8]) -> Option<(IpAddr, bool)> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    while control.len() >= HEAD {
        let len = usize::from_ne_bytes(control[..8].try_into().ok()?);
        let level = i32::from_ne_bytes(control[8..12].try_into().ok()?);
        let kind = i32::from_ne_bytes(control[12..16].try_into().ok()?);
        let data = control.get(HEAD..len)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ours: [u8; 4] = data.get(4..8)?.try_into().ok()?;
                let dest: [u8; 4] = data.get(8..12)?.try_into().ok()?;
                return Some((IpAddr::from(ours), ours != dest));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let dest: [u8; 16] = data.get(..16)?.try_into().ok()?;
                let dest = Ipv6Addr::from(dest);
                return Some((dest.into(), dest.is_multicast()));
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..)?;
    }
    None
}

/// Sets an option whose value is an int.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    };
    check(r as isize).map(drop)
}

/// Reads an option whose value is an int.
pub fn get_option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointers describe `value` and `len`, which outlive the call.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    check(r as isize).map(|_| value)
}

/// The addresses of this host, each with the name of its interface.
pub fn interface_addresses() -> Vec<(String, IpAddr)> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is a local that outlives the call.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: getifaddrs has made a list of valid entries that lives until freeifaddrs; names are terminated.
        let entry = unsafe { &*at };
        if !entry.ifa_addr.is_null() {
            // SAFETY: as above; the family says how many bytes of address there are.
            let (name, addr) = unsafe {
                let len = match i32::from((*entry.ifa_addr).sa_family) {
                    libc::AF_INET => size_of::<libc::sockaddr_in>(),
                    libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
                    _ => 0,
                };
                let bytes = std::slice::from_raw_parts(entry.ifa_addr.cast::<u8>(), len);
                (std::ffi::CStr::from_ptr(entry.ifa_name), Address::parse(bytes))
            };
            if let (Ok(name), Some(addr)) = (name.to_str(), addr) {
                out.push((name.to_owned(), addr.ip()));
            }
        }
        at = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs and nothing of it is referenced any more.
    unsafe { libc::freeifaddrs(list) };
    out
}

/// The name of the driver behind a network interface (ETHTOOL_GDRVINFO), such as `veth`, `tun`, `igb`.
pub fn interface_driver(socket: BorrowedFd<'_>, interface: &str) -> Option<String> {
    const ETHTOOL_GDRVINFO: u32 = 3;
    let mut info = [0u8; 196]; // struct ethtool_drvinfo: cmd, driver[32], ...
    info[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    // SAFETY: ifreq is plain old data.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
    // SAFETY: the request holds a terminated name and a pointer to a buffer of the size that ETHTOOL_GDRVINFO fills.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    check(r as isize).ok()?;
    let name: Vec<u8> = info[4..36].iter().copied().take_while(|&b| b != 0).collect();
    String::from_utf8(name).ok()
}

/// `sendfile(2)` from `offset`; how many bytes went.
pub fn sendfile(to: RawFd, from: BorrowedFd<'_>, offset: u64, count: u64) -> io::Result<u64> {
    let mut offset = offset as libc::off_t;
    // SAFETY: `offset` is a local that outlives the call; both descriptors are open.
    let r = unsafe { libc::sendfile(to, from.as_raw_fd(), &raw mut offset, count as usize) };
    check(r).map(|n| n as u64)
}

/// `pipe2(2)`, nonblocking and close-on-exec, of `size` bytes where that is allowed: its ends for reading and writing.
pub fn pipe(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the pointer describes `ends`, which has room for both.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } as isize)?;
    // SAFETY: both descriptors are new and ours alone.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: no pointers. Refused, the pipe keeps the kernel's own size (64 KB), which does too.
    unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, size as libc::c_int) };
    Ok((read, write))
}

/// `vmsplice(2)`: the pages of `bytes` into a pipe, by reference; how many bytes. The pipe, and whoever is
/// handed the pages from it, sees the memory as it is when it looks: only for memory that never changes.
pub fn vmsplice(pipe: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let part = iovec(bytes);
    // SAFETY: the only part describes `bytes`, which the kernel reads. It holds the pages themselves for as long as
    // it needs them, so they may be unmapped at any time.
    check(unsafe { libc::vmsplice(pipe.as_raw_fd(), &raw const part, 1, libc::SPLICE_F_NONBLOCK) }).map(|n| n as usize)
}

/// `splice(2)` out of a pipe, without waiting; how many bytes went.
pub fn splice(pipe: BorrowedFd<'_>, to: RawFd, count: usize) -> io::Result<usize> {
    let none = std::ptr::null_mut();
    // SAFETY: null pointers for the offsets that neither a pipe nor a socket has.
    check(unsafe { libc::splice(pipe.as_raw_fd(), none, to, none, count, libc::SPLICE_F_NONBLOCK) }).map(|n| n as usize)
}

/// `sendmsg(2)` of up to two byte ranges on a connected socket; how many bytes went.
pub fn send_two(to: RawFd, first: &[u8], second: &[u8], flags: i32) -> io::Result<usize> {
    let mut parts = [iovec(first), iovec(second)];
    // SAFETY: msghdr is plain old data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 2;
    // SAFETY: the message names only `parts`, which name only the two slices; all outlive the call.
    check(unsafe { libc::sendmsg(to, &raw const message, flags | libc::MSG_NOSIGNAL) }).map(|n| n as usize)
}

/// The kernel's description of a slice to be read.
pub fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// `recv(2)` without waiting.
pub fn recv(from: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `into`.
    let r = unsafe { libc::recv(from, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    check(r).map(|n| n as usize)
}

/// `accept4(2)`, nonblocking and close-on-exec.
pub fn accept(listener: RawFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers ask for no address.
    let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    check(fd as isize)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Our end and the peer's of a connection.
pub fn ends(conn: RawFd) -> io::Result<(SocketAddr, SocketAddr)> {
    let (mut local, mut peer) = (Address::empty(), Address::empty());
    let (mut a, mut b) = (ADDRESS_LEN, ADDRESS_LEN);
    // SAFETY: pointer and length describe `local`, which has room for any address of these families.
    check(unsafe { libc::getsockname(conn, (&raw mut local).cast(), &raw mut a) } as isize)?;
    // SAFETY: likewise for `peer`.
    check(unsafe { libc::getpeername(conn, (&raw mut peer).cast(), &raw mut b) } as isize)?;
    match (local.get(), peer.get()) {
        (Some(local), Some(peer)) => Ok((local, peer)),
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}

/// The next `close` sends RST and throws away what was not yet sent.
pub fn reset_on_close(conn: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `linger`. A failure leaves a FIN instead of a RST: the client
    // still sees a body shorter than its Content-Length.
    unsafe { libc::setsockopt(conn, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
}

/// Holds back (or lets go) segments that are not full (`TCP_CORK`, tcp(7)).
pub fn cork(conn: RawFd, held: bool) {
    let held = libc::c_int::from(held);
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `held`. Where it fails, more segments go.
    unsafe { libc::setsockopt(conn, libc::IPPROTO_TCP, libc::TCP_CORK, (&raw const held).cast(), len) };
}

/// Sends FIN.
pub fn finish(conn: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(conn, libc::SHUT_WR) } as isize).map(drop)
}

/// A descriptor that becomes readable when one of these signals comes; they are blocked otherwise,
/// in this thread and those it starts from now on.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is local plain old data, initialised by sigemptyset before use; the descriptor that
    // signalfd returns is new and ours alone.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        check(libc::sigemptyset(&raw mut set) as isize)?;
        for &signal in signals {
            check(libc::sigaddset(&raw mut set, signal) as isize)?;
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
        check(fd as isize)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// -1 means that errno says why.
pub fn check(r: isize) -> io::Result<isize> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["10.1.2.3:69", "[fd77::1]:2070", "0.0.0.0:0", "[::]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::of(addr).0.get(), Some(addr));
        }
        let link = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3));
        assert_eq!(Address::of(link).0.get(), Some(link));
        assert_eq!(Address::parse(&[]), None);
        assert_eq!(Address::parse(&[1, 0, 9]), None);
    }

    #[test]
    fn destination_survives_any_control_data() {
        let mut control = Control::empty();
        control.segments(1472);
        control.source("10.0.0.1".parse().unwrap(), 0);
        let (at, len) = (control.bytes, control.len);
        // The destination itself is 0.0.0.0 here, so this reads as a group.
        assert_eq!(destination(&at[..len]), Some(("10.0.0.1".parse().unwrap(), true)));
        for cut in 0..len - 4 {
            assert_eq!(destination(&at[..cut]), None, "{cut}");
        }
        for len in [0u64, 1, 15, 16, u64::MAX] {
            let mut bad = [0u8; 40];
            bad[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(destination(&bad), None, "{len}");
        }
    }
}
