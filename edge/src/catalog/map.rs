//! Memory that holds an image: a memfd, filled once, then sealed.
//!
//! Nobody can change, shorten or lengthen it afterwards, not even this
//! process by its descriptor, so a slice of it can never fault (SIGBUS) and
//! `sendfile` from it can never come out short. See
//! `docs/decisions/0003-images-live-in-sealed-memfds.md`.
#![allow(unsafe_code)] // mapping memory; the block says why it is sound

use crate::limits;
use memmap2::{Advice, MmapMut};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A sealed memfd and its mapping.
pub struct Sealed {
    /// None for an object without bytes. Written by [`Sealed::build`] only.
    map: Option<MmapMut>,
    fd: OwnedFd,
}

impl Sealed {
    /// `len` bytes, written once by `fill`, then sealed.
    ///
    /// # Errors
    /// What the kernel refuses (ENOMEM, EMFILE), and whatever `fill` fails with.
    pub fn build<E: From<io::Error>>(len: u64, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let fd = reserve(len).map_err(E::from)?;
        let map = match len {
            0 => None,
            _ => {
                let mut map = map(&fd).map_err(E::from)?;
                populate(&map, &fd, len).map_err(E::from)?;
                fill(&mut map)?;
                Some(map)
            }
        };
        // FUTURE_WRITE and not WRITE: the mapping above stays writable as the
        // kernel sees it, since it registers only such memory with a ring. No
        // code of ours hands out a mutable slice of it again.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(|e| E::from(e.into()))?;
        Ok(Self { map, fd })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// The descriptor, for `sendfile`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A memfd whose length can never change again.
fn reserve(len: u64) -> io::Result<OwnedFd> {
    const NAME: &str = "stoker-image";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(NAME, flags)?, // before Linux 6.3
        other => other?,
    };
    rustix::fs::ftruncate(&fd, len)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(fd)
}

fn map(fd: &OwnedFd) -> io::Result<MmapMut> {
    // SAFETY: the memory behind a mapping must not change or vanish while
    // slices of it exist. This memfd was made a moment ago by this process and
    // its descriptor has been given to nobody; its length is sealed, so no page
    // can vanish. `Sealed::build` is the only writer, through the one `&mut`
    // borrow, and seals it against every other way of writing (FUTURE_WRITE
    // refuses write(2), hole punching and further writable mappings) before
    // the first shared slice is handed out.
    unsafe { MmapMut::map_mut(fd) }
}

/// Allocates every page now, so that a lack of memory is an error here and not
/// a signal later.
fn populate(map: &MmapMut, fd: &OwnedFd, len: u64) -> io::Result<()> {
    if len >= limits::HUGE_PAGE_MIN {
        // Granted where shmem_enabled says `advise` or more; a wish, not a need.
        let _ = map.advise(Advice::HugePage);
    }
    match map.advise(Advice::PopulateWrite) {
        Ok(()) => Ok(()),
        // Before Linux 5.14: the same guarantee without huge pages.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Ok(rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len)?)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn sealed(bytes: &[u8]) -> Sealed {
        Sealed::build(bytes.len() as u64, |out| {
            out.copy_from_slice(bytes);
            Ok::<_, io::Error>(())
        })
        .unwrap()
    }

    #[test]
    fn bytes_are_kept_and_nobody_can_change_them() {
        let sealed = sealed(b"boot");
        assert_eq!(sealed.bytes(), b"boot");
        let file = File::from(sealed.fd().try_clone_to_owned().unwrap());
        assert!(file.write_at(b"x", 0).is_err(), "written by its descriptor");
        assert!(file.set_len(0).is_err() && file.set_len(9).is_err(), "length changed");
        assert!(rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4).is_err());
        assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::EXEC).is_err(), "the seals themselves are open");
        assert_eq!(sealed.bytes(), b"boot");
    }

    #[test]
    fn an_empty_object_has_no_pages_but_a_descriptor() {
        let sealed = sealed(b"");
        assert_eq!(sealed.bytes(), b"");
        assert_eq!(rustix::fs::fstat(sealed.fd()).unwrap().st_size, 0);
    }

    #[test]
    fn large_ones_are_whole_in_map_and_descriptor() {
        let bytes: Vec<u8> = (0..3 * limits::HUGE_PAGE_MIN + 5).map(|i| (i % 251) as u8).collect();
        let sealed = sealed(&bytes);
        assert!(sealed.bytes() == bytes);
        let mut read = vec![0; bytes.len()];
        File::from(sealed.fd().try_clone_to_owned().unwrap()).read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn a_fill_that_fails_leaves_nothing() {
        let failed: Result<Sealed, io::Error> = Sealed::build(4, |_| Err(io::Error::other("disk")));
        assert!(failed.is_err());
    }
}
