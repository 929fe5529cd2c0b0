//! The server's side of one read transfer.
//!
//! [`Transfer::start`], then [`Transfer::handle`] for what comes in and when
//! [`Transfer::deadline`] has come, and [`Transfer::poll_output`] until it has
//! no more. It names ranges of blocks; whoever drives it has the bytes.
//!
//! What makes data go out again: the timer, an ACK from inside a window (the
//! client has a gap, RFC 7440 section 4), and one late repetition of the last
//! ACK in a window (a gap at its first block). Never a duplicate ACK as such:
//! the Sorcerer's Apprentice (RFC 1123 section 4.2.3.1) finds no broom. Each
//! cause works at most once per round trip, so nothing a network or a client
//! repeats can multiply traffic.
//!
//! RFC 7440 obliges the sender to send whole windows, so loss does not shrink
//! the window but splits it into bursts with a pause between them, and success
//! joins them again.

use super::number::Rollover;
use super::options::Agreed;
use super::packet::{ErrorCode, Packet, Short};
use super::rto::{Bounds, Rto};
use crate::event::Outcome;
use crate::time::{Duration, Instant};

/// Transmissions of the first packet to a peer that has not yet answered: it
/// may not exist, and we would be the amplifier of an attack on it.
pub const UNVALIDATED_TRANSMISSIONS: u8 = 3;

/// Transmissions of the last window: most clients do not wait for a repetition
/// of the last block after they have acknowledged it (RFC 1350 section 6).
pub const LAST_WINDOW_TRANSMISSIONS: u8 = 6;

/// A window is never split into more bursts than this.
const MAX_BURSTS: u16 = 8;

/// Windows without loss after which bursts grow.
const CLEAN_WINDOWS: u8 = 4;

/// Bounds of the pause between two bursts of a window; between them a sixteenth of the round trip.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// How the server behaves in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Bounds of the retransmission timer.
    pub rto: Bounds,
    /// Without progress for so long (or three times a negotiated timeout, if that is longer) the transfer is given up.
    pub give_up: Duration,
    /// What follows block 65535.
    pub rollover: Rollover,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rto: Bounds::default(), give_up: Duration::from_secs(30), rollover: Rollover::Zero }
    }
}

/// What can happen to a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// A packet came from the peer.
    Packet(Packet<'a>),
    /// The same request came once more: our first answer was lost, or is slow.
    Repeat,
    /// The deadline has come (harmless when it has not).
    Timer,
    /// We cannot go on; the words go to the peer.
    Failed(&'static str),
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this OACK.
    Oack(Short),
    /// Send these blocks of the file, from `first` (counted from 1) on.
    Blocks {
        /// The first block.
        first: u64,
        /// How many, at least 1.
        count: u16,
    },
    /// Send an ERROR; [`Output::Ended`] follows.
    Error {
        /// What kind.
        code: ErrorCode,
        /// In words.
        text: &'static str,
    },
    /// The transfer is over. Nothing follows.
    Ended(Outcome),
}

/// One read transfer as its server sees it.
#[derive(Clone, Debug)]
pub struct Transfer {
    agreed: Agreed,
    settings: Settings,
    /// Bytes in the file.
    size: u64,
    /// Blocks in the file: at least one, the last shorter than the others.
    blocks: u64,
    phase: Phase,
    /// When something was handled last.
    now: Instant,

    /// The last block acknowledged; 0 before the first.
    acked: u64,
    /// The next block to hand out.
    next: u64,
    /// The last block of the present window.
    window_end: u64,
    /// The highest block ever handed out. Never above `window_end`.
    highest: u64,
    /// When the present window was (re)opened.
    opened: Instant,
    /// A repetition of the last ACK has reopened this window already.
    repetition_used: bool,
    /// When a gap last made us go back.
    went_back: Option<Instant>,

    /// Blocks handed out in one go.
    burst: u16,
    /// Windows without loss in a row.
    clean: u8,
    /// The next burst of this window not before.
    pause_until: Option<Instant>,

    rto: Rto,
    /// When the last block of the window (or the OACK) went out, if this was for the first time.
    timed: Option<Instant>,
    /// When to send again.
    due: Instant,
    /// When the peer last brought us further.
    progress: Instant,
    /// The peer has acknowledged something: it exists.
    validated: bool,
    /// Transmissions of what is outstanding now.
    tries: u8,
    /// Packets sent again.
    retries: u32,
    /// Packets that had no effect.
    ignored: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The OACK is to be sent.
    Offer,
    /// The OACK was sent.
    Offered,
    /// Data.
    Sending,
    /// This ERROR is to be sent, then this outcome to be told.
    Failing(&'static str, Outcome),
    /// The outcome is to be told.
    Ending(Outcome),
    Over,
}

impl Transfer {
    /// Begins to serve a file of `size` bytes under what was agreed.
    pub fn start(agreed: Agreed, size: u64, settings: Settings, now: Instant) -> Self {
        let mut bounds = settings.rto;
        if let Some(seconds) = agreed.timeout() {
            bounds.initial = Duration::from_secs(seconds.into());
        }
        let mut transfer = Self {
            agreed,
            settings,
            size,
            blocks: size / u64::from(agreed.blksize()) + 1,
            phase: if agreed.is_plain() { Phase::Sending } else { Phase::Offer },
            now,
            acked: 0,
            next: 1,
            window_end: 0,
            highest: 0,
            opened: now,
            repetition_used: false,
            went_back: None,
            burst: agreed.windowsize(),
            clean: 0,
            pause_until: None,
            rto: Rto::new(bounds),
            timed: None,
            due: now,
            progress: now,
            validated: false,
            tries: 0,
            retries: 0,
            ignored: 0,
        };
        transfer.open_window();
        transfer.due = now + transfer.rto.wait();
        transfer
    }

    /// Takes in what has happened.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if matches!(self.phase, Phase::Failing(..) | Phase::Ending(_) | Phase::Over) {
            return;
        }
        self.now = now;
        match input {
            Input::Packet(Packet::Ack { block }) => self.on_ack(block),
            Input::Packet(Packet::Error { code, .. }) => self.on_error(code),
            Input::Packet(_) => self.ignored += 1,
            Input::Repeat => self.on_repeat(),
            Input::Timer => self.on_timer(),
            Input::Failed(why) => self.phase = Phase::Failing(why, Outcome::Failed),
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        match self.phase {
            Phase::Offer => Some(self.offer()),
            Phase::Sending if self.may_send() => Some(self.hand_out()),
            Phase::Failing(text, outcome) => {
                self.phase = Phase::Ending(outcome);
                Some(Output::Error { code: ErrorCode::UNDEFINED, text })
            }
            Phase::Ending(outcome) => {
                self.phase = Phase::Over;
                Some(Output::Ended(outcome))
            }
            Phase::Offered | Phase::Sending | Phase::Over => None,
        }
    }

    /// Whether [`Transfer::poll_output`] has something to say. Until it has been
    /// asked, [`Transfer::deadline`] may lie in the past.
    pub fn has_output(&self) -> bool {
        match self.phase {
            Phase::Sending => self.may_send(),
            Phase::Offer | Phase::Failing(..) | Phase::Ending(_) => true,
            Phase::Offered | Phase::Over => false,
        }
    }

    /// When to call [`Transfer::handle`] with [`Input::Timer`] at the latest;
    /// `None` once the transfer is over.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Offer | Phase::Offered => Some(self.due),
            Phase::Sending => Some(self.pause_until.map_or(self.due, |until| until.min(self.due))),
            Phase::Failing(..) | Phase::Ending(_) | Phase::Over => None,
        }
    }

    /// What was agreed on.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that the peer has acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        (self.acked * u64::from(self.agreed.blksize())).min(self.size)
    }

    /// The peer has acknowledged something, so it exists and wants this.
    pub fn is_validated(&self) -> bool {
        self.validated
    }

    /// Everything that an unvalidated peer may get has been sent.
    pub fn is_spent(&self) -> bool {
        !self.validated && self.tries >= UNVALIDATED_TRANSMISSIONS
    }

    /// When the peer last brought the transfer further (at first: when it asked).
    pub fn last_progress(&self) -> Instant {
        self.progress
    }

    /// Packets sent again.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Packets that had no effect: duplicates, stale and impossible ones.
    pub fn ignored(&self) -> u32 {
        self.ignored
    }

    fn on_ack(&mut self, wire: u16) {
        if matches!(self.phase, Phase::Offer | Phase::Offered) {
            return if wire == 0 && self.tries > 0 { self.on_offer_taken() } else { self.ignored += 1 };
        }
        match self.settings.rollover.ahead(self.acked, wire) {
            Some(0) => self.on_repeated_ack(),
            Some(ahead) if self.acked + ahead <= self.highest => self.on_progress(self.acked + ahead),
            // Stale, or of a block that never was sent.
            _ => self.ignored += 1,
        }
    }

    fn on_offer_taken(&mut self) {
        self.made_progress();
        self.measure();
        self.phase = Phase::Sending;
        self.open_window();
    }

    fn on_progress(&mut self, to: u64) {
        self.made_progress();
        self.acked = to;
        if to == self.blocks {
            self.phase = Phase::Ending(Outcome::Complete);
        } else if to == self.window_end {
            self.measure();
            self.grow_bursts();
            self.open_window();
        } else if self.went_back.is_some_and(|at| self.now - at < self.round_trip() / 2) {
            // What follows is on its way already, since we have just gone back:
            // only move the window along. A client that acknowledges every block
            // of a window would get the window for each of them otherwise.
            self.next = self.next.max(to + 1);
            self.window_end = self.end_of_window();
        } else {
            self.go_back();
        }
    }

    /// The last ACK once more: nothing, except where it comes from a window
    /// whose first block was lost. Such an ACK cannot be here before a round
    /// trip has passed, which a mere duplicate would be.
    fn on_repeated_ack(&mut self) {
        let windowed = self.agreed.windowsize() > 1;
        let late = self.rto.srtt().is_some_and(|srtt| self.now - self.opened >= srtt + srtt / 2);
        if windowed && late && !self.repetition_used && self.highest > self.acked {
            self.go_back();
            self.repetition_used = true;
        } else {
            self.ignored += 1;
        }
    }

    fn on_error(&mut self, code: ErrorCode) {
        let offered = self.phase == Phase::Offered || self.acked == 0 && !self.agreed.is_plain();
        let polite = matches!(code, ErrorCode::UNDEFINED | ErrorCode::FULL | ErrorCode::OPTIONS);
        // OVMF asks for the size with ERROR 8 after the OACK, then asks again for the file.
        self.phase = Phase::Ending(if offered && polite { Outcome::Probe } else { Outcome::Aborted });
    }

    fn on_repeat(&mut self) {
        if self.validated || self.is_spent() || self.has_output() {
            self.ignored += 1;
        } else {
            self.send_again();
        }
    }

    fn on_timer(&mut self) {
        if self.pause_until.is_some_and(|until| self.now >= until) {
            self.pause_until = None;
        }
        if self.now < self.due {
            return;
        }
        let silent_too_long = self.now - self.progress >= self.give_up_after();
        let last_window_out = self.highest == self.blocks;
        if !self.validated && self.tries >= UNVALIDATED_TRANSMISSIONS {
            self.phase = Phase::Ending(Outcome::TimedOut);
        } else if last_window_out && (silent_too_long || self.tries >= LAST_WINDOW_TRANSMISSIONS) {
            self.phase = Phase::Ending(Outcome::Unknown);
        } else if silent_too_long {
            self.phase = Phase::Failing("timed out waiting for an ACK", Outcome::TimedOut);
        } else if self.has_output() {
            // Our own queue is slow: what has not gone out cannot be missing.
            self.due = self.now + self.rto.wait();
        } else {
            self.rto.back_off();
            self.shrink_bursts();
            self.send_again();
        }
    }

    fn offer(&mut self) -> Output {
        self.phase = Phase::Offered;
        self.retries += u32::from(self.tries > 0);
        self.timed = (self.tries == 0).then_some(self.now);
        self.tries = self.tries.saturating_add(1);
        self.due = self.now + self.rto.wait();
        Output::Oack(self.agreed.oack())
    }

    /// The next burst of the window.
    fn hand_out(&mut self) -> Output {
        let first = self.next;
        let left = self.window_end + 1 - first;
        let count = u16::try_from(left).unwrap_or(u16::MAX).min(self.burst);
        self.next += u64::from(count);
        let again = (self.highest + 1).saturating_sub(first).min(count.into());
        self.retries = self.retries.saturating_add(again as u32);
        if self.next > self.window_end {
            // Karn: the ACK of a block that went out twice does not tell which of the two it saw.
            self.timed = (self.window_end > self.highest).then_some(self.now);
            self.tries = self.tries.saturating_add(1);
            self.pause_until = None;
        } else {
            self.pause_until = Some(self.now + (self.round_trip() / 16).clamp(PAUSE.0, PAUSE.1));
        }
        self.highest = self.highest.max(self.next - 1);
        self.due = self.now + self.rto.wait();
        Output::Blocks { first, count }
    }

    fn may_send(&self) -> bool {
        self.next <= self.window_end && self.pause_until.is_none()
    }

    fn send_again(&mut self) {
        if self.phase == Phase::Offered {
            self.phase = Phase::Offer;
        } else {
            self.open_window();
        }
    }

    fn go_back(&mut self) {
        self.went_back = Some(self.now);
        self.shrink_bursts();
        self.open_window();
    }

    /// The window that begins behind the last ACK.
    fn open_window(&mut self) {
        self.next = self.acked + 1;
        self.window_end = self.end_of_window();
        self.opened = self.now;
        self.repetition_used = false;
        self.pause_until = None;
        self.timed = None;
        self.due = self.now + self.rto.wait();
    }

    fn end_of_window(&self) -> u64 {
        (self.acked + u64::from(self.agreed.windowsize())).min(self.blocks)
    }

    fn made_progress(&mut self) {
        self.validated = true;
        self.progress = self.now;
        self.tries = 0;
    }

    fn measure(&mut self) {
        if let Some(sent) = self.timed.take() {
            self.rto.measured(self.now - sent);
        }
    }

    fn round_trip(&self) -> Duration {
        self.rto.srtt().unwrap_or(self.settings.rto.min)
    }

    fn give_up_after(&self) -> Duration {
        let negotiated = Duration::from_secs(self.agreed.timeout().unwrap_or(0).into());
        self.settings.give_up.max(negotiated * 3)
    }

    fn shrink_bursts(&mut self) {
        self.clean = 0;
        self.burst = (self.burst / 2).max(self.agreed.windowsize() / MAX_BURSTS).max(1);
    }

    fn grow_bursts(&mut self) {
        self.clean += 1;
        if self.clean >= CLEAN_WINDOWS {
            self.clean = 0;
            self.burst = self.burst.saturating_mul(2).min(self.agreed.windowsize());
        }
    }
}

#[cfg(test)]
mod tests;
