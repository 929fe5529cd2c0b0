//! A node that fetches a file by HTTP/1.1.

use crate::engine::{Marks, Progress, Protocol, Watch, Why};
use crate::image::Image;
use protocol::time::Instant;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

/// An answer's head may not be longer, bytes.
const HEAD_MAX: usize = 8 << 10;
/// Header fields of an answer at most.
const FIELDS_MAX: usize = 64;
/// Taken from a connection at once, bytes.
const READ: usize = 256 << 10;

/// What the nodes fetch, and how.
pub struct Http {
    target: SocketAddr,
    request: Vec<u8>,
    image: Image,
    verify: bool,
    keep_alive: bool,
    idle: Vec<Socket>,
    buffer: Vec<u8>,
}

impl Http {
    /// Nodes that fetch `path` from `target` and expect `image`.
    ///
    /// With `verify` each byte is compared; without, the kernel drops the body
    /// (`MSG_TRUNC`, tcp(7)), so that the client's copying does not limit the
    /// server. With `keep_alive` a connection is used again by the next transfer.
    pub fn new(target: SocketAddr, path: &str, image: Image, verify: bool, keep_alive: bool) -> Self {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let request = format!(
            "GET /{} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: stoker-loadtest\r\nConnection: {connection}\r\n\r\n",
            path.trim_start_matches('/')
        );
        Self {
            target,
            request: request.into_bytes(),
            image,
            verify,
            keep_alive,
            idle: Vec::new(),
            buffer: vec![0; READ],
        }
    }

    fn connect(&self) -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM.nonblocking().cloexec(), None)?;
        match socket.connect(&self.target.into()) {
            Err(e) if e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(e),
            _ => Ok(socket),
        }
    }

    fn ask(&self, node: &mut Node, watch: &Watch<'_>) -> Result<(), String> {
        if let Ok(Some(e)) = node.socket.take_error() {
            return Err(cause("connect", &e));
        }
        match node.socket.send(&self.request) {
            Ok(n) if n == self.request.len() => {}
            Ok(_) => return Err("the request was taken in part".to_owned()),
            Err(e) => return Err(cause("send", &e)),
        }
        node.state = State::Head(Vec::new());
        watch.change(node.socket.as_fd(), EventFlags::IN).map_err(|e| cause("epoll", &e.into()))
    }

    fn read_head(&mut self, node: &mut Node, marks: &mut Marks, now: Instant) -> Progress {
        let State::Head(head) = &mut node.state else { return Progress::Going };
        // No more than the head's bound, so that little of the body lands here.
        let room = HEAD_MAX - head.len();
        let n = match rustix::net::recv(&node.socket, &mut self.buffer[..room], RecvFlags::empty()) {
            Ok((0, _)) => return Progress::Failed("closed before the answer".to_owned()),
            Ok((n, _)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Progress::Going,
            Err(e) => return Progress::Failed(cause("read", &e.into())),
        };
        head.extend_from_slice(&self.buffer[..n]);
        match parse_head(head) {
            Ok(None) if head.len() < HEAD_MAX => Progress::Going,
            Ok(None) => Progress::Failed("the answer's head is too long".to_owned()),
            Err(why) => Progress::Failed(why),
            Ok(Some((_, length))) if length != self.image.len() => {
                Progress::Failed(format!("the answer says {length} bytes instead of {}", self.image.len()))
            }
            Ok(Some((end, _))) => {
                let start = head.split_off(end);
                node.state = State::Body { at: 0 };
                self.body(node, &start, start.len(), marks, now)
            }
        }
    }

    fn read_body(&mut self, node: &mut Node, marks: &mut Marks, now: Instant) -> Progress {
        let flags = if self.verify { RecvFlags::empty() } else { RecvFlags::TRUNC };
        let mut buffer = std::mem::take(&mut self.buffer);
        let got = rustix::net::recv(&node.socket, &mut buffer[..], flags);
        let progress = match got {
            Ok((0, _)) => Progress::Failed("closed in the middle of the file".to_owned()),
            Ok((n, _)) => self.body(node, buffer.get(..n).unwrap_or_default(), n, marks, now),
            Err(Errno::AGAIN | Errno::INTR) => Progress::Going,
            Err(e) => Progress::Failed(cause("read", &e.into())),
        };
        self.buffer = buffer;
        progress
    }

    fn body(&self, node: &mut Node, bytes: &[u8], n: usize, marks: &mut Marks, now: Instant) -> Progress {
        let State::Body { at } = &mut node.state else { return Progress::Going };
        if n > 0 && marks.first_byte.is_none() {
            marks.first_byte = Some(now);
        }
        if self.verify && !self.image.holds(*at, bytes) {
            return Progress::Failed("WRONG BYTES".to_owned());
        }
        *at += n as u64;
        marks.bytes += n as u64;
        match (*at).cmp(&self.image.len()) {
            std::cmp::Ordering::Less => Progress::Going,
            std::cmp::Ordering::Equal => Progress::Done,
            std::cmp::Ordering::Greater => Progress::Failed("more bytes than announced".to_owned()),
        }
    }
}

/// A connection with a request on its way.
pub struct Node {
    socket: Socket,
    state: State,
}

enum State {
    Connecting,
    Head(Vec<u8>),
    Body { at: u64 },
}

impl Protocol for Http {
    type Node = Node;

    fn begin(&mut self, watch: &Watch<'_>, _now: Instant) -> Result<Node, String> {
        if let Some(socket) = self.idle.pop() {
            watch.take_over(socket.as_fd(), EventFlags::OUT).map_err(|e| cause("epoll", &e.into()))?;
            return Ok(Node { socket, state: State::Connecting });
        }
        let socket = self.connect().map_err(|e| cause("connect", &e))?;
        watch.add(socket.as_fd(), EventFlags::OUT).map_err(|e| cause("epoll", &e.into()))?;
        Ok(Node { socket, state: State::Connecting })
    }

    fn step(&mut self, node: &mut Node, marks: &mut Marks, _: Why, watch: &Watch<'_>, now: Instant) -> Progress {
        match node.state {
            State::Connecting => match self.ask(node, watch) {
                Ok(()) => Progress::Going,
                Err(why) => Progress::Failed(why),
            },
            State::Head(_) => self.read_head(node, marks, now),
            State::Body { .. } => self.read_body(node, marks, now),
        }
    }

    fn deadline(&self, _: &Node) -> Option<Instant> {
        None
    }

    fn end(&mut self, node: Node, went_well: bool) {
        if went_well && self.keep_alive {
            self.idle.push(node.socket);
        }
    }
}

/// Where the body begins and how long it will be; `None` while the head is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, u64)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut fields);
    let end = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("not an HTTP answer".to_owned()),
    };
    match answer.code {
        Some(200) => {}
        code => return Err(format!("status {}", code.unwrap_or(0))),
    }
    let length = answer.headers.iter().find(|f| f.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|f| std::str::from_utf8(f.value).ok()).and_then(|v| v.trim().parse().ok());
    length.map(|length| Some((end, length))).ok_or_else(|| "no Content-Length".to_owned())
}

fn cause(what: &str, error: &std::io::Error) -> String {
    format!("{what}: {}", error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_bad_ones_named() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-length: 5\r\n\r\nhello";
        assert_eq!(parse_head(whole), Ok(Some((whole.len() - 5, 5))));
        assert_eq!(parse_head(&whole[..20]), Ok(None));
        assert_eq!(parse_head(b"HTTP/1.1 404 Not Found\r\n\r\n"), Err("status 404".to_owned()));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse_head(b"\x00\x01garbage\r\n\r\n").is_err());
    }
}
