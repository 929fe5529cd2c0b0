//! Served bytes to the bytes of the disk: digest and count of what is served,
//! then raw, Zstandard (RFC 8878) or XZ.

use protocol::report::ImageFormat;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::io::{self, BufRead as _, BufReader, Read};
use std::rc::Rc;

/// Read from the network in pieces of this size, bytes.
const PIECE: usize = 1 << 20;
/// Memory that unpacking XZ may take, bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 192 << 20;
/// Largest window of Zstandard, as a power of two: 128 MiB, what `zstd --ultra -22` makes.
const ZSTD_WINDOW: u32 = 27;

/// What has been served so far.
#[derive(Clone, Default)]
pub struct Tally(Rc<RefCell<(u64, Sha256)>>);

impl Tally {
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.0.borrow().0
    }

    /// SHA-256 of them, 64 hex digits.
    pub fn sha256(&self) -> String {
        let digest = self.0.borrow().1.clone().finalize();
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }
}

struct Served {
    inner: Box<dyn Read>,
    tally: Tally,
}

impl Read for Served {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let mut tally = self.tally.0.borrow_mut();
        tally.0 += n as u64;
        tally.1.update(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// An image being unpacked.
pub struct Unpacked {
    /// The bytes of the disk.
    pub reader: Box<dyn Read>,
    /// Of the bytes as served.
    pub tally: Tally,
    /// How many bytes there will be, where that is known before they come.
    pub length: Option<u64>,
}

/// Begins to unpack; reads a first piece.
///
/// # Errors
/// When nothing can be had, or it is not packed as the order says.
pub fn unpack(served: Box<dyn Read>, format: ImageFormat, served_length: u64) -> io::Result<Unpacked> {
    let tally = Tally::default();
    let mut reader = BufReader::with_capacity(PIECE, Served { inner: served, tally: tally.clone() });
    let begin = reader.fill_buf()?;
    let (length, reader): (Option<u64>, Box<dyn Read>) = match format {
        ImageFormat::Raw => (Some(served_length), Box::new(reader)),
        ImageFormat::Zst => {
            let length = zstd::zstd_safe::get_frame_content_size(begin).ok().flatten();
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            (length, Box::new(decoder))
        }
        ImageFormat::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
            let stream = stream.map_err(io::Error::from)?;
            (None, Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream)))
        }
    };
    Ok(Unpacked { reader, tally, length })
}

/// Fills as much of the buffer as there is; less than all of it only at the end.
///
/// # Errors
/// The reader's.
pub fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match reader.read(buffer.get_mut(done..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
