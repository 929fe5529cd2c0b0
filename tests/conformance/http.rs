//! HTTP on real sockets, on both drivers, by curl and by a client that sees
//! every byte. The tables behind most items are in `protocol::http`; here is
//! shown that they hold with a kernel in between.

mod http_server;

use edge::http::Config;
use http_server::{Client, Response, on_both};
use protocol::http::connection::Patience;
use protocol::manifest::ObjectId;
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const HOST: &str = "Host: edge\r\n";

/// Bytes that differ everywhere.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn curl(arguments: &[&str]) -> Vec<u8> {
    let out = Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).output().expect("curl runs");
    assert!(out.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn statuses(mut client: Client, count: usize) -> Vec<u16> {
    (0..count).map(|_| client.response(false).unwrap().status).collect()
}

#[test]
fn h01_h10_h12_h34_curl_gets_heads_and_resumes() {
    let file = bytes(5_000_001);
    on_both(Config::default(), &[("a/f.efi", &file), ("empty", b"")], |server| {
        let url = server.url("a/f.efi");
        assert!(curl(&[&url]) == file);
        assert!(curl(&["--http1.0", &url]) == file);
        assert!(curl(&["-r", "1000000-1999999", &url]) == file[1_000_000..2_000_000]);
        assert!(curl(&["-r", "-7", &url]) == file[file.len() - 7..]);
        assert!(curl(&["-C", "4000000", &url]) == file[4_000_000..], "resumed");
        assert_eq!(curl(&[&server.url("empty")]), b"");
        let fields = |text: Vec<u8>| -> Vec<String> {
            String::from_utf8(text).unwrap().lines().filter(|l| !l.starts_with("Date:")).map(str::to_owned).collect()
        };
        let head = fields(curl(&["-I", &url]));
        assert_eq!(head, fields(curl(&["-D", "-", "-o", "/dev/null", &url])), "h01");
        for line in [
            "HTTP/1.1 200 OK",
            "Server: stoker",
            "Content-Length: 5000001",
            "Accept-Ranges: bytes",
            "Content-Type: application/octet-stream",
        ] {
            assert!(head.iter().any(|l| l == line), "{line} in {head:?}");
        }
        assert!(head.contains(&format!("ETag: \"{}\"", ObjectId::of(&file))), "h20");
    });
}

#[test]
fn h03_h04_connections_persist_or_close_as_asked() {
    on_both(Config::default(), &[("f", b"file")], |server| {
        for (request, keeps) in [
            ("GET /f HTTP/1.1\r\nHost: e\r\n\r\n", true),
            ("GET /f HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n", false),
            ("GET /f HTTP/1.0\r\n\r\n", false),
            ("GET /f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            let mut client = server.connect();
            client.say(request);
            assert_eq!(client.response(false).unwrap().body, b"file");
            if keeps {
                client.say(request);
                assert_eq!(client.response(false).unwrap().body, b"file");
            } else {
                assert_eq!(client.rest().unwrap(), b"", "{request:?}");
            }
        }
        // Three transfers of curl on one connection.
        let accepted = server.metrics.accepted.get();
        let url = server.url("f");
        assert_eq!(curl(&[&url, &url, &url]), b"filefilefile");
        server.wait_for("one connection", |m| m.accepted.get() == accepted + 1);
    });
}

#[test]
fn h05_pipelined_requests_are_answered_in_order_across_packets() {
    let file = bytes(350_000);
    on_both(Config::default(), &[("f", &file)], |server| {
        let mut client = server.connect();
        let requests: String = (0..64)
            .map(|i| format!("GET /f HTTP/1.1\r\n{HOST}Range: bytes={}-{}\r\n\r\n", i * 4000, i * 5000))
            .collect();
        let mut out = client.stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            for piece in requests.as_bytes().chunks(777) {
                out.write_all(piece).unwrap();
            }
        });
        for i in 0..64 {
            let response = client.response(false).unwrap();
            assert!(response.status == 206 && response.body == file[i * 4000..=i * 5000], "{i}: {}", response.head);
        }
        writer.join().unwrap();
    });
}

#[test]
fn h02_h06_h07_h08_h09_h13_h14_h16_h17_h18_h39_one_request_one_status() {
    on_both(Config::default(), &[("f", b"0123456789"), ("52-54-00-12-34-56", b"named like a MAC")], |server| {
        for (request, status) in [
            ("POST /f HTTP/1.1\r\nHost: e\r\n\r\n", 405),
            ("OPTIONS * HTTP/1.1\r\nHost: e\r\n\r\n", 405),
            ("GET /f HTTP/1.1\r\n\r\n", 400),
            ("GET /f HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET http://e/f HTTP/1.1\r\nHost: e\r\n\r\n", 200),
            ("GET /f HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 200),
            ("GET /f?uuid=%zz HTTP/1.1\r\nHost: e\r\n\r\n", 200),
            ("GET /%66 HTTP/1.1\r\nHost: e\r\n\r\n", 200),
            ("GET /%2566 HTTP/1.1\r\nHost: e\r\n\r\n", 404),
            ("GET /../../etc/passwd HTTP/1.1\r\nHost: e\r\n\r\n", 400),
            ("GET /%2e%2e%2fetc/passwd HTTP/1.1\r\nHost: e\r\n\r\n", 400),
            ("GET /..%5cf HTTP/1.1\r\nHost: e\r\n\r\n", 400),
            ("GET //f HTTP/1.1\r\nHost: e\r\n\r\n", 400),
            ("GET /f%00 HTTP/1.1\r\nHost: e\r\n\r\n", 400),
            ("GET /x HTTP/1.1\r\nHost: e\r\n\r\n", 404),
            ("GET / HTTP/1.1\r\nHost: e\r\n\r\n", 404),
            ("GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n", 200),
            ("GET /52-54-00-12-34-56/f HTTP/1.1\r\nHost: e\r\n\r\n", 200),
            ("GET /52-54-00-12-34-56 HTTP/1.1\r\nHost: e\r\n\r\n", 200),
            ("GET /f HTTP/1.1\r\nHost: e\r\nRange: bytes=10-\r\n\r\n", 416),
            ("GET /f HTTP/1.1\r\nHost: e\r\nRange: bytes=99999999999999999999-\r\n\r\n", 416),
            ("GET /f HTTP/1.1\r\nHost: e\r\nRange: bytes=0-99999999999999999999\r\n\r\n", 206),
            ("GET /f HTTP/1.1\r\nHost: e\r\nRange: lines=1-2\r\n\r\n", 200),
            ("GET /f HTTP/1.1\r\nHost: e\r\nRange: bytes=0-1,4-5\r\n\r\n", 200),
            ("HEAD /f HTTP/1.1\r\nHost: e\r\nRange: bytes=4-5\r\n\r\n", 200),
            ("GET /f HTTP/3.0\r\nHost: e\r\n\r\n", 505),
        ] {
            let response = server.ask(request);
            assert_eq!(response.status, status, "{request:?}: {}", response.head);
            assert!(response.head.len() < 1024 && response.field("Transfer-Encoding").is_none());
            assert_eq!(response.field("Allow").is_some(), status == 405);
        }
        assert_eq!(server.get("/f", "Range: bytes=10-\r\n").field("Content-Range"), Some("bytes */10"));
    });
}

#[test]
fn h11_h15_h19_h20_h21_h22_h23_h24_h25_h36_conditions_and_ranges() {
    let file = bytes(10_000);
    let etag = format!("\"{}\"", ObjectId::of(&file));
    on_both(Config::default(), &[("f", &file)], |server| {
        let get = |fields: String| -> (u16, usize) {
            let r: Response = server.get("/f", &format!("{fields}\r\n"));
            (r.status, r.body.len())
        };
        assert_eq!(get(format!("If-None-Match: {etag}")), (304, 0));
        assert_eq!(get(format!("If-Match: {etag}")), (200, 10_000));
        assert_eq!(get("If-Match: \"other\"".into()).0, 412);
        assert_eq!(get(format!("Range: bytes=5-\r\nIf-Range: {etag}")), (206, 9_995));
        assert_eq!(get("Range: bytes=5-\r\nIf-Range: \"other\"".into()), (200, 10_000));
        assert_eq!(get("Range: bytes=9000-99999".into()), (206, 1000));
        assert_eq!(get("Expect: 100-continue".into()), (200, 10_000));
        assert_eq!(server.get("/f", "").field("Accept-Ranges"), Some("bytes"));
        // curl keeps an ETag and asks again with it.
        let dir = tempfile::tempdir().unwrap();
        let (keep, out) = (dir.path().join("etag"), dir.path().join("out"));
        let (keep, out) = (keep.to_str().unwrap(), out.to_str().unwrap());
        curl(&["--etag-save", keep, "-o", out, &server.url("f")]);
        let again = curl(&["--etag-compare", keep, "-o", out, "-w", "%{http_code} %{size_download}", &server.url("f")]);
        assert_eq!(again, b"304 0");
    });
}

#[test]
fn h26_h27_h28_h35_what_could_be_smuggled_ends_the_connection() {
    on_both(Config::default(), &[("f", b"file")], |server| {
        let long = "v".repeat(9000);
        let target = "t".repeat(3000);
        let many: String = (0..70).map(|i| format!("X-{i}: y\r\n")).collect();
        for (text, status) in [
            (format!("GET /f HTTP/1.1\r\n{HOST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
            (format!("GET /f HTTP/1.1\r\n{HOST}Content-Length: 4\r\nContent-Length: 4\r\n\r\n"), 400),
            (format!("GET /f HTTP/1.1\r\n{HOST}Content-Length: +5\r\n\r\n"), 400),
            (format!("GET /f HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
            ("GET /f HTTP/1.1\nHost: e\n\n".to_owned(), 400),
            (format!("GET /f HTTP/1.1\r\n{HOST}X: a\r\n b\r\n\r\n"), 400),
            ("GET /f HTTP/1.1\r\nHost : e\r\n\r\n".to_owned(), 400),
            ("GET /f HTTP/1.1\r\nHost: e\0\r\n\r\n".to_owned(), 400),
            ("\x16\x03\x01 a TLS hello".to_owned(), 400),
            (format!("GET /f HTTP/1.1\r\n{HOST}X: {long}\r\n\r\n"), 431),
            (format!("GET /f HTTP/1.1\r\n{HOST}{many}\r\n"), 431),
            (format!("GET /{target} HTTP/1.1\r\n{HOST}\r\n"), 414),
            (format!("GET /f HTTP/1.1\r\n{HOST}Content-Length: 99999999\r\n\r\n"), 413),
        ] {
            let mut client = server.connect();
            // Behind it a request that must not be answered.
            client.say(format!("{text}GET /f HTTP/1.1\r\n{HOST}\r\n"));
            let response = client.response(false).unwrap();
            assert_eq!((response.status, response.field("Connection")), (status, Some("close")), "{text:?}");
            assert_eq!(client.rest().unwrap(), b"", "nothing more after {text:?}");
        }
    });
}

#[test]
fn h29_a_body_on_get_is_thrown_away() {
    on_both(Config::default(), &[("f", b"file")], |server| {
        let mut client = server.connect();
        let body = "GET /smuggled HTTP/1.1\r\n\r\n".repeat(2000);
        let length = body.len();
        client.say(format!(
            "GET /f HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n{body}GET /f HTTP/1.1\r\n{HOST}\r\n"
        ));
        assert_eq!(statuses(client, 2), [200, 200]);
    });
}

/// Deadlines short enough to wait for, long enough for good clients on a busy machine.
fn hasty() -> Config {
    let ms = Duration::from_millis;
    Config {
        patience: Patience { head: ms(400), idle: ms(600) },
        grace: ms(500),
        min_rate: 1 << 20,
        ..Config::default()
    }
}

#[test]
fn h30_slow_clients_are_cut_off_and_others_are_not() {
    let file = bytes(8 << 20);
    on_both(hasty(), &[("f", &file)], |server| {
        // A head byte by byte.
        let mut slow = server.connect();
        let dribble = std::thread::spawn(move || {
            let since = Instant::now();
            for byte in b"GET /f HTTP/1.1\r\nX: a very long time" {
                if slow.stream.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(200));
                if since.elapsed() > Duration::from_millis(4500) {
                    break;
                }
            }
            (slow.response(false).map(|r| r.status).ok(), since.elapsed())
        });
        // A reader that does not read, with little room on its side.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&server.addr.into()).unwrap();
        let mut deaf = Client::of(TcpStream::from(socket));
        deaf.say(format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
        // An idle one.
        let mut idle = server.connect();
        idle.say(format!("GET /f HTTP/1.1\r\n{HOST}Range: bytes=0-0\r\n\r\n"));
        assert_eq!(idle.response(false).unwrap().status, 206);

        assert!(server.get("/f", "").body == file, "others are served meanwhile");
        let (status, after) = dribble.join().unwrap();
        assert!(status == Some(408) || status.is_none(), "{status:?}");
        assert!(after < Duration::from_secs(20), "{after:?}");
        assert_eq!(idle.rest().unwrap(), b"", "closed after the idle time");
        server.wait_for("the deaf client is cut off", |m| m.connections.get() == 0);
        let got = deaf.rest();
        assert!(got.is_err(), "a reset, not an end: {:?}", got.map(|b| b.len()));
        assert!(server.get("/f", "").body == file);
    });
}

#[test]
fn h31_clients_that_leave_mid_body_leave_nothing_behind() {
    let file = bytes(8 << 20);
    on_both(Config::default(), &[("f", &file)], |server| {
        for round in 0..60 {
            let mut client = server.connect();
            client.say(format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
            if round % 3 == 0 {
                // Unread bytes make the close a reset.
                std::thread::sleep(Duration::from_millis(2));
            }
            drop(client);
        }
        server.wait_for("all connections are closed", |m| m.connections.get() == 0 && m.http.active.get() == 0);
        assert!(server.get("/f", "").body == file);
    });
}

#[test]
fn h32_a_half_closed_client_gets_its_answer() {
    let file = bytes(3 << 20);
    on_both(Config::default(), &[("f", &file)], |server| {
        let mut client = server.connect();
        client.say(format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
        client.end();
        assert!(client.response(false).unwrap().body == file);
        assert_eq!(client.rest().unwrap(), b"");
    });
}

#[test]
fn h33_idle_connections_are_bounded_and_the_oldest_goes_first() {
    let config = Config { connections: 100, per_client: 1000, ..Config::default() };
    on_both(config, &[("f", b"file")], |server| {
        let request = format!("GET /f HTTP/1.1\r\n{HOST}\r\n");
        let mut clients = Vec::new();
        for _ in 0..300 {
            let mut client = server.connect();
            client.say(&request);
            assert_eq!(client.response(false).unwrap().body, b"file");
            clients.push(client);
        }
        server.wait_for("bounded", |m| m.connections.get() <= 100);
        assert_eq!(server.metrics.evicted.get(), 200);
        assert_eq!(clients[0].rest().unwrap(), b"", "the oldest was closed");
        let last = clients.last_mut().unwrap();
        last.say(&request);
        assert_eq!(last.response(false).unwrap().body, b"file", "the newest was not");
    });
}

#[test]
fn h38_a_file_replaced_mid_body_is_sent_to_its_end_as_it_was() {
    let (old, new) = (bytes(12 << 20), vec![7; 1000]);
    on_both(Config::default(), &[("f", &old)], |server| {
        let mut client = server.connect();
        client.say(format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
        server.wait_for("begun", |m| m.http.started.get() == 1);
        server.mailbox.publish(http_server::catalog(2, &[("f", &new)]));
        let etag = format!("\"{}\"", ObjectId::of(&new));
        // Requests on other connections get the new one as soon as the worker has it.
        let deadline = Instant::now() + http_server::PATIENCE;
        while server.get("/f", "").field("ETag") != Some(&etag) {
            assert!(Instant::now() < deadline);
        }
        let response = client.response(false).unwrap();
        assert!(response.body == old && response.field("Content-Length") == Some("12582912"));
        client
            .say(format!("GET /f HTTP/1.1\r\n{HOST}Range: bytes=0-9\r\nIf-Range: \"{}\"\r\n\r\n", ObjectId::of(&old)));
        let response = client.response(false).unwrap();
        assert_eq!((response.status, response.body), (200, new.clone()), "f14: another version is not mixed in");
    });
}

#[test]
fn h38_a_stopped_edge_resets_what_it_has_not_sent() {
    let file = bytes(32 << 20);
    for driver in http_server::drivers() {
        let server = http_server::Server::start(driver, Config::default(), &[("f", &file)]);
        let mut client = server.connect();
        client.say(format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
        server.wait_for("begun", |m| m.http.started.get() == 1);
        drop(server);
        let got = client.response(false);
        assert!(got.is_err(), "a short body must not look whole");
    }
}

#[test]
fn h41_every_way_of_sending_gives_the_same_bytes() {
    let small: Vec<(String, Vec<u8>)> = [0, 1, 511, 4096, 32767, 32768, 32769, 65536, 262_143, 262_144, 262_145]
        .map(|n| (format!("n{n}"), bytes(n)))
        .into();
    let large = bytes((3 << 20) + 17);
    let mut files: Vec<(&str, &[u8])> = small.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    files.push(("large", &large));
    on_both(Config::default(), &files, |server| {
        let mut client = server.connect();
        for (name, bytes) in &files {
            client.say(format!("GET /{name} HTTP/1.1\r\n{HOST}\r\n"));
            assert!(client.response(false).unwrap().body == *bytes, "{name}");
        }
        let (mut at, mut len) = (0usize, 1usize);
        for _ in 0..60 {
            let end = (at + len).min(large.len());
            client.say(format!("GET /large HTTP/1.1\r\n{HOST}Range: bytes={at}-{}\r\n\r\n", end - 1));
            assert!(client.response(false).unwrap().body == large[at..end], "{at}..{end}");
            (at, len) = ((at + 77_777) % large.len(), (len * 3 + 1) % 2_000_003);
        }
    });
}

#[test]
fn h30_h33_a_hundred_clients_at_once_all_get_the_whole_file() {
    let file = bytes(4 << 20);
    on_both(Config::default(), &[("f", &file)], |server| {
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| assert!(server.get("/f", "").body == file));
            }
        });
        server.wait_for("all counted", |m| m.http.bytes.get() == 100 * file.len() as u64);
    });
}
