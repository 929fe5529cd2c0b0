//! `stoker-edge` as an operator meets it: started, refused, drained, killed.

use protocol::manifest::{EdgeState, Entry, Manifest, ObjectId};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const DRIVERS: [&str; 2] = ["auto", "epoll"];

struct Edge {
    child: Child,
    state: EdgeState,
}

fn command(state: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoker-edge"));
    command.arg("--state").arg(state).args(flags);
    if !flags.contains(&"--workers") {
        command.args(["--workers", "2"]);
    }
    if !flags.contains(&"--metrics") {
        command.args(["--metrics", "off"]);
    }
    for flag in ["--tftp", "--http"] {
        if !flags.contains(&flag) {
            command.args([flag, "127.0.0.1:0"]);
        }
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

impl Edge {
    /// Started, and serving `generation`.
    fn start(state: &Path, generation: u64, flags: &[&str]) -> Self {
        let mut child = command(state, flags).spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let written = std::fs::read(state.join("edge/edge.state")).ok();
            let read = written.and_then(|bytes| serde_json::from_slice::<EdgeState>(&bytes).ok());
            if let Some(state) = read.filter(|s| s.pid == child.id() && s.generation >= generation) {
                return Self { child, state };
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("ended with {status}: {}", said(&mut child));
            }
            assert!(Instant::now() < until, "not ready");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn at(&self, service: &str) -> SocketAddr {
        self.state.listen[service][0].parse().unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child)
    }
}

fn ended(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= until {
            let _ = child.kill();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// How a start ends that cannot succeed: exit code and words.
fn refused(state: &Path, flags: &[&str]) -> (i32, String) {
    let mut child = command(state, flags).spawn().unwrap();
    let code = ended(&mut child).code().unwrap();
    (code, said(&mut child))
}

fn publish(state: &Path, generation: u64, name: &str, bytes: &[u8]) {
    let object = ObjectId::of(bytes);
    let objects = state.join("publish/objects/sha256");
    std::fs::create_dir_all(&objects).unwrap();
    std::fs::write(objects.join(object.to_string()), bytes).unwrap();
    let entry = Entry { object, length: bytes.len() as u64, content_type: "application/octet-stream".into() };
    let manifest = Manifest::new(generation, BTreeMap::from([(name.to_owned(), entry)]));
    let beside = state.join("publish/.manifest");
    std::fs::write(&beside, manifest.to_bytes()).unwrap();
    std::fs::rename(beside, state.join("publish/manifest.json")).unwrap();
}

fn image(len: usize) -> Vec<u8> {
    // Each 4 KB tells where it stands.
    let mut bytes = vec![0x5a; len];
    for (i, chunk) in bytes.chunks_exact_mut(4096).enumerate() {
        chunk[..8].copy_from_slice(&(i as u64).to_le_bytes());
    }
    bytes
}

/// A request sent, nothing read yet.
fn asks(at: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{request}\r\nHost: edge\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// The body, from the empty line to the end.
fn body(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    Ok(all.split_off(head + 4))
}

/// The first block of a file by TFTP without options.
fn first_block(at: SocketAddr, name: &str) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&[&[0, 1], name.as_bytes(), &b"\0octet\0"[..]].concat(), at).unwrap();
    let mut packet = [0; 1024];
    let (n, tid) = socket.recv_from(&mut packet).unwrap();
    // Say goodbye, so that the transfer does not hold up a drain.
    socket.send_to(&[0, 5, 0, 0, 0], tid).unwrap();
    packet[..n].to_vec()
}

#[test]
fn it_serves_both_protocols_and_drains_on_sigterm() {
    for driver in DRIVERS {
        let state = TempDir::new().unwrap();
        let bytes = image(700_000);
        publish(state.path(), 1, "a/b.efi", &bytes);
        let mut edge = Edge::start(state.path(), 1, &["--driver", driver]);
        assert!(body(asks(edge.at("http"), "GET /a/b.efi HTTP/1.1")).unwrap() == bytes);
        assert_eq!(first_block(edge.at("tftp"), "a/b.efi")[4..], bytes[..512]);
        edge.terminate();
        assert!(edge.ended().success());
        assert!(said(&mut edge.child).contains("draining"));
    }
}

#[test]
fn without_a_manifest_it_says_so_and_serves_the_first_that_comes() {
    let state = TempDir::new().unwrap();
    let mut edge = Edge::start(state.path(), 0, &[]);
    let mut answer = String::new();
    asks(edge.at("http"), "GET /x HTTP/1.1").read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no manifest"), "{answer}");
    publish(state.path(), 1, "x", b"here");
    let until = Instant::now() + PATIENCE;
    while body(asks(edge.at("http"), "GET /x HTTP/1.1")).unwrap() != b"here" {
        assert!(Instant::now() < until, "the manifest is not taken");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(first_block(edge.at("tftp"), "x")[4..], *b"here");
    edge.terminate();
    assert!(edge.ended().success());
    let said = said(&mut edge.child);
    assert!(said.contains("no manifest at") && said.contains("nothing is served until"), "{said}");
}

#[test]
fn f10_a_drain_lets_the_running_transfer_end_and_takes_no_other() {
    for driver in DRIVERS {
        let state = TempDir::new().unwrap();
        let bytes = image(16 << 20); // more than the sockets' buffers hold
        publish(state.path(), 1, "initrd", &bytes);
        let mut edge = Edge::start(state.path(), 1, &["--driver", driver]);
        let (http, tftp) = (edge.at("http"), edge.at("tftp"));
        let mut running = asks(http, "GET /initrd HTTP/1.1");
        running.read_exact(&mut [0; 12]).unwrap();
        edge.terminate();
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(http).is_ok() {
            assert!(Instant::now() < until, "it still takes connections");
            thread::sleep(Duration::from_millis(5));
        }
        // The port is free for the next process at once.
        UdpSocket::bind(tftp).unwrap();
        assert!(edge.child.try_wait().unwrap().is_none(), "it ended with a transfer running");
        assert!(body(running).unwrap() == bytes);
        assert!(edge.ended().success());
    }
}

#[test]
fn a_second_signal_or_the_drain_timeout_ends_what_hangs() {
    for (flags, signals) in [(["--drain-timeout", "3600"], 2), (["--drain-timeout", "0"], 1)] {
        let state = TempDir::new().unwrap();
        publish(state.path(), 1, "initrd", &image(16 << 20));
        let mut edge = Edge::start(state.path(), 1, &flags);
        let mut hanging = asks(edge.at("http"), "GET /initrd HTTP/1.1");
        hanging.read_exact(&mut [0; 12]).unwrap();
        for _ in 0..signals {
            edge.signal(rustix::process::Signal::INT);
            // Two signals that come together are one to the kernel.
            let until = Instant::now() + PATIENCE;
            while signals == 2 && TcpStream::connect(edge.at("http")).is_ok() {
                assert!(Instant::now() < until);
                thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(edge.ended().success());
        // The client sees that its body is not whole.
        assert!(body(hanging).map_or(true, |b| b.len() < 16 << 20));
    }
}

#[test]
fn f9_killed_and_started_again_a_client_resumes_where_it_was() {
    let state = TempDir::new().unwrap();
    let bytes = image(8 << 20);
    publish(state.path(), 1, "initrd", &bytes);
    let mut edge = Edge::start(state.path(), 1, &[]);
    let (http, tftp) = (edge.at("http").to_string(), edge.at("tftp").to_string());
    let mut running = asks(edge.at("http"), "GET /initrd HTTP/1.1");
    running.read_exact(&mut [0; 12]).unwrap();
    edge.child.kill().unwrap();
    edge.ended();
    let edge = Edge::start(state.path(), 1, &["--http", &http, "--tftp", &tftp]);
    let rest = asks(edge.at("http"), "GET /initrd HTTP/1.1\r\nRange: bytes=1000000-");
    assert!(body(rest).unwrap() == bytes[1_000_000..]);
    assert_eq!(first_block(edge.at("tftp"), "initrd").len(), 516);
}

/// CPU time of a process so far, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

#[test]
fn f18_out_of_descriptors_it_waits_and_recovers_alone() {
    for driver in DRIVERS {
        let state = TempDir::new().unwrap();
        publish(state.path(), 1, "x", b"here");
        let mut edge = Edge::start(state.path(), 1, &["--driver", driver, "--workers", "1"]);
        assert_eq!(body(asks(edge.at("http"), "GET /x HTTP/1.1")).unwrap(), b"here");
        let open = std::fs::read_dir(format!("/proc/{}/fd", edge.child.id())).unwrap().count() as u64;
        let limit = rustix::process::Rlimit { current: Some(open + 5), maximum: Some(open + 5) };
        let pid = rustix::process::Pid::from_child(&edge.child);
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limit).unwrap();
        let crowd: Vec<_> = (0..40).map(|_| TcpStream::connect(edge.at("http")).unwrap()).collect();
        let before = ticks(edge.child.id());
        thread::sleep(Duration::from_millis(500));
        assert!(ticks(edge.child.id()) - before < 15, "it spins");
        assert!(edge.child.try_wait().unwrap().is_none());
        drop(crowd);
        assert_eq!(body(asks(edge.at("http"), "GET /x HTTP/1.1")).unwrap(), b"here");
    }
}

#[test]
fn every_refusal_to_start_has_its_code_and_its_remedy() {
    let state = TempDir::new().unwrap();
    let taken_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken_tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp, tcp) = (taken_udp.local_addr().unwrap().to_string(), taken_tcp.local_addr().unwrap().to_string());
    let missing = state.path().join("missing");
    for (folder, flags, code, words) in [
        (state.path(), &["--tftp", "somewhere"][..], 2, "--tftp"),
        (state.path(), &["--tftp", &udp], 3, "ss -lunp"),
        (state.path(), &["--http", &tcp], 3, "ss -ltnp"),
        (state.path(), &["--metrics", &tcp], 3, "--metrics"),
        (state.path(), &["--interface", "nosuch0"], 5, "ip link"),
        (state.path(), &["--http", "192.0.2.1:8080"], 6, "ip address"),
        (&missing, &[], 8, "--state"),
    ] {
        let (got, said) = refused(folder, flags);
        assert_eq!(got, code, "{flags:?}: {said}");
        assert!(said.contains(words), "{flags:?}: {said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("stoker-edge: ") || code == 2, "{said}");
    }
}

#[test]
fn privileges_are_gone_once_it_serves() {
    if !rustix::process::getuid().is_root() {
        return; // nothing to give up
    }
    let state = TempDir::new().unwrap();
    std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    publish(state.path(), 1, "x", b"here");
    for (flags, uid) in [(&["--user", "65534:65534"][..], 65534), (&[], 0)] {
        let edge = Edge::start(state.path(), 1, flags);
        assert_eq!(body(asks(edge.at("http"), "GET /x HTTP/1.1")).unwrap(), b"here");
        let tasks = format!("/proc/{}/task", edge.child.id());
        let mut threads = 0;
        for task in std::fs::read_dir(tasks).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let value = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
            for set in ["CapPrm:", "CapEff:", "CapInh:"] {
                assert_eq!(u64::from_str_radix(&value(set), 16), Ok(0), "{set}");
            }
            assert_eq!(value("NoNewPrivs:"), "1");
            assert!(value("Uid:").split(char::is_whitespace).all(|id| id == uid.to_string()));
            threads += 1;
        }
        assert!(threads >= 3, "main, feed and a worker");
    }
}

#[test]
fn the_probe_is_one_json_object() {
    let out = Command::new(env!("CARGO_BIN_EXE_stoker-edge")).arg("--probe").output().unwrap();
    assert!(out.status.success());
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(["uring", "epoll"].contains(&said["driver"].as_str().unwrap()));
    assert!(!said["reason"].as_str().unwrap().is_empty());
}
