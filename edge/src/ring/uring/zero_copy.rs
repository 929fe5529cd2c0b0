//! Registered images, and sends whose pages the kernel still holds.

use crate::catalog::Image;
use crate::limits::{ZC_IMAGES, ZC_INFLIGHT};
use crate::ring::slots::Slots;
use crate::ring::{ConnId, sys};
use io_uring::IoUring;
use std::sync::{Arc, Weak};

/// The kernel takes no larger buffer, bytes.
const BUFFER_MAX: usize = 1 << 30;

/// One `SEND_ZC`: keeps the image until the kernel lets its pages go.
pub(super) struct Held {
    pub conn: ConnId,
    _image: Arc<Image>,
}

/// What a ring knows of zero-copy TCP sends.
pub(super) struct Table {
    held: Slots<Held>,
    images: Vec<Registered>,
    /// Zero-copy has been refused: never again on this ring.
    pub refused: bool,
}

struct Registered {
    image: Weak<Image>,
    /// The kernel has taken it as a fixed buffer.
    fixed: bool,
}

impl Table {
    pub fn new() -> Self {
        Self { held: Slots::new(ZC_INFLIGHT), images: Vec::new(), refused: false }
    }

    /// A place for one more send; None: too many are held already.
    pub fn hold(&mut self, conn: ConnId, image: Arc<Image>) -> Option<ConnId> {
        self.held.insert(Held { conn, _image: image })
    }

    pub fn get(&mut self, id: ConnId) -> Option<&mut Held> {
        self.held.get_mut(id)
    }

    /// The kernel has let go.
    pub fn release(&mut self, id: ConnId) {
        self.held.remove(id);
    }

    /// The index under which an image is registered with the ring; registers
    /// it at first sight. None where the kernel will not (RLIMIT_MEMLOCK), or all places are taken.
    pub fn index(&mut self, ring: &IoUring, image: &Arc<Image>) -> Option<u16> {
        let mut vacant = None;
        for (i, known) in self.images.iter().enumerate() {
            if std::ptr::eq(known.image.as_ptr(), Arc::as_ptr(image)) {
                return known.fixed.then_some(i as u16);
            }
            if vacant.is_none() && known.image.strong_count() == 0 {
                vacant = Some(i);
            }
        }
        let place = match vacant {
            Some(i) => i,
            None if self.images.len() < ZC_IMAGES as usize => {
                self.images.push(Registered { image: Weak::new(), fixed: false });
                self.images.len() - 1
            }
            None => return None,
        };
        let bytes = image.bytes();
        let fixed = !bytes.is_empty() && bytes.len() <= BUFFER_MAX && {
            let part = [sys::iovec(bytes)];
            // SAFETY: the kernel pins the pages themselves, so they outlive the mapping; they are only read from, since
            // this driver uses the index for sends alone, and only while the image is held.
            unsafe { ring.submitter().register_buffers_update(place as u32, &part, None) }.is_ok()
        };
        if let Some(known) = self.images.get_mut(place) {
            *known = Registered { image: Arc::downgrade(image), fixed };
        }
        fixed.then_some(place as u16)
    }
}
