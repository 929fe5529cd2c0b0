//! The agent writes the test system's image onto a disk, as control orders it;
//! then the machine starts from that disk by its firmware, and reports.

use crate::{Said, ready, request};
use control::rack::Firmware;
use protocol::report::{
    Answer, CURRENT, Confirmed, DataSource, DiskTarget, Hello, Hidden, ImageFormat, ImageOrder, Level, Order,
    OrderKind, Status, Target,
};
use sha2::{Digest as _, Sha256};
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoker_tests::os::TestOs;
use stoker_tests::os::guest::{Boot, Guest, HOST};

/// Only a machine that hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
const CONFIG: &str = "#cloud-config\nhostname: n1\n";
const DISK: u64 = 256 << 20;

/// Control and edge for one machine: gives the order, serves the image, once not to its end.
struct Site {
    image: Vec<u8>,
    order: ImageOrder,
    said: Sender<Said>,
    other: Sender<String>,
    confirms: u32,
    broken: bool,
}

/// Serves every connection in a thread of its own: the agent keeps one open for its reports.
fn serve(listener: &TcpListener, site: &Arc<Mutex<Site>>) {
    for stream in listener.incoming().map_while(Result::ok) {
        let site = site.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            // A connection ends as the machine pleases; what matters is what was said on it.
            while let Ok(Some((path, body, range))) = request(&mut reader) {
                let stream: &TcpStream = reader.get_ref();
                let answer = site.lock().unwrap().answer(&path, &body, range.as_deref());
                let Ok((head, body)) = answer else { return };
                if (&*stream).write_all(head.as_bytes()).and_then(|()| (&*stream).write_all(&body)).is_err() {
                    return;
                }
                if path.starts_with("/image") {
                    return;
                }
            }
        });
    }
}

impl Site {
    /// Head and body of an answer; the body may be less than the head promises.
    fn answer(&mut self, path: &str, body: &[u8], range: Option<&str>) -> std::io::Result<(String, Vec<u8>)> {
        let text = match path.split('?').next().unwrap_or_default() {
            "/agent/v1/hello" => {
                let hello: Hello = serde_json::from_slice(body)?;
                let disk = &hello.facts.storage[0];
                self.order.disk = DiskTarget {
                    serial_number: disk.serial_number.clone(),
                    model: disk.model.clone(),
                    size: disk.size,
                    name: disk.name.clone(),
                    ..DiskTarget::default()
                };
                self.order.target =
                    Target { macs: hello.facts.network.iter().filter_map(|n| n.mac).collect(), ..Target::default() };
                self.say(Said::Hello(Box::new(hello)))?;
                self.order(1)?
            }
            "/agent/v1/status" => {
                let status: Status = serde_json::from_slice(body)?;
                let next = if status.order == 1 && status.level == Level::Done { 2 } else { status.order.max(1) };
                self.say(Said::Status(Box::new(status)))?;
                self.order(next)?
            }
            "/agent/v1/confirm" => {
                // The first time control does not know yet (W5): the agent asks again.
                self.confirms += 1;
                let (go, why) = if self.confirms == 1 { (false, "not yet") } else { (true, "") };
                serde_json::to_string(&Confirmed { version: CURRENT, order: 1, go, why: why.into() })?
            }
            "/image" => return self.image(range),
            "/configdata" => self.tell(path, CONFIG)?,
            _ => self.tell(path, "ok\n")?,
        };
        Ok((format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len()), text.into_bytes()))
    }

    fn say(&self, said: Said) -> std::io::Result<()> {
        self.said.send(said).map_err(std::io::Error::other)
    }

    fn tell(&self, path: &str, answer: &str) -> std::io::Result<String> {
        self.other.send(path.to_owned()).map_err(std::io::Error::other)?;
        Ok(answer.to_owned())
    }

    fn order(&self, id: u64) -> std::io::Result<String> {
        let kind = if id == 1 { OrderKind::WriteImage(self.order.clone()) } else { OrderKind::Reboot };
        Ok(serde_json::to_string(&Answer { version: CURRENT, order: Order { id, kind }, poll_seconds: 1 })?)
    }

    /// The first time half of what is promised: the connection breaks.
    fn image(&mut self, range: Option<&str>) -> std::io::Result<(String, Vec<u8>)> {
        let from: usize = range.and_then(|r| r.strip_prefix("bytes=")?.split('-').next()?.parse().ok()).unwrap_or(0);
        let (total, status) = (self.image.len(), if range.is_some() { "206 Partial Content" } else { "200 OK" });
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"i\"\r\ncontent-range: bytes {from}-{}/{total}\r\n\r\n",
            total - from,
            total - 1
        );
        let end = if self.broken { total } else { total / 2 };
        self.broken = true;
        self.tell(&format!("/image from {from}"), "")?;
        Ok((head, self.image[from..end].to_vec()))
    }
}

/// What is written, how, and what the installed system is to say of it.
struct Case {
    firmware: Firmware,
    format: ImageFormat,
    data_source: DataSource,
    source: &'static str,
}

fn installs(case: &Case) {
    let os = TestOs::build().unwrap();
    let (files, _turn) = ready();
    let bundle = files.ancestors().nth(2);
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.raw");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(DISK).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{HOST}:{}", listener.local_addr().unwrap().port());
    let image = std::fs::read(os.packed(case.format).unwrap()).unwrap();
    let (said, told) = channel();
    let (other, asked) = channel();
    let order = ImageOrder {
        url: format!("{base}/image"),
        sha256: Sha256::digest(&image).iter().map(|b| format!("{b:02x}")).collect(),
        length: image.len() as u64,
        format: case.format,
        grow: true,
        data_source: case.data_source,
        config_url: Hidden(format!("{base}/configdata?uuid=u&token=SECRET")),
        report_url: Hidden(format!("{base}/report?uuid=u&token=SECRET")),
        hostname: "node-7".into(),
        instance_id: "i-7".into(),
        boot_label: "stoker node-7".into(),
        ..ImageOrder::default()
    };
    let site = Arc::new(Mutex::new(Site { image, order, said, other, confirms: 0, broken: false }));
    std::thread::spawn(move || serve(&listener, &site));

    let args = format!(
        "console=ttyS0 quiet panic=-1 no_timer_check stoker.control={base} stoker.attempt=a7 stoker.ip= stoker.netmask="
    );
    let (kernel, initrd) = (files.join("vmlinuz"), files.join("initramfs.xz"));
    let direct = Boot::Direct { kernel: &kernel, initrd: &initrd, args: &args };
    let mut guest = Guest::start(folder.path(), case.firmware, bundle, &disk, direct).unwrap();
    let levels = until_restart(&told, &guest);
    guest.ended(PATIENCE).unwrap();
    let console = guest.console();
    let last = levels.iter().rfind(|s| s.order == 1 && s.level == Level::Done).expect("the order is reported as done");
    assert!(last.detail.contains("on vda, partition 3 grown, configuration on partition 4"), "{}", last.detail);
    assert_eq!(last.detail.contains(", boot entry Boot"), case.firmware.is_uefi(), "{}", last.detail);
    let counters: Vec<u64> = levels.iter().filter_map(|s| Some(s.progress.as_ref()?.counter)).collect();
    assert!(counters.is_sorted() && counters.last() > Some(&3), "W9: {counters:?}");
    assert!(console.contains("control does not say go: not yet"), "{console}");
    assert!(!console.contains("SECRET"), "a token is on the console");
    let asked_for: Vec<String> = asked.try_iter().collect();
    assert_eq!(asked_for[0], "/configdata?uuid=u&token=SECRET");
    assert_eq!(asked_for[1], "/image from 0");
    assert!(asked_for[2].starts_with("/image from ") && asked_for[2] != "/image from 0", "{asked_for:?}");

    let mut guest = Guest::start(folder.path(), case.firmware, bundle, &disk, Boot::Entries).unwrap();
    let up = guest.line("stoker-os: up:", PATIENCE).unwrap();
    let digest: String = Sha256::digest(CONFIG).iter().map(|b| format!("{b:02x}")).collect();
    assert!(up.ends_with(&format!("source={} hostname=node-7 config={digest}", case.source)), "{up}");
    if case.firmware.is_uefi() {
        let entry = guest.line("stoker-os: boot entry", PATIENCE).unwrap();
        assert!(entry.ends_with(": stoker node-7"), "{entry}");
    }
    // The last partition of the image reaches to the configuration, and that to the end of the disk.
    let grown = guest.line("stoker-os: partition vda3", PATIENCE).unwrap();
    let numbers: Vec<u64> = grown.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.iter().sum::<u64>(), (DISK - (5 << 20)) / 512, "{grown}");
    guest.line("stoker-os: reported running", PATIENCE).unwrap();
    assert_eq!(asked.recv_timeout(PATIENCE).as_deref(), Ok("/report?uuid=u&token=SECRET&event=running"));
}

/// Everything that the agent says until it is told to restart.
fn until_restart(told: &Receiver<Said>, guest: &Guest) -> Vec<Status> {
    let mut statuses = Vec::new();
    loop {
        match told.recv_timeout(PATIENCE) {
            Ok(Said::Hello(_)) => {}
            Ok(Said::Status(status)) => {
                assert!(status.level != Level::Failed, "{}\n{}", status.detail, guest.console());
                let ends = status.order == 2;
                statuses.push(*status);
                if ends {
                    return statuses;
                }
            }
            Err(e) => panic!("the agent says no more ({e}); its console:\n{}", guest.console()),
        }
    }
}

#[test]
fn an_image_is_installed_by_uefi() {
    installs(&Case {
        firmware: Firmware::Uefi,
        format: ImageFormat::Zst,
        data_source: DataSource::NoCloud,
        source: "NoCloud",
    });
}

#[test]
fn an_image_is_installed_by_bios() {
    installs(&Case {
        firmware: Firmware::Bios,
        format: ImageFormat::Xz,
        data_source: DataSource::ConfigDrive,
        source: "ConfigDrive",
    });
}
