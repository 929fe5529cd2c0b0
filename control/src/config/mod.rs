//! What the operator wants: `stoker.yaml` and the flags that override it.
//!
//! A file is checked whole: every problem is reported, each with its line and
//! what to do, before anything is started.

mod check;
mod node;
#[cfg(test)]
mod tests;

pub use node::Problem;

use crate::dhcp;
use clap::ValueEnum;
use protocol::id::{Arch, Mac, MachineId};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Port of scripts and of the agent's API, as with Sidero.
pub const DEFAULT_HTTP_PORT: u16 = 8081;
/// Port on which the edge serves files.
pub const DEFAULT_EDGE_HTTP_PORT: u16 = 8080;
/// Where state is kept when nothing else is said.
pub const DEFAULT_STATE: &str = "/var/lib/stoker";

/// Everything that control was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state directory, shared with the edge.
    pub state: PathBuf,
    /// The interface on which DHCP is answered; also where `address` was found.
    pub interface: Option<String>,
    /// Our address as nodes see it.
    pub address: IpAddr,
    /// TCP port of scripts and the agent's API.
    pub http_port: u16,
    /// TCP port of the edge's file server.
    pub edge_http_port: u16,
    /// An address for the operator's API beside the Unix socket.
    pub api_listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where declared objects are kept.
    pub store: StoreChoice,
    /// Which of Cluster API's objects are looked after.
    pub scope: crate::provider::Scope,
    /// DHCP.
    pub dhcp: dhcp::settings::Settings,
    /// The folder that `stoker-bundle` made: boot loaders, agent kernel and initramfs.
    pub bundle: Option<PathBuf>,
    /// What machines can be booted into, by name.
    pub environments: BTreeMap<String, Environment>,
    /// The environment of machines that name none.
    pub default_environment: Option<String>,
    /// What machines get that `machines` does not list.
    pub unknown_machines: Goal,
    /// How a machine is sent to its disk, unless its rule says otherwise.
    pub boot_from_disk_method: DiskMethod,
    /// Who may fetch a machine's configuration.
    pub config_access: ConfigAccess,
    /// Rules for single machines.
    pub machines: Vec<MachineRule>,
    /// Script templates in place of our own.
    pub templates: Templates,
    /// The agent.
    pub agent: AgentSettings,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where declared objects are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum StoreChoice {
    /// In a file of the state directory.
    #[default]
    Embedded,
    /// In a Kubernetes API server.
    Kubernetes {
        /// How it is reached; by `KUBECONFIG`, `~/.kube/config` or as a pod where absent.
        kubeconfig: Option<PathBuf>,
        /// Where the Lease and stoker's own Secrets are.
        namespace: String,
    },
}

/// Where a machine is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Goal {
    /// Into our agent, which takes inventory and holds.
    #[default]
    Agent,
    /// Into its environment (or the default one).
    Environment,
    /// To its own disk.
    Disk,
}

/// Who may fetch a machine's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConfigAccess {
    /// The machine, in the boot in which it is installed: by a token in its kernel arguments.
    #[default]
    Token,
    /// Everybody who knows its UUID, as with Sidero.
    Open,
}

/// How a machine is sent on to its disk (Sidero's `bootFromDiskMethod`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskMethod {
    /// By firmware: UEFI goes on to its next boot entry, for a BIOS iPXE starts the first disk.
    #[default]
    Auto,
    /// iPXE exits; firmware tries its next boot entry.
    IpxeExit,
    /// iPXE boots the first BIOS disk.
    IpxeSanboot,
    /// The script does not exist.
    Http404,
}

/// One environment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// By architecture.
    pub arches: BTreeMap<Arch, EnvironmentArch>,
    /// Sidero's form: one set of files, whatever the machine says it is.
    pub any_arch: bool,
}

/// One architecture of an environment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvironmentArch {
    /// The kernel.
    pub kernel: AssetSource,
    /// The initial ramdisk.
    pub initrd: AssetSource,
    /// Kernel arguments.
    pub args: Vec<String>,
}

/// Where a file comes from and how it is known to be the right one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AssetSource {
    /// `http://`, `https://` or `file:///`.
    pub url: String,
    /// What it must hash to.
    pub digest: Option<Digest>,
    /// How long it must be, bytes.
    pub size: Option<u64>,
}

/// A digest to check against.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Digest {
    /// SHA-256, lower-case hex.
    Sha256(String),
    /// SHA-512, lower-case hex.
    Sha512(String),
}

/// A rule for one machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineRule {
    /// A word for people.
    pub name: String,
    /// Which machine: its boot interface...
    pub mac: Option<Mac>,
    /// ... or its SMBIOS UUID.
    pub uuid: Option<MachineId>,
    /// Where it is sent.
    pub goal: Goal,
    /// Its environment; the default one where absent.
    pub environment: Option<String>,
    /// Kernel arguments in addition; they override others of the same key.
    pub args: Vec<String>,
    /// How it is sent to its disk.
    pub boot_from_disk_method: Option<DiskMethod>,
}

/// Script templates read from files of the operator; absent means ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Templates {
    /// `/boot.ipxe` and `/autoexec.ipxe`.
    pub boot: Option<String>,
    /// A kernel with its initrd: agent and environments.
    pub environment: Option<String>,
    /// Local disk.
    pub disk: Option<String>,
}

/// The agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentSettings {
    /// Kernel arguments in addition; they override ours of the same key.
    pub extra_args: Vec<String>,
    /// How often it asks for its order, seconds.
    pub poll_seconds: u32,
    /// Whether it gives the BMC of an accepted machine a user, where nobody has declared that BMC.
    pub auto_bmc_setup: bool,
    /// Machines that may begin to erase their disks within a minute (W12).
    pub wipes_per_minute: usize,
}

/// Flags that override the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Directory for state, shared with the edge
    #[arg(long, value_name = "DIR", env = "STOKER_STATE")]
    pub state: Option<PathBuf>,
    /// Network interface on which machines boot
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Our address as machines see it (default: the interface's first)
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// proxy (beside another DHCP server), server, or off
    #[arg(long, value_name = "MODE")]
    pub dhcp_mode: Option<String>,
    /// TCP port of scripts and the agent's API
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// TCP port on which the edge serves files
    #[arg(long, value_name = "PORT")]
    pub edge_http_port: Option<u16>,
    /// Folder made by stoker-bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Also serve the operator's API on this address
    #[arg(long, value_name = "IP:PORT")]
    pub api_listen: Option<SocketAddr>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Where declared objects are kept: embedded (the state directory) or kubernetes
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// How the cluster of --store kubernetes is reached [default: $KUBECONFIG, ~/.kube/config, or as a pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of stoker's Lease and Secrets in the cluster [default: stoker]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Look after Cluster API's objects of this namespace alone [default: of all]
    #[arg(long, value_name = "NAME")]
    pub watch_namespace: Option<String>,
    /// Look only after those of Cluster API's objects whose label cluster.x-k8s.io/watch-filter has this value
    #[arg(long, value_name = "VALUE")]
    pub watch_filter: Option<String>,
}

/// Reads, checks and completes the configuration. Without a file, the flags
/// and the defaults must do.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Settings, Vec<Problem>> {
    let Some(path) = path else { return check::settings("", Path::new("."), overrides) };
    let text = std::fs::read(path).map_err(|e| whole(format!("{} cannot be read: {e}", path.display())))?;
    if text.len() > crate::limits::CONFIG_BYTES {
        return Err(whole(format!("{} is larger than {} bytes", path.display(), crate::limits::CONFIG_BYTES)));
    }
    let text = String::from_utf8(text).map_err(|_| whole(format!("{} is not UTF-8 text", path.display())))?;
    check::settings(&text, path.parent().unwrap_or(Path::new(".")), overrides)
}

fn whole(what: String) -> Vec<Problem> {
    vec![Problem { line: 0, at: String::new(), what, remedy: "give the right file with --config".into() }]
}

impl Settings {
    /// Base URL of scripts and the agent's API as nodes see it.
    pub fn control_url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.address, self.http_port))
    }

    /// Base URL of the edge as nodes see it.
    pub fn edge_url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.address, self.edge_http_port))
    }

    /// The rule for a machine: by UUID first, since it stays when a network card is changed.
    pub fn rule(&self, uuid: Option<MachineId>, mac: Option<Mac>) -> Option<&MachineRule> {
        let by_uuid = uuid.filter(|u| !u.is_placeholder());
        let rules = || self.machines.iter();
        rules()
            .find(|r| by_uuid.is_some() && r.uuid == by_uuid)
            .or_else(|| rules().find(|r| mac.is_some() && r.mac == mac))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(out, "sha256:{hex}"),
            Self::Sha512(hex) => write!(out, "sha512:{hex}"),
        }
    }
}

/// A text that is not one of the words that belong there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotThat(&'static str);

impl FromStr for Digest {
    type Err = NotThat;

    /// `sha256:HEX`, `sha512:HEX`, or the hex alone: its length tells which.
    fn from_str(text: &str) -> Result<Self, NotThat> {
        let (kind, hex) = text.split_once(':').map_or((None, text), |(k, h)| (Some(k), h));
        let is_hex = hex.bytes().all(|c| c.is_ascii_hexdigit());
        match (kind, hex.len()) {
            (None | Some("sha256"), 64) if is_hex => Ok(Self::Sha256(hex.to_ascii_lowercase())),
            (None | Some("sha512"), 128) if is_hex => Ok(Self::Sha512(hex.to_ascii_lowercase())),
            _ => Err(NotThat("a digest is sha256: and 64, or sha512: and 128 hex digits")),
        }
    }
}

impl FromStr for DiskMethod {
    type Err = NotThat;
    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "auto" => Ok(Self::Auto),
            "ipxe-exit" => Ok(Self::IpxeExit),
            "ipxe-sanboot" => Ok(Self::IpxeSanboot),
            "http-404" => Ok(Self::Http404),
            _ => Err(NotThat("the methods are auto, ipxe-exit, ipxe-sanboot and http-404")),
        }
    }
}

impl FromStr for Goal {
    type Err = NotThat;
    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "agent" => Ok(Self::Agent),
            "environment" => Ok(Self::Environment),
            "disk" => Ok(Self::Disk),
            _ => Err(NotThat("the choices are agent, environment and disk")),
        }
    }
}

impl FromStr for ConfigAccess {
    type Err = NotThat;
    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "token" => Ok(Self::Token),
            "open" => Ok(Self::Open),
            _ => Err(NotThat("the choices are token and open")),
        }
    }
}

impl FromStr for LogFormat {
    type Err = NotThat;
    fn from_str(text: &str) -> Result<Self, NotThat> {
        <Self as ValueEnum>::from_str(text, false).map_err(|_| NotThat("the formats are text and json"))
    }
}
