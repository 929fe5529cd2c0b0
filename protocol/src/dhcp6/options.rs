//! Options: two bytes of code, two of length, then the value (RFC 8415 section 21.1).

/// Codes (RFC 8415 section 24, RFC 5970 section 3, RFC 6939 section 4).
pub mod code {
    /// Who asks.
    pub const CLIENT_ID: u16 = 1;
    /// Who answers.
    pub const SERVER_ID: u16 = 2;
    /// A wish for addresses.
    pub const IA_NA: u16 = 3;
    /// A wish for temporary addresses.
    pub const IA_TA: u16 = 4;
    /// Which options are wanted (ORO).
    pub const OPTION_REQUEST: u16 = 6;
    /// The packet that a relay carries.
    pub const RELAY_MESSAGE: u16 = 9;
    /// Status, in a code and words.
    pub const STATUS: u16 = 13;
    /// What kind of user.
    pub const USER_CLASS: u16 = 15;
    /// What kind of machine.
    pub const VENDOR_CLASS: u16 = 16;
    /// Where the relay got it from; goes back as it came.
    pub const INTERFACE_ID: u16 = 18;
    /// A wish for prefixes.
    pub const IA_PD: u16 = 25;
    /// Boot file URL.
    pub const BOOT_FILE_URL: u16 = 59;
    /// Boot file parameters.
    pub const BOOT_FILE_PARAM: u16 = 60;
    /// Client system architecture types.
    pub const ARCHITECTURE: u16 = 61;
    /// Network interface identifier (UNDI).
    pub const NETWORK_INTERFACE: u16 = 62;
    /// The client's hardware address, as its relay saw it.
    pub const LINK_LAYER_ADDRESS: u16 = 79;
}

/// The options of a message or relay envelope, one after the other. Damage ends
/// it with one `Err`; nothing beyond the bytes is read.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
}

/// An option that runs past its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated;

impl<'a> Items<'a> {
    /// Over these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<(u16, &'a [u8]), Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = split(self.rest);
        self.rest = item.map_or(&[], |(_, _, after)| after);
        Some(item.map(|(code, value, _)| (code, value)).ok_or(Truncated))
    }
}

fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (code, rest) = bytes.split_first_chunk()?;
    let (value, after) = counted(rest)?;
    Some((u16::from_be_bytes(*code), value, after))
}

/// Two bytes of length, that many bytes, and what comes after.
pub(super) fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The parts of a class option or boot parameter list: each with two bytes of
/// length before it. Ends at the first damage.
pub fn strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let (value, after) = counted(rest)?;
        rest = after;
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn d45_options_end_at_the_first_damage() {
        let good = [0, 59, 0, 2, b'h', b'i', 0, 1, 0, 0];
        let all: Vec<_> = Items::new(&good).collect();
        assert_eq!(all, [Ok((59, &b"hi"[..])), Ok((1, &b""[..]))]);
        for cut in [&good[..9], &good[..8], &good[..7], &good[..5], &good[..3], &good[..1]] {
            let all: Vec<_> = Items::new(cut).collect();
            assert_eq!(all.iter().filter(|i| i.is_err()).count(), 1, "{cut:?}");
            assert_eq!(all.last(), Some(&Err(Truncated)), "{cut:?}");
        }
        assert_eq!(Items::new(&[0, 1, 0xff, 0xff, 1]).next(), Some(Err(Truncated)));
    }

    #[test]
    fn d45_class_parts_end_at_the_first_damage() {
        let all: Vec<_> = strings(&[0, 4, b'i', b'P', b'X', b'E', 0, 0, 0, 9, 1]).collect();
        assert_eq!(all, [&b"iPXE"[..], b""]);
    }
}
