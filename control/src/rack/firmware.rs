//! Which firmware a machine of the rack runs, and where its images are.

use super::RackError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The firmware of a machine, and what it is set to boot by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS with an iPXE option ROM on the network card: legacy PXE.
    Bios,
    /// OVMF, booting by UEFI PXE (TFTP).
    Uefi,
    /// OVMF with PXE switched off, so that it boots by UEFI HTTP.
    UefiHttp,
    /// AAVMF (OVMF for Arm) booting by UEFI PXE. Always emulated on an x86 host.
    Arm64,
}

impl Firmware {
    /// The word used on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::UefiHttp => "uefi-http",
            Self::Arm64 => "arm64",
        }
    }

    /// Whether this is UEFI of any kind.
    pub const fn is_uefi(self) -> bool {
        !matches!(self, Self::Bios)
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Firmware {
    type Err = RackError;

    fn from_str(text: &str) -> Result<Self, RackError> {
        [Self::Bios, Self::Uefi, Self::UefiHttp, Self::Arm64]
            .into_iter()
            .find(|f| f.name() == text)
            .ok_or_else(|| RackError::Spec(format!("{text:?} is no firmware: use bios, uefi, uefi-http or arm64")))
    }
}

/// Most machines in one rack: each takes about 300 MB and a share of the cores.
pub const MAX_MACHINES: usize = 64;

/// Reads a rack as people write it: a number of machines (`3`: two UEFI for
/// each BIOS), or a list of firmwares (`uefi,uefi-http,bios`).
///
/// # Errors
/// [`RackError::Spec`] with what was wrong.
pub fn parse_rack(text: &str) -> Result<Vec<Firmware>, RackError> {
    let kinds: Vec<Firmware> = match text.trim().parse::<usize>() {
        Ok(n) => {
            (0..n.min(MAX_MACHINES + 1)).map(|i| if i % 3 == 2 { Firmware::Bios } else { Firmware::Uefi }).collect()
        }
        Err(_) => text.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>()?,
    };
    match kinds.len() {
        0 => Err(RackError::Spec("a rack needs at least one machine".to_owned())),
        n if n > MAX_MACHINES => Err(RackError::Spec(format!("a rack holds at most {MAX_MACHINES} machines"))),
        _ => Ok(kinds),
    }
}

/// The images of UEFI: code, read-only, and the template of the variables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flash {
    /// Mapped read-only into the machine.
    pub code: PathBuf,
    /// Copied for each machine.
    pub vars: PathBuf,
}

/// Where firmware is looked for.
#[derive(Clone, Debug, Default)]
pub struct Images {
    folders: Vec<PathBuf>,
}

impl Images {
    /// Looks in the bundle's `firmware` folder first, then where distributions put it.
    pub fn new(bundle: Option<&Path>) -> Self {
        let own = bundle.map(|b| b.join("firmware")).into_iter().flat_map(|f| {
            let inner = ["OVMF", "AAVMF", "qemu"].map(|sub| f.join(sub));
            std::iter::once(f).chain(inner)
        });
        let system = ["/usr/share/OVMF", "/usr/share/AAVMF", "/usr/share/qemu"].map(PathBuf::from);
        Self { folders: own.chain(system).collect() }
    }

    /// The flash images of OVMF or AAVMF.
    ///
    /// # Errors
    /// [`RackError::NoFirmware`] with the folders searched and the package to install.
    pub fn flash(&self, firmware: Firmware) -> Result<Flash, RackError> {
        let (pairs, what, remedy): (&[_], _, _) = match firmware {
            Firmware::Arm64 => (&[("AAVMF_CODE.fd", "AAVMF_VARS.fd")], "AAVMF", "apt-get install qemu-efi-aarch64"),
            _ => (
                &[("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd")],
                "OVMF",
                "run `make bundle`, or apt-get install ovmf",
            ),
        };
        for folder in &self.folders {
            for (code, vars) in pairs {
                let (code, vars) = (folder.join(code), folder.join(vars));
                if code.is_file() && vars.is_file() {
                    return Ok(Flash { code, vars });
                }
            }
        }
        let looked = self.folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(RackError::NoFirmware { firmware: what, looked, remedy })
    }

    /// The bundle's PXE option ROM for virtio-net (iPXE 1.21, which waits 4 s
    /// for a router advertisement where QEMU's own of 2019 waits 16 s). It
    /// carries the PCI id of a modern virtio device (1af4:1041).
    pub fn pxe_rom(&self) -> Option<PathBuf> {
        let own = self.folders.iter().filter(|f| !f.starts_with("/usr"));
        own.map(|f| f.join("pxe-virtio.rom")).find(|rom| rom.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rack_is_a_number_or_a_list() {
        use Firmware::{Bios, Uefi, UefiHttp};
        assert_eq!(parse_rack("3").unwrap(), [Uefi, Uefi, Bios]);
        assert_eq!(parse_rack("uefi, uefi-http,bios").unwrap(), [Uefi, UefiHttp, Bios]);
        for bad in ["0", "", "x", "uefi,,bios", "65", "99999999999"] {
            assert!(parse_rack(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_bundle_goes_before_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("firmware");
        std::fs::create_dir(&own).unwrap();
        for name in ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "pxe-virtio.rom"] {
            std::fs::write(own.join(name), "x").unwrap();
        }
        let images = Images::new(Some(dir.path()));
        assert_eq!(images.flash(Firmware::Uefi).unwrap().code, own.join("OVMF_CODE_4M.fd"));
        assert_eq!(images.pxe_rom(), Some(own.join("pxe-virtio.rom")));
        let none = Images { folders: vec![own] };
        let words = none.flash(Firmware::Arm64).unwrap_err().to_string();
        assert!(words.contains("AAVMF") && words.contains("apt-get install"), "{words}");
    }
}
