//! The client's side of one read transfer: for the command line, for load and
//! for tests.
//!
//! [`Fetch::start`], then [`Fetch::handle`] for each datagram (it gives back
//! the bytes of the file that the datagram brought, borrowed from it),
//! [`Fetch::timer`] when [`Fetch::deadline`] has come, and
//! [`Fetch::poll_output`] until it has no more. Nothing is allocated but the
//! request, once.
//!
//! ```
//! use protocol::tftp::fetch::{Ask, Fetch, Output};
//! use protocol::time::Instant;
//! let server = "10.0.0.1:69".parse().unwrap();
//! let mut fetch = Fetch::start(server, &Ask { name: b"snponly.efi", ..Ask::default() }, Instant::ZERO);
//! match fetch.poll_output() {
//!     Some(Output::Send { to, bytes }) => { assert_eq!(to, server); /* socket.send_to(bytes, to) */ assert_eq!(bytes[1], 1) }
//!     _ => unreachable!(),
//! }
//! ```

use super::DEFAULT_BLKSIZE;
use super::number::Rollover;
use super::options::Agreed;
use super::packet::{BadPacket, ErrorCode, MAX_REQUEST, Mode, Options, Packet, Short, encode_rrq};
use crate::time::{Duration, Instant};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::SocketAddr;

/// Longest text of a server's ERROR that is kept, bytes.
const MAX_TEXT: usize = 128;

/// What to ask for. `None` and `false` leave the option out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask<'a> {
    /// The file's name.
    pub name: &'a [u8],
    /// How it is translated. With netascii what is delivered is the wire's form, see [`super::netascii::Decoder`].
    pub mode: Mode,
    /// Option `blksize`, bytes (RFC 2348).
    pub blksize: Option<u16>,
    /// Option `windowsize`, blocks (RFC 7440).
    pub windowsize: Option<u16>,
    /// Option `timeout`, seconds (RFC 2349).
    pub timeout: Option<u8>,
    /// Option `tsize` (RFC 2349).
    pub tsize: bool,
    /// Only ask for the options: answer the OACK with ERROR 8, as OVMF does to learn a size.
    pub probe: bool,
    /// What follows block 65535.
    pub rollover: Rollover,
    /// When to send again, and when to give up.
    pub patience: Patience,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self {
            name: b"",
            mode: Mode::Octet,
            blksize: Some(1468),
            windowsize: None,
            timeout: None,
            tsize: true,
            probe: false,
            rollover: Rollover::Zero,
            patience: Patience::default(),
        }
    }
}

/// How a client behaves in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Wait before the first repetition; doubles with each up to `max`.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Silence after which the transfer is given up.
    pub give_up: Duration,
    /// How long to go on answering a repeated last block (RFC 1350 section 6, "dallying").
    pub dally: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(8),
            give_up: Duration::from_secs(30),
            dally: Duration::from_secs(3),
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output<'a> {
    /// Send this datagram.
    Send {
        /// To whom: the server's request port, its port for this transfer, or a stranger.
        to: SocketAddr,
        /// The datagram.
        bytes: &'a [u8],
    },
    /// The transfer is over, see [`Fetch::report`]. Told once. After
    /// [`End::Complete`] the machine still answers repetitions of the last block
    /// until [`Fetch::deadline`] is `None`, if it is driven on.
    Ended(End),
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The whole file was delivered.
    Complete,
    /// Only the options were asked for, and came.
    Probed,
    /// The server sent this ERROR; its words are in [`Fetch::report`].
    Refused(ErrorCode),
    /// The server never answered the request.
    NoAnswer,
    /// The server fell silent in the middle.
    TimedOut,
    /// The server broke the rules; we told it so.
    Protocol(Fault),
}

/// How a server can break the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It agreed to this option, which we had not asked for, or to more than we had.
    Option(&'static str),
    /// A block is longer than agreed.
    LongBlock,
    /// The file's length is not the `tsize` that was promised (octet mode).
    Length,
    /// Something that is no TFTP packet.
    Malformed(BadPacket),
    /// The request does not fit in 512 bytes; nothing was sent.
    LongRequest,
}

/// What is known about a transfer so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// How it ended, once it has.
    pub end: Option<End>,
    /// What was agreed on, once the server has answered.
    pub agreed: Option<Agreed>,
    /// Bytes delivered.
    pub bytes: u64,
    /// Blocks delivered.
    pub blocks: u64,
    /// Blocks that came once more.
    pub duplicates: u32,
    /// Times that a block was missing in a window.
    pub gaps: u32,
    /// Requests and ACKs sent again because nothing came.
    pub retransmissions: u32,
    /// Datagrams of this transfer that were received, whatever they were.
    pub received: u64,
    /// Datagrams from elsewhere than the server of this transfer.
    pub strangers: u32,
    /// From the first request to the first answer.
    pub first_answer: Option<Duration>,
    /// From the first request to the end.
    pub elapsed: Duration,
    /// The server's words in an ERROR, escaped and cut; usually empty.
    pub text: String,
}

/// One read transfer as its client sees it.
#[derive(Clone, Debug)]
pub struct Fetch {
    server: SocketAddr,
    /// The server's end of the transfer, once it has answered.
    tid: Option<SocketAddr>,
    request: Vec<u8>,
    asked: Agreed,
    mode: Mode,
    probe: bool,
    rollover: Rollover,
    patience: Patience,
    blksize: u16,
    windowsize: u16,

    /// The last block delivered in order.
    last: u64,
    /// Blocks delivered since the last ACK.
    since_ack: u16,
    /// The block behind which a gap was reported: one ACK per gap.
    gap_at: Option<u64>,

    outbox: Outbox,
    /// What [`Fetch::poll_output`] lends out.
    lent: Short,
    phase: Phase,
    started: Instant,
    /// When the server was last heard.
    heard: Instant,
    wait: Duration,
    due: Instant,
    report: Report,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Asking,
    Receiving,
    /// Everything has come; the last ACK may have to be repeated until then.
    Dallying(Instant),
    Over,
}

/// What waits to be sent: at most one of each.
#[derive(Clone, Copy, Debug, Default)]
struct Outbox {
    request: bool,
    ack: bool,
    error: Option<(SocketAddr, ErrorCode, &'static str)>,
    ended: Option<End>,
}

impl Fetch {
    /// Begins to ask `server` (usually port 69) for a file.
    pub fn start(server: SocketAddr, ask: &Ask<'_>, now: Instant) -> Self {
        let asked = Agreed::asked(ask.blksize, ask.windowsize, ask.timeout, ask.tsize && ask.mode == Mode::Octet);
        let request = request(ask, &asked);
        let fits = request.len() <= MAX_REQUEST;
        let mut fetch = Self {
            server,
            tid: None,
            request,
            asked,
            mode: ask.mode,
            probe: ask.probe,
            rollover: ask.rollover,
            patience: ask.patience,
            blksize: DEFAULT_BLKSIZE,
            windowsize: 1,
            last: 0,
            since_ack: 0,
            gap_at: None,
            outbox: Outbox { request: fits, ..Outbox::default() },
            lent: Short::ack(0),
            phase: Phase::Asking,
            started: now,
            heard: now,
            wait: ask.patience.first,
            due: now + ask.patience.first,
            report: Report::default(),
        };
        if !fits {
            fetch.end(End::Protocol(Fault::LongRequest), now);
        }
        fetch
    }

    /// Takes in a datagram. Gives back the bytes of the file that it brought,
    /// in order and each once; mostly the payload of a DATA packet.
    pub fn handle<'p>(&mut self, from: SocketAddr, datagram: &'p [u8], now: Instant) -> Option<&'p [u8]> {
        let packet = Packet::decode(datagram);
        if !self.is_ours(from, &packet) {
            self.report.strangers += 1;
            return None;
        }
        self.report.received += 1;
        if self.phase == Phase::Over {
            return None;
        }
        match packet {
            Ok(Packet::Data { block, payload }) => self.on_data(from, block, payload, now),
            Ok(Packet::Oack(options)) => {
                self.on_oack(from, options, now);
                None
            }
            Ok(Packet::Error { code, text }) => {
                self.on_error(code, text, now);
                None
            }
            Ok(Packet::Request(_) | Packet::Ack { .. }) => None,
            Err(bad) => {
                self.fault(from, Fault::Malformed(bad), ErrorCode::ILLEGAL, "malformed packet", now);
                None
            }
        }
    }

    /// The deadline has come (harmless when it has not).
    pub fn timer(&mut self, now: Instant) {
        if now < self.due {
            return;
        }
        match self.phase {
            Phase::Over => {}
            Phase::Dallying(until) => {
                if now >= until {
                    self.phase = Phase::Over;
                }
            }
            Phase::Asking | Phase::Receiving if now - self.heard >= self.patience.give_up => {
                let end = if self.phase == Phase::Asking { End::NoAnswer } else { End::TimedOut };
                self.end(end, now);
            }
            Phase::Asking => {
                self.outbox.request = true;
                self.repeat(now);
            }
            Phase::Receiving => {
                // RFC 7440 section 4: acknowledge what has come of the window.
                self.acknowledge();
                self.repeat(now);
            }
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        if core::mem::take(&mut self.outbox.request) {
            return Some(Output::Send { to: self.server, bytes: &self.request });
        }
        if let Some((to, code, text)) = self.outbox.error.take() {
            self.lent = Short::error(code, text);
            return Some(Output::Send { to, bytes: self.lent.as_bytes() });
        }
        if let Some(to) = self.tid.filter(|_| core::mem::take(&mut self.outbox.ack)) {
            self.lent = Short::ack(self.rollover.wire(self.last));
            return Some(Output::Send { to, bytes: self.lent.as_bytes() });
        }
        self.outbox.ended.take().map(Output::Ended)
    }

    /// When to call [`Fetch::timer`] at the latest; `None` once nothing can come any more.
    pub fn deadline(&self) -> Option<Instant> {
        (self.phase != Phase::Over).then_some(self.due)
    }

    /// What is known so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The server's address and port for this transfer, once it has answered.
    pub fn tid(&self) -> Option<SocketAddr> {
        self.tid
    }

    /// RFC 1350 section 4: the first answer fixes the server's port; whoever
    /// comes from another later gets ERROR 5 (but for an ERROR), and does no harm.
    fn is_ours(&mut self, from: SocketAddr, packet: &Result<Packet<'_>, BadPacket>) -> bool {
        match self.tid {
            Some(tid) if tid == from => true,
            Some(_) => {
                if matches!(packet, Ok(Packet::Data { .. } | Packet::Oack(_))) {
                    self.outbox.error = Some((from, ErrorCode::UNKNOWN_TID, "unknown transfer id"));
                }
                false
            }
            None => from.ip() == self.server.ip(),
        }
    }

    fn on_oack(&mut self, from: SocketAddr, options: Options<'_>, now: Instant) {
        match self.phase {
            Phase::Asking => {}
            // The same OACK again: our ACK 0 was lost.
            Phase::Receiving if self.last == 0 && self.since_ack == 0 => {
                self.report.duplicates += 1;
                self.outbox.ack = true;
                return;
            }
            _ => {
                self.report.duplicates += 1;
                return;
            }
        }
        let agreed = match Agreed::from_oack(options, &self.asked) {
            Ok(agreed) => agreed,
            Err(option) => {
                return self.fault(from, Fault::Option(option), ErrorCode::OPTIONS, "option was not asked for so", now);
            }
        };
        self.answered(from, agreed, now);
        if self.probe {
            self.outbox.error = Some((from, ErrorCode::OPTIONS, "User aborted the transfer"));
            self.end(End::Probed, now);
        } else {
            self.outbox.ack = true;
        }
    }

    fn on_data<'p>(&mut self, from: SocketAddr, block: u16, payload: &'p [u8], now: Instant) -> Option<&'p [u8]> {
        if self.phase == Phase::Asking {
            if block != 1 {
                return None;
            }
            // No OACK: nothing was agreed on.
            self.answered(from, Agreed::default(), now);
        }
        let ahead = self.rollover.ahead(self.last, block);
        let receiving = self.phase == Phase::Receiving;
        match ahead {
            Some(1) if receiving => self.on_next(from, payload, now),
            Some(0) if self.last > 0 => {
                // The end of a window once more: our ACK of it was lost.
                self.report.duplicates += 1;
                if self.since_ack == 0 {
                    self.outbox.ack = true;
                }
                None
            }
            Some(gap) if receiving && gap > 1 && gap <= u64::from(self.windowsize) => {
                self.on_gap(now);
                None
            }
            _ => {
                self.report.duplicates += 1;
                None
            }
        }
    }

    fn on_next<'p>(&mut self, from: SocketAddr, payload: &'p [u8], now: Instant) -> Option<&'p [u8]> {
        if payload.len() > usize::from(self.blksize) {
            self.fault(from, Fault::LongBlock, ErrorCode::ILLEGAL, "block is longer than agreed", now);
            return None;
        }
        self.last += 1;
        self.since_ack += 1;
        self.gap_at = None;
        self.report.blocks += 1;
        self.report.bytes += payload.len() as u64;
        self.listen_on(now);
        if payload.len() < usize::from(self.blksize) {
            self.acknowledge();
            let promised = self.report.agreed.and_then(|agreed| agreed.tsize());
            let whole = self.mode != Mode::Octet || promised.is_none_or(|tsize| tsize == self.report.bytes);
            self.end(if whole { End::Complete } else { End::Protocol(Fault::Length) }, now);
        } else if self.since_ack >= self.windowsize {
            self.acknowledge();
        }
        Some(payload)
    }

    /// RFC 7440 section 4: a block is missing; say where, once, and the window begins there anew.
    fn on_gap(&mut self, now: Instant) {
        if self.gap_at != Some(self.last) {
            self.gap_at = Some(self.last);
            self.report.gaps += 1;
            self.acknowledge();
            self.listen_on(now);
        }
    }

    fn on_error(&mut self, code: ErrorCode, text: &[u8], now: Instant) {
        if matches!(self.phase, Phase::Asking | Phase::Receiving) {
            let shown = text.get(..MAX_TEXT).unwrap_or(text);
            // Writing to a String cannot fail.
            let _ = write!(self.report.text, "{}", shown.escape_ascii());
            self.end(End::Refused(code), now);
        }
    }

    fn answered(&mut self, from: SocketAddr, agreed: Agreed, now: Instant) {
        self.tid = Some(from);
        self.blksize = agreed.blksize();
        self.windowsize = agreed.windowsize();
        self.report.agreed = Some(agreed);
        self.report.first_answer = Some(now - self.started);
        self.phase = Phase::Receiving;
        self.listen_on(now);
    }

    fn acknowledge(&mut self) {
        self.since_ack = 0;
        self.outbox.ack = true;
    }

    fn listen_on(&mut self, now: Instant) {
        self.heard = now;
        self.wait = self.patience.first;
        self.due = now + self.wait;
    }

    fn repeat(&mut self, now: Instant) {
        self.report.retransmissions += 1;
        self.wait = (self.wait * 2).min(self.patience.max);
        self.due = now + self.wait;
        // A block lost behind the repeated ACK may be reported again.
        self.gap_at = None;
    }

    fn fault(&mut self, to: SocketAddr, fault: Fault, code: ErrorCode, text: &'static str, now: Instant) {
        if matches!(self.phase, Phase::Asking | Phase::Receiving) {
            self.outbox.error = Some((to, code, text));
            self.end(End::Protocol(fault), now);
        }
    }

    fn end(&mut self, end: End, now: Instant) {
        self.report.end = Some(end);
        self.report.elapsed = now - self.started;
        self.outbox.ended = Some(end);
        self.phase = Phase::Over;
        if end == End::Complete && !self.patience.dally.is_zero() {
            self.due = now + self.patience.dally;
            self.phase = Phase::Dallying(self.due);
        }
    }
}

fn request(ask: &Ask<'_>, asked: &Agreed) -> Vec<u8> {
    let options = [
        ("tsize", asked.tsize()),
        ("blksize", ask.blksize.map(u64::from)),
        ("timeout", ask.timeout.map(u64::from)),
        ("windowsize", ask.windowsize.map(u64::from)),
    ];
    let mut present = [("", 0); 4];
    let mut count = 0;
    for (slot, (name, value)) in present.iter_mut().zip(options.into_iter().filter_map(|(n, v)| v.map(|v| (n, v)))) {
        *slot = (name, value);
        count += 1;
    }
    let mut bytes = Vec::with_capacity(ask.name.len() + 80);
    encode_rrq(&mut bytes, ask.name, ask.mode, present.get(..count).unwrap_or_default());
    bytes
}

#[cfg(test)]
mod tests;
