//! The other end: a socket that speaks packets, our own client on a real
//! socket, and the clients that people use.

use protocol::tftp::fetch::{Ask, Fetch, Output, Report};
use protocol::time::Instant;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output as Done};
use std::time::Duration;

/// How long to wait for what must come, and for what must not.
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(300);

/// A client that does packet by packet what the test says.
pub struct Wire(pub UdpSocket);

impl Wire {
    /// On any port of this address.
    pub fn at(ip: &str) -> Self {
        Self(UdpSocket::bind((ip.parse::<std::net::IpAddr>().unwrap(), 0)).unwrap())
    }

    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.0.send_to(bytes, to).unwrap();
    }

    /// Asks for a file; options as `name value ...`.
    pub fn rrq(&self, to: SocketAddr, name: &str, options: &str) {
        self.send(to, &request(1, name, "octet", options));
    }

    pub fn ack(&self, to: SocketAddr, block: u16) {
        self.send(to, &[&[0, 4][..], &block.to_be_bytes()].concat());
    }

    /// The next packet, and where it came from.
    pub fn next(&self) -> (Vec<u8>, SocketAddr) {
        self.within(PATIENCE).expect("a packet within 5 s")
    }

    /// The next packet must be this block.
    pub fn block(&self, number: u16) -> (Vec<u8>, SocketAddr) {
        let (bytes, from) = self.next();
        assert_eq!(bytes[..4], [&[0, 3][..], &number.to_be_bytes()].concat()[..], "block {number}");
        (bytes[4..].to_vec(), from)
    }

    /// The next packet must be this ERROR.
    pub fn error(&self, code: u8) -> SocketAddr {
        let (bytes, from) = self.next();
        assert_eq!(bytes[..4], [0, 5, 0, code], "{}", bytes.escape_ascii());
        assert!(bytes.ends_with(&[0]) && bytes.len() <= 4 + 128);
        from
    }

    /// Nothing may come.
    pub fn silence(&self) {
        let came = self.within(SILENCE);
        assert!(came.is_none(), "{came:?}");
    }

    fn within(&self, time: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut buffer = vec![0; 65536];
        let (length, from) = loop {
            match self.0.recv_from(&mut buffer) {
                Ok(came) => break came,
                // The end of a ring that this thread had probed interrupts it.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        };
        buffer.truncate(length);
        Some((buffer, from))
    }
}

pub fn request(opcode: u8, name: &str, mode: &str, options: &str) -> Vec<u8> {
    let mut bytes = vec![0, opcode];
    for text in [name, mode].into_iter().chain(options.split(' ').filter(|_| !options.is_empty())) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Fetches with our own client, on a socket of this thread.
pub fn fetch(server: SocketAddr, ask: &Ask<'_>) -> (Report, Vec<u8>) {
    let wire = Wire::at(if server.is_ipv4() { "0.0.0.0" } else { "::" });
    let began = std::time::Instant::now();
    let now = || Instant(began.elapsed().as_nanos() as u64);
    let mut fetch = Fetch::start(server, ask, now());
    let (mut file, mut buffer) = (Vec::new(), vec![0; 65536]);
    loop {
        while let Some(output) = fetch.poll_output() {
            match output {
                Output::Send { to, bytes } => wire.send(to, bytes),
                Output::Ended(_) => return (fetch.report().clone(), file),
            }
        }
        let left = fetch.deadline().map_or(PATIENCE, |at| at - now()).max(Duration::from_millis(1));
        wire.0.set_read_timeout(Some(left)).unwrap();
        if let Ok((length, from)) = wire.0.recv_from(&mut buffer)
            && let Some(bytes) = fetch.handle(from, &buffer[..length], now())
        {
            file.extend_from_slice(bytes);
        }
        fetch.timer(now());
    }
}

/// A client from the distribution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    Curl,
    CurlWithoutOptions,
    Atftp,
    AtftpWindow,
    TftpHpa,
    TftpHpaNetascii,
    Busybox,
}

impl Client {
    pub const ALL: [Self; 7] = [
        Self::Curl,
        Self::CurlWithoutOptions,
        Self::Atftp,
        Self::AtftpWindow,
        Self::TftpHpa,
        Self::TftpHpaNetascii,
        Self::Busybox,
    ];

    /// Fetches `name` into the file `to`, in a namespace if wanted.
    pub fn get(self, server: SocketAddr, name: &str, to: &Path, namespace: Option<&str>) -> Done {
        let (ip, port) = (server.ip().to_string(), server.port().to_string());
        let to = to.to_string_lossy();
        let url = format!("tftp://{server}/{name}");
        let args: Vec<&str> = match self {
            Self::Curl => vec!["curl", "-sS", "--max-time", "120", "--tftp-blksize", "1468", "-o", &to, &url],
            Self::CurlWithoutOptions => vec!["curl", "-sS", "--max-time", "120", "--tftp-no-options", "-o", &to, &url],
            Self::Atftp => vec!["atftp", "-g", "-r", name, "-l", &to, "--option", "blksize 1432", &ip, &port],
            Self::AtftpWindow => vec![
                "atftp",
                "-g",
                "-r",
                name,
                "-l",
                &to,
                "--option",
                "blksize 1468",
                "--option",
                "windowsize 16",
                &ip,
                &port,
            ],
            Self::TftpHpa => vec!["tftp", "-m", "binary", &ip, &port, "-c", "get", name, &to],
            Self::TftpHpaNetascii => vec!["tftp", "-m", "ascii", &ip, &port, "-c", "get", name, &to],
            Self::Busybox => vec!["busybox", "tftp", "-g", "-b", "1428", "-r", name, "-l", &to, &ip, &port],
        };
        let mut command = match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).args(&args);
                command
            }
            None => {
                let mut command = Command::new(args[0]);
                command.args(&args[1..]);
                command
            }
        };
        command
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}; apt-get install curl atftp tftp-hpa busybox-static", args[0]))
    }
}
