//! Bodies to sockets by page: `vmsplice(2)` into a pipe, `splice(2)` out of it.
//!
//! `sendfile` asks a memfd for its pages one by one; `vmsplice` takes them out
//! of the mapping by the batch, which costs no more than a file of the page
//! cache (docs/PERFORMANCE.md). What a socket's queue holds then are pages of
//! sealed memory: nobody can change them on their way.

use super::sys;
use crate::catalog::Image;
use crate::limits::PIPE_BYTES;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// A pipe of one ring, empty between two calls.
pub struct Pipe {
    /// None where there is none to be had, or this one could not be emptied.
    ends: Option<Ends>,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    /// Takes what a socket did not.
    null: OwnedFd,
}

impl Pipe {
    /// A pipe, or a [`Pipe`] whose every [`send`](Self::send) fails, where the
    /// process has no descriptor left or there is no `/dev/null`.
    pub fn new() -> Self {
        Self { ends: Ends::open().ok() }
    }

    /// Sends what `socket` takes at once of `range`: how many bytes, fewer than
    /// there are also where the pipe is shorter.
    ///
    /// # Errors
    /// The socket's (`WouldBlock` where it is full), or whatever keeps the
    /// kernel from splicing (never `WouldBlock`): `sendfile` works then as well.
    pub fn send(&mut self, socket: RawFd, image: &Image, range: &Range<u64>) -> io::Result<u64> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::Unsupported.into()) };
        let most = range.end.min(range.start + PIPE_BYTES as u64);
        let bytes = image.bytes().get(range.start as usize..most as usize).unwrap_or_default();
        let filled = sys::vmsplice(ends.write.as_fd(), bytes).map_err(io::Error::other)?;
        let (sent, error) = ends.splice(socket, filled);
        if sent < filled && !ends.empty(filled - sent) {
            self.ends = None; // closed with what is in it: it must not get into another answer
        }
        match error {
            Some(e) if sent == 0 => Err(e),
            _ => Ok(sent as u64),
        }
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (read, write) = sys::pipe(PIPE_BYTES)?;
        let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { read, write, null })
    }

    /// Until all `filled` bytes went, or the socket refused.
    fn splice(&self, socket: RawFd, filled: usize) -> (usize, Option<io::Error>) {
        let mut sent = 0;
        while sent < filled {
            match sys::splice(self.read.as_fd(), socket, filled - sent) {
                Ok(0) => return (sent, Some(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => sent += n,
                Err(e) => return (sent, Some(e)),
            }
        }
        (sent, None)
    }

    /// Throws away what is in the pipe; false where that failed.
    fn empty(&self, mut left: usize) -> bool {
        while left > 0 {
            match sys::splice(self.read.as_fd(), self.null.as_raw_fd(), left) {
                Ok(n) if n > 0 => left -= n.min(left),
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        server.set_nonblocking(true).unwrap();
        (server, client)
    }

    fn image(seed: u8) -> std::sync::Arc<Image> {
        let bytes: Vec<u8> = (0..3usize << 20).map(|i| (i / 7 % 251) as u8 ^ seed).collect();
        Image::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn what_a_full_socket_left_in_the_pipe_gets_into_no_other_answer() {
        let mut pipe = Pipe::new();
        let (first, second) = (image(0), image(255));
        let (full, _never_reads) = connected();
        let mut at = 0;
        let refused = loop {
            match pipe.send(full.as_raw_fd(), &first, &(at % (1 << 20)..3 << 20)) {
                Ok(n) => at += n,
                Err(e) => break e,
            }
            assert!(at < 1 << 30, "a socket that takes everything");
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let (server, mut client) = connected();
        for range in [5..70_000, 1..4097, 70_001..3 << 20, 17..18] {
            let mut start = range.start;
            let mut got = vec![0; (range.end - range.start) as usize];
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| client.read_exact(&mut got).unwrap());
                while start < range.end {
                    match pipe.send(server.as_raw_fd(), &second, &(start..range.end)) {
                        Ok(n) => start += n,
                        Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                reader.join().unwrap();
            });
            assert!(got == second.bytes()[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[test]
    fn a_socket_that_is_gone_is_an_error_and_the_pipe_goes_on() {
        let mut pipe = Pipe::new();
        let image = image(1);
        let (server, client) = connected();
        drop(client);
        let failed = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            pipe.send(server.as_raw_fd(), &image, &(0..3 << 20)).err()
        });
        assert_ne!(failed.expect("no error").kind(), io::ErrorKind::WouldBlock);
        let (server, mut client) = connected();
        assert_eq!(pipe.send(server.as_raw_fd(), &image, &(0..100)).unwrap(), 100);
        let mut got = [0; 100];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, image.bytes()[..100]);
    }

    #[test]
    fn without_a_pipe_it_says_so() {
        let (server, _client) = connected();
        let error = Pipe { ends: None }.send(server.as_raw_fd(), &image(0), &(0..9)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
