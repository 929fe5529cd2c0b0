//! Signatures of file systems that several machines share (W8): a disk that
//! bears one is probably not this machine's alone.
//!
//! ZFS pools, MD arrays and plain LVM are not among them: they belong to the
//! machine whose disks they are on, and disks of a network are not in an order
//! in the first place (W7).

use super::erase::Media;
use std::io;

/// Partitions that are looked at.
const MAX_PARTITIONS: usize = 128;

/// GPT partition types (bytes as on disk) of shared storage.
const TYPES: [([u8; 16], &str); 3] = [
    (
        [0x2a, 0xe0, 0x31, 0xaa, 0x0f, 0x40, 0xdb, 0x11, 0x95, 0x90, 0, 0x0c, 0x29, 0x11, 0xd1, 0xb8],
        "a VMware VMFS partition",
    ),
    (
        [0x29, 0x7e, 0xbd, 0x4f, 0x25, 0x9d, 0xb8, 0x41, 0xaf, 0xd0, 0x06, 0x2c, 0x0c, 0xef, 0xf0, 0x5d],
        "a Ceph OSD partition",
    ),
    (
        [0x90, 0xfc, 0xaf, 0x37, 0x7d, 0xef, 0x96, 0x4e, 0x91, 0xc3, 0x2d, 0x7a, 0xe0, 0x55, 0xb1, 0x74],
        "a GPFS partition",
    ),
];

/// Magic numbers at an offset from the start of a disk or partition.
const MAGICS: [(u64, &[u8], &str); 4] = [
    (0x10_0000, &[0x0d, 0xd0, 0x01, 0xc0], "a VMware VMFS volume"),
    (0x1_0000, &[0x01, 0x16, 0x19, 0x70], "a GFS2 file system"),
    (0x2000, b"OCFSV2", "an OCFS2 file system"),
    (0, b"bluestore block device", "a Ceph BlueStore device"),
];

/// What shared storage a disk bears, if any.
///
/// # Errors
/// Where it cannot be read: then nobody knows.
pub fn shared(media: &mut dyn Media) -> io::Result<Option<&'static str>> {
    let size = media.size();
    if let Some(found) = volume(media, 0, size)? {
        return Ok(Some(found));
    }
    for Partition { kind, start, end } in partitions(media)? {
        if let Some((_, name)) = TYPES.iter().find(|(guid, _)| *guid == kind) {
            return Ok(Some(name));
        }
        if let Some(found) = volume(media, start, end.min(size))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What a disk or partition from `start` to `end` bears.
fn volume(media: &mut dyn Media, start: u64, end: u64) -> io::Result<Option<&'static str>> {
    if let Some(found) = magic(media, start)? {
        return Ok(Some(found));
    }
    if drbd(media, start, end)? {
        return Ok(Some("a DRBD volume"));
    }
    Ok(if shared_lvm(media, start)? { Some("an LVM volume group that machines share") } else { None })
}

/// DRBD keeps its metadata in the last 4 KiB (its `drbd_int.h`): version 8 with the magic number at
/// byte 60, version 9 at byte 20.
fn drbd(media: &mut dyn Media, start: u64, end: u64) -> io::Result<bool> {
    const MAGIC: [[u8; 4]; 3] = [[0x83, 0x74, 0x02, 0x6b], [0x83, 0x74, 0x02, 0x6c], [0x83, 0x74, 0x02, 0x6d]];
    let at = (end & !0xfff).saturating_sub(4096);
    if at < start || at.saturating_add(4096) > media.size() {
        return Ok(false);
    }
    let block = read(media, at, 4096)?;
    Ok([20, 60].iter().any(|i| block.get(*i..*i + 4).is_some_and(|b| MAGIC.iter().any(|m| m == b))))
}

/// LVM with a lock manager, or clustered as of old: its text says so. The text follows the label in the
/// first MiB of a physical volume.
fn shared_lvm(media: &mut dyn Media, start: u64) -> io::Result<bool> {
    let length = media.size().saturating_sub(start).min(1 << 20);
    let head = read(media, start, usize::try_from(length.min(4096)).unwrap_or(0))?;
    let label = head
        .chunks(512)
        .take(4)
        .any(|sector| sector.starts_with(b"LABELONE") && sector.get(24..32) == Some(b"LVM2 001"));
    if !label {
        return Ok(false);
    }
    let text = read(media, start, usize::try_from(length).unwrap_or(0))?;
    let says = |words: &[u8]| text.windows(words.len()).any(|w| w == words);
    Ok(says(b"lock_type = \"sanlock\"") || says(b"lock_type = \"dlm\"") || says(b"\"CLUSTERED\""))
}

fn magic(media: &mut dyn Media, start: u64) -> io::Result<Option<&'static str>> {
    for (offset, bytes, name) in MAGICS {
        let at = start.saturating_add(offset);
        if at.saturating_add(4096) <= media.size() && read(media, at, 4096)?.starts_with(bytes) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A partition, in bytes.
struct Partition {
    kind: [u8; 16],
    start: u64,
    end: u64,
}

/// The partitions of a GPT (UEFI specification 5.3), for both sector sizes.
fn partitions(media: &mut dyn Media) -> io::Result<Vec<Partition>> {
    for sector in [512_u64, 4096] {
        if sector + 4096 > media.size() {
            continue;
        }
        let head = read(media, sector, 4096)?;
        if !head.starts_with(b"EFI PART") {
            continue;
        }
        let number = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let (first, count, size) = (u64::from(number(72)), number(80) as usize, number(84) as usize);
        if !(128..=4096).contains(&size) {
            continue;
        }
        let length = count.min(MAX_PARTITIONS) * size;
        let at = first.saturating_mul(sector);
        if at.saturating_add(length as u64) > media.size() {
            continue;
        }
        let table = read(media, at, length)?;
        let entries = table.chunks_exact(size).filter_map(|entry| {
            let kind: [u8; 16] = entry.get(..16)?.try_into().ok()?;
            let start = u64::from_le_bytes(entry.get(32..40)?.try_into().ok()?).saturating_mul(sector);
            let last = u64::from_le_bytes(entry.get(40..48)?.try_into().ok()?);
            let end = last.saturating_add(1).saturating_mul(sector);
            (kind != [0; 16]).then_some(Partition { kind, start, end })
        });
        return Ok(entries.collect());
    }
    Ok(Vec::new())
}

fn read(media: &mut dyn Media, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    media.read_at(at, &mut buffer)?;
    Ok(buffer)
}
