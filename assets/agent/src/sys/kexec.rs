//! Another kernel, loaded by this one (kexec_file_load(2)).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// KEXEC_FILE_NO_INITRAMFS
const NO_INITRAMFS: libc::c_ulong = 4;

/// Has the kernel copy another kernel, its initial ramdisk and its arguments, to be started by
/// [`super::restart_into_loaded`].
///
/// # Errors
/// The kernel's.
pub fn load(kernel: &File, initrd: Option<&File>, args: &str) -> io::Result<()> {
    let line = CString::new(args).map_err(io::Error::other)?;
    let length = line.as_bytes_with_nul().len() as libc::c_ulong;
    let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };
    let initrd = initrd.map_or(-1, |file| file.as_raw_fd());
    // SAFETY: kexec_file_load reads two open files and `length` bytes at `line`, which is that long and
    // alive, and keeps none of them.
    let returned =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel.as_raw_fd(), initrd, length, line.as_ptr(), flags) };
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
