use super::*;
use ::gpt::disk::LogicalBlockSize;
use ::gpt::mbr::ProtectiveMBR;
use ::gpt::{GptConfig, GptDisk, partition_types};
use std::io::Cursor;

const MIB: u64 = 1 << 20;

/// A disk as another implementation makes it: partitions of these first and last mebibytes.
fn made(size: u64, sector: u64, partitions: &[(u64, u64)]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; size as usize]);
    ProtectiveMBR::with_lb_size((size / sector - 1) as u32).overwrite_lba0(&mut disk).unwrap();
    let size = if sector == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let mut table = GptConfig::new().writable(true).logical_block_size(size).create_from_device(disk, None).unwrap();
    let unit = MIB / sector;
    for (id, (first, last)) in (1..).zip(partitions) {
        let length = (last - first + 1) * unit;
        table.add_partition_at("p", id, first * unit, length, partition_types::LINUX_FS, 0).unwrap();
    }
    table.write().unwrap().into_inner()
}

/// The same disk with another table on it, opened by the other implementation.
fn opened(mut disk: Vec<u8>, size: u64, table: &Table) -> GptDisk<Cursor<Vec<u8>>> {
    disk.resize(size as usize, 0);
    for piece in table.primary().iter().chain(&table.backup()) {
        put(&mut disk, piece.offset as usize, &piece.bytes);
    }
    protect(&mut disk[..512], size / table.sector);
    let block = if table.sector == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let mbr = ProtectiveMBR::from_bytes(&disk[..table.sector as usize], block).unwrap();
    assert_eq!(mbr.partition(0).unwrap().lb_size, (size / table.sector - 1) as u32);
    GptConfig::new().logical_block_size(block).only_valid_headers(true).open_from_device(Cursor::new(disk)).unwrap()
}

#[test]
fn a_moved_and_grown_table_is_valid_to_another_implementation() {
    for sector in [512, 4096] {
        let (small, large) = (16 * MIB, 64 * MIB);
        let disk = made(small, sector, &[(1, 4), (5, 10)]);
        let mut table = Table::read(&disk[..MIB as usize], sector).unwrap().unwrap();
        assert_eq!(table.partitions().len(), 2);
        let old = table.old_backup();
        assert_eq!(old, small - sector);
        table.fit(large).unwrap();
        let own = table.append(3 * MIB + 1, BASIC_DATA, [7; 16], "config").unwrap();
        assert!(table.grow(2) && !table.grow(1), "the first one has a neighbour");

        let other = opened(disk, large, &table);
        let (first, second) = (other.primary_header().unwrap(), other.backup_header().unwrap());
        assert_eq!((first.current_lba, first.backup_lba), (1, large / sector - 1));
        assert_eq!((second.current_lba, second.backup_lba), (large / sector - 1, 1));
        assert_eq!(first.last_usable, second.part_start - 1);
        let unit = MIB / sector;
        let spans: Vec<_> = other.partitions().values().map(|p| (p.first_lba, p.last_lba)).collect();
        // The last mebibyte holds the backup, the four before it the configuration.
        assert_eq!(spans, [(unit, 5 * unit - 1), (5 * unit, 59 * unit - 1), (59 * unit, 63 * unit - 1)]);
        assert_eq!((own.number, own.first, own.last), (3, 59 * unit, 63 * unit - 1));
        let config = &other.partitions()[&3];
        assert_eq!((config.name.as_str(), config.part_type_guid.guid), ("config", partition_types::BASIC.guid));
        assert_eq!(config.part_guid.to_bytes_le(), [7; 16]);
    }
}

#[test]
fn a_disk_that_is_too_small_is_refused_and_one_of_the_same_size_fits() {
    let disk = made(16 * MIB, 512, &[(1, 14)]);
    let table = Table::read(&disk, 512).unwrap().unwrap();
    let fit = |size| table.clone().fit(size);
    assert_eq!(fit(16 * MIB), Ok(()));
    assert!(fit(15 * MIB).unwrap_err().contains("partition 1 ends at byte 15728640"));
    assert!(fit(8 << 10).unwrap_err().contains("too small"));
    let mut same = table.clone();
    same.fit(16 * MIB).unwrap();
    assert_eq!(same.primary(), table.primary(), "nothing moves");
    assert!(!same.grow(1), "there is nowhere to grow to");
    let no_room = same.append(MIB, BASIC_DATA, [7; 16], "config").unwrap_err();
    assert!(no_room.contains("no room for 1048576 bytes"), "{no_room}");
}

#[test]
fn damage_is_told_and_nothing_else_is_a_table() {
    let disk = made(16 * MIB, 512, &[(1, 4)]);
    let head = &disk[..MIB as usize];
    let broken = |at: usize, bytes: &[u8]| {
        let mut head = head.to_vec();
        put(&mut head, at, bytes);
        Table::read(&head, 512)
    };
    for (at, bytes, words) in [
        (512 + 56, &[1_u8, 2, 3, 4, 5, 6, 7, 8][..], "checksum that it names"),
        (512 + 12, &[0xff, 0xff], "no valid length"),
        (512 + 12, &[8, 0], "no valid length"),
        (1024 + 40, &[0xff; 6], "checksum that the header names"),
    ] {
        let error = broken(at, bytes).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    // What a header with a right checksum may still claim.
    let claims = |at: usize, bytes: &[u8]| {
        let mut head = head.to_vec();
        put(&mut head, 512 + at, bytes);
        put(&mut head, 512 + 16, &[0; 4]);
        let sum = crc32(&head[512..512 + 92]);
        put(&mut head, 512 + 16, &sum.to_le_bytes());
        Table::read(&head, 512)
    };
    for (at, bytes, words) in [
        (24, &[2_u8, 0, 0, 0, 0, 0, 0, 0][..], "not the primary"),
        (80, &[0xff; 4], "4294967295 entries"),
        (84, &[1, 0, 0, 0], "entries of 1 bytes"),
        (72, &[0xff; 8], "too far"),
        (72, &[0, 0, 0, 1], "too far"),
    ] {
        let error = claims(at, bytes).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(broken(512, b"EFI Part"), Ok(None));
    assert_eq!(Table::read(head, 4096), Ok(None));
    assert_eq!(Table::read(&head[..600], 512), Ok(None));
    assert_eq!(Table::read(b"", 512), Ok(None));
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

proptest::proptest! {
    #[test]
    fn nonsense_never_panics(mut head in proptest::collection::vec(0_u8.., 0..4096), size in 0_u64.., fix in proptest::bool::ANY) {
        if fix && head.len() > 1024 {
            put(&mut head, 512, SIGNATURE);
            put(&mut head, 512 + 12, &[92, 0, 0, 0]);
            put(&mut head, 512 + 24, &[1, 0, 0, 0, 0, 0, 0, 0]);
            put(&mut head, 512 + 72, &[2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 128, 0, 0, 0]);
            let entries = crc32(head.get(1024..1536).unwrap_or_default());
            put(&mut head, 512 + 88, &entries.to_le_bytes());
            put(&mut head, 512 + 16, &[0; 4]);
            let sum = crc32(&head[512..604]);
            put(&mut head, 512 + 16, &sum.to_le_bytes());
        }
        if let Ok(Some(mut table)) = Table::read(&head, 512)
            && table.fit(size).is_ok()
        {
            let _ = table.append(MIB, BASIC_DATA, [7; 16], "config");
            (0..5).for_each(|n| { table.grow(n); });
            let _ = (table.primary(), table.backup(), table.old_backup());
        }
    }
}
