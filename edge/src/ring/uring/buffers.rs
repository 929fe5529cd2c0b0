//! Buffers that the kernel picks from when something comes in (provided buffer ring).

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;
use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU16, Ordering};

/// One group of equal buffers. Must live as long as its ring (see `Uring::drop`).
pub struct Buffers {
    // Page-aligned and never moved; only written through raw pointers once the kernel knows them.
    entries: *mut BufRingEntry,
    bytes: *mut u8,
    count: u16,
    size: usize,
    tail: u16,
    _maps: [MmapMut; 2],
}

impl Buffers {
    /// Registers `count` (a power of two) buffers of `size` bytes as `group`.
    ///
    /// # Errors
    /// The kernel has no provided buffer rings (before 5.19), or no memory.
    pub fn register(ring: &IoUring, group: u16, count: u16, size: usize) -> io::Result<Self> {
        let mut entries = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        let mut bytes = MmapMut::map_anon(usize::from(count) * size)?;
        let mut buffers = Self {
            entries: entries.as_mut_ptr().cast(),
            bytes: bytes.as_mut_ptr(),
            count,
            size,
            tail: 0,
            _maps: [entries, bytes],
        };
        // SAFETY: the entries are page-aligned, `count` long, and stay mapped until the ring is gone.
        unsafe { ring.submitter().register_buf_ring_with_flags(buffers.entries as u64, count, group, 0)? };
        for id in 0..count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The buffer `id`, which the kernel has just handed over: its first `len` bytes at most.
    pub fn get(&self, id: u16, len: usize) -> &[u8] {
        if id >= self.count {
            return &[];
        }
        // SAFETY: inside the mapping; the kernel does not write to a buffer between handing it over and
        // `give_back`, which needs `&mut self` and so cannot happen while the slice lives.
        unsafe { std::slice::from_raw_parts(self.bytes.add(usize::from(id) * self.size), len.min(self.size)) }
    }

    /// The kernel may fill this buffer again, after `publish`.
    pub fn give_back(&mut self, id: u16) {
        if id >= self.count {
            return;
        }
        // SAFETY: both offsets are inside their mappings (`count` is a power of two). The entry is not read by the
        // kernel until `publish` moves the tail past it.
        unsafe {
            let address = self.bytes.add(usize::from(id) * self.size);
            let entry = &mut *self.entries.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(address as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub fn publish(&self) {
        // SAFETY: the tail is a field of the first entry, aligned for a u16, and lives as long as `self`; kernel and
        // process both access it atomically.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
