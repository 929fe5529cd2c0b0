//! One immutable object, resident in sealed memory.

use super::budget::{Budget, Lease};
use super::framed::{BLOCK_SIZES, Framed};
use super::map::Sealed;
use crate::limits;
use crate::ring::Waker;
use protocol::manifest::ObjectId;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

/// Why an object cannot be served. The words go to the operator by `edge.state`.
#[derive(thiserror::Error, Debug)]
pub enum LoadError {
    /// There is no such file.
    #[error("object {0} is missing from the store; publish it again")]
    Missing(ObjectId),
    /// A folder, a device, a FIFO, a symbolic link.
    #[error("object {0} is not a regular file; remove it and publish it again")]
    NotAFile(ObjectId),
    /// Opening or reading failed (EIO, EACCES).
    #[error("object {id} cannot be read: {why}; check the disk and the folder's permissions")]
    Unreadable {
        /// Which.
        id: ObjectId,
        /// What the kernel said.
        why: io::Error,
    },
    /// The file is not as long as the manifest says.
    #[error("object {id} is {found} bytes long, the manifest says {expected}: truncated or damaged; publish it again")]
    Length {
        /// Which.
        id: ObjectId,
        /// What the manifest says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// The bytes are not those that the name promises.
    #[error("object {id} is damaged: its bytes have the digest {found}; publish it again")]
    Digest {
        /// Which.
        id: ObjectId,
        /// What its bytes hash to.
        found: ObjectId,
    },
    /// There is no room for it.
    #[error(
        "object {id} needs {need} bytes, {left} of the {limit} bytes for images are left; raise --memory-budget or publish less"
    )]
    OverBudget {
        /// Which.
        id: ObjectId,
        /// Its length.
        need: u64,
        /// What is left.
        left: u64,
        /// The budget.
        limit: u64,
    },
    /// The kernel gave no memory or no descriptor.
    #[error("no memory for the image: {0}; lower --memory-budget or free memory")]
    Memory(#[from] io::Error),
}

/// One immutable object, resident in memory.
pub struct Image {
    id: ObjectId,
    sealed: Sealed,
    framed: [OnceLock<Framed>; BLOCK_SIZES.len()],
    /// Bit `i`: `BLOCK_SIZES[i]` was asked for, or tried and found too large.
    wanted: AtomicU8,
    /// Wakes the thread that frames; None where nobody does.
    framer: Option<Waker>,
    _lease: Option<Lease>,
}

impl Image {
    /// Copies `file` into sealed memory while checking that it is `id`.
    ///
    /// # Errors
    /// Every way in which it can be unfit, see [`LoadError`].
    pub fn load(
        file: &File,
        id: ObjectId,
        len: u64,
        budget: &Arc<Budget>,
        framer: Option<Waker>,
    ) -> Result<Arc<Self>, LoadError> {
        let over =
            || LoadError::OverBudget { id, need: len, left: budget.limit() - budget.used(), limit: budget.limit() };
        let lease = budget.take(len).ok_or_else(over)?;
        let sealed = Sealed::build(len, |out| copy_verified(file, id, len, out))?;
        Ok(Arc::new(Self::new(id, sealed, framer, Some(lease))))
    }

    /// An image of these bytes, outside of any budget (tests, benches, built-in files).
    ///
    /// # Errors
    /// [`LoadError::Memory`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Arc<Self>, LoadError> {
        let sealed = Sealed::build(bytes.len() as u64, |out| {
            out.copy_from_slice(bytes);
            Ok::<_, LoadError>(())
        })?;
        Ok(Arc::new(Self::new(ObjectId::of(bytes), sealed, None, None)))
    }

    fn new(id: ObjectId, sealed: Sealed, framer: Option<Waker>, lease: Option<Lease>) -> Self {
        Self { id, sealed, framed: Default::default(), wanted: AtomicU8::new(0), framer, _lease: lease }
    }

    /// Its digest.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its bytes. Can never fault: sealed memory with every page allocated.
    pub fn bytes(&self) -> &[u8] {
        self.sealed.bytes()
    }

    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// A descriptor for `sendfile` with the same bytes, which no one can change.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.sealed.fd()
    }

    /// The image with a TFTP DATA header before each block, where it has been
    /// made. Where it has not and could be, asks the feed's thread to make it
    /// for the next transfer.
    pub fn framed(&self, blksize: u16) -> Option<&Framed> {
        let i = slot(blksize)?;
        let made = self.framed.get(i)?.get();
        if made.is_none() {
            self.want(1 << i);
        }
        made
    }

    /// Makes that form now, if image and block size are worth it.
    ///
    /// # Errors
    /// [`LoadError::Memory`].
    pub fn make_framed(&self, blksize: u16, budget: &Arc<Budget>) -> Result<Option<&Framed>, LoadError> {
        let Some(cell) = slot(blksize).and_then(|i| self.framed.get(i)) else { return Ok(None) };
        if self.len() > limits::FRAMED_IMAGE_MAX {
            return Ok(None);
        }
        if cell.get().is_none()
            && let Some(framed) = Framed::build(self.bytes(), blksize, budget)?
        {
            // Another thread may have been faster: one of the two is kept, both are right.
            let _ = cell.set(framed);
        }
        Ok(cell.get())
    }

    /// Block sizes that were asked for and are not there yet.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = u16> + '_ {
        let bits = self.wanted.load(Ordering::Acquire);
        let missing = move |i: usize| bits & 1 << i != 0 && self.framed.get(i).is_some_and(|cell| cell.get().is_none());
        BLOCK_SIZES.into_iter().enumerate().filter(move |&(i, _)| missing(i)).map(|(_, size)| size)
    }

    fn want(&self, bit: u8) {
        if self.len() > limits::FRAMED_IMAGE_MAX || self.wanted.load(Ordering::Relaxed) & bit != 0 {
            return;
        }
        if self.wanted.fetch_or(bit, Ordering::Release) & bit == 0
            && let Some(framer) = &self.framer
        {
            framer.wake();
        }
    }
}

fn slot(blksize: u16) -> Option<usize> {
    BLOCK_SIZES.iter().position(|&size| size == blksize)
}

/// One pass: what is hashed is what is served, whatever happens to the file meanwhile.
fn copy_verified(file: &File, id: ObjectId, expected: u64, out: &mut [u8]) -> Result<(), LoadError> {
    let mut hash = Sha256::new();
    let mut at = 0;
    for chunk in out.chunks_mut(limits::LOAD_CHUNK) {
        let read = read_full(file, chunk, at).map_err(|why| LoadError::Unreadable { id, why })?;
        at += read as u64;
        if read < chunk.len() {
            return Err(LoadError::Length { id, expected, found: at });
        }
        hash.update(&*chunk);
    }
    let found = ObjectId(hash.finalize().into());
    if found == id { Ok(()) } else { Err(LoadError::Digest { id, found }) }
}

/// Fills `out` from `at` on; fewer bytes only at the end of the file.
fn read_full(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read_at(&mut out[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
