//! Which answer a request gets, and its head.

use super::condition::{Verdict, judge};
use super::date::HttpDate;
use super::head::Request;
use super::limits;
use super::range::Asked;
use crate::manifest::ObjectId;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::ops::Range;

macro_rules! statuses {
    ($($name:ident = $code:literal $reason:literal,)*) => {
        /// The statuses that are answered (RFC 9110 section 15, RFC 6585 section 5).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Status { $($name = $code,)* }

        impl Status {
            /// Its number.
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// Its reason phrase.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }
        }
    };
}

statuses! {
    Ok = 200 "OK",
    PartialContent = 206 "Partial Content",
    NotModified = 304 "Not Modified",
    BadRequest = 400 "Bad Request",
    NotFound = 404 "Not Found",
    MethodNotAllowed = 405 "Method Not Allowed",
    RequestTimeout = 408 "Request Timeout",
    PreconditionFailed = 412 "Precondition Failed",
    ContentTooLarge = 413 "Content Too Large",
    UriTooLong = 414 "URI Too Long",
    RangeNotSatisfiable = 416 "Range Not Satisfiable",
    ExpectationFailed = 417 "Expectation Failed",
    HeadTooLarge = 431 "Request Header Fields Too Large",
    ServiceUnavailable = 503 "Service Unavailable",
    VersionNotSupported = 505 "HTTP Version Not Supported",
}

/// A refusal, with words for the client and the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bad {
    /// What to answer.
    pub status: Status,
    /// Plain ASCII, no line break.
    pub why: &'static str,
}

/// What is served under a path.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// Length, bytes.
    pub length: u64,
    /// SHA-256 of the bytes: the ETag and the Repr-Digest.
    pub digest: ObjectId,
    /// Content-Type.
    pub content_type: &'a str,
    /// Last-Modified, seconds since 1970 UTC; 0 where it is not known.
    pub modified: u64,
}

impl Resource<'_> {
    /// The strong entity tag, quotes included.
    pub fn etag(&self) -> [u8; 66] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut tag = [b'"'; 66];
        for (pair, byte) in tag[1..65].chunks_exact_mut(2).zip(self.digest.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        tag
    }
}

/// What to send: the head, then that range of the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status.
    pub status: Status,
    /// Head, and the whole body where that is a few words of ours.
    pub head: Vec<u8>,
    /// Bytes of the object that follow; None where there is nothing to follow.
    pub body: Option<Range<u64>>,
    /// The connection outlives this answer.
    pub keep: bool,
    /// Bytes of the buffer that the request took.
    pub(super) consumed: usize,
    /// Bytes of its body to throw away.
    pub(super) drain: u64,
}

impl Request<'_> {
    /// The answer about an object that exists. `now` is the wall clock, seconds since 1970 UTC.
    pub fn answer(&self, resource: &Resource<'_>, now: u64) -> Answer {
        let length = resource.length;
        let (status, body) = match judge(self, resource, now) {
            Verdict::Stop(Status::NotModified) => (Status::NotModified, 0..0),
            Verdict::Stop(_) => {
                return self.refuse(Bad { status: Status::PreconditionFailed, why: "it has changed" }, now);
            }
            Verdict::Serve(Asked::Whole) => (Status::Ok, 0..length),
            Verdict::Serve(Asked::Part(range)) => (Status::PartialContent, range),
            Verdict::Serve(Asked::Unsatisfiable) => {
                let why = "range beyond the end";
                let mut head = Head::new(Status::RangeNotSatisfiable, now);
                head.field("Content-Range", format_args!("bytes */{length}"));
                return self.short(head, Status::RangeNotSatisfiable, "text/plain", why);
            }
        };
        let mut head = Head::new(status, now);
        head.field("ETag", format_args!("{}", str::from_utf8(&resource.etag()).unwrap_or_default()));
        if resource.modified > 0 {
            // RFC 9110 section 8.8.2.1: never later than Date.
            head.field("Last-Modified", HttpDate(resource.modified.min(now)));
        }
        if status != Status::NotModified {
            head.field("Accept-Ranges", "bytes");
            head.field("Content-Type", content_type(resource.content_type));
            head.field("Content-Length", body.end - body.start);
            head.field("Repr-Digest", format_args!("sha-256=:{}:", Base64(&resource.digest.0)));
        }
        if status == Status::PartialContent {
            head.field("Content-Range", format_args!("bytes {}-{}/{length}", body.start, body.end - 1));
        }
        let body = Some(body).filter(|b| self.is_get() && !b.is_empty());
        self.finish(head, status, body)
    }

    /// A refusal with a line of text.
    pub fn refuse(&self, bad: Bad, now: u64) -> Answer {
        let mut head = Head::new(bad.status, now);
        match bad.status {
            Status::MethodNotAllowed => head.field("Allow", "GET, HEAD"),
            Status::ServiceUnavailable => head.field("Retry-After", 2),
            _ => {}
        }
        self.short(head, bad.status, "text/plain", bad.why)
    }

    /// A line of text of ours.
    pub fn text(&self, text: &str, now: u64) -> Answer {
        self.short(Head::new(Status::Ok, now), Status::Ok, "text/plain", text)
    }

    fn short(&self, mut head: Head, status: Status, kind: &str, text: &str) -> Answer {
        head.field("Content-Type", kind);
        head.field("Content-Length", text.len() + 1);
        let mut answer = self.finish(head, status, None);
        if !self.is_head() {
            answer.head.extend_from_slice(text.as_bytes());
            answer.head.push(b'\n');
        }
        answer
    }

    fn finish(&self, mut head: Head, status: Status, body: Option<Range<u64>>) -> Answer {
        match (self.keep, self.keep_alive_asked) {
            (false, _) => head.field("Connection", "close"),
            // HTTP/1.0 must be told; iPXE asks, and wants to read it.
            (true, true) => head.field("Connection", "keep-alive"),
            (true, false) => {}
        }
        let drain = if self.keep { self.body } else { 0 };
        Answer { status, head: head.end(), body, keep: self.keep, consumed: self.length, drain }
    }
}

/// The answer to something that is no request; the connection ends with it.
pub fn reject(bad: Bad, now: u64) -> Answer {
    let mut head = Head::new(bad.status, now);
    head.field("Content-Type", "text/plain");
    head.field("Content-Length", bad.why.len() + 1);
    head.field("Connection", "close");
    let mut head = head.end();
    head.extend_from_slice(bad.why.as_bytes());
    head.push(b'\n');
    Answer { status: bad.status, head, body: None, keep: false, consumed: usize::MAX, drain: 0 }
}

/// The answer for whom there is no room, before anything was read.
pub fn busy(now: u64) -> Answer {
    reject(Bad { status: Status::ServiceUnavailable, why: "busy, try again" }, now)
}

struct Head(alloc::string::String);

impl Head {
    fn new(status: Status, now: u64) -> Self {
        let mut head = Self(alloc::string::String::with_capacity(512));
        let _ = write!(head.0, "HTTP/1.1 {} {}\r\n", status.code(), status.reason());
        head.field("Date", HttpDate(now));
        head.field("Server", "stoker");
        head
    }

    fn field(&mut self, name: &str, value: impl fmt::Display) {
        let _ = write!(self.0, "{name}: {value}\r\n");
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push_str("\r\n");
        debug_assert!(self.0.len() <= limits::ANSWER_HEAD);
        self.0.into_bytes()
    }
}

/// The manifest's word, unless it could break the head.
fn content_type(text: &str) -> &str {
    let fits = !text.is_empty() && text.len() <= limits::CONTENT_TYPE && text.bytes().all(|c| matches!(c, b' '..=b'~'));
    if fits { text } else { "application/octet-stream" }
}

/// Base64 as a byte sequence of structured fields has it (RFC 8941 section 3.3.5).
struct Base64<'a>(&'a [u8]);

impl fmt::Display for Base64<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for chunk in self.0.chunks(3) {
            let bits = chunk.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
            for i in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
                out.write_char(if i <= chunk.len() { char::from(digit) } else { '=' })?;
            }
        }
        Ok(())
    }
}
