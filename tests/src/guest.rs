//! A machine that runs the agent's kernel and initramfs in QEMU, and control
//! for it alone: a function that gives orders by what was said.

use protocol::report::{Answer, CURRENT, Hello, Order, Status};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without hardware virtualisation, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What an agent says.
#[derive(Clone, Debug)]
pub enum Said {
    /// Its first words.
    Hello(Box<Hello>),
    /// Its further words.
    Status(Box<Status>),
}

/// Control for one machine.
pub struct Control {
    /// Where it listens, on the host's loopback.
    pub port: u16,
    said: Receiver<Said>,
}

/// Files that control hands out beside its answers, by path.
pub type Files = Vec<(String, Vec<u8>)>;

impl Control {
    /// Starts it on a free loopback port; `order` is asked at each word, `files` are served by GET.
    ///
    /// # Panics
    /// Where loopback has no free port.
    pub fn start(files: Files, order: impl FnMut(&Said) -> Order + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (sender, said) = channel();
        std::thread::spawn(move || serve(&listener, files, order, &sender));
        Self { port, said }
    }

    /// The next word. Where none comes in time: the machine's console, as a panic.
    ///
    /// # Panics
    /// At the deadline.
    pub fn next(&self, deadline: Instant, machine: &mut Machine) -> Said {
        let left = deadline.saturating_duration_since(Instant::now());
        self.said.recv_timeout(left).unwrap_or_else(|e| panic!("the machine said no more ({e}):\n{}", machine.end()))
    }

    /// The next status that fits.
    ///
    /// # Panics
    /// At the deadline.
    pub fn until(&self, machine: &mut Machine, fits: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Said::Status(status) = self.next(deadline, machine)
                && fits(&status)
            {
                return *status;
            }
        }
    }
}

/// Every connection has a thread: an agent that works on an order speaks on several.
fn serve(
    listener: &TcpListener,
    files: Files,
    order: impl FnMut(&Said) -> Order + Send + 'static,
    said: &Sender<Said>,
) -> std::io::Result<()> {
    let (files, order) = (Arc::new(files), Arc::new(Mutex::new(order)));
    for stream in listener.incoming() {
        let (stream, files, order, said) = (stream?, files.clone(), order.clone(), said.clone());
        std::thread::spawn(move || answer(stream, &files, &order, &said));
    }
    Ok(())
}

fn answer(
    stream: TcpStream,
    files: &Files,
    order: &Mutex<impl FnMut(&Said) -> Order>,
    said: &Sender<Said>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader)? {
        let answer = match path.as_str() {
            "/agent/v1/hello" | "/agent/v1/status" => {
                let word = match path.ends_with("hello") {
                    true => Said::Hello(serde_json::from_slice(&body)?),
                    false => Said::Status(serde_json::from_slice(&body)?),
                };
                let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
                let order = order(&word);
                said.send(word).map_err(std::io::Error::other)?;
                Some(serde_json::to_vec(&Answer { version: CURRENT, order, poll_seconds: 1 })?)
            }
            path => files.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.clone()),
        };
        let line = if answer.is_some() { "200 OK" } else { "404 Not Found" };
        let body = answer.unwrap_or_default();
        let mut stream: &TcpStream = reader.get_ref();
        write!(stream, "HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
    }
    Ok(())
}

/// Path and body of the next request of a connection; none at its end.
fn request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let (mut head, mut length) = (String::new(), 0);
    if reader.read_line(&mut head)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((head.split(' ').nth(1).unwrap_or_default().to_string(), body)))
}

/// A QEMU machine that ends with the test. Its console is a file.
pub struct Machine {
    child: Child,
    console: PathBuf,
}

impl Machine {
    /// Starts a PC under emulation with the kernel and initramfs of a bundle's folder, a network card
    /// towards the host's loopback (10.0.2.2) and these further arguments.
    ///
    /// # Panics
    /// Where there is no QEMU.
    pub fn start(files: &Path, folder: &Path, mac: &str, uuid: &str, append: &str, more: &[&str]) -> Self {
        let console = folder.join("console.log");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35", "-m", "512"]);
        qemu.args(["-nodefaults", "-display", "none", "-uuid", uuid]);
        qemu.arg("-kernel").arg(files.join("vmlinuz")).arg("-initrd").arg(files.join("initramfs.xz"));
        qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1 BOOTIF=01-{} {append}", mac.replace(':', "-"))]);
        qemu.args(["-netdev", "user,id=n", "-device", &format!("virtio-net-pci,netdev=n,mac={mac}")]);
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(more);
        let child = qemu.stdin(Stdio::null()).spawn().expect("qemu-system-x86_64 (package qemu-system-x86)");
        Self { child, console }
    }

    /// What stands on its console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Ends it; what stood on its console.
    pub fn end(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.console()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}
