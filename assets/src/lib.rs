//! The bundle: everything that machines download before they run an operating
//! system of their own (iPXE, a kernel, the initramfs with the agent), and the
//! firmware that the virtual rack boots. Files come from Debian by package
//! name, pinned in `bundle.lock.toml`; the agent is built from this repository.

#![forbid(unsafe_code)]

pub mod agent;
pub mod apt;
pub mod bundle;
pub mod initramfs;
pub mod lock;
pub mod modinfo;
pub mod modules;
pub mod packages;
pub mod toolchain;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// SHA-256 of a file, as 64 hex digits, and its length in bytes.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        length += n as u64;
    }
    Ok((hash.finalize().iter().map(|b| format!("{b:02x}")).collect(), length))
}

/// The root of this repository: the first folder from here upward that holds the lock file.
///
/// # Errors
/// When there is none.
pub fn repository() -> Result<PathBuf> {
    let here = std::env::current_dir().context("no current folder")?;
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().chain(built_from.ancestors()).find(|dir| dir.join(lock::PATH).is_file());
    found.map(Path::to_path_buf).with_context(|| format!("{} not found; run inside stoker's repository", lock::PATH))
}

/// One line of progress, on standard error.
pub fn progress(text: &str) {
    eprintln!("stoker-bundle: {text}");
}
