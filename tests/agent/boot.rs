//! The agent's kernel and initramfs in a QEMU machine without a network boot
//! before it: drivers load, an address comes by DHCP, the inventory is told,
//! orders are answered, and the machine switches off when it is told to.

mod bmc;
mod image;
mod kexec;

use assets::bundle::{self, Plan};
use assets::lock::Lock;
use assets::packages::Store;
use protocol::report::{Answer, CURRENT, FirmwareKind, Hello, Level, Order, OrderKind, Status};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Without hardware virtualisation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
const MAC: &str = "52:54:00:12:34:56";
const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";

enum Said {
    Hello(Box<Hello>),
    Status(Box<Status>),
}

/// Control for one machine: refuses the first hello, then gives orders by what was said.
fn control(listener: &TcpListener, said: &Sender<Said>) -> std::io::Result<()> {
    let mut hellos = 0;
    loop {
        let (stream, _) = listener.accept()?;
        let mut reader = BufReader::new(stream);
        while let Some((path, body, _)) = request(&mut reader)? {
            let order = |id, kind| Some(Answer { version: CURRENT, order: Order { id, kind }, poll_seconds: 1 });
            let answer = if path == "/agent/v1/hello" {
                hellos += 1;
                said.send(Said::Hello(serde_json::from_slice(&body)?)).map_err(std::io::Error::other)?;
                if hellos == 1 { None } else { order(1, OrderKind::Unknown) }
            } else {
                let status: Status = serde_json::from_slice(&body)?;
                let last = status.order;
                said.send(Said::Status(Box::new(status))).map_err(std::io::Error::other)?;
                if last == 0 { order(1, OrderKind::Unknown) } else { order(2, OrderKind::PowerOff) }
            };
            let (line, text) = match answer {
                Some(answer) => ("200 OK", serde_json::to_string(&answer)?),
                None => ("503 Service Unavailable", String::new()),
            };
            let mut stream: &TcpStream = reader.get_ref();
            write!(stream, "HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{text}", text.len())?;
        }
    }
}

/// Path, body, and the value of `Range`.
type Request = (String, Vec<u8>, Option<String>);

/// The next request of a connection; none at its end.
fn request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let (mut head, mut length, mut range) = (String::new(), 0, None);
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
        if let Some(value) = line.strip_prefix("range:") {
            range = Some(value.trim().to_owned());
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((head.split(' ').nth(1).unwrap_or_default().to_string(), body, range)))
}

/// A QEMU machine that ends with the test.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kernel and initramfs with the agent as it is now, and this case's turn: one machine at a time,
/// since a loaded host would only measure itself.
fn ready() -> (&'static Path, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    static FILES: OnceLock<PathBuf> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let files = FILES.get_or_init(|| {
        let repository = assets::repository().unwrap();
        let cache = std::env::var_os("STOKER_CACHE");
        let cache = cache.map_or_else(|| repository.join("target/bundle-cache"), PathBuf::from);
        let store = Store::new(&cache, Lock::load(&repository).unwrap(), false);
        // Kept from run to run: what is made of the same things is left as it is.
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-bundle");
        let plan = Plan { out: out.clone(), repository, archs: vec!["x86_64".into()], agent: None, offline: false };
        bundle::build(&plan, &store).unwrap();
        bundle::verify(&out).unwrap();
        out.join("env/agent-amd64")
    });
    (files, turn)
}

fn next(said: &Receiver<Said>, deadline: Instant, machine: &mut Machine) -> Said {
    said.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_else(|e| {
        let _ = machine.0.kill();
        let mut console = String::new();
        machine.0.stdout.take().unwrap().read_to_string(&mut console).unwrap();
        panic!("the machine said no more ({e}); its console:\n{console}")
    })
}

#[test]
fn a_machine_boots_the_agent_tells_what_it_is_and_obeys() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _turn) = ready();
    let disk = folder.path().join("disk.raw");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, said) = channel();
    std::thread::spawn(move || control(&listener, &sender));

    // 10.0.2.2 is the host's loopback as QEMU's user network shows it; no address is given, so the agent asks by DHCP.
    let arguments = format!(
        "console=ttyS0 quiet panic=-1 stoker.control=http://10.0.2.2:{port} stoker.attempt=a7 BOOTIF=01-{} stoker.ip= stoker.netmask=",
        MAC.replace(':', "-")
    );
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-machine",
        "q35",
        "-m",
        "512",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    qemu.arg("-kernel")
        .arg(files.join("vmlinuz"))
        .arg("-initrd")
        .arg(files.join("initramfs.xz"))
        .args(["-append", &arguments]);
    qemu.args(["-uuid", UUID, "-netdev", "user,id=n", "-device", &format!("virtio-net-pci,netdev=n,mac={MAC}")]);
    qemu.arg("-drive").arg(format!("if=none,id=d,format=raw,file={}", disk.display()));
    qemu.args(["-device", "virtio-blk-pci,drive=d,serial=DISK1", "-serial", "stdio"]);
    let child =
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("qemu-system-x86_64 (package qemu-system-x86)");
    let mut machine = Machine(child);
    let deadline = Instant::now() + PATIENCE;

    let Said::Hello(first) = next(&said, deadline, &mut machine) else { panic!("status before hello") };
    let facts = &first.facts;
    assert_eq!((first.attempt.as_deref(), first.boot_mac), (Some("a7"), MAC.parse().ok()));
    assert_eq!((facts.system.uuid, facts.system.manufacturer.as_str()), (UUID.parse().ok(), "QEMU"));
    assert_eq!((facts.firmware, facts.compute.total_core_count), (FirmwareKind::Bios, 1));
    assert_eq!(facts.memory.total_bytes, 512 << 20);
    assert_eq!(facts.storage.len(), 1, "{:?}", facts.storage);
    let disk = &facts.storage[0];
    assert_eq!((disk.name.as_str(), disk.size, disk.serial_number.as_str()), ("vda", 64 << 20, "DISK1"));
    assert_eq!(facts.network.len(), 1, "{:?}", facts.network);
    let nic = &facts.network[0];
    assert_eq!((nic.mac, nic.driver.as_str(), nic.link), (MAC.parse().ok(), "virtio_net", true));
    assert!(nic.addresses.iter().any(|a| a.starts_with("10.0.2.") && a.ends_with("/24")), "{:?}", nic.addresses);
    assert!(facts.gaps.is_empty(), "{:?}", facts.gaps);

    // The first hello was refused, so it is said again, by the same boot.
    let Said::Hello(second) = next(&said, deadline, &mut machine) else { panic!("no second hello") };
    assert_eq!(first.boot_id, second.boot_id);
    assert!(second.uptime_s > first.uptime_s);

    // An order of an unknown kind is answered and otherwise left alone; then the machine is told to switch off.
    let mut levels = Vec::new();
    let status = loop {
        let Said::Status(status) = next(&said, deadline, &mut machine) else { panic!("a third hello") };
        levels.push((status.order, status.level));
        if status.order == 2 {
            break status;
        }
    };
    assert!(levels.contains(&(1, Level::Unsupported)), "{levels:?}");
    assert_eq!((status.level, status.uuid, &status.boot_id), (Level::Running, UUID.parse().ok(), &first.boot_id));
    let mut console = String::new();
    machine.0.stdout.take().unwrap().read_to_string(&mut console).unwrap(); // to the end: QEMU has gone
    assert!(machine.0.wait().unwrap().success(), "{console}");
    assert!(console.contains("stoker-agent: order 2: switching off"), "{console}");
}
