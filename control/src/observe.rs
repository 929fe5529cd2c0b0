//! What the parts of control see of machines. They hand it over; they do not
//! act on it, and they write no status themselves.
//!
//! DHCP, the script server, the agent's API and the reader of the edge's
//! events all push [`Observation`]s into one bounded queue; the timeline (and
//! later the reconciler) reads it. A full queue drops the observation and
//! counts it: seeing must never slow down serving.

use protocol::event::{Outcome, Proto};
use protocol::id::{Arch, Mac, MachineId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One thing seen of one machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// Wall clock, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Which machine. Without it the observation is tied by `ip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its address at that moment, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Its SMBIOS UUID, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineId>,
    /// What was seen.
    #[serde(flatten)]
    pub what: Milestone,
}

/// The milestones of a boot, in the order in which a good boot passes them.
/// Texts that came from the network are escaped and cut before they get here.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "milestone", rename_all = "snake_case")]
pub enum Milestone {
    /// Somebody switched it on and said so: the virtual rack.
    PowerOn {
        /// The machine's name there.
        name: String,
    },
    /// DHCPDISCOVER.
    DhcpDiscover {
        /// Who asks, in words: `UEFI x64 PXE`, `BIOS PXE`, `UEFI x64 HTTP boot`, `iPXE (UEFI x64)`, `Linux`.
        client: String,
        /// Through which relay (giaddr).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay: Option<IpAddr>,
    },
    /// We sent a DHCPOFFER.
    DhcpOffer {
        /// The boot file or URL offered; empty when only an address was.
        file: String,
        /// The address offered (server mode).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// We saw the client and said nothing, for this reason.
    DhcpIgnored {
        /// In words.
        why: String,
    },
    /// DHCPREQUEST (port 67), to us or to another server.
    DhcpRequest {
        /// The server that the client chose (option 54), where given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<IpAddr>,
    },
    /// A PXE request on port 4011.
    PxeRequest,
    /// We sent a DHCPACK (67 or 4011).
    DhcpAck {
        /// The boot file or URL in it; may be empty.
        file: String,
    },
    /// We sent a DHCPNAK.
    DhcpNak {
        /// In words.
        why: String,
    },
    /// Another DHCP server answered a machine that we watch.
    ForeignOffer {
        /// That server.
        server: IpAddr,
    },
    /// The edge began to send a file.
    FileStarted {
        /// TFTP or HTTP.
        proto: Proto,
        /// Which file.
        name: String,
        /// Its length, bytes.
        total: u64,
        /// Agreed TFTP block size, bytes; 0 for HTTP.
        blksize: u32,
        /// Agreed TFTP windowsize; 0 for HTTP.
        windowsize: u32,
    },
    /// Part of a file has arrived.
    FileProgress {
        /// TFTP or HTTP.
        proto: Proto,
        /// Which file.
        name: String,
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A file transfer is over.
    FileEnded {
        /// TFTP or HTTP.
        proto: Proto,
        /// Which file.
        name: String,
        /// How it ended.
        outcome: Outcome,
        /// Bytes that went out.
        bytes: u64,
        /// Bytes in all.
        total: u64,
        /// TFTP packets sent again.
        retries: u32,
        /// How long it took, microseconds.
        elapsed_us: u64,
        /// Words, where it did not complete.
        why: String,
    },
    /// A file was asked for and refused.
    FileRefused {
        /// TFTP or HTTP.
        proto: Proto,
        /// Which name.
        name: String,
        /// Why, in words.
        why: String,
    },
    /// iPXE asked for its script.
    Script {
        /// What we sent it to: `agent`, `environment default`, `local disk`, ...
        to: String,
        /// HTTP status of the answer.
        status: u16,
        /// Words, where the status is not 200.
        why: String,
    },
    /// The agent said hello.
    AgentHello {
        /// Its version.
        version: String,
        /// Seconds since its kernel started.
        uptime_s: f64,
        /// Architecture of the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arch: Option<Arch>,
        /// A line for people: product, cores, memory, disks, interfaces.
        summary: String,
    },
    /// Somebody asked for a machine's configuration.
    Config {
        /// HTTP status of the answer.
        status: u16,
        /// Words, where the status is not 200.
        why: String,
    },
    /// An installer or an installed system reported.
    Report {
        /// `installed`, `install_failed` or `running`.
        event: String,
        /// More words; may be empty.
        detail: String,
    },
    /// Something is done to the machine by its BMC.
    Power {
        /// `network boot`, `disk boot`, `off`, `on`.
        action: String,
        /// Whether the machine starts by it.
        starts: bool,
        /// How it ended; none: it begins now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        done: Option<bool>,
        /// Words, where it failed.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
    },
    /// The machine goes on in its life.
    Life {
        /// The phase of its Server.
        phase: String,
        /// In words: why.
        why: String,
    },
    /// The agent asked for its order (shown once per change).
    AgentStatus {
        /// The order's id.
        order: u64,
        /// How far, in words.
        level: String,
        /// More words; may be empty.
        detail: String,
    },
}

/// Where observations go: the sending half of one bounded queue.
#[derive(Clone)]
pub struct Observer {
    queue: tokio::sync::mpsc::Sender<Observation>,
    lost: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Observer {
    /// Observations that may wait to be read.
    pub const QUEUE: usize = 8192;

    /// An observer and the queue that it fills.
    pub fn new() -> (Self, tokio::sync::mpsc::Receiver<Observation>) {
        let (queue, read) = tokio::sync::mpsc::channel(Self::QUEUE);
        (Self { queue, lost: std::sync::Arc::default() }, read)
    }

    /// Hands one over; never waits.
    pub fn see(&self, seen: Observation) {
        if self.queue.try_send(seen).is_err() {
            self.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// How many were dropped because the queue was full.
    pub fn lost(&self) -> u64 {
        self.lost.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// The wall clock in the unit that observations use.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
