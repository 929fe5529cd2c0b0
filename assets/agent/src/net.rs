//! Getting the machine onto its network: the boot interface, an address, and
//! keeping both for as long as the agent runs.

use crate::cmdline::{Address, Args};
use crate::dhcp::{self, Lease};
use crate::link::{self, Link};
use crate::say;
use crate::sys::netlink::Netlink;
use protocol::id::Mac;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for the boot interface's driver and link before another interface is taken.
const LINK_PATIENCE: Duration = Duration::from_secs(60);
/// How often to look at a link that trains.
const LINK_POLL: Duration = Duration::from_millis(50);
/// Rounds of DHCP before the caller gets to look at the world again (1, 2, 4, 8 s each way).
const DHCP_TRIES: u32 = 4;
/// The shortest time between two tries to renew a lease.
const MIN_RENEW: Duration = Duration::from_secs(30);
const SYS: &str = "/sys";

/// Sets every interface of hardware up, so that links train while other things are done.
pub fn raise_all() {
    let Ok(mut netlink) = Netlink::open() else { return };
    for link in link::hardware(Path::new(SYS)) {
        if let Err(e) = netlink.link_up(link.index) {
            say!("{} cannot be set up: {e}", link.name);
        }
    }
}

/// Waits for the interface with this address to have a link. Where there is no
/// such interface, or none is named, the first with a link is taken at the end.
pub fn wait_for_boot_interface(mac: Option<Mac>, mut load_drivers: impl FnMut()) -> Option<Link> {
    let start = Instant::now();
    let mut told = false;
    while start.elapsed() < LINK_PATIENCE {
        let links = link::hardware(Path::new(SYS));
        let named = links.iter().find(|l| Some(l.mac) == mac);
        if let Some(link) = named.or(if mac.is_none() { links.iter().find(|l| l.has_carrier()) } else { None })
            && link.has_carrier()
        {
            return Some(link.clone());
        }
        if !told && start.elapsed() > Duration::from_secs(3) {
            told = true;
            match (named, mac) {
                (Some(link), _) => say!("waiting for a link on {} ({})", link.name, link.mac),
                (None, Some(mac)) => say!("waiting for an interface with address {mac}"),
                (None, None) => say!("waiting for any interface with a link"),
            }
        }
        std::thread::sleep(LINK_POLL);
        if start.elapsed() > Duration::from_secs(1) {
            load_drivers(); // late devices: PCI behind slow bridges, USB adapters
            raise_all();
        }
    }
    link::hardware(Path::new(SYS)).into_iter().find(Link::has_carrier)
}

/// The boot interface and its present address.
#[derive(Debug)]
pub struct Network {
    link: Link,
    given: Option<Address>,
    present: Option<Address>,
    lease: Option<Lease>,
}

impl Network {
    /// Configures the interface: with the command line's lease where it is complete, else by DHCP.
    pub fn start(link: Link, args: &Args) -> Self {
        let mut network = Self { link, given: args.address.clone(), present: None, lease: None };
        match network.given.clone() {
            Some(address) => network.set(address, "from the command line"),
            None => network.ask(),
        }
        network
    }

    /// Called when control cannot be reached: an address of one's own may be
    /// better than the one that was handed over, and the other way round.
    pub fn try_otherwise(&mut self) {
        if self.lease.is_some()
            && let Some(given) = self.given.clone().filter(|g| Some(g) != self.present.as_ref())
        {
            self.lease = None;
            return self.set(given, "from the command line, again");
        }
        self.ask();
    }

    /// Keeps the address leased for ever; for a thread of its own. A lease that
    /// the firmware got is confirmed first, which also tells how long it lasts.
    pub fn keep(mut self) {
        loop {
            let Some(address) = self.present.clone() else { return };
            let mut wait = match &self.lease {
                Some(lease) => lease.renew_after(),
                None => Duration::ZERO,
            };
            loop {
                std::thread::sleep(wait);
                match dhcp::confirm(&self.link.name, self.link.mac, address.ip) {
                    Ok(Some(lease)) => break self.lease = Some(lease),
                    Ok(None) => {
                        say!("the DHCP server wants {} back; asking for another address", address.ip);
                        self.ask();
                        break;
                    }
                    // Nobody minds: an address set by hand, or a server that is away. Ask again later.
                    Err(_) => wait = (wait / 2).max(MIN_RENEW),
                }
            }
        }
    }

    fn ask(&mut self) {
        match dhcp::acquire(&self.link.name, self.link.mac, DHCP_TRIES) {
            Ok(lease) => {
                let address = lease.address.clone();
                self.lease = Some(lease);
                self.set(address, "by DHCP");
            }
            Err(e) => say!("{}: {e}", self.link.name),
        }
    }

    fn set(&mut self, address: Address, whence: &str) {
        let apply = || -> std::io::Result<()> {
            let mut netlink = Netlink::open()?;
            netlink.link_up(self.link.index)?;
            if let Some(old) = self.present.as_ref().filter(|old| (old.ip, old.prefix) != (address.ip, address.prefix))
            {
                netlink.remove_address(self.link.index, old.ip, old.prefix)?;
            }
            netlink.add_address(self.link.index, address.ip, address.prefix)?;
            address.gateway.map_or(Ok(()), |gateway| netlink.default_route(self.link.index, gateway))
        };
        match apply() {
            Ok(()) => say!("{} ({}) has {}/{} {whence}", self.link.name, self.link.mac, address.ip, address.prefix),
            Err(e) => say!("{} cannot be given {}/{}: {e}", self.link.name, address.ip, address.prefix),
        }
        if !address.dns.is_empty() {
            let lines: String = address.dns.iter().map(|dns| format!("nameserver {dns}\n")).collect();
            if let Err(e) = std::fs::create_dir_all("/etc").and_then(|()| std::fs::write("/etc/resolv.conf", lines)) {
                say!("cannot write /etc/resolv.conf: {e}");
            }
        }
        self.present = Some(address);
    }
}
