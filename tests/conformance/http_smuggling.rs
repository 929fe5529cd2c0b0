//! Two readers of the same bytes: whatever our parser takes for a request,
//! hyper's takes for the same request at the same place.
//!
//! Ours is stricter, so it may stop earlier; it must never see a request where
//! hyper sees none, or another one. That is what request smuggling lives on.

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use protocol::http::connection::{Connection, Patience, Step};
use protocol::time::{Duration, Instant};
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Targets in order, as we see them; `?` for methods that we do not serve.
fn ours(bytes: &[u8]) -> Vec<String> {
    let patience = Patience { head: Duration::from_secs(1), idle: Duration::from_secs(1) };
    let mut connection = Connection::new(patience, Instant::ZERO);
    let mut seen = Vec::new();
    connection.receive(bytes, Instant::ZERO);
    connection.receive(b"", Instant::ZERO);
    for _ in 0..1000 {
        match connection.poll(0) {
            Step::Request(request) => {
                let word = if request.is_get() || request.is_head() { request.target() } else { "?" };
                seen.push(word.to_owned());
                let answer = request.text("x", 0);
                connection.begin(&answer);
                connection.sent(Instant::ZERO);
            }
            Step::Reject(_) => connection.sent(Instant::ZERO),
            Step::Read | Step::Wait | Step::Close => return seen,
        }
    }
    seen
}

/// The same as hyper's server sees it.
fn theirs(runtime: &tokio::runtime::Runtime, bytes: &[u8]) -> Vec<String> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let served = matches!(request.method().as_str(), "GET" | "HEAD");
        let word = if served { request.uri().to_string() } else { "?".to_owned() };
        seen.borrow_mut().push(word);
        async move {
            // What cannot be read ends the connection by itself.
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let serve =
            hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
        let mut answers = Vec::new();
        let (_, _) = tokio::join!(serve, client.read_to_end(&mut answers));
    });
    seen.take()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn agree(runtime: &tokio::runtime::Runtime, bytes: &[u8]) -> usize {
    let (ours, theirs) = (ours(bytes), theirs(runtime, bytes));
    assert!(
        ours.len() <= theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| a == b),
        "we see {ours:?}, hyper sees {theirs:?} in {}",
        bytes.escape_ascii()
    );
    ours.len()
}

#[test]
fn h42_known_smuggling_tricks() {
    let runtime = runtime();
    let victim = "GET /victim HTTP/1.1\r\nHost: e\r\n\r\n";
    for (fields, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("Content-Length: 0\r\nContent-Length: 35\r\n", ""),
        ("Content-Length: 35, 0\r\n", ""),
        ("Content-Length: +0\r\n", ""),
        ("Content-Length:\t0\r\n", ""),
        ("Content-Length : 0\r\n", ""),
        ("Content-Length: 0\rX: y\r\n", ""),
        ("Content-Length: 0\nX: y\r\n", ""),
        ("Content-Length: 00000000000000000000005\r\n", "abcde"),
        ("Content-Length: 18446744073709551616\r\n", ""),
        ("Content-Length: 0x5\r\n", "abcde"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        ("X: y\r\n\tTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("\r\nTransfer-Encoding: chunked\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5;a=\"\r\n\"\r\nabcde\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"),
        ("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"),
        ("Connection: content-length\r\nContent-Length: 3\r\n", "abc"),
    ] {
        for line in ["GET /a HTTP/1.1", "POST /a HTTP/1.1", "HEAD /a HTTP/1.1", "GET /a HTTP/1.0"] {
            agree(&runtime, format!("{line}\r\nHost: e\r\n{fields}\r\n{body}{victim}").as_bytes());
        }
    }
    // And the comparison compares something.
    assert_eq!(agree(&runtime, victim.repeat(3).as_bytes()), 3);
    assert_eq!(
        agree(&runtime, format!("GET /a HTTP/1.1\r\nHost: e\r\nContent-Length: 3\r\n\r\nabc{victim}").as_bytes()),
        2
    );
}

fn message() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        6 => Just("GET /a HTTP/1.1\r\nHost: e\r\n"), 2 => Just("HEAD /b HTTP/1.1\r\nHost: e\r\n"), 2 => Just("POST /c HTTP/1.1\r\nHost: e\r\n"),
        1 => Just("GET /d HTTP/1.0\r\n"), 1 => Just("GET /e HTTP/1.0\r\nConnection: keep-alive\r\n"), 1 => Just("\r\nGET /f HTTP/1.1\r\nHost: e\r\n"),
    ];
    let field = prop_oneof![
        Just("Content-Length: 5\r\n"),
        Just("Content-Length: 0\r\n"),
        Just("Transfer-Encoding: chunked\r\n"),
        Just("Connection: close\r\n"),
        Just("Connection: keep-alive\r\n"),
        Just("X: y\r\n"),
        Just("Expect: 100-continue\r\n"),
        Just("Content-Length: 5, 5\r\n"),
    ];
    let body =
        prop_oneof![4 => Just(""), 2 => Just("abcde"), 1 => Just("5\r\nabcde\r\n0\r\n\r\n"), 1 => Just("0\r\n\r\n")];
    (line, proptest::collection::vec(field, 0..3), body)
        .prop_map(|(line, fields, body)| format!("{line}{}\r\n{body}", fields.concat()))
}

#[test]
fn h42_generated_and_mutated_messages() {
    let runtime = runtime();
    let noise = prop_oneof![
        Just(b'\r'),
        Just(b'\n'),
        Just(b' '),
        Just(b'\t'),
        Just(b':'),
        Just(b','),
        Just(0u8),
        Just(0x80u8),
        Just(b'0')
    ];
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), proptest::option::of(noise)), 0..4);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) };
    proptest!(config, |(messages in proptest::collection::vec(message(), 1..5), edits in edits)| {
        let mut bytes = messages.concat().into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            match byte {
                Some(byte) => bytes.insert(at, byte),
                None => drop(bytes.remove(at)),
            }
        }
        agree(&runtime, &bytes);
    });
}
