//! What the kernel's command line tells the agent.

use protocol::id::Mac;
use std::net::Ipv4Addr;

/// The arguments that the agent knows; everything else on the line is the kernel's.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Args {
    /// `stoker.control=`: where control answers, as `http://HOST:PORT`.
    pub control: Option<String>,
    /// `stoker.attempt=`: the boot attempt that control minted.
    pub attempt: Option<String>,
    /// `stoker.mac=`, else `BOOTIF=01-..`: the interface that network-booted.
    pub mac: Option<Mac>,
    /// `stoker.ip=`, `.netmask=`, `.gw=`, `.dns=`: the lease that the firmware or iPXE got.
    pub address: Option<Address>,
    /// What was there and could not be read, in words.
    pub complaints: Vec<String>,
}

/// One interface's IPv4 configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The interface's own address.
    pub ip: Ipv4Addr,
    /// Length of the network prefix, bits (1 to 32).
    pub prefix: u8,
    /// Default router.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, the best first.
    pub dns: Vec<Ipv4Addr>,
}

/// Reads `/proc/cmdline`'s text. Nothing in it is fatal: what cannot be read is complained of and left out.
pub fn parse(line: &str) -> Args {
    let mut args = Args::default();
    let mut bootif = None;
    let (mut ip, mut mask, mut gateway, mut dns) = (None, None, None, Vec::new());
    for word in line.split_ascii_whitespace() {
        let Some((key, value)) = word.split_once('=') else { continue };
        if value.is_empty() {
            continue; // iPXE expands a setting that it has not got to nothing.
        }
        match key {
            "stoker.control" => args.control = Some(base_url(value)),
            "stoker.attempt" => args.attempt = Some(value.to_string()),
            "stoker.mac" => args.mac = read(&mut args.complaints, word, value),
            "BOOTIF" => bootif = read(&mut args.complaints, word, value.strip_prefix("01-").unwrap_or(value)),
            "stoker.ip" => ip = read(&mut args.complaints, word, value),
            "stoker.netmask" => mask = read(&mut args.complaints, word, value),
            "stoker.gw" => gateway = read(&mut args.complaints, word, value),
            "stoker.dns" => {
                dns.extend(value.split(',').filter_map(|d| read::<Ipv4Addr>(&mut args.complaints, word, d)))
            }
            _ => {}
        }
    }
    args.mac = args.mac.or(bootif);
    args.address = match (ip, mask) {
        (Some(ip), Some(mask)) => match prefix_length(mask) {
            Some(prefix) => Some(Address { ip, prefix, gateway, dns }),
            None => {
                args.complaints.push(format!("stoker.netmask={mask} is not a netmask"));
                None
            }
        },
        _ => None,
    };
    args
}

fn read<T: std::str::FromStr>(complaints: &mut Vec<String>, word: &str, value: &str) -> Option<T> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        complaints.push(format!("cannot make sense of {:?} on the command line", word.get(..80).unwrap_or(word)));
    }
    parsed
}

fn base_url(value: &str) -> String {
    let value = value.trim_end_matches('/');
    if value.contains("://") { value.to_string() } else { format!("http://{value}") }
}

/// 255.255.255.0 is 24; none for a mask with holes or for 0.0.0.0.
pub fn prefix_length(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let length = bits.leading_ones();
    (length > 0 && bits.count_ones() == length).then_some(length as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_line_is_understood() {
        let args = parse(
            "quiet console=ttyS0 stoker.control=http://10.0.0.1:8081/ stoker.mac=52:54:00:12:34:56 stoker.attempt=a7 \
             BOOTIF=01-52-54-00-00-00-01 stoker.ip=10.0.0.9 stoker.netmask=255.255.254.0 stoker.gw=10.0.0.1 stoker.dns=10.0.0.2,10.0.0.3",
        );
        assert_eq!(args.control.as_deref(), Some("http://10.0.0.1:8081"));
        assert_eq!(args.attempt.as_deref(), Some("a7"));
        assert_eq!(args.mac, Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        let address = args.address.unwrap();
        assert_eq!((address.ip, address.prefix), (Ipv4Addr::new(10, 0, 0, 9), 23));
        assert_eq!(address.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(address.dns, [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]);
        assert!(args.complaints.is_empty());
    }

    #[test]
    fn settings_that_ipxe_left_empty_are_as_if_absent() {
        let args = parse(
            "stoker.control=10.0.0.1:8081 stoker.ip=10.0.0.9 stoker.netmask= stoker.dns= BOOTIF=01-52-54-00-00-00-01",
        );
        assert_eq!(args.control.as_deref(), Some("http://10.0.0.1:8081"));
        assert_eq!(args.address, None);
        assert_eq!(args.mac, Some(Mac([0x52, 0x54, 0, 0, 0, 1])));
        assert!(args.complaints.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_said_and_left_out() {
        let args = parse("stoker.mac=nonsense stoker.ip=10.0.0.9 stoker.netmask=255.0.255.0");
        assert_eq!((args.mac, args.address), (None, None));
        assert_eq!(args.complaints.len(), 2, "{:?}", args.complaints);
    }
}
