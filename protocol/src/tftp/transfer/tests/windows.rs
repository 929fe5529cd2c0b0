//! Windows of RFC 7440, and block numbers that wrap within them.

use super::*;

#[test]
fn t50_windowsize_1_is_lock_step_packet_for_packet() {
    let trace = |options: &str| {
        let mut bench = Bench::new(512 * 40, options);
        let mut trace = vec![bench.outputs()];
        trace.push(bench.give(Input::Packet(Packet::Ack { block: 0 })));
        // Acknowledged, acknowledged twice, lost, from the past, from the future.
        for block in 1..=40_u16 {
            bench.pass(MS(1));
            for ack in [block, block, block.saturating_sub(1), block + 5] {
                trace.push(bench.give(Input::Packet(Packet::Ack { block: ack })));
            }
            if block % 3 == 0 {
                trace.push(bench.expire());
            }
        }
        trace
    };
    assert_eq!(trace("blksize 512 windowsize 1")[1..], trace("blksize 512")[1..]);
}

#[test]
fn t51_a_window_is_exactly_its_blocks_and_then_a_wait() {
    for window in [2, 4, 16, 64] {
        let mut bench = Bench::windowed(1000, window, MS(1));
        assert_eq!(bench.outputs(), []);
        bench.pass(MS(1));
        assert_eq!(bench.ack(window), [(u64::from(window) + 1, window)]);
        assert_eq!(bench.give(Input::Timer), []);
    }
}

#[test]
fn t53_the_last_window_is_shorter_and_its_ack_is_the_end() {
    let mut bench = Bench::windowed(10, 4, MS(1));
    assert_eq!((bench.ack(4), bench.ack(8)), (vec![(5, 4)], vec![(9, 2)]));
    assert_eq!(bench.give(Input::Packet(Packet::Ack { block: 10 })), ended(Outcome::Complete));
}

#[test]
fn t54_an_ack_within_the_window_moves_the_window_behind_it() {
    let mut bench = Bench::windowed(100, 8, MS(1));
    bench.pass(MS(1));
    assert_eq!(bench.ack(3), [(4, 8)]);
    bench.pass(MS(1));
    assert_eq!(bench.ack(11), [(12, 8)]);
    assert_eq!(bench.transfer.retries(), 5);
}

#[test]
fn t55_silence_brings_the_whole_window_again() {
    let mut bench = Bench::windowed(100, 8, MS(1));
    bench.pass(MS(1));
    assert_eq!(bench.ack(8), [(9, 8)]);
    assert_eq!(bench.expire_runs(), [(9, 8)]);
    assert_eq!(bench.expire_runs(), [(9, 8)]);
    assert_eq!(bench.ack(16), [(17, 8)]);
}

#[test]
fn t56_the_example_of_rfc_7440_section_4() {
    // 13 blocks, windowsize 4. The first window arrives.
    let mut bench = Bench::windowed(13, 4, MS(1));
    bench.pass(MS(1));
    assert_eq!(bench.ack(4), [(5, 4)]);
    // 6, 7 and 8 are lost; the client's timer makes it acknowledge 5.
    bench.pass(MS(20));
    assert_eq!(bench.ack(5), [(6, 4)]);
    bench.pass(MS(1));
    assert_eq!(bench.ack(9), [(10, 4)]);
    // 11 is lost: the client acknowledges 10 when 12 comes. That ACK is lost as
    // well, so the server's timer brings the whole window again.
    assert_eq!(bench.expire_runs(), [(10, 4)]);
    bench.pass(MS(1));
    assert_eq!(bench.give(Input::Packet(Packet::Ack { block: 13 })), ended(Outcome::Complete));
    assert_eq!(bench.transfer.retries(), 3 + 4);
}

#[test]
fn t57_the_same_ack_within_a_window_takes_us_back_once() {
    let mut bench = Bench::windowed(100, 16, MS(5));
    bench.pass(MS(5));
    assert_eq!(bench.ack(4), [(5, 16)]);
    // The client acknowledges 4 for each of 6..=16 that still arrive.
    for _ in 6..=16 {
        assert_eq!(bench.ack(4), []);
    }
    assert_eq!(bench.ack(20), [(21, 16)]);
}

#[test]
fn t57_a_client_that_acknowledges_every_block_does_not_get_a_window_for_each() {
    let mut bench = Bench::windowed(1000, 16, MS(5));
    bench.pass(MS(5));
    let mut sent = 16_u64;
    for block in 1..=999 {
        bench.pass(MS(1) / 20);
        let ack = Input::Packet(Packet::Ack { block });
        sent += runs(&bench.give(ack)).iter().map(|run| u64::from(run.1)).sum::<u64>();
    }
    assert!(sent < 3000, "{sent} blocks sent for 1000");
}

#[test]
fn t58_an_ack_from_below_the_window_is_ignored() {
    let mut bench = Bench::windowed(100, 8, MS(1));
    bench.ack(8);
    bench.ack(16);
    bench.pass(MS(40));
    for stale in [15, 9, 8, 7, 1, 0] {
        assert_eq!(bench.ack(stale), [], "{stale}");
    }
    assert_eq!(bench.transfer.retries(), 0);
}

#[test]
fn t59_a_lost_first_block_of_a_window_is_sent_again_by_the_timer_at_the_latest() {
    let mut bench = Bench::windowed(100, 8, MS(1));
    bench.pass(MS(1));
    assert_eq!(bench.ack(8), [(9, 8)]);
    assert_eq!(bench.expire_runs(), [(9, 8)]);
}

#[test]
fn t59_a_lost_first_block_of_a_window_is_noticed_from_a_late_repetition_of_the_last_ack() {
    let mut bench = Bench::windowed(100, 8, MS(10));
    bench.pass(MS(10));
    assert_eq!(bench.ack(8), [(9, 8)]);
    bench.pass(MS(1));
    assert_eq!(bench.ack(8), [], "a duplicate of the ACK: no round trip has passed");
    bench.pass(MS(20));
    assert_eq!(bench.ack(8), [(9, 8)]);
    bench.pass(MS(20));
    assert_eq!(bench.ack(8), [], "once");
    assert_eq!(bench.ack(16), [(17, 8)]);
}

#[test]
fn t60_numbers_wrap_within_a_window_and_duplicates_across_the_wrap_do_nothing() {
    for rollover in [Rollover::Zero, Rollover::One] {
        let settings = Settings { rollover, ..Settings::default() };
        let mut bench = Bench::with(8 * 70_000, "blksize 8 windowsize 16", settings);
        bench.outputs();
        let mut runs = bench.ack(0);
        let mut acked = 0;
        while acked < 69_984 {
            assert_eq!(runs, [(acked + 1, 16)], "{rollover:?}");
            bench.pass(MS(1));
            acked += 16;
            runs = bench.ack(rollover.wire(acked));
            assert_eq!(bench.ack(rollover.wire(acked)), [], "{rollover:?} {acked}");
        }
        assert_eq!(runs, [(69_985, 16)]);
        assert_eq!(bench.ack(rollover.wire(70_000)), [(70_001, 1)]);
        let last = bench.give(Input::Packet(Packet::Ack { block: rollover.wire(70_001) }));
        assert_eq!(last, ended(Outcome::Complete));
    }
}

#[test]
fn t60_a_gap_at_the_wrap_takes_us_back_to_the_right_block() {
    let mut bench = Bench::windowed(100_000, 64, MS(1));
    for window in 1..=1023_u64 {
        bench.pass(MS(1));
        assert_eq!(bench.ack((window * 64) as u16), [(window * 64 + 1, 64)]);
    }
    // The window is 65473..=65536: its last block is number 0.
    bench.pass(MS(1));
    assert_eq!(bench.ack(65535), [(65536, 64)]);
    bench.pass(MS(2));
    assert_eq!(bench.ack(0), [(65537, 64)]);
    bench.pass(MS(2));
    assert_eq!(bench.ack(65535), []);
    assert_eq!(bench.ack(64), [(65601, 64)]);
}

#[test]
fn loss_splits_windows_into_bursts_and_success_joins_them() {
    let mut bench = Bench::windowed(10_000, 16, MS(1));
    bench.pass(MS(1));
    let outputs = bench.give(Input::Packet(Packet::Ack { block: 3 }));
    assert_eq!(runs(&outputs), [(4, 8)], "half of the window at once");
    let pause = bench.transfer.deadline().unwrap() - bench.now;
    assert!(pause >= PAUSE.0 && pause <= PAUSE.1, "{pause:?}");
    assert_eq!(bench.give(Input::Timer), [], "the pause is kept");
    assert_eq!(runs(&bench.expire()), [(12, 8)], "and the window completed, as RFC 7440 wants it");
    let mut acked = 19;
    for _ in 0..CLEAN_WINDOWS {
        bench.pass(MS(1));
        assert_eq!(bench.ack(acked), [(u64::from(acked) + 1, 16)]);
        acked += 16;
    }
    bench.pass(MS(1));
    assert_eq!(
        runs(&bench.give(Input::Packet(Packet::Ack { block: acked }))),
        [(u64::from(acked) + 1, 16)],
        "whole again"
    );
}
