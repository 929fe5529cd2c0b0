//! Who is asking: the kinds of network-boot clients, told apart by options 60, 77, 93 and 175.

use super::options::{Options, code};
use super::vendor::{self, ipxe};
use crate::id::Arch;
use core::fmt;

/// A processor, as firmware names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Processor {
    /// Intel and AMD, 32 bit.
    Ia32,
    /// Intel and AMD, 64 bit.
    X64,
    /// Arm, 32 bit.
    Arm32,
    /// Arm, 64 bit.
    Arm64,
    /// RISC-V, 64 bit.
    Riscv64,
    /// LoongArch, 64 bit.
    Loong64,
}

impl Processor {
    /// The architecture in stoker's own words, for those that it can boot.
    pub const fn arch(self) -> Option<Arch> {
        match self {
            Self::X64 => Some(Arch::X86_64),
            Self::Arm64 => Some(Arch::Arm64),
            _ => None,
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ia32 => "ia32",
            Self::X64 => "x64",
            Self::Arm32 => "arm32",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
            Self::Loong64 => "loong64",
        })
    }
}

/// What a boot file has to be built for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Platform {
    /// Legacy BIOS on a PC.
    Bios,
    /// UEFI.
    Uefi(Processor),
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios => out.write_str("BIOS"),
            Self::Uefi(processor) => write!(out, "UEFI {processor}"),
        }
    }
}

/// What one iPXE can do (option 175, sub-options 16 to 79).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features(u64);

impl Features {
    /// HTTP.
    pub const HTTP: u8 = 19;
    /// HTTPS.
    pub const HTTPS: u8 = 20;
    /// PXE: built for BIOS.
    pub const PXE: u8 = 33;
    /// EFI: built for UEFI.
    pub const EFI: u8 = 36;
    /// 802.1Q. The iPXE of 2019 that QEMU ships has none.
    pub const VLAN: u8 = 38;

    fn read(option_175: &[u8]) -> Self {
        let mut set = 0;
        for (feature, value) in vendor::items(option_175) {
            if (16..80).contains(&feature) && value.iter().any(|&b| b != 0) {
                set |= 1 << (feature - 16);
            }
        }
        Self(set)
    }

    /// Whether a feature is there.
    pub const fn has(self, feature: u8) -> bool {
        feature >= 16 && feature < 80 && self.0 & (1 << (feature - 16)) != 0
    }

    /// No feature was told, which is not the same as having none.
    pub const fn unknown(self) -> bool {
        self.0 == 0
    }
}

/// An iPXE, our own or one that was already in the machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ipxe {
    /// What it was built for; `None` where it does not say.
    pub platform: Option<Platform>,
    /// What it can do.
    pub features: Features,
}

impl Ipxe {
    /// Whether it can fetch a script by HTTP. One that does not list its features is believed to.
    pub const fn can_http(self) -> bool {
        self.features.unknown() || self.features.has(Features::HTTP)
    }
}

/// The client, as far as its packet tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Firmware {
    /// Legacy BIOS PXE ROM: boots by TFTP.
    BiosPxe,
    /// UEFI PXE: boots by TFTP.
    UefiPxe(Processor),
    /// UEFI HTTP Boot: wants a URL and `HTTPClient` in option 60 (UEFI 2.10 section 24.7).
    UefiHttp(Processor),
    /// iPXE: wants a script, and never a boot loader again.
    Ipxe(Ipxe),
    /// A boot client of an architecture that has no boot file here.
    Unsupported {
        /// Option 93, first entry.
        arch: u16,
    },
    /// A boot client that does not say what it is (neither 93 nor `Arch:` in 60).
    Nameless,
    /// Not booting over the network: an operating system, a phone, a BMC.
    Other,
}

impl Firmware {
    /// Tells the client from its options.
    pub fn classify(options: &Options) -> Self {
        let class = options.get(code::VENDOR_CLASS).unwrap_or_default();
        let arch = architecture(options, class);
        if is_ipxe(options) {
            let features = Features::read(options.get(code::IPXE).unwrap_or_default());
            return Self::Ipxe(Ipxe { platform: ipxe_platform(arch, features), features });
        }
        let http = class.starts_with(b"HTTPClient");
        if !http && !class.starts_with(b"PXEClient") {
            return Self::Other;
        }
        match arch.map(|code| (code, platform(code))) {
            None => Self::Nameless,
            Some((_, Some(Platform::Bios))) if !http => Self::BiosPxe,
            Some((_, Some(Platform::Uefi(processor)))) if http => Self::UefiHttp(processor),
            Some((_, Some(Platform::Uefi(processor)))) => Self::UefiPxe(processor),
            Some((arch, _)) => Self::Unsupported { arch },
        }
    }

    /// Whether it is booting over the network at all.
    pub const fn is_boot(self) -> bool {
        !matches!(self, Self::Other)
    }

    /// What option 60 of a reply has to say: firmware drops replies of the other kind.
    pub const fn reply_class(self) -> Option<&'static str> {
        match self {
            Self::UefiHttp(_) => Some("HTTPClient"),
            Self::BiosPxe | Self::UefiPxe(_) | Self::Ipxe(_) => Some("PXEClient"),
            _ => None,
        }
    }

    /// What a boot file for it must be built for.
    pub const fn platform(self) -> Option<Platform> {
        match self {
            Self::BiosPxe => Some(Platform::Bios),
            Self::UefiPxe(processor) | Self::UefiHttp(processor) => Some(Platform::Uefi(processor)),
            Self::Ipxe(ipxe) => ipxe.platform,
            _ => None,
        }
    }
}

impl fmt::Display for Firmware {
    /// In words for people: `UEFI x64 PXE`, `BIOS PXE`, `UEFI x64 HTTP boot`, `iPXE (BIOS)`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BiosPxe => out.write_str("BIOS PXE"),
            Self::UefiPxe(processor) => write!(out, "UEFI {processor} PXE"),
            Self::UefiHttp(processor) => write!(out, "UEFI {processor} HTTP boot"),
            Self::Ipxe(Ipxe { platform: Some(platform), .. }) => write!(out, "iPXE ({platform})"),
            Self::Ipxe(_) => out.write_str("iPXE"),
            Self::Unsupported { arch } => write!(out, "PXE client of architecture {arch}"),
            Self::Nameless => out.write_str("PXE client that names no architecture"),
            Self::Other => out.write_str("DHCP client"),
        }
    }
}

/// What an operating system's DHCP client calls itself, in a word: `Linux`, `Windows`, `DHCP client`.
pub fn operating_system(vendor_class: &[u8]) -> &'static str {
    const KNOWN: [(&[u8], &str); 8] = [
        (b"udhcp", "Linux"),
        (b"dhcpcd", "Linux"),
        (b"anaconda", "Linux"),
        (b"Linux", "Linux"),
        (b"MSFT", "Windows"),
        (b"U-Boot", "U-Boot"),
        (b"FreeBSD", "FreeBSD"),
        (b"android", "Android"),
    ];
    KNOWN.iter().find(|(prefix, _)| vendor_class.starts_with(prefix)).map_or("DHCP client", |(_, name)| name)
}

/// The platform of a processor architecture type (IANA registry of RFC 5970).
///
/// 7 and 9 are both x64: RFC 4578 had them the wrong way round (erratum 4624)
/// and firmware sends either.
pub const fn platform(arch: u16) -> Option<Platform> {
    Some(match arch {
        0 | 20 => Platform::Bios,
        6 | 15 => Platform::Uefi(Processor::Ia32),
        7 | 9 | 16 | 17 => Platform::Uefi(Processor::X64),
        10 | 18 => Platform::Uefi(Processor::Arm32),
        11 | 19 => Platform::Uefi(Processor::Arm64),
        27 | 28 => Platform::Uefi(Processor::Riscv64),
        39 | 40 => Platform::Uefi(Processor::Loong64),
        _ => return None,
    })
}

/// Option 93, or `Arch:00007` of option 60 where 93 is missing or damaged.
///
/// Of a list (RFC 4578 section 2.1) the first entry that we know counts. 93
/// comes first because iPXE builds of 2025 send a bare `PXEClient`.
fn architecture(options: &Options, class: &[u8]) -> Option<u16> {
    let listed = options.get(code::ARCHITECTURE).filter(|list| !list.is_empty() && list.len() % 2 == 0);
    if let Some(list) = listed {
        let mut types = list.chunks_exact(2).filter_map(|pair| pair.try_into().ok().map(u16::from_be_bytes));
        let first = types.clone().next();
        return types.find(|&arch| platform(arch).is_some()).or(first);
    }
    let at = class.windows(5).position(|word| word == b"Arch:")?;
    let digits = class.get(at + 5..at + 10)?;
    digits.iter().try_fold(0u16, |sum, digit| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u16::from(digit - b'0')),
        _ => None,
    })
}

/// iPXE says so in option 77, plainly or as RFC 3004 wants it, and has its own option 175.
///
/// gPXE, its ancestor, sends 175 too but cannot run our scripts: it is treated
/// as the ROM it stands in for, and gets our iPXE.
fn is_ipxe(options: &Options) -> bool {
    let class = options.get(code::USER_CLASS).unwrap_or_default();
    if says(class, b"iPXE") {
        return true;
    }
    let ours = |(code, value): (u8, &[u8])| matches!(code, 16..80 | ipxe::BUS_ID | ipxe::VERSION) && !value.is_empty();
    !says(class, b"gPXE") && options.get(code::IPXE).is_some_and(|bytes| vendor::items(bytes).any(ours))
}

/// Whether a user class is `name`, or a list (RFC 3004 section 4) that holds it.
fn says(class: &[u8], name: &[u8]) -> bool {
    let mut rest = class;
    while let [length, tail @ ..] = rest {
        let Some((item, after)) = tail.split_at_checked(usize::from(*length)) else { break };
        if item == name {
            return true;
        }
        rest = after;
    }
    class == name
}

fn ipxe_platform(arch: Option<u16>, features: Features) -> Option<Platform> {
    match arch {
        Some(arch) => platform(arch),
        None if features.has(Features::PXE) => Some(Platform::Bios),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn options(list: &[(u8, &[u8])]) -> Options {
        let mut packet = alloc::vec![0; super::super::HEADER];
        for (code, value) in list {
            packet.push(*code);
            packet.push(u8::try_from(value.len()).unwrap());
            packet.extend_from_slice(value);
        }
        Options::scan(&packet)
    }

    fn class(list: &[(u8, &[u8])]) -> Firmware {
        Firmware::classify(&options(list))
    }

    #[test]
    fn d26_each_architecture_code_has_its_platform() {
        let words: Vec<_> = [0u16, 6, 7, 9, 10, 11, 27, 39]
            .iter()
            .map(|arch| class(&[(60, b"PXEClient"), (93, &arch.to_be_bytes())]).to_string())
            .collect();
        assert_eq!(
            words,
            [
                "BIOS PXE",
                "UEFI ia32 PXE",
                "UEFI x64 PXE",
                "UEFI x64 PXE",
                "UEFI arm32 PXE",
                "UEFI arm64 PXE",
                "UEFI riscv64 PXE",
                "UEFI loong64 PXE"
            ]
        );
        for (arch, word) in [
            (15u16, "UEFI ia32 HTTP boot"),
            (16, "UEFI x64 HTTP boot"),
            (18, "UEFI arm32 HTTP boot"),
            (19, "UEFI arm64 HTTP boot"),
        ] {
            assert_eq!(class(&[(60, b"HTTPClient:Arch:xxx"), (93, &arch.to_be_bytes())]).to_string(), word);
        }
    }

    #[test]
    fn d26_unknown_architectures_are_named_and_not_guessed() {
        assert_eq!(class(&[(60, b"PXEClient"), (93, &[0, 2])]), Firmware::Unsupported { arch: 2 });
        assert_eq!(class(&[(60, b"HTTPClient"), (93, &[0, 0])]), Firmware::Unsupported { arch: 0 });
        assert_eq!(class(&[(60, b"PXEClient")]), Firmware::Nameless);
    }

    #[test]
    fn d26_the_first_known_entry_of_a_list_counts_and_an_odd_length_is_dropped() {
        assert_eq!(class(&[(60, b"PXEClient"), (93, &[0, 99, 0, 11])]), Firmware::UefiPxe(Processor::Arm64));
        assert_eq!(class(&[(60, b"PXEClient"), (93, &[0, 7, 0])]), Firmware::Nameless);
        assert_eq!(class(&[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[7])]), Firmware::BiosPxe);
    }

    #[test]
    fn d28_the_class_text_is_used_only_where_93_is_missing() {
        assert_eq!(class(&[(60, b"PXEClient:Arch:00007:UNDI:003000")]), Firmware::UefiPxe(Processor::X64));
        assert_eq!(class(&[(60, b"PXEClient:Arch:00007:UNDI:003000"), (93, &[0, 0])]), Firmware::BiosPxe);
        assert_eq!(class(&[(60, b"PXEClient:Arch:7")]), Firmware::Nameless);
        assert_eq!(class(&[(60, b"PXEClient:Arch:99999:")]), Firmware::Nameless);
    }

    #[test]
    fn d23_without_a_boot_class_it_is_no_boot_client() {
        assert_eq!(class(&[(60, b"udhcp 1.35.0"), (93, &[0, 7])]), Firmware::Other);
        assert_eq!(class(&[]), Firmware::Other);
        assert_eq!(operating_system(b"udhcp 1.35.0"), "Linux");
        assert_eq!(operating_system(b"MSFT 5.0"), "Windows");
        assert_eq!(operating_system(b"\xff"), "DHCP client");
    }

    #[test]
    fn d33_ipxe_is_known_by_77_in_both_forms_or_by_175_alone() {
        for list in [
            &[(60, &b"PXEClient"[..]), (77, &b"iPXE"[..]), (93, &[0, 7])][..],
            &[(60, b"PXEClient"), (77, b"\x04iPXE"), (93, &[0, 7])],
            &[(60, b"PXEClient"), (77, b"\x03foo\x04iPXE"), (93, &[0, 7])],
            &[(60, b"PXEClient"), (93, &[0, 7]), (175, &[177, 5, 1, 0x1a, 0xf4, 0x10, 0])],
            &[(60, b"PXEClient"), (93, &[0, 7]), (175, &[19, 1, 1])],
        ] {
            assert_eq!(class(list).to_string(), "iPXE (UEFI x64)", "{list:?}");
        }
    }

    #[test]
    fn d33_gpxe_and_an_empty_175_are_no_ipxe() {
        assert_eq!(class(&[(60, b"PXEClient"), (77, b"gPXE"), (93, &[0, 0]), (175, &[19, 1, 1])]), Firmware::BiosPxe);
        assert_eq!(class(&[(60, b"PXEClient"), (93, &[0, 0]), (175, &[])]), Firmware::BiosPxe);
        assert_eq!(class(&[(60, b"PXEClient"), (77, b"iPXE2"), (93, &[0, 0])]), Firmware::BiosPxe);
    }

    #[test]
    fn d33_ipxe_features_choose_the_platform_where_93_is_missing() {
        let bios = class(&[(77, b"iPXE"), (175, &[33, 1, 1, 19, 1, 1])]);
        assert_eq!(bios.platform(), Some(Platform::Bios));
        let Firmware::Ipxe(ipxe) = bios else { panic!("{bios:?}") };
        assert!(ipxe.can_http() && !ipxe.features.has(Features::HTTPS));
        let Firmware::Ipxe(no_http) = class(&[(77, b"iPXE"), (175, &[21, 1, 1])]) else { panic!() };
        assert!(!no_http.can_http());
        let Firmware::Ipxe(silent) = class(&[(77, b"iPXE")]) else { panic!() };
        assert!(silent.can_http());
    }

    #[test]
    fn d24_each_class_is_answered_in_its_own_words() {
        assert_eq!(Firmware::UefiHttp(Processor::X64).reply_class(), Some("HTTPClient"));
        assert_eq!(Firmware::UefiPxe(Processor::X64).reply_class(), Some("PXEClient"));
        assert_eq!(Firmware::Other.reply_class(), None);
    }
}
