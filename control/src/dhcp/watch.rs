//! Offers of other DHCP servers, as far as they are broadcast.
//!
//! UEFI firmware asks for broadcast answers, so its boots show every server on
//! the segment. Servers unicast to clients that do not ask for broadcasts
//! (iPXE on BIOS); those offers cannot be seen here.

use protocol::dhcp::options::code;
use protocol::dhcp::{COOKIE, HEADER, Options};
use protocol::id::Mac;
use std::net::Ipv4Addr;

/// Somebody's DHCPOFFER.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Whom it is for.
    pub mac: Mac,
    /// Who made it: option 54, else the sender.
    pub server: Ipv4Addr,
    /// The address in it; unset in that of a ProxyDHCP server.
    pub address: Ipv4Addr,
}

/// Reads a packet that came to port 68.
pub fn offer(packet: &[u8], sender: Ipv4Addr) -> Option<Offer> {
    let cookie = packet.get(HEADER - 4..HEADER)?;
    if packet.get(..3)? != [2, 1, 6] || cookie != COOKIE {
        return None;
    }
    let options = Options::scan(packet);
    if options.get(code::MESSAGE_TYPE)? != [2] {
        return None;
    }
    let mac = Mac(packet.get(28..34)?.try_into().ok()?);
    let address = <[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into();
    Some(Offer { mac, server: options.address(code::SERVER_ID).unwrap_or(sender), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &[u8] = include_bytes!("../../../tests/fixtures/dhcp/dnsmasq-offer.bin");
    const PROXY: &[u8] = include_bytes!("../../../tests/fixtures/dhcp/dnsmasq-proxy-offer.bin");

    #[test]
    fn f35_the_offers_of_real_servers_are_read() {
        let sender = Ipv4Addr::new(9, 9, 9, 9);
        let full = offer(OFFER, sender).unwrap();
        assert_eq!(
            (full.mac.to_string().as_str(), full.server.to_string().as_str()),
            ("52:54:00:2e:92:a3", "10.77.0.1")
        );
        assert!(!full.address.is_unspecified());
        assert!(offer(PROXY, sender).unwrap().address.is_unspecified());
    }

    #[test]
    fn f35_requests_and_damaged_packets_are_no_offers() {
        assert_eq!(
            offer(include_bytes!("../../../tests/fixtures/dhcp/ovmf-pxe-discover.bin"), Ipv4Addr::LOCALHOST),
            None
        );
        for length in 0..HEADER {
            assert_eq!(offer(&OFFER[..length], Ipv4Addr::LOCALHOST), None);
        }
    }
}
