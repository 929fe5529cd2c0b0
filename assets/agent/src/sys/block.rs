//! Block devices: erased, discarded, read past the cache.

use super::passthrough::{NvmeQueue, Scsi};
use crate::wipe::erase::{Media, OwnWay};
use crate::wipe::{ata, nvme};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

// linux/fs.h; the numbers are the same on x86 and ARM.
const BLKRRPART: libc::Ioctl = 0x125f as libc::Ioctl;
const BLKFLSBUF: libc::Ioctl = 0x1261 as libc::Ioctl;
const BLKDISCARD: libc::Ioctl = 0x1277 as libc::Ioctl;
const BLKSECDISCARD: libc::Ioctl = 0x127d as libc::Ioctl;
const BLKZEROOUT: libc::Ioctl = 0x127f as libc::Ioctl;
/// _IOR(0x12, 114, size_t)
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
/// Zeroes are written in pieces of this size.
const PIECE: usize = 4 << 20;
/// A disk, held by this process alone.
pub struct Block {
    file: File,
    path: PathBuf,
    size: u64,
    zeroes: Vec<u8>,
}

impl Block {
    /// Opens a whole disk, exclusively: not one that is mounted or part of something (O_EXCL, open(2)).
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path)?;
        if !file.metadata()?.file_type().is_block_device() {
            return Err(io::Error::other("not a block device"));
        }
        let mut size = 0_u64;
        // SAFETY: BLKGETSIZE64 writes one u64 to the address given, which `size` is.
        check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) })?;
        Ok(Self { file, path: path.to_owned(), size, zeroes: vec![0; PIECE] })
    }

    fn range(&self, request: libc::Ioctl, offset: u64, length: u64) -> io::Result<()> {
        let range = [offset, length];
        // SAFETY: these requests read two u64 (start, length) from the address given, which `range` is.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, range.as_ptr()) })
    }

    fn plain(&self, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: BLKFLSBUF and BLKRRPART take no argument.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, 0) })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // The partitions that were there are gone; a disk in use keeps its old view, which harms nobody now.
        let _ = self.plain(BLKRRPART);
    }
}

impl Media for Block {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let piece = usize::try_from((length - done).min(PIECE as u64)).unwrap_or(PIECE);
            self.file.write_all_at(self.zeroes.get(..piece).unwrap_or_default(), offset + done)?;
            done += piece as u64;
        }
        // Errors of the medium show here, not at the end of a terabyte.
        self.file.sync_data()
    }

    fn zero_out(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.range(BLKZEROOUT, offset, length)
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.range(BLKDISCARD, offset, length)
    }

    fn secure_discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.range(BLKSECDISCARD, offset, length)
    }

    /// Only the way that this kind of drive speaks; its name tells which.
    fn own_erase(&mut self, way: OwnWay, progress: &AtomicU64) -> io::Result<()> {
        let name = self.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let is_nvme = name.starts_with("nvme");
        match way {
            OwnWay::SecureErase if name.starts_with("sd") => ata::secure_erase(&mut Scsi(&self.file)),
            OwnWay::NvmeSanitizeBlock if is_nvme => {
                nvme::sanitize(&mut NvmeQueue(&self.file), nvme::Sanitize::Block, progress)
            }
            OwnWay::NvmeSanitizeCrypto if is_nvme => {
                nvme::sanitize(&mut NvmeQueue(&self.file), nvme::Sanitize::Crypto, progress)
            }
            OwnWay::NvmeFormat if is_nvme => {
                let text = std::fs::read_to_string(format!("/sys/block/{name}/nsid"))?;
                let nsid = text.trim().parse().map_err(|_| io::Error::other("its namespace has no number"))?;
                nvme::format(&mut NvmeQueue(&self.file), nsid)
            }
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is another kind of drive")),
        }
    }

    fn is_erasing(&mut self) -> bool {
        let is_nvme = self.path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("nvme"));
        // A drive without that log does not sanitize.
        is_nvme && nvme::state(&mut NvmeQueue(&self.file)).is_ok_and(|s| s != nvme::State::Idle)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        // What is read from now on comes from the medium.
        self.plain(BLKFLSBUF)
    }

    fn random(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = super::random();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The kernel's return value: negative is errno; positive, of NVMe, is the command's status.
pub(super) fn check(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        n if n < 0 => Err(io::Error::last_os_error()),
        status => Err(io::Error::other(format!("NVMe status {status:#06x}"))),
    }
}
