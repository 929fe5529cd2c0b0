//! One RMCP+ session (IPMI 2.0 section 13): from the choice of a cipher suite
//! to Close Session.
//!
//! What a BMC says is a peer's word: every field is checked, an answer that
//! does not belong to the request in hand is dropped, algorithms that we did
//! not propose end the session ([`Error::Downgrade`]).

use super::crypto::{Keys, Suite, same};
use super::wire::{self, payload};
use crate::time::{Duration, Instant};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

/// First wait for an answer; doubles with each retransmission.
pub const FIRST_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a packet is sent before the BMC counts as silent.
pub const TRIES: u32 = 5;
/// The cipher suite question comes before the session and may go unanswered by old BMCs: ask less often.
pub const DISCOVER_TRIES: u32 = 2;
/// User names are at most 16 bytes (section 22.29).
pub const MAX_USER: usize = 16;
/// Passwords are at most 20 bytes (section 22.30).
pub const MAX_PASSWORD: usize = 20;

/// `App` network function.
const APP: u8 = 6;
const GET_CHANNEL_CIPHER_SUITES: u8 = 0x54;
const SET_SESSION_PRIVILEGE: u8 = 0x3b;
const CLOSE_SESSION: u8 = 0x3c;

/// Privilege levels (section 6.8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Privilege {
    /// May read.
    User = 2,
    /// May switch power and set the boot device.
    Operator = 3,
    /// May manage users.
    Administrator = 4,
}

/// Whom to log in as, and how.
#[derive(Clone)]
pub struct Config {
    /// At most [`MAX_USER`] bytes.
    pub user: Vec<u8>,
    /// At most [`MAX_PASSWORD`] bytes.
    pub password: Vec<u8>,
    /// The BMC key K_G, where one is set (section 13.31); the password otherwise.
    pub kg: Option<Vec<u8>>,
    /// The privilege to ask for.
    pub privilege: Privilege,
    /// The one suite to use; without it the BMC is asked which it has, and 17 is preferred.
    pub suite: Option<Suite>,
    /// Whether suite 3 (SHA-1) will do where the BMC lacks 17.
    pub allow_suite_3: bool,
}

/// Why a session or a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The BMC never answered.
    Silent,
    /// User name or password longer than IPMI allows.
    TooLong,
    /// The BMC offers neither of the suites that we may use.
    NoSuite,
    /// The BMC refused at this step, with this RMCP+ status (table 13-15).
    Refused(Step, u8),
    /// The BMC's proof does not match: the password (or K_G) is wrong.
    BadPassword,
    /// The BMC chose algorithms that we did not propose.
    Downgrade,
    /// The BMC's answer makes no sense.
    Malformed,
    /// The privilege asked for was not granted (completion code).
    Privilege(u8),
}

/// The steps of opening a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Open Session Request.
    OpenSession,
    /// RAKP message 1.
    Rakp1,
    /// RAKP message 3.
    Rakp3,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => out.write_str("the BMC does not answer on UDP 623: check its address, its network and that IPMI over LAN is enabled"),
            Self::TooLong => write!(out, "IPMI allows user names of {MAX_USER} and passwords of {MAX_PASSWORD} bytes"),
            Self::NoSuite => out.write_str("the BMC offers neither cipher suite 17 nor (where allowed) 3; suites 0 to 2 are not used, since they do not protect the session"),
            Self::Refused(step, code) => write!(out, "the BMC refused ({}): {}", step.name(), status(*code)),
            Self::BadPassword => out.write_str("the password (or the BMC key K_G) is wrong"),
            Self::Downgrade => out.write_str("the BMC chose weaker algorithms than it was asked for; not accepted"),
            Self::Malformed => out.write_str("the BMC's answer is not valid RMCP+"),
            Self::Privilege(code) => write!(out, "the BMC does not grant this user the privilege level (completion code {code:#04x})"),
        }
    }
}

impl core::error::Error for Error {}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::OpenSession => "open session",
            Self::Rakp1 => "user name",
            Self::Rakp3 => "proof",
        }
    }
}

/// RMCP+ status codes (table 13-15).
const fn status(code: u8) -> &'static str {
    match code {
        0x01 => "it has no session left; wait for others to close theirs",
        0x02 => "unknown session id",
        0x09 => "it does not allow that role",
        0x0a => "the privilege level is above what this user or channel may have",
        0x0d => "unknown user name",
        0x0f => "the proof of the password does not match",
        0x11 => "it does not have the cipher suite",
        0x12 => "it rejects a parameter",
        _ => "for a reason that it does not name",
    }
}

/// What the machine wants from its driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this datagram to the BMC.
    Send(Vec<u8>),
    /// The session is open at the privilege asked for.
    Opened(Suite),
    /// The answer to the request: completion code, then data.
    Reply(u8, Vec<u8>),
    /// The session is over: with an error, or closed as asked.
    Ended(Option<Error>),
}

/// Random bytes from the driver.
pub trait Random {
    /// Fills the buffer with bytes that nobody can foretell.
    fn fill(&mut self, buffer: &mut [u8]);
}

/// The client's end of one session.
pub struct Session<R> {
    config: Config,
    random: R,
    state: State,
    sequence: u32,
    rq_seq: u8,
    tag: u8,
    pending: Option<Pending>,
    output: VecDeque<Output>,
}

/// What was sent last and waits for an answer.
struct Pending {
    what: Resend,
    sent: u32,
    tries: u32,
    deadline: Instant,
}

enum Resend {
    /// The same bytes again.
    Bytes(Vec<u8>),
    /// The same message under a new session sequence number (section 6.12.12); rqSeq stays.
    Sealed(Vec<u8>),
}

enum State {
    Discover { suites: Vec<u8>, index: u8 },
    Opening { suite: Suite, console: u32 },
    Rakp1 { suite: Suite, console: u32, bmc: u32, random: [u8; 16] },
    Rakp3 { console: u32, bmc: u32, keys: Keys, expect: Vec<u8> },
    Privilege(Live),
    Ready(Live),
    Busy { live: Live, netfn: u8, command: u8 },
    Closing(Live),
    Over,
}

#[derive(Clone)]
struct Live {
    console: u32,
    bmc: u32,
    keys: Keys,
}

impl<R: Random> Session<R> {
    /// Begins to open a session.
    pub fn start(config: Config, mut random: R, now: Instant) -> Self {
        let mut seed = [0; 2];
        random.fill(&mut seed);
        let mut session = Self {
            config,
            random,
            state: State::Over,
            sequence: 1,
            rq_seq: seed[0] & 0x3f,
            tag: seed[1],
            pending: None,
            output: VecDeque::new(),
        };
        if session.config.user.len() > MAX_USER || session.config.password.len() > MAX_PASSWORD {
            session.fail(Error::TooLong);
        } else if let Some(suite) = session.config.suite {
            session.open(suite, now);
        } else {
            session.ask_suites(Vec::new(), 0, now);
        }
        session
    }

    /// Whether a request may be made now.
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Sends a command (netfn even, LUN 0). One at a time.
    ///
    /// # Errors
    /// Gives `data` back where the session is not ready.
    pub fn request(&mut self, netfn: u8, command: u8, data: Vec<u8>, now: Instant) -> Result<(), Vec<u8>> {
        let State::Ready(live) = &self.state else { return Err(data) };
        let live = live.clone();
        self.command(&live, netfn, command, &data, now);
        self.state = State::Busy { live, netfn, command };
        Ok(())
    }

    /// Closes the session. BMCs have few, so this is worth a packet.
    pub fn close(&mut self, now: Instant) {
        match core::mem::replace(&mut self.state, State::Over) {
            State::Privilege(live) | State::Ready(live) | State::Busy { live, .. } | State::Closing(live) => {
                let id = live.bmc.to_le_bytes();
                self.command(&live, APP, CLOSE_SESSION, &id, now);
                if let Some(pending) = &mut self.pending {
                    pending.tries = 2;
                }
                self.state = State::Closing(live);
            }
            State::Over => {}
            _ => self.end(None),
        }
    }

    /// Takes a datagram from the BMC. What does not belong to the request in hand is dropped.
    pub fn handle(&mut self, datagram: &[u8], now: Instant) {
        if datagram.len() > wire::MAX_PACKET {
            return;
        }
        match &self.state {
            State::Discover { .. } => self.on_suites(datagram, now),
            State::Opening { .. } | State::Rakp1 { .. } | State::Rakp3 { .. } => self.on_setup(datagram, now),
            State::Privilege(live) | State::Ready(live) | State::Busy { live, .. } | State::Closing(live) => {
                let live = live.clone();
                self.on_sealed(live, datagram);
            }
            State::Over => {}
        }
    }

    /// Resends, or gives up, where the deadline has come.
    pub fn tick(&mut self, now: Instant) {
        let Some(mut pending) = self.pending.take_if(|p| p.deadline <= now) else { return };
        if pending.sent < pending.tries {
            let packet = match &pending.what {
                Resend::Bytes(bytes) => bytes.clone(),
                Resend::Sealed(message) => match self.live() {
                    Some(live) => self.seal(&live, message),
                    None => return,
                },
            };
            pending.deadline = now + FIRST_TIMEOUT * 2u32.saturating_pow(pending.sent.min(3));
            pending.sent += 1;
            self.pending = Some(pending);
            self.output.push_back(Output::Send(packet));
            return;
        }
        match &self.state {
            // An old BMC without this command: go by policy.
            State::Discover { .. } => self.choose(&[], now),
            State::Closing(_) => self.end(None),
            _ => self.fail(Error::Silent),
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When to call [`Session::tick`].
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().map(|p| p.deadline)
    }

    fn ask_suites(&mut self, suites: Vec<u8>, index: u8, now: Instant) {
        self.rq_seq = (self.rq_seq + 1) & 0x3f;
        // This channel, payload type IPMI, list by suite, 16 bytes of the list from `index` on (section 22.15).
        let message = wire::request(APP, self.rq_seq, GET_CHANNEL_CIPHER_SUITES, &[0x0e, 0, 0x80 | index]);
        self.state = State::Discover { suites, index };
        self.send(Resend::Bytes(wire::sessionless(&message)), DISCOVER_TRIES, now);
    }

    fn on_suites(&mut self, datagram: &[u8], now: Instant) {
        let Some(message) = wire::read_sessionless(datagram).and_then(wire::read_message) else { return };
        if (message.netfn, message.command, message.rq_seq) != (APP | 1, GET_CHANNEL_CIPHER_SUITES, self.rq_seq) {
            return;
        }
        let State::Discover { suites, index } = &mut self.state else { return };
        let (mut suites, index) = (core::mem::take(suites), *index);
        self.pending = None;
        match message.data {
            [0, _channel, records @ ..] => {
                suites.extend_from_slice(records);
                // A full answer of 16 bytes means that there may be more; the index has 6 bits.
                if records.len() >= 16 && index < 0x3f {
                    self.ask_suites(suites, index + 1, now);
                } else {
                    self.choose(&suite_numbers(&suites), now);
                }
            }
            _ => self.choose(&[], now),
        }
    }

    /// Picks the best suite that both sides may use; an empty list is a BMC that does not tell.
    fn choose(&mut self, offered: &[u8], now: Instant) {
        let has = |suite: Suite| offered.is_empty() || offered.contains(&suite.number());
        if !offered.is_empty() && has(Suite::S17) || !self.config.allow_suite_3 && has(Suite::S17) {
            self.open(Suite::S17, now);
        } else if self.config.allow_suite_3 && has(Suite::S3) {
            self.open(Suite::S3, now);
        } else {
            self.fail(Error::NoSuite);
        }
    }

    fn open(&mut self, suite: Suite, now: Instant) {
        let mut id = [0; 4];
        self.random.fill(&mut id);
        let console = u32::from_le_bytes(id) | 1;
        self.tag = self.tag.wrapping_add(1);
        let (auth, integrity, confidentiality) = suite.algorithms();
        let mut body = alloc::vec![self.tag, self.config.privilege as u8, 0, 0];
        body.extend(console.to_le_bytes());
        for (kind, algorithm) in [(0, auth), (1, integrity), (2, confidentiality)] {
            body.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        self.state = State::Opening { suite, console };
        self.send(Resend::Bytes(wire::setup_packet(payload::OPEN_SESSION, &body)), TRIES, now);
    }

    fn on_setup(&mut self, datagram: &[u8], now: Instant) {
        let Some((kind, body)) = wire::read_setup(datagram) else { return };
        let Some(&[tag, code]) = body.first_chunk::<2>() else { return };
        let (expected, step) = match self.state {
            State::Opening { .. } => (payload::OPEN_SESSION + 1, Step::OpenSession),
            State::Rakp1 { .. } => (payload::RAKP1 + 1, Step::Rakp1),
            _ => (payload::RAKP3 + 1, Step::Rakp3),
        };
        if kind != expected || tag != self.tag {
            return;
        }
        self.pending = None;
        if code != 0 {
            return self.fail(Error::Refused(step, code));
        }
        let next = match core::mem::replace(&mut self.state, State::Over) {
            State::Opening { suite, console } => self.on_opened(suite, console, body, now),
            State::Rakp1 { suite, console, bmc, random } => self.on_rakp2(suite, console, bmc, random, body, now),
            State::Rakp3 { console, bmc, keys, expect } => {
                if same(&expect, body.get(8..).unwrap_or_default()) {
                    self.raise_privilege(Live { console, bmc, keys }, now);
                    Some(())
                } else {
                    self.fail(Error::BadPassword);
                    Some(())
                }
            }
            _ => None,
        };
        if next.is_none() {
            self.fail(Error::Malformed);
        }
    }

    /// Open Session Response (section 13.18).
    fn on_opened(&mut self, suite: Suite, console: u32, body: &[u8], now: Instant) -> Option<()> {
        let body: &[u8; 36] = body.first_chunk()?;
        let (auth, integrity, confidentiality) = suite.algorithms();
        if body.get(4..8)? != console.to_le_bytes() {
            return None;
        }
        if (body[16] & 0x3f, body[24] & 0x3f, body[32] & 0x3f) != (auth, integrity, confidentiality) {
            self.fail(Error::Downgrade);
            return Some(());
        }
        let bmc = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
        let mut random = [0; 16];
        self.random.fill(&mut random);
        self.tag = self.tag.wrapping_add(1);
        let mut rakp1 = alloc::vec![self.tag, 0, 0, 0];
        rakp1.extend(bmc.to_le_bytes());
        rakp1.extend(random);
        rakp1.extend([self.role(), 0, 0, u8::try_from(self.config.user.len()).ok()?]);
        rakp1.extend_from_slice(&self.config.user);
        self.state = State::Rakp1 { suite, console, bmc, random };
        self.send(Resend::Bytes(wire::setup_packet(payload::RAKP1, &rakp1)), TRIES, now);
        Some(())
    }

    /// RAKP message 2 (section 13.21) and our message 3.
    fn on_rakp2(
        &mut self,
        suite: Suite,
        console: u32,
        bmc: u32,
        random: [u8; 16],
        body: &[u8],
        now: Instant,
    ) -> Option<()> {
        let bmc_random: &[u8; 16] = body.get(8..)?.first_chunk()?;
        let guid = body.get(24..40)?;
        let proof = body.get(40..40 + suite.auth_len())?;
        let (console_id, bmc_id) = (console.to_le_bytes(), bmc.to_le_bytes());
        let mut role_and_user = alloc::vec![self.role(), u8::try_from(self.config.user.len()).ok()?];
        role_and_user.extend_from_slice(&self.config.user);
        let password = &self.config.password;
        let expected = suite.hmac(password, &[&console_id, &bmc_id, &random, bmc_random, guid, &role_and_user]);
        if !same(&expected, proof) {
            self.fail(Error::BadPassword);
            return Some(());
        }
        let kg = self.config.kg.as_ref().unwrap_or(password);
        let keys = Keys::derive(suite, kg, &random, bmc_random, &role_and_user);
        self.tag = self.tag.wrapping_add(1);
        let mut rakp3 = alloc::vec![self.tag, 0, 0, 0];
        rakp3.extend(bmc_id);
        rakp3.extend(suite.hmac(password, &[bmc_random, &console_id, &role_and_user]));
        let mut expect = suite.hmac(&keys.sik, &[&random, &bmc_id, guid]);
        expect.truncate(suite.icv_len());
        self.state = State::Rakp3 { console, bmc, keys, expect };
        self.send(Resend::Bytes(wire::setup_packet(payload::RAKP3, &rakp3)), TRIES, now);
        Some(())
    }

    /// A session starts at User; more must be asked for (section 22.18).
    fn raise_privilege(&mut self, live: Live, now: Instant) {
        if self.config.privilege == Privilege::User {
            self.output.push_back(Output::Opened(live.keys.suite()));
            self.state = State::Ready(live);
        } else {
            let level = [self.config.privilege as u8];
            self.command(&live, APP, SET_SESSION_PRIVILEGE, &level, now);
            self.state = State::Privilege(live);
        }
    }

    fn on_sealed(&mut self, live: Live, datagram: &[u8]) {
        let Some((_, message)) = wire::unseal(&live.keys, live.console, datagram) else { return };
        let Some(message) = wire::read_message(&message) else { return };
        let (netfn, command) = match &self.state {
            State::Privilege(_) => (APP, SET_SESSION_PRIVILEGE),
            State::Busy { netfn, command, .. } => (*netfn, *command),
            State::Closing(_) => (APP, CLOSE_SESSION),
            _ => return,
        };
        // A late answer to an earlier request must never be read as the answer to this one.
        if (message.netfn, message.command, message.rq_seq) != (netfn | 1, command, self.rq_seq) {
            return;
        }
        let Some((&code, data)) = message.data.split_first() else { return };
        self.pending = None;
        match &self.state {
            State::Privilege(_) if code != 0 => {
                self.fail_open(&live, Error::Privilege(code));
            }
            State::Privilege(_) => {
                self.output.push_back(Output::Opened(live.keys.suite()));
                self.state = State::Ready(live);
            }
            State::Busy { .. } => {
                self.output.push_back(Output::Reply(code, data.to_vec()));
                self.state = State::Ready(live);
            }
            _ => self.end(None),
        }
    }

    /// Fails a session that the BMC already holds open: tell it once, without waiting.
    fn fail_open(&mut self, live: &Live, error: Error) {
        self.rq_seq = (self.rq_seq + 1) & 0x3f;
        let message = wire::request(APP, self.rq_seq, CLOSE_SESSION, &live.bmc.to_le_bytes());
        let packet = self.seal(live, &message);
        self.output.push_back(Output::Send(packet));
        self.fail(error);
    }

    fn command(&mut self, live: &Live, netfn: u8, command: u8, data: &[u8], now: Instant) {
        self.rq_seq = (self.rq_seq + 1) & 0x3f;
        let message = wire::request(netfn, self.rq_seq, command, data);
        let packet = self.seal(live, &message);
        self.output.push_back(Output::Send(packet));
        self.pending =
            Some(Pending { what: Resend::Sealed(message), sent: 1, tries: TRIES, deadline: now + FIRST_TIMEOUT });
    }

    fn send(&mut self, what: Resend, tries: u32, now: Instant) {
        if let Resend::Bytes(bytes) = &what {
            self.output.push_back(Output::Send(bytes.clone()));
        }
        self.pending = Some(Pending { what, sent: 1, tries, deadline: now + FIRST_TIMEOUT });
    }

    fn seal(&mut self, live: &Live, message: &[u8]) -> Vec<u8> {
        let mut iv = [0; 16];
        self.random.fill(&mut iv);
        let packet = wire::seal(&live.keys, live.bmc, self.sequence, iv, message);
        // Zero means "outside of a session" and is skipped (section 6.12.13).
        self.sequence = self.sequence.wrapping_add(1).max(1);
        packet
    }

    fn live(&self) -> Option<Live> {
        match &self.state {
            State::Privilege(live) | State::Ready(live) | State::Busy { live, .. } | State::Closing(live) => {
                Some(live.clone())
            }
            _ => None,
        }
    }

    /// Name-only lookup is off (bit 4), as ipmitool does: the privilege asked for is the limit.
    const fn role(&self) -> u8 {
        0x10 | self.config.privilege as u8
    }

    fn fail(&mut self, error: Error) {
        self.end(Some(error));
    }

    fn end(&mut self, error: Option<Error>) {
        self.pending = None;
        self.state = State::Over;
        self.output.push_back(Output::Ended(error));
    }
}

/// The suite numbers in the records of Get Channel Cipher Suites (section
/// 22.15.1): C0h + number, or C1h + number + 3 bytes OEM id (not ours, skipped);
/// algorithm tags have the top bits 00, 01 or 10.
fn suite_numbers(records: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    let mut rest = records;
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail.split_first()) {
            (0xc0, Some((&number, tail))) => {
                numbers.push(number);
                tail
            }
            (0xc1, _) => tail.get(4..).unwrap_or_default(),
            _ => tail,
        };
    }
    numbers
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
