//! Control running as a whole in this process, asked over its real sockets,
//! from whatever source address a test chooses.

use control::config::{self, Overrides};
use control::resource::{Kind, Object, Server, Typed as _};
use control::run::Control;
use protocol::manifest::{EdgeState, Manifest, ObjectId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes that does not hang.
pub const PATIENCE: Duration = Duration::from_secs(400);
/// One request.
const REQUEST: Duration = Duration::from_secs(60);

/// Control, with an agent and an installer to boot machines into.
pub struct Site {
    /// Where nodes ask.
    pub nodes: SocketAddr,
    /// Its state directory.
    pub state: PathBuf,
    folder: PathBuf,
    more: String,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    edge: Option<std::thread::JoinHandle<()>>,
}

/// An answer over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Head lines, in lower case.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Site {
    /// Starts control in `folder`; `more` is added to its configuration. Environment `default` is an
    /// installer, the bundle is an agent, both of a few bytes.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path, more: &str) -> Self {
        std::fs::write(folder.join("k"), "kernel").unwrap();
        let bundle = bundle(folder);
        let here = folder.display();
        let more = format!(
            "{more}{bundle}environments:\n  default: {{kernel: 'file://{here}/k', initrd: 'file://{here}/k', args: ['talos.platform=metal']}}\n"
        );
        Self::bare(folder, &more)
    }

    /// Starts control with this configuration alone.
    ///
    /// # Panics
    /// When it does not start.
    pub fn bare(folder: &Path, more: &str) -> Self {
        let text = format!(
            "interface: lo\naddress: 127.0.0.1\ndhcp: {{mode: 'off'}}\nstate: {}\n{more}",
            folder.join("state").display()
        );
        let file = folder.join("stoker.yaml");
        std::fs::write(&file, text).unwrap();
        let mut settings = config::load(Some(&file), &Overrides::default()).unwrap_or_else(|p| panic!("{p:#?}"));
        settings.http_port = 0;
        let state = settings.state.clone();
        let stop = CancellationToken::new();
        let (tell, told) = std::sync::mpsc::channel();
        let ending = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let control = Control::open(settings).await.unwrap();
                tell.send(control.node_address().unwrap()).unwrap();
                control.serve(ending).await.unwrap();
            });
        });
        let nodes = told.recv_timeout(PATIENCE).expect("control starts");
        let (publish, ending) = (state.clone(), stop.clone());
        let edge = Some(std::thread::spawn(move || serve_all(&publish, &ending)));
        let thread = Some(thread);
        let site = Self { nodes, state, folder: folder.to_owned(), more: more.to_owned(), stop, thread, edge };
        if more.contains("environments:") {
            site.until("the installer is ready", |site| {
                site.api("GET", "/api/v1/environments", "").body.contains("\"ready\":true")
            });
        }
        if more.contains("bundle:") {
            site.until("the bundle is published", |site| {
                site.api("GET", "/api/v1/status", "").json::<Value>()["bundle"].is_string()
            });
        }
        site
    }

    /// Ends control in order and starts it again on what is on disk.
    ///
    /// # Panics
    /// When it does not end or start.
    #[must_use]
    pub fn restarted(mut self) -> Self {
        self.end();
        Self::bare(&self.folder.clone(), &self.more.clone())
    }

    fn end(&mut self) {
        self.stop.cancel();
        for thread in [self.thread.take(), self.edge.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }

    /// A request of a node, from this address of the loopback.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn node(&self, from: Ipv4Addr, method: &str, path: &str, extra: &str, body: &str) -> Answer {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect_timeout(&self.nodes.into(), REQUEST).unwrap();
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(REQUEST)).unwrap();
        exchange(stream, method, path, extra, body)
    }

    /// A request of an operator.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(self.state.join("run/control.sock")).unwrap();
        stream.set_read_timeout(Some(REQUEST)).unwrap();
        exchange(stream, method, path, "content-type: application/json\r\n", body)
    }

    /// An operator's request with a JSON body that must go well.
    ///
    /// # Panics
    /// When it does not.
    pub fn call(&self, method: &str, path: &str, body: &impl Serialize) -> Answer {
        let answer = self.api(method, path, &serde_json::to_string(body).unwrap());
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        answer
    }

    /// `stoker apply`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn apply(&self, kind: Kind, name: &str, spec: &Value) {
        let object =
            json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": {"name": name}, "spec": spec});
        self.call("POST", "/api/v1/objects", &object);
    }

    /// Reads a Server, changes it, writes it back; again where somebody else was quicker.
    ///
    /// # Panics
    /// When it is refused.
    pub fn edit(&self, path: &str, change: impl Fn(&mut Object)) {
        self.until("the change is written", |site| {
            let mut object: Object = site.api("GET", path, "").json();
            change(&mut object);
            let answer = site.api("PUT", "/api/v1/objects", &serde_json::to_string(&object).unwrap());
            assert!(matches!(answer.status, 200 | 409), "{answer:?}");
            answer.status == 200
        });
    }

    /// A Server as it is now, if there is one of that name.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn server(&self, name: &str) -> Option<Server> {
        let answer = self.api("GET", &format!("/api/v1/objects/server/{name}"), "");
        (answer.status == 200).then(|| Server::from_object(&answer.json::<Object>()).unwrap())
    }

    /// All Servers.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn servers(&self) -> Vec<Server> {
        let list: control::api::objects::ObjectList = self.api("GET", "/api/v1/objects/server", "").json();
        list.items.iter().map(|o| Server::from_object(o).unwrap()).collect()
    }

    /// The condition of this type, where it is True.
    pub fn condition(&self, server: &str, kind: &str) -> Option<control::resource::Condition> {
        let server = self.server(server)?;
        server.status.conditions.into_iter().find(|c| c.r#type == kind && c.status == "True")
    }

    /// The last version that the store has given: it rises with every write of an object.
    pub fn revision(&self) -> u64 {
        let all = ["server", "serverclass", "environment", "serverbinding", "secret"];
        let lists = all.iter().map(|kind| self.api("GET", &format!("/api/v1/objects/{kind}"), ""));
        let lists = lists.map(|a| a.json::<control::api::objects::ObjectList>().items);
        lists.flatten().filter_map(|o| o.metadata.resource_version.parse().ok()).max().unwrap_or(0)
    }

    /// Waits until it holds.
    ///
    /// # Panics
    /// When it never does.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "never: {what}; {:#?}", self.api("GET", "/api/v1/objects/server", "").body);
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// A counter of `/metrics` by the beginning of its line.
    ///
    /// # Panics
    /// When there are no metrics.
    pub fn counter(&self, line: &str) -> u64 {
        let page = self.node(Ipv4Addr::LOCALHOST, "GET", "/metrics", "", "").body;
        let found =
            page.lines().filter(|l| l.starts_with(line)).filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok());
        found.sum()
    }
}

/// The edge, as far as control can tell: it serves whatever is published, soon.
fn serve_all(state: &Path, ending: &CancellationToken) {
    let mut served = None;
    while !ending.is_cancelled() {
        let manifest = std::fs::read(state.join("publish/manifest.json")).ok();
        let generation = manifest.and_then(|bytes| Manifest::parse(&bytes).ok()).map(|m| m.generation);
        if let Some(generation) = generation.filter(|_| generation != served) {
            let (refused, listen) = Default::default();
            let state_now =
                EdgeState { version: 1, pid: 1, at_ms: 0, generation, refused, driver: "epoll".into(), listen };
            let text = serde_json::to_vec(&state_now).unwrap();
            std::fs::create_dir_all(state.join("edge")).unwrap();
            control::publish::replace_file(&state.join("edge/edge.state"), &text).unwrap();
            served = Some(generation);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end();
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, extra: &str, body: &str) -> Answer {
    let length =
        if body.is_empty() && method == "GET" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    // In one piece: whoever does not care for a body answers before a second one comes, and closes.
    let all = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{extra}{length}\r\n{body}");
    stream.write_all(all.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_owned() };
    Answer { status, head, body }
}

/// A chunked body (RFC 9112 section 7.1).
fn dechunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        let Some(chunk) = rest.get(..size).filter(|c| !c.is_empty()) else { break };
        body.push_str(chunk);
        text = rest.get(size + 2..).unwrap_or_default();
    }
    body
}

/// A bundle folder with an agent.
fn bundle(folder: &Path) -> String {
    let files =
        [("env/agent-amd64/vmlinuz", "kernel"), ("env/agent-amd64/initramfs.xz", "initrd")].map(|(path, bytes)| {
            let at = folder.join("bundle").join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, bytes).unwrap();
            json!({"path": path, "sha256": ObjectId::of(bytes.as_bytes()), "length": bytes.len(),
            "content_type": "application/octet-stream", "role": "x", "arch": "x86_64"})
        });
    let index = json!({"version": 1, "name": "test bundle", "files": files}).to_string();
    std::fs::write(folder.join("bundle/bundle.json"), index).unwrap();
    "bundle: bundle\n".to_owned()
}

/// The address of the nth simulated machine, on the loopback.
pub fn address(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(127, 7, high, low)
}

/// The same as [`IpAddr`].
pub fn ip(n: u16) -> IpAddr {
    address(n).into()
}
