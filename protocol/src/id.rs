//! What tells one machine from another, and what kind of processor it has.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet hardware address (IEEE 802 EUI-48).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `52-54-00-12-34-56`: the form of iPXE's `${mac:hexhyp}`, safe in a path.
    pub fn hyphenated(self) -> String {
        let [a, b, c, d, e, f] = self.0;
        alloc::format!("{a:02x}-{b:02x}-{c:02x}-{d:02x}-{e:02x}-{f:02x}")
    }

    /// A group address (broadcast and multicast): never the address of one machine.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A text that is not what it should name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadId {
    /// What was expected, in words for the operator.
    pub expected: &'static str,
}

impl fmt::Display for BadId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "expected {}", self.expected)
    }
}

impl core::error::Error for BadId {}

impl FromStr for Mac {
    type Err = BadId;

    /// Accepts six hex pairs separated by `:` or `-` (one kind throughout), or
    /// twelve hex digits without a separator; either letter case.
    fn from_str(text: &str) -> Result<Self, BadId> {
        const BAD: BadId = BadId { expected: "a MAC address such as 52:54:00:12:34:56" };
        let b = text.as_bytes();
        let step = match (b.len(), b.get(2)) {
            (17, Some(b':' | b'-')) => 3,
            (12, _) => 2,
            _ => return Err(BAD),
        };
        let mut mac = [0; 6];
        for (i, out) in mac.iter_mut().enumerate() {
            let at = i * step;
            if step == 3 && i > 0 && b[at - 1] != b[2] {
                return Err(BAD);
            }
            *out = hex_pair(b[at], b[at + 1]).ok_or(BAD)?;
        }
        Ok(Self(mac))
    }
}

/// The SMBIOS system UUID (DSP0134 section 7.2.1), in the order it is printed.
///
/// Firmware sends it in DHCP option 97 with the first three fields in
/// little-endian order; [`MachineId::from_smbios_wire`] puts them right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub [u8; 16]);

impl MachineId {
    /// From the 16 bytes as SMBIOS 2.6 and DHCP option 97 carry them.
    pub const fn from_smbios_wire(w: [u8; 16]) -> Self {
        Self([w[3], w[2], w[1], w[0], w[5], w[4], w[7], w[6], w[8], w[9], w[10], w[11], w[12], w[13], w[14], w[15]])
    }

    /// All zero or all ones: firmware's way to say "not set"; or a sample that board makers leave in
    /// ([`SAMPLES`]). Such a UUID identifies nothing.
    pub fn is_placeholder(self) -> bool {
        self.0 == [0; 16] || self.0 == [0xff; 16] || SAMPLES.iter().any(|s| *s == self || s.swapped() == self)
    }

    /// The same UUID with its first three fields in the other byte order: what firmware before SMBIOS
    /// 2.6 and programs after it make of one another's (DSP0134 section 7.2.1).
    #[must_use]
    pub const fn swapped(self) -> Self {
        Self::from_smbios_wire(self.0)
    }
}

/// UUIDs out of board makers' reference firmware, found on thousands of machines.
pub const SAMPLES: [MachineId; 2] = [
    // AMI's reference BIOS: 03000200-0400-0500-0006-000700080009.
    MachineId([3, 0, 2, 0, 4, 0, 5, 0, 0, 6, 0, 7, 0, 8, 0, 9]),
    // 12345678-1234-5678-90ab-cddeefaabbcc.
    MachineId([0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x90, 0xab, 0xcd, 0xde, 0xef, 0xaa, 0xbb, 0xcc]),
];

/// Whether a serial number says something: firmware that has none writes words in its place.
pub fn is_serial(text: &str) -> bool {
    /// As they are found, in lower case without spaces and punctuation.
    const WORDS: [&str; 13] = [
        "tobefilledbyoem",
        "defaultstring",
        "systemserialnumber",
        "serialnumber",
        "chassisserialnumber",
        "notspecified",
        "notapplicable",
        "notavailable",
        "none",
        "unknown",
        "empty",
        "invalid",
        "oem",
    ];
    let mut bare = String::new();
    bare.extend(text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).take(64));
    let first = bare.chars().next();
    let ascending = "0123456789".starts_with(bare.as_str()) || "123456789".starts_with(bare.as_str());
    bare.len() > 3 && !WORDS.contains(&bare.as_str()) && !bare.chars().all(|c| Some(c) == first) && !ascending
}

impl fmt::Display for MachineId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for MachineId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        const BAD: BadId = BadId { expected: "a UUID such as 6f0c4e2a-0b1d-4c5e-8f90-123456789abc" };
        let b = text.as_bytes();
        if b.len() != 36 || [8, 13, 18, 23].iter().any(|&i| b[i] != b'-') {
            return Err(BAD);
        }
        let mut digits = b.iter().copied().filter(|&c| c != b'-');
        let mut id = [0; 16];
        for out in &mut id {
            *out = match (digits.next(), digits.next()) {
                (Some(h), Some(l)) => hex_pair(h, l).ok_or(BAD)?,
                _ => return Err(BAD),
            };
        }
        Ok(Self(id))
    }
}

/// A processor architecture that stoker can boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Intel and AMD, 64 bit; iPXE's `${buildarch}` says `x86_64` or, in a BIOS build, `i386`.
    #[serde(rename = "x86_64")]
    X86_64,
    /// Arm, 64 bit (AArch64).
    Arm64,
}

impl Arch {
    /// The name used in paths, flags and iPXE's `${buildarch}`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = BadId;

    /// Accepts the names of Linux, Debian, Go and iPXE. A BIOS iPXE is built
    /// for `i386` and says so even on a 64-bit machine, so that means x86_64.
    fn from_str(text: &str) -> Result<Self, BadId> {
        match text {
            "x86_64" | "amd64" | "i386" => Ok(Self::X86_64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            _ => Err(BadId { expected: "an architecture: x86_64 or arm64" }),
        }
    }
}

pub(crate) const fn hex_pair(high: u8, low: u8) -> Option<u8> {
    match (hex_digit(high), hex_digit(low)) {
        (Some(h), Some(l)) => Some(h << 4 | l),
        _ => None,
    }
}

pub(crate) const fn hex_digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

macro_rules! serde_as_text {
    ($($t:ty),*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Mac, MachineId);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn mac_reads_every_usual_form_and_prints_one() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0xab, 0xcd]);
        for text in ["52:54:00:12:ab:cd", "52-54-00-12-AB-CD", "52540012abcd"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:12:ab:cd");
        assert_eq!(mac.hyphenated(), "52-54-00-12-ab-cd");
    }

    #[test]
    fn mac_refuses_what_is_not_one() {
        for text in
            ["", "52:54:00:12:ab", "52:54-00:12:ab:cd", "52:54:00:12:ab:cg", "5254.0012.abcd", "é2:54:00:12:ab:c"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn f33_samples_and_words_in_place_of_a_serial_number_identify_nothing() {
        for text in [
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ] {
            assert!(text.parse::<MachineId>().unwrap().is_placeholder(), "{text}");
        }
        let id: MachineId = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        assert_eq!(id.swapped().to_string(), "33221100-5544-7766-8899-aabbccddeeff");
        assert_eq!(id.swapped().swapped(), id);
        for bad in [
            "",
            "n/a",
            "To be filled by O.E.M.",
            "Default string",
            "0000000000",
            "123456789",
            "0123456789",
            "None",
            "...",
        ] {
            assert!(!is_serial(bad), "{bad}");
        }
        for good in ["CZ3106F2X8", "S123456X7C04321", "VMware-56 4d 8b", "1234ABCD"] {
            assert!(is_serial(good), "{good}");
        }
    }

    #[test]
    fn uuid_round_trips_and_knows_the_smbios_order() {
        let id: MachineId = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        let wire = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        assert_eq!(MachineId::from_smbios_wire(wire), id);
        assert!(MachineId([0xff; 16]).is_placeholder() && !id.is_placeholder());
        assert!("00112233-4455-6677-8899-aabbccddeef".parse::<MachineId>().is_err());
        assert!("0011-2233-4455-6677-8899-aabbccddeeff".parse::<MachineId>().is_err());
    }
}
