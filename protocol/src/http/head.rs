//! The head of a request, read strictly (RFC 9112).
//!
//! httparse splits it; what httparse tolerates and others may read otherwise
//! is refused before and after: bare CR or LF, NUL, folding, two lengths, a
//! length that is not plain digits, any Transfer-Encoding, no or two Hosts.

use super::answer::{Bad, Status};
use super::{limits, target};

/// A whole request head. Borrows the connection's buffer.
#[derive(Clone, Debug)]
pub struct Request<'b> {
    method: Method,
    target: &'b str,
    minor: u8,
    fields: [httparse::Header<'b>; limits::FIELDS],
    count: usize,
    /// Length of the head, bytes.
    pub(super) length: usize,
    /// Length of the body that follows, bytes.
    pub(super) body: u64,
    pub(super) keep: bool,
    pub(super) keep_alive_asked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Get,
    Head,
    Other,
}

/// Looks for the end of a head in `buffer`; everything before `scanned` was looked at before.
///
/// # Errors
/// As soon as a byte cannot belong to a head, so that nobody waits for its end.
pub fn find_end(buffer: &[u8], scanned: &mut usize) -> Result<Option<usize>, Bad> {
    for (i, &byte) in buffer.iter().enumerate().skip(*scanned) {
        let before = |n: usize| i.checked_sub(n).and_then(|i| buffer.get(i)).copied();
        match byte {
            b'\n' if before(1) != Some(b'\r') => return Err(bad("bare LF")),
            b'\n' if before(2) == Some(b'\n') => return Ok(Some(i + 1)),
            b'\n' => {}
            _ if before(1) == Some(b'\r') => return Err(bad("bare CR")),
            b'\r' | b'\t' => {}
            0..32 | 127 => return Err(bad("control character in the head")),
            _ => {}
        }
        *scanned = i + 1;
    }
    Ok(None)
}

/// Reads a head whose end was found.
///
/// # Errors
/// The status to answer with before closing: after a head that is not
/// understood nobody knows where the next begins.
pub fn parse(head: &[u8]) -> Result<Request<'_>, Bad> {
    let mut fields = [httparse::EMPTY_HEADER; limits::FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err(bad("not one head")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Bad { status: Status::HeadTooLarge, why: "too many fields" });
        }
        Err(httparse::Error::Version) if names_a_version(head) => {
            return Err(Bad { status: Status::VersionNotSupported, why: "only HTTP/1.0 and HTTP/1.1" });
        }
        Err(_) => return Err(bad("not an HTTP request")),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("not an HTTP request"));
    };
    if target.len() > limits::TARGET {
        return Err(Bad { status: Status::UriTooLong, why: "target too long" });
    }
    if !target.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(bad("target is not printable ASCII"));
    }
    // `*` goes with OPTIONS (RFC 9112 section 3.2.4); the authority form is for proxies, which we are not.
    if target::form(target).is_none() && (method, target) != ("OPTIONS", "*") {
        return Err(bad("not a path"));
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    let count = parsed.headers.len();
    let mut request = Request {
        method,
        target,
        minor,
        fields,
        count,
        length: head.len(),
        body: 0,
        keep: minor == 1,
        keep_alive_asked: false,
    };
    request.check_host()?;
    request.body = request.framing()?;
    request.connection();
    Ok(request)
}

impl<'b> Request<'b> {
    /// The path asked for, percent signs decoded once, without the query.
    ///
    /// # Errors
    /// 400 where the target is not a path.
    pub fn path(&self) -> Result<alloc::vec::Vec<u8>, Bad> {
        target::path(self.target)
    }

    /// The target as it came (printable ASCII, at most [`limits::TARGET`] bytes).
    pub fn target(&self) -> &'b str {
        self.target
    }

    /// GET, and not HEAD.
    pub fn is_get(&self) -> bool {
        self.method == Method::Get
    }

    /// HEAD: the answer has no body.
    pub fn is_head(&self) -> bool {
        self.method == Method::Head
    }

    /// A reason not to look for the object at all: method or expectation.
    pub fn refusal(&self) -> Option<Bad> {
        let expect = || self.all("expect").any(|v| !v.eq_ignore_ascii_case(b"100-continue"));
        match self.method {
            Method::Other => Some(Bad { status: Status::MethodNotAllowed, why: "only GET and HEAD" }),
            // RFC 9110 section 10.1.1: not known to HTTP/1.0.
            _ if self.minor == 1 && expect() => {
                Some(Bad { status: Status::ExpectationFailed, why: "unknown expectation" })
            }
            _ => None,
        }
    }

    /// Values of every field of this name (lower case), in order.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + '_ {
        let fields = self.fields.get(..self.count).unwrap_or_default();
        fields.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value.trim_ascii())
    }

    /// The value of a field that occurs once.
    pub fn single(&self, name: &'static str) -> Option<&'b [u8]> {
        let mut all = self.all(name);
        let first = all.next();
        if all.next().is_some() { None } else { first }
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &'static str) -> bool {
        self.all(name).next().is_some()
    }

    /// RFC 9112 section 3.2.
    fn check_host(&self) -> Result<(), Bad> {
        let mut hosts = self.all("host");
        match (hosts.next(), hosts.next()) {
            (Some(_), Some(_)) => Err(bad("two Host fields")),
            (None, _) if self.minor == 1 => Err(bad("no Host field")),
            (Some(host), _) if !target::is_host(host) => Err(bad("Host is not a host")),
            _ => Ok(()),
        }
    }

    /// Length of the body (RFC 9112 section 6.3); stricter than it must be.
    fn framing(&mut self) -> Result<u64, Bad> {
        let mut lengths = self.all("content-length");
        let length = match (lengths.next(), lengths.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => return Err(bad("two Content-Length fields")),
            (Some(text), None) => Some(plain_number(text).ok_or(bad("Content-Length is not a number"))?),
        };
        drop(lengths);
        let chunked = self.single("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case(b"chunked"));
        match (self.has("transfer-encoding"), length) {
            (false, length) => {
                let length = length.unwrap_or(0);
                match length > limits::BODY {
                    true if self.method != Method::Other => {
                        Err(Bad { status: Status::ContentTooLarge, why: "body too long" })
                    }
                    true => Ok(u64::MAX),
                    false => Ok(length),
                }
            }
            (true, Some(_)) => Err(bad("Content-Length and Transfer-Encoding")),
            // Refused for its method, then closed. Only HTTP/1.1 knows chunks (RFC 9112 section 6.1).
            (true, None) if self.method == Method::Other && self.minor == 1 && chunked => Ok(u64::MAX),
            (true, None) => Err(bad("Transfer-Encoding on a request without content")),
        }
    }

    /// Whether the connection outlives the answer (RFC 9112 section 9.3).
    fn connection(&mut self) {
        let (mut close, mut keep) = (false, false);
        for value in self.all("connection") {
            for token in value.split(|&c| c == b',').map(<[u8]>::trim_ascii) {
                close |= token.eq_ignore_ascii_case(b"close");
                keep |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        // A body that cannot be read, or one that the client holds back until it is told to send it.
        let unread = self.body == u64::MAX || (self.body > 0 && self.has("expect"));
        self.keep_alive_asked = keep;
        self.keep = !close && !unread && (self.minor == 1 || keep);
    }
}

/// A well-formed request line of another version, not a line with a space too many.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&c| c == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&c| c == b' ');
    matches!((words.next(), words.next(), words.next(), words.next()),
        (Some([_, ..]), Some([_, ..]), Some([b'H', b'T', b'T', b'P', b'/', digit, ..]), None) if digit.is_ascii_digit())
}

fn plain_number(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if plain { str::from_utf8(text).ok()?.parse().ok() } else { None }
}

const fn bad(why: &'static str) -> Bad {
    Bad { status: Status::BadRequest, why }
}
