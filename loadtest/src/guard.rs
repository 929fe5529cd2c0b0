//! A load generator must not hit a network by mistake.

use anyhow::{Result, bail};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Refuses targets that are neither this machine nor inside a network
/// namespace made for tests, unless the operator says that the network is theirs.
///
/// # Errors
/// For a target that is none of these, with the flag that would allow it.
pub fn check(target: IpAddr, network_is_mine: bool) -> Result<()> {
    if network_is_mine || target.is_loopback() || is_of_this_host(target) || in_a_namespace_of_our_own() {
        return Ok(());
    }
    bail!(
        "{target} is not this machine: a load test would flood that network. \
         Run it inside a network namespace, or pass --i-own-this-network if you may load it"
    )
}

fn is_of_this_host(address: IpAddr) -> bool {
    // Only a local address can be bound, and these three, which are no single machine.
    let crowd = address.is_unspecified() || address.is_multicast() || address == Ipv4Addr::BROADCAST;
    !crowd && UdpSocket::bind((address, 0)).is_ok()
}

fn in_a_namespace_of_our_own() -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    matches!((namespace("self"), namespace("1")), (Some(ours), Some(host)) if ours != host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_be_loaded_without_asking() {
        for ok in ["127.0.0.1", "127.9.8.7", "::1"] {
            assert!(check(ok.parse().unwrap(), false).is_ok(), "{ok}");
        }
        if in_a_namespace_of_our_own() {
            return;
        }
        // TEST-NET addresses (RFC 5737, RFC 3849), broadcast and multicast.
        for bad in ["192.0.2.1", "255.255.255.255", "224.0.0.1", "2001:db8::1", "0.0.0.0"] {
            let target = bad.parse().unwrap();
            let why = check(target, false).unwrap_err().to_string();
            assert!(why.contains("--i-own-this-network"), "{why}");
            assert!(check(target, true).is_ok());
        }
    }
}
