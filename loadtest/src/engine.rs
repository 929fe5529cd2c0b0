//! Thousands of nodes in one thread: starts them on time, wakes those that
//! have something to read or whose deadline came, and keeps the tally.
//!
//! Knows no protocol: [`crate::tftp`] and [`crate::http`] say what a node does.

use crate::tally::Tally;
use anyhow::{Context as _, Result};
use protocol::time::Instant;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

/// How often deadlines are looked at; far below any retransmission timer.
const SWEEP: Duration = Duration::from_millis(10);
/// Nodes started at most before those under way are served again.
const STARTS_A_TURN: usize = 64;
/// Events taken from the kernel at once.
const EVENTS: usize = 512;

/// When transfers begin.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arrival {
    /// All clients at once; each next transfer as soon as a client is free.
    Burst,
    /// So many a second, whether earlier ones have ended or not (open loop). A
    /// start that had to wait for a free client counts from when it was due.
    Rate(f64),
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "burst" {
            return Ok(Self::Burst);
        }
        match text.strip_suffix("/s").unwrap_or(text).parse::<f64>() {
            Ok(rate) if rate.is_finite() && (0.001..=1e6).contains(&rate) => Ok(Self::Rate(rate)),
            _ => Err(format!("{text:?} is neither `burst` nor transfers a second such as `200/s`")),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Burst => out.write_str("burst"),
            Self::Rate(rate) => write!(out, "{rate}/s"),
        }
    }
}

/// How much load, and when.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Nodes under way at most.
    pub clients: usize,
    /// Transfers to start; without, until `duration` is over.
    pub transfers: Option<u64>,
    /// When they start.
    pub arrival: Arrival,
    /// No transfer starts later than this.
    pub duration: Option<Duration>,
    /// A transfer that takes longer has failed.
    pub patience: Duration,
}

impl Schedule {
    /// The part of thread `index` of `threads`.
    #[must_use]
    pub fn share(self, index: usize, threads: usize) -> Self {
        let part = |n: u64| n / threads as u64 + u64::from((index as u64) < n % threads as u64);
        Self {
            clients: usize::try_from(part(self.clients as u64)).unwrap_or(self.clients),
            transfers: self.transfers.map(part),
            arrival: match self.arrival {
                Arrival::Rate(rate) => Arrival::Rate(rate / threads as f64),
                Arrival::Burst => Arrival::Burst,
            },
            ..self
        }
    }

    /// When transfer `n` (from 0) is due, as seen at `now`; `None` when there is no such transfer.
    fn due(&self, n: u64, start: Instant, now: Instant) -> Option<Instant> {
        if self.transfers.is_some_and(|all| n >= all) {
            return None;
        }
        let due = match self.arrival {
            Arrival::Burst if n < self.clients as u64 => start,
            Arrival::Burst => now,
            Arrival::Rate(rate) => start + Duration::from_secs_f64(n as f64 / rate),
        };
        match self.duration {
            Some(limit) if due >= start + limit => None,
            _ => Some(due),
        }
    }
}

/// What became of a node when it was looked at.
pub enum Progress {
    /// It goes on.
    Going,
    /// It has its file.
    Done,
    /// It gave up; a short cause that is the same for all such nodes.
    Failed(String),
}

/// What a node tells about its transfer.
#[derive(Clone, Copy, Default, Debug)]
pub struct Marks {
    /// When the first byte of the file came.
    pub first_byte: Option<Instant>,
    /// File bytes that came, each counted once.
    pub bytes: u64,
    /// Packets this node had to send again.
    pub retransmissions: u64,
    /// Data that came again.
    pub duplicates: u64,
}

/// One kind of node.
pub trait Protocol {
    /// A node under way.
    type Node;

    /// Starts a transfer and registers its socket.
    ///
    /// # Errors
    /// A short cause; the transfer counts as failed.
    fn begin(&mut self, watch: &Watch<'_>, now: Instant) -> Result<Self::Node, String>;

    /// The node's socket can be read or written, or its deadline came.
    fn step(&mut self, node: &mut Self::Node, marks: &mut Marks, why: Why, watch: &Watch<'_>, now: Instant)
    -> Progress;

    /// When [`Protocol::step`] must be called with [`Why::Deadline`].
    fn deadline(&self, node: &Self::Node) -> Option<Instant>;

    /// The transfer is over: take back what can be used again.
    fn end(&mut self, node: Self::Node, went_well: bool);
}

/// Why a node is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its socket is ready.
    Ready,
    /// Its deadline came.
    Deadline,
}

/// Where a node registers its socket.
pub struct Watch<'a> {
    epoll: &'a OwnedFd,
    token: u64,
}

impl Watch<'_> {
    /// Watches a socket that was not watched before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&self, socket: BorrowedFd<'_>, flags: EventFlags) -> rustix::io::Result<()> {
        epoll::add(self.epoll, socket, EventData::new_u64(self.token), flags)
    }

    /// Takes over a socket that an earlier node had registered.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_over(&self, socket: BorrowedFd<'_>, flags: EventFlags) -> rustix::io::Result<()> {
        epoll::modify(self.epoll, socket, EventData::new_u64(self.token), flags)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn change(&self, socket: BorrowedFd<'_>, flags: EventFlags) -> rustix::io::Result<()> {
        self.take_over(socket, flags)
    }
}

/// Runs the schedule to its end and returns what happened.
///
/// # Errors
/// When the kernel refuses epoll. What goes wrong with one node is in the tally.
pub fn run<P: Protocol>(protocol: &mut P, schedule: Schedule) -> Result<Tally> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot create an epoll descriptor")?;
    let clock = std::time::Instant::now();
    let now = || Instant(u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let mut crowd = Crowd { protocol, epoll: &epoll, slots: Vec::new(), free: Vec::new(), tally: Tally::new()? };
    let start = now();
    let mut next = 0;
    let mut last_sweep = start;
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        let mut time = now();
        let mut due = schedule.due(next, start, time);
        for _ in 0..STARTS_A_TURN {
            match due {
                Some(when) if when <= time && crowd.active() < schedule.clients => {
                    crowd.begin(when, when + schedule.patience, time);
                    next += 1;
                    time = now();
                    due = schedule.due(next, start, time);
                }
                _ => break,
            }
        }
        if due.is_none() && crowd.active() == 0 {
            crowd.tally.elapsed = now() - start;
            return Ok(crowd.tally);
        }
        events.clear();
        let timeout = pause(due, crowd.active(), schedule.clients, time);
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("epoll failed"),
        }
        for event in &events {
            let data = event.data;
            crowd.step(data.u64(), Why::Ready, now());
        }
        let time = now();
        if time - last_sweep >= SWEEP {
            last_sweep = time;
            crowd.sweep(time);
        }
    }
}

/// How long to wait for sockets: to the next start that can be made, or to the next sweep.
fn pause(due: Option<Instant>, active: usize, clients: usize, now: Instant) -> Timespec {
    let start = due.filter(|_| active < clients).map(|due| due - now);
    let sweep = (active > 0).then_some(SWEEP);
    let wait = [start, sweep].into_iter().flatten().min().unwrap_or(SWEEP);
    Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() }
}

struct Slot<N> {
    node: Option<Running<N>>,
    generation: u32,
}

struct Running<N> {
    node: N,
    due: Instant,
    give_up: Instant,
    marks: Marks,
}

struct Crowd<'a, P: Protocol> {
    protocol: &'a mut P,
    epoll: &'a OwnedFd,
    slots: Vec<Slot<P::Node>>,
    free: Vec<u32>,
    tally: Tally,
}

impl<P: Protocol> Crowd<'_, P> {
    fn active(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn begin(&mut self, due: Instant, give_up: Instant, now: Instant) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { node: None, generation: 0 });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let token = u64::from(slot.generation) << 32 | u64::from(index);
        self.tally.started += 1;
        match self.protocol.begin(&Watch { epoll: self.epoll, token }, now) {
            Ok(node) => slot.node = Some(Running { node, due, give_up, marks: Marks::default() }),
            Err(cause) => {
                self.free.push(index);
                self.tally.failed(cause, &Marks::default());
            }
        }
    }

    /// A token of an older node in the same slot is stale and means nothing.
    fn step(&mut self, token: u64, why: Why, now: Instant) {
        let index = (token & u64::from(u32::MAX)) as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|s| u64::from(s.generation) == token >> 32) else { return };
        let Some(running) = slot.node.as_mut() else { return };
        let watch = Watch { epoll: self.epoll, token };
        let progress = self.protocol.step(&mut running.node, &mut running.marks, why, &watch, now);
        self.settle(index, progress, now);
    }

    fn settle(&mut self, index: usize, progress: Progress, now: Instant) {
        let well = match &progress {
            Progress::Going => return,
            Progress::Done => true,
            Progress::Failed(_) => false,
        };
        let Some(running) = self.slots.get_mut(index).and_then(|s| s.node.take()) else { return };
        match progress {
            Progress::Failed(cause) => self.tally.failed(cause, &running.marks),
            _ => self.tally.completed(running.due, now, &running.marks),
        }
        self.protocol.end(running.node, well);
        self.free.push(index as u32);
    }

    fn sweep(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let Some(running) = &slot.node else { continue };
            if now >= running.give_up {
                let cause = if running.marks.first_byte.is_some() { "out of patience" } else { "no answer in time" };
                self.settle(index, Progress::Failed(cause.to_owned()), now);
            } else if self.protocol.deadline(&running.node).is_some_and(|deadline| now >= deadline) {
                let token = u64::from(slot.generation) << 32 | index as u64;
                self.step(token, Why::Deadline, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrival_is_read_and_printed() {
        assert_eq!("burst".parse(), Ok(Arrival::Burst));
        assert_eq!("200/s".parse(), Ok(Arrival::Rate(200.0)));
        assert_eq!("0.5".parse::<Arrival>().unwrap().to_string(), "0.5/s");
        for bad in ["", "fast", "-1/s", "0/s", "inf", "NaN", "1e9/s"] {
            assert!(bad.parse::<Arrival>().is_err(), "{bad}");
        }
    }

    fn schedule() -> Schedule {
        Schedule {
            clients: 10,
            transfers: Some(25),
            arrival: Arrival::Burst,
            duration: None,
            patience: Duration::from_secs(1),
        }
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let parts: Vec<Schedule> = (0..3).map(|i| schedule().share(i, 3)).collect();
        assert_eq!(parts.iter().map(|p| p.clients).sum::<usize>(), 10);
        assert_eq!(parts.iter().filter_map(|p| p.transfers).sum::<u64>(), 25);
    }

    #[test]
    fn open_loop_keeps_its_pace_and_ends() {
        let s = Schedule {
            arrival: Arrival::Rate(10.0),
            duration: Some(Duration::from_secs(2)),
            transfers: None,
            ..schedule()
        };
        let start = Instant::from_millis(1000);
        assert_eq!(s.due(5, start, Instant::from_millis(9000)), Some(Instant::from_millis(1500)));
        assert_eq!(s.due(19, start, start), Some(Instant::from_millis(2900)));
        assert_eq!(s.due(20, start, start), None);
    }

    #[test]
    fn closed_loop_starts_all_clients_at_once_and_counts_the_rest_from_now() {
        let (start, now) = (Instant::from_millis(5), Instant::from_millis(50));
        assert_eq!(schedule().due(9, start, now), Some(start));
        assert_eq!(schedule().due(10, start, now), Some(now));
        assert_eq!(schedule().due(25, start, now), None);
    }

    /// A node that is never ready: each ends by its deadline or by patience.
    struct Deaf {
        ended: u64,
    }

    impl Protocol for Deaf {
        type Node = Instant;
        fn begin(&mut self, _: &Watch<'_>, now: Instant) -> Result<Instant, String> {
            Ok(now + Duration::from_millis(30))
        }
        fn step(&mut self, at: &mut Instant, _: &mut Marks, why: Why, _: &Watch<'_>, now: Instant) -> Progress {
            assert_eq!(why, Why::Deadline);
            assert!(now >= *at);
            Progress::Failed("deaf".to_owned())
        }
        fn deadline(&self, at: &Instant) -> Option<Instant> {
            Some(*at)
        }
        fn end(&mut self, _: Instant, went_well: bool) {
            assert!(!went_well);
            self.ended += 1;
        }
    }

    #[test]
    fn every_node_is_accounted_for() {
        let mut deaf = Deaf { ended: 0 };
        let tally = run(&mut deaf, schedule()).unwrap();
        assert_eq!((tally.started, tally.completed, tally.failures["deaf"], deaf.ended), (25, 0, 25, 25));
        let impatient = Schedule { patience: Duration::from_millis(5), ..schedule() };
        let tally = run(&mut deaf, impatient).unwrap();
        assert_eq!(tally.failures.values().sum::<u64>(), 25);
        assert!(tally.failures["no answer in time"] > 0);
    }
}
