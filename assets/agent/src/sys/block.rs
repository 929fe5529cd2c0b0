//! Block devices: erased, discarded, read past the cache.

use crate::wipe::erase::Media;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

// linux/fs.h; the numbers are the same on x86 and ARM.
const BLKRRPART: libc::Ioctl = 0x125f as libc::Ioctl;
const BLKFLSBUF: libc::Ioctl = 0x1261 as libc::Ioctl;
const BLKDISCARD: libc::Ioctl = 0x1277 as libc::Ioctl;
const BLKSECDISCARD: libc::Ioctl = 0x127d as libc::Ioctl;
const BLKZEROOUT: libc::Ioctl = 0x127f as libc::Ioctl;
/// _IOR(0x12, 114, size_t)
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
/// _IOWR('N', 0x41, struct nvme_passthru_cmd), linux/nvme_ioctl.h
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xc048_4e41_u32 as libc::Ioctl;

/// Zeroes are written in pieces of this size.
const PIECE: usize = 4 << 20;
/// A format of a big drive may take so long, milliseconds (NVMe Base 2.0 gives no bound).
const FORMAT_LIMIT_MS: u32 = 6 * 3600 * 1000;

/// struct nvme_passthru_cmd (linux/nvme_ioctl.h).
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<NvmeCommand>() == 0x48);

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

    /// NVMe: Format NVM with "user data erase" (NVM command set, Format NVM, SES = 1), keeping the
    /// LBA format in use.
    fn own_erase(&mut self) -> io::Result<&'static str> {
        let name = self.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !name.starts_with("nvme") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no erase of its own that stoker speaks"));
        }
        let text = |file: &str| std::fs::read_to_string(format!("/sys/block/{name}/{file}"));
        let nsid: u32 = text("nsid")?.trim().parse().map_err(|_| io::Error::other("its namespace has no number"))?;
        // Identify Namespace (opcode 6, CNS 0): byte 26 holds the LBA format in use.
        let mut identity = [0_u8; 4096];
        let mut command = NvmeCommand {
            opcode: 0x06,
            nsid,
            addr: identity.as_mut_ptr() as u64,
            data_len: 4096,
            ..NvmeCommand::default()
        };
        // SAFETY: `command` is a whole nvme_passthru_cmd; the kernel writes data_len bytes to addr, which
        // is `identity`, alive and 4096 bytes long.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) })?;
        let format = u32::from(identity[26] & 0x0f) | (u32::from(identity[26] >> 5 & 3) << 12);
        let mut command = NvmeCommand {
            opcode: 0x80,
            nsid,
            cdw10: format | 1 << 9,
            timeout_ms: FORMAT_LIMIT_MS,
            ..NvmeCommand::default()
        };
        // SAFETY: as above; Format NVM transfers no data.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) })?;
        Ok("nvme-format")
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
fn check(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        n if n < 0 => Err(io::Error::last_os_error()),
        status => Err(io::Error::other(format!("NVMe status {status:#06x}"))),
    }
}
