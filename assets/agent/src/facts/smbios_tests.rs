//! The reader against QEMU's table, one shaped like a two-socket server's, and nonsense.

use super::*;
use proptest::prelude::*;

const QEMU: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qemu");

/// One structure: head, formatted part from offset 4 on, texts.
fn structure(kind: u8, formatted: &[u8], texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![kind, 4 + formatted.len() as u8, kind, 0];
    bytes.extend(formatted);
    texts.iter().for_each(|t| bytes.extend(t.bytes().chain([0])));
    bytes.extend(if texts.is_empty() { &[0, 0][..] } else { &[0][..] });
    bytes
}

/// A formatted part of `length` bytes (the head counted) with values at their offsets of the standard.
fn formatted(length: usize, values: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    values.iter().for_each(|(at, value)| bytes[*at..at + value.len()].copy_from_slice(value));
    bytes.split_off(4)
}

fn cpu(status: u8, cores: (u8, u16), threads: (u8, u16)) -> Vec<u8> {
    let wide = [cores.1.to_le_bytes(), threads.1.to_le_bytes()];
    let values: [(usize, &[u8]); 11] = [
        (0x05, &[3]),
        (0x07, &[1]),
        (0x10, &[2]),
        (0x14, &4000_u16.to_le_bytes()),
        (0x16, &2600_u16.to_le_bytes()),
        (0x18, &[status]),
        (0x20, &[3]),
        (0x23, &[cores.0]),
        (0x25, &[threads.0]),
        (0x2a, &wide[0]),
        (0x2e, &wide[1]),
    ];
    structure(
        4,
        &formatted(0x30, &values),
        &["Intel(R) Corporation", "Intel(R) Xeon(R) Platinum 8592+  ", "To Be Filled By O.E.M."],
    )
}

fn dimm(size: u16, extended: u32, kind: u8) -> Vec<u8> {
    let values: [(usize, &[u8]); 8] = [
        (0x0c, &size.to_le_bytes()),
        (0x12, &[kind]),
        (0x15, &5600_u16.to_le_bytes()),
        (0x17, &[1]),
        (0x18, &[2]),
        (0x1a, &[3]),
        (0x1c, &extended.to_le_bytes()),
        (0x20, &4800_u16.to_le_bytes()),
    ];
    structure(17, &formatted(0x5c, &values), &["00AD00B300AD", "12345678", "HMCG94MEBRA109N "])
}

fn server() -> Vec<u8> {
    let uuid: Vec<u8> = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66].into_iter().chain(0x88..0x90).collect();
    let system: [(usize, &[u8]); 6] = [(4, &[1, 2]), (7, &[3]), (8, &uuid), (24, &[6]), (25, &[4]), (26, &[5])];
    let mut table = structure(0, &formatted(0x1a, &[]), &["Dell Inc.", "2.4.4"]);
    table.extend(structure(
        1,
        &formatted(0x1b, &system),
        &["Dell Inc.", "PowerEdge R760", "7ABCDE1", "SKU=0A6B", "PowerEdge"],
    ));
    table.extend(cpu(0x41, (64, 64), (128, 128)));
    table.extend(cpu(0x41, (0xff, 288), (0xff, 576)));
    table.extend(cpu(0x00, (0, 0), (0, 0))); // an empty socket
    table.extend(dimm(0x7fff, 65536, 0x22)); // 64 GiB: needs the extended size
    table.extend(dimm(16384, 0, 0x1a));
    table.extend(dimm(0x8000 | 2048, 0, 0x07)); // 2 MiB, told in KiB
    table.extend(dimm(0, 0, 0x02)); // an empty slot
    table.extend(dimm(0xffff, 0, 0x02)); // of unknown size
    table.extend(structure(38, &formatted(0x12, &[]), &[]));
    table.extend(structure(127, &[], &[]));
    table.extend(structure(1, &formatted(0x1b, &[]), &[])); // beyond the end
    table
}

#[test]
fn qemus_table_is_read() {
    let table = read(Path::new(QEMU)).unwrap();
    let system = table.system();
    assert_eq!(system.uuid, "6f0c4e2a-0b1d-4c5e-8f90-123456789abc".parse().ok());
    assert_eq!((system.manufacturer.as_str(), system.product_name.as_str()), ("Lab", "ovmf"));
    assert_eq!((system.serial_number.as_str(), system.sku_number.as_str(), system.family.as_str()), ("S1", "K", "F"));
    let processors = table.processors();
    assert_eq!(processors.len(), 2);
    assert_eq!((processors[1].core_count, processors[1].thread_count, processors[1].speed), (2, 2, 2000));
    let modules = table.memory_modules();
    assert_eq!(modules.len(), 1);
    assert_eq!((modules[0].size, modules[0].speed, modules[0].r#type.as_str()), (3072, 3200, "RAM"));
    assert_eq!((modules[0].manufacturer.as_str(), modules[0].product_name.as_str()), ("Memco", "P1"));
    assert!(!table.describes_bmc());
}

#[test]
fn a_servers_table_is_read() {
    let table = Table::parse((3, 6), &server());
    let system = table.system();
    assert_eq!(system.uuid, "00112233-4455-6677-8889-8a8b8c8d8e8f".parse().ok());
    assert_eq!((system.manufacturer.as_str(), system.serial_number.as_str()), ("Dell Inc.", "7ABCDE1"));
    assert_eq!((system.sku_number.as_str(), system.family.as_str()), ("SKU=0A6B", "PowerEdge"));
    let processors = table.processors();
    assert_eq!(processors.len(), 2, "the empty socket does not count");
    assert_eq!((processors[0].core_count, processors[0].thread_count), (64, 128));
    assert_eq!((processors[1].core_count, processors[1].thread_count), (288, 576), "more than 255 need the wide field");
    assert_eq!(processors[0].product_name, "Intel(R) Xeon(R) Platinum 8592+");
    assert_eq!(processors[0].serial_number, "", "a placeholder is no serial number");
    assert_eq!(processors[0].speed, 2600);
    let sizes: Vec<u32> = table.memory_modules().iter().map(|m| m.size).collect();
    assert_eq!(sizes, [65536, 16384, 2], "empty and unknown slots do not count");
    let module = &table.memory_modules()[0];
    assert_eq!((module.r#type.as_str(), module.speed, module.product_name.as_str()), ("DDR5", 4800, "HMCG94MEBRA109N"));
    assert!(table.describes_bmc());
}

#[test]
fn before_2_6_the_uuid_is_big_endian() {
    let table = Table::parse((2, 5), &server());
    assert_eq!(table.system().uuid, "33221100-5544-7766-8889-8a8b8c8d8e8f".parse().ok());
    assert_eq!(entry_version(b"_SM_\0\x1f\x02\x08rest"), Some((2, 8)));
    assert_eq!(entry_version(b"_SM3_\0\x18\x03\x06rest"), Some((3, 6)));
    assert_eq!(entry_version(b"_XX_"), None);
}

#[test]
fn a_missing_table_is_an_error() {
    assert!(read(Path::new("/nonexistent")).is_err());
}

#[test]
fn a_table_cut_anywhere_gives_what_is_whole() {
    let bytes = server();
    let whole = Table::parse((3, 6), &bytes);
    for length in 0..bytes.len() {
        let cut = Table::parse((3, 6), &bytes[..length]);
        assert!(cut.structures.len() <= whole.structures.len());
        let _ = (cut.system(), cut.processors(), cut.memory_modules());
    }
}

#[test]
fn texts_from_firmware_are_made_harmless() {
    let table = structure(1, &formatted(0x1b, &[(4, &[1, 9])]), &["\x1b[31m\u{e9}vil"]);
    let system = Table::parse((3, 0), &table).system();
    assert_eq!(system.manufacturer, "?[31m??vil");
    assert_eq!(system.product_name, "", "a number without its text");
}

proptest! {
    #[test]
    fn no_table_can_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let table = Table::parse((3, 0), &bytes);
        let _ = (table.system(), table.processors(), table.memory_modules(), table.describes_bmc());
    }

    #[test]
    fn no_damage_to_a_table_can_break_the_reader(at in 0_usize..1000, value in any::<u8>()) {
        let mut bytes = server();
        let at = at % bytes.len();
        bytes[at] = value;
        let table = Table::parse((3, 6), &bytes);
        let _ = (table.system(), table.processors(), table.memory_modules(), table.describes_bmc());
    }
}
