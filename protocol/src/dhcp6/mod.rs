//! DHCPv6 as network-boot firmware speaks it (RFC 8415, RFC 5970).
//!
//! [`Packet::read`] takes the bytes of a client, bare or inside the envelopes
//! of relays, without copying; [`Reply::encode`] writes an answer into the same
//! envelopes. What to answer is decided in control.
//!
//! Of all that DHCPv6 can do only the boot file is here: no addresses are
//! given, so nothing is leased, renewed or released.

pub mod client;
pub mod duid;
pub mod options;
pub mod packet;
pub mod reply;

pub use packet::{Kind, Malformed, Message, Packet, Relay};
pub use reply::{Reply, TooLong};

use core::net::Ipv6Addr;

/// The port that servers and relays listen on (RFC 8415 section 7.2).
pub const SERVER_PORT: u16 = 547;
/// The port that clients listen on (RFC 8415 section 7.2).
pub const CLIENT_PORT: u16 = 546;
/// The port on which UEFI asks a boot server that gives no addresses; taken over from PXE 2.1.
pub const PXE_PORT: u16 = 4011;
/// All_DHCP_Relay_Agents_and_Servers: where clients send to (RFC 8415 section 7.1).
pub const ALL_RELAYS_AND_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// All_DHCP_Servers: where relays send to that were told no server (RFC 8415 section 7.1).
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);

/// The longest packet that is read: what an Ethernet frame carries, bytes.
pub const MAX_PACKET: usize = 1500;
/// The longest reply: what fits the smallest IPv6 MTU (1280) without fragments, bytes.
pub const MAX_REPLY: usize = 1280 - 40 - 8;
/// Relays that a packet may have passed (HOP_COUNT_LIMIT, RFC 8415 section 7.6).
pub const MAX_RELAYS: usize = 8;
/// The longest identifier that a peer may have, bytes: type and 128 (RFC 8415 section 11.1).
pub const MAX_DUID: usize = 130;
/// The longest identifier of ours, bytes: firmware has overflowed on longer ones (CVE-2023-45230, CVE-2023-45235).
pub const MAX_SERVER_DUID: usize = 20;
