//! Options as raw bytes: the scan that survives whatever firmware sends.

use super::HEADER;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// The option codes that stoker reads or writes (RFC 2132 unless said otherwise).
pub mod code {
    #![allow(missing_docs, reason = "the names are those of the registry")]
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const BROADCAST: u8 = 28;
    pub const NTP: u8 = 42;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    /// RFC 3004.
    pub const USER_CLASS: u8 = 77;
    /// RFC 3046.
    pub const RELAY_AGENT: u8 = 82;
    /// RFC 4578 section 2.1.
    pub const ARCHITECTURE: u8 = 93;
    /// RFC 4578 section 2.2.
    pub const NETWORK_INTERFACE: u8 = 94;
    /// RFC 4578 section 2.3.
    pub const MACHINE_ID: u8 = 97;
    /// iPXE (and Etherboot before it).
    pub const IPXE: u8 = 175;
    pub const END: u8 = 255;
}

/// Where `file` and `sname` lie in the header (RFC 2131 section 2).
const SNAME: core::ops::Range<usize> = 44..108;
const FILE: core::ops::Range<usize> = 108..236;

/// All options of one packet: code to bytes.
///
/// An option that occurs more than once is the concatenation of its parts
/// (RFC 3396), wherever they stand; `file` and `sname` are searched when
/// option 52 says that they hold options (RFC 2131 section 4.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    list: BTreeMap<u8, Vec<u8>>,
    truncated: bool,
}

impl Options {
    /// Scans a whole packet, header included. A packet shorter than its header has no options.
    pub fn scan(packet: &[u8]) -> Self {
        let mut options = Self::default();
        options.field(packet.get(HEADER..).unwrap_or_default());
        // Only the options field itself may announce an overload: one inside `file` would be a loop.
        let overload = options.get(code::OVERLOAD).and_then(|v| v.first().copied()).unwrap_or(0);
        for (bit, range) in [(1, FILE), (2, SNAME)] {
            if overload & bit != 0 && overload <= 3 {
                options.field(packet.get(range).unwrap_or_default());
            }
        }
        options
    }

    /// Adds what one field holds. A missing end mark is tolerated; an option
    /// that claims more bytes than there are ends the scan and is not kept.
    fn field(&mut self, mut rest: &[u8]) {
        while let [code, tail @ ..] = rest {
            match *code {
                code::PAD => rest = tail,
                code::END => return,
                code => {
                    let Some((value, after)) = split_value(tail) else {
                        self.truncated = true;
                        return;
                    };
                    self.list.entry(code).or_default().extend_from_slice(value);
                    rest = after;
                }
            }
        }
    }

    /// The bytes of an option; may be empty.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.list.get(&code).map(Vec::as_slice)
    }

    /// An option that is one address; `None` unless it has exactly four bytes.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.get(code)?).ok().map(Ipv4Addr::from)
    }

    /// An option that is a 16-bit number; `None` unless it has exactly two bytes.
    pub fn number(&self, code: u8) -> Option<u16> {
        <[u8; 2]>::try_from(self.get(code)?).ok().map(u16::from_be_bytes)
    }

    /// Whether the scan ended at an option that was longer than the packet.
    pub const fn truncated(&self) -> bool {
        self.truncated
    }

    /// Every option, in rising order of code.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.list.iter().map(|(code, value)| (*code, value.as_slice()))
    }
}

/// The value of one length-prefixed item, and what follows it.
pub(super) fn split_value(tail: &[u8]) -> Option<(&[u8], &[u8])> {
    let [length, rest @ ..] = tail else { return None };
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn packet(options: &[u8]) -> Vec<u8> {
        let mut p = vec![0; HEADER];
        p.extend_from_slice(options);
        p
    }

    #[test]
    fn d02_pads_are_skipped_and_a_missing_end_is_tolerated() {
        let o = Options::scan(&packet(&[0, 0, 53, 1, 1, 0, 60, 2, b'a', b'b']));
        assert_eq!((o.get(53), o.get(60), o.truncated()), (Some(&[1][..]), Some(&b"ab"[..]), false));
    }

    #[test]
    fn d02_nothing_after_the_end_is_read() {
        let o = Options::scan(&packet(&[53, 1, 1, 255, 60, 1, b'x']));
        assert_eq!(o.get(60), None);
    }

    #[test]
    fn d02_a_truncated_option_ends_the_scan_and_keeps_what_came_before() {
        for tail in [&[60, 9, b'P'][..], &[60][..]] {
            let mut bytes = vec![53, 1, 1];
            bytes.extend_from_slice(tail);
            let o = Options::scan(&packet(&bytes));
            assert_eq!((o.get(53), o.get(60), o.truncated()), (Some(&[1][..]), None, true));
        }
    }

    #[test]
    fn d02_an_option_of_no_bytes_is_there_and_empty() {
        let o = Options::scan(&packet(&[82, 0, 53, 1, 1, 255]));
        assert_eq!((o.get(82), o.get(53)), (Some(&[][..]), Some(&[1][..])));
    }

    #[test]
    fn d03_overloaded_fields_are_read_in_the_order_options_file_sname() {
        let mut p = packet(&[52, 1, 3, 67, 1, b'a', 255]);
        p[FILE.start..FILE.start + 4].copy_from_slice(&[67, 1, b'b', 255]);
        p[SNAME.start..SNAME.start + 4].copy_from_slice(&[67, 1, b'c', 255]);
        assert_eq!(Options::scan(&p).get(67), Some(&b"abc"[..]));
        p[HEADER + 2] = 1;
        assert_eq!(Options::scan(&p).get(67), Some(&b"ab"[..]));
        p[HEADER + 2] = 2;
        assert_eq!(Options::scan(&p).get(67), Some(&b"ac"[..]));
    }

    #[test]
    fn d03_without_option_52_or_with_nonsense_in_it_file_and_sname_are_no_options() {
        let mut p = packet(&[52, 1, 4, 255]);
        p[FILE.start..FILE.start + 4].copy_from_slice(&[67, 1, b'b', 255]);
        assert_eq!(Options::scan(&p).get(67), None);
        p[HEADER..HEADER + 3].copy_from_slice(&[0, 0, 0]);
        assert_eq!(Options::scan(&p).get(67), None);
    }

    #[test]
    fn d04_parts_of_an_option_are_joined_even_when_apart() {
        let o = Options::scan(&packet(&[
            60, 3, b'P', b'X', b'E', 53, 1, 1, 60, 6, b'C', b'l', b'i', b'e', b'n', b't', 255,
        ]));
        assert_eq!(o.get(60), Some(&b"PXEClient"[..]));
    }

    #[test]
    fn d05_unknown_options_are_kept_and_hide_nothing() {
        let o = Options::scan(&packet(&[250, 2, 1, 2, 12, 2, 0xff, 0xfe, 54, 3, 1, 2, 3, 93, 2, 0, 7, 255]));
        assert_eq!((o.number(93), o.address(54), o.get(250)), (Some(7), None, Some(&[1, 2][..])));
        assert_eq!(o.iter().count(), 4);
    }
}
