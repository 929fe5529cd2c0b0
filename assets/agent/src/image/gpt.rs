//! The partition table of a disk image, made to fit the disk that it is
//! written to (UEFI specification 2.10, section 5.3). Pure: bytes in, bytes out.

/// Partitions begin and end on multiples of this, bytes: what every tool does since disks have large sectors.
pub const ALIGNMENT: u64 = 1 << 20;
/// Type of an EFI system partition (C12A7328-F81F-11D2-BA4B-00A0C93EC93B), as on disk.
pub const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// Type of a partition with a file system that any system reads (EBD0A0A2-B9E5-4433-87C0-68B6B72699C7), as on disk.
pub const BASIC_DATA: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];

const SIGNATURE: &[u8] = b"EFI PART";
/// The header's fixed part, bytes.
const HEADER: usize = 92;
/// Entries at most: eight times what tools make.
const MAX_ENTRIES: usize = 1024;
/// Sizes of an entry: 128 times a power of two.
const ENTRY_SIZES: [usize; 6] = [128, 256, 512, 1024, 2048, 4096];
/// Type of the one partition of a protective MBR.
const PROTECTIVE: u8 = 0xee;
/// Where the four entries of an MBR begin, and how long one is, bytes.
const MBR_ENTRIES: usize = 446;
const MBR_ENTRY: usize = 16;

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// From 1.
    pub number: u32,
    /// Type, as on disk.
    pub kind: [u8; 16],
    /// Its own GUID, as on disk.
    pub guid: [u8; 16],
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
}

/// A GUID partition table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    sector: u64,
    /// The header as the image brought it.
    header: Vec<u8>,
    entry_size: usize,
    entries: Vec<u8>,
    /// Sectors of the disk.
    sectors: u64,
    last_usable: u64,
}

/// Bytes for a place on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where, bytes.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

impl Table {
    /// Reads the table from the first bytes of a disk with sectors of this size; none where there is no GPT.
    ///
    /// # Errors
    /// What is wrong with the one that is there.
    pub fn read(head: &[u8], sector: u64) -> Result<Option<Self>, String> {
        let size = usize::try_from(sector).map_err(|_| "a sector of that size")?;
        let Some(block) = head.get(size..2 * size).filter(|b| b.starts_with(SIGNATURE)) else { return Ok(None) };
        let length = u32_at(block, 12) as usize;
        let header = block.get(..length).filter(|_| length >= HEADER).ok_or("its GPT header has no valid length")?;
        let mut bare = header.to_vec();
        put(&mut bare, 16, &[0; 4]);
        if crc32(&bare) != u32_at(header, 16) {
            return Err("its GPT header does not have the checksum that it names".into());
        }
        if u64_at(header, 24) != 1 {
            return Err("its GPT header is not the primary one".into());
        }
        let (count, entry_size) = (u32_at(header, 80) as usize, u32_at(header, 84) as usize);
        if !ENTRY_SIZES.contains(&entry_size) || count > MAX_ENTRIES {
            return Err(format!("its GPT has {count} entries of {entry_size} bytes"));
        }
        let at = u64_at(header, 72).checked_mul(sector).and_then(|at| usize::try_from(at).ok());
        let entries = at.and_then(|at| head.get(at..at.checked_add(count * entry_size)?));
        let entries = entries.ok_or("its GPT entries lie too far from the start of the disk")?;
        if crc32(entries) != u32_at(header, 88) {
            return Err("its GPT entries do not have the checksum that the header names".into());
        }
        Ok(Some(Self {
            sector,
            header: header.to_vec(),
            entry_size,
            entries: entries.to_vec(),
            sectors: u64_at(header, 32).saturating_add(1),
            last_usable: u64_at(header, 48),
        }))
    }

    /// The partitions in use, in the order of their numbers.
    pub fn partitions(&self) -> Vec<Partition> {
        let entries = (1..).zip(self.entries.chunks_exact(self.entry_size));
        let used = entries.filter(|(_, e)| !e.starts_with(&[0; 16]));
        used.map(|(number, e)| Partition {
            number,
            kind: guid_at(e, 0),
            guid: guid_at(e, 16),
            first: u64_at(e, 32),
            last: u64_at(e, 40),
        })
        .collect()
    }

    /// The partition that lies last on the disk.
    pub fn last(&self) -> Option<Partition> {
        self.partitions().into_iter().max_by_key(|p| p.last)
    }

    /// Moves the table's backup to the end of a disk of this size, bytes.
    ///
    /// # Errors
    /// When a partition would not fit.
    pub fn fit(&mut self, size: u64) -> Result<(), String> {
        let sectors = size / self.sector;
        // At the end: the entries, then the header.
        let Some(last_usable) = sectors.checked_sub(self.entry_sectors() + 2) else {
            return Err("the disk is too small for a partition table".into());
        };
        if let Some(p) = self.partitions().iter().find(|p| p.last > last_usable || p.first > p.last) {
            return Err(format!(
                "its partition {} ends at byte {}, past what the disk of {size} bytes can hold",
                p.number,
                p.last.saturating_add(1).saturating_mul(self.sector)
            ));
        }
        (self.sectors, self.last_usable) = (sectors, last_usable);
        Ok(())
    }

    /// Adds a partition of at least `length` bytes at the end of the disk. After [`Table::fit`].
    ///
    /// # Errors
    /// When there is no room for it, on the disk or in the table.
    pub fn append(&mut self, length: u64, kind: [u8; 16], guid: [u8; 16], name: &str) -> Result<Partition, String> {
        let unit = self.unit();
        let length = length.div_ceil(self.sector).next_multiple_of(unit);
        let end = (self.last_usable + 1) / unit * unit;
        let first = end.checked_sub(length);
        let taken = self.last().map_or(0, |p| p.last);
        let no_room = || format!("there is no room for {} bytes after its last partition", length * self.sector);
        let first = first.filter(|first| *first > taken && *first >= u64_at(&self.header, 40)).ok_or_else(no_room)?;
        let free = self.entries.chunks_exact(self.entry_size).position(|e| e.starts_with(&[0; 16]));
        let index = free.ok_or("its GPT has no free entry")?;
        let partition =
            Partition { number: u32::try_from(index + 1).unwrap_or(u32::MAX), kind, guid, first, last: end - 1 };
        let mut entry = vec![0; self.entry_size];
        put(&mut entry, 0, &kind);
        put(&mut entry, 16, &guid);
        put(&mut entry, 32, &partition.first.to_le_bytes());
        put(&mut entry, 40, &partition.last.to_le_bytes());
        // 36 UTF-16 units, the last of them zero.
        for (i, unit) in name.encode_utf16().take(35).enumerate() {
            put(&mut entry, 56 + 2 * i, &unit.to_le_bytes());
        }
        put(&mut self.entries, index * self.entry_size, &entry);
        Ok(partition)
    }

    /// Lets a partition reach to the next one or to the end of the disk; whether it grew.
    pub fn grow(&mut self, number: u32) -> bool {
        let all = self.partitions();
        let Some(own) = all.iter().find(|p| p.number == number) else { return false };
        let next = all.iter().filter(|p| p.first > own.first).map(|p| p.first).min();
        let end = next.unwrap_or(self.last_usable + 1);
        let unit = self.unit();
        let last = (end / unit * unit).saturating_sub(1);
        if last <= own.last {
            return false;
        }
        let at = (number as usize - 1) * self.entry_size;
        put(&mut self.entries, at + 40, &last.to_le_bytes());
        true
    }

    /// Where the image has its backup header, bytes.
    pub fn old_backup(&self) -> u64 {
        u64_at(&self.header, 32).saturating_mul(self.sector)
    }

    /// Size of a sector, bytes.
    pub const fn sector(&self) -> u64 {
        self.sector
    }

    /// The table at the start of the disk: header, entries.
    pub fn primary(&self) -> [Piece; 2] {
        let entries = u64_at(&self.header, 72);
        [self.header(1, self.sectors - 1, entries), self.piece(entries, self.entries.clone())]
    }

    /// Its backup at the end.
    pub fn backup(&self) -> [Piece; 2] {
        let own = self.sectors - 1;
        let entries = own - self.entry_sectors();
        [self.piece(entries, self.entries.clone()), self.header(own, 1, entries)]
    }

    fn header(&self, own: u64, other: u64, entries: u64) -> Piece {
        let mut header = self.header.clone();
        put(&mut header, 16, &[0; 4]);
        put(&mut header, 24, &own.to_le_bytes());
        put(&mut header, 32, &other.to_le_bytes());
        put(&mut header, 48, &self.last_usable.to_le_bytes());
        put(&mut header, 72, &entries.to_le_bytes());
        put(&mut header, 88, &crc32(&self.entries).to_le_bytes());
        let sum = crc32(&header);
        put(&mut header, 16, &sum.to_le_bytes());
        header.resize(usize::try_from(self.sector).unwrap_or(HEADER), 0);
        self.piece(own, header)
    }

    const fn piece(&self, sector: u64, bytes: Vec<u8>) -> Piece {
        Piece { offset: sector * self.sector, bytes }
    }

    const fn entry_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(self.sector)
    }

    /// [`ALIGNMENT`] in sectors.
    const fn unit(&self) -> u64 {
        ALIGNMENT / self.sector
    }
}

/// Lets the protective MBR in the first sector cover a disk of so many sectors. Another MBR stays as it is.
pub fn protect(head: &mut [u8], sectors: u64) {
    let size = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    for i in 0..4 {
        let at = MBR_ENTRIES + i * MBR_ENTRY;
        if head.get(at + 4) == Some(&PROTECTIVE) {
            put(head, at + 12, &size.to_le_bytes());
        }
    }
}

/// Whether the first sector ends as an MBR does.
pub fn is_mbr(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn guid_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes.get(at..at + 16).and_then(|b| b.try_into().ok()).unwrap_or_default()
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

/// CRC-32 as the specification names it (ISO 3309; the one of Ethernet and zip).
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
mod tests;
