//! One request: header, options, who asks, and where the answer goes.

use super::options::{Options, code};
use super::{
    COOKIE, DEFAULT_MAX_MESSAGE, Firmware, HEADER, IP_UDP_HEADERS, MAX_HOPS, MAX_PACKET, MIN_REPLY, text, vendor,
};
use crate::id::{Mac, MachineId};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

/// DHCP message types (RFC 2132 section 9.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of RFC 2131 section 3")]
pub enum MessageType {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl MessageType {
    /// From the byte in option 53.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Discover => "DHCPDISCOVER",
            Self::Offer => "DHCPOFFER",
            Self::Request => "DHCPREQUEST",
            Self::Decline => "DHCPDECLINE",
            Self::Ack => "DHCPACK",
            Self::Nak => "DHCPNAK",
            Self::Release => "DHCPRELEASE",
            Self::Inform => "DHCPINFORM",
        })
    }
}

/// Why bytes are no DHCP request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Malformed {
    /// Shorter than header and cookie.
    Short,
    /// Longer than a frame.
    Long,
    /// `op` is not BOOTREQUEST: a reply, or nonsense.
    NotARequest,
    /// `hlen` does not fit the field or the hardware type, or the address is none that a machine can have.
    HardwareAddress,
    /// The magic cookie is missing.
    Cookie,
    /// No option 53: plain BOOTP.
    Bootp,
    /// Option 53 holds a message type that a client does not send.
    Type,
    /// `hops` above [`MAX_HOPS`].
    Hops,
    /// `ciaddr` or `giaddr` is no address that an answer could be sent to.
    Address,
}

impl Malformed {
    /// Every reason, for counters.
    pub const ALL: [Self; 9] = [
        Self::Short,
        Self::Long,
        Self::NotARequest,
        Self::HardwareAddress,
        Self::Cookie,
        Self::Bootp,
        Self::Type,
        Self::Hops,
        Self::Address,
    ];

    /// A label for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::NotARequest => "not_a_request",
            Self::HardwareAddress => "hardware_address",
            Self::Cookie => "cookie",
            Self::Bootp => "bootp",
            Self::Type => "type",
            Self::Hops => "hops",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Short => "shorter than a DHCP header",
            Self::Long => "longer than an Ethernet frame",
            Self::NotARequest => "not a BOOTREQUEST",
            Self::HardwareAddress => "impossible hardware address",
            Self::Cookie => "no DHCP magic cookie",
            Self::Bootp => "plain BOOTP, without a DHCP message type",
            Self::Type => "not a message that a client sends",
            Self::Hops => "passed more than 16 relays: a relay loop",
            Self::Address => "impossible client or relay address",
        })
    }
}

/// What leases are kept under: option 61 where sent, else hardware type and address (RFC 2131 section 4.2).
///
/// Firmware sends no 61, iPXE and most systems send 01 and the MAC: both give
/// the same key, so a machine keeps one address from power-on to its system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey(pub Vec<u8>);

impl fmt::Display for ClientKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// Where a reply goes (RFC 2131 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Destination {
    /// To the relay, port 67.
    Relay(Ipv4Addr),
    /// To an address that the client has, port 68.
    Client(Ipv4Addr),
    /// To 255.255.255.255, port 68.
    Broadcast,
    /// To an address that the client does not have yet, at its hardware
    /// address, port 68. A server that cannot do that broadcasts.
    Hardware(Ipv4Addr),
    /// To where the request came from, port included (4011).
    Source,
}

/// A DHCP request that is fit to be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Option 53.
    pub kind: MessageType,
    /// Hardware type; 1 is Ethernet, 32 InfiniBand.
    pub htype: u8,
    /// Length of the hardware address, bytes; 0 on InfiniBand (RFC 4390).
    pub hlen: u8,
    /// Relays passed.
    pub hops: u8,
    /// Transaction.
    pub xid: u32,
    /// Seconds since the client began; iPXE starts at 4.
    pub secs: u16,
    /// Bit 15 asks for broadcast answers.
    pub flags: u16,
    /// The address that the client has and can be reached at.
    pub ciaddr: Ipv4Addr,
    /// The relay, or unspecified.
    pub giaddr: Ipv4Addr,
    /// The hardware address field, whole.
    pub chaddr: [u8; 16],
    /// Every option.
    pub options: Options,
    /// Who asks.
    pub firmware: Firmware,
}

impl Request {
    /// The broadcast flag of `flags`.
    pub const BROADCAST: u16 = 0x8000;

    /// Reads a packet. Whatever a peer sends ends in `Ok` or in a [`Malformed`], never in a panic.
    pub fn read(packet: &[u8]) -> Result<Self, Malformed> {
        plausible(packet)?;
        let short = || Malformed::Short;
        let options = Options::scan(packet);
        let kind = match options.get(code::MESSAGE_TYPE) {
            None => return Err(Malformed::Bootp),
            Some([byte]) => MessageType::from_wire(*byte).ok_or(Malformed::Type)?,
            Some(_) => return Err(Malformed::Type),
        };
        if matches!(kind, MessageType::Offer | MessageType::Ack | MessageType::Nak) {
            return Err(Malformed::Type);
        }
        let request = Self {
            kind,
            htype: *packet.get(1).ok_or_else(short)?,
            hlen: *packet.get(2).ok_or_else(short)?,
            hops: *packet.get(3).ok_or_else(short)?,
            xid: u32::from_be_bytes(field(packet, 4).ok_or_else(short)?),
            secs: u16::from_be_bytes(field(packet, 8).ok_or_else(short)?),
            flags: u16::from_be_bytes(field(packet, 10).ok_or_else(short)?),
            ciaddr: field::<4>(packet, 12).ok_or_else(short)?.into(),
            giaddr: field::<4>(packet, 24).ok_or_else(short)?.into(),
            chaddr: field(packet, 28).ok_or_else(short)?,
            firmware: Firmware::classify(&options),
            options,
        };
        if !reachable_or_unset(request.ciaddr) || !reachable_or_unset(request.giaddr) {
            return Err(Malformed::Address);
        }
        if request.hlen == 0 && request.client_id().is_none() {
            return Err(Malformed::HardwareAddress);
        }
        Ok(request)
    }

    /// The Ethernet address, where there is one.
    pub fn mac(&self) -> Option<Mac> {
        let [a, b, c, d, e, f, ..] = self.chaddr;
        (self.hlen == 6).then_some(Mac([a, b, c, d, e, f]))
    }

    /// What to keep a lease under.
    pub fn key(&self) -> ClientKey {
        ClientKey(self.client_id().map_or_else(
            || {
                let mut key = alloc::vec![self.htype];
                key.extend(self.chaddr.iter().take(usize::from(self.hlen)));
                key
            },
            <[u8]>::to_vec,
        ))
    }

    /// Option 61; shorter than its minimum of two bytes counts as missing (RFC 2132 section 9.14).
    pub fn client_id(&self) -> Option<&[u8]> {
        self.options.get(code::CLIENT_ID).filter(|id| id.len() >= 2)
    }

    /// Option 54.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.options.address(code::SERVER_ID)
    }

    /// Option 50.
    pub fn requested_address(&self) -> Option<Ipv4Addr> {
        self.options.address(code::REQUESTED_ADDRESS)
    }

    /// Option 97 as it stands, where it has the 17 bytes of RFC 4578 section 2.3 and its type is 0.
    pub fn machine_id_option(&self) -> Option<&[u8]> {
        self.options.get(code::MACHINE_ID).filter(|id| id.len() == 17 && id.first() == Some(&0))
    }

    /// The SMBIOS UUID of option 97, unless firmware left it blank.
    pub fn machine_id(&self) -> Option<MachineId> {
        let wire = self.machine_id_option()?.get(1..)?.try_into().ok()?;
        Some(MachineId::from_smbios_wire(wire)).filter(|id| !id.is_placeholder())
    }

    /// The boot menu item that the client chose (43.71).
    pub fn boot_item(&self) -> Option<[u8; 4]> {
        self.options.get(code::VENDOR_SPECIFIC).and_then(vendor::boot_item)
    }

    /// How many bytes of UDP payload a reply may have: option 57 less the
    /// headers, never below what every client takes, never above a frame.
    pub fn room(&self) -> usize {
        let told = self.options.number(code::MAX_MESSAGE).map_or(DEFAULT_MAX_MESSAGE, usize::from);
        (told.clamp(DEFAULT_MAX_MESSAGE, MAX_PACKET) - IP_UDP_HEADERS).max(MIN_REPLY)
    }

    /// Whether the client asks for an option (55); a client without a list asks for everything.
    pub fn wants(&self, option: u8) -> bool {
        self.options.get(code::PARAMETER_LIST).is_none_or(|list| list.contains(&option))
    }

    /// Who asks, in words for people.
    pub fn describe(&self) -> String {
        match self.firmware {
            Firmware::Other => {
                let class = self.options.get(code::VENDOR_CLASS).unwrap_or_default();
                super::firmware::operating_system(class).into()
            }
            firmware => alloc::format!("{firmware}"),
        }
    }

    /// Option 60 as text safe to show, at most 64 bytes of it.
    pub fn vendor_class_text(&self) -> String {
        text::printable(self.options.get(code::VENDOR_CLASS).unwrap_or_default(), 64)
    }

    /// Where a reply of this kind, giving out this address, goes when the
    /// request came to port 67 (RFC 2131 section 4.1).
    pub fn destination(&self, reply: MessageType, yiaddr: Ipv4Addr) -> Destination {
        if self.kind == MessageType::Inform && !self.ciaddr.is_unspecified() {
            return Destination::Client(self.ciaddr);
        }
        if !self.giaddr.is_unspecified() {
            return Destination::Relay(self.giaddr);
        }
        if reply == MessageType::Nak {
            return Destination::Broadcast;
        }
        if !self.ciaddr.is_unspecified() {
            return Destination::Client(self.ciaddr);
        }
        if self.flags & Self::BROADCAST != 0 || yiaddr.is_unspecified() {
            return Destination::Broadcast;
        }
        Destination::Hardware(yiaddr)
    }
}

/// The guard: what must hold of the header before anything else is looked at.
pub fn plausible(packet: &[u8]) -> Result<(), Malformed> {
    if packet.len() > MAX_PACKET {
        return Err(Malformed::Long);
    }
    let (Some(cookie), [op, htype, hlen, hops, ..]) = (field::<4>(packet, HEADER - 4), packet) else {
        return Err(Malformed::Short);
    };
    if *op != 1 {
        return Err(Malformed::NotARequest);
    }
    if cookie != COOKIE {
        return Err(Malformed::Cookie);
    }
    if *hops > MAX_HOPS {
        return Err(Malformed::Hops);
    }
    let address_ok = match (*htype, *hlen) {
        (1, 6) => field::<6>(packet, 28).is_some_and(|mac| mac != [0; 6] && mac[0] & 1 == 0),
        (1, _) => false,
        (_, hlen) => hlen <= 16,
    };
    if address_ok { Ok(()) } else { Err(Malformed::HardwareAddress) }
}

/// Unset, or an address that one machine can have.
const fn reachable_or_unset(address: Ipv4Addr) -> bool {
    address.is_unspecified()
        || !(address.is_broadcast() || address.is_multicast() || address.is_loopback() || address.octets()[0] == 0)
}

fn field<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests;
