//! A real Kubernetes API server with its etcd, on loopback, for one test
//! program. There is no controller manager: nothing collects garbage, makes
//! service accounts, or runs pods.

pub mod program;

use anyhow::{Context as _, Result, bail};
use control::rack::process::{Process, dies_with_us};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a part may take to start; only one that hangs takes so long.
const START: Duration = Duration::from_secs(300);
/// How long a part may take to end in order; an API server with open watches takes a minute.
const GRACE: Duration = Duration::from_secs(10);
/// The administrator's token.
const ADMIN: &str = "test-admin-token";

/// The cluster; its processes end when it is dropped.
pub struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    api_port: u16,
    etcd_port: u16,
    peer_port: u16,
    api: Option<Process>,
    etcd: Option<Process>,
    keeper: Keeper,
}

/// A thread that starts the processes. The kernel ends what a thread has started when the thread
/// ends, and tests restart processes that are to outlive the test.
struct Keeper(mpsc::Sender<(Command, PathBuf, mpsc::Sender<Result<Process>>)>);

impl Keeper {
    fn start() -> Self {
        let (ask, asked) = mpsc::channel::<(Command, PathBuf, mpsc::Sender<Result<Process>>)>();
        std::thread::spawn(move || {
            for (command, log, answer) in asked {
                let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let _ = answer.send(Process::spawn(&name, command, &log).map_err(Into::into));
            }
        });
        Self(ask)
    }

    fn spawn(&self, command: Command, log: PathBuf) -> Result<Process> {
        let (answer, answered) = mpsc::channel();
        self.0.send((command, log, answer)).ok().context("the thread that starts processes has ended")?;
        answered.recv().context("the thread that starts processes has ended")?
    }
}

/// What a command said.
pub struct Said {
    /// Whether it succeeded.
    pub good: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Cluster {
    /// Starts one with nothing in it; `name` tells its folder from those of others.
    ///
    /// # Errors
    /// Where the programs cannot be built or do not start; their last words are in it.
    pub fn start(name: &str) -> Result<Self> {
        let program = program::built()?;
        let folder = program::target().join("kubernetes").join("state").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let [api_port, etcd_port, peer_port] = free_ports()?;
        let mut cluster =
            Self { program, folder, api_port, etcd_port, peer_port, api: None, etcd: None, keeper: Keeper::start() };
        let key = cluster.command(&["key"]).output().context("the key of service accounts")?;
        cluster.write("service-accounts.pem", &String::from_utf8_lossy(&key.stdout))?;
        cluster.write("tokens.csv", &format!("{ADMIN},admin,admin,system:masters\n"))?;
        cluster.start_etcd()?;
        cluster.start_api()?;
        Ok(cluster)
    }

    /// A kubeconfig of the administrator. The server's certificate is checked.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Base URL of the API.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// Starts etcd over the data that is there.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start_etcd(&mut self) -> Result<()> {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.etcd_port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = self.command_that_dies_with_us(&["etcd"]);
        command.arg("--data-dir").arg(self.folder.join("etcd"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        // Nothing here has to survive the machine.
        command.args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync", "--log-level", "warn"]);
        self.etcd = Some(self.keeper.spawn(command, self.folder.join("etcd.log"))?);
        Ok(())
    }

    /// Starts the API server and waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start_api(&mut self) -> Result<()> {
        let mut command = self.command_that_dies_with_us(&["kube-apiserver"]);
        let file = |name: &str| self.folder.join(name).display().to_string();
        let key = file("service-accounts.pem");
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.api_port),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ]);
        self.api = Some(self.keeper.spawn(command, self.folder.join("kube-apiserver.log"))?);
        let until = Instant::now() + START;
        let certificate = self.folder.join("certificates/apiserver.crt");
        loop {
            for part in [&mut self.api, &mut self.etcd].into_iter().flatten() {
                if let Some(status) = part.ended() {
                    bail!("{} has ended ({status}); its last words:\n{}", part.name(), last_words(&self.folder));
                }
            }
            if certificate.exists() {
                self.write_kubeconfig(&certificate)?;
                if self.kubectl(&["get", "--raw", "/readyz"]).good {
                    return Ok(());
                }
            }
            if Instant::now() > until {
                bail!("kube-apiserver is not ready after {} s:\n{}", START.as_secs(), last_words(&self.folder));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the API server; its data stay in etcd.
    pub fn stop_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.stop(GRACE);
        }
    }

    /// Ends the API server as a power cut does.
    pub fn kill_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.stop(Duration::ZERO);
        }
    }

    /// Has etcd forget everything before its present revision.
    ///
    /// # Errors
    /// Where etcd refuses.
    pub fn compact(&self, revision: u64) -> Result<()> {
        let body = format!("{{\"revision\":\"{revision}\",\"physical\":true}}");
        let url = format!("http://127.0.0.1:{}/v3/kv/compaction", self.etcd_port);
        let out = Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60", "-d", &body, &url])
            .output()
            .context("curl")?;
        if !out.status.success() {
            bail!("etcd does not compact: {}{}", text(&out.stdout), text(&out.stderr));
        }
        Ok(())
    }

    /// What `kubectl` says, as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        self.kubectl_with(arguments, "")
    }

    /// The same with something on its standard input.
    ///
    /// # Panics
    /// Where the program cannot be started at all.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(&["kubectl", "--request-timeout=60s"]);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("its standard input");
        // A program that ends before it has read everything says why by itself.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let out = child.wait_with_output().expect("kubectl ends");
        Said { good: out.status.success(), out: text(&out.stdout), err: text(&out.stderr) }
    }

    fn command(&self, part: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(part).env("HOME", &self.folder);
        command
    }

    fn command_that_dies_with_us(&self, part: &[&str]) -> Command {
        let mut command = dies_with_us(&self.program, "KILL");
        command.args(part).env("HOME", &self.folder);
        command
    }

    fn write_kubeconfig(&self, certificate: &Path) -> Result<()> {
        let (url, certificate) = (self.url(), certificate.display());
        self.write(
            "kubeconfig",
            &format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
                 clusters: [{{name: test, cluster: {{server: '{url}', certificate-authority: '{certificate}'}}}}]\n\
                 users: [{{name: admin, user: {{token: {ADMIN}}}}}]\n\
                 contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]\n"
            ),
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ports that nobody has now. Somebody may take one before we do; then the part says so and ends.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free loopback port")?;
        *port = socket.local_addr()?.port();
        held.push(socket);
    }
    Ok(ports)
}

/// The ends of both logs.
fn last_words(folder: &Path) -> String {
    let ends = ["kube-apiserver.log", "etcd.log"].map(|name| {
        let log = std::fs::read(folder.join(name)).unwrap_or_default();
        let lines: Vec<String> = text(&log).lines().rev().take(15).map(str::to_owned).collect();
        format!("{name}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    });
    ends.join("\n")
}
