//! What control is told about a transfer.

use super::*;
use protocol::event::{Event, Kind};
use protocol::id::Mac;
use std::os::unix::net::UnixDatagram;

/// A service that tells what happens to a socket of the test.
fn told() -> (tempfile::TempDir, UnixDatagram, Bench) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut bench = Bench::multi();
    bench.service.events = EventSender::new(Some(path), Arc::clone(&bench.metrics));
    (folder, socket, bench)
}

fn events(socket: &UnixDatagram) -> Vec<Event> {
    let mut buffer = [0; protocol::event::MAX_DATAGRAM];
    let mut all = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        all.push(serde_json::from_slice(&buffer[..length]).unwrap());
    }
    all
}

#[test]
fn a_transfer_is_told_from_its_start_by_quarters_to_its_end() {
    let (_folder, socket, mut bench) = told();
    let peer = "10.0.0.7:2070";
    let oack = bench.rrq(peer, "/52-54-00-12-34-56/nbp.efi", "blksize 500 windowsize 1");
    for block in 0..=11 {
        bench.give(oack[0].0, peer, &ack(block));
    }
    let all = events(&socket);
    let kinds: Vec<_> = all.iter().map(|event| event.kind.clone()).collect();
    let total = 5000;
    let progress = |bytes| Kind::Progress { bytes, total };
    assert_eq!(
        kinds[..4],
        [Kind::Started { total, blksize: 500, windowsize: 1 }, progress(1500), progress(2500), progress(4000)]
    );
    assert!(
        matches!(&kinds[4..], [Kind::Ended { outcome: Outcome::Complete, bytes: 5000, total: 5000, retries: 0, why, .. }] if why.is_empty())
    );
    let mac = Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    assert!(all.iter().all(|e| e.mac == mac && e.name == "nbp.efi" && e.peer == peer && e.transfer == all[0].transfer));
}

#[test]
fn refusals_and_failures_are_told_with_their_reason_and_escaped() {
    let (_folder, socket, mut bench) = told();
    bench.rrq("10.0.0.7:5000", "52-54-00-12-34-56/autoexec.ipxe", "");
    bench.rrq("10.0.0.7:5001", "\u{1b}[31mevil", "");
    let sent = bench.rrq("10.0.0.7:5002", "nbp.efi", "");
    bench.give(sent[0].0, "10.0.0.7:5002", b"\0\x05\0\x03disk\x07full\0");
    bench.rrq("10.0.0.7:5003", "nbp.efi", "");
    bench.pass(Duration::from_secs(60));
    let all = events(&socket);
    assert_eq!(all[0].kind, Kind::Refused { code: 1, why: "file not found".into() });
    assert_eq!((&*all[0].name, all[0].mac.is_some()), ("autoexec.ipxe", true));
    assert_eq!(
        (&*all[1].name, &all[1].kind),
        ("\\x1b[31mevil", &Kind::Refused { code: 2, why: "not a plain file name".into() })
    );
    let ends: Vec<_> = all
        .iter()
        .filter_map(|event| match &event.kind {
            Kind::Ended { outcome, why, .. } => Some((*outcome, &**why)),
            _ => None,
        })
        .collect();
    assert_eq!(
        ends,
        [(Outcome::Aborted, "client's error 3: disk\\x07full"), (Outcome::TimedOut, "the client never answered")]
    );
}
