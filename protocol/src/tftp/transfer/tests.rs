use super::super::options::{Policy, negotiate};
use super::super::packet::Mode;
use super::*;
use std::vec;
use std::vec::Vec;

mod windows;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A transfer at a clock that only the test moves.
struct Bench {
    transfer: Transfer,
    now: Instant,
}

/// Blocks in short: `(first, count)`.
type Run = (u64, u16);

impl Bench {
    /// A transfer of `size` bytes under `options` (`name value ...`).
    fn new(size: u64, options: &str) -> Self {
        Self::with(size, options, Settings::default())
    }

    fn with(size: u64, options: &str, settings: Settings) -> Self {
        let mut bytes = b"\0\x01f\0octet\0".to_vec();
        for word in options.split(' ').filter(|_| !options.is_empty()) {
            bytes.extend_from_slice(word.as_bytes());
            bytes.push(0);
        }
        let Packet::Request(request) = Packet::decode(&bytes).unwrap() else { panic!() };
        let policy = Policy { max_blksize: 65464, max_windowsize: 1024, max_window_bytes: u32::MAX };
        let agreed = negotiate(request.options, Mode::Octet, size, &policy);
        let now = Instant::from_millis(1_000_000);
        Self { transfer: Transfer::start(agreed, size, settings, now), now }
    }

    /// A transfer of `blocks` blocks of 8 bytes (the last empty) in windows, its OACK acknowledged after `rtt`.
    fn windowed(blocks: u64, window: u16, rtt: Duration) -> Self {
        let mut bench = Self::new((blocks - 1) * 8, &std::format!("blksize 8 windowsize {window}"));
        assert!(matches!(bench.outputs()[..], [Output::Oack(_)]));
        bench.pass(rtt);
        assert_eq!(bench.ack(0), [(1, window.min(blocks as u16))]);
        bench
    }

    fn pass(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    fn outputs(&mut self) -> Vec<Output> {
        let mut all = Vec::new();
        while let Some(output) = self.transfer.poll_output() {
            all.push(output);
            assert!(all.len() < 100, "output without end");
        }
        all
    }

    fn give(&mut self, input: Input<'_>) -> Vec<Output> {
        self.transfer.handle(input, self.now);
        self.outputs()
    }

    /// Gives an ACK; only blocks may come of it.
    fn ack(&mut self, block: u16) -> Vec<Run> {
        let mut runs = runs(&self.give(Input::Packet(Packet::Ack { block })));
        // A window sent in bursts: wait for the rest of it.
        while let Some(until) = self.transfer.pause_until {
            self.now = until;
            runs.extend(runs_of(self.give(Input::Timer)));
        }
        join(runs)
    }

    /// Goes to the deadline and gives the timer.
    fn expire(&mut self) -> Vec<Output> {
        let deadline = self.transfer.deadline().expect("a deadline");
        assert!(deadline > self.now, "a deadline in the past would spin");
        self.now = deadline;
        self.give(Input::Timer)
    }

    /// Goes on until the retransmission of a whole window is out.
    fn expire_runs(&mut self) -> Vec<Run> {
        let mut runs = runs_of(self.expire());
        while let Some(until) = self.transfer.pause_until {
            self.now = until;
            runs.extend(runs_of(self.give(Input::Timer)));
        }
        join(runs)
    }

    fn error(&mut self, code: u16) -> Vec<Output> {
        self.give(Input::Packet(Packet::Error { code: ErrorCode(code), text: b"" }))
    }
}

fn runs_of(outputs: Vec<Output>) -> Vec<Run> {
    runs(&outputs)
}

fn runs(outputs: &[Output]) -> Vec<Run> {
    let run = |output: &Output| match *output {
        Output::Blocks { first, count } => (first, count),
        ref other => panic!("{other:?} instead of blocks"),
    };
    outputs.iter().map(run).collect()
}

/// Bursts that follow one another are one run.
fn join(runs: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for (first, count) in runs {
        match joined.last_mut() {
            Some(last) if last.0 + u64::from(last.1) == first => last.1 += count,
            _ => joined.push((first, count)),
        }
    }
    joined
}

fn ended(outcome: Outcome) -> Vec<Output> {
    vec![Output::Ended(outcome)]
}

#[test]
fn t01_a_small_file_is_one_block_one_ack_and_the_end() {
    let mut bench = Bench::new(100, "");
    assert_eq!(runs(&bench.outputs()), [(1, 1)]);
    assert_eq!(bench.give(Input::Packet(Packet::Ack { block: 1 })), ended(Outcome::Complete));
    assert_eq!((bench.transfer.bytes_acked(), bench.transfer.deadline()), (100, None));
}

#[test]
fn t02_an_empty_file_is_one_empty_block() {
    let mut bench = Bench::new(0, "");
    assert_eq!(runs(&bench.outputs()), [(1, 1)]);
    assert_eq!(bench.give(Input::Packet(Packet::Ack { block: 1 })), ended(Outcome::Complete));
}

#[test]
fn t03_a_multiple_of_512_ends_with_an_empty_block() {
    let mut bench = Bench::new(1024, "");
    assert_eq!(runs(&bench.outputs()), [(1, 1)]);
    assert_eq!(bench.ack(1), [(2, 1)]);
    assert_eq!(bench.ack(2), [(3, 1)]);
    assert_eq!(bench.give(Input::Packet(Packet::Ack { block: 3 })), ended(Outcome::Complete));
}

#[test]
fn t04_a_multiple_of_a_negotiated_block_size_ends_with_an_empty_block() {
    let mut bench = Bench::new(1468 * 2, "blksize 1468");
    assert!(matches!(bench.outputs()[..], [Output::Oack(_)]));
    assert_eq!((bench.ack(0), bench.ack(1), bench.ack(2)), (vec![(1, 1)], vec![(2, 1)], vec![(3, 1)]));
    assert_eq!(bench.give(Input::Packet(Packet::Ack { block: 3 })), ended(Outcome::Complete));
}

#[test]
fn t05_blocks_begin_at_1_and_go_up_by_1() {
    let mut bench = Bench::new(512 * 50, "");
    assert_eq!(runs(&bench.outputs()), [(1, 1)]);
    for block in 1..=50 {
        assert_eq!(bench.ack(block), [(u64::from(block) + 1, 1)]);
    }
}

#[test]
fn t24_a_duplicate_ack_sends_nothing() {
    let mut bench = Bench::new(512 * 9, "");
    bench.outputs();
    assert_eq!(bench.ack(1), [(2, 1)]);
    for _ in 0..100 {
        bench.pass(MS(1));
        assert_eq!(bench.ack(1), []);
    }
    assert_eq!(bench.ack(2), [(3, 1)]);
    assert_eq!((bench.transfer.retries(), bench.transfer.ignored()), (0, 100));
}

#[test]
fn t25_a_transfer_whose_acks_all_come_twice_sends_each_block_once() {
    for window in [1, 4, 16] {
        let mut bench = Bench::windowed(100, window, MS(1));
        let mut sent = u64::from(window);
        let mut acked = 0;
        while acked < 100 {
            bench.pass(MS(1));
            acked = (acked + window).min(100);
            if acked < 100 {
                sent += bench.ack(acked).iter().map(|run| u64::from(run.1)).sum::<u64>();
                assert_eq!(bench.ack(acked), [], "window {window}");
            } else {
                assert_eq!(bench.give(Input::Packet(Packet::Ack { block: acked })), ended(Outcome::Complete));
                assert_eq!(bench.give(Input::Packet(Packet::Ack { block: acked })), []);
            }
        }
        assert_eq!(sent, 100, "window {window}");
    }
}

#[test]
fn t26_lost_data_is_sent_again_when_the_timer_says_so() {
    let mut bench = Bench::new(512 * 9, "");
    bench.outputs();
    bench.pass(MS(1));
    assert_eq!(bench.ack(1), [(2, 1)]);
    bench.pass(MS(1));
    assert_eq!(bench.give(Input::Timer), [], "not before its time");
    assert_eq!(runs(&bench.expire()), [(2, 1)]);
    assert_eq!(bench.transfer.retries(), 1);
    assert_eq!(bench.ack(2), [(3, 1)]);
}

#[test]
fn t27_the_old_ack_again_is_ignored_and_the_timer_recovers() {
    let mut bench = Bench::new(512 * 9, "");
    bench.outputs();
    assert_eq!((bench.ack(1), bench.ack(2)), (vec![(2, 1)], vec![(3, 1)]));
    // The ACK of 3 is lost, and the client sends that of 2 again.
    assert_eq!(bench.ack(2), []);
    assert_eq!(runs(&bench.expire()), [(3, 1)]);
    assert_eq!(bench.ack(3), [(4, 1)]);
}

#[test]
fn t28_a_lost_last_ack_ends_as_unknown_after_a_few_repetitions() {
    let mut bench = Bench::new(600, "");
    bench.outputs();
    assert_eq!(bench.ack(1), [(2, 1)]);
    for _ in 1..LAST_WINDOW_TRANSMISSIONS {
        assert_eq!(runs(&bench.expire()), [(2, 1)]);
    }
    assert_eq!(bench.expire(), ended(Outcome::Unknown), "and no ERROR: it may well have arrived");
    assert_eq!(bench.transfer.bytes_acked(), 512);
}

#[test]
fn t29_an_ack_of_a_block_never_sent_is_ignored() {
    let mut bench = Bench::new(512 * 9, "");
    bench.outputs();
    assert_eq!(bench.ack(1), [(2, 1)]);
    for block in [3, 4, 1000, 32768, 65535, 0] {
        assert_eq!(bench.ack(block), [], "{block}");
    }
    assert_eq!(bench.transfer.bytes_acked(), 512);
    assert_eq!(bench.ack(2), [(3, 1)]);
}

#[test]
fn t30_ack_0_without_an_oack_is_ignored() {
    let mut bench = Bench::new(512 * 9, "");
    assert_eq!(runs(&bench.outputs()), [(1, 1)]);
    bench.pass(MS(200));
    assert_eq!(bench.ack(0), []);
    assert!(!bench.transfer.is_validated());
    assert_eq!(bench.ack(1), [(2, 1)]);
}

#[test]
fn t31_an_error_of_the_client_ends_in_silence() {
    for code in [0, 1, 2, 3, 4, 5, 8, 99] {
        let mut bench = Bench::new(512 * 9, "");
        bench.outputs();
        bench.ack(1);
        assert_eq!(bench.error(code), ended(Outcome::Aborted), "{code}");
        assert_eq!(bench.error(code), []);
        assert_eq!(bench.ack(2), []);
        assert_eq!(bench.transfer.deadline(), None);
    }
}

#[test]
fn t32_a_path_of_200_ms_sees_no_needless_repetition() {
    let mut bench = Bench::new(512 * 200, "");
    bench.outputs();
    for block in 1..=100_u16 {
        // 200 ms, and jitter of up to 40 ms.
        let arrival = bench.now + MS(200 + u64::from(block) * 7 % 41);
        assert!(bench.transfer.deadline().unwrap() > arrival, "block {block}");
        bench.now = arrival;
        assert_eq!(bench.ack(block), [(u64::from(block) + 1, 1)]);
    }
    assert_eq!(bench.transfer.retries(), 0);
}

#[test]
fn t32_on_a_lan_lost_data_is_sent_again_within_250_ms() {
    let mut bench = Bench::new(512 * 200, "");
    bench.outputs();
    for block in 1..=5 {
        bench.pass(Duration::from_micros(300));
        bench.ack(block);
    }
    let wait = bench.transfer.deadline().unwrap() - bench.now;
    assert!(wait >= MS(50) && wait < MS(250), "{wait:?}");
}

#[test]
fn t33_silence_is_met_with_doubling_waits_then_one_error_0() {
    let mut bench = Bench::new(512 * 9, "");
    bench.outputs();
    bench.pass(MS(1));
    bench.ack(1);
    let began = bench.now;
    let mut waits = Vec::new();
    let last = loop {
        let before = bench.now;
        let outputs = bench.expire();
        waits.push((bench.now - before).as_millis());
        if outputs.len() != 1 {
            break outputs;
        }
        assert_eq!(runs(&outputs), [(2, 1)]);
        assert!(waits.len() < 30);
    };
    assert!(
        matches!(last[..], [Output::Error { code: ErrorCode::UNDEFINED, .. }, Output::Ended(Outcome::TimedOut)]),
        "{last:?}"
    );
    assert!(waits.windows(2).all(|w| w[1] == 5000 || w[1] == w[0] * 2), "{waits:?}");
    assert!((MS(30_000)..MS(36_000)).contains(&(bench.now - began)), "{waits:?}");
    assert_eq!(bench.outputs(), []);
}

#[test]
fn t34_progress_gives_the_retries_back() {
    let mut bench = Bench::new(512 * 400, "");
    bench.outputs();
    for block in 1..=300 {
        bench.pass(MS(1));
        bench.ack(block);
        for _ in 0..3 {
            assert_eq!(runs(&bench.expire()), [(u64::from(block) + 1, 1)]);
        }
    }
    assert_eq!(bench.transfer.retries(), 900, "far more than any limit of one block");
}

#[test]
fn t39_ack_0_after_the_oack_starts_data_1() {
    let mut bench = Bench::new(5000, "blksize 1468 tsize 0");
    let first = bench.outputs();
    assert!(matches!(&first[..], [Output::Oack(oack)] if oack.as_bytes() == b"\0\x06tsize\x005000\0blksize\x001468\0"));
    assert_eq!(bench.ack(1), [], "block 1 was never sent");
    assert_eq!(bench.ack(0), [(1, 1)]);
}

#[test]
fn t40_a_lost_oack_is_sent_again_and_ack_0_twice_does_not_double_data_1() {
    for options in ["blksize 1468", "blksize 1468 windowsize 4"] {
        let mut bench = Bench::new(50_000, options);
        let oack = bench.outputs();
        assert_eq!(bench.expire(), oack);
        assert_eq!(bench.ack(0).len(), 1);
        assert_eq!(bench.ack(0), []);
        assert_eq!(bench.ack(0), []);
        assert_eq!(bench.transfer.retries(), 1);
    }
}

#[test]
fn t41_error_8_after_the_oack_ends_in_silence() {
    let mut bench = Bench::new(5000, "blksize 1468");
    bench.outputs();
    assert_eq!(bench.error(8).len(), 1);
    assert_eq!((bench.outputs(), bench.transfer.deadline()), (vec![], None));
}

#[test]
fn t47_a_probe_for_the_size_is_no_failure() {
    for (code, outcome) in [(8, Outcome::Probe), (0, Outcome::Probe), (3, Outcome::Probe), (1, Outcome::Aborted)] {
        let mut bench = Bench::new(5000, "tsize 0");
        bench.outputs();
        assert_eq!(bench.error(code), ended(outcome), "ERROR {code}");
    }
    let mut bench = Bench::new(50_000, "tsize 0");
    bench.outputs();
    assert_eq!((bench.ack(0).len(), bench.ack(1).len()), (1, 1));
    assert_eq!(bench.error(8), ended(Outcome::Aborted), "in the middle it is one");
}

#[test]
fn t48_a_negotiated_timeout_is_used() {
    for seconds in [1, 7, 255] {
        let mut bench = Bench::new(5000, &std::format!("timeout {seconds}"));
        let oack = bench.outputs();
        assert_eq!(bench.transfer.deadline(), Some(bench.now + Duration::from_secs(seconds)));
        assert_eq!(bench.expire(), oack);
    }
}

#[test]
fn t61_more_than_4_gib_arrive_in_order_to_the_last_byte() {
    let size = (5_u64 << 30) + 1;
    let mut bench = Bench::new(size, "blksize 1468 windowsize 64 tsize 0");
    bench.outputs();
    let blocks = size / 1468 + 1;
    let mut expected = 1;
    let mut outputs = bench.give(Input::Packet(Packet::Ack { block: 0 }));
    while expected <= blocks {
        for (first, count) in runs(&outputs) {
            assert_eq!(first, expected);
            expected += u64::from(count);
        }
        bench.pass(MS(1));
        outputs = bench.give(Input::Packet(Packet::Ack { block: (expected - 1) as u16 }));
    }
    assert_eq!((outputs, expected - 1), (ended(Outcome::Complete), blocks));
    assert_eq!((bench.transfer.bytes_acked(), bench.transfer.retries()), (size, 0));
}

#[test]
fn t62_a_peer_that_never_answers_gets_three_packets_and_no_more() {
    for options in ["", "blksize 1468 windowsize 64"] {
        let mut bench = Bench::new(1 << 20, options);
        let began = bench.now;
        let mut packets = bench.outputs();
        let mut at = vec![0];
        while bench.transfer.deadline().is_some() {
            let outputs = bench.expire();
            if !matches!(outputs[..], [Output::Ended(_)]) {
                at.push((bench.now - began).as_secs());
            }
            packets.extend(outputs);
        }
        assert_eq!(packets.pop(), Some(Output::Ended(Outcome::TimedOut)));
        assert_eq!((packets.len(), at), (3, vec![0, 1, 3]));
        for packet in packets {
            match packet {
                Output::Oack(oack) => assert!(oack.as_bytes().len() <= 516),
                Output::Blocks { first, count } => assert_eq!((first, count), (1, 1)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn t62_repeated_requests_count_among_the_three() {
    let mut bench = Bench::new(1 << 20, "");
    bench.outputs();
    bench.pass(MS(250));
    assert_eq!(runs(&bench.give(Input::Repeat)), [(1, 1)]);
    assert_eq!(runs(&bench.give(Input::Repeat)), [(1, 1)]);
    assert!(bench.transfer.is_spent());
    assert_eq!(bench.give(Input::Repeat), []);
    assert_eq!(bench.expire(), ended(Outcome::TimedOut));
}

#[test]
fn t22_a_repeated_request_before_the_first_ack_brings_the_first_packet_again() {
    let mut bench = Bench::new(5000, "blksize 1468");
    let oack = bench.outputs();
    bench.pass(MS(250));
    assert_eq!(bench.give(Input::Repeat), oack);
    bench.ack(0);
    assert_eq!(bench.give(Input::Repeat), [], "later it is a straggler");
}

#[test]
fn t67_our_own_failure_is_one_error_0_and_never_a_short_success() {
    let mut bench = Bench::windowed(100, 4, MS(1));
    let outputs = bench.give(Input::Failed("file is no longer readable"));
    let error = Output::Error { code: ErrorCode::UNDEFINED, text: "file is no longer readable" };
    assert_eq!(outputs, [error, Output::Ended(Outcome::Failed)]);
}

#[test]
fn a_slow_queue_of_ours_is_not_taken_for_loss() {
    let mut bench = Bench::windowed(100, 4, MS(1));
    bench.transfer.handle(Input::Packet(Packet::Ack { block: 4 }), bench.now);
    // The worker has not come to send the window yet when the timer runs out.
    bench.now = bench.transfer.deadline().unwrap();
    bench.transfer.handle(Input::Timer, bench.now);
    assert_eq!(runs(&bench.outputs()), [(5, 4)]);
    assert_eq!(bench.transfer.retries(), 0);
}
