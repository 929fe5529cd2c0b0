//! The firmware's boot entry (UEFI specification 2.10, 3.1.3 load options,
//! 10.3.5 media device paths). Pure, but for [`Variables`].

use super::gpt::Partition;
use std::io;

/// The loader's place where the order names none (UEFI specification 3.5.1.1).
pub const REMOVABLE: &str =
    if cfg!(target_arch = "aarch64") { r"\EFI\BOOT\BOOTAA64.EFI" } else { r"\EFI\BOOT\BOOTX64.EFI" };

/// LOAD_OPTION_ACTIVE.
const ACTIVE: u32 = 1;
/// Characters of a description that are kept.
const MAX_LABEL: usize = 64;
/// Bytes of a loader's path at most.
const MAX_LOADER: usize = 512;

/// The firmware's boot variables.
pub trait Variables {
    /// Every `Boot####` with its load option.
    ///
    /// # Errors
    /// The kernel's.
    fn entries(&mut self) -> io::Result<Vec<(u16, Vec<u8>)>>;
    /// `BootOrder`; empty where there is none.
    ///
    /// # Errors
    /// The kernel's.
    fn order(&mut self) -> io::Result<Vec<u16>>;
    /// Sets `Boot####`.
    ///
    /// # Errors
    /// The kernel's: the store is full, or the firmware refuses.
    fn set(&mut self, number: u16, option: &[u8]) -> io::Result<()>;
    /// Removes `Boot####`.
    ///
    /// # Errors
    /// The kernel's.
    fn remove(&mut self, number: u16) -> io::Result<()>;
    /// Sets `BootOrder`.
    ///
    /// # Errors
    /// The kernel's.
    fn set_order(&mut self, order: &[u16]) -> io::Result<()>;
}

/// What is to be done to the boot variables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The number of our entry.
    pub number: u16,
    /// Other entries with our name: left over, to be removed.
    pub remove: Vec<u16>,
    /// The order afterwards.
    pub order: Vec<u16>,
}

/// A load option that starts a file of a partition.
pub fn load_option(label: &str, esp: &Partition, loader: &str) -> Vec<u8> {
    let mut path = Vec::new();
    // Hard drive: type 4, subtype 1, 42 bytes; format GPT (2), signature GUID (2).
    path.extend([4, 1, 42, 0]);
    path.extend(esp.number.to_le_bytes());
    path.extend(esp.first.to_le_bytes());
    path.extend((esp.last.saturating_sub(esp.first) + 1).to_le_bytes());
    path.extend(esp.guid);
    path.extend([2, 2]);
    // File path: type 4, subtype 4.
    let name = text(loader);
    path.extend([4, 4]);
    path.extend(u16::try_from(name.len() + 4).unwrap_or(u16::MAX).to_le_bytes());
    path.extend(name);
    // End of the whole path.
    path.extend([0x7f, 0xff, 4, 0]);
    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend(text(label));
    option.extend(path);
    option
}

/// What a load option is called; none where it is none.
pub fn label_of(option: &[u8]) -> Option<String> {
    let units = option.get(6..)?.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let units: Vec<u16> = units.take_while(|u| *u != 0).collect();
    Some(String::from_utf16_lossy(&units))
}

/// A name for the firmware's menu: printable, not too long.
pub fn label(wanted: &str) -> String {
    let clean: String = wanted.chars().filter(|c| !c.is_control()).take(MAX_LABEL).collect();
    if clean.trim().is_empty() { "stoker".to_owned() } else { clean }
}

/// The loader's path as UEFI writes it.
///
/// # Errors
/// When it is no path.
pub fn loader(wanted: &str) -> Result<String, String> {
    if wanted.is_empty() {
        return Ok(REMOVABLE.to_owned());
    }
    if wanted.len() > MAX_LOADER || wanted.chars().any(char::is_control) {
        return Err("the order's efi_loader is no path".into());
    }
    let path = wanted.replace('/', r"\");
    Ok(if path.starts_with('\\') { path } else { format!(r"\{path}") })
}

/// Which entry becomes ours: an old one of the same name is used again, so that nothing piles up
/// in the firmware's memory; others of that name go. Ours comes first.
pub fn change(label: &str, entries: &[(u16, Vec<u8>)], order: &[u16]) -> Option<Change> {
    let ours: Vec<u16> =
        entries.iter().filter(|(_, o)| label_of(o).as_deref() == Some(label)).map(|(number, _)| *number).collect();
    let free = || (0..=u16::MAX).find(|n| entries.iter().all(|(taken, _)| taken != n));
    let number = ours.iter().min().copied().or_else(free)?;
    let others = order.iter().filter(|n| **n != number && !ours.contains(n));
    let order = std::iter::once(number).chain(others.copied()).collect();
    Some(Change { number, remove: ours.into_iter().filter(|n| *n != number).collect(), order })
}

/// Makes the boot entry; its number.
///
/// # Errors
/// In words.
pub fn register(variables: &mut dyn Variables, label: &str, esp: &Partition, loader: &str) -> Result<u16, String> {
    let words = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    let entries = variables.entries().map_err(words("the boot entries cannot be read"))?;
    let order = variables.order().map_err(words("BootOrder cannot be read"))?;
    let change = change(label, &entries, &order).ok_or("the firmware has no number left for a boot entry")?;
    let option = load_option(label, esp, loader);
    // Firmware keeps variables in flash that wears out: what is right already is left alone.
    if !entries.iter().any(|(n, o)| *n == change.number && *o == option) {
        variables.set(change.number, &option).map_err(words("the boot entry cannot be written"))?;
    }
    if order != change.order {
        variables.set_order(&change.order).map_err(words("BootOrder cannot be written"))?;
    }
    for number in &change.remove {
        variables.remove(*number).map_err(words("an old boot entry cannot be removed"))?;
    }
    Ok(change.number)
}

/// UTF-16 with a zero at the end.
fn text(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esp() -> Partition {
        let guid = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        Partition { number: 2, kind: super::super::gpt::ESP, guid, first: 4096, last: 4096 + 81919 }
    }

    #[test]
    fn a_load_option_is_what_the_specification_says() {
        let option = load_option("ab", &esp(), r"\x");
        let expected = [
            &[1, 0, 0, 0][..],          // active
            &[42 + 10 + 4, 0],          // length of the device path
            b"a\0b\0\0\0",              // description
            &[4, 1, 42, 0, 2, 0, 0, 0], // HD(), partition 2
            &[0, 16, 0, 0, 0, 0, 0, 0], // from sector 4096
            &[0, 64, 1, 0, 0, 0, 0, 0], // 81920 sectors
            &esp().guid,
            &[2, 2],
            &[4, 4, 10, 0],
            b"\\\0x\0\0\0",
            &[0x7f, 0xff, 4, 0],
        ]
        .concat();
        assert_eq!(option, expected);
        assert_eq!(label_of(&option).as_deref(), Some("ab"));
        assert_eq!(label_of(&[1, 0, 0]), None);
    }

    #[test]
    fn entries_do_not_pile_up_and_ours_is_first() {
        let entry = |n, label: &str| (n, load_option(label, &esp(), r"\x"));
        let number = |entries: &[(u16, Vec<u8>)], order: &[u16]| change("stoker", entries, order).unwrap();
        let first = number(&[entry(0, "disk"), entry(1, "pxe")], &[1, 0]);
        assert_eq!(first, Change { number: 2, remove: vec![], order: vec![2, 1, 0] });
        let again = number(&[entry(0, "disk"), entry(1, "pxe"), entry(2, "stoker")], &[1, 2, 0]);
        assert_eq!(again, Change { number: 2, remove: vec![], order: vec![2, 1, 0] });
        let piled = number(&[entry(7, "stoker"), entry(1, "pxe"), entry(2, "stoker")], &[7, 1, 2]);
        assert_eq!(piled, Change { number: 2, remove: vec![7], order: vec![2, 1] });
        assert_eq!(number(&[], &[]), Change { number: 0, remove: vec![], order: vec![0] });
        let full: Vec<_> = (0..=u16::MAX).map(|n| (n, Vec::new())).collect();
        assert_eq!(change("stoker", &full, &[]), None);
    }

    #[test]
    fn paths_and_names_are_made_proper() {
        for (wanted, path) in [("", REMOVABLE), ("EFI/debian/shimx64.efi", r"\EFI\debian\shimx64.efi"), (r"\a", r"\a")]
        {
            assert_eq!(loader(wanted).as_deref(), Ok(path));
        }
        assert!(loader("a\nb").is_err() && loader(&"x".repeat(600)).is_err());
        assert_eq!((label("").as_str(), label("n1\r\n").as_str(), label(&"x".repeat(99)).len()), ("stoker", "n1", 64));
    }
}
