//! A network that loses, doubles, delays and so reorders packets, in virtual
//! time and from a seed: [`Transfer`] against [`Fetch`].

use super::fetch::{Ask, End, Fetch, Output as ToDo, Patience, Report};
use super::options::{Policy, negotiate};
use super::packet::{Packet, Request, data_header};
use super::transfer::{Input, Output, Settings};
use super::{Rollover, Transfer};
use crate::event::Outcome;
use crate::time::{Duration, Instant};
use core::cmp::Reverse;
use core::net::SocketAddr;
use std::collections::BinaryHeap;
use std::vec::Vec;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// What the network does to each packet, either way.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Lost, of a thousand.
    loss: u64,
    /// Doubled, of a thousand.
    doubled: u64,
    /// One way, at least.
    delay: Duration,
    /// And up to so much more, for each packet on its own.
    jitter: Duration,
    /// Nothing passes between these moments.
    outage: Option<(Instant, Instant)>,
}

const CALM: Weather =
    Weather { loss: 0, doubled: 0, delay: Duration::from_micros(100), jitter: Duration::ZERO, outage: None };

/// What was asked, and how it went.
#[derive(Debug)]
struct Story {
    report: Report,
    /// How it ended for the server; `None` where the client was gone before that.
    outcome: Option<Outcome>,
    /// DATA packets that the server sent.
    data_sent: u64,
    /// Packets that either sent.
    packets: u64,
    elapsed: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Server,
    Client,
}

/// When it arrives, in which order it was sent, where to, and what.
type OnTheWire = Reverse<(Instant, u64, To, Vec<u8>)>;

struct World {
    weather: Weather,
    random: u64,
    now: Instant,
    order: u64,
    wire: BinaryHeap<OnTheWire>,
    packets: u64,
}

impl World {
    fn send(&mut self, to: To, bytes: &[u8]) {
        self.packets += 1;
        if self.weather.outage.is_some_and(|(from, until)| (from..until).contains(&self.now)) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.weather.doubled));
        for _ in 0..copies {
            if !self.chance(self.weather.loss) {
                let jitter = self.next() % (self.weather.jitter.as_nanos() as u64 + 1);
                let at = self.now + self.weather.delay + Duration::from_nanos(jitter);
                self.order += 1;
                self.wire.push(Reverse((at, self.order, to, bytes.to_vec())));
            }
        }
    }

    fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.next() % 1000 < of_a_thousand
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// The simulated file repeats a pattern whose length is no multiple of any block size.
const PERIOD: usize = 65_521;

fn pattern() -> Vec<u8> {
    let byte = |place: usize| ((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..PERIOD * 2).map(|place| byte(place % PERIOD)).collect()
}

/// The bytes of the file at a place, `len` of them (at most [`PERIOD`]).
fn slice(pattern: &[u8], place: u64, len: usize) -> &[u8] {
    let from = (place % PERIOD as u64) as usize;
    &pattern[from..from + len]
}

/// Fetches a file of `size` bytes. Bytes are checked as they come.
fn run(size: u64, ask: Ask<'_>, weather: Weather, seed: u64) -> Story {
    let server: SocketAddr = "10.0.0.1:69".parse().unwrap();
    let settings = Settings { rollover: ask.rollover, ..Settings::default() };
    let mut world = World {
        weather,
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        now: Instant::from_millis(1),
        order: 0,
        wire: BinaryHeap::new(),
        packets: 0,
    };
    let began = world.now;
    let mut fetch = Fetch::start(server, &ask, world.now);
    let mut transfer: Option<Transfer> = None;
    let (mut outcome, mut data_sent, mut read) = (None, 0, 0_u64);
    let pattern = pattern();
    for _step in 0..5_000_000 {
        loop {
            match fetch.poll_output() {
                Some(ToDo::Send { bytes, .. }) => world.send(To::Server, bytes),
                Some(ToDo::Ended(_)) => {}
                None => break,
            }
        }
        while let Some(output) = transfer.as_mut().and_then(Transfer::poll_output) {
            match output {
                Output::Oack(oack) => world.send(To::Client, oack.as_bytes()),
                Output::Blocks { first, count } => {
                    let blksize = u64::from(transfer.as_ref().unwrap().agreed().blksize());
                    for block in first..first + u64::from(count) {
                        let from = (block - 1) * blksize;
                        let mut packet = data_header(settings.rollover.wire(block)).to_vec();
                        packet.extend_from_slice(slice(&pattern, from, (size - from).min(blksize) as usize));
                        data_sent += 1;
                        world.send(To::Client, &packet);
                    }
                }
                Output::Error { code, text } => {
                    world.send(To::Client, super::packet::Short::error(code, text).as_bytes())
                }
                Output::Ended(how) => outcome = Some(how),
            }
        }
        let deadlines = [fetch.deadline(), transfer.as_ref().and_then(Transfer::deadline)];
        let timer = deadlines.into_iter().flatten().min();
        let arrival = world.wire.peek().map(|Reverse((at, ..))| *at);
        match (arrival, timer) {
            (Some(at), timer) if timer.is_none_or(|t| at <= t) => {
                world.now = at;
                let Some(Reverse((_, _, to, bytes))) = world.wire.pop() else { unreachable!() };
                match (to, Packet::decode(&bytes).unwrap()) {
                    (To::Client, _) => {
                        if let Some(payload) = fetch.handle(server, &bytes, world.now) {
                            assert_eq!(payload, slice(&pattern, read, payload.len()), "bytes at {read}");
                            read += payload.len() as u64;
                        }
                    }
                    (To::Server, Packet::Request(request)) => {
                        on_request(&mut transfer, request, size, settings, world.now)
                    }
                    (To::Server, packet) => {
                        if let Some(transfer) = &mut transfer {
                            transfer.handle(Input::Packet(packet), world.now);
                        }
                    }
                }
            }
            (_, Some(at)) => {
                world.now = at.max(world.now);
                fetch.timer(world.now);
                if let Some(transfer) = &mut transfer {
                    transfer.handle(Input::Timer, world.now);
                }
            }
            (_, None) => {
                let report = fetch.report().clone();
                assert_eq!(report.bytes, read);
                let elapsed = report.elapsed;
                return Story { report, outcome, data_sent, packets: world.packets, elapsed };
            }
        }
    }
    panic!("no end after {:?}", world.now - began);
}

fn on_request(slot: &mut Option<Transfer>, request: Request<'_>, size: u64, settings: Settings, now: Instant) {
    let policy = Policy { max_blksize: 65464, max_windowsize: 64, max_window_bytes: u32::MAX };
    match slot {
        Some(running) if running.deadline().is_some() => running.handle(Input::Repeat, now),
        _ => {
            let agreed = negotiate(request.options, request.mode, size, &policy);
            *slot = Some(Transfer::start(agreed, size, settings, now));
        }
    }
}

fn ask(blksize: u16, windowsize: Option<u16>) -> Ask<'static> {
    // A client with firmware's habits: it waits long and seldom repeats itself.
    let patience = Patience { first: MS(4000), max: MS(4000), give_up: MS(60_000), dally: MS(6000) };
    Ask { name: b"f", blksize: Some(blksize), windowsize, patience, ..Ask::default() }
}

const WINDOWS: [Option<u16>; 4] = [None, Some(4), Some(16), Some(64)];
const NBP: u64 = 1_020_416;

#[test]
fn every_size_around_the_edges_arrives_whole() {
    for windowsize in [None, Some(1), Some(2), Some(3), Some(16)] {
        for size in [0, 1, 511, 512, 513, 1023, 1024, 1025, 512 * 15, 512 * 16, 512 * 16 + 1] {
            let story = run(size, ask(512, windowsize), CALM, 1);
            assert_eq!((story.report.end, story.outcome), (Some(End::Complete), Some(Outcome::Complete)), "{size}");
            assert_eq!((story.report.bytes, story.data_sent), (size, size / 512 + 1), "{size} {windowsize:?}");
        }
    }
}

#[test]
fn f01_one_percent_of_loss_costs_an_nbp_less_than_two_seconds() {
    for windowsize in WINDOWS {
        let calm = run(NBP, ask(1468, windowsize), CALM, 1).elapsed;
        let mut worst = Duration::ZERO;
        let mut over = 0;
        for seed in 1..=100 {
            let story = run(NBP, ask(1468, windowsize), Weather { loss: 10, ..CALM }, seed);
            assert_eq!(story.report.end, Some(End::Complete), "seed {seed}");
            worst = worst.max(story.elapsed - calm);
            // Where the request itself is lost, only the client's own timer (4 s) helps.
            over += u32::from(story.elapsed - calm > MS(2000) && story.report.retransmissions == 0);
        }
        assert_eq!(over, 0, "{windowsize:?}: worst {worst:?}");
    }
}

#[test]
fn f02_five_and_ten_percent_of_loss_do_not_abort() {
    for windowsize in WINDOWS {
        for loss in [50, 100] {
            for seed in 1..=20 {
                let story = run(NBP / 2, ask(1468, windowsize), Weather { loss, ..CALM }, seed);
                assert_eq!(story.report.end, Some(End::Complete), "{windowsize:?} loss {loss} seed {seed}");
            }
        }
    }
}

#[test]
fn f03_thirty_percent_of_loss_completes_or_ends_cleanly() {
    let mut complete = 0;
    for seed in 1..=40 {
        let story = run(NBP / 8, ask(1468, WINDOWS[seed as usize % 4]), Weather { loss: 300, ..CALM }, seed);
        complete += u32::from(story.report.end == Some(End::Complete));
        assert!(
            story.outcome.is_some() || story.report.end == Some(End::NoAnswer),
            "the server's state is freed: {story:?}"
        );
    }
    assert!(complete >= 36, "{complete} of 40");
}

#[test]
fn f04_an_outage_of_10_s_is_survived_and_one_of_40_s_corrupts_nothing() {
    let weather = |seconds| {
        let from = Instant::from_millis(30);
        Weather { delay: MS(1), outage: Some((from, from + Duration::from_secs(seconds))), ..CALM }
    };
    for windowsize in WINDOWS {
        let story = run(8 * NBP, ask(1468, windowsize), weather(10), 4);
        assert_eq!(story.report.end, Some(End::Complete), "{windowsize:?}");
        assert!(story.elapsed < MS(30_000), "{:?}", story.elapsed);
        let story = run(8 * NBP, ask(1468, windowsize), weather(40), 4);
        assert!(story.outcome.is_some(), "{windowsize:?}: the server's state is freed");
    }
}

#[test]
fn f05_t25_when_everything_is_doubled_the_server_still_sends_each_block_once() {
    for windowsize in WINDOWS {
        let story = run(NBP, ask(1468, windowsize), Weather { doubled: 1000, ..CALM }, 5);
        assert_eq!(story.report.end, Some(End::Complete));
        assert_eq!(story.data_sent, NBP / 1468 + 1, "{windowsize:?}");
    }
}

#[test]
fn f05_doubling_with_jitter_at_most_doubles_the_traffic() {
    for windowsize in WINDOWS {
        for seed in 1..=10 {
            let weather = Weather { doubled: 1000, jitter: MS(20), delay: MS(1), ..CALM };
            let story = run(NBP / 4, ask(1468, windowsize), weather, seed);
            assert_eq!(story.report.end, Some(End::Complete));
            let once = match windowsize {
                // Reordering looks like gaps to a client with a window: it asks for blocks again.
                Some(_) => continue_bound(&story),
                None => NBP / 4 / 1468 + 1,
            };
            assert!(story.data_sent <= 2 * once, "{windowsize:?} seed {seed}: {} of {once}", story.data_sent);
        }
    }
}

/// Blocks that a client with a window may cause: each gap it reports brings a window.
fn continue_bound(story: &Story) -> u64 {
    let window = u64::from(story.report.agreed.unwrap().windowsize());
    story.report.blocks + u64::from(story.report.gaps) * window
}

#[test]
fn f06_reordering_by_100_ms_of_jitter_delivers_the_right_bytes() {
    for windowsize in WINDOWS {
        for seed in 1..=5 {
            let weather = Weather { delay: MS(1), jitter: MS(100), ..CALM };
            let story = run(NBP / 16, ask(1468, windowsize), weather, seed);
            assert_eq!(story.report.end, Some(End::Complete), "{windowsize:?} seed {seed}");
        }
    }
}

#[test]
fn t32_a_long_path_without_loss_sees_no_block_twice() {
    for windowsize in WINDOWS {
        let weather = Weather { delay: MS(100), jitter: MS(0), ..CALM };
        let story = run(NBP / 4, ask(1468, windowsize), weather, 1);
        assert_eq!(story.data_sent, NBP / 4 / 1468 + 1, "{windowsize:?}");
    }
}

#[test]
fn t60_more_than_65535_blocks_arrive_whole_with_either_rollover_and_with_loss() {
    for rollover in [Rollover::Zero, Rollover::One] {
        for windowsize in [None, Some(16)] {
            let asked = Ask { rollover, ..ask(8, windowsize) };
            let story = run(600_000, asked, Weather { loss: 1, ..CALM }, 60);
            assert_eq!(
                (story.report.end, story.report.bytes),
                (Some(End::Complete), 600_000),
                "{rollover:?} {windowsize:?}"
            );
        }
    }
}

#[test]
fn a_window_of_16_is_eight_times_as_fast_as_lock_step_on_a_lossy_long_path() {
    let weather = Weather { delay: Duration::from_micros(12_500), loss: 10, ..CALM };
    let mean =
        |windowsize| (1..=10).map(|seed| run(NBP, ask(1468, windowsize), weather, seed).elapsed).sum::<Duration>() / 10;
    let (lock_step, windowed) = (mean(None), mean(Some(16)));
    assert!(lock_step > windowed * 8, "{lock_step:?} against {windowed:?}");
}

#[test]
fn every_seed_of_mixed_weather_ends_with_the_right_bytes_and_bounded_traffic() {
    for seed in 0..300_u64 {
        let pick = |values: &[u64], shift: u64| {
            values[(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize % values.len()]
        };
        let weather = Weather {
            loss: pick(&[0, 10, 50, 200], 8),
            doubled: pick(&[0, 100, 1000], 16),
            delay: Duration::from_micros(pick(&[50, 1000, 20_000], 24)),
            jitter: Duration::from_micros(pick(&[0, 500, 30_000], 32)),
            outage: None,
        };
        let blksize = [8, 512, 1468][seed as usize % 3];
        let size = u64::from(blksize) * pick(&[0, 1, 5, 64, 300], 40) + pick(&[0, 1, 7], 48);
        let story = run(size, ask(blksize, WINDOWS[seed as usize / 3 % 4]), weather, seed + 1);
        match story.report.end {
            Some(End::Complete) => assert_eq!(story.report.bytes, size, "seed {seed}"),
            other => assert!(weather.loss >= 200, "seed {seed}: {other:?} in {weather:?}"),
        }
        let timeouts = story.elapsed.as_millis() as u64 / 50 + 10;
        let window = story.report.agreed.map_or(1, |agreed| u64::from(agreed.windowsize()));
        let bound = 3 * (size / u64::from(blksize) + 1) + (u64::from(story.report.gaps) + timeouts) * window;
        assert!(
            story.data_sent <= bound && story.packets < 4 * bound + 100,
            "seed {seed}: {} > {bound}",
            story.data_sent
        );
    }
}
