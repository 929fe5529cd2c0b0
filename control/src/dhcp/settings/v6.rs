//! `dhcp.v6`.

use super::{Problems, check_url};
use ipnet::Ipv6Net;
use serde::Deserialize;
use std::net::Ipv6Addr;

/// Boot files by DHCPv6 (RFC 5970), for machines that have their IPv6 address
/// from a router or another server. Scripts and all that follows go by IPv4.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct V6 {
    /// Whether to answer on UDP 547 and 4011.
    pub enabled: bool,
    /// Host of boot file URLs; default: the interface's first address that is not link-local.
    pub address: Option<Ipv6Addr>,
    /// Base of URLs for UEFI HTTP boot; default `http://[ADDRESS]:8080`.
    pub http_boot_url: Option<String>,
    /// What iPXE is sent to; default as over IPv4.
    pub script_url: Option<String>,
    /// Relays that are answered besides those on the link itself.
    pub relays: Vec<Ipv6Net>,
}

impl V6 {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_url("v6.script_url", self.script_url.as_deref(), problems);
        check_url("v6.http_boot_url", self.http_boot_url.as_deref(), problems);
        if self.relays.iter().any(|net| net.prefix_len() == 0) {
            problems.add("v6.relays", "::/0 lets anybody be a relay", "list the relays' own networks");
        }
        if self.address.is_some_and(|a| a.is_unicast_link_local() || a.is_multicast() || a.is_unspecified()) {
            problems.add("v6.address", "no machine could put this address into a URL", "give a routable IPv6 address");
        }
    }
}
