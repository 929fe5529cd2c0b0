//! An edge that serves TFTP alone, in threads of the test: the real service,
//! worker and ring on real sockets, on the driver and in the network namespace
//! that the test wants. And a network namespace that goes away by itself.

use edge::catalog::{Catalog, Image, Named};
use edge::events::EventSender;
use edge::listen::{self, Address, Plan, WorkerSockets};
use edge::metrics::WorkerMetrics;
use edge::ring::Ring;
use edge::ring::epoll::Epoll;
use edge::ring::probe::{self, Wanted};
use edge::ring::uring::Uring;
use edge::tftp::{Config, Service};
use edge::worker::{Mailbox, Nobody, Worker};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// The drivers that this kernel has; where io_uring is refused, a word about it is left for the test's report.
pub fn drivers() -> Vec<Wanted> {
    match probe::uring() {
        Ok(_) => vec![Wanted::Epoll, Wanted::Uring],
        Err(why) => {
            if let Some(path) = std::env::var_os("STOKER_SLOWER_WAY") {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                let _ = file.and_then(|mut file| writeln!(file, "TFTP conformance on epoll alone: {}", why.0));
            }
            vec![Wanted::Epoll]
        }
    }
}

/// How to run it.
#[derive(Clone)]
pub struct Setup {
    pub driver: Wanted,
    pub single_port: bool,
    pub config: Config,
    /// Where to listen; port 0 for any.
    pub listen: &'static str,
    /// In which namespace; None: this one.
    pub namespace: Option<String>,
}

impl Setup {
    pub fn new(driver: Wanted) -> Self {
        Self { driver, single_port: false, config: Config::default(), listen: "127.0.0.1:0", namespace: None }
    }
}

/// Ends when dropped.
pub struct Server {
    /// Where requests go.
    pub addr: SocketAddr,
    pub metrics: Arc<WorkerMetrics>,
    mailbox: Arc<Mailbox>,
    generation: u64,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(setup: &Setup, files: &[(&str, &[u8])]) -> Self {
        let (mailbox, metrics) = (Mailbox::new(), WorkerMetrics::alone(0));
        let (tell, told) = mpsc::channel();
        let (setup, box_of_worker, counts) = (setup.clone(), Arc::clone(&mailbox), Arc::clone(&metrics));
        let mut server = Self { addr: ([0, 0, 0, 0], 0).into(), metrics, mailbox, generation: 0, thread: None };
        server.publish(files);
        server.thread = Some(std::thread::spawn(move || {
            enter(setup.namespace.as_deref());
            let at = Address { at: setup.listen.parse().unwrap(), optional: false };
            let plan = Plan { tftp: vec![at], single_port: setup.single_port, workers: 1, ..Plan::default() };
            let mut opened = listen::open(&plan).unwrap();
            let sockets = opened.workers.remove(0);
            tell.send(opened.tftp[0]).unwrap();
            let service = Service::new(setup.config, EventSender::off(), Arc::clone(&counts));
            match setup.driver {
                Wanted::Uring => serve(Uring::new().unwrap(), service, box_of_worker, counts, sockets),
                Wanted::Epoll | Wanted::Auto => serve(Epoll::new().unwrap(), service, box_of_worker, counts, sockets),
            }
        }));
        server.addr = told.recv().expect("the server starts");
        server
    }

    /// Serves these files from now on.
    pub fn publish(&mut self, files: &[(&str, &[u8])]) {
        let named = |bytes: &[u8]| Named::new(Image::from_bytes(bytes).unwrap(), "application/octet-stream");
        let names = files.iter().map(|&(name, bytes)| (name.into(), named(bytes))).collect();
        self.generation += 1;
        self.mailbox.publish(Arc::new(Catalog { generation: self.generation, names, ..Catalog::default() }));
    }

    /// Serves this catalog from now on.
    pub fn publish_catalog(&self, catalog: Arc<Catalog>) {
        self.mailbox.publish(catalog);
    }

    /// Asks (bounded) until the answer begins so: the worker has taken the catalog meanwhile.
    pub fn until_answered(&self, name: &str, answer: &[u8]) {
        let answered = (0..1000).any(|_| {
            let wire = crate::client::Wire::at("127.0.0.1");
            wire.rrq(self.addr, name, "tsize 0");
            let (bytes, from) = wire.next();
            wire.send(from, b"\0\x05\0\x08only asked\0");
            bytes.starts_with(answer)
        });
        assert!(answered, "{name}");
    }

    /// Waits (bounded) until a count is what it should be: the client may know before the server has counted.
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut(&WorkerMetrics) -> bool) {
        for _ in 0..5000 {
            if is_so(&self.metrics) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{what}: not within 5 s");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server has panicked");
        }
    }
}

fn serve<R: Ring>(ring: R, tftp: Service, mailbox: Arc<Mailbox>, metrics: Arc<WorkerMetrics>, sockets: WorkerSockets) {
    let mut worker = Worker::new(ring, tftp, Nobody, mailbox, metrics, sockets).unwrap();
    worker.run().unwrap();
}

/// Moves this thread into a namespace.
pub fn enter(namespace: Option<&str>) {
    if let Some(name) = namespace {
        let file = std::fs::File::open(format!("/var/run/netns/{name}")).unwrap();
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind)).unwrap();
    }
}

/// A network namespace with its loopback up, removed when dropped.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("stoker-tftp-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let namespace = Self(name);
        run("ip", &["netns", "add", &namespace.0]);
        namespace.exec("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs a program in it to its end.
    pub fn exec(&self, program: &str, args: &[&str]) {
        run("ip", &[&["netns", "exec", &self.0, program], args].concat());
    }

    /// Loses packets to this UDP port and from it: so many of a hundred.
    pub fn lose(&self, percent: u32) {
        let rules = format!(
            "add table inet weather\n\
             add chain inet weather input {{ type filter hook input priority 0; }}\n\
             add rule inet weather input meta l4proto udp numgen random mod 100 < {percent} drop\n"
        );
        let path = std::env::temp_dir().join(format!("{}.nft", self.0));
        std::fs::write(&path, rules).unwrap();
        self.exec("nft", &["-f", &path.to_string_lossy()]);
        std::fs::remove_file(path).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs a program to its end; panics with its words where it fails.
fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A folder that goes away by itself.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}
