//! What the kernel grants: limits, receive buffers, io_uring.

use super::{Finding, Verdict};
use rustix::process::{Resource, getrlimit};
use serde::Deserialize;
use std::process::{Command, Stdio};

/// Open files that an edge with some thousand transfers needs.
const FILES: u64 = 16_384;
/// Memory that the edge registers with its rings, bytes.
const LOCKED: u64 = 64 << 20;
/// Receive buffer of the edge's UDP sockets, bytes: a storm of some thousand requests.
const RECEIVE_BUFFER: u64 = 4 << 20;
/// CAP_IPC_LOCK and CAP_NET_ADMIN in `/proc/self/status` (capability.h).
const CAP_IPC_LOCK: u32 = 14;
const CAP_NET_ADMIN: u32 = 12;

pub fn examine() -> Vec<Finding> {
    vec![open_files(), locked_memory(), receive_buffer(), io_uring()]
}

fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    // The edge raises its soft limit to the hard one by itself.
    match limit.maximum {
        Some(hard) if hard < FILES => Finding::look(
            "open files",
            format!("at most {hard}: enough for some {} transfers at once", hard.saturating_sub(64)),
            "LimitNOFILE=65536 in the service, or ulimit -Hn 65536",
        ),
        hard => Finding::good("open files", format!("at most {}", words(hard))),
    }
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        _ if has_capability(CAP_IPC_LOCK) => Finding::good("locked memory", "unlimited by CAP_IPC_LOCK"),
        Some(limit) if limit < LOCKED => Finding::look(
            "locked memory",
            format!("at most {} KiB: images are sent without registered buffers", limit >> 10),
            "LimitMEMLOCK=infinity in the service",
        ),
        limit => Finding::good("locked memory", format!("at most {}", words(limit))),
    }
}

fn receive_buffer() -> Finding {
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    match text.trim().parse::<u64>() {
        Ok(max) if max >= RECEIVE_BUFFER => Finding::good("receive buffer", format!("net.core.rmem_max {max}")),
        // SO_RCVBUFFORCE goes beyond the maximum.
        Ok(max) if has_capability(CAP_NET_ADMIN) => {
            Finding::good("receive buffer", format!("net.core.rmem_max is {max}, which CAP_NET_ADMIN may exceed"))
        }
        Ok(max) => Finding::look(
            "receive buffer",
            format!(
                "net.core.rmem_max is {max}, wanted are {RECEIVE_BUFFER}: requests may be lost when a whole rack starts at once"
            ),
            format!("sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"),
        ),
        Err(_) => Finding::good("receive buffer", "net.core.rmem_max is not told in this namespace"),
    }
}

/// What `stoker-edge --probe` prints; more fields may come.
#[derive(Deserialize, Debug)]
struct Probe {
    driver: String,
    #[serde(default)]
    reason: String,
}

fn io_uring() -> Finding {
    let edge = crate::up::find("stoker-edge");
    let out = Command::new(&edge).arg("--probe").stdin(Stdio::null()).output();
    let probe = match out {
        Ok(out) => serde_json::from_slice::<Probe>(&out.stdout).map_err(|e| format!("{} --probe: {e}", edge.display())),
        Err(e) => Err(format!("{}: {e}", edge.display())),
    };
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let seccomp = status_field("Seccomp").is_some_and(|mode| mode != "0");
    judge(probe, disabled.trim(), seccomp)
}

fn judge(probe: Result<Probe, String>, disabled: &str, seccomp: bool) -> Finding {
    let probe = match probe {
        Ok(probe) => probe,
        Err(why) => return Finding::new(Verdict::Look, "io_uring", why, "put stoker-edge beside stoker, or into PATH"),
    };
    if probe.driver == "uring" {
        let reason = if probe.reason.is_empty() { String::new() } else { format!(" ({})", probe.reason) };
        return Finding::good("io_uring", format!("works{reason}"));
    }
    let (cause, remedy) = match (disabled, seccomp) {
        ("2", _) => (": kernel.io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0"),
        ("1", _) => (
            ": kernel.io_uring_disabled is 1",
            "put the edge's group into kernel.io_uring_group, or sysctl -w kernel.io_uring_disabled=0",
        ),
        (_, true) => (
            ": a seccomp filter is in force, as in containers of containerd 2 and Docker 25",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
        ),
        _ => ("", "a kernel from 6.1 on has all that is used"),
    };
    Finding::look(
        "io_uring",
        format!("refused ({}){cause}; the edge runs on epoll, which serves as well at more CPU", probe.reason),
        remedy,
    )
}

fn has_capability(number: u32) -> bool {
    status_field("CapEff").and_then(|hex| u64::from_str_radix(&hex, 16).ok()).is_some_and(|set| set >> number & 1 == 1)
}

fn status_field(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn words(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<Probe, String> {
        Ok(Probe { driver: "epoll".into(), reason: "io_uring_setup: EPERM".into() })
    }

    #[test]
    fn each_refusal_of_io_uring_has_its_remedy() {
        let good = judge(Ok(Probe { driver: "uring".into(), reason: String::new() }), "0", false);
        assert_eq!(good.verdict, Verdict::Good);
        assert!(judge(refused(), "2", false).remedy.contains("io_uring_disabled=0"));
        assert!(judge(refused(), "1", true).remedy.contains("io_uring_group"));
        assert!(judge(refused(), "0", true).remedy.contains("seccomp"));
        assert!(judge(Err("not found".into()), "0", false).text.contains("not found"));
    }

    #[test]
    fn fields_of_the_kernel_are_read() {
        assert!(status_field("CapEff").is_some_and(|hex| hex.len() == 16));
        assert_eq!(status_field("NoSuchField"), None);
    }
}
