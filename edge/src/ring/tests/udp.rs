//! Datagrams in and out.

use super::*;

on_both_drivers! {
    echo_leaves_from_the_address_asked
    a_broadcast_is_told_apart
    a_long_datagram_is_cut
    a_window_arrives_block_by_block
    t60_numbers_wrap_to_either
    a_window_over_the_mtu_goes_block_by_block
    full_hands_the_send_back
    a_burst_beyond_the_buffers_is_received
    a_closed_udp_socket_is_silent
}

fn echo_leaves_from_the_address_asked<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    for (bind, asked, from) in [("0.0.0.0:0", "127.0.0.5", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")] {
        let (socket, at) = bench.udp(bind);
        let client = client(from);
        let asked: IpAddr = asked.parse().unwrap();
        client.send_to(b"hello", (asked, at.port())).unwrap();
        let Seen::Datagram { peer, local, group, bytes } = bench.next() else { panic!("no datagram") };
        assert_eq!((peer, local, group, &bytes[..]), (client.local_addr().unwrap(), Some(asked), false, &b"hello"[..]));
        let send = UdpSend { socket, to: peer, from: local, payload: UdpPayload::Small(b"world".to_vec()) };
        assert!(bench.ring.udp_send(send).is_ok());
        bench.quiet(1);
        let mut answer = [0; 16];
        let (n, from) = client.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..n], from), (&b"world"[..], SocketAddr::new(asked, at.port())));
    }
}

fn a_broadcast_is_told_apart<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.udp("0.0.0.0:0");
    let client = client("127.0.0.1:0");
    client.set_broadcast(true).unwrap();
    client.send_to(b"x", ("127.255.255.255", at.port())).unwrap();
    let Seen::Datagram { group, bytes, .. } = bench.next() else { panic!("no datagram") };
    assert!(group && bytes == b"x");
}

fn a_long_datagram_is_cut<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.udp("127.0.0.1:0");
    client("127.0.0.1:0").send_to(&[7; 9000], at).unwrap();
    let Seen::Datagram { bytes, .. } = bench.next() else { panic!("no datagram") };
    assert_eq!(bytes, [7; crate::limits::UDP_PAYLOAD_MAX]);
}

/// Windows of every shape arrive as single datagrams with the right bytes.
pub(super) fn a_window_arrives_block_by_block<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let to = client.local_addr().unwrap();
    let bytes = pattern(100 * 1468 + 77);
    let budget = crate::catalog::Budget::new(1 << 30);
    for framed in [false, true] {
        let image = Image::from_bytes(&bytes).unwrap();
        // (blksize, first, count asked, count that there is, rollover)
        for (blksize, first, count, there, rollover) in [
            (1468u16, 1u64, 16u16, 16u64, 0u16), // one train
            (1468, 3, 100, 99, 0),               // two trains, the last block short
            (1468, 101, 1, 1, 0),                // the short one alone
            (512, 200, 64, 64, 0),
            (512, 287, 5, 1, 0),  // nothing behind the end
            (8, 18357, 3, 3, 0),  // tiny blocks
            (65464, 1, 4, 3, 0),  // no two fit one send
            (1468, 200, 4, 0, 0), // wholly behind the end
        ] {
            if framed {
                image.make_framed(blksize, &budget).unwrap();
            }
            let payload = UdpPayload::Blocks { image: Arc::clone(&image), blksize, first, count, rollover };
            bench.send(socket, to, payload);
            for number in first..first + there {
                let mut got = vec![0; 70_000];
                let n = client.recv(&mut got).unwrap();
                assert_eq!(n, packet(&bytes, blksize.into(), number, rollover).len(), "length of block {number}");
                assert!(got[..n] == packet(&bytes, blksize.into(), number, rollover), "block {number} of {blksize}");
            }
            bench.quiet(1);
            client.set_nonblocking(true).unwrap();
            assert!(client.recv(&mut [0; 1]).is_err(), "more than {there} blocks");
            client.set_nonblocking(false).unwrap();
        }
    }
}

fn t60_numbers_wrap_to_either<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let bytes = pattern(8 * 65600);
    let budget = crate::catalog::Budget::new(1 << 30);
    let image = Image::from_bytes(&bytes).unwrap();
    for framed in [false, true] {
        if framed {
            image.make_framed(8, &budget).unwrap();
        }
        for rollover in [0, 1] {
            let payload =
                UdpPayload::Blocks { image: Arc::clone(&image), blksize: 8, first: 65530, count: 12, rollover };
            bench.send(socket, client.local_addr().unwrap(), payload);
            for number in 65530..65542 {
                let mut got = [0; 64];
                let n = client.recv(&mut got).unwrap();
                assert_eq!(got[..n], packet(&bytes, 8, number, rollover), "block {number}, rollover {rollover}");
            }
        }
    }
}

/// A route on which the kernel refuses to cut: the blocks go one by one, and are not lost.
fn a_window_over_the_mtu_goes_block_by_block<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let bytes = pattern(40_000 * 3);
    let image = Image::from_bytes(&bytes).unwrap();
    let payload = UdpPayload::Blocks { image, blksize: 40_000, first: 1, count: 4, rollover: 0 };
    bench.send(socket, client.local_addr().unwrap(), payload);
    for number in 1..=4 {
        let mut got = vec![0; 70_000];
        let n = client.recv(&mut got).unwrap();
        assert!(got[..n] == packet(&bytes, 40_000, number, 0), "block {number}");
    }
}

fn full_hands_the_send_back<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, _) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let to = client.local_addr().unwrap();
    let mut taken = 0;
    let refused = loop {
        let payload = UdpPayload::Small(vec![taken as u8]);
        match bench.ring.udp_send(UdpSend { socket, to, from: None, payload }) {
            Ok(()) => taken += 1,
            Err((Full, send)) => break send,
        }
        assert!(taken <= UDP_SENDS);
    };
    assert_eq!(taken, UDP_SENDS);
    let until = bench.ring.now() + PATIENCE;
    let mut again = Some(refused);
    while let Some(send) = again.take() {
        assert!(bench.ring.now() < until);
        bench.turn(Some(bench.ring.now()));
        again = bench.ring.udp_send(send).err().map(|(Full, send)| send);
    }
}

/// More datagrams than there are buffers: reception goes on (io_uring: ENOBUFS ends a multishot).
fn a_burst_beyond_the_buffers_is_received<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let total = usize::from(UDP_BUFFERS) + 700;
    for i in 0..total as u32 {
        client.send_to(&i.to_be_bytes(), at).unwrap();
    }
    for i in 0..total as u32 {
        let Seen::Datagram { bytes, .. } = bench.next() else { panic!("no datagram") };
        assert_eq!(bytes, i.to_be_bytes());
    }
    client.send_to(b"after", at).unwrap();
    assert!(matches!(bench.next(), Seen::Datagram { .. }));
}

fn a_closed_udp_socket_is_silent<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (socket, at) = bench.udp("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let payload = UdpPayload::Small(b"last words".to_vec());
    let to = client.local_addr().unwrap();
    assert!(bench.ring.udp_send(UdpSend { socket, to, from: None, payload }).is_ok());
    bench.ring.udp_close(socket);
    bench.quiet(1);
    let mut got = [0; 16];
    assert_eq!(client.recv(&mut got).unwrap(), 10);
    client.connect(at).unwrap();
    client.send(b"x").unwrap();
    assert_eq!(client.recv(&mut got).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let payload = UdpPayload::Small(vec![1]);
    assert!(bench.ring.udp_send(UdpSend { socket, to, from: None, payload }).is_ok());
    bench.quiet(1);
}
