//! The agent started by a person on a running machine: it looks and tells, and touches nothing.

use protocol::report::{Facts, Hello};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

const AGENT: &str = env!("CARGO_BIN_EXE_stoker-agent");

/// Answers one request with this status and body; gives back the request line and the body that came.
fn answer_once(listener: &TcpListener, status: &str, body: &str) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut posted = vec![0; length];
    reader.read_exact(&mut posted).unwrap();
    let mut stream: &TcpStream = reader.get_ref();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    (request.trim_end().to_string(), posted)
}

/// Runs `--once` against a server that gives this answer.
fn once(status: &'static str, body: &'static str) -> (Output, String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = format!("stoker.control={}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || answer_once(&listener, status, body));
    let output = Command::new(AGENT)
        .args(["--once", &control, "stoker.attempt=a7", "stoker.mac=52:54:00:12:34:56"])
        .output()
        .unwrap();
    let (request, posted) = server.join().unwrap();
    (output, request, posted)
}

#[test]
fn the_inventory_of_this_machine_can_be_printed() {
    let output = Command::new(AGENT).arg("--dump").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let facts: Facts = serde_json::from_slice(&output.stdout).unwrap();
    assert!(facts.compute.total_thread_count > 0 && facts.memory.usable_bytes > 0, "{facts:?}");
}

#[test]
fn hello_is_said_once_and_the_answer_shown() {
    let (output, request, posted) = once("200 OK", r#"{"version":1,"order":{"id":3,"kind":"hold"},"poll_seconds":5}"#);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(request, "POST /agent/v1/hello HTTP/1.1");
    let hello: Hello = serde_json::from_slice(&posted).unwrap();
    assert_eq!((hello.version, hello.attempt.as_deref()), (1, Some("a7")));
    assert_eq!(hello.boot_mac.map(|mac| mac.to_string()).as_deref(), Some("52:54:00:12:34:56"));
    assert_eq!(hello.boot_id.len(), 32);
    assert!(String::from_utf8_lossy(&output.stdout).contains("order 3: Holding"), "{output:?}");
}

#[test]
fn an_order_to_switch_off_is_refused() {
    let (output, _, _) = once("200 OK", r#"{"version":1,"order":{"id":3,"kind":"power_off"},"poll_seconds":5}"#);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("does not own the machine"), "{output:?}");
}

#[test]
fn a_useless_answer_is_an_error_with_its_reason() {
    for (status, body, reason) in [
        ("503 Busy", "", "HTTP 503"),
        ("404 Not Found", "", "HTTP 404"),
        ("200 OK", "<html>", "an answer that is none"),
    ] {
        let (output, _, _) = once(status, body);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{output:?}");
    }
}

#[test]
fn wrong_use_is_explained() {
    let output = Command::new(AGENT).arg("--once").output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("usage:"), "{output:?}");
}
