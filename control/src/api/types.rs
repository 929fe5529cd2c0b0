//! The operator's API as it is on the wire: JSON over HTTP/1.1, on the Unix
//! socket `run/control.sock` of the state directory (owner only) and, where
//! configured, on a TCP address.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/status` | [`Status`] |
//! | `GET /api/v1/boots` | [`BootList`]: the latest boot of each machine |
//! | `GET /api/v1/boots/{mac}` | [`MachineStory`] |
//! | `GET /api/v1/boots/watch[?mac=...]` | [`WatchLine`], one JSON object a line, until the client leaves |
//! | `GET /api/v1/machines` | [`MachineList`] |
//! | `GET /api/v1/machines/{uuid or mac}` | [`MachineRecord`] |
//! | `GET /api/v1/environments` | [`EnvironmentList`] |
//! | `POST /api/v1/environments/{name}/refetch` | [`Refetching`] (202) |
//!
//! Anything but success carries [`Problem`]. Fields are only ever added.

use crate::observe::Observation;
use protocol::id::{Arch, Mac, MachineId};
use protocol::report::{Hello, Level};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Why a request did not succeed, and what to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, one sentence.
    pub error: String,
    /// What to do about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// How control is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// stoker-control's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, ms since 1970 UTC.
    pub started_ms: u64,
    /// When this was written, ms since 1970 UTC.
    pub now_ms: u64,
    /// The interface served, where one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Our address as nodes see it.
    pub address: IpAddr,
    /// Base URL of scripts and agents, such as `http://10.0.0.2:8081`.
    pub control_url: String,
    /// Base URL of the edge, such as `http://10.0.0.2:8080`.
    pub edge_url: String,
    /// `proxy`, `server` or `off`.
    pub dhcp_mode: String,
    /// The state directory.
    pub state_dir: String,
    /// The generation of names that control last published.
    pub generation: u64,
    /// The edge, as its state file tells; absent when it never wrote one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeStatus>,
    /// Version of the bundle that was published; absent without a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Machines that ever said hello.
    pub machines: u64,
    /// Boots under way now.
    pub booting: u64,
    /// Observations dropped because a queue was full.
    pub observations_lost: u64,
    /// What stands in the way of booting machines, one sentence each; empty when all is well.
    pub problems: Vec<String>,
}

/// The edge as its state file tells.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Its process id.
    pub pid: u32,
    /// Whether a process of that id is there.
    pub alive: bool,
    /// The generation that it serves.
    pub generation: u64,
    /// `uring` or `epoll`.
    pub driver: String,
    /// Names that it could not serve, and why.
    pub refused: BTreeMap<String, String>,
    /// Its addresses, by service (`tftp`, `http`, `metrics`).
    pub listen: BTreeMap<String, Vec<String>>,
    /// When it wrote that, ms since 1970 UTC.
    pub at_ms: u64,
}

/// A machine is about to be switched on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerOn {
    /// What people call it.
    pub name: String,
}

/// The latest boot of each machine, newest activity first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BootList {
    /// One for each machine.
    pub boots: Vec<BootSummary>,
}

/// One line about one boot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BootSummary {
    /// Tells boots of one machine apart; rises.
    pub boot: u64,
    /// The interface that boots.
    pub mac: Mac,
    /// SMBIOS UUID, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    /// Its address, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// `UEFI x64 PXE`, ...; empty until known.
    pub firmware: String,
    /// Where it is.
    pub phase: Phase,
    /// How far through the whole way to its goal, 0 to 100; never falls during one boot.
    pub percent: u8,
    /// What happens just now, one line (`TFTP snponly.efi 43 %`).
    pub doing: String,
    /// First sign of life of this boot, ms since 1970 UTC.
    pub started_ms: u64,
    /// Last sign of life, ms since 1970 UTC.
    pub last_ms: u64,
    /// When it reached its goal (agent, installer or disk), ms since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_ms: Option<u64>,
    /// Why it is stuck and what to do; absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
}

/// Where a boot is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Switched on, or firmware asks for an address and a boot file.
    Dhcp,
    /// Firmware loads the boot program (iPXE).
    Loader,
    /// iPXE runs and asks for an address or its script.
    Ipxe,
    /// The script is out.
    Script,
    /// The kernel is being loaded.
    Kernel,
    /// The initial ramdisk is being loaded.
    Initrd,
    /// Everything is loaded; the kernel starts.
    Starting,
    /// Goal: our agent runs.
    Agent,
    /// Goal: an operating system's installer got all its files.
    Handed,
    /// Goal: sent to boot from its disk.
    Disk,
}

impl Phase {
    /// Whether nothing more is expected of us.
    pub const fn is_goal(self) -> bool {
        matches!(self, Self::Agent | Self::Handed | Self::Disk)
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "DHCP",
            Self::Loader => "boot loader",
            Self::Ipxe => "iPXE",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Starting => "starting",
            Self::Agent => "agent ready",
            Self::Handed => "OS started",
            Self::Disk => "local disk",
        }
    }
}

/// One cause and one remedy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Which rule spoke; stable, for documentation (`offer-without-request`).
    pub rule: String,
    /// What is wrong, one sentence.
    pub cause: String,
    /// What to do, one sentence.
    pub remedy: String,
    /// Since when, ms since 1970 UTC.
    pub since_ms: u64,
}

/// Everything about one boot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Boot {
    /// The one-line view.
    #[serde(flatten)]
    pub summary: BootSummary,
    /// Its steps in order of their beginning.
    pub steps: Vec<Step>,
    /// Steps left out because there were too many.
    #[serde(default)]
    pub steps_lost: u32,
}

/// One step of a boot. Repetitions are counted, not listed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// When it began, ms since 1970 UTC.
    pub at_ms: u64,
    /// When it ended or was last seen, ms since 1970 UTC.
    pub last_ms: u64,
    /// Which kind, stable (`dhcp_discover`, `file`, `script`, `agent_hello`, ...).
    pub kind: String,
    /// For people: `DISCOVER (UEFI x64 PXE)`, `TFTP snponly.efi`.
    pub title: String,
    /// More words: `blksize 1468, windowsize 4`; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How it went.
    pub state: StepState,
    /// Files: bytes so far.
    #[serde(default)]
    pub bytes: u64,
    /// Files: bytes in all.
    #[serde(default)]
    pub total: u64,
    /// How often it was seen (1 = once).
    pub count: u32,
}

/// How a step went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Under way.
    Running,
    /// As it should be.
    Ok,
    /// Worth a look.
    Warn,
    /// It failed.
    Failed,
}

/// A machine and its last boots.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineStory {
    /// The interface that boots.
    pub mac: Mac,
    /// Oldest first; the last is the present one.
    pub boots: Vec<Boot>,
    /// What its agent told, where it ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineRecord>,
}

/// One line of a watch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly every line is a boot, and lines are not kept")]
pub enum WatchLine {
    /// A boot as it now is. At the start of a watch: one for each machine.
    Boot {
        /// The boot.
        boot: BootSummary,
        /// What was just seen; absent at the start of a watch and where only time went by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Observation>,
    },
    /// Every present boot has been sent; what follows is new.
    Synced,
    /// The reader was too slow: this many lines are missing. The boots that follow are whole again.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// Sent every 10 s when nothing else was, so that a dead connection is noticed.
    Alive {
        /// ms since 1970 UTC.
        now_ms: u64,
    },
    /// A kind that this reader does not know.
    #[serde(other)]
    Unknown,
}

/// All machines that ever said hello.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MachineList {
    /// By id.
    pub machines: Vec<MachineRecord>,
}

/// What is kept of a machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Its UUID, or the MAC where the UUID is a placeholder.
    pub id: String,
    /// SMBIOS UUID, unless firmware left it unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    /// The interface that network-booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its address at the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// First hello, ms since 1970 UTC.
    pub first_ms: u64,
    /// Last hello, ms since 1970 UTC.
    pub hello_ms: u64,
    /// Its last hello, whole: agent version, boot id and `facts` (system, compute, memory, storage, network, gaps).
    pub hello: Hello,
    /// Last report of any kind, ms since 1970 UTC (not kept over a restart of control).
    #[serde(default)]
    pub seen_ms: u64,
    /// The level last reported (not kept over a restart of control).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Why this record may not be trusted, such as another machine with the same UUID; empty when all is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// All environments.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EnvironmentList {
    /// By name.
    pub environments: Vec<EnvironmentStatus>,
}

/// One environment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EnvironmentStatus {
    /// Its name.
    pub name: String,
    /// Whether machines without one of their own get it.
    pub is_default: bool,
    /// `object` for a declared one, `config` for one of the configuration file, or `bundle` for the
    /// agents that stoker brings along.
    pub source: String,
    /// Whether every architecture can be installed.
    pub ready: bool,
    /// One for each architecture.
    pub arches: Vec<EnvironmentArch>,
    /// What else is to be known of it, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One architecture of an environment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EnvironmentArch {
    /// Which.
    pub arch: Arch,
    /// Kernel arguments as configured.
    pub args: Vec<String>,
    /// Kernel and initrd, or a disk image.
    pub assets: Vec<AssetStatus>,
}

/// One file of an environment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AssetStatus {
    /// `kernel`, `initrd` or `image`.
    pub role: String,
    /// The name under which the edge serves it, such as `env/talos/x86_64/vmlinuz`.
    pub name: String,
    /// Where it comes from.
    pub url: String,
    /// The digest asked for (`sha256:...`, `sha512:...`); empty when none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// How far it is.
    #[serde(flatten)]
    pub state: AssetState,
}

/// How far an asset is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AssetState {
    /// Not begun.
    Pending,
    /// Being fetched.
    Fetching {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all, where the server told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// Which try, from 1.
        attempt: u32,
    },
    /// Fetched, verified and published.
    Ready {
        /// Its SHA-256.
        sha256: String,
        /// Its length, bytes.
        bytes: u64,
    },
    /// It did not work; an earlier version, if there was one, is still served.
    Failed {
        /// What happened and what to do.
        why: String,
        /// Tries so far.
        attempts: u32,
        /// When the next try begins, ms since 1970 UTC.
        retry_ms: u64,
    },
}

/// The answer to a refetch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Refetching {
    /// How many assets will be fetched again.
    pub assets: u32,
}
