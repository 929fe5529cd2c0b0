//! The Debian packages that the bundle is made of, and getting them unpacked.

use crate::apt::{Apt, Found};
use crate::lock::{Lock, Pin};
use crate::{digest, progress};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package to take files from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Debian's name; of a metapackage where `through` is set.
    pub name: &'static str,
    /// Debian's code name.
    pub suite: &'static str,
    /// Debian's name of the architecture to ask for.
    pub architecture: &'static str,
    /// The files are in what this package depends on, not in itself (kernels).
    pub through: bool,
}

/// iPXE for machines.
pub const IPXE: Want = Want { name: "ipxe", suite: "trixie", architecture: "amd64", through: false };
/// Kernels for the agent. The generic one: the cloud kernel starts no faster (4.4 against
/// 4.5 s under TCG) and lacks the drivers of real servers.
pub const KERNEL_X86_64: Want =
    Want { name: "linux-image-amd64", suite: "trixie", architecture: "amd64", through: true };
/// As [`KERNEL_X86_64`].
pub const KERNEL_ARM64: Want =
    Want { name: "linux-image-arm64", suite: "trixie", architecture: "arm64", through: true };
/// UEFI for virtual machines.
pub const OVMF: Want = Want { name: "ovmf", suite: "trixie", architecture: "amd64", through: false };
/// UEFI for virtual arm64 machines.
pub const AAVMF: Want = Want { name: "qemu-efi-aarch64", suite: "trixie", architecture: "amd64", through: false };
/// Option ROMs for QEMU's network cards.
pub const ROMS: Want = Want { name: "ipxe-qemu", suite: "trixie", architecture: "amd64", through: false };
/// Those of 2019: SeaBIOS runs them on any virtio card, and they stand for old PXE ROMs.
pub const ROMS_2019: Want = Want { name: "ipxe-qemu", suite: "bookworm", architecture: "amd64", through: false };
/// What machines and virtual machines are given.
const GIVEN: [Want; 7] = [IPXE, KERNEL_X86_64, KERNEL_ARM64, OVMF, AAVMF, ROMS, ROMS_2019];

/// Every package, for the lock.
pub fn all() -> impl Iterator<Item = &'static Want> {
    GIVEN.iter().chain(&crate::toolchain::PACKAGES).chain(&crate::toolchain::MORE)
}

/// Gets packages: from the cache where the pinned bytes are there, else through apt.
#[derive(Debug)]
pub struct Store {
    cache: PathBuf,
    lock: Lock,
    offline: bool,
}

impl Store {
    /// A store that keeps its files in `cache`.
    pub fn new(cache: &Path, lock: Lock, offline: bool) -> Self {
        Self { cache: cache.to_path_buf(), lock, offline }
    }

    /// The folder that holds the package's files, and its version.
    ///
    /// # Errors
    /// When it is neither cached nor to be had.
    pub fn unpacked(&self, want: &Want) -> Result<(PathBuf, Pin)> {
        let pin = self.lock.pin(want).cloned();
        let pin = pin
            .with_context(|| format!("{} of {} is not in the lock; run `stoker-bundle lock`", want.name, want.suite))?;
        let (deb, pin) = self.deb(want, pin)?;
        let folder = self.cache.join("unpacked").join(&pin.sha256);
        if !folder.is_dir() {
            progress(&format!("unpacking {} {}", pin.package, pin.version));
            unpack(&deb, &folder)?;
        }
        Ok((folder, pin))
    }

    fn deb(&self, want: &Want, pin: Pin) -> Result<(PathBuf, Pin)> {
        let cached = self.path(&pin.sha256);
        if cached.is_file() {
            return Ok((cached, pin));
        }
        if self.offline {
            bail!(
                "{} {} is not in the cache {} and --offline was given",
                pin.package,
                pin.version,
                self.cache.display()
            );
        }
        let apt = Apt::open(&self.cache.join("apt"), want.suite)?;
        let name = format!("{}:{}", pin.package, want.architecture);
        if let Some(found) = apt.show(&name, Some(&pin.version))? {
            if !found.sha256.eq_ignore_ascii_case(&pin.sha256) {
                bail!(
                    "{} {} has other bytes on the mirror than in the lock: do not trust that mirror",
                    pin.package,
                    pin.version
                );
            }
            return Ok((self.fetch(&apt, &name, &found)?, pin));
        }
        let now = resolve(&apt, want)?;
        progress(&format!(
            "WARNING: {} {} has left the mirror; taking {} {} of its signed index instead (`stoker-bundle lock` pins that)",
            pin.package, pin.version, now.package, now.version
        ));
        let now = now.pin(want);
        let cached = self.path(&now.sha256);
        if cached.is_file() {
            return Ok((cached, now));
        }
        let name = format!("{}:{}", now.package, want.architecture);
        let found = apt.show(&name, Some(&now.version))?.context("the index changed while it was read; try again")?;
        Ok((self.fetch(&apt, &name, &found)?, now))
    }

    /// A folder of this name for what is made of the packages.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.cache.join("deb").join(format!("{sha256}.deb"))
    }

    fn fetch(&self, apt: &Apt, name: &str, found: &Found) -> Result<PathBuf> {
        progress(&format!("fetching {} {} ({} MB)", found.package, found.version, found.size / 1_000_000));
        let deb = apt.download(name, &found.version)?;
        let (sha256, _) = digest(&deb)?;
        if sha256 != found.sha256 {
            bail!("{} does not have the digest of the signed index", deb.display());
        }
        let path = self.path(&sha256);
        fs::create_dir_all(self.cache.join("deb"))?;
        fs::rename(&deb, &path).with_context(|| format!("cannot move {} into the cache", deb.display()))?;
        Ok(path)
    }
}

/// Pins what the mirror's signed index offers now, for every package.
///
/// # Errors
/// When apt cannot say.
pub fn current(cache: &Path) -> Result<Lock> {
    let mut pins = Vec::new();
    for want in all() {
        let apt = Apt::open(&cache.join("apt"), want.suite)?;
        let found = resolve(&apt, want)?;
        progress(&format!("{}: {} {}", want.suite, found.package, found.version));
        pins.push(found.pin(want));
    }
    Ok(Lock::new(pins))
}

/// What the index offers for a want now; through a metapackage to what it depends on.
fn resolve(apt: &Apt, want: &Want) -> Result<Found> {
    let missing = || format!("no package {} for {} in {}", want.name, want.architecture, want.suite);
    let found = apt.show(&format!("{}:{}", want.name, want.architecture), None)?.with_context(missing)?;
    if !want.through {
        return Ok(found);
    }
    let inner =
        found.depends.split([' ', ',', '(']).next().filter(|d| !d.is_empty()).with_context(missing)?.to_string();
    apt.show(&format!("{inner}:{}", want.architecture), None)?
        .with_context(|| format!("{} needs {inner}, which is missing", want.name))
}

impl Found {
    fn pin(&self, want: &Want) -> Pin {
        Pin {
            want: want.name.to_string(),
            suite: want.suite.to_string(),
            package: self.package.clone(),
            architecture: self.architecture.clone(),
            version: self.version.clone(),
            sha256: self.sha256.clone(),
            size: self.size,
        }
    }
}

/// Unpacks beside and renames, so that a folder in the cache is always whole.
fn unpack(deb: &Path, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("no cache folder")?;
    fs::create_dir_all(parent)?;
    let partial = parent.join(format!("partial-{}", std::process::id()));
    let _ = fs::remove_dir_all(&partial);
    let status = Command::new("dpkg-deb")
        .arg("-x")
        .arg(deb)
        .arg(&partial)
        .status()
        .context("cannot run dpkg-deb; install dpkg")?;
    if !status.success() {
        bail!("dpkg-deb cannot unpack {}: {status}", deb.display());
    }
    match fs::rename(&partial, folder) {
        Err(_) if folder.is_dir() => Ok(fs::remove_dir_all(&partial)?), // another run was quicker
        other => other.with_context(|| format!("cannot make {}", folder.display())),
    }
}
