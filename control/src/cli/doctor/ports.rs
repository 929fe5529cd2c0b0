//! Whether our ports are free, ours, or somebody else's.

use super::Finding;
use control::api::types::Status;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

/// The ports of a whole stoker: protocol, number, what for.
const PORTS: [(&str, u16, &str); 5] = [
    ("udp", 67, "DHCP"),
    ("udp", 69, "TFTP"),
    ("udp", 4011, "PXE"),
    ("tcp", control::config::DEFAULT_EDGE_HTTP_PORT, "files"),
    ("tcp", control::config::DEFAULT_HTTP_PORT, "scripts and agents"),
];

/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

pub fn examine(status: Option<&Status>) -> Vec<Finding> {
    let owners = Owners::look();
    let ours: Vec<u32> = status.iter().flat_map(|s| [Some(s.pid), s.edge.as_ref().map(|e| e.pid)]).flatten().collect();
    // A virtual rack has a network of its own: its ports are not on this host's.
    let mut findings = Vec::new();
    if let Some(namespace) = status.and_then(other_network) {
        let text = format!("the running stoker serves in network namespace {namespace}; these are this host's");
        findings.push(Finding::good("ports", text));
    }
    for (proto, port, purpose) in PORTS {
        let what = format!("port {proto}/{port}");
        findings.push(match owners.of(proto, port) {
            None => Finding::good(&what, format!("free ({purpose})")),
            Some(Owner { pid, name }) if pid.is_some_and(|p| ours.contains(&p)) => {
                Finding::good(&what, format!("ours: {name} ({purpose})"))
            }
            Some(owner) => Finding::bad(
                &what,
                format!("{purpose} is taken by {owner}"),
                format!("stop it, or serve on another address or port ({})", alternative(port)),
            ),
        });
    }
    if !rustix::process::geteuid().is_root() {
        findings.push(Finding::look(
            "rights",
            "not root: processes of other users cannot be named, ports below 1024 not opened",
            "run it with sudo",
        ));
    }
    findings
}

const fn alternative(port: u16) -> &'static str {
    match port {
        67 => "stoker can be a relay's target on another host, or `--dhcp-mode off`",
        69 | 4011 => "firmware knows only this port",
        _ => "`http_port:` and `edge_http_port:` in the configuration",
    }
}

/// The network namespace of the running stoker, where it is not ours: its name
/// for `ip netns`, or its path where it has none.
pub fn other_network(status: &Status) -> Option<String> {
    let own = format!("/proc/{}/ns/net", status.pid);
    let namespace = std::fs::metadata(&own).ok()?.ino();
    if std::fs::metadata("/proc/self/ns/net").ok()?.ino() == namespace {
        return None;
    }
    let named = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut same = named.filter(|e| std::fs::metadata(e.path()).is_ok_and(|m| m.ino() == namespace));
    Some(same.next().map_or(own, |e| e.file_name().to_string_lossy().into_owned()))
}

/// Who holds which port.
struct Owners {
    /// Protocol and port to the inode of the socket.
    sockets: HashMap<(&'static str, u16), u64>,
    /// Inode to process.
    processes: HashMap<u64, (u32, String)>,
}

struct Owner {
    pid: Option<u32>,
    name: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.name),
            None => f.write_str("a process that cannot be seen from here (another user's, or a container's)"),
        }
    }
}

impl Owners {
    fn look() -> Self {
        let mut sockets = HashMap::new();
        for (proto, file) in [("udp", "udp"), ("udp", "udp6"), ("tcp", "tcp"), ("tcp", "tcp6")] {
            let text = std::fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
            sockets.extend(listening(proto, &text));
        }
        let wanted: Vec<u64> =
            PORTS.iter().filter_map(|(proto, port, _)| sockets.get(&(*proto, *port)).copied()).collect();
        let processes = if wanted.is_empty() { HashMap::new() } else { holders(&wanted) };
        Self { sockets, processes }
    }

    fn of(&self, proto: &'static str, port: u16) -> Option<Owner> {
        let inode = self.sockets.get(&(proto, port))?;
        let process = self.processes.get(inode);
        Some(Owner {
            pid: process.map(|(pid, _)| *pid),
            name: process.map(|(_, name)| name.clone()).unwrap_or_default(),
        })
    }
}

/// Bound UDP sockets or listening TCP ones of a `/proc/net` table: port to inode.
fn listening(proto: &'static str, text: &str) -> Vec<((&'static str, u16), u64)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        let listens = proto == "udp" || *fields.get(3)? == LISTEN;
        let inode = fields.get(9)?.parse().ok()?;
        listens.then_some(((proto, port), inode))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Which processes hold these sockets.
fn holders(inodes: &[u64]) -> HashMap<u64, (u32, String)> {
    let mut found = HashMap::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for fd in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let link = std::fs::read_link(fd.path()).unwrap_or_default();
            let inode = link.to_str().and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|i| inodes.contains(i)) {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.insert(inode, (pid, name.trim().to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100\n   \
        1: 0100007F:1F91 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 100\n";

    #[test]
    fn tables_of_the_kernel_are_read() {
        assert_eq!(listening("tcp", TABLE), [(("tcp", 8080), 12345)]);
        assert_eq!(listening("udp", TABLE).len(), 2, "UDP sockets have no listening state");
        assert!(listening("tcp", "rubbish\nmore rubbish\n").is_empty());
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let table = std::fs::read_to_string("/proc/net/udp").unwrap();
        let inode = listening("udp", &table).into_iter().find(|((_, p), _)| *p == port).unwrap().1;
        assert_eq!(holders(&[inode])[&inode].0, std::process::id());
    }
}
