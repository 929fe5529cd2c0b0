//! One connection: bytes in, requests and answers out, one exchange at a time.
//!
//! Whoever drives it reads while it says [`Step::Read`], hands what came to
//! [`Connection::receive`], and answers each [`Step::Request`]. Requests sent
//! ahead (pipelining) wait in a buffer of at most [`limits::BUFFER`] bytes, the
//! rest in the kernel, since nothing is read while an answer is under way.

use super::answer::{Answer, Bad, Status, reject};
use super::head::{Request, find_end, parse};
use super::limits;
use crate::time::{Duration, Instant};
use alloc::vec::Vec;

/// How long a client may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// From the first byte of a head (or the connection's start) to its end.
    pub head: Duration,
    /// From the end of an answer to the first byte of the next head.
    pub idle: Duration,
}

/// What to do next.
// Lives for one call; boxing the request would allocate for each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Step<'c> {
    /// Read from the client.
    Read,
    /// Find what is asked for, then [`Connection::begin`] an answer.
    Request(Request<'c>),
    /// Send this, begun already; no request belongs to it.
    Reject(Answer),
    /// An answer is under way: wait for [`Connection::sent`].
    Wait,
    /// Close; everything sent was whole.
    Close,
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    buffer: Vec<u8>,
    /// How much of the buffer was searched for the head's end.
    scanned: usize,
    /// Bytes of a request's body still to be thrown away.
    drain: u64,
    skipped: usize,
    phase: Phase,
    /// The client has closed its sending side.
    ended: bool,
    patience: Patience,
    /// When the present wait began.
    since: Instant,
    /// Requests so far.
    requests: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Reading,
    Answering { keep: bool },
    Over,
}

impl Connection {
    /// A connection accepted at `now`.
    pub fn new(patience: Patience, now: Instant) -> Self {
        Self {
            buffer: Vec::new(),
            scanned: 0,
            drain: 0,
            skipped: 0,
            phase: Phase::Reading,
            ended: false,
            patience,
            since: now,
            requests: 0,
        }
    }

    /// Bytes came in; none: the client has closed its sending side.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() {
            self.ended = true;
        }
        if self.idle() && !bytes.is_empty() {
            self.since = now;
        }
        let drained = usize::try_from(self.drain).unwrap_or(usize::MAX).min(bytes.len());
        self.drain -= drained as u64;
        self.buffer.extend_from_slice(bytes.get(drained..).unwrap_or_default());
    }

    /// What to do next. `date` is the wall clock, seconds since 1970 UTC.
    pub fn poll(&mut self, date: u64) -> Step<'_> {
        match self.phase {
            Phase::Answering { .. } => return Step::Wait,
            Phase::Over => return Step::Close,
            Phase::Reading => {}
        }
        if self.drain > 0 {
            return if self.ended { Step::Close } else { Step::Read };
        }
        if let Err(bad) = self.skip_empty_lines() {
            return Step::Reject(self.reject(bad, date));
        }
        let end = match find_end(&self.buffer, &mut self.scanned) {
            Ok(Some(end)) if end <= limits::HEAD => end,
            Ok(None) if self.buffer.len() < limits::HEAD && !self.target_too_long() => {
                return if self.ended { Step::Close } else { Step::Read };
            }
            Ok(_) => return Step::Reject(self.reject(self.too_large(), date)),
            Err(bad) => return Step::Reject(self.reject(bad, date)),
        };
        // The borrow of the buffer may leave this function, so the other arm must not touch it.
        match parse(self.buffer.get(..end).unwrap_or_default()) {
            Ok(request) => Step::Request(request),
            Err(bad) => {
                self.phase = Phase::Answering { keep: false };
                Step::Reject(reject(bad, date))
            }
        }
    }

    /// The answer to the request that [`Connection::poll`] gave is being sent.
    pub fn begin(&mut self, answer: &Answer) {
        self.buffer.drain(..answer.consumed.min(self.buffer.len()));
        let now_drained = usize::try_from(answer.drain).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.drain(..now_drained);
        self.drain = answer.drain - now_drained as u64;
        (self.scanned, self.skipped) = (0, 0);
        self.requests += 1;
        self.phase = Phase::Answering { keep: answer.keep };
    }

    /// The answer has gone out whole.
    pub fn sent(&mut self, now: Instant) {
        self.since = now;
        self.phase = match self.phase {
            Phase::Answering { keep: true } => Phase::Reading,
            _ => Phase::Over,
        };
    }

    /// When to call [`Connection::expire`]; None while an answer is under way.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Reading if self.idle() && self.requests > 0 => Some(self.since + self.patience.idle),
            Phase::Reading => Some(self.since + self.patience.head),
            _ => None,
        }
    }

    /// The deadline came: 408 to whom has begun a request (RFC 9110 section 15.5.9), silence to the others.
    pub fn expire(&mut self, date: u64) -> Step<'_> {
        if self.buffer.is_empty() {
            self.phase = Phase::Over;
            return Step::Close;
        }
        Step::Reject(self.reject(Bad { status: Status::RequestTimeout, why: "the request took too long" }, date))
    }

    /// Between two requests: closing now loses nothing.
    pub fn idle(&self) -> bool {
        self.phase == Phase::Reading && self.buffer.is_empty() && self.drain == 0
    }

    /// Ends the connection after the answer under way, if any.
    pub fn finish(&mut self) {
        self.phase = match self.phase {
            Phase::Answering { .. } => Phase::Answering { keep: false },
            _ => Phase::Over,
        };
    }

    /// When the present wait began.
    pub fn since(&self) -> Instant {
        self.since
    }

    fn reject(&mut self, bad: Bad, date: u64) -> Answer {
        let answer = reject(bad, date);
        self.begin(&answer);
        answer
    }

    /// RFC 9112 section 2.2: empty lines before a request are skipped, but not for ever.
    fn skip_empty_lines(&mut self) -> Result<(), Bad> {
        while self.buffer.starts_with(b"\r\n") {
            self.buffer.drain(..2);
            self.skipped += 2;
            self.scanned = 0;
            if self.skipped > limits::EMPTY_LINES {
                return Err(Bad { status: Status::BadRequest, why: "nothing but empty lines" });
            }
        }
        Ok(())
    }

    /// The first line has grown beyond any that would be served.
    fn target_too_long(&self) -> bool {
        const REST: usize = "OPTIONS  HTTP/1.1\r\n".len() + 16;
        self.buffer.len() > limits::TARGET + REST
            && !self.buffer.iter().take(limits::TARGET + REST).any(|&c| c == b'\n')
    }

    fn too_large(&self) -> Bad {
        match self.target_too_long() {
            true => Bad { status: Status::UriTooLong, why: "target too long" },
            false => Bad { status: Status::HeadTooLarge, why: "head too large" },
        }
    }
}

#[cfg(test)]
mod tests;
