//! What becomes of the image's partition table on this disk. Decided from the
//! image's head, before anything is written.

use super::gpt::{self, BASIC_DATA, ESP, Partition, Piece, Table};
use super::seed;
use crate::wipe::erase::Media;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// An MBR's type of an EFI system partition, and where the types stand.
const MBR_ESP: u8 = 0xef;
const MBR_TYPES: [usize; 4] = [450, 466, 482, 498];

/// What the disk is and the order wants.
pub(super) struct Wish {
    pub sector: u64,
    pub size: u64,
    pub grow: bool,
    pub uefi: bool,
    /// Length of the data source's volume.
    pub seed: Option<u64>,
    /// For its partition.
    pub guid: [u8; 16],
}

/// The table as it will be.
#[derive(Debug)]
pub(super) struct Layout {
    pub sector: u64,
    size: u64,
    /// The table, where it is another one than the image's.
    table: Option<Table>,
    /// Where the firmware looks for the loader; none under BIOS, or where it finds its own way.
    pub esp: Option<Partition>,
    seed: Option<Partition>,
    grown: Option<u32>,
}

impl Layout {
    /// # Errors
    /// Why the image cannot be used on this machine.
    pub fn plan(head: &[u8], wish: &Wish) -> Result<Self, String> {
        let Some(mut table) = Table::read(head, wish.sector)? else { return Self::without_gpt(head, wish) };
        let brought = table.last();
        table.fit(wish.size)?;
        let esp = table.partitions().into_iter().find(|p| p.kind == ESP);
        if wish.uefi && esp.is_none() {
            return Err("this machine starts by UEFI, and it has no EFI system partition".into());
        }
        let seed = wish.seed.map(|length| table.append(length, BASIC_DATA, wish.guid, seed::PARTITION)).transpose()?;
        let grown = brought.map(|p| p.number).filter(|number| wish.grow && table.grow(*number));
        Ok(Self {
            sector: wish.sector,
            size: wish.size,
            table: (wish.grow || seed.is_some()).then_some(table),
            esp: esp.filter(|_| wish.uefi),
            seed,
            grown,
        })
    }

    fn without_gpt(head: &[u8], wish: &Wish) -> Result<Self, String> {
        if head.starts_with(b"QFI\xfb") {
            return Err("it is a qcow2 file; make a raw image of it with `qemu-img convert -O raw`".into());
        }
        if let Some(other) = [512, 4096].into_iter().find(|s| *s != wish.sector && Table::read(head, *s) != Ok(None)) {
            return Err(format!("it is made for sectors of {other} bytes, the disk has {}", wish.sector));
        }
        if !gpt::is_mbr(head) {
            return Err("it has neither GPT nor MBR: it is no image of a disk".into());
        }
        if wish.uefi && MBR_TYPES.iter().all(|at| head.get(*at) != Some(&MBR_ESP)) {
            return Err("this machine starts by UEFI, and it has no EFI system partition".into());
        }
        if wish.seed.is_some() {
            return Err("it has no GPT, so there is no place for a data source".into());
        }
        Ok(Self { sector: wish.sector, size: wish.size, table: None, esp: None, seed: None, grown: None })
    }

    /// What is to be written beside the image, in this order; the head is changed to match.
    pub fn pieces(&self, head: &mut [u8], volume: Option<&[u8]>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(table) = &self.table else { return pieces };
        // The image's own backup would lie somewhere in the middle and confuse who looks for tables.
        let backup = table.backup();
        let old = table.old_backup();
        if old.saturating_add(self.sector) <= self.size && backup.iter().all(|p| p.offset != old) {
            pieces.push(Piece { offset: old, bytes: vec![0; usize::try_from(self.sector).unwrap_or(0)] });
        }
        if let (Some(partition), Some(volume)) = (&self.seed, volume) {
            let offset = partition.first * self.sector;
            // A stale table in the place of the new volume is gone already.
            pieces.retain(|p| p.offset < offset || p.offset >= offset + volume.len() as u64);
            pieces.push(Piece { offset, bytes: volume.to_vec() });
        }
        pieces.extend(backup);
        for piece in table.primary() {
            let at = usize::try_from(piece.offset).unwrap_or(usize::MAX);
            if let Some(place) = head.get_mut(at..).and_then(|h| h.get_mut(..piece.bytes.len())) {
                place.copy_from_slice(&piece.bytes);
            }
        }
        gpt::protect(head, self.size / self.sector);
        pieces
    }

    /// For the operator.
    pub fn words(&self) -> String {
        let grown = self.grown.map_or(String::new(), |number| format!(", partition {number} grown"));
        let seed = self.seed.as_ref().map_or(String::new(), |p| format!(", configuration on partition {}", p.number));
        grown + &seed
    }
}

/// Whether a FAT partition has a file.
///
/// # Errors
/// When it is none, or the disk cannot be read.
pub(super) fn has_file(media: &mut dyn Media, partition: &Partition, sector: u64, path: &str) -> io::Result<bool> {
    let start = partition.first * sector;
    let length = (partition.last - partition.first + 1) * sector;
    let system = fatfs::FileSystem::new(Window { media, start, length, at: 0 }, fatfs::FsOptions::new())?;
    let path = path.trim_start_matches('\\').replace('\\', "/");
    let root = system.root_dir();
    match root.open_file(&path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A part of a disk, for reading.
struct Window<'a> {
    media: &'a mut dyn Media,
    start: u64,
    length: u64,
    at: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        self.media.read_at(self.start + self.at, buffer.get_mut(..n).unwrap_or_default())?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Window<'_> {
    /// fatfs clears a mark of its own at the end of reading; the disk stays as it is.
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
