//! The disk: GPT, GRUB for both firmwares, kernel and ramdisk on the EFI system partition.

use super::run;
use anyhow::{Context as _, Result, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::{GptConfig, mbr::ProtectiveMBR, partition_types};
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;
use std::process::Command;

const SECTOR: usize = 512;
const MIB: usize = 1 << 20;
/// First sectors and lengths of the partitions, sectors; aligned to 1 MiB.
const BIOS_BOOT: (usize, usize) = (2048, 2048);
const ESP: (usize, usize) = (4096, 40 * MIB / SECTOR);
const DATA: (usize, usize) = (ESP.0 + ESP.1, 4 * MIB / SECTOR);
/// All of the image; the last mebibyte holds the backup GPT.
const TOTAL: usize = (DATA.0 + DATA.1) * SECTOR + MIB;

/// In GRUB's boot.img: where core.img begins, as a sector number (grub's i386/pc/boot.h).
const KERNEL_SECTOR: usize = 0x5c;
/// In the first sector of core.img: the first block list, 12 bytes before its end.
const BLOCK_LIST: usize = SECTOR - 12;
/// The partition table of an MBR begins here; boot code ends.
const BOOT_CODE: usize = 440;

/// GRUB, made for this disk.
pub struct Grub {
    boot: Vec<u8>,
    core: Vec<u8>,
    efi: Vec<u8>,
}

impl Grub {
    /// # Errors
    /// When Debian's packages are missing.
    pub fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let make = |platform: &str, prefix: &str, modules: &[&str]| -> Result<Vec<u8>> {
            let out = folder.path().join(platform);
            let mut mkimage = Command::new("grub-mkimage");
            mkimage.args(["-O", platform, "-p", prefix, "-o"]).arg(&out).args(modules);
            run(&mut mkimage, "grub-common, grub-pc-bin, grub-efi-amd64-bin")?;
            Ok(fs::read(out)?)
        };
        let common = ["part_gpt", "fat", "normal", "configfile", "linux", "echo", "serial", "terminal"];
        let bios: Vec<&str> = common.iter().copied().chain(["biosdisk"]).collect();
        let boot = Path::new("/usr/lib/grub/i386-pc/boot.img");
        let boot = fs::read(boot).with_context(|| format!("no {} (package grub-pc-bin)", boot.display()))?;
        // Partition 2 of whatever disk the firmware started; under UEFI GRUB knows the partition as well.
        Ok(Self { boot, core: make("i386-pc", "(,gpt2)/grub", &bios)?, efi: make("x86_64-efi", "/grub", &common)? })
    }

    /// All that it is made of.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        [&self.boot[..], &self.core, &self.efi].into_iter()
    }
}

/// The whole image.
///
/// # Errors
/// When something does not fit.
pub fn image(grub: &Grub, kernel: &[u8], ramdisk: &[u8]) -> Result<Vec<u8>> {
    let mut disk = table()?;
    // The BIOS runs boot.img in the MBR, which loads the first sector of core.img, which loads the rest.
    let mut boot = grub.boot.clone();
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&(BIOS_BOOT.0 as u64).to_le_bytes());
    disk[..BOOT_CODE].copy_from_slice(&boot[..BOOT_CODE]);
    let mut core = grub.core.clone();
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(BIOS_BOOT.0 as u64 + 1).to_le_bytes());
    ensure!(core.len() <= BIOS_BOOT.1 * SECTOR, "GRUB's core of {} bytes does not fit its partition", core.len());
    disk[BIOS_BOOT.0 * SECTOR..][..core.len()].copy_from_slice(&core);
    let esp = file_system(
        ESP.1,
        *b"STOKEROS   ",
        &[
            ("EFI/BOOT/BOOTX64.EFI", &grub.efi),
            ("grub/grub.cfg", include_bytes!("grub.cfg")),
            ("grub/args.cfg", b""),
            ("vmlinuz", kernel),
            ("initrd", ramdisk),
        ],
    )?;
    disk[ESP.0 * SECTOR..][..esp.len()].copy_from_slice(&esp);
    let data = file_system(DATA.1, *b"STOKERDATA ", &[("marker", b"written by the image\n")])?;
    disk[DATA.0 * SECTOR..][..data.len()].copy_from_slice(&data);
    Ok(disk)
}

/// An empty disk with the three partitions.
fn table() -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; TOTAL]);
    ProtectiveMBR::with_lb_size(u32::try_from(TOTAL / SECTOR - 1)?).overwrite_lba0(&mut disk)?;
    let config = GptConfig::default().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(disk, None)?;
    let partitions = [
        ("bios", 1, BIOS_BOOT, partition_types::BIOS),
        ("esp", 2, ESP, partition_types::EFI),
        ("data", 3, DATA, partition_types::LINUX_FS),
    ];
    for (name, id, (first, length), kind) in partitions {
        table.add_partition_at(name, id, first as u64, length as u64, kind, 0)?;
    }
    Ok(table.write()?.into_inner())
}

/// A FAT file system of so many sectors with these files.
fn file_system(sectors: usize, label: [u8; 11], files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut volume = Cursor::new(vec![0; sectors * SECTOR]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(label).total_sectors(u32::try_from(sectors)?);
    fatfs::format_volume(&mut volume, options)?;
    {
        let system = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new())?;
        let root = system.root_dir();
        for (path, bytes) in files {
            for (end, _) in path.match_indices('/') {
                root.create_dir(&path[..end])?;
            }
            let mut file = root.create_file(path)?;
            file.write_all(bytes).with_context(|| format!("{path} does not fit"))?;
        }
    }
    Ok(volume.into_inner())
}
