//! How large an image is when it is unpacked, as far as its own headers tell,
//! so that a machine whose disks are too small is not booted for nothing. The
//! agent counts once more while it writes.

use protocol::report::ImageFormat;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a zstd frame header that can matter (RFC 8878 section 3.1.1.1).
const ZST_HEAD: usize = 18;
/// Bytes of an xz stream footer (The .xz File Format, section 2.1.2).
const XZ_FOOTER: usize = 12;
/// The largest xz index that is read, bytes: some 100 000 blocks.
const XZ_INDEX: u64 = 1 << 20;

/// Bytes that the image has at least when it is unpacked. `length`: as it lies in `path`.
pub fn at_least(path: &Path, format: ImageFormat, length: u64) -> u64 {
    let told = match format {
        ImageFormat::Raw => None,
        ImageFormat::Zst => head(path).and_then(|head| zst(&head)),
        ImageFormat::Xz => footer(path, length),
    };
    // Where nothing is told, packing has at least not made it much larger.
    told.unwrap_or(if format == ImageFormat::Raw { length } else { 0 })
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(ZST_HEAD as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The content size of the first frame, where its header has one.
fn zst(head: &[u8]) -> Option<u64> {
    let rest = head.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (&descriptor, rest) = rest.split_first()?;
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let bytes = match (descriptor >> 6, single) {
        (0, false) => return None,
        (0, true) => 1,
        (1, _) => 2,
        (2, _) => 4,
        _ => 8,
    };
    let field = rest.get(usize::from(!single) + dictionary..)?.get(..bytes)?;
    let size = field.iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    Some(if bytes == 2 { size + 256 } else { size })
}

fn footer(path: &Path, length: u64) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let mut footer = [0; XZ_FOOTER];
    file.seek(SeekFrom::Start(length.checked_sub(XZ_FOOTER as u64)?)).ok()?;
    file.read_exact(&mut footer).ok()?;
    let words = footer.get(4..8)?.try_into().map(u32::from_le_bytes).ok()?;
    let size = (u64::from(words) + 1) * 4;
    if footer.get(10..)? != b"YZ" || size > XZ_INDEX {
        return None;
    }
    let mut index = vec![0; usize::try_from(size).ok()?];
    file.seek(SeekFrom::Start(length.checked_sub(XZ_FOOTER as u64 + size)?)).ok()?;
    file.read_exact(&mut index).ok()?;
    xz(&index)
}

/// The sum of the block sizes of an index.
fn xz(index: &[u8]) -> Option<u64> {
    let mut rest = index.strip_prefix(&[0])?;
    let blocks = number(&mut rest)?;
    let mut sum = 0_u64;
    // Every block has two bytes in the index at least: a wrong count ends with it.
    for _ in 0..blocks {
        number(&mut rest)?;
        sum = sum.checked_add(number(&mut rest)?)?;
    }
    Some(sum)
}

/// A multibyte integer (The .xz File Format, section 1.2).
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_zstd_frames_are_read() {
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let frame = |rest: &[u8]| [&magic[..], rest].concat();
        for (head, size) in [
            (frame(&[0x20, 7]), Some(7)),
            (frame(&[0x60, 0, 1]), Some(512)),
            (frame(&[0x40, 0x58, 0, 1]), Some(512)),
            (frame(&[0xa0, 0, 0, 0, 4]), Some(64 << 20)),
            (frame(&[0xe1, 9, 0, 0, 0, 0, 1, 0, 0, 0]), Some(1 << 32)),
            (frame(&[0x00, 0x58]), None),
            (frame(&[0xe0, 1, 2]), None),
            (frame(&[]), None),
            (b"not zstd".to_vec(), None),
        ] {
            assert_eq!(zst(&head), size, "{head:x?}");
        }
    }

    #[test]
    fn a_real_xz_tells_its_size_and_damage_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, vec![7; 3_000_000]).unwrap();
        let packed = std::process::Command::new("xz").args(["-k", "--block-size=1MiB"]).arg(&path).status().unwrap();
        assert!(packed.success());
        let xz = dir.path().join("image.xz");
        let bytes = std::fs::read(&xz).unwrap();
        let length = bytes.len() as u64;
        assert_eq!(at_least(&xz, ImageFormat::Xz, length), 3_000_000);
        assert_eq!(at_least(&path, ImageFormat::Raw, 3_000_000), 3_000_000);
        assert_eq!(at_least(&path, ImageFormat::Xz, 3_000_000), 0);
        assert_eq!(at_least(&path, ImageFormat::Zst, 3_000_000), 0);
        for cut in [0, 5, 11, 12, 20, bytes.len() - 1] {
            std::fs::write(&xz, &bytes[..cut]).unwrap();
            assert_eq!(at_least(&xz, ImageFormat::Xz, cut as u64), 0, "{cut}");
        }
        assert_eq!(super::xz(&[0, 0xff, 0xff, 0xff, 0xff, 0x7f]), None, "a count without blocks");
        assert_eq!(number(&mut &[0x80; 20][..]), None);
    }
}
