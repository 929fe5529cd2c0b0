//! Whole conversations: what is sent, what is answered.

use super::*;
use crate::http::{Resource, date::HttpDate};
use crate::manifest::ObjectId;
use alloc::string::{String, ToString};
use alloc::vec;
use core::ops::Range;
use proptest::prelude::*;

const NOW: u64 = 1_795_000_000;
const MODIFIED: u64 = 1_790_000_000;
const BYTES: &[u8] = b"0123456789abcdefghij";
const PATIENCE: Patience = Patience { head: Duration::from_secs(10), idle: Duration::from_secs(30) };
const HOST: &str = "Host: edge\r\n";

/// A client and a server with one file, `/f`.
struct Talk {
    connection: Connection,
    length: u64,
    closed: bool,
}

/// An answer as the client sees it.
#[derive(Clone, Debug)]
struct Seen {
    status: u16,
    head: String,
    text: String,
    range: Option<Range<u64>>,
    keep: bool,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        let mut values =
            self.head.lines().filter_map(|l| l.split_once(": ")).filter(|(n, _)| *n == name).map(|(_, v)| v);
        let first = values.next();
        assert!(values.next().is_none(), "{name} twice");
        first
    }
}

impl Talk {
    fn new() -> Self {
        Self { connection: Connection::new(PATIENCE, Instant::ZERO), length: BYTES.len() as u64, closed: false }
    }

    /// Sends `text` in one piece and takes every answer.
    fn say(&mut self, text: impl AsRef<[u8]>) -> Vec<Seen> {
        self.connection.receive(text.as_ref(), Instant::ZERO);
        let mut seen = vec![];
        for _ in 0..100 {
            let answer = match self.connection.poll(NOW) {
                Step::Request(request) => {
                    let resource = Resource {
                        length: self.length,
                        digest: ObjectId::of(BYTES),
                        content_type: "application/efi",
                        modified: MODIFIED,
                    };
                    let answer = match (request.refusal(), request.path().as_deref()) {
                        (Some(bad), _) => request.refuse(bad, NOW),
                        (None, Ok(b"/f")) => request.answer(&resource, NOW),
                        (None, Ok(_)) => request.refuse(Bad { status: Status::NotFound, why: "no such file" }, NOW),
                        (None, Err(bad)) => request.refuse(*bad, NOW),
                    };
                    self.connection.begin(&answer);
                    answer
                }
                Step::Reject(answer) => answer,
                Step::Read => return seen,
                Step::Close => {
                    self.closed = true;
                    return seen;
                }
                Step::Wait => unreachable!("nothing is under way"),
            };
            assert!(matches!(self.connection.poll(NOW), Step::Wait), "one answer at a time");
            seen.push(read(answer));
            self.connection.sent(Instant::ZERO);
        }
        seen
    }
}

fn read(answer: Answer) -> Seen {
    let text = String::from_utf8(answer.head).unwrap();
    let (head, text) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.len() + 4 <= limits::ANSWER_HEAD);
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|h| h.get(..3)).unwrap().parse().unwrap();
    assert_eq!(status, answer.status.code());
    let seen = Seen { status, head: head.into(), text: text.into(), range: answer.body, keep: answer.keep };
    assert_eq!(seen.field("Transfer-Encoding"), None, "h35");
    assert_eq!(seen.field("Connection") == Some("close"), !seen.keep, "h04");
    assert_eq!(seen.field("Date"), Some(HttpDate(NOW).to_string().as_str()), "h34");
    if let Some(range) = &seen.range {
        assert_eq!(seen.field("Content-Length").unwrap(), (range.end - range.start).to_string(), "h10");
    }
    seen
}

fn one(text: impl AsRef<[u8]>) -> Seen {
    let mut seen = Talk::new().say(text);
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

fn get(fields: &str) -> Seen {
    one(std::format!("GET /f HTTP/1.1\r\n{HOST}{fields}\r\n"))
}

fn etag() -> String {
    std::format!("\"{}\"", ObjectId::of(BYTES))
}

#[test]
fn h01_head_has_the_fields_of_get_and_no_body() {
    let (get, head) = (get(""), one(std::format!("HEAD /f HTTP/1.1\r\n{HOST}\r\n")));
    assert_eq!(get.head, head.head);
    assert_eq!((get.range, head.range, head.text.as_str()), (Some(0..20), None, ""));
    let missing = one(std::format!("HEAD /x HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!((missing.status, missing.text.as_str(), missing.field("Content-Length")), (404, "", Some("13")));
}

#[test]
fn h02_other_methods_are_405_with_allow() {
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "BREW"] {
        let seen = one(std::format!("{method} /f HTTP/1.1\r\n{HOST}\r\n"));
        assert_eq!((seen.status, seen.field("Allow"), seen.keep), (405, Some("GET, HEAD"), true), "{method}");
    }
    let put = one(std::format!("PUT /f HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"));
    assert_eq!((put.status, put.keep), (405, false), "what follows cannot be read");
    let put = one(std::format!("PUT /f HTTP/1.1\r\n{HOST}Content-Length: 99999999\r\n\r\n"));
    assert_eq!((put.status, put.keep), (405, false));
}

#[test]
fn h03_http_1_0_closes_unless_it_asks() {
    let mut talk = Talk::new();
    assert_eq!(talk.say("GET /f HTTP/1.0\r\n\r\n")[0].field("Connection"), Some("close"));
    assert!(talk.closed);
    let mut talk = Talk::new();
    assert_eq!(
        talk.say("GET /f HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")[0].field("Connection"),
        Some("keep-alive")
    );
    assert!(!talk.closed);
}

#[test]
fn h04_http_1_1_persists_unless_told_to_close() {
    let mut talk = Talk::new();
    assert_eq!(talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}\r\n"))[0].field("Connection"), None);
    assert!(!talk.closed);
    assert_eq!(
        talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}Connection: keep-alive\r\n\r\n"))[0].field("Connection"),
        Some("keep-alive")
    );
    talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}Connection: TE, Close\r\n\r\n"));
    assert!(talk.closed);
}

#[test]
fn h05_pipelined_requests_are_answered_in_order() {
    let mut talk = Talk::new();
    let text: String = (0..16).map(|i| std::format!("GET /f HTTP/1.1\r\n{HOST}Range: bytes={i}-{i}\r\n\r\n")).collect();
    let seen = talk.say(&text);
    assert_eq!(seen.iter().map(|s| s.range.clone().unwrap().start).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
    assert!(!talk.closed && talk.connection.idle());
    assert!(
        Talk::new().say(std::format!("GET /f HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n{text}")).len() == 1,
        "nothing after close"
    );
}

#[test]
fn h06_no_host_two_hosts_or_no_host_name_is_400() {
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: [::1\r\n"] {
        let seen = one(std::format!("GET /f HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!((seen.status, seen.keep), (400, false), "{fields:?}");
    }
    assert_eq!(one("GET /f HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn h07_h39_absolute_form_and_ipv6_hosts() {
    assert_eq!(one(std::format!("GET http://edge:8080/f?x HTTP/1.1\r\n{HOST}\r\n")).status, 200);
    assert_eq!(one("GET /f HTTP/1.1\r\nHost: [fd77::1]:8080\r\n\r\n").status, 200);
    assert_eq!(one(std::format!("GET f HTTP/1.1\r\n{HOST}\r\n")).status, 400);
}

#[test]
fn h10_h11_h20_h34_what_a_whole_answer_says() {
    let seen = get("");
    assert_eq!(seen.field("Content-Length"), Some("20"));
    assert_eq!(seen.field("Accept-Ranges"), Some("bytes"));
    assert_eq!(seen.field("ETag"), Some(etag().as_str()));
    assert_eq!(seen.field("Last-Modified"), Some(HttpDate(MODIFIED).to_string().as_str()));
    assert_eq!(seen.field("Content-Type"), Some("application/efi"));
    assert_eq!(seen.field("Server"), Some("stoker"));
    assert_eq!(seen.field("Content-Encoding"), None);
    // printf 0123456789abcdefghij | sha256sum | xxd -r -p | base64
    assert_eq!(seen.field("Repr-Digest"), Some("sha-256=:a8FL3EUXp6aCxpEN4uKUbrjh7NBAkHKP720JKnzrYsU=:"));
}

#[test]
fn h12_h13_ranges() {
    let seen = get("Range: bytes=5-9\r\n");
    assert_eq!(
        (seen.status, seen.range.clone(), seen.field("Content-Range")),
        (206, Some(5..10), Some("bytes 5-9/20"))
    );
    assert_eq!(get("Range: bytes=-3\r\n").field("Content-Range"), Some("bytes 17-19/20"));
    assert_eq!(get("Range: bytes=18-\r\n").range, Some(18..20));
    let seen = get("Range: bytes=20-\r\n");
    assert_eq!(
        (seen.status, seen.field("Content-Range"), seen.range.clone(), seen.keep),
        (416, Some("bytes */20"), None, true)
    );
}

#[test]
fn h14_h16_ranges_that_are_ignored() {
    for range in ["bytes=x", "lines=0-5", "bytes=6-5", "bytes=0-1,3-4", "bytes=0-1\r\nRange: bytes=3-4"] {
        let seen = get(&std::format!("Range: {range}\r\n"));
        assert_eq!(
            (seen.status, seen.range, seen.head.contains("Content-Range")),
            (200, Some(0..20), false),
            "{range}"
        );
    }
}

#[test]
fn h18_range_is_for_get_alone() {
    let seen = one(std::format!("HEAD /f HTTP/1.1\r\n{HOST}Range: bytes=5-9\r\n\r\n"));
    assert_eq!((seen.status, seen.field("Content-Length")), (200, Some("20")));
    assert_eq!(one(std::format!("POST /f HTTP/1.1\r\n{HOST}Range: bytes=5-9\r\n\r\n")).status, 405);
}

#[test]
fn h19_if_range() {
    let (etag, date, later) = (etag(), HttpDate(MODIFIED), HttpDate(MODIFIED + 1));
    for (value, status) in [
        (etag.clone(), 206),
        (std::format!("W/{etag}"), 200),
        ("\"x\"".into(), 200),
        (std::format!("{date}"), 206),
        (std::format!("{later}"), 200),
        ("nonsense".into(), 200),
        (std::format!("{etag}\r\nIf-Range: {etag}"), 200),
    ] {
        assert_eq!(get(&std::format!("Range: bytes=0-4\r\nIf-Range: {value}\r\n")).status, status, "{value}");
    }
    assert_eq!(get(&std::format!("If-Range: {etag}\r\n")).status, 200);
    assert_eq!(get("Range: bytes=99-\r\nIf-Range: \"x\"\r\n").status, 200, "no 416 for another version");
}

#[test]
fn h21_if_none_match() {
    let etag = etag();
    for (value, status) in [
        (etag.clone(), 304),
        (std::format!("W/{etag}"), 304),
        ("*".into(), 304),
        (std::format!("\"a,b\", {etag}"), 304),
        (std::format!("\"a\"\r\nIf-None-Match: {etag}"), 304),
        ("\"x\"".into(), 200),
        (etag.trim_matches('"').into(), 200),
        (String::new(), 200),
    ] {
        assert_eq!(get(&std::format!("If-None-Match: {value}\r\n")).status, status, "{value}");
    }
    let seen = get("If-None-Match: *\r\n");
    assert_eq!(
        (seen.field("ETag"), seen.field("Content-Length"), seen.text.as_str()),
        (Some(etag.as_str()), None, ""),
        "h36"
    );
    assert_eq!(get("If-None-Match: *\r\nRange: bytes=0-1\r\n").status, 304);
}

#[test]
fn h22_if_modified_since() {
    for (value, status) in [
        (HttpDate(MODIFIED).to_string(), 304),
        (HttpDate(MODIFIED + 9).to_string(), 304),
        (HttpDate(MODIFIED - 1).to_string(), 200),
        ("yesterday".into(), 200),
    ] {
        assert_eq!(get(&std::format!("If-Modified-Since: {value}\r\n")).status, status, "{value}");
    }
    let date = HttpDate(MODIFIED);
    assert_eq!(
        get(&std::format!("If-Modified-Since: {date}\r\nIf-None-Match: \"x\"\r\n")).status,
        200,
        "ignored beside If-None-Match"
    );
}

#[test]
fn h23_if_match_and_if_unmodified_since() {
    let etag = etag();
    for (fields, status) in [
        (std::format!("If-Match: {etag}"), 200),
        ("If-Match: *".into(), 200),
        (std::format!("If-Match: W/{etag}"), 412),
        ("If-Match: \"x\", \"y\"".into(), 412),
        (std::format!("If-Unmodified-Since: {}", HttpDate(MODIFIED)), 200),
        (std::format!("If-Unmodified-Since: {}", HttpDate(MODIFIED - 1)), 412),
        ("If-Unmodified-Since: junk".into(), 200),
    ] {
        let seen = get(&std::format!("{fields}\r\n"));
        assert_eq!((seen.status, seen.keep), (status, true), "{fields}");
    }
}

#[test]
fn h24_precedence() {
    let (etag, old) = (etag(), HttpDate(MODIFIED - 1));
    for (fields, status) in [
        (std::format!("If-Match: \"x\"\r\nIf-None-Match: {etag}"), 412),
        (std::format!("If-Match: {etag}\r\nIf-Unmodified-Since: {old}"), 200),
        (std::format!("If-Match: {etag}\r\nIf-None-Match: {etag}"), 304),
        (std::format!("If-Unmodified-Since: {old}\r\nIf-None-Match: *"), 412),
        (std::format!("If-Match: {etag}\r\nRange: bytes=0-0\r\nIf-Range: {etag}"), 206),
        (std::format!("If-None-Match: {etag}\r\nRange: bytes=99-"), 304),
    ] {
        assert_eq!(get(&std::format!("{fields}\r\n")).status, status, "{fields}");
    }
    assert_eq!(
        one(std::format!("GET /x HTTP/1.1\r\n{HOST}If-Match: \"x\"\r\n\r\n")).status,
        404,
        "no conditions on what is not there"
    );
}

#[test]
fn h25_expect() {
    let seen = get("Expect: 100-continue\r\n");
    assert_eq!((seen.status, seen.keep), (200, true));
    let seen = get("Expect: 100-Continue\r\nContent-Length: 5\r\n");
    assert_eq!((seen.status, seen.keep), (200, false), "the body may never come");
    assert_eq!(get("Expect: a-miracle\r\n").status, 417);
    assert_eq!(one("GET /f HTTP/1.0\r\nExpect: a-miracle\r\n\r\n").status, 200);
}

#[test]
fn h26_ambiguous_lengths_are_400_and_close() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: 5 5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding:",
    ] {
        let mut talk = Talk::new();
        let seen = talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}{fields}\r\n\r\nGET /x HTTP/1.1\r\n{HOST}\r\n"));
        assert_eq!((seen.len(), seen[0].status, talk.closed), (1, 400, true), "{fields}");
    }
}

#[test]
fn h27_what_readers_understand_differently_is_400() {
    for text in [
        &b"GET /f HTTP/1.1\nHost: a\n\n"[..],
        b"GET /f HTTP/1.1\r\nHost: a\n\r\n",
        b"GET /f HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET /f HTTP/1.1\r\nHost: a\0\r\n\r\n",
        b"GET /f HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET /f HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /f HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /f HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"GET /f HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET  /f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /f  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /f\x0b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /f HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET /f\r\nHost: a\r\n\r\n",
        b" GET /f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /f HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /f HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
    ] {
        let mut talk = Talk::new();
        let seen = talk.say(text);
        assert_eq!(
            (seen.len(), seen.first().map(|s| s.status), talk.closed),
            (1, Some(400), true),
            "{}",
            text.escape_ascii()
        );
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3"] {
        let status = one(std::format!("GET /f {version}\r\n{HOST}\r\n")).status;
        assert!(matches!(status, 400 | 505), "{version}: {status}");
    }
    assert_eq!(one("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status, 505);
    assert_eq!(one(std::format!("\r\n\r\nGET /f HTTP/1.1\r\n{HOST}\r\n")).status, 200, "a few empty lines are skipped");
}

#[test]
fn h28_too_large() {
    let long = "a".repeat(limits::TARGET);
    let seen = one(std::format!("GET /{long} HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!((seen.status, seen.keep), (414, false));
    assert_eq!(one(std::format!("GET /{}", "a".repeat(limits::TARGET + 100))).status, 414, "before its end is seen");
    let fields: String = (0..=limits::FIELDS).map(|i| std::format!("X{i}: y\r\n")).collect();
    assert_eq!(get(&fields).status, 431);
    let value = "v".repeat(limits::HEAD);
    assert_eq!(get(&std::format!("X: {value}\r\n")).status, 431);
    assert_eq!(one(std::format!("GET /f HTTP/1.1\r\n{HOST}X: {value}")).status, 431, "before its end is seen");
    let fields: String = (1..limits::FIELDS).map(|i| std::format!("X{i}: y\r\n")).collect();
    assert_eq!(get(&fields).status, 200, "{} fields are served", limits::FIELDS);
}

#[test]
fn h29_a_body_on_get_is_thrown_away_or_ends_the_connection() {
    let mut talk = Talk::new();
    let body = "GET /x HTTP/1.1\r\n\r\n";
    let seen = talk.say(std::format!(
        "GET /f HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n{body}GET /f HTTP/1.1\r\n{HOST}\r\n",
        body.len()
    ));
    assert_eq!(seen.iter().map(|s| s.status).collect::<Vec<_>>(), [200, 200]);
    let mut talk = Talk::new();
    talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n", limits::BODY));
    for _ in 0..limits::BODY / 1024 {
        assert!(talk.say([b'G'; 1024]).is_empty());
    }
    assert_eq!(talk.say(std::format!("GET /x HTTP/1.1\r\n{HOST}\r\n"))[0].status, 404);
    let mut talk = Talk::new();
    let seen = talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n", limits::BODY + 1));
    assert_eq!((seen[0].status, talk.closed), (413, true));
}

#[test]
fn h30_deadlines_of_heads_and_idle_connections() {
    let at = |s: u64| Instant::from_millis(s * 1000);
    let mut c = Connection::new(PATIENCE, at(0));
    assert_eq!(c.deadline(), Some(at(10)), "connected and silent");
    c.receive(b"G", at(4));
    for s in 5..13 {
        assert!(matches!(c.poll(NOW), Step::Read));
        c.receive(b"E", at(s));
        assert_eq!(c.deadline(), Some(at(14)), "a byte a second does not move it");
    }
    match c.expire(NOW) {
        Step::Reject(answer) => assert_eq!((answer.status, answer.keep), (Status::RequestTimeout, false)),
        other => unreachable!("{other:?}"),
    }
    assert!(matches!(c.poll(NOW), Step::Wait));
    c.sent(at(14));
    assert!(matches!(c.poll(NOW), Step::Close));

    let mut talk = Talk::new();
    talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!(talk.connection.deadline(), Some(at(30)), "idle");
    talk.connection.receive(b"GET", at(20));
    assert_eq!(talk.connection.deadline(), Some(at(30)), "10 s for the next head, from its first byte");
    let mut silent = Connection::new(PATIENCE, at(0));
    assert!(matches!(silent.expire(NOW), Step::Close), "no 408 to whom has asked nothing");
}

#[test]
fn h32_a_half_closed_client_is_still_answered() {
    let mut talk = Talk::new();
    talk.connection
        .receive(std::format!("GET /f HTTP/1.1\r\n{HOST}\r\nGET /f HTTP/1.1\r\n{HOST}\r\n").as_bytes(), Instant::ZERO);
    let seen = talk.say("");
    assert_eq!((seen.len(), talk.closed), (2, true));
    let mut talk = Talk::new();
    talk.say("GET /f HT");
    assert!(talk.say("").is_empty() && talk.closed, "half a request is no request");
}

#[test]
fn h35_h36_no_status_carries_what_it_must_not() {
    for (text, status) in [("GET /f", 200), ("HEAD /f", 200), ("GET /x", 404), ("POST /f", 405)] {
        assert_eq!(
            one(std::format!("{text} HTTP/1.1\r\n{HOST}TE: chunked\r\nAccept-Encoding: gzip\r\n\r\n")).status,
            status
        );
    }
}

#[test]
fn h40_lengths_beyond_32_bits() {
    let mut talk = Talk::new();
    talk.length = (1 << 32) + 7;
    let seen = talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}Range: bytes=4294967296-\r\n\r\n"));
    assert_eq!(seen[0].field("Content-Range"), Some("bytes 4294967296-4294967302/4294967303"));
    assert_eq!(talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}\r\n"))[0].field("Content-Length"), Some("4294967303"));
}

#[test]
fn an_empty_file_is_an_answer_without_bytes() {
    let mut talk = Talk::new();
    talk.length = 0;
    let seen = talk.say(std::format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
    assert_eq!((seen[0].status, seen[0].range.clone(), seen[0].field("Content-Length")), (200, None, Some("0")));
}

#[test]
fn a_content_type_cannot_break_the_head() {
    let mut c = Connection::new(PATIENCE, Instant::ZERO);
    c.receive(b"GET /f HTTP/1.0\r\n\r\n", Instant::ZERO);
    let Step::Request(request) = c.poll(NOW) else { unreachable!() };
    for content_type in ["a\r\nX: y", "", "\u{e9}", &"x".repeat(limits::CONTENT_TYPE + 1)] {
        let resource = Resource { length: 1, digest: ObjectId::of(b""), content_type, modified: u64::MAX };
        let seen = read(request.answer(&resource, NOW));
        assert_eq!(seen.field("Content-Type"), Some("application/octet-stream"));
        assert_eq!(seen.field("Last-Modified"), seen.field("Date"), "never later than Date");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The same answers, however the bytes are cut into pieces.
    #[test]
    fn h43_cuts_do_not_matter(requests in proptest::collection::vec(pieces(), 1..6), cuts in proptest::collection::vec(1usize..60, 1..40)) {
        let text: String = requests.concat();
        let whole: Vec<_> = Talk::new().say(&text).iter().map(|s| (s.status, s.range.clone())).collect();
        let (mut talk, mut rest, mut seen) = (Talk::new(), text.as_bytes(), vec![]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || talk.closed {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            seen.extend(talk.say(piece).iter().map(|s| (s.status, s.range.clone())));
            rest = after;
        }
        prop_assert_eq!(seen, whole);
    }

    #[test]
    fn h43_any_bytes_are_survived_in_bounded_memory(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..40)) {
        let mut talk = Talk::new();
        for piece in pieces {
            talk.say(&piece);
            prop_assert!(talk.connection.buffer.len() <= limits::BUFFER);
            if talk.closed {
                break;
            }
        }
    }
}

/// Requests and pieces of such, good and bad.
fn pieces() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("GET /f HTTP/1.1\r\nHost: e\r\n"),
        Just("HEAD /f HTTP/1.1\r\nHost: e\r\n"),
        Just("GET /x HTTP/1.0\r\n"),
        Just("PUT /f HTTP/1.1\r\nHost: e\r\n"),
        Just("GET /f HTTP/1.1\r\n"),
        Just("GET /f HTTP/1.1\nHost: e\r\n"),
    ];
    let field = prop_oneof![
        Just("Range: bytes=1-5\r\n"),
        Just("Content-Length: 3\r\n"),
        Just("Content-Length: 3, 3\r\n"),
        Just("Transfer-Encoding: chunked\r\n"),
        Just("Connection: close\r\n"),
        Just("Connection: keep-alive\r\n"),
        Just("If-None-Match: *\r\n"),
        Just("X: y\r\n z\r\n"),
        Just("A : b\r\n"),
        Just("\r\n"),
        Just("abc"),
    ];
    (line, proptest::collection::vec(field, 0..4))
        .prop_map(|(line, fields)| std::format!("{line}{}\r\n", fields.concat()))
}
