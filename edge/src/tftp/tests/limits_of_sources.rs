//! What forged, flooding and malformed sources can and cannot do.

use super::*;

#[test]
fn t62_a_forged_source_gets_three_packets_of_516_bytes_at_most() {
    for options in ["", "blksize 1468 windowsize 64"] {
        let mut bench = Bench::multi();
        let mut sent = bench.rrq("10.0.0.7:5000", "nbp.efi", options);
        sent.extend(bench.pass(Duration::from_secs(120)));
        assert!(sent.len() <= 3 && sent.iter().all(|(_, _, bytes)| bytes.len() <= 516), "{} packets", sent.len());
        assert_eq!((bench.active(), bench.ended(Outcome::TimedOut)), (0, 1));
    }
}

#[test]
fn t62_a_client_that_lost_three_answers_is_heard_again() {
    let mut bench = Bench::multi();
    let first = bench.rrq("10.0.0.7:5000", "nbp.efi", "tsize 0");
    // iPXE asks again after 0.25, 0.55, 1.04, 2.0, 4.1 s.
    let mut answers = 1;
    for ms in [250, 550, 1040, 2000, 4100] {
        answers += bench.pass(Duration::from_millis(ms)).len();
        let again = bench.rrq("10.0.0.7:5000", "nbp.efi", "tsize 0");
        assert!(again.is_empty() || again[0].2 == first[0].2);
        answers += again.len();
    }
    assert!((6..=9).contains(&answers), "{answers}");
    assert_eq!(bench.active(), 1);
}

#[test]
fn t63_a_full_table_drops_the_oldest_unproven_and_never_a_proven_transfer() {
    let mut bench = Bench::new(Config { transfers: 4, ..Config::default() }, false);
    let tid = bench.rrq("10.0.1.1:5000", "nbp.efi", "")[0].0;
    bench.give(tid, "10.0.1.1:5000", &ack(1));
    for client in 2..=4 {
        assert_eq!(bench.rrq(&format!("10.0.1.{client}:5000"), "nbp.efi", "").len(), 1);
    }
    assert_eq!(bench.active(), 4);
    assert_eq!(bench.rrq("10.0.1.5:5000", "nbp.efi", "").len(), 1);
    assert_eq!((bench.active(), bench.ended(Outcome::TimedOut)), (4, 1));
    let gone = bench.service.by_peer.get(&"10.0.1.2:5000".parse().unwrap());
    assert_eq!(gone, None, "the oldest without an ACK");
    assert!(bench.give(tid, "10.0.1.1:5000", &ack(2))[0].2.starts_with(b"\0\x03\0\x03"), "the proven one goes on");
    // All proven: the newcomer waits in silence.
    for client in 3..=5 {
        let peer: SocketAddr = format!("10.0.1.{client}:5000").parse().unwrap();
        let tid = bench.service.slots[bench.service.by_peer[&peer]].route.socket;
        assert_eq!(bench.give(tid, &peer.to_string(), &ack(1)).len(), 1);
    }
    assert_eq!(bench.rrq("10.0.1.6:5000", "nbp.efi", ""), []);
    assert_eq!((bench.active(), bench.refused(Refusal::Full)), (4, 2));
}

#[test]
fn t63_a_flood_of_forged_sources_never_grows_the_books() {
    let mut bench = Bench::new(Config { transfers: 64, ..Config::default() }, false);
    for i in 0..20_000_u32 {
        let peer = format!("10.{}.{}.{}:5000", 1 + (i >> 16), i >> 8 & 255, i & 255);
        bench.rrq(&peer, "nbp.efi", "");
    }
    assert!(bench.active() <= 64 && bench.service.unproven.len() <= 128 && bench.service.by_peer.len() <= 64);
    bench.pass(Duration::from_secs(10));
    assert_eq!((bench.active(), bench.service.deadline()), (0, None));
}

#[test]
fn t62_one_address_holds_a_bounded_number_of_unproven_transfers() {
    let mut bench = Bench::new(Config { unproven_per_client: 3, ..Config::default() }, false);
    let answered = (0..10).filter(|i| !bench.rrq(&format!("10.0.0.7:{}", 5000 + i), "nbp.efi", "").is_empty()).count();
    assert_eq!((answered, bench.refused(Refusal::PerClient)), (3, 7));
    assert_eq!(bench.rrq("10.0.0.8:5000", "nbp.efi", "").len(), 1);
}

#[test]
fn t64_requests_to_a_group_address_are_met_with_silence() {
    let mut bench = Bench::multi();
    assert_eq!(bench.give_to(REQUESTS, "10.0.0.7:5000", US, true, &rrq("nbp.efi", "")), []);
    assert_eq!(bench.give_to(REQUESTS, "10.0.0.7:5000", US, true, &rrq("missing", "")), []);
    assert_eq!((bench.refused(Refusal::BadSource), bench.active()), (2, 0));
}

#[test]
fn reserved_ports_groups_and_ourselves_are_never_answered() {
    let mut bench = Bench::multi();
    for peer in [
        "10.0.0.7:69",
        "10.0.0.7:67",
        "10.0.0.7:53",
        "10.0.0.7:7",
        "10.0.0.7:0",
        "10.0.0.7:123",
        "255.255.255.255:5000",
        "224.0.0.5:5000",
        "0.0.0.0:5000",
        "10.0.0.1:40001",
    ] {
        for bytes in [rrq("nbp.efi", ""), rrq("missing", ""), request(2, "x", "octet", ""), b"\0\x01x\0mail\0".to_vec()]
        {
            assert_eq!(bench.give(REQUESTS, peer, &bytes), [], "{peer}");
        }
    }
    assert_eq!(bench.active(), 0);
}

#[test]
fn t69_a_million_packets_at_random_leave_the_service_whole() {
    let mut bench = Bench::new(Config { transfers: 256, ..Config::default() }, true);
    let mut seed = 0x6974_6674_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let good =
        [rrq("nbp.efi", "blksize 8 windowsize 16"), rrq("script.ipxe", ""), rrq("missing", "tsize 0"), ack(0), ack(16)];
    let mut answers = 0;
    for round in 0..1_000_000_u32 {
        let random = next();
        let mut bytes = good[random as usize % good.len()].clone();
        let at = (random >> 8) as usize % bytes.len();
        match random >> 16 & 3 {
            0 => bytes[at] = (random >> 24) as u8,
            1 => bytes.truncate(at),
            2 => bytes.extend_from_slice(&random.to_be_bytes()),
            _ => {}
        }
        let peer = SocketAddr::new(
            [10, 0, (random >> 32) as u8 & 3, (random >> 40) as u8].into(),
            5000 + (random >> 48) as u16 % 3,
        );
        let datagram =
            Datagram { socket: REQUESTS, peer, local: Some(US.parse().unwrap()), group: false, bytes: &bytes };
        bench.service.datagram(datagram, bench.ring.time);
        if round % 64 == 0 {
            bench.ring.time = bench.ring.time + Duration::from_millis(1);
            bench.service.tick(bench.ring.time);
            let now = bench.ring.time;
            bench.service.flush(&mut bench.ring, now);
            answers += bench.ring.udp.drain(..).len();
        }
    }
    assert!(answers > 10_000 && bench.active() <= 256, "{answers} answers, {} active", bench.active());
    bench.pass(Duration::from_secs(120));
    assert_eq!((bench.active(), bench.service.by_peer.len(), bench.service.deadline()), (0, 0, None), "nothing leaks");
}
