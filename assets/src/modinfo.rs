//! What a kernel module says about itself: the `.modinfo` section of its ELF file.

use anyhow::{Context as _, Result, bail};
use std::io::Read as _;
use std::path::Path;

/// No module is larger unpacked, bytes.
const MAX_MODULE: u64 = 64 << 20;

/// The parts that loading needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Modinfo {
    /// Device patterns, in the file's order.
    pub aliases: Vec<String>,
    /// Modules that must be loaded before, with `_` for `-`.
    pub depends: Vec<String>,
    /// Modules that should be loaded before where there are any (`softdep: pre: ...`).
    pub before: Vec<String>,
    /// Firmware files that it may ask for.
    pub firmware: Vec<String>,
}

/// Reads a `.ko`, `.ko.xz` or `.ko.zst` file.
///
/// # Errors
/// When it is not one.
pub fn read(path: &Path) -> Result<Modinfo> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    let reader: Box<dyn std::io::Read> = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    reader.take(MAX_MODULE).read_to_end(&mut bytes).with_context(|| format!("cannot unpack {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is not a kernel module", path.display()))
}

fn parse(elf: &[u8]) -> Result<Modinfo> {
    let mut info = Modinfo::default();
    for entry in section(elf, b".modinfo")?.split(|b| *b == 0) {
        let entry = String::from_utf8_lossy(entry);
        let Some((key, value)) = entry.split_once('=') else { continue };
        match key {
            "alias" => info.aliases.push(value.to_string()),
            "depends" => info.depends.extend(value.split(',').filter(|d| !d.is_empty()).map(underscored)),
            "softdep" => info.before.extend(before(value)),
            "firmware" => info.firmware.push(value.to_string()),
            _ => {}
        }
    }
    Ok(info)
}

/// `pre: a b post: c` is a and b.
fn before(softdep: &str) -> Vec<String> {
    let words = softdep.split_ascii_whitespace().skip_while(|w| *w != "pre:").skip(1).take_while(|w| !w.ends_with(':'));
    words.map(underscored).collect()
}

/// The kernel's own form of a module's name.
pub fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// A section of a 64-bit little-endian ELF file (System V ABI, chapter 4).
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Result<&'a [u8]> {
    const ELF64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    if !elf.starts_with(ELF64_LITTLE) {
        bail!("not a 64-bit little-endian ELF file");
    }
    let table = usize::try_from(number(elf, 0x28, 8)?)?;
    let (size, count, names) = (number(elf, 0x3a, 2)? as usize, number(elf, 0x3c, 2)?, number(elf, 0x3e, 2)? as usize);
    let header = |i: usize| table.checked_add(i.checked_mul(size)?);
    let span = |at: usize| -> Result<&'a [u8]> {
        let (offset, length) =
            (usize::try_from(number(elf, at + 0x18, 8)?)?, usize::try_from(number(elf, at + 0x20, 8)?)?);
        offset.checked_add(length).and_then(|end| elf.get(offset..end)).context("a section lies outside of the file")
    };
    let names = span(header(names).context("bad section table")?)?;
    for i in 0..count as usize {
        let at = header(i).context("bad section table")?;
        let start = number(elf, at, 4)? as usize;
        if names.get(start..).is_some_and(|n| n.starts_with(name) && n.get(name.len()) == Some(&0)) {
            return span(at);
        }
    }
    bail!("no {} section", String::from_utf8_lossy(name))
}

fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let bytes = at.checked_add(length).and_then(|end| bytes.get(at..end)).context("cut short")?;
    Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of two sections: the names, and `.modinfo`.
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let at_names = file.len();
        file.extend(names);
        let at_info = file.len();
        file.extend(modinfo);
        let table = file.len();
        for (name, offset, length) in [(1_u32, at_names, names.len()), (11, at_info, modinfo.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        }
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a] = 64;
        file[0x3c] = 2;
        file
    }

    #[test]
    fn a_module_tells_its_devices_and_needs() {
        let file = elf(b"license=GPL\0alias=pci:v1d2*\0alias=pci:v3*\0depends=i2c-algo-bit,dca\0softdep=pre: realtek post: x\0firmware=a.bin\0");
        let info = parse(&file).unwrap();
        assert_eq!(info.aliases, ["pci:v1d2*", "pci:v3*"]);
        assert_eq!(info.depends, ["i2c_algo_bit", "dca"]);
        assert_eq!((info.before, info.firmware), (vec!["realtek".to_string()], vec!["a.bin".to_string()]));
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let file = elf(b"depends=\0");
        for length in 0..file.len() - 64 + 0x28 {
            // the fields of the last header that nobody reads may be missing
            assert!(parse(&file[..length]).is_err(), "{length}");
        }
        assert!(parse(b"#!/bin/sh").is_err());
    }
}
