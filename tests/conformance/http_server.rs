//! An edge that serves HTTP alone, in threads of the test: the real service,
//! worker and ring on real sockets, on the driver that the test wants. And a
//! client that sees every byte.

use edge::catalog::{Catalog, Image, Named};
use edge::events::EventSender;
use edge::http::{Config, Service};
use edge::listen::{self, Address, Plan, WorkerSockets};
use edge::metrics::WorkerMetrics;
use edge::ring::Ring;
use edge::ring::epoll::Epoll;
use edge::ring::probe::{self, Wanted};
use edge::ring::uring::Uring;
use edge::worker::{Mailbox, Nobody, Worker};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Nothing on loopback takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The drivers that this kernel has; where io_uring is refused, a word about it is left for the test's report.
pub fn drivers() -> Vec<Wanted> {
    // On a thread of its own: the end of the ring tried there interrupts system calls of its thread.
    match std::thread::spawn(probe::uring).join().unwrap() {
        Ok(_) => vec![Wanted::Epoll, Wanted::Uring],
        Err(why) => {
            if let Some(path) = std::env::var_os("STOKER_SLOWER_WAY") {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                let _ = file.and_then(|mut file| writeln!(file, "HTTP conformance on epoll alone: {}", why.0));
            }
            vec![Wanted::Epoll]
        }
    }
}

/// Runs a test on each driver.
pub fn on_both(config: Config, files: &[(&str, &[u8])], test: impl Fn(&Server)) {
    for driver in drivers() {
        let server = Server::start(driver, config, files);
        test(&server);
    }
}

/// Ends when dropped.
pub struct Server {
    pub addr: SocketAddr,
    pub metrics: Arc<WorkerMetrics>,
    pub mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// A catalog of these files.
pub fn catalog(generation: u64, files: &[(&str, &[u8])]) -> Arc<Catalog> {
    let named = |bytes: &[u8]| Named::new(Image::from_bytes(bytes).unwrap(), "application/octet-stream");
    let names = files.iter().map(|&(name, bytes)| (name.into(), named(bytes))).collect();
    Arc::new(Catalog { generation, names, ..Catalog::default() })
}

impl Server {
    pub fn start(driver: Wanted, config: Config, files: &[(&str, &[u8])]) -> Self {
        let (mailbox, metrics) = (Mailbox::new(), WorkerMetrics::alone(0));
        let (tell, told) = mpsc::channel();
        if !files.is_empty() {
            mailbox.publish(catalog(1, files));
        }
        let (orders, counts) = (mailbox.clone(), metrics.clone());
        let thread = std::thread::spawn(move || {
            let at = |text: &str| Address { at: text.parse().unwrap(), optional: true };
            let plan = Plan { http: vec![at("127.0.0.1:0")], workers: 1, ..Plan::default() };
            let mut opened = listen::open(&plan).unwrap();
            tell.send(opened.http[0]).unwrap();
            let service = Service::new(config, EventSender::off(), counts.clone());
            let sockets = opened.workers.remove(0);
            match driver {
                Wanted::Uring => serve(Uring::new().unwrap(), service, orders, counts, sockets),
                Wanted::Epoll | Wanted::Auto => serve(Epoll::new().unwrap(), service, orders, counts, sockets),
            }
        });
        let addr = told.recv().expect("the server starts");
        Self { addr, metrics, mailbox, thread: Some(thread) }
    }

    pub fn connect(&self) -> Client {
        Client::of(TcpStream::connect(self.addr).unwrap())
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &str) -> Response {
        let mut client = self.connect();
        client.say(request);
        client.response(request.starts_with("HEAD")).unwrap()
    }

    pub fn get(&self, path: &str, fields: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: edge\r\n{fields}\r\n"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    /// Waits (bounded) until a count is what it should be: the client may know before the server has counted.
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut(&WorkerMetrics) -> bool) {
        for _ in 0..20_000 {
            if is_so(&self.metrics) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{what}: not within 20 s: {:?}", self.metrics);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server's thread has panicked");
        }
    }
}

fn serve<R: Ring>(ring: R, http: Service, mailbox: Arc<Mailbox>, metrics: Arc<WorkerMetrics>, sockets: WorkerSockets) {
    Worker::new(ring, Nobody, http, mailbox, metrics, sockets).unwrap().run().unwrap();
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    ahead: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|l| l.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
}

impl Client {
    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads one answer; fails where the connection ends before it is whole.
    pub fn response(&mut self, is_head: bool) -> io::Result<Response> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.ahead.drain(..end).collect();
        let mut response = Response { status: 0, head: String::from_utf8(head).unwrap(), body: Vec::new() };
        response.status = response.head.strip_prefix("HTTP/1.1 ").and_then(|h| h.get(..3)).unwrap().parse().unwrap();
        let length = match (is_head, response.status) {
            (true, _) | (_, 304) => 0,
            _ => response.field("Content-Length").unwrap().parse().unwrap(),
        };
        while self.ahead.len() < length {
            self.more()?;
        }
        response.body = self.ahead.drain(..length).collect();
        Ok(response)
    }

    /// Everything until the other end closes; an error where it resets.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(std::mem::take(&mut self.ahead)),
                Err(e) => return Err(e),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; 256 << 10];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.ahead.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }
}
