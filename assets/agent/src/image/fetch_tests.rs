use super::*;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does with one connection.
#[derive(Clone, Copy)]
enum Does {
    /// Serves what is asked for, and ends after so many bytes of the body.
    Serve(usize),
    /// The same from the start, whatever is asked for.
    Whole,
    /// Answers with this line of status.
    Say(&'static str),
    /// Serves under another ETag.
    Other,
    /// Claims another length.
    Longer,
}

/// A server that does one thing for each connection, then serves; the ranges that were asked for.
fn server(content: Vec<u8>, script: &'static [Does]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        let mut script = script.iter().copied();
        for stream in listener.incoming().map_while(Result::ok) {
            let does = script.next().unwrap_or(Does::Serve(usize::MAX));
            answer(&stream, &content, does, &log);
        }
    });
    (url, asked)
}

fn answer(stream: &TcpStream, content: &[u8], does: Does, log: &Mutex<Vec<String>>) {
    let mut range = String::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("range: ") {
            range = value.to_owned();
        }
        if let Some(value) = line.strip_prefix("if-range: ") {
            range += &format!(" if {value}");
        }
    }
    log.lock().unwrap().push(range.clone());
    let from: usize = range.strip_prefix("bytes=").and_then(|r| r.split('-').next()?.parse().ok()).unwrap_or(0);
    let (status, from, etag, extra) = match does {
        Does::Say(status) => (status, content.len(), "a", 0),
        Does::Serve(_) | Does::Longer if from == 0 => ("200 OK", 0, "a", usize::from(matches!(does, Does::Longer))),
        Does::Serve(_) | Does::Longer => ("206 Partial Content", from, "a", 0),
        Does::Whole => ("200 OK", 0, "a", 0),
        Does::Other => ("200 OK", 0, "b", 0),
    };
    let (body, total) = (&content[from..], content.len());
    let length = body.len() + extra;
    let mut head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: \"{etag}\"\r\nconnection: close\r\n");
    if status.starts_with("206") {
        head += &format!("content-range: bytes {from}-{}/{total}\r\n", total - 1);
    }
    let mut out = stream;
    let _ = out.write_all(format!("{head}\r\n").as_bytes());
    let n = if let Does::Serve(n) = does { n.min(body.len()) } else { body.len() };
    let _ = out.write_all(&body[..n]);
}

struct Patient;

impl Watch for Patient {
    fn failed(&mut self, _: u32, _: &str) -> bool {
        true
    }
    fn stands(&self) -> bool {
        true
    }
}

fn content() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i % 251) as u8).collect()
}

fn download(script: &'static [Does]) -> (Result<Vec<u8>, String>, Vec<String>) {
    let content = content();
    let (url, asked) = server(content.clone(), script);
    let mut got = Vec::new();
    let mut download = Download::new(&url, content.len() as u64, Box::new(Patient));
    let ended = download.read_to_end(&mut got).map(|_| got).map_err(|e| e.to_string());
    let asked = asked.lock().unwrap().clone();
    (ended, asked)
}

#[test]
fn a_broken_connection_goes_on_where_it_ended() {
    let (got, asked) = download(&[Does::Serve(100_000), Does::Say("503 Service Unavailable"), Does::Serve(50_000)]);
    assert!(got.unwrap() == content());
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!(asked[0], "");
    assert_eq!((asked[1].as_str(), asked[2].as_str()), ("bytes=100000- if \"a\"", "bytes=100000- if \"a\""));
    assert_eq!(asked[3], "bytes=150000- if \"a\"");
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_again() {
    let (got, asked) = download(&[Does::Serve(1), Does::Whole]);
    assert!(got.unwrap() == content());
    assert_eq!(asked.len(), 2);
}

#[test]
fn what_cannot_come_right_is_given_up() {
    for (script, words, connections) in [
        (&[Does::Longer][..], "the server has 300001 bytes, the order names 300000", 1),
        (&[Does::Serve(9), Does::Other], "changed while it was being fetched", 2),
        (&[Does::Say("404 Not Found"); 9], "HTTP 404 (at byte 0 of 300000)", MAX_REFUSALS as usize),
    ] {
        let (got, asked) = download(script);
        let why = got.unwrap_err();
        assert!(why.contains(words), "{words}: {why}");
        assert_eq!(asked.len(), connections, "{words}");
    }
}

struct Gone;

impl Watch for Gone {
    fn failed(&mut self, _: u32, _: &str) -> bool {
        false
    }
    fn stands(&self) -> bool {
        false
    }
}

#[test]
fn a_withdrawn_order_fetches_no_more() {
    let (url, asked) = server(content(), &[]);
    let mut download = Download::new(&url, 300_000, Box::new(Gone));
    assert_eq!(download.read(&mut [0; 10]).unwrap_err().to_string(), "withdrawn");
    assert_eq!(user_data(&url, &mut Gone), Err("withdrawn".into()));
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn user_data_is_fetched_and_its_address_is_not_told() {
    let (url, _) = server(b"#cloud-config\n".to_vec(), &[Does::Say("503 Service Unavailable")]);
    assert_eq!(user_data(&url, &mut Patient).as_deref(), Ok(&b"#cloud-config\n"[..]));
    let (url, _) = server(Vec::new(), &[Does::Say("403 Forbidden"); 9]);
    let why = user_data(&format!("{url}?token=secret"), &mut Patient).unwrap_err();
    assert_eq!(why, "HTTP 403");
    for bad in ["http://[secret", "secret", "gopher://secret/"] {
        let why = user_data(bad, &mut Gone2(0)).unwrap_err();
        assert!(!why.contains("secret"), "{why}");
    }
    let (url, _) = server(vec![b'x'; MAX_USER_DATA as usize + 1], &[]);
    assert!(user_data(&url, &mut Gone2(0)).is_err(), "larger than anybody's");
}

/// Stands until the first failure.
struct Gone2(u32);

impl Watch for Gone2 {
    fn failed(&mut self, _: u32, _: &str) -> bool {
        self.0 += 1;
        false
    }
    fn stands(&self) -> bool {
        self.0 == 0
    }
}
