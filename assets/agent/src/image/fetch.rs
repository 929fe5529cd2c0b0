//! The image's bytes over HTTP: a connection that breaks is made again, and
//! goes on where the old one ended (RFC 9110, 14.2 Range and 13.1.5 If-Range).

use crate::talk;
use std::io::{self, Read};
use std::time::Duration;

/// The longest that connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that a server may think before it answers.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest that no byte may come.
const SILENCE: Duration = Duration::from_secs(20);
/// Failures in a row after which the image is given up: with the waits between them, a quarter of an hour.
const MAX_FAILURES: u32 = 40;
/// The same for a server that answers, and says no: it may be about to publish what it does not have yet.
const MAX_REFUSALS: u32 = 6;
/// User data may be as large, bytes: more than any cloud allows.
pub const MAX_USER_DATA: u64 = 4 << 20;

/// What stops a download, or lets it go on.
pub trait Watch: Send {
    /// A failure and its number in a row, before the wait. False: give up now.
    fn failed(&mut self, count: u32, why: &str) -> bool;
    /// Whether the order still stands.
    fn stands(&self) -> bool;
}

/// A file of known length, read from its first byte to its last whatever connections do.
pub struct Download {
    agent: ureq::Agent,
    url: String,
    length: u64,
    done: u64,
    etag: Option<String>,
    body: Option<ureq::BodyReader<'static>>,
    failures: u32,
    refusals: u32,
    watch: Box<dyn Watch>,
}

/// Why there is no connection.
enum Failure {
    /// Try again.
    Passing(String),
    /// The server says no.
    Refused(String),
    /// Trying again helps nobody.
    Final(String),
}

impl Download {
    /// Nothing is asked for before the first read.
    pub fn new(url: &str, length: u64, watch: Box<dyn Watch>) -> Self {
        let (url, agent) = (url.to_owned(), agent());
        Self { agent, url, length, done: 0, etag: None, body: None, failures: 0, refusals: 0, watch }
    }

    fn connect(&mut self) -> Result<ureq::BodyReader<'static>, Failure> {
        let mut request = self.agent.get(&self.url).header("accept-encoding", "identity");
        if self.done > 0 {
            request = request.header("range", format!("bytes={}-", self.done));
            if let Some(etag) = &self.etag {
                request = request.header("if-range", etag);
            }
        }
        let response = request.call().map_err(|e| Failure::Passing(words(&e)))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (etag, content_length) = (header("etag"), header("content-length").and_then(|l| l.parse::<u64>().ok()));
        if matches!(status, 200 | 206) && self.etag.is_some() && etag.is_some() && etag != self.etag {
            return Err(Failure::Final("the image changed while it was being fetched".into()));
        }
        let skip = match status {
            200 => {
                if let Some(n) = content_length.filter(|n| *n != self.length) {
                    return Err(Failure::Final(format!("the server has {n} bytes, the order names {}", self.length)));
                }
                self.done
            }
            206 => {
                let expected = format!("bytes {}-{}/{}", self.done, self.length - 1, self.length);
                match header("content-range") {
                    Some(range) if range == expected => 0,
                    _ => return Err(Failure::Final("the server answers with another range than was asked for".into())),
                }
            }
            408 | 425 | 429 | 500.. => return Err(Failure::Passing(format!("HTTP {status}"))),
            _ => return Err(Failure::Refused(format!("HTTP {status}"))),
        };
        self.etag = etag.or(self.etag.take());
        let mut body = response.into_body().into_reader();
        // A server without ranges begins from the start.
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
        match skipped {
            Ok(n) if n == skip => Ok(body),
            Ok(_) => Err(Failure::Passing("the connection ended early".into())),
            Err(e) => Err(Failure::Passing(e.to_string())),
        }
    }

    /// Waits after a failure, unless it was the last one.
    fn again(&mut self, failure: Failure) -> io::Result<()> {
        self.body = None;
        self.failures += 1;
        let why = match failure {
            Failure::Passing(why) => why,
            Failure::Refused(why) => {
                self.refusals += 1;
                why
            }
            Failure::Final(why) => return Err(io::Error::other(why)),
        };
        let last = self.failures >= MAX_FAILURES || self.refusals >= MAX_REFUSALS;
        if !self.watch.failed(self.failures, &why) || last {
            return Err(io::Error::other(format!("{why} (at byte {} of {})", self.done, self.length)));
        }
        std::thread::sleep(talk::back_off(self.failures));
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.done < self.length && !buffer.is_empty() {
            if !self.watch.stands() {
                return Err(io::Error::other("withdrawn"));
            }
            let mut body = match self.body.take().map_or_else(|| self.connect(), Ok) {
                Ok(body) => body,
                Err(failure) => {
                    self.again(failure)?;
                    continue;
                }
            };
            let room = usize::try_from(self.length - self.done).unwrap_or(usize::MAX).min(buffer.len());
            match body.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => self.again(Failure::Passing("the connection ended early".into()))?,
                Ok(n) => {
                    self.done += n as u64;
                    (self.failures, self.refusals) = (0, 0);
                    self.body = Some(body);
                    return Ok(n);
                }
                Err(e) => self.again(Failure::Passing(e.to_string()))?,
            }
        }
        Ok(0)
    }
}

/// Fetches user data. Nothing in the error tells the address: it holds a token.
///
/// # Errors
/// When it is refused, or cannot be had within the same patience as an image.
pub fn user_data(url: &str, watch: &mut dyn Watch) -> Result<Vec<u8>, String> {
    let agent = agent();
    let (mut failures, mut refusals) = (0, 0);
    while watch.stands() {
        let why = match agent.get(url).call() {
            Ok(mut response) => match response.status().as_u16() {
                200 => match response.body_mut().with_config().limit(MAX_USER_DATA).read_to_vec() {
                    Ok(bytes) => return Ok(bytes),
                    Err(e) => words(&e),
                },
                status => {
                    refusals += u32::from(status < 500);
                    format!("HTTP {status}")
                }
            },
            Err(e) => words(&e),
        };
        failures += 1;
        let last = failures >= MAX_FAILURES || refusals >= MAX_REFUSALS;
        if !watch.failed(failures, &why) || last {
            return Err(why);
        }
        std::thread::sleep(talk::back_off(failures));
    }
    Err("withdrawn".into())
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(SILENCE))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("stoker-agent/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

/// An error without the address that it happened at.
fn words(e: &ureq::Error) -> String {
    match e {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => "the order's address is none".into(),
        e => e.to_string(),
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
