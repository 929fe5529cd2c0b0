//! The servers that are measured: ours, and the ones people use today. Each is
//! started on loopback with one image in a temporary root, and ended again.

pub mod install;

use crate::image::{self, Image};
use crate::process::{Server, command};
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Transfers that a server is allowed at once, where it must be told.
const TRANSFERS_MAX: usize = 20_000;
/// The only port on which dnsmasq serves TFTP.
const TFTP_PORT: u16 = 69;

/// A server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Peer {
    /// stoker-edge on io_uring.
    EdgeUring,
    /// stoker-edge on epoll.
    EdgeEpoll,
    /// dnsmasq: one process, lock-step only.
    Dnsmasq,
    /// tftpd-hpa: a process for each transfer, lock-step only.
    TftpdHpa,
    /// atftpd: a thread for each transfer.
    Atftpd,
    /// The crate `tftpd` (rs-tftpd): a thread for each transfer, windows.
    RsTftpd,
    /// nginx with sendfile, one worker.
    Nginx,
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// TFTP.
    Tftp,
    /// HTTP/1.1.
    Http,
}

impl Peer {
    /// The name used on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdgeUring => "edge-uring",
            Self::EdgeEpoll => "edge-epoll",
            Self::Dnsmasq => "dnsmasq",
            Self::TftpdHpa => "tftpd-hpa",
            Self::Atftpd => "atftpd",
            Self::RsTftpd => "rs-tftpd",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it serves that.
    pub const fn speaks(self, language: Language) -> bool {
        match self {
            Self::EdgeUring | Self::EdgeEpoll => true,
            Self::Nginx => matches!(language, Language::Http),
            _ => matches!(language, Language::Tftp),
        }
    }

    /// Whether its children's CPU time must be caught while they live.
    pub const fn loses_children(self) -> bool {
        matches!(self, Self::TftpdHpa)
    }

    const fn program(self) -> &'static str {
        match self {
            Self::EdgeUring | Self::EdgeEpoll => "stoker-edge",
            Self::Dnsmasq => "dnsmasq",
            Self::TftpdHpa => "in.tftpd",
            Self::Atftpd => "atftpd",
            Self::RsTftpd => "tftpd",
            Self::Nginx => "nginx",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Where to find the programs, and on which cores they run.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where `peers install` puts what a distribution's packages do not give side by side.
    pub tools: PathBuf,
    /// The edge, if not beside this program.
    pub edge: Option<PathBuf>,
    /// Cores of the server; empty for all.
    pub cores: Vec<usize>,
}

/// A peer that runs.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub server: Server,
    /// Where it answers.
    pub address: SocketAddr,
    /// The image's name there.
    pub file: String,
    /// Its files; removed with it.
    _root: tempfile::TempDir,
}

/// Starts `peer` with the image. It may need a moment before it answers.
///
/// # Errors
/// When its program is not found or does not start.
pub fn start(peer: Peer, language: Language, image: &Image, place: &Place) -> Result<Started> {
    let program = find(peer, place)?;
    let root =
        tempfile::Builder::new().prefix("stoker-loadtest-").tempdir().context("cannot make a temporary folder")?;
    let files = root.path().join("files");
    fs::create_dir(&files)?;
    open_to_all(root.path())?;
    let mut file = image::NAME.to_owned();
    let (address, ready) = match peer {
        Peer::EdgeUring | Peer::EdgeEpoll => {
            file = format!("boot/{}", image::NAME);
            edge(peer, language, &program, root.path(), image, &file)?
        }
        Peer::Nginx => {
            image.write_into(&files)?;
            nginx(&program, root.path(), &files)?
        }
        _ => {
            image.write_into(&files)?;
            tftp_server(peer, &program, &files)?
        }
    };
    let server = Server::start(ready, &place.cores, &root.path().join("log"))?;
    Ok(Started { server, address, file, _root: root })
}

fn tftp_server(peer: Peer, program: &Path, files: &Path) -> Result<(SocketAddr, Command)> {
    let mut run = command(program);
    let many = TRANSFERS_MAX.to_string();
    let address = match peer {
        // Its port cannot be chosen, so its address is: all of 127/8 is loopback.
        Peer::Dnsmasq => SocketAddr::new(own_loopback_address(), TFTP_PORT),
        _ => free_udp_port()?,
    };
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    match peer {
        Peer::Dnsmasq => run
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"])
            .args(["--log-facility=-", "--quiet-tftp", "--pid-file", "--enable-tftp", "--user=root", "--group=root"])
            .arg(format!("--listen-address={ip}"))
            .arg(format!("--tftp-root={}", files.display()))
            .arg(format!("--tftp-max={many}")),
        Peer::TftpdHpa => run
            .args(["--foreground", "--listen", "--secure", "--user", "nobody", "--address"])
            .arg(address.to_string())
            .arg(files),
        Peer::Atftpd => run
            .args(["--daemon", "--no-fork", "--verbose=3", "--logfile", "-", "--user", "root.root"])
            .args(["--maxthread", &many, "--bind-address", &ip, "--port", &port])
            .arg(files),
        Peer::RsTftpd => run.args(["--read-only", "--quiet", "-i", &ip, "-p", &port, "-d"]).arg(files),
        Peer::EdgeUring | Peer::EdgeEpoll | Peer::Nginx => bail!("{peer} is not started here"),
    };
    Ok((address, run))
}

fn nginx(program: &Path, root: &Path, files: &Path) -> Result<(SocketAddr, Command)> {
    let address = free_tcp_port()?;
    let config = root.join("nginx.conf");
    let (root_text, files) = (root.display(), files.display());
    fs::write(
        &config,
        format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 65536; user root;\n\
             pid {root_text}/pid; error_log {root_text}/error.log crit;\n\
             events {{ worker_connections {TRANSFERS_MAX}; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;\n\
             client_body_temp_path {root_text}/t1; proxy_temp_path {root_text}/t2; fastcgi_temp_path {root_text}/t3;\n\
             uwsgi_temp_path {root_text}/t4; scgi_temp_path {root_text}/t5; open_file_cache max=16;\n\
             server {{ listen {address} backlog=4096; root {files}; }} }}\n"
        ),
    )?;
    let mut run = command(program);
    run.arg("-e").arg(root.join("error.log")).arg("-c").arg(&config).arg("-p").arg(root);
    Ok((address, run))
}

fn edge(
    peer: Peer,
    language: Language,
    program: &Path,
    root: &Path,
    image: &Image,
    name: &str,
) -> Result<(SocketAddr, Command)> {
    let state = root.join("state");
    publish(&state, image, name)?;
    let (tftp, http) = (free_udp_port()?, free_tcp_port()?);
    let driver = if peer == Peer::EdgeUring { "uring" } else { "epoll" };
    let mut run = command(program);
    run.arg("--state").arg(&state).args(["--driver", driver, "--workers", "1", "--metrics", "off"]);
    run.arg("--tftp").arg(tftp.to_string()).arg("--http").arg(http.to_string());
    Ok((if language == Language::Tftp { tftp } else { http }, run))
}

/// Does what control's publisher does, for one object.
fn publish(state: &Path, image: &Image, name: &str) -> Result<()> {
    use protocol::manifest::{Entry, Manifest, ObjectId};
    let object = ObjectId::of(&image.bytes);
    let objects = state.join("publish/objects/sha256");
    for folder in [objects.as_path(), &state.join("edge"), &state.join("run")] {
        fs::create_dir_all(folder)?;
    }
    fs::write(objects.join(object.to_string()), &image.bytes)?;
    let entry = Entry { object, length: image.len(), content_type: "application/octet-stream".to_owned() };
    let manifest = Manifest::new(1, [(name.to_owned(), entry)].into());
    fs::write(state.join("publish/manifest.json"), manifest.to_bytes())?;
    Ok(())
}

fn find(peer: Peer, place: &Place) -> Result<PathBuf> {
    let name = peer.program();
    let mut folders = Vec::new();
    match peer {
        Peer::EdgeUring | Peer::EdgeEpoll => {
            if let Some(edge) = &place.edge {
                return Ok(edge.clone());
            }
            let own = std::env::current_exe()?;
            // Tests run from target/<profile>/deps.
            folders.extend(own.ancestors().skip(1).take(2).map(Path::to_path_buf));
        }
        // Others install programs of the same names.
        Peer::TftpdHpa => folders.push(place.tools.join("tftpd-hpa/usr/sbin")),
        Peer::RsTftpd => folders.push(place.tools.join("bin")),
        _ => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            folders.extend(std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]));
        }
    }
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| {
        let remedy = match peer {
            Peer::EdgeUring | Peer::EdgeEpoll => "build it (cargo build --release -p stoker-edge) or pass --edge PATH",
            _ => "run `loadtest peers install`",
        };
        format!("{name} for {peer} is not there; {remedy}")
    })
}

/// An address of 127/8 that no other run uses: made of the process id.
fn own_loopback_address() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high & 0x3f, middle, low.max(2)).into()
}

fn free_udp_port() -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn free_tcp_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?)
}
