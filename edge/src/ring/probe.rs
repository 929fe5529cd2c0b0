//! What this kernel allows: io_uring as a whole, and each feature of it.
//!
//! Every refusal comes with its reason in words, for the log line at start and
//! for `doctor`. Nothing is believed that was not tried: flags are tried by
//! setting up a ring with them, multishot recvmsg by receiving a datagram.

use super::uring::Uring;
use super::{Completion, Ring, UdpPayload, UdpSend, epoll::Epoll};
use crate::limits::{CQ_ENTRIES, SQ_ENTRIES};
use io_uring::{IoUring, Probe, opcode};
use protocol::time::Duration;
use serde::Serialize;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};

/// What io_uring can do here beyond what the uring driver cannot do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Features {
    /// SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN (6.1).
    pub deferred_work: bool,
    /// SEND_ZC with REPORT_USAGE (6.2).
    pub send_zc: bool,
    /// SENDMSG_ZC (6.1).
    pub sendmsg_zc: bool,
    /// Registered buffers, a sparse table that is filled later (5.19).
    pub registered_buffers: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.deferred_work, "deferred task work"),
            (self.send_zc, "SEND_ZC"),
            (self.sendmsg_zc, "SENDMSG_ZC"),
            (self.registered_buffers, "registered buffers"),
        ];
        for (i, (has, name)) in named.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(out, "{comma}{}{name}", if *has { "" } else { "no " })?;
        }
        Ok(())
    }
}

/// Why io_uring cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Tries everything the uring driver needs, from a ring to a datagram received through it.
///
/// # Errors
/// The reason in words, with what the operator can do.
pub fn uring() -> Result<Features, Refused> {
    let mut ring = Uring::new().map_err(|e| Refused(explain(&e)))?;
    receive_one(&mut ring)?;
    Ok(ring.features())
}

/// A ring with as many of the flags as the kernel takes, and what else it can do.
pub(super) fn set_up() -> io::Result<(IoUring, Features)> {
    let mut features = Features { deferred_work: true, ..Features::default() };
    let ring = match IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_cqsize(CQ_ENTRIES)
        .build(SQ_ENTRIES)
    {
        Ok(ring) => ring,
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            features.deferred_work = false;
            IoUring::builder().dontfork().setup_cqsize(CQ_ENTRIES).build(SQ_ENTRIES)?
        }
        Err(e) => return Err(e),
    };
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring without EXT_ARG (before kernel 5.11)"));
    }
    let mut probe = Probe::new();
    if ring.submitter().register_probe(&mut probe).is_ok() {
        features.sendmsg_zc = probe.is_supported(opcode::SendMsgZc::CODE);
        // REPORT_USAGE came one release after SENDMSG_ZC; a kernel without it says EINVAL to the
        // first send, and the driver goes on without zero-copy then.
        features.send_zc = features.sendmsg_zc && probe.is_supported(opcode::SendZc::CODE);
    }
    Ok((ring, features))
}

/// Multishot recvmsg with provided buffers and packet info (6.0) shows by use only.
fn receive_one(ring: &mut Uring) -> Result<(), Refused> {
    const PATIENCE: Duration = Duration::from_millis(500);
    const TURNS: usize = 16;
    let broken = |e: io::Error| Refused(format!("io_uring works, but not with UDP: {e}"));
    let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(broken)?;
    let to = ours.local_addr().map_err(broken)?;
    let socket = ring.udp_add(ours.into()).map_err(broken)?;
    let payload = UdpPayload::Small(b"probe".to_vec());
    let _ = ring.udp_send(UdpSend { socket, to, from: None, payload });
    let until = ring.now() + PATIENCE;
    let mut seen = false;
    for _ in 0..TURNS {
        let mut failed = None;
        ring.wait(Some(until), &mut |_, completion| match completion {
            Completion::Datagram(datagram) => seen |= datagram.bytes == b"probe",
            Completion::UdpFailed { error, .. } => failed = Some(error),
            _ => {}
        })
        .map_err(broken)?;
        if let Some(error) = failed.or_else(|| ring.broken_receive()) {
            return Err(Refused(format!(
                "this kernel's io_uring has no multishot recvmsg (it came with 6.0): {error}"
            )));
        }
        if seen {
            return Ok(());
        }
        if ring.now() >= until {
            break;
        }
    }
    Err(Refused("io_uring works, but a datagram sent to itself did not come in within 0.5 s".into()))
}

/// Why setting up a ring failed, in words.
fn explain(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    explain_with(error, disabled.ok().as_deref().map(str::trim))
}

fn explain_with(error: &io::Error, disabled: Option<&str>) -> String {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(level @ ("1" | "2"))) => format!(
            "kernel.io_uring_disabled is {level}; for io_uring: sysctl kernel.io_uring_disabled=0, or put the edge into the group kernel.io_uring_group"
        ),
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring is refused by a seccomp filter (the default of containerd 2 and Docker 25); for io_uring allow io_uring_setup, io_uring_enter and io_uring_register in the profile".into()
        }
        (Some(libc::ENOSYS), _) => {
            "io_uring is not there: a kernel without CONFIG_IO_URING or before 5.11, or a sandbox that hides it".into()
        }
        (Some(libc::ENOMEM), _) => "no memory for a ring: RLIMIT_MEMLOCK (ulimit -l) or the memory limit of the container is too low".into(),
        (Some(libc::EMFILE | libc::ENFILE), _) => "no descriptor left for a ring: raise RLIMIT_NOFILE (ulimit -n)".into(),
        (Some(libc::EINVAL), _) => "the kernel's io_uring is too old for provided buffer rings (they came with 5.19)".into(),
        _ => format!("a ring could not be set up: {error}"),
    }
}

/// Either driver, as the probe found it.
pub enum Chosen {
    /// io_uring, with these features.
    Uring(Features),
    /// epoll, for this reason.
    Epoll(String),
}

/// Which driver the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Wanted {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or the edge does not start.
    Uring,
    /// epoll with GSO and splice.
    Epoll,
}

/// Chooses the driver.
///
/// # Errors
/// io_uring was demanded and is refused.
pub fn choose(wanted: Wanted) -> Result<Chosen, Refused> {
    match wanted {
        Wanted::Epoll => Ok(Chosen::Epoll("asked for with --driver epoll".into())),
        Wanted::Uring => uring().map(Chosen::Uring),
        Wanted::Auto => Ok(match uring() {
            Ok(features) => Chosen::Uring(features),
            Err(Refused(why)) => Chosen::Epoll(why),
        }),
    }
}

/// What [`choose`] says, as `doctor` reads it: `driver`, `reason`, and with io_uring its `features`.
pub fn report(wanted: Wanted) -> String {
    #[derive(Serialize)]
    struct Report {
        driver: &'static str,
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        features: Option<Features>,
    }
    let report = match choose(wanted) {
        Ok(Chosen::Uring(features)) => {
            Report { driver: "uring", reason: features.to_string(), features: Some(features) }
        }
        Ok(Chosen::Epoll(reason)) | Err(Refused(reason)) => Report { driver: "epoll", reason, features: None },
    };
    serde_json::to_string(&report).unwrap_or_default()
}

/// An epoll ring; here so that callers need only this module.
///
/// # Errors
/// No descriptors or memory left.
pub fn epoll() -> io::Result<Epoll> {
    Epoll::new()
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
