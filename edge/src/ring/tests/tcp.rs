//! Connections: served, closed, reset, and many of them.

use super::*;
use std::os::unix::fs::FileExt as _;

on_both_drivers! {
    an_answer_arrives_whole
    h38_a_file_that_is_cut_in_the_middle_of_an_answer_changes_nothing
    short_answers_and_heads_alone
    a_reset_is_no_end
    a_reset_cuts_off_a_blocked_send
    a_client_that_lingers_is_dropped_in_time
    a_client_that_leaves_is_noticed
    an_id_that_is_gone_is_harmless
    a_thousand_connections_are_served
    f10_a_closing_listener_serves_who_has_connected
}

/// Request in, head and body out, in quanta, to a client that reads slowly.
pub(super) fn an_answer_arrives_whole<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let bytes = pattern(5 << 20);
    let image = Image::from_bytes(&bytes).unwrap();
    let (mut stream, conn) = bench.connected(at);
    stream.write_all(b"GET /").unwrap();
    bench.ring.conn_recv(conn);
    assert!(matches!(bench.next(), Seen::Received(c, b) if c == conn && b == b"GET /"));
    let reader = thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), [0; 20_000]);
        loop {
            let n = stream.read(&mut some).unwrap();
            all.extend_from_slice(&some[..n]);
            if n == 0 {
                return all;
            }
            thread::yield_now();
        }
    });
    let (mut at, mut head) = (0, b"HEAD:".to_vec());
    while at < bytes.len() as u64 {
        let end = (at + BODY_QUANTUM_MAX - 11).min(bytes.len() as u64);
        let asked = head.len() as u64 + end - at;
        let body = Some(Body { image: Arc::clone(&image), range: at..end });
        bench.ring.conn_send(ConnSend { conn, head: std::mem::take(&mut head), body });
        let Seen::Sent(_, sent, error) = bench.next() else { panic!("not sent") };
        assert_eq!(sent, asked, "{error:?}");
        at = end;
    }
    bench.ring.conn_close(conn, Close::Graceful);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    let all = reader.join().unwrap();
    assert!(all[..5] == *b"HEAD:" && all[5..] == bytes[..]);
}

/// Whoever writes into an object's file or cuts it changes nothing of an answer, not even what waits in the socket's queue.
fn h38_a_file_that_is_cut_in_the_middle_of_an_answer_changes_nothing<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let bytes = pattern(1 << 20);
    // Beside the test program: /tmp may be a tmpfs, whose files have other pages.
    let store = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let id = protocol::manifest::ObjectId::of(&bytes);
    let path = store.path().join(id.to_string());
    std::fs::write(&path, &bytes).unwrap();
    let budget = crate::catalog::Budget::new(u64::MAX);
    let file = std::fs::File::open(&path).unwrap();
    let image = Image::load(&file, id, bytes.len() as u64, &budget, None).unwrap();
    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_send(ConnSend { conn, head: vec![], body: Some(Body { image, range: 0..1 << 20 }) });
    // Under way, and nobody reads.
    let until = bench.ring.now() + Duration::from_millis(20);
    while bench.ring.now() < until {
        bench.turn(Some(until));
    }
    let harm = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    harm.write_all_at(&[0xee; 300_000], 0).unwrap();
    harm.set_len(1000).unwrap();
    let mut got = vec![0; bytes.len()];
    thread::scope(|scope| {
        let reader = scope.spawn(|| stream.read_exact(&mut got).unwrap());
        assert!(matches!(bench.next(), Seen::Sent(_, 1_048_576, None)));
        reader.join().unwrap();
    });
    assert!(got == bytes);
}

fn short_answers_and_heads_alone<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let image = Image::from_bytes(b"0123456789").unwrap();
    let (mut stream, conn) = bench.connected(at);
    for (head, range, expected) in
        [(&b"H"[..], Some(2..5), &b"H234"[..]), (b"only", None, b"only"), (b"", Some(0..10), b"0123456789")]
    {
        let body = range.map(|range| Body { image: Arc::clone(&image), range });
        bench.ring.conn_send(ConnSend { conn, head: head.to_vec(), body });
        let Seen::Sent(_, sent, None) = bench.next() else { panic!("not sent") };
        assert_eq!(sent, expected.len() as u64);
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
    }
    // A range outside the image is refused, and nothing of it sent.
    let body = Some(Body { image, range: 5..11 });
    bench.ring.conn_send(ConnSend { conn, head: b"never".to_vec(), body });
    assert!(matches!(bench.next(), Seen::Sent(_, 0, Some(_))));
}

fn a_reset_is_no_end<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_recv(conn); // a pending receive is given up
    bench.quiet(1);
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_recv(conn);
    bench.quiet(1);
    bench.ring.conn_close(conn, Close::Graceful);
    bench.quiet(1); // lingers for the client's FIN
    stream.write_all(b"more than was asked for").unwrap();
    bench.quiet(1);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    drop(stream);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
}

fn a_reset_cuts_off_a_blocked_send<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let image = Image::from_bytes(&pattern(16 << 20)).unwrap();
    let (mut stream, conn) = bench.connected(at);
    bench.ring.conn_send(ConnSend { conn, head: vec![1], body: Some(Body { image, range: 0..16 << 20 }) });
    bench.quiet(5);
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    let mut all = Vec::new();
    assert_eq!(stream.read_to_end(&mut all).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(all.len() < 16 << 20);
}

fn a_client_that_lingers_is_dropped_in_time<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let (_stream, conn) = bench.connected(at);
    let start = bench.ring.now();
    bench.ring.conn_close(conn, Close::Graceful);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
    assert!(bench.ring.now() - start >= Duration::from_millis(crate::limits::LINGER_MS - 50));
}

fn a_client_that_leaves_is_noticed<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    // Half-closed: the end of its bytes, and the answer still reaches it.
    let (mut stream, conn) = bench.connected(at);
    stream.shutdown(Shutdown::Write).unwrap();
    bench.ring.conn_recv(conn);
    assert!(matches!(bench.next(), Seen::Received(c, b) if c == conn && b.is_empty()));
    bench.ring.conn_send(ConnSend { conn, head: b"late".to_vec(), body: None });
    assert!(matches!(bench.next(), Seen::Sent(_, 4, None)));
    bench.ring.conn_close(conn, Close::Graceful);
    assert!(matches!(bench.next(), Seen::Closed(_)));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"late");
    // Reset while being read from.
    let (stream, conn) = bench.connected(at);
    bench.ring.conn_recv(conn);
    bench.quiet(1);
    super::sys::reset_on_close(std::os::fd::AsRawFd::as_raw_fd(&stream));
    drop(stream);
    assert!(matches!(bench.next(), Seen::ConnFailed(c) if c == conn));
    // Reset while being sent to.
    bench.ring.conn_send(ConnSend { conn, head: b"x".to_vec(), body: None });
    assert!(matches!(bench.next(), Seen::Sent(c, 0, Some(_)) if c == conn));
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(c) if c == conn));
}

fn an_id_that_is_gone_is_harmless<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let (_a, conn) = bench.connected(at);
    bench.ring.conn_close(conn, Close::Reset);
    assert!(matches!(bench.next(), Seen::Closed(_)));
    let (_b, next) = bench.connected(at);
    assert_ne!(conn, next);
    bench.ring.conn_recv(conn);
    bench.ring.conn_send(ConnSend { conn, head: b"x".to_vec(), body: None });
    bench.ring.conn_close(conn, Close::Reset);
    bench.quiet(1);
}

fn a_thousand_connections_are_served<R: Ring>(ring: R) {
    const N: usize = 1000;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut bench = Bench::new(ring);
    let (_, at) = bench.listener();
    let bytes = pattern(100_000);
    let image = Image::from_bytes(&bytes).unwrap();
    let clients = thread::spawn(move || {
        let mut streams: Vec<_> = (0..N).map(|_| TcpStream::connect(at).unwrap()).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&(i as u32).to_be_bytes()).unwrap();
        }
        for (i, stream) in streams.iter_mut().enumerate() {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert!(all[..4] == (i as u32).to_be_bytes() && all[4..] == bytes[..], "client {i}");
        }
    });
    let (mut closed, mut state) = (0, HashMap::new());
    while closed < N {
        match bench.next() {
            Seen::Accepted(conn, ..) => bench.ring.conn_recv(conn),
            Seen::Received(conn, bytes) => {
                assert!(state.insert(conn, ()).is_none());
                let body = Some(Body { image: Arc::clone(&image), range: 0..100_000 });
                bench.ring.conn_send(ConnSend { conn, head: bytes, body });
            }
            Seen::Sent(conn, sent, error) => {
                assert_eq!(sent, 100_004, "{error:?}");
                bench.ring.conn_close(conn, Close::Graceful);
            }
            Seen::Closed(_) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    clients.join().unwrap();
}

fn f10_a_closing_listener_serves_who_has_connected<R: Ring>(ring: R) {
    let mut bench = Bench::new(ring);
    let (listener, at) = bench.listener();
    let _waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
    bench.ring.listener_close(listener);
    for _ in 0..5 {
        assert!(matches!(bench.next(), Seen::Accepted(..)));
    }
    bench.quiet(1);
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}
