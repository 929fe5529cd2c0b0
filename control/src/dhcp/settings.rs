//! The `dhcp:` section of stoker.yaml.

mod v6;

pub use v6::V6;

use crate::limits;
use ipnet::Ipv4Net;
use protocol::dhcp::{MAX_FILE, Platform, Processor};
use protocol::id::Mac;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What to do as a DHCP server.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Beside another DHCP server, as the DHCP server, or not at all.
    pub mode: Mode,
    /// Boot files by platform.
    pub files: Files,
    /// Put the machine's MAC before the boot file's name (`52-54-00-12-34-56/snponly.efi`),
    /// so that the transfer is tied to its machine. The edge strips it.
    pub mac_in_path: bool,
    /// The TFTP server, where it is not us.
    pub tftp_server: Option<Ipv4Addr>,
    /// Base of URLs for UEFI HTTP boot; default `http://ADDRESS:8080`.
    pub http_boot_url: Option<String>,
    /// What iPXE is sent to; default `http://ADDRESS:8081/boot.ipxe`.
    pub script_url: Option<String>,
    /// Who is answered.
    pub policy: Policy,
    /// Relays (giaddr) that are answered besides those inside the subnets of `server`.
    pub relays: Vec<Ipv4Net>,
    /// Send IPv6 router advertisements that give nothing, but end iPXE's wait
    /// for one (4 to 16 s). Default: on in server mode, off in proxy mode.
    pub router_advertisements: Option<bool>,
    /// Boot files by DHCPv6.
    pub v6: V6,
    /// Watch for offers of other DHCP servers (port 68).
    pub watch_foreign: bool,
    /// Decide and log, send nothing.
    pub dry_run: bool,
    /// Bounds on packets a second.
    pub rate: Rate,
    /// Leases; used in server mode.
    pub server: Server,
}

/// How stoker stands to other DHCP servers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Another server gives addresses; we add the boot file (ProxyDHCP, PXE 2.1 section 2.2.3).
    #[default]
    Proxy,
    /// We give addresses and the boot file.
    Server,
    /// We are silent.
    Off,
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Proxy => "proxy",
            Self::Server => "server",
            Self::Off => "off",
        })
    }
}

/// The boot file of each platform; a platform without one is not answered.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// Legacy BIOS.
    pub bios: Option<String>,
    /// UEFI x64.
    pub uefi_x64: Option<String>,
    /// UEFI arm64.
    pub uefi_arm64: Option<String>,
    /// UEFI ia32.
    pub uefi_ia32: Option<String>,
    /// UEFI arm32.
    pub uefi_arm32: Option<String>,
    /// UEFI riscv64.
    pub uefi_riscv64: Option<String>,
    /// UEFI loong64.
    pub uefi_loong64: Option<String>,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            bios: Some("undionly.kpxe".into()),
            uefi_x64: Some("snponly.efi".into()),
            uefi_arm64: Some("ipxe-arm64.efi".into()),
            uefi_ia32: None,
            uefi_arm32: None,
            uefi_riscv64: None,
            uefi_loong64: None,
        }
    }
}

impl Files {
    /// The file for a platform, and what the setting is called.
    pub fn of(&self, platform: Platform) -> (Option<&str>, &'static str) {
        let (file, name) = match platform {
            Platform::Bios => (&self.bios, "bios"),
            Platform::Uefi(Processor::X64) => (&self.uefi_x64, "uefi_x64"),
            Platform::Uefi(Processor::Arm64) => (&self.uefi_arm64, "uefi_arm64"),
            Platform::Uefi(Processor::Ia32) => (&self.uefi_ia32, "uefi_ia32"),
            Platform::Uefi(Processor::Arm32) => (&self.uefi_arm32, "uefi_arm32"),
            Platform::Uefi(Processor::Riscv64) => (&self.uefi_riscv64, "uefi_riscv64"),
            Platform::Uefi(Processor::Loong64) => (&self.uefi_loong64, "uefi_loong64"),
        };
        (file.as_deref(), name)
    }

    fn each(&self) -> [(&'static str, &Option<String>); 7] {
        [
            ("bios", &self.bios),
            ("uefi_x64", &self.uefi_x64),
            ("uefi_arm64", &self.uefi_arm64),
            ("uefi_ia32", &self.uefi_ia32),
            ("uefi_arm32", &self.uefi_arm32),
            ("uefi_riscv64", &self.uefi_riscv64),
            ("uefi_loong64", &self.uefi_loong64),
        ]
    }
}

/// Which machines are answered. `deny` wins over everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Machines that are always answered.
    pub allow: BTreeSet<Mac>,
    /// Machines that are never answered.
    pub deny: BTreeSet<Mac>,
    /// Machines in neither list and without a reservation.
    pub unknown: Unknown,
}

/// What becomes of machines that no list names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// They are answered.
    #[default]
    Answer,
    /// They are not.
    Ignore,
}

/// Packets a second that are looked at; more are dropped and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// All machines together.
    pub total: u32,
    /// One machine (a boot sends about ten packets in ten seconds).
    pub per_machine: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { total: 4000, per_machine: 5 }
    }
}

/// Leases.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The networks that we give addresses in. A relayed request belongs to
    /// the one that holds its giaddr, any other to the one that holds our address.
    pub subnets: Vec<Subnet>,
    /// Addresses of single machines.
    pub reservations: Vec<Reservation>,
    /// No other server gives addresses here: refuse (NAK) what we do not know, in place of silence.
    pub authoritative: bool,
    /// How long to look whether an address is in use before it is offered, milliseconds; 0 is not at all.
    pub probe_ms: u64,
    /// How long an offer is kept, seconds.
    pub offer_seconds: u32,
    /// How long an address is set aside that a machine declined or that was found in use, seconds.
    pub quarantine_seconds: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            subnets: Vec::new(),
            reservations: Vec::new(),
            authoritative: false,
            probe_ms: 250,
            offer_seconds: 60,
            quarantine_seconds: 3600,
        }
    }
}

/// One network that we give addresses in.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// `10.77.0.0/24`.
    pub network: Ipv4Net,
    /// Ranges for machines without a reservation: `10.77.0.100-10.77.0.250`.
    #[serde(default)]
    pub pools: Vec<Range>,
    /// Default gateway (option 3).
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers (6).
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Domain (15).
    #[serde(default)]
    pub domain: Option<String>,
    /// Time servers (42).
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// Length of a lease, seconds.
    #[serde(default = "default_lease")]
    pub lease_seconds: u32,
}

const fn default_lease() -> u32 {
    3600
}

impl Subnet {
    /// Whether an address lies in one of the pools.
    pub fn pools_hold(&self, address: Ipv4Addr) -> bool {
        self.pools.iter().any(|range| range.holds(address))
    }

    /// The mask (1).
    pub fn mask(&self) -> Ipv4Addr {
        self.network.netmask()
    }
}

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    /// The lowest.
    pub first: Ipv4Addr,
    /// The highest.
    pub last: Ipv4Addr,
}

impl Range {
    /// Whether it holds an address.
    pub fn holds(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// How many addresses it has; 0 where it runs backwards.
    pub fn len(self) -> u32 {
        (u32::from(self.last) + 1).saturating_sub(u32::from(self.first))
    }

    /// Whether it runs backwards.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Range {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no range of addresses such as 10.77.0.100-10.77.0.250");
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        Ok(Self { first: first.trim().parse().map_err(|_| bad())?, last: last.trim().parse().map_err(|_| bad())? })
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The address of one machine.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Its MAC.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its host name (12).
    #[serde(default)]
    pub hostname: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            files: Files::default(),
            mac_in_path: true,
            tftp_server: None,
            http_boot_url: None,
            script_url: None,
            policy: Policy::default(),
            relays: Vec::new(),
            router_advertisements: None,
            v6: V6::default(),
            watch_foreign: true,
            dry_run: false,
            rate: Rate::default(),
            server: Server::default(),
        }
    }
}

impl Settings {
    /// Whether to send router advertisements.
    pub fn advertises(&self) -> bool {
        self.mode != Mode::Off && self.router_advertisements.unwrap_or(self.mode == Mode::Server)
    }

    /// Whether boot files are given by DHCPv6.
    pub fn serves_v6(&self) -> bool {
        self.mode != Mode::Off && self.v6.enabled
    }

    /// Everything that is wrong with it: the setting, what is wrong, the remedy.
    pub fn check(&self) -> Vec<(String, String, String)> {
        let mut problems = Problems(Vec::new());
        self.check_files(&mut problems);
        if self.rate.total == 0 || self.rate.per_machine == 0 {
            problems.add("rate", "a rate of 0 answers nobody", "use mode: off, or a rate of at least 1");
        }
        for relay in &self.relays {
            if relay.prefix_len() == 0 {
                problems.add("relays", "0.0.0.0/0 lets anybody be a relay", "list the relays' own networks");
            }
        }
        self.v6.check(&mut problems);
        if self.mode == Mode::Server {
            self.server.check(&mut problems);
        }
        problems.0
    }

    fn check_files(&self, problems: &mut Problems) {
        // "52-54-00-12-34-56/" goes before the name.
        let room = if self.mac_in_path { MAX_FILE - 18 } else { MAX_FILE };
        for (name, file) in self.files.each() {
            if let Some(file) = file
                && (file.is_empty() || file.len() > room || !file.bytes().all(|b| b.is_ascii_graphic()))
            {
                problems.add(
                    "files",
                    format!("{name}: `{}` is no usable file name", file.escape_default()),
                    format!("1 to {room} printable ASCII characters without spaces"),
                );
            }
        }
        check_url("script_url", self.script_url.as_deref(), problems);
        check_url("http_boot_url", self.http_boot_url.as_deref(), problems);
    }
}

fn check_url(name: &str, url: Option<&str>, problems: &mut Problems) {
    let Some(url) = url else { return };
    let tftp = name.ends_with("script_url") && url.starts_with("tftp://");
    if !(url.starts_with("http://") || url.starts_with("https://") || tftp) {
        problems.add(name, format!("`{}` is no URL", url.escape_default()), "begin it with http:// or https://");
    }
    if url.len() > MAX_URL || !url.bytes().all(|b| b.is_ascii_graphic()) {
        let remedy = format!("at most {MAX_URL} printable ASCII characters without spaces");
        problems.add(name, "the URL does not fit option 67", remedy);
    }
}

/// Settings, with what decisions look up in them.
#[derive(Clone, Debug)]
pub struct Rules {
    settings: Settings,
    by_mac: HashMap<Mac, Reservation>,
    by_address: HashMap<Ipv4Addr, Mac>,
}

impl Rules {
    /// From settings that passed [`Settings::check`].
    pub fn new(settings: Settings) -> Self {
        let list = &settings.server.reservations;
        let by_mac = list.iter().map(|r| (r.mac, r.clone())).collect();
        let by_address = list.iter().map(|r| (r.address, r.mac)).collect();
        Self { settings, by_mac, by_address }
    }

    /// The reservation of a machine.
    pub fn reservation(&self, mac: Mac) -> Option<&Reservation> {
        self.by_mac.get(&mac)
    }

    /// The machine that an address is reserved for.
    pub fn reserved_for(&self, address: Ipv4Addr) -> Option<Mac> {
        self.by_address.get(&address).copied()
    }
}

impl std::ops::Deref for Rules {
    type Target = Settings;
    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// Option 67 holds 255 bytes; the MAC and the longest file name must fit behind a base URL.
const MAX_URL: usize = 255 - 18 - 100;

impl Server {
    fn check(&self, problems: &mut Problems) {
        if self.subnets.is_empty() {
            problems.add(
                "server",
                "mode server has no subnet to give addresses in",
                "add server.subnets with network and pools",
            );
        }
        if self.subnets.len() > limits::DHCP_SUBNETS {
            problems.add(
                "subnets",
                format!("more than {} subnets", limits::DHCP_SUBNETS),
                "run a stoker per group of racks",
            );
        }
        for (i, subnet) in self.subnets.iter().enumerate() {
            subnet.check(problems);
            if let Some(other) = self
                .subnets
                .iter()
                .take(i)
                .find(|s| s.network.contains(&subnet.network) || subnet.network.contains(&s.network))
            {
                problems.add(
                    "subnets",
                    format!("{} and {} overlap", other.network, subnet.network),
                    "give each network once",
                );
            }
        }
        if self.offer_seconds == 0 || self.quarantine_seconds == 0 {
            problems.add(
                "server",
                "offer_seconds and quarantine_seconds must not be 0",
                "leave them out for 60 and 3600",
            );
        }
        if self.probe_ms > limits::DHCP_PROBE_MAX_MS {
            problems.add(
                "probe_ms",
                format!("firmware does not wait longer than {} ms for an offer", limits::DHCP_PROBE_MAX_MS),
                "use 250",
            );
        }
        let mut macs = BTreeSet::new();
        let mut addresses = BTreeMap::new();
        for r in &self.reservations {
            let host = self.subnets.iter().find(|s| s.network.contains(&r.address));
            match host {
                None => problems.add(
                    "reservations",
                    format!("{} of {} is in no subnet", r.address, r.mac),
                    "add its subnet, or correct the address",
                ),
                Some(s) if s.router == Some(r.address) => problems.add(
                    "reservations",
                    format!("{} of {} is the router's", r.address, r.mac),
                    "give it another address",
                ),
                Some(s) if r.address == s.network.network() || r.address == s.network.broadcast() => {
                    problems.add(
                        "reservations",
                        format!("{} of {} is no host address of {}", r.address, r.mac, s.network),
                        "give it another address",
                    );
                }
                Some(_) => {}
            }
            if !macs.insert(r.mac) {
                problems.add("reservations", format!("{} has two", r.mac), "keep one");
            }
            if let Some(first) = addresses.insert(r.address, r.mac) {
                problems.add("reservations", format!("{} is given to {first} and to {}", r.address, r.mac), "keep one");
            }
            if r.hostname.as_deref().is_some_and(|h| !is_name(h)) {
                problems.add(
                    "reservations",
                    format!("the host name of {} is none", r.mac),
                    "letters, digits, - and . (RFC 1123)",
                );
            }
        }
        if self.reservations.len() > limits::DHCP_RESERVATIONS {
            problems.add("reservations", format!("more than {}", limits::DHCP_RESERVATIONS), "use pools");
        }
    }
}

impl Subnet {
    fn check(&self, problems: &mut Problems) {
        let net = self.network;
        let mut size = 0u64;
        for pool in &self.pools {
            if pool.is_empty() {
                problems.add("pools", format!("{pool} runs backwards"), "put the lower address first");
            } else if !net.contains(&pool.first) || !net.contains(&pool.last) {
                problems.add("pools", format!("{pool} is not inside {net}"), "keep pools inside their network");
            } else if net.prefix_len() < 31 && (pool.holds(net.network()) || pool.holds(net.broadcast())) {
                problems.add(
                    "pools",
                    format!("{pool} holds the network or broadcast address of {net}"),
                    "leave these two out",
                );
            }
            if let Some(router) = self.router.filter(|router| pool.holds(*router)) {
                problems.add("pools", format!("{pool} holds the router {router}"), "leave it out of the pool");
            }
            size += u64::from(pool.len());
        }
        if size > limits::DHCP_POOL as u64 {
            problems.add(
                "pools",
                format!("{net} has {size} addresses in its pools"),
                format!("at most {}", limits::DHCP_POOL),
            );
        }
        if self.router.is_some_and(|router| !net.contains(&router)) {
            problems.add(
                "router",
                format!("the router of {net} is outside of it"),
                "a machine cannot reach such a router",
            );
        }
        if self.lease_seconds < limits::DHCP_LEASE_MIN {
            problems.add(
                "lease_seconds",
                format!("leases of {} s", self.lease_seconds),
                format!("at least {} s, or machines lose their address while they install", limits::DHCP_LEASE_MIN),
            );
        }
        if self.dns.len() > limits::DHCP_SERVERS || self.ntp.len() > limits::DHCP_SERVERS {
            problems.add("dns", format!("more than {} servers", limits::DHCP_SERVERS), "firmware reads the first few");
        }
        if self.domain.as_deref().is_some_and(|d| !is_name(d)) {
            problems.add("domain", "not a domain name", "letters, digits, - and . (RFC 1123)");
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

struct Problems(Vec<(String, String, String)>);

impl Problems {
    fn add(&mut self, at: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push((at.into(), what.into(), remedy.into()));
    }
}

#[cfg(test)]
mod tests;
