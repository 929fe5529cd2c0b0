//! The initial ramdisks: busybox, the drivers of virtual machines, a script.

use anyhow::{Context as _, Result, bail};
use assets::initramfs::Archive;
use assets::modules;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const BUSYBOX: &str = "/bin/busybox";
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// What the machines of the rack are made of, and the file systems that configuration comes on.
const DRIVERS: &[&str] = &[
    "virtio_net",
    "e1000",
    "e1000e",
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "ahci",
    "ata_piix",
    "sd_mod",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "isofs",
    "efivarfs",
];

/// The host's busybox with the libraries that it asks for, and the names that it answers to.
pub struct Busybox {
    files: BTreeMap<String, Vec<u8>>,
    names: Vec<String>,
}

impl Busybox {
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self> {
        let listed = Command::new(BUSYBOX).arg("--list").output().context("no /bin/busybox (package busybox)")?;
        let names = String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect();
        let mut files = BTreeMap::from([("bin/busybox".to_owned(), fs::read(BUSYBOX)?)]);
        // A static one has no libraries; ldd says so and fails.
        let ldd = Command::new("ldd").arg(BUSYBOX).output().context("cannot run ldd (package libc-bin)")?;
        let text = String::from_utf8(ldd.stdout)?;
        for library in text.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
            files.insert(library.trim_start_matches('/').to_owned(), fs::read(library)?);
        }
        Ok(Self { files, names })
    }

    /// Every file by its path.
    pub fn files(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.files.iter()
    }
}

/// Kernel modules, unpacked, in the order in which they load.
pub struct Modules {
    /// The kernel that they are of.
    pub kernel: PathBuf,
    files: Vec<(String, Vec<u8>)>,
}

impl Modules {
    /// Those of an unpacked kernel package.
    ///
    /// # Errors
    /// When one is missing.
    pub fn of(package: &Path) -> Result<Self> {
        let selection = modules::select(package, DRIVERS)?;
        if !selection.missing.is_empty() {
            bail!("this kernel has no {}", selection.missing.join(", "));
        }
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for line in selection.dep.lines() {
            // "a.ko: c.ko b.ko": a needs b, which needs c... in modules.dep the last one loads first.
            let (module, needs) = line.split_once(':').context("not a line of modules.dep")?;
            for path in needs.split_ascii_whitespace().rev().chain([module]) {
                let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".xz").to_owned();
                if files.iter().all(|(there, _)| *there != name) {
                    let packed = fs::read(&selection.files[path])?;
                    let mut bytes = Vec::new();
                    if path.ends_with(".xz") {
                        liblzma::read::XzDecoder::new(&packed[..]).read_to_end(&mut bytes)?;
                    } else {
                        bytes = packed;
                    }
                    files.push((name, bytes));
                }
            }
        }
        Ok(Self { kernel: package.join(format!("boot/vmlinuz-{}", selection.release)), files })
    }
}

/// A ramdisk whose first process is `script`; with the image of a disk in it where one is given.
///
/// # Errors
/// When something is too large for the format.
pub fn pack(busybox: &Busybox, modules: &Modules, script: &str, image: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp", "etc"] {
        archive.folder(folder);
    }
    for (path, bytes) in busybox.files() {
        archive.file(path, PROGRAM, bytes.clone());
    }
    for name in busybox.names.iter().filter(|n| *n != "busybox") {
        archive.file(&format!("bin/{name}"), LINK, BUSYBOX.into());
    }
    let mut order = String::new();
    for (name, bytes) in &modules.files {
        archive.file(&format!("modules.d/{name}"), DATA, bytes.clone());
        order += &format!("/modules.d/{name}\n");
    }
    archive.file("modules", DATA, order.into());
    archive.file("lib.sh", DATA, include_str!("lib.sh").into());
    archive.file("dhcp", PROGRAM, include_str!("dhcp.sh").into());
    archive.file("init", PROGRAM, script.into());
    if let Some(image) = image {
        archive.file("disk.raw", DATA, image.to_vec());
    }
    let raw = archive.to_bytes()?;
    let mut encoder = zstd::Encoder::new(Vec::new(), super::ZSTD_LEVEL)?;
    encoder.set_pledged_src_size(Some(raw.len() as u64))?;
    encoder.write_all(&raw)?;
    Ok(encoder.finish()?)
}
