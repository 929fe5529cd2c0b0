//! Whether a request came from the machine that it speaks for, as far as the
//! network can tell: by the kernel's table of neighbours (RFC 826, RFC 4861).

use protocol::id::Mac;
use std::net::{IpAddr, Ipv4Addr};

/// The network card that has this address on a link of ours; nothing where the
/// address is behind a router, or where no packet has been exchanged yet.
pub fn neighbour(ip: IpAddr) -> Option<Mac> {
    let IpAddr::V4(ip) = ip.to_canonical() else { return None };
    parse(&std::fs::read_to_string("/proc/thread-self/net/arp").ok()?, ip)
}

/// Looks an address up in `/proc/net/arp`: complete entries only (flag 0x2).
fn parse(table: &str, ip: Ipv4Addr) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (address, _hardware, flags, mac) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let complete = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()? & 2 != 0;
        (complete && address.parse() == Ok(ip)).then(|| mac.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_entries_count() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.77.0.9        0x1         0x2         52:54:00:12:34:56     *        br0\n\
            10.77.0.10       0x1         0x0         00:00:00:00:00:00     *        br0\n\
            nonsense\n";
        let find = |last| parse(table, Ipv4Addr::new(10, 77, 0, last));
        assert_eq!(find(9), "52:54:00:12:34:56".parse().ok());
        assert_eq!((find(10), find(11)), (None, None));
    }
}
