//! A small network for DHCP tests: three namespaces on one bridge.
//!
//! ```text
//!   server: br0 10.77.0.1/24 --+-- c0 client (no address)
//!                              +-- d0 10.77.0.2/24 "the other host"
//! ```
//! Nothing leaves it; names carry the process id; it is removed when dropped.

use control::dhcp::{Dhcp, Place, Settings};
use control::observe::{Milestone, Observation, Observer};
use control::store::Store;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Long beside everything that happens in these tests, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long silence is listened to.
pub const SILENCE: Duration = Duration::from_millis(700);

pub struct Net {
    id: String,
    removes: bool,
}

impl Net {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make network namespaces; run them as root");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("stkdhcp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { id, removes: true };
        for role in ["s", "c", "d"] {
            ip(&["netns", "add", &net.ns(role)]);
            net.ip(role, &["link", "set", "lo", "up"]);
        }
        net.ip("s", &["link", "add", "br0", "type", "bridge", "forward_delay", "0"]);
        for (role, port) in [("c", "s1"), ("d", "s2")] {
            let name = format!("{role}0");
            net.ip("s", &["link", "add", port, "type", "veth", "peer", "name", &name, "netns", &net.ns(role)]);
            net.ip("s", &["link", "set", port, "master", "br0", "up"]);
            net.ip(role, &["link", "set", &name, "up"]);
        }
        net.ip("s", &["link", "set", "br0", "up"]);
        net.ip("s", &["address", "add", "10.77.0.1/24", "brd", "+", "dev", "br0"]);
        net.ip("d", &["address", "add", "10.77.0.2/24", "brd", "+", "dev", "d0"]);
        for role in ["s", "c", "d"] {
            net.inside(role, || {
                for file in ["all/rp_filter", "default/rp_filter"] {
                    std::fs::write(format!("/proc/sys/net/ipv4/conf/{file}"), "0").unwrap();
                }
            });
        }
        net
    }

    /// The same network, seen from another process; not removed by it.
    pub fn of(id: &str) -> Self {
        Self { id: id.into(), removes: false }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.id)
    }

    /// `ip` inside a namespace.
    pub fn ip(&self, role: &str, args: &[&str]) -> String {
        let ns = self.ns(role);
        let mut all = vec!["-n", ns.as_str()];
        all.extend_from_slice(args);
        ip(&all)
    }

    /// A command inside a namespace.
    pub fn command(&self, role: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns(role), program]);
        command
    }

    /// Runs something on a thread that lives in a namespace.
    pub fn inside<T: Send>(&self, role: &str, work: impl FnOnce() -> T + Send) -> T {
        let ns = self.ns(role);
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(&ns);
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// A UDP socket in a namespace, bound to its interface.
    pub fn socket(&self, role: &str, address: Ipv4Addr, port: u16) -> UdpSocket {
        let device = if role == "s" { "br0".to_owned() } else { format!("{role}0") };
        self.inside(role, || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind_device(Some(device.as_bytes())).unwrap();
            socket.bind(&SocketAddr::from((address, port)).into()).unwrap();
            UdpSocket::from(socket)
        })
    }

    /// Starts DHCP in the server's namespace.
    pub fn dhcp(&self, json: &str, store: Option<&Path>) -> Running {
        let settings: Settings = serde_json::from_str(json).unwrap();
        assert_eq!(settings.check(), [], "{json}");
        let (ns, stop) = (self.ns("s"), CancellationToken::new());
        let seen: Arc<(Mutex<Vec<Observation>>, Condvar)> = Arc::default();
        let (thread_stop, thread_seen) = (stop.clone(), seen.clone());
        let store = store.map(|path| Arc::new(Store::open(path).unwrap()));
        let (ready, opened) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&ns);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let dhcp = Dhcp::open(settings, vec![place()], store).unwrap();
                ready.send(dhcp.metrics()).unwrap();
                let (observer, mut observations) = Observer::new();
                let collect = tokio::spawn(async move {
                    while let Some(observation) = observations.recv().await {
                        thread_seen.0.lock().unwrap().push(observation);
                        thread_seen.1.notify_all();
                    }
                });
                dhcp.run(observer, thread_stop).await.unwrap();
                collect.await.unwrap();
            });
        });
        let metrics = opened.recv().expect("DHCP opens");
        Running { stop, thread: Some(thread), seen, metrics }
    }

    /// dnsmasq as the other DHCP server, on the other host; waits until it serves.
    pub fn dnsmasq(&self) -> Process {
        let child = self
            .command("d", "dnsmasq")
            .args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--port=0",
                "--interface=d0",
                "--bind-interfaces",
                "--no-ping",
            ])
            .args(["--dhcp-authoritative", "--leasefile-ro", "--dhcp-range=10.77.0.200,10.77.0.210,10m"])
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed");
        let process = Process(child);
        let bound =
            || std::fs::read_to_string(format!("/proc/{}/net/udp", process.0.id())).is_ok_and(|t| t.contains(":0043 "));
        until(bound, "dnsmasq opens port 67");
        process
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.removes {
            for role in ["s", "c", "d"] {
                let _ = Command::new("ip").args(["netns", "del", &self.ns(role)]).status();
            }
        }
    }
}

/// Our side of the bridge.
pub fn place() -> Place {
    Place { interface: "br0".into(), address: SERVER, http_port: 8081, edge_http_port: 8080 }
}

pub fn enter(ns: &str) {
    let file = File::open(format!("/run/netns/{ns}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for something that must come to pass; looks a hundred times a second.
pub fn until(mut true_now: impl FnMut() -> bool, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !true_now() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A child process that does not outlive its test.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// DHCP of ours, running.
pub struct Running {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    seen: Arc<(Mutex<Vec<Observation>>, Condvar)>,
    pub metrics: control::dhcp::Metrics,
}

impl Running {
    /// Waits until a milestone was seen.
    pub fn saw(&self, what: &str, wanted: impl Fn(&Milestone) -> bool) -> Observation {
        let (lock, changed) = &*self.seen;
        let guard = lock.lock().unwrap();
        let missing = |list: &mut Vec<Observation>| !list.iter().any(|o| wanted(&o.what));
        let (list, _) = changed.wait_timeout_while(guard, PATIENCE, missing).unwrap();
        list.iter().find(|o| wanted(&o.what)).cloned().unwrap_or_else(|| panic!("{what} was not seen in {:#?}", *list))
    }

    /// Everything seen so far.
    pub fn all(&self) -> Vec<Milestone> {
        self.seen.0.lock().unwrap().iter().map(|o| o.what.clone()).collect()
    }

    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || std::thread::panicking(), "DHCP panicked");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for one datagram.
pub fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddrV4) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).expect("a reply");
    let SocketAddr::V4(from) = from else { panic!("{from}") };
    (buffer[..length].to_vec(), from)
}

/// Makes sure that nothing more comes.
pub fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 2000];
    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
        panic!("{length} bytes from {from}");
    }
}
