//! SMBIOS (DMTF DSP0134): the firmware's own inventory. The table is foreign
//! data of varying quality; the reader takes what is well-formed and stops at
//! what is not.

use protocol::id::MachineId;
use protocol::report::{MemoryModule, Processor, System};
use std::path::Path;
use std::{fs, io};

/// Structures read at most; real machines have some hundreds.
const MAX_STRUCTURES: usize = 4096;
/// No text is kept longer, characters.
const MAX_TEXT: usize = 200;
/// No table is read beyond, bytes.
const MAX_TABLE: usize = 1 << 20;

/// A table cut into structures.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    version: (u8, u8),
    structures: Vec<Structure>,
}

/// One structure: its formatted part (with the 4-byte head) and its texts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Structure {
    kind: u8,
    data: Vec<u8>,
    texts: Vec<String>,
}

/// Reads `DMI` and `smbios_entry_point` in `folder` (`/sys/firmware/dmi/tables`).
///
/// # Errors
/// When the table cannot be read.
pub fn read(folder: &Path) -> io::Result<Table> {
    let version = fs::read(folder.join("smbios_entry_point")).ok().and_then(|e| entry_version(&e));
    let table = fs::read(folder.join("DMI"))?;
    // Without an entry point the newer rules are the better guess: 2.6 is of 2008.
    Ok(Table::parse(version.unwrap_or((2, 6)), &table))
}

/// Major and minor version of an entry point (DSP0134 5.2.1 and 5.2.2).
fn entry_version(entry: &[u8]) -> Option<(u8, u8)> {
    match entry {
        [b'_', b'S', b'M', b'3', b'_', _, _, major, minor, ..] => Some((*major, *minor)),
        [b'_', b'S', b'M', b'_', _, _, major, minor, ..] => Some((*major, *minor)),
        _ => None,
    }
}

impl Table {
    /// Cuts a table into structures; ends at type 127 or where the bytes make no sense.
    pub fn parse(version: (u8, u8), bytes: &[u8]) -> Self {
        let mut structures = Vec::new();
        let mut rest = bytes.get(..bytes.len().min(MAX_TABLE)).unwrap_or_default();
        while structures.len() < MAX_STRUCTURES {
            let Some(&[kind, length, ..]) = rest.first_chunk::<4>() else { break };
            let length = usize::from(length);
            if length < 4 || kind == 127 {
                break;
            }
            let Some((data, after)) = rest.split_at_checked(length) else { break };
            let (texts, used) = texts(after);
            structures.push(Structure { kind, data: data.to_vec(), texts });
            rest = after.get(used..).unwrap_or_default();
        }
        Self { version, structures }
    }

    /// All structures of a type.
    fn of(&self, kind: u8) -> impl Iterator<Item = &Structure> {
        self.structures.iter().filter(move |s| s.kind == kind)
    }

    /// Whether the firmware describes a BMC (type 38, IPMI device information).
    pub fn describes_bmc(&self) -> bool {
        self.of(38).next().is_some()
    }

    /// Type 1 (DSP0134 7.2).
    pub fn system(&self) -> System {
        let Some(s) = self.of(1).next() else { return System::default() };
        let uuid = s.data.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(|wire| {
            // Before 2.6 the first three fields were big-endian.
            if self.version < (2, 6) { MachineId(wire) } else { MachineId::from_smbios_wire(wire) }
        });
        System {
            uuid,
            manufacturer: s.text(4),
            product_name: s.text(5),
            version: s.text(6),
            serial_number: s.text(7),
            sku_number: s.text(25),
            family: s.text(26),
        }
    }

    /// Type 4 (7.5), populated sockets only.
    pub fn processors(&self) -> Vec<Processor> {
        const CENTRAL: u8 = 3;
        const POPULATED: u8 = 1 << 6;
        self.of(4)
            .filter(|s| s.byte(5) == CENTRAL && s.byte(0x18) & POPULATED != 0)
            .map(|s| Processor {
                manufacturer: s.text(7),
                product_name: s.text(0x10),
                serial_number: s.text(0x20),
                speed: match s.word(0x16) {
                    0 => u32::from(s.word(0x14)),
                    current => u32::from(current),
                },
                core_count: s.count(0x23, 0x2a),
                thread_count: s.count(0x25, 0x2e),
            })
            .collect()
    }

    /// Type 17 (7.18), populated slots only.
    pub fn memory_modules(&self) -> Vec<MemoryModule> {
        self.of(17)
            .filter_map(|s| {
                let size = match s.word(0x0c) {
                    0 | 0xffff => return None, // empty, or unknown
                    0x7fff => s.dword(0x1c) & 0x7fff_ffff,
                    kib if kib & 0x8000 != 0 => u32::from(kib & 0x7fff) / 1024,
                    mib => u32::from(mib),
                };
                Some(MemoryModule {
                    manufacturer: s.text(0x17),
                    product_name: s.text(0x1a),
                    serial_number: s.text(0x18),
                    r#type: memory_type(s.byte(0x12)).to_string(),
                    size,
                    speed: match (s.word(0x20), s.word(0x15)) {
                        (0xffff, _) => s.dword(0x58),
                        (0, 0xffff) => s.dword(0x54),
                        (0, rated) => u32::from(rated),
                        (configured, _) => u32::from(configured),
                    },
                })
            })
            .collect()
    }
}

impl Structure {
    fn byte(&self, at: usize) -> u8 {
        self.data.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u16 {
        self.data.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
    }

    fn dword(&self, at: usize) -> u32 {
        self.data.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// The text that the byte at `at` numbers, trimmed; firmware writers' placeholders count as absent.
    fn text(&self, at: usize) -> String {
        const PLACEHOLDERS: [&str; 6] =
            ["To Be Filled By O.E.M.", "Default string", "Not Specified", "System Serial Number", "None", "Unknown"];
        let text = usize::from(self.byte(at)).checked_sub(1).and_then(|i| self.texts.get(i)).map_or("", String::as_str);
        if PLACEHOLDERS.iter().any(|p| p.eq_ignore_ascii_case(text)) { String::new() } else { text.to_string() }
    }

    /// A count of 8 bits that says 255 where the 16-bit field further on has the truth (since 3.0).
    fn count(&self, short: usize, long: usize) -> u32 {
        match (self.byte(short), self.word(long)) {
            (0xff, wide) if wide != 0 && wide != 0xffff => u32::from(wide),
            (narrow, _) => u32::from(narrow),
        }
    }
}

/// The texts behind a structure and how many bytes they take, the final two zeros included.
fn texts(bytes: &[u8]) -> (Vec<String>, usize) {
    let mut texts = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|b| *b == 0) else { return (texts, bytes.len()) };
        if length == 0 {
            // No texts at all is two zeros; after texts the set ends with one more zero.
            return (texts, at + if at == 0 { 2 } else { 1 });
        }
        let text = rest.get(..length).unwrap_or_default();
        let text: String =
            text.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '?' }).collect();
        texts.push(text.trim().chars().take(MAX_TEXT).collect());
        at += length + 1;
    }
}

/// 7.18.2, those that servers of the last twenty years carry.
const fn memory_type(code: u8) -> &'static str {
    match code {
        0x07 => "RAM",
        0x0f => "SDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x14 => "DDR2 FB-DIMM",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x1f => "Logical non-volatile device",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => "",
    }
}

#[cfg(test)]
#[path = "smbios_tests.rs"]
mod tests;
