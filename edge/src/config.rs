//! The command line, checked. Every fault is told at once, with its remedy.

use crate::limits;
use crate::listen::{Address, Plan};
use crate::ring::probe::Wanted;
use crate::tftp;
use clap::{Parser, ValueEnum};
use protocol::tftp::Rollover;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Default of `--metrics`.
const METRICS: &str = "127.0.0.1:9108";

/// Serves boot files by TFTP and HTTP, from memory, to thousands of machines at once.
///
/// What it serves is in STATE/publish: manifest.json names objects by their
/// SHA-256; `stoker-control` writes it, and the edge follows every change. It
/// goes on serving the last good manifest when control is away, and starts
/// without any: then it serves nothing, and says so.
///
/// Sockets are opened first; then all capabilities (and with --user, the user)
/// are given up. SIGTERM or SIGINT drains: no new transfers, running ones end
/// within --drain-timeout; a second signal ends at once.
///
/// Exit codes: 0 drained, 1 other trouble, 2 bad flags, 3 a port is in use,
/// 4 a privilege is missing, 5 no such interface, 6 no such address here,
/// 7 the demanded driver is refused, 8 the state folder is unusable.
///
/// First aid: `curl -v tftp://HOST/FILE -o /dev/null` and `curl -I http://HOST:8080/FILE`
/// from the network of the machines; `curl http://127.0.0.1:9108/metrics` here.
#[derive(Parser, Debug)]
#[command(name = "stoker-edge", version, max_term_width = 100)]
pub struct Flags {
    /// The folder shared with control: publish/ (read), edge/ and run/.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/stoker")]
    pub state: PathBuf,
    /// Where to take TFTP requests; may be given several times [default: 0.0.0.0:69 and, where there is IPv6, [::]:69].
    #[arg(long, value_name = "ADDR:PORT")]
    pub tftp: Vec<String>,
    /// Where to serve HTTP; may be given several times [default: 0.0.0.0:8080 and, where there is IPv6, [::]:8080].
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Vec<String>,
    /// Where to serve Prometheus metrics, or `off`.
    #[arg(long, value_name = "ADDR:PORT", default_value = METRICS)]
    pub metrics: String,
    /// How to speak to the kernel: `auto` takes io_uring where it is allowed and says why where it is not.
    #[arg(long, value_enum, default_value_t)]
    pub driver: Wanted,
    /// Worker threads, each with a ring of its own [default: one for each core this process may use].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Answer TFTP from port 69 itself instead of another port for each transfer: for a Service of
    /// Kubernetes, NAT, or a firewall that knows no TFTP helper.
    #[arg(long)]
    pub single_port: bool,
    /// Serve only what comes in by this interface.
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The largest TFTP windowsize to agree on (RFC 7440), blocks.
    #[arg(long, value_name = "N", default_value_t = limits::TFTP_WINDOWSIZE.to_string())]
    pub tftp_max_windowsize: String,
    /// The largest TFTP blksize to agree on (RFC 2348), bytes [default: what the path's MTU takes in one piece].
    #[arg(long, value_name = "N")]
    pub tftp_max_blksize: Option<String>,
    /// What follows TFTP block 65535: 0 (nearly all clients) or 1.
    #[arg(long, value_name = "0|1", default_value = "0")]
    pub tftp_rollover: String,
    /// TFTP transfers that one address may have before its first ACK.
    #[arg(long, value_name = "N", default_value_t = limits::TFTP_UNPROVEN_PER_CLIENT.to_string())]
    pub tftp_unproven_per_client: String,
    /// Memory for images [default: half of what there is]. With K, M, or G for powers of 1024.
    #[arg(long, value_name = "BYTES")]
    pub memory_budget: Option<String>,
    /// Become this user once the sockets are open: a name, or UID:GID.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// How to write the log (to standard error). RUST_LOG filters it.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Only try what this kernel allows, print it as one JSON object, and exit.
    #[arg(long)]
    pub probe: bool,
    /// How long running transfers may take to end after the first signal, seconds.
    #[arg(long, value_name = "S", default_value = "60")]
    pub drain_timeout: String,
}

/// How to write the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// A line for a person.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What the edge shall do; every value is good in itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder shared with control.
    pub state: PathBuf,
    /// What to listen on.
    pub listen: Plan,
    /// Where to serve metrics.
    pub metrics: Option<SocketAddr>,
    /// Which driver.
    pub driver: Wanted,
    /// Of the TFTP service.
    pub tftp: tftp::Config,
    /// Memory for images, bytes; None: a share of what there is.
    pub memory_budget: Option<u64>,
    /// Whom to become.
    pub user: Option<User>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// A user and group by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct User {
    /// uid
    pub uid: u32,
    /// gid
    pub gid: u32,
}

/// Everything that is wrong with the flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadFlags(pub Vec<String>);

impl fmt::Display for BadFlags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(out, "  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BadFlags {}

impl Flags {
    /// The flags as a configuration.
    ///
    /// # Errors
    /// Every fault, not only the first.
    pub fn check(self) -> Result<Config, BadFlags> {
        let mut faults = Vec::new();
        let workers = match self.workers {
            None => std::thread::available_parallelism().map_or(1, usize::from).min(limits::WORKERS),
            Some(n) if (1..=limits::WORKERS).contains(&n) => n,
            Some(n) => {
                faults.push(format!("--workers {n}: give 1 to {}", limits::WORKERS));
                1
            }
        };
        let listen = Plan {
            tftp: addresses("--tftp", &self.tftp, 69, &mut faults),
            http: addresses("--http", &self.http, 8080, &mut faults),
            interface: self.interface,
            single_port: self.single_port,
            workers,
        };
        if let Some(name) = &listen.interface
            && (name.is_empty() || name.len() > 15 || name.contains(['/', ' ']))
        {
            faults.push(format!("--interface {name:?}: not the name of an interface; `ip link` lists them"));
        }
        let metrics = if self.metrics == "off" {
            None
        } else {
            let parsed = self.metrics.parse().ok();
            if parsed.is_none() {
                faults.push(format!("--metrics {:?}: give ADDR:PORT such as {METRICS}, or `off`", self.metrics));
            }
            parsed
        };
        let defaults = tftp::Config::default();
        let window_max = u64::from(limits::WINDOW_MAX);
        let max_windowsize = number("--tftp-max-windowsize", &self.tftp_max_windowsize, 1, window_max, &mut faults);
        let max_blksize =
            self.tftp_max_blksize.as_ref().and_then(|text| number("--tftp-max-blksize", text, 8, 65464, &mut faults));
        let rollover = number("--tftp-rollover", &self.tftp_rollover, 0, 1, &mut faults);
        let per_client = number("--tftp-unproven-per-client", &self.tftp_unproven_per_client, 1, 1 << 20, &mut faults);
        let tftp = tftp::Config {
            max_windowsize: max_windowsize.map_or(defaults.max_windowsize, |n| n as u16),
            max_blksize: max_blksize.map(|n| n as u16),
            rollover: if rollover == Some(1) { Rollover::One } else { Rollover::Zero },
            unproven_per_client: per_client.map_or(defaults.unproven_per_client, |n| n as usize),
            ..defaults
        };
        let memory_budget = self.memory_budget.as_deref().and_then(|text| {
            let parsed = bytes(text);
            if parsed.is_none() {
                faults.push(format!("--memory-budget {text:?}: give a number of bytes such as 2G or 512M"));
            }
            parsed
        });
        let user = self.user.as_deref().and_then(|text| {
            let found = user(text);
            if found.is_none() {
                faults.push(format!("--user {text:?}: no such user in /etc/passwd; give one, or UID:GID"));
            }
            found
        });
        let drain = number("--drain-timeout", &self.drain_timeout, 0, 86400, &mut faults);
        if self.state.as_os_str().is_empty() {
            faults.push("--state: give the folder that control publishes to".into());
        }
        if !faults.is_empty() {
            return Err(BadFlags(faults));
        }
        Ok(Config {
            state: self.state,
            listen,
            metrics,
            driver: self.driver,
            tftp,
            memory_budget,
            user,
            drain_timeout: Duration::from_secs(drain.unwrap_or(60)),
        })
    }
}

/// Addresses of a flag; where it was not given, the default port on all addresses, IPv6 where the host has it.
fn addresses(flag: &str, texts: &[String], port: u16, faults: &mut Vec<String>) -> Vec<Address> {
    if texts.is_empty() {
        return vec![
            Address { at: ([0, 0, 0, 0], port).into(), optional: false },
            Address { at: ([0u16; 8], port).into(), optional: true },
        ];
    }
    // Each is a listener of every ring, and for TFTP with its TID sockets.
    let most = limits::LISTENERS.min(limits::UDP_SOCKETS / (limits::TID_SOCKETS + 1));
    if texts.len() > most {
        faults.push(format!("{flag} is given {} times: at most {most}", texts.len()));
    }
    let mut out = Vec::new();
    for text in texts {
        match text.parse::<SocketAddr>() {
            Ok(at) if out.contains(&Address { at, optional: false }) && at.port() != 0 => {
                faults.push(format!("{flag} {text}: given twice"));
            }
            Ok(at) => out.push(Address { at, optional: false }),
            Err(_) => faults.push(format!(
                "{flag} {text:?}: give ADDR:PORT such as 10.0.0.1:{port} or [::]:{port} (an address, not a name)"
            )),
        }
    }
    out
}

fn number(flag: &str, text: &str, least: u64, most: u64, faults: &mut Vec<String>) -> Option<u64> {
    match text.parse::<u64>() {
        Ok(n) if (least..=most).contains(&n) => Some(n),
        _ => {
            faults.push(format!("{flag} {text:?}: give a number from {least} to {most}"));
            None
        }
    }
}

/// `2G`, `512M`, `64K`, `123`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.chars().last()? {
        'K' | 'k' => (&text[..text.len() - 1], 10),
        'M' | 'm' => (&text[..text.len() - 1], 20),
        'G' | 'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|&n| n > 0)
}

fn user(text: &str) -> Option<User> {
    if let Some((uid, gid)) = text.split_once(':') {
        return Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? });
    }
    user_in(&std::fs::read_to_string("/etc/passwd").ok()?, text)
}

/// passwd(5): name:password:uid:gid:...
fn user_in(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let (_, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<Config, BadFlags> {
        Flags::try_parse_from(std::iter::once(&"stoker-edge").chain(args)).unwrap().check()
    }

    #[test]
    fn defaults_are_good_and_ipv6_is_optional() {
        let config = check(&[]).unwrap();
        let at: Vec<_> = config.listen.tftp.iter().map(|a| (a.at.to_string(), a.optional)).collect();
        assert_eq!(at, [("0.0.0.0:69".to_owned(), false), ("[::]:69".to_owned(), true)]);
        assert_eq!(config.metrics, Some(METRICS.parse().unwrap()));
        assert_eq!(config.tftp.max_windowsize, limits::TFTP_WINDOWSIZE);
        assert!(config.listen.workers >= 1);
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_flag() {
        let flags = [
            ("--tftp", "localhost:69"),
            ("--http", "8080"),
            ("--metrics", "yes"),
            ("--workers", "0"),
            ("--interface", "a name with spaces"),
            ("--tftp-max-windowsize", "0"),
            ("--tftp-max-blksize", "7"),
            ("--tftp-rollover", "2"),
            ("--tftp-unproven-per-client", "many"),
            ("--memory-budget", "2T"),
            ("--user", "nosuchuser"),
            ("--drain-timeout", "-1"),
        ];
        let args: Vec<String> = flags.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let BadFlags(faults) = check(&args).unwrap_err();
        assert_eq!(faults.len(), flags.len(), "{faults:#?}");
        for (flag, _) in flags {
            assert!(faults.iter().any(|f| f.starts_with(flag)), "{flag}: {faults:#?}");
        }
    }

    #[test]
    fn values_are_read() {
        let config = check(&[
            "--tftp=[::1]:6969",
            "--tftp-max-blksize=8192",
            "--memory-budget=2G",
            "--metrics=off",
            "--user=65534:65533",
            "--single-port",
        ])
        .unwrap();
        assert_eq!(config.listen.tftp, [Address { at: "[::1]:6969".parse().unwrap(), optional: false }]);
        assert_eq!(config.tftp.max_blksize, Some(8192));
        assert_eq!(config.memory_budget, Some(2 << 30));
        assert_eq!(config.metrics, None);
        assert_eq!(config.user, Some(User { uid: 65534, gid: 65533 }));
        assert!(config.listen.single_port);
        assert_eq!(user_in("root:x:0:0::/:/x\nstoker:x:991:992::/:/x", "stoker"), Some(User { uid: 991, gid: 992 }));
    }

    #[test]
    fn an_address_twice_and_too_many_are_refused() {
        assert!(check(&["--tftp=10.0.0.1:69", "--tftp=10.0.0.1:69"]).is_err());
        let many: Vec<String> = (0..20).map(|i| format!("--http=10.0.0.{i}:80")).collect();
        assert!(check(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }
}
