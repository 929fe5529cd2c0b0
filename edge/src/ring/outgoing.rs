//! A TCP answer on its way: head, then a range of an image.
//!
//! Both drivers push with plain nonblocking calls where the kernel copies
//! anyway; the uring driver has further ways of its own.

use super::pipe::Pipe;
use super::{ConnSend, sys};
use crate::catalog::Image;
use crate::limits::BODY_COPY_MAX;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

/// What is left of one `conn_send`.
pub struct Outgoing {
    head: Vec<u8>,
    head_sent: usize,
    body: Option<Arc<Image>>,
    range: Range<u64>,
    /// The kernel refuses to splice, or the socket failed: `sendfile` tells which.
    unspliced: bool,
    /// The socket holds back segments that are not full.
    corked: bool,
    /// Bytes that went out, head and body together.
    pub sent: u64,
}

/// How far one push came.
pub enum Push {
    /// Everything went.
    Done,
    /// The socket takes no more for now.
    Blocked,
    /// It never will.
    Failed(io::Error),
}

impl Outgoing {
    /// # Errors
    /// The range is not inside the image: our fault, and the caller's to say.
    pub fn new(send: ConnSend) -> io::Result<Self> {
        let (body, range) = match send.body {
            Some(body) => (Some(body.image), body.range),
            None => (None, 0..0),
        };
        let length = body.as_ref().map_or(0, |image| image.bytes().len() as u64);
        if range.start > range.end || range.end > length {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "byte range outside the image"));
        }
        Ok(Self { head: send.head, head_sent: 0, body, range, unspliced: false, corked: false, sent: 0 })
    }

    /// What is left of the head.
    pub fn head(&self) -> &[u8] {
        self.head.get(self.head_sent..).unwrap_or(&[])
    }

    /// What is left of the body.
    pub fn body(&self) -> &[u8] {
        let image = self.body.as_ref().map_or(&[][..], |image| image.bytes());
        image.get(self.range.start as usize..self.range.end as usize).unwrap_or(&[])
    }

    /// The image that the body is part of.
    pub fn image(&self) -> Option<&Arc<Image>> {
        self.body.as_ref()
    }

    /// Bytes left in all.
    pub fn left(&self) -> u64 {
        self.head().len() as u64 + (self.range.end - self.range.start)
    }

    /// The body is so short that copying it is the best way.
    pub fn better_copied(&self) -> bool {
        self.range.end - self.range.start <= BODY_COPY_MAX
    }

    /// `n` more bytes went out.
    pub fn advance(&mut self, n: u64) {
        let of_head = n.min(self.head().len() as u64);
        self.head_sent += of_head as usize;
        self.range.start = (self.range.start + (n - of_head)).min(self.range.end);
        self.sent += n;
    }

    /// Sends what the socket takes: the head corked with what follows it, the
    /// body by page where there is enough of it. Each round moves bytes, gives
    /// up the pipe for `sendfile`, or is the last.
    pub fn push(&mut self, socket: RawFd, pipe: &mut Pipe) -> Push {
        while self.left() > 0 {
            match self.step(socket, pipe) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Push::Blocked,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) if n > 0 => self.advance(n),
                // Or it is the socket, and the next round says so again.
                _ if !self.unspliced => self.unspliced = true,
                Ok(_) => return Push::Failed(io::ErrorKind::UnexpectedEof.into()),
                Err(e) => return Push::Failed(e),
            }
        }
        if self.corked {
            sys::cork(socket, false);
        }
        Push::Done
    }

    fn step(&mut self, socket: RawFd, pipe: &mut Pipe) -> io::Result<u64> {
        if self.better_copied() {
            return sys::send_two(socket, self.head(), self.body(), libc::MSG_DONTWAIT).map(|n| n as u64);
        }
        if !self.head().is_empty() {
            let flags = libc::MSG_DONTWAIT | libc::MSG_MORE;
            return sys::send_two(socket, self.head(), &[], flags).map(|n| n as u64);
        }
        let Some(image) = &self.body else { return Ok(0) };
        if !self.corked {
            // Both ways push each 64 KB, and a segment holds a little less than that. SPLICE_F_MORE does not
            // help: the next acknowledgement lets the rest go all the same.
            self.corked = true;
            sys::cork(socket, true);
        }
        if self.unspliced {
            let count = self.range.end - self.range.start;
            return sys::sendfile(socket, image.fd(), self.range.start, count);
        }
        pipe.send(socket, image, &self.range)
    }
}
