//! Images with TFTP headers in them.
//!
//! A window of blocks is then one contiguous range of sealed memory, which a
//! network card can take without a copy (a train of header/slice pairs would
//! need more fragments than an skb holds). Made on the feed's thread when a
//! block size is first asked for, never on the hot path.

use super::budget::{Budget, Lease};
use super::map::Sealed;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Block sizes worth framing: the default, and what firmware, ROMs and iPXE ask for.
pub const BLOCK_SIZES: [u16; 8] = [512, 1024, 1408, 1428, 1432, 1448, 1456, 1468];

/// Length of a DATA header: opcode 3 and the block number (RFC 1350 section 5).
pub const HEADER: u64 = 4;

/// An image with a DATA header before each block.
///
/// Block `k` (from 0) begins at `k * (blksize + 4)`. The last block is shorter
/// than the others, and may be empty (RFC 1350 section 6). Numbers on the wire
/// begin at 1 and wrap from 65535 to 0.
pub struct Framed {
    blksize: u16,
    blocks: u64,
    sealed: Sealed,
    _lease: Lease,
}

impl Framed {
    /// Frames `bytes`; None where the budget has no room.
    pub(super) fn build(bytes: &[u8], blksize: u16, budget: &Arc<Budget>) -> io::Result<Option<Self>> {
        let blocks = bytes.len() as u64 / u64::from(blksize) + 1;
        let len = bytes.len() as u64 + blocks * HEADER;
        let Some(lease) = budget.take(len) else { return Ok(None) };
        let sealed = Sealed::build(len, |out| {
            write_blocks(out, bytes, blksize);
            Ok::<_, io::Error>(())
        })?;
        Ok(Some(Self { blksize, blocks, sealed, _lease: lease }))
    }

    /// Headers and data.
    pub fn bytes(&self) -> &[u8] {
        self.sealed.bytes()
    }

    /// A descriptor with the same bytes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.sealed.fd()
    }

    /// Data bytes of each block but the last.
    pub fn blksize(&self) -> u16 {
        self.blksize
    }

    /// How many blocks, the short or empty last one included.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }
}

fn write_blocks(out: &mut [u8], bytes: &[u8], blksize: u16) {
    const DATA: u16 = 3;
    let size = usize::from(blksize);
    // `chunks` knows no empty last block, which stands where the length is a multiple.
    let last: &[u8] = if bytes.len().is_multiple_of(size) { &[] } else { &bytes[bytes.len() - bytes.len() % size..] };
    let blocks = bytes.chunks_exact(size).chain([last]);
    for (k, (frame, block)) in out.chunks_mut(size + HEADER as usize).zip(blocks).enumerate() {
        let (header, data) = frame.split_at_mut(HEADER as usize);
        header[..2].copy_from_slice(&DATA.to_be_bytes());
        header[2..].copy_from_slice(&((k as u64 + 1) as u16).to_be_bytes());
        data.copy_from_slice(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(bytes: &[u8], blksize: u16) -> Framed {
        Framed::build(bytes, blksize, &Budget::new(u64::MAX)).unwrap().unwrap()
    }

    #[test]
    fn each_block_has_its_header_at_the_stride() {
        let bytes: Vec<u8> = (0..512 * 2 + 7).map(|i| (i % 251) as u8).collect();
        let f = framed(&bytes, 512);
        assert_eq!((f.blocks(), f.bytes().len()), (3, bytes.len() + 3 * 4));
        for k in 0..3 {
            let frame = &f.bytes()[k * 516..((k + 1) * 516).min(f.bytes().len())];
            assert_eq!(frame[..4], [0, 3, 0, k as u8 + 1]);
            assert_eq!(frame[4..], bytes[k * 512..((k + 1) * 512).min(bytes.len())]);
        }
    }

    #[test]
    fn t03_an_exact_multiple_ends_in_an_empty_block() {
        let f = framed(&[7; 1024], 512);
        assert_eq!(f.blocks(), 3);
        assert_eq!(f.bytes()[2 * 516..], [0, 3, 0, 3]);
        assert_eq!(framed(&[], 512).bytes(), [0, 3, 0, 1], "t02: an empty file is one empty block");
    }

    #[test]
    fn t60_numbers_wrap_to_0() {
        let f = framed(&vec![1; 8 * 65536], 8);
        assert_eq!(f.bytes()[65534 * 12..65534 * 12 + 4], [0, 3, 0xff, 0xff]);
        assert_eq!(f.bytes()[65535 * 12..65535 * 12 + 4], [0, 3, 0, 0]);
        assert_eq!(f.bytes()[65536 * 12..], [0, 3, 0, 1]);
    }

    #[test]
    fn over_the_budget_nothing_is_made() {
        let budget = Budget::new(100);
        assert!(Framed::build(&[0; 200], 512, &budget).unwrap().is_none());
        assert_eq!(budget.used(), 0);
    }
}
