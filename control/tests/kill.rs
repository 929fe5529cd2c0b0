//! `stoker-control` killed (SIGKILL) at random moments while operators write:
//! what it has acknowledged is there when it is started again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Deaths.
const ROUNDS: u64 = 8;
/// Operators that write at the same time.
const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

struct Control(Child);

impl Control {
    fn start(state: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_stoker-control"))
            .args(["--address", "127.0.0.1", "--dhcp-mode", "off", "--http-port", &port.to_string(), "--state"])
            .arg(state)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let control = Self(child);
        let end = Instant::now() + PATIENCE;
        while request(state, "GET", "/api/v1/status", "").is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < end, "it does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        control
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and body; nothing where the answer did not come whole.
fn request(state: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(state.join("run/control.sock")).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let text = line.trim_end().to_ascii_lowercase();
        if text.is_empty() {
            break;
        }
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((status, String::from_utf8(body).ok()?))
}

fn environment(name: &str, n: u64) -> String {
    let url = format!("http://example.com/{n}");
    serde_json::json!({"apiVersion": "metal.sidero.dev/v1alpha2", "kind": "Environment", "metadata": {"name": name},
        "spec": {"kernel": {"url": url}, "initrd": {"url": url}}})
    .to_string()
}

#[test]
fn nothing_acknowledged_is_lost_when_control_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    // Of each name: what was acknowledged last, and what was asked for after that.
    let known: Mutex<BTreeMap<String, (u64, Vec<u64>)>> = Mutex::default();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let control = Control::start(&state);
        for (name, (sure, maybe)) in known.lock().unwrap().iter_mut() {
            let answer = request(&state, "GET", &format!("/api/v1/objects/environment/{name}"), "").unwrap();
            let there = (answer.0 == 200).then(|| {
                let object: serde_json::Value = serde_json::from_str(&answer.1).unwrap();
                let url = object["spec"]["kernel"]["url"].as_str().unwrap().to_owned();
                url.rsplit('/').next().unwrap().parse::<u64>().unwrap()
            });
            assert!(
                there == Some(*sure) || there.is_some_and(|t| maybe.contains(&t)),
                "round {round}: {name}: {there:?}, not {sure}"
            );
            (*sure, *maybe) = (there.unwrap(), Vec::new());
        }
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (known, state) = (&known, &state);
                scope.spawn(move || {
                    for n in 0..100_000_u64 {
                        let (name, value) = (format!("e{writer}-{}", n % 7), round * 100_000 + n);
                        if let Some((_, maybe)) = known.lock().unwrap().get_mut(&name) {
                            maybe.push(value);
                        }
                        let Some((200, _)) = request(state, "POST", "/api/v1/objects", &environment(&name, value))
                        else {
                            return;
                        };
                        known.lock().unwrap().insert(name, (value, Vec::new()));
                    }
                });
            }
            // Killed earlier and later; not before it has acknowledged something.
            let before = known.lock().unwrap().values().map(|(sure, _)| *sure).max();
            let end = Instant::now() + PATIENCE;
            while known.lock().unwrap().values().map(|(sure, _)| *sure).max() == before {
                assert!(Instant::now() < end, "nothing is acknowledged");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(round * 37 % 150));
            control.kill();
        });
        acknowledged += known.lock().unwrap().len();
    }
    assert!(acknowledged >= usize::try_from(ROUNDS).unwrap(), "{acknowledged}");
}
