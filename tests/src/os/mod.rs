//! A small operating system for the proofs: it is put on disks as real ones
//! are, boots from them by either firmware, finds its configuration and reports
//! in. From the same parts an installer that boots over the network.
//!
//! * [`TestOs::disk`]: a raw disk image. GPT with a BIOS boot partition (GRUB's
//!   core), an EFI system partition (GRUB, kernel, initial ramdisk) and a data
//!   partition at the end.
//! * [`TestOs::kernel`] and [`TestOs::installer`]: an Environment whose ramdisk
//!   writes that image. See `installer.sh` for its kernel arguments.
//!
//! What the system says on the console (`ttyS0`), for tests to wait for:
//!
//! ```text
//! stoker-os: started, 6.12.1, UEFI
//! stoker-os: boot entry 0001: stoker
//! stoker-os: partition vda3 from 71680 of 8192 sectors
//! stoker-os: up: source=NoCloud hostname=n1 config=<sha256 of the user data>
//! stoker-os: reported running
//! ```
//!
//! The configuration comes from the installer (on the EFI system partition),
//! from NoCloud (`CIDATA`) or from a config drive (`config-2`). The address for
//! the report is `stoker.report=` of the kernel's command line, else
//! `stoker_report_url` of the data source's metadata, else a word
//! `stoker.report=URL` in the configuration.

mod disk;
mod ramdisk;

pub mod guest;

use anyhow::{Context as _, Result, bail};
use assets::lock::Lock;
use assets::packages::{self, Store};
use protocol::report::ImageFormat;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the outcome follows from, beside the programs of Debian that go in.
const SOURCES: [&str; 8] = [
    include_str!("mod.rs"),
    include_str!("disk.rs"),
    include_str!("ramdisk.rs"),
    include_str!("lib.sh"),
    include_str!("dhcp.sh"),
    include_str!("system.sh"),
    include_str!("installer.sh"),
    include_str!("grub.cfg"),
];
/// Compression of ramdisk and image: the kernel in there is packed already.
const ZSTD_LEVEL: i32 = 3;
const XZ_LEVEL: u32 = 1;

/// The test system's files.
#[derive(Clone, Debug)]
pub struct TestOs {
    folder: PathBuf,
}

impl TestOs {
    /// The files as they were built from the same parts before, else built now (some seconds, after
    /// the kernel's package is in the cache).
    ///
    /// # Errors
    /// When a package is missing; the message names it.
    pub fn build() -> Result<Self> {
        let (package, pin) = store()?.unpacked(&packages::KERNEL_X86_64)?;
        let busybox = ramdisk::Busybox::find()?;
        let grub = disk::Grub::make()?;
        let mut parts = Sha256::new();
        SOURCES.iter().for_each(|s| parts.update(s));
        parts.update(&pin.sha256);
        busybox.files().for_each(|(_, bytes)| parts.update(bytes));
        grub.parts().for_each(|bytes| parts.update(bytes));
        let name: String = parts.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect();

        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-os");
        let folder = home.join(name);
        if !folder.is_dir() {
            fs::create_dir_all(&home)?;
            // Made beside and renamed: what is there is whole, whoever else builds it at the same time.
            let beside = tempfile::tempdir_in(&home)?;
            Self { folder: beside.path().to_path_buf() }.fill(&package, &busybox, &grub)?;
            publish(&beside.keep(), &folder)?;
        }
        Ok(Self { folder })
    }

    fn fill(&self, package: &Path, busybox: &ramdisk::Busybox, grub: &disk::Grub) -> Result<()> {
        let modules = ramdisk::Modules::of(package)?;
        let kernel = fs::read(&modules.kernel).with_context(|| modules.kernel.display().to_string())?;
        let system = ramdisk::pack(busybox, &modules, include_str!("system.sh"), None)?;
        let raw = disk::image(grub, &kernel, &system)?;
        let installer = ramdisk::pack(busybox, &modules, include_str!("installer.sh"), Some(&raw))?;
        fs::write(self.kernel(), kernel)?;
        fs::write(self.installer(), installer)?;
        Ok(fs::write(self.disk(), raw)?)
    }

    /// The raw disk image.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// The disk image, packed; made when first asked for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn packed(&self, format: ImageFormat) -> Result<PathBuf> {
        let extension = match format {
            ImageFormat::Raw => return Ok(self.disk()),
            ImageFormat::Zst => "zst",
            ImageFormat::Xz => "xz",
        };
        let path = self.disk().with_added_extension(extension);
        if !path.is_file() {
            let mut from = BufReader::new(File::open(self.disk())?);
            let mut beside = tempfile::NamedTempFile::new_in(&self.folder)?;
            if format == ImageFormat::Zst {
                zstd::stream::copy_encode(from, &mut beside, ZSTD_LEVEL)?;
            } else {
                let mut encoder = liblzma::write::XzEncoder::new(&mut beside, XZ_LEVEL);
                io::copy(&mut from, &mut encoder)?;
                encoder.finish()?;
            }
            beside.persist(&path)?;
        }
        Ok(path)
    }

    /// The kernel, of the system and of the installer.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The installer's initial ramdisk; the system's image is in it.
    pub fn installer(&self) -> PathBuf {
        self.folder.join("installer.img")
    }

    /// The installer's own kernel arguments; control adds `stoker.config=` and `stoker.report=`.
    pub const INSTALLER_ARGS: [&str; 4] = ["console=ttyS0", "quiet", "panic=-1", "no_timer_check"];
}

/// Moves a folder to its place; that somebody else was quicker is no fault.
fn publish(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(_) if to.is_dir() => Ok(fs::remove_dir_all(from)?),
        other => other.with_context(|| format!("cannot make {}", to.display())),
    }
}

/// Debian's packages, from the cache that the bundle is built from.
fn store() -> Result<Store> {
    let repository = assets::repository()?;
    let cache = std::env::var_os("STOKER_CACHE").map_or_else(|| repository.join("target/bundle-cache"), PathBuf::from);
    Ok(Store::new(&cache, Lock::load(&repository)?, false))
}

/// Runs a tool of a package to its end.
fn run(command: &mut Command, package: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name} (package {package})"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
