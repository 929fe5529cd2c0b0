//! Who is asking: the same kinds of clients as over IPv4 (RFC 5970 section 3.3, UEFI 2.10 section 24.7).

use super::options::strings;
use super::packet::Message;
use crate::dhcp::firmware::platform;
use crate::dhcp::{Features, Firmware, Ipxe, Platform};

/// The enterprise number in the vendor class of PXE and HTTP boot clients (343, Intel), which they want back.
pub const INTEL: u32 = 343;

impl Message<'_> {
    /// Tells the client from its user class, vendor class and architecture types.
    ///
    /// A client that names no vendor class but an architecture boots too (RFC
    /// 5970 knows no class); the architecture then says whether by TFTP or HTTP.
    pub fn firmware(&self) -> Firmware {
        let class = self.class();
        let arch = self.architecture();
        let known = arch.and_then(platform);
        if strings(self.user_class).chain(class).any(|part| part.starts_with(b"iPXE")) {
            return Firmware::Ipxe(Ipxe { platform: known, features: Features::default() });
        }
        let pxe = class.is_some_and(|c| c.starts_with(b"PXEClient"));
        let http = class.is_some_and(|c| c.starts_with(b"HTTPClient")) || !pxe && arch.is_some_and(by_http);
        match (arch, known) {
            (None, _) if pxe || http => Firmware::Nameless,
            (None, _) => Firmware::Other,
            (Some(_), Some(Platform::Uefi(processor))) if http => Firmware::UefiHttp(processor),
            (Some(_), Some(Platform::Uefi(processor))) => Firmware::UefiPxe(processor),
            (Some(_), Some(Platform::Bios)) if !http => Firmware::BiosPxe,
            (Some(arch), _) => Firmware::Unsupported { arch },
        }
    }

    /// The vendor class that a boot client names: its first part.
    pub fn class(&self) -> Option<&[u8]> {
        strings(self.vendor_class.get(4..)?).next()
    }

    /// The enterprise number of its vendor class.
    pub fn enterprise(&self) -> Option<u32> {
        self.vendor_class.first_chunk().map(|number| u32::from_be_bytes(*number))
    }

    /// Of the architecture types the first that we know (RFC 5970 section 3.3: the most preferred comes first).
    fn architecture(&self) -> Option<u16> {
        let whole = Some(self.architectures).filter(|list| !list.is_empty() && list.len().is_multiple_of(2))?;
        let mut types = whole.chunks_exact(2).filter_map(|pair| pair.try_into().ok().map(u16::from_be_bytes));
        let first = types.clone().next();
        types.find(|&arch| platform(arch).is_some()).or(first)
    }
}

/// Architecture types that mean "over HTTP" (IANA's registry of RFC 5970).
const fn by_http(arch: u16) -> bool {
    matches!(arch, 15..=20 | 26 | 28 | 30 | 38 | 40)
}
