//! The rack's network: a namespace of its own with a bridge, a tap for each
//! machine, and, for tests, somebody else's DHCP server.
//!
//! ```text
//! namespace stoker-rack-PID-START-N        namespace ...-dhcp (only when asked for)
//!   br0 10.77.0.1/24, fd77::1/64  ---veth---  eth0 10.77.0.2/24: dnsmasq
//!     |-- tapXXXXXX per machine
//! ```
//!
//! The names carry pid and start time of the owner, so that a later run can
//! tell what a killed one left ([`Network::sweep`]) from what is in use.

use super::RackError;
use super::process::{self, Process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The address of the bridge: where edge and control of the rack serve.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The address of the foreign DHCP server.
pub const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The length of the network's prefix.
pub const PREFIX: u8 = 24;
/// The first and last address for machines.
pub const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 250));
/// The address of the first machine's BMC; the others follow. Outside of [`POOL`].
pub const FIRST_BMC: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
/// The name of the bridge.
pub const BRIDGE: &str = "br0";

const NAME: &str = "stoker-rack-";
const NETNS: &str = "/run/netns";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A rack's network. Dropping it removes it.
#[derive(Debug)]
pub struct Network {
    namespace: Namespace,
    foreign: Option<Process>,
}

/// The namespace of a rack's network: a name, which does not keep it alive.
#[derive(Clone, Debug)]
pub struct Namespace(String);

impl std::ops::Deref for Network {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Network {
    /// Makes the namespace and the bridge.
    ///
    /// # Errors
    /// [`RackError::Tool`] with the words of `ip`: most often missing rights.
    pub fn create() -> Result<Self, RackError> {
        let pid = std::process::id();
        let start = process::start_time(pid).unwrap_or(0);
        let name = format!("{NAME}{pid}-{start}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        process::run(Command::new("ip").args(["netns", "add", &name]), "").map_err(rights)?;
        // From here on the drop cleans up after a failure.
        let network = Self { namespace: Namespace(name), foreign: None };
        // IPv6 addresses are set by hand and without duplicate detection, so that
        // router advertisements can leave at once. The veth pair only gives the
        // bridge a carrier before the first machine is on.
        network.ip(&format!(
            "link set lo up\n\
             link add {BRIDGE} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set {BRIDGE} addrgenmode none\n\
             addr add {ADDRESS}/{PREFIX} brd + dev {BRIDGE}\n\
             link set {BRIDGE} up\n\
             link add up0 type veth peer name up1\n\
             link set up0 addrgenmode none\n\
             link set up1 addrgenmode none\n\
             link set up0 master {BRIDGE} up\n\
             link set up1 up\n"
        ))?;
        // A host without IPv6 can do without it; iPXE then waits for it in vain.
        if Path::new("/proc/sys/net/ipv6").exists() {
            network.ip(&format!("addr add fe80::1/64 dev {BRIDGE} nodad\naddr add fd77::1/64 dev {BRIDGE} nodad\n"))?;
        }
        Ok(network)
    }

    /// Starts dnsmasq in a namespace of its own on the same network: the DHCP
    /// server that was there before us. It gives addresses and nothing else.
    /// Returns once it serves.
    ///
    /// # Errors
    /// [`RackError`] with the tool's words.
    pub fn start_foreign_dhcp(&mut self, folder: &Path) -> Result<(), RackError> {
        self.foreign_dhcp(folder, false)
    }

    /// The same, giving IPv6 addresses (DHCPv6 and router advertisements) besides.
    ///
    /// # Errors
    /// [`RackError`] with the tool's words.
    pub fn start_foreign_dhcp_of_both_families(&mut self, folder: &Path) -> Result<(), RackError> {
        self.foreign_dhcp(folder, true)
    }

    fn foreign_dhcp(&mut self, folder: &Path, ipv6: bool) -> Result<(), RackError> {
        let other = format!("{}-dhcp", self.name());
        process::run(Command::new("ip").args(["netns", "add", &other]), "").map_err(rights)?;
        self.ip(&format!(
            "link add vd0 type veth peer name eth0 netns {other}\n\
             link set vd0 addrgenmode none\n\
             link set vd0 master {BRIDGE} up\n"
        ))?;
        ip(&other, &format!("link set lo up\naddr add {FOREIGN}/{PREFIX} brd + dev eth0\nlink set eth0 up\n"))?;
        if ipv6 {
            ip(&other, "addr add fe80::2/64 dev eth0 nodad\naddr add fd77::2/64 dev eth0 nodad\n")?;
        }
        let mut command = in_namespace(&other, "dnsmasq", "KILL");
        if ipv6 {
            command.args(["--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,64,10m"]);
        }
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-hosts", "--no-resolv"]);
        command.args([
            "--log-dhcp",
            "--log-facility=-",
            "--user=root",
            "--pid-file=",
            "--dhcp-authoritative",
            "--no-ping",
        ]);
        command.args(["--interface=eth0", "--bind-interfaces"]);
        command.arg(format!("--dhcp-leasefile={}", folder.join("dnsmasq.leases").display()));
        command.arg(format!("--dhcp-range={},{},10m", POOL.0, POOL.1));
        let log = folder.join("dnsmasq.log");
        let _ = std::fs::remove_file(&log);
        let process = self.foreign.insert(Process::spawn("dnsmasq", command, &log)?);
        wait_for(process, &log, "DHCP, IP range")
    }

    /// The foreign DHCP server's log, empty where there is none.
    pub fn foreign_log(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("dnsmasq.log")).unwrap_or_default()
    }

    /// Removes what earlier runs left behind when they were killed: namespaces
    /// whose owner is gone, and whatever still runs inside. Returns their names.
    pub fn sweep() -> Vec<String> {
        let mut swept = Vec::new();
        for entry in std::fs::read_dir(NETNS).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((pid, start)) = owner(&name) else { continue };
            if process::start_time(pid) != Some(start) {
                remove(&name);
                swept.push(name);
            }
        }
        swept
    }
}

impl Namespace {
    /// The namespace's name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// A command that runs inside the namespace and is ended with `signal` when its starter's thread ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, signal: &str) -> Command {
        in_namespace(&self.0, program, signal)
    }

    /// Plugs a tap into the bridge; one that is there already is taken as it is.
    ///
    /// # Errors
    /// [`RackError::Tool`], with a hint where `/dev/net/tun` is missing.
    pub fn tap(&self, name: &str) -> Result<(), RackError> {
        if self.ip(&format!("link show dev {name}\n")).is_ok() {
            return Ok(());
        }
        let lines = format!(
            "tuntap add {name} mode tap\nlink set {name} addrgenmode none\nlink set {name} master {BRIDGE} up\n"
        );
        self.ip(&lines).map(drop).map_err(|e| match (e, Path::new("/dev/net/tun").exists()) {
            (RackError::Tool { command, why }, false) => RackError::Tool {
                command,
                why: format!("{why}; /dev/net/tun is missing: modprobe tun, or give it to the container"),
            },
            (e, _) => e,
        })
    }

    /// Runs a batch of `ip` commands inside the namespace.
    ///
    /// # Errors
    /// [`RackError::Tool`].
    pub fn ip(&self, lines: &str) -> Result<String, RackError> {
        ip(&self.0, lines)
    }

    /// A UDP socket inside the namespace, at an address of its own: one more of this host's there.
    ///
    /// # Errors
    /// [`RackError::Tool`]: the address cannot be added, or the namespace not be entered.
    pub fn udp_socket(&self, address: SocketAddrV4) -> Result<UdpSocket, RackError> {
        self.ip(&format!("addr replace {}/32 dev lo\n", address.ip()))?;
        let name = self.0.clone();
        // A namespace belongs to a thread; the socket stays in the one that it was made in.
        let made = std::thread::spawn(move || -> std::io::Result<UdpSocket> {
            let file = std::fs::File::open(Path::new(NETNS).join(&name))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            UdpSocket::bind(address)
        });
        let failed = |why: String| RackError::Tool { command: format!("a socket at {address}"), why };
        made.join().map_err(|_| failed("its thread died".to_owned()))?.map_err(|e| failed(e.to_string()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(mut dnsmasq) = self.foreign.take() {
            dnsmasq.stop(Duration::from_secs(2));
            remove(&format!("{}-dhcp", self.name()));
        }
        remove(self.name());
    }
}

/// A command that runs inside a namespace and is ended with `signal` when its starter's thread ends.
pub fn in_namespace(name: &str, program: impl AsRef<std::ffi::OsStr>, signal: &str) -> Command {
    // `ip` and `setpriv` both become the program: its pid is the one we started.
    let mut command = process::dies_with_us("ip", signal);
    command.args(["netns", "exec", name]).arg(program);
    command
}

fn ip(namespace: &str, lines: &str) -> Result<String, RackError> {
    process::run(Command::new("ip").args(["-n", namespace, "-batch", "-"]), lines)
}

/// Ends what still runs in a namespace of ours and removes it.
fn remove(name: &str) {
    // `ip netns pids` names only processes inside a namespace that we made.
    let inside = process::run(Command::new("ip").args(["netns", "pids", name]), "").unwrap_or_default();
    for pid in inside.split_ascii_whitespace().filter_map(|word| word.parse().ok()) {
        if let Some(start) = process::start_time(pid) {
            process::end_leftover(pid, start);
        }
    }
    let _ = process::run(Command::new("ip").args(["netns", "del", name]), "");
}

/// Pid and start time of the owner, from the name of a namespace of ours.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(NAME)?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn wait_for(process: &mut Process, log: &Path, mark: &str) -> Result<(), RackError> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if text.contains(mark) {
            return Ok(());
        }
        if process.wait(Duration::from_millis(20)).is_some() || began.elapsed() > Duration::from_secs(20) {
            let why = text.lines().last().unwrap_or("it said nothing").to_owned();
            return Err(RackError::Tool { command: process.name().to_owned(), why });
        }
    }
}

fn rights(e: RackError) -> RackError {
    match e {
        RackError::Tool { command, why } if !rustix::process::geteuid().is_root() => {
            RackError::Tool { command, why: format!("{why}; a virtual rack needs root: run it with sudo") }
        }
        e => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_the_name() {
        assert_eq!(owner("stoker-rack-12-3456-0"), Some((12, 3456)));
        assert_eq!(owner("stoker-rack-12-3456-0-dhcp"), Some((12, 3456)));
        for other in ["stoker", "stoker-rack-", "stoker-rack-x-1-0", "lab-nb", "stoker-rack-12"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
