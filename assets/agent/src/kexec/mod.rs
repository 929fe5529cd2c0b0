//! Starting another kernel without the firmware: fetched, checked against its
//! digest, loaded; the machine changes over only when all of that went well.

use protocol::report::KexecOrder;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No file may be larger, bytes: an installer's initramfs is some hundred MB.
const MAX_FILE: u64 = 2 << 30;
/// The longest command line of x86 and arm64 (COMMAND_LINE_SIZE), its end included, bytes.
const COMMAND_LINE: usize = 2048;
/// Tries at one file.
const TRIES: u32 = 5;
/// Bytes that are read in one go.
const PIECE: usize = 256 << 10;

/// What the work may ask of the machine and of the network.
pub trait Host {
    /// The body at a URL, from its beginning.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn open(&mut self, url: &str) -> Result<Box<dyn Read>, String>;
    /// Has the kernel take another kernel, its initial ramdisk and its arguments.
    ///
    /// # Errors
    /// The kernel's.
    fn load(&mut self, kernel: &File, initrd: Option<&File>, args: &str) -> io::Result<()>;
    /// How far it is, bytes of a file; false: stop.
    fn tell(&mut self, step: &str, done: u64) -> bool;
    /// Waits before a file is asked for again.
    fn pause(&mut self, failures: u32);
}

/// Fetches and loads; files are kept in `folder` (in memory) until they are loaded.
///
/// # Errors
/// In words. Nothing has been changed then.
pub fn prepare(order: &KexecOrder, folder: &Path, host: &mut dyn Host) -> Result<(), String> {
    let args = order.args.0.as_str();
    if args.len() >= COMMAND_LINE || args.bytes().any(|b| b == 0) {
        return Err(format!("its arguments are longer than {} bytes, or no text", COMMAND_LINE - 1));
    }
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let loaded = load(order, folder, host);
    // The kernel has its own copy now, or none is wanted.
    let _ = fs::remove_dir_all(folder);
    loaded
}

fn load(order: &KexecOrder, folder: &Path, host: &mut dyn Host) -> Result<(), String> {
    let kernel = fetch("kernel", &order.kernel_url, &order.kernel_sha256, &folder.join("kernel"), host)?;
    let initrd = match order.initrd_url.as_str() {
        "" => None,
        url => Some(fetch("initrd", url, &order.initrd_sha256, &folder.join("initrd"), host)?),
    };
    if !host.tell("loading the kernel", 0) {
        return Err(WITHDRAWN.to_owned());
    }
    host.load(&kernel, initrd.as_ref(), &order.args.0).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => {
            format!("this kernel does not let another one be started ({e}): lockdown, or kexec disabled")
        }
        Some(libc::EKEYREJECTED | libc::ENODATA | libc::ENOKEY) => {
            format!("Secure Boot refuses that kernel: it is not signed by a key that this machine trusts ({e})")
        }
        Some(libc::ENOEXEC) => format!("the kernel file is none for this processor ({e})"),
        _ => format!("the kernel cannot be loaded: {e}"),
    })
}

/// The reason of an order that was taken back.
const WITHDRAWN: &str = "the order was withdrawn";

/// One file, checked against its digest, opened for reading alone.
fn fetch(name: &str, url: &str, sha256: &str, path: &Path, host: &mut dyn Host) -> Result<File, String> {
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("the order has no SHA-256 for the {name}"));
    }
    let mut failures = 0;
    loop {
        let (why, again) = match try_fetch(name, url, sha256, path, host) {
            // A file that is open for writing is not loaded (ETXTBSY).
            Ok(()) => return File::open(path).map_err(|e| format!("{}: {e}", path.display())),
            Err(Failed::Broken(why)) => (why, true),
            Err(Failed::Wrong(why)) => (why, false),
        };
        failures += 1;
        if !again || failures >= TRIES {
            return Err(why);
        }
        host.pause(failures);
    }
}

enum Failed {
    /// May go well another time.
    Broken(String),
    /// Will not.
    Wrong(String),
}

fn try_fetch(name: &str, url: &str, sha256: &str, path: &Path, host: &mut dyn Host) -> Result<(), Failed> {
    let broken = |e: String| Failed::Broken(format!("the {name} cannot be fetched: {e}"));
    let step = format!("fetching the {name}");
    let mut body = host.open(url).map_err(broken)?;
    let mut file = File::create(path).map_err(|e| broken(e.to_string()))?;
    let (mut hash, mut done, mut buffer) = (Sha256::new(), 0_u64, vec![0; PIECE]);
    loop {
        let read = body.read(&mut buffer).map_err(|e| broken(e.to_string()))?;
        let Some(piece) = buffer.get(..read).filter(|p| !p.is_empty()) else { break };
        done += read as u64;
        if done > MAX_FILE {
            return Err(Failed::Wrong(format!("the {name} is larger than {MAX_FILE} bytes")));
        }
        hash.update(piece);
        file.write_all(piece).map_err(|e| Failed::Wrong(format!("no memory for the {name}: {e}")))?;
        if !host.tell(&step, done) {
            return Err(Failed::Wrong(WITHDRAWN.to_owned()));
        }
    }
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found.eq_ignore_ascii_case(sha256) {
        return Ok(());
    }
    // A connection that was cut looks the same as other bytes: it is tried again.
    Err(Failed::Broken(format!("the {name} has the SHA-256 {found} in place of {sha256} ({done} bytes)")))
}

/// The network's part of a [`Host`].
///
/// # Errors
/// Where there is no answer, or none with a body.
pub fn open(url: &str) -> Result<Box<dyn Read>, String> {
    /// Time to connect, and for a whole file.
    const CONNECT: Duration = Duration::from_secs(5);
    const WHOLE: Duration = Duration::from_secs(1800);
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_global(Some(WHOLE))
        .max_redirects(3)
        .user_agent(concat!("stoker-agent/", env!("CARGO_PKG_VERSION")))
        .build();
    let response = ureq::Agent::from(config).get(url).call().map_err(|e| e.to_string())?;
    Ok(Box::new(response.into_body().into_reader()))
}

/// Where files are kept on a machine that runs from memory.
pub fn folder() -> PathBuf {
    PathBuf::from("/run/stoker-kexec")
}

#[cfg(test)]
mod tests;
