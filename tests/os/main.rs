//! The test system itself: what other proofs put on disks boots from them by
//! either firmware, and its installer does what installers do.

use control::rack::Firmware;
use sha2::Digest as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use stoker_tests::os::TestOs;
use stoker_tests::os::guest::{Boot, Guest, HOST};

/// Only a machine that hangs takes longer: 10 to 20 s on two quiet cores, without hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(300);
const CONFIG: &str = "machine:\n  type: worker\n";

fn bundle() -> Option<PathBuf> {
    let built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bundle");
    std::env::var_os("STOKER_BUNDLE").map(Into::into).or(Some(built)).filter(|b: &PathBuf| b.is_dir())
}

/// Control, as far as an installed system knows it: hands out a configuration, takes reports. The first
/// report of a machine is refused, as while control restarts.
fn control() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, told) = channel();
    std::thread::spawn(move || {
        let mut refused = false;
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let (mut head, mut length) = (String::new(), 0);
            reader.read_line(&mut head).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, body) = if path.starts_with("/configdata") {
                ("200 OK", CONFIG)
            } else if refused {
                ("200 OK", "ok\n")
            } else {
                refused = true;
                ("503 Service Unavailable", "")
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            (&stream).write_all(answer.as_bytes()).unwrap();
            if status == "200 OK" && sender.send(path).is_err() {
                return;
            }
        }
    });
    (port, told)
}

#[test]
fn the_image_boots_by_bios_and_by_uefi() {
    let os = TestOs::build().unwrap();
    for (firmware, name) in [(Firmware::Bios, "BIOS"), (Firmware::Uefi, "UEFI")] {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.raw");
        fs::copy(os.disk(), &disk).unwrap();
        let mut guest = Guest::start(folder.path(), firmware, bundle().as_deref(), &disk, Boot::Disk).unwrap();
        let started = guest.line("stoker-os: started", PATIENCE).unwrap();
        assert!(started.ends_with(name), "{started}");
        let up = guest.line("stoker-os: up:", PATIENCE).unwrap();
        assert!(up.contains("source=none") && up.contains("config=none"), "{up}");
        guest.line("stoker-os: no report", PATIENCE).unwrap();
    }
}

#[test]
fn the_installer_installs_and_what_it_installed_reports() {
    let os = TestOs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.raw");
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let (port, told) = control();
    let base = format!("http://{HOST}:{port}");
    let args = format!(
        "{} stoker.config={base}/configdata?uuid=u&token=t stoker.report={base}/report?uuid=u&token=t",
        TestOs::INSTALLER_ARGS.join(" ")
    );
    let (kernel, initrd) = (os.kernel(), os.installer());
    let direct = Boot::Direct { kernel: &kernel, initrd: &initrd, args: &args };
    let next = || told.recv_timeout(PATIENCE).expect("control is told");

    let mut guest = Guest::start(folder.path(), Firmware::Bios, None, &disk, direct).unwrap();
    guest.line("stoker-installer: installed; restarting", PATIENCE).unwrap();
    guest.ended(PATIENCE).unwrap();
    assert_eq!(next(), "/configdata?uuid=u&token=t");
    assert_eq!(next(), "/report?uuid=u&token=t&event=installed");

    let digest: String = sha2::Sha256::digest(CONFIG).iter().map(|b| format!("{b:02x}")).collect();
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let mut guest = Guest::start(folder.path(), firmware, bundle().as_deref(), &disk, Boot::Disk).unwrap();
        let up = guest.line("stoker-os: up:", PATIENCE).unwrap();
        assert!(up.contains("source=installer") && up.ends_with(&digest), "{up}");
        guest.line("stoker-os: reported running", PATIENCE).unwrap();
        assert_eq!(next(), "/report?uuid=u&token=t&event=running");
    }
}
