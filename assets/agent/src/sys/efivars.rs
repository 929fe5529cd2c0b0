//! The firmware's boot variables, as files (Documentation/filesystems/efivarfs.rst):
//! four bytes of attributes, then the value.

use crate::image::efi::Variables;
use rustix::mount::{MountFlags, mount_remount};
use std::io;
use std::path::{Path, PathBuf};

const FOLDER: &str = "/sys/firmware/efi/efivars";
/// EFI_GLOBAL_VARIABLE.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS.
const ATTRIBUTES: u32 = 7;
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The variables of this machine; writable while this lives.
#[derive(Debug)]
pub struct EfiVars(PathBuf);

impl EfiVars {
    /// None where the machine was not started by UEFI, or its variables are not mounted.
    ///
    /// # Errors
    /// When they cannot be made writable.
    pub fn open() -> io::Result<Option<Self>> {
        if std::fs::read_dir(FOLDER).map_or(0, Iterator::count) == 0 {
            return Ok(None);
        }
        mount_remount(FOLDER, PLAIN, c"")?;
        Ok(Some(Self(FOLDER.into())))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}-{GLOBAL}"))
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        // One write(2) is one SetVariable.
        std::fs::write(self.path(name), [&ATTRIBUTES.to_le_bytes()[..], value].concat())
    }
}

impl Drop for EfiVars {
    fn drop(&mut self) {
        let _ = mount_remount(&self.0, PLAIN | MountFlags::RDONLY, c"");
    }
}

impl Variables for EfiVars {
    fn entries(&mut self) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            if let Some(number) = name.to_str().and_then(boot_number) {
                // An entry that cannot be read is still one whose number is taken.
                let value = read(&self.0.join(&name)).unwrap_or_default();
                found.push((number, value));
            }
        }
        found.sort();
        Ok(found)
    }

    fn order(&mut self) -> io::Result<Vec<u16>> {
        match read(&self.path("BootOrder")) {
            Ok(value) => Ok(value.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    fn set(&mut self, number: u16, option: &[u8]) -> io::Result<()> {
        self.write(&format!("Boot{number:04X}"), option)
    }

    fn remove(&mut self, number: u16) -> io::Result<()> {
        std::fs::remove_file(self.path(&format!("Boot{number:04X}")))
    }

    fn set_order(&mut self, order: &[u16]) -> io::Result<()> {
        self.write("BootOrder", &order.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    }
}

/// The number of `Boot####-GUID`.
fn boot_number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot")?.strip_suffix(GLOBAL)?.strip_suffix('-')?;
    let valid = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| u16::from_str_radix(digits, 16).ok())?
}

/// A value without its attributes.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    Ok(std::fs::read(path)?.get(4..).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_entries_are_told_from_other_variables() {
        let name = |text: &str| boot_number(&format!("{text}-{GLOBAL}"));
        assert_eq!((name("Boot000A"), name("BootFFFF")), (Some(10), Some(0xffff)));
        for other in ["BootOrder", "BootNext", "Boot00", "Boot0000x", "Boot+001", "OsIndications"] {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(boot_number("Boot0001-00000000-93ca-11d2-aa0d-00e098032b8c"), None);
    }
}
