//! Options within options: 43 (PXE 2.1 table 2-1) and 175 (iPXE).

use super::options::split_value;
use alloc::vec::Vec;

/// Sub-options of option 43 for `PXEClient`.
pub mod pxe {
    /// PXE_DISCOVERY_CONTROL.
    pub const DISCOVERY_CONTROL: u8 = 6;
    /// Bit 3 of it: take the boot file from this offer, ask no boot server.
    pub const USE_BOOT_FILE: u8 = 8;
    /// PXE_BOOT_ITEM: type and layer, two bytes each.
    pub const BOOT_ITEM: u8 = 71;
    /// PXE_END.
    pub const END: u8 = 255;
}

/// Sub-options of option 175.
pub mod ipxe {
    /// Do not wait for ProxyDHCP offers after this one (`no-pxedhcp`).
    pub const NO_PXEDHCP: u8 = 176;
    /// Bus type and PCI ids of the NIC.
    pub const BUS_ID: u8 = 177;
    /// Version of the protocol, not of iPXE: all builds say 1.0.0.
    pub const VERSION: u8 = 235;
}

/// The items of an encapsulated option, up to its end mark or its first damage.
pub fn items(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        while let [0, tail @ ..] = rest {
            rest = tail;
        }
        let [code, tail @ ..] = rest else { return None };
        if *code == pxe::END {
            return None;
        }
        let (value, after) = split_value(tail)?;
        rest = after;
        Some((*code, value))
    })
}

/// The boot menu item that a client chose (43.71), as it stands: type and layer.
pub fn boot_item(option_43: &[u8]) -> Option<[u8; 4]> {
    items(option_43).find(|(code, _)| *code == pxe::BOOT_ITEM).and_then(|(_, value)| value.try_into().ok())
}

/// Option 43 of our replies: "boot the file named here", with the client's
/// boot item echoed where it chose one (PXE 2.1 section 2.2.6).
pub fn use_boot_file(chosen: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = alloc::vec![pxe::DISCOVERY_CONTROL, 1, pxe::USE_BOOT_FILE];
    if let Some(item) = chosen {
        out.extend_from_slice(&[pxe::BOOT_ITEM, 4]);
        out.extend_from_slice(&item);
    }
    out.push(pxe::END);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d30_discovery_control_says_use_the_boot_file() {
        assert_eq!(use_boot_file(None), [6, 1, 8, 255]);
        assert_eq!(use_boot_file(Some([0x80, 2, 0, 0])), [6, 1, 8, 71, 4, 0x80, 2, 0, 0, 255]);
    }

    #[test]
    fn d31_the_boot_item_of_real_firmware_is_found() {
        assert_eq!(boot_item(&[0x47, 4, 0x80, 2, 0, 0, 0xff]), Some([0x80, 2, 0, 0]));
        assert_eq!(boot_item(&[0, 6, 1, 8, 0x47, 4, 1, 2, 3, 4]), Some([1, 2, 3, 4]));
    }

    #[test]
    fn d30_damaged_encapsulation_ends_quietly() {
        for bytes in [&[][..], &[71], &[71, 4, 1], &[71, 3, 1, 2, 3], &[255, 71, 4, 1, 2, 3, 4], &[0, 0]] {
            assert_eq!(boot_item(bytes), None, "{bytes:?}");
        }
    }
}
