//! Which names are which bytes, in one generation.
//!
//! Built by [`crate::feed`], read by the services; opens nothing on the hot
//! path. An [`Image`] lives as long as someone holds it, so a transfer goes on
//! from the generation in which it began.

use protocol::manifest::ObjectId;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// One immutable object, resident in memory.
pub struct Image {
    _todo: (),
}

impl Image {
    /// Its digest.
    pub fn id(&self) -> ObjectId {
        unreachable!("to be written")
    }
    /// Its bytes. Can never fault: a sealed memfd, or a private copy.
    pub fn bytes(&self) -> &[u8] {
        unreachable!("to be written")
    }
    /// A descriptor for `sendfile` with the same bytes, where there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        unreachable!("to be written")
    }
    /// The image with a TFTP DATA header before each block: block `k` (from 0)
    /// begins at `k * (blksize + 4)`; header numbers wrap from 65535 to 0. Only for hot
    /// files and the common block sizes; made at load time, never on the hot path.
    pub fn framed(&self, _blksize: u16) -> Option<&Framed> {
        unreachable!("to be written")
    }
}

/// An image with headers in it, see [`Image::framed`].
pub struct Framed {
    _todo: (),
}

/// A name's meaning.
#[derive(Clone)]
pub struct Named {
    /// The bytes.
    pub image: Arc<Image>,
    /// HTTP Content-Type.
    pub content_type: Arc<str>,
}

/// All names of one generation.
#[derive(Default)]
pub struct Catalog {
    /// The manifest's generation.
    pub generation: u64,
    /// Name to bytes.
    pub names: HashMap<Box<str>, Named>,
}
