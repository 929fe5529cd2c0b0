//! The kernel's side doors: mounts, restart, module loading, netlink.

#[expect(unsafe_code, reason = "requests to block devices have no safe interface")]
pub mod block;
pub mod efivars;
#[expect(unsafe_code, reason = "the IPMI driver has no safe interface")]
pub mod ipmi;
#[expect(unsafe_code, reason = "loading a kernel has no safe interface")]
pub mod kexec;
pub mod netlink;
#[expect(unsafe_code, reason = "commands for drives have no safe interface")]
pub mod passthrough;

use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;
use std::ffi::CStr;
use std::io;
use std::path::Path;

/// Mounts what every PID 1 mounts. What is mounted already stays; each failure is returned in words.
pub fn mount_all() -> Vec<String> {
    const WHAT: [(&str, &str, &str); 5] = [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("tmpfs", "/run", "tmpfs"),
        ("tmpfs", "/tmp", "tmpfs"),
    ];
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    WHAT.iter()
        .filter_map(|(source, target, kind)| {
            let flags = if *kind == "devtmpfs" { MountFlags::NOSUID } else { flags };
            match std::fs::create_dir_all(target)
                .and_then(|()| Ok(mount(*source, *target, *kind, flags, None::<&CStr>)?))
            {
                Err(e) if e.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    Some(format!("cannot mount {kind} on {target}: {e}"))
                }
                _ => None,
            }
        })
        .collect()
}

/// Mounts the UEFI variables, read-only: they are written only for a moment, for a boot entry
/// ([`efivars::EfiVars`]).
pub fn mount_efivars() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    Ok(mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", flags, None::<&CStr>)?)
}

/// Flushes disks, then restarts the machine by its firmware. Returns only on failure.
pub fn restart() -> io::Error {
    leave(RebootCommand::Restart)
}

/// Flushes disks, then switches the machine off. Returns only on failure.
pub fn power_off() -> io::Error {
    leave(RebootCommand::PowerOff)
}

/// Flushes disks, then starts the kernel that was loaded. Returns only on failure.
pub fn restart_into_loaded() -> io::Error {
    leave(RebootCommand::Kexec)
}

fn leave(how: RebootCommand) -> io::Error {
    rustix::fs::sync();
    match rustix::system::reboot(how) {
        Ok(()) => io::Error::other("the kernel came back from reboot(2)"),
        Err(e) => e.into(),
    }
}

/// Loads one module file. The kernel unpacks `.ko.xz`, `.ko.zst` and `.ko.gz` itself.
///
/// # Errors
/// The kernel's; a module that is loaded already is no error.
pub fn load_module(path: &Path) -> io::Result<()> {
    const COMPRESSED: i32 = 4; // MODULE_INIT_COMPRESSED_FILE, linux/module.h
    let flags = if path.extension().is_some_and(|e| e == "ko") { 0 } else { COMPRESSED };
    match rustix::system::finit_module(std::fs::File::open(path)?, c"", flags) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

/// `uname -r`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Seconds since the kernel started.
pub fn uptime_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Random bytes from the kernel; without blocking, since at boot the pool may not be ready
/// and these are for jitter and names, not for keys.
pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    if rustix::rand::getrandom(&mut bytes, flags).is_err() {
        bytes[..8].copy_from_slice(&uptime_s().to_bits().to_le_bytes());
    }
    bytes
}
