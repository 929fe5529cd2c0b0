//! What ends a wait, and what does not.

use super::*;

on_both_drivers! {
    a_waker_ends_the_wait
    a_deadline_ends_the_wait
    an_idle_ring_costs_nothing
}

fn a_waker_ends_the_wait<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let waker = bench.ring.waker();
    for _ in 0..3 {
        let waker = waker.clone();
        let other = thread::spawn(move || waker.wake());
        bench.turn(None);
        while bench.seen.is_empty() {
            bench.turn(None);
        }
        assert!(matches!(bench.seen.pop_front(), Some(Seen::Woken)));
        other.join().unwrap();
        bench.quiet(1);
    }
}

fn a_deadline_ends_the_wait<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let start = bench.ring.now();
    let until = start + Duration::from_millis(30);
    let mut turns = 0;
    while bench.ring.now() < until {
        bench.turn(Some(until));
        turns += 1;
    }
    assert!(turns <= 3, "{turns} turns: the wait spins");
    assert!(bench.ring.now() - start < Duration::from_secs(5));
}

/// An idle ring sleeps: sends that have gone out leave nothing that keeps waking it.
fn an_idle_ring_costs_nothing<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let _listener = bench.listener();
    let client = client("127.0.0.1:0");
    bench.send(socket, client.local_addr().unwrap(), UdpPayload::Small(vec![1]));
    bench.quiet(10);
    let until = bench.ring.now() + Duration::from_millis(200);
    let mut turns = 0;
    while bench.ring.now() < until {
        bench.turn(Some(until));
        turns += 1;
    }
    assert!(turns <= 3, "{turns} turns in 200 ms of silence");
}
