//! A packet of a client, bare or in the envelopes of relays (RFC 8415 sections 8, 9, 16 and 19).

use super::duid;
use super::options::{Items, code};
use super::{MAX_DUID, MAX_PACKET, MAX_RELAYS};
use crate::id::Mac;
use core::fmt;
use core::net::Ipv6Addr;

/// Message types (RFC 8415 section 7.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A client looks for servers.
    Solicit = 1,
    /// A server answers that.
    Advertise = 2,
    /// A client chooses a server.
    Request = 3,
    /// Are my addresses still right?
    Confirm = 4,
    /// A client wants its lease longer.
    Renew = 5,
    /// The same, of any server.
    Rebind = 6,
    /// A server answers anything else.
    Reply = 7,
    /// A client gives its addresses back.
    Release = 8,
    /// An address was in use.
    Decline = 9,
    /// A client wants options only.
    InformationRequest = 11,
}

impl Kind {
    /// A type that clients send; `None` for anything else.
    const fn of_client(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Solicit,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            8 => Self::Release,
            9 => Self::Decline,
            11 => Self::InformationRequest,
            _ => return None,
        })
    }

    /// A word for counters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Solicit => "solicit",
            Self::Advertise => "advertise",
            Self::Request => "request",
            Self::Confirm => "confirm",
            Self::Renew => "renew",
            Self::Rebind => "rebind",
            Self::Reply => "reply",
            Self::Release => "release",
            Self::Decline => "decline",
            Self::InformationRequest => "information_request",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Solicit => "SOLICIT",
            Self::Advertise => "ADVERTISE",
            Self::Request => "REQUEST",
            Self::Confirm => "CONFIRM",
            Self::Renew => "RENEW",
            Self::Rebind => "REBIND",
            Self::Reply => "REPLY",
            Self::Release => "RELEASE",
            Self::Decline => "DECLINE",
            Self::InformationRequest => "INFORMATION-REQUEST",
        })
    }
}

/// Why bytes are no packet of a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// Longer than [`MAX_PACKET`].
    Long,
    /// A type that clients do not send: another server's, or none at all.
    Kind,
    /// An option that runs past its end, or that has no place there.
    Option,
    /// An envelope without a packet in it.
    Empty,
    /// Through more than [`MAX_RELAYS`] relays.
    Relays,
    /// An identifier that is missing where it must be, that must not be there, or of no sensible length
    /// (RFC 8415 sections 11.1 and 16).
    Duid,
}

impl Malformed {
    /// A word for counters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Kind => "kind",
            Self::Option => "option",
            Self::Empty => "empty",
            Self::Relays => "relays",
            Self::Duid => "duid",
        }
    }
}

/// The envelope of one relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relay<'a> {
    /// How many relays the packet had passed before.
    pub hops: u8,
    /// An address on the client's link.
    pub link: Ipv6Addr,
    /// Whom the relay had it from.
    pub peer: Ipv6Addr,
    /// Goes back as it came.
    pub interface_id: Option<&'a [u8]>,
    /// The client's hardware address (RFC 6939).
    pub link_layer: Option<&'a [u8]>,
}

/// What the client itself said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub kind: Kind,
    /// Transaction id.
    pub xid: [u8; 3],
    /// Its identifier; an INFORMATION-REQUEST may have none.
    pub client_id: Option<&'a [u8]>,
    /// The server that it means.
    pub server_id: Option<&'a [u8]>,
    /// Codes of options that it wants (ORO), as they stand.
    pub requested: &'a [u8],
    /// User class, as it stands.
    pub user_class: &'a [u8],
    /// Vendor class, as it stands.
    pub vendor_class: &'a [u8],
    /// Architecture types, as they stand.
    pub architectures: &'a [u8],
    /// Network interface identifier, as it stands.
    pub network_interface: &'a [u8],
    /// Whether it wants addresses or prefixes.
    pub wants_address: bool,
}

/// A packet: a client's message and the envelopes around it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The message.
    pub message: Message<'a>,
    envelopes: [Option<Relay<'a>>; MAX_RELAYS],
}

impl<'a> Packet<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`]: to be dropped without an answer (RFC 8415 section 16).
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_PACKET {
            return Err(Malformed::Long);
        }
        let mut envelopes = [None; MAX_RELAYS];
        let mut inner = bytes;
        for slot in &mut envelopes {
            match inner.first() {
                Some(&RELAY_FORWARD) => {
                    let (relay, carried) = Relay::read(inner)?;
                    *slot = Some(relay);
                    inner = carried;
                }
                _ => return Ok(Self { message: Message::read(inner)?, envelopes }),
            }
        }
        if inner.first() == Some(&RELAY_FORWARD) {
            return Err(Malformed::Relays);
        }
        Ok(Self { message: Message::read(inner)?, envelopes })
    }

    /// The envelopes, the outermost (the relay that spoke to us) first.
    pub fn relays(&self) -> impl DoubleEndedIterator<Item = &Relay<'a>> {
        self.envelopes.iter().flatten()
    }

    /// Whether it came through a relay.
    pub const fn relayed(&self) -> bool {
        self.envelopes[0].is_some()
    }

    /// The NIC that asks. Its relay's word counts first, then its link-local
    /// address (which firmware makes of the NIC's own MAC), and last its
    /// identifier, which may name another NIC of the machine or none.
    /// `source` is who sent the packet to us.
    pub fn mac(&self, source: Ipv6Addr) -> Option<Mac> {
        let nearest = self.relays().next_back();
        let told = nearest.and_then(|relay| relay.link_layer).and_then(duid::mac_of_relay);
        let address = nearest.map_or(source, |relay| relay.peer);
        told.or_else(|| duid::mac_of_link_local(address)).or_else(|| duid::mac(self.message.client_id?))
    }
}

impl<'a> Relay<'a> {
    fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (head, options) = bytes.split_first_chunk::<RELAY_HEADER>().ok_or(Malformed::Short)?;
        let address = |at: usize| -> Result<Ipv6Addr, Malformed> {
            let octets: Option<[u8; 16]> = head.get(at..at + 16).and_then(|o| o.try_into().ok());
            octets.map(Ipv6Addr::from).ok_or(Malformed::Short)
        };
        let mut relay =
            Self { hops: head[1], link: address(2)?, peer: address(18)?, interface_id: None, link_layer: None };
        let mut carried = None;
        for item in Items::new(options) {
            let (code, value) = item.map_err(|_| Malformed::Option)?;
            match code {
                code::RELAY_MESSAGE => first(&mut carried, value),
                code::INTERFACE_ID => first(&mut relay.interface_id, value),
                code::LINK_LAYER_ADDRESS => first(&mut relay.link_layer, value),
                _ => {}
            }
        }
        Ok((relay, carried.ok_or(Malformed::Empty)?))
    }
}

impl<'a> Message<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (&[kind, a, b, c], options) = bytes.split_first_chunk().ok_or(Malformed::Short)?;
        let kind = Kind::of_client(kind).ok_or(Malformed::Kind)?;
        let (mut client_id, mut server_id) = (None, None);
        let (mut requested, mut user_class, mut vendor_class) = (None, None, None);
        let (mut architectures, mut network_interface) = (None, None);
        let mut wants_address = false;
        for item in Items::new(options) {
            let (code, value) = item.map_err(|_| Malformed::Option)?;
            match code {
                code::CLIENT_ID => first(&mut client_id, value),
                code::SERVER_ID => first(&mut server_id, value),
                code::OPTION_REQUEST => first(&mut requested, value),
                code::USER_CLASS => first(&mut user_class, value),
                code::VENDOR_CLASS => first(&mut vendor_class, value),
                code::ARCHITECTURE => first(&mut architectures, value),
                code::NETWORK_INTERFACE => first(&mut network_interface, value),
                code::IA_NA | code::IA_TA | code::IA_PD => wants_address = true,
                _ => {}
            }
        }
        let message = Self {
            kind,
            xid: [a, b, c],
            client_id,
            server_id,
            requested: requested.unwrap_or_default(),
            user_class: user_class.unwrap_or_default(),
            vendor_class: vendor_class.unwrap_or_default(),
            architectures: architectures.unwrap_or_default(),
            network_interface: network_interface.unwrap_or_default(),
            wants_address,
        };
        message.check().map(|()| message)
    }

    /// What belongs into which message (RFC 8415 section 16).
    fn check(&self) -> Result<(), Malformed> {
        let sensible = |duid: Option<&[u8]>| duid.is_none_or(|d| (3..=MAX_DUID).contains(&d.len()));
        let right = match self.kind {
            Kind::Solicit => self.client_id.is_some() && self.server_id.is_none(),
            Kind::Request => self.client_id.is_some() && self.server_id.is_some(),
            _ => true,
        };
        if self.kind == Kind::InformationRequest && self.wants_address {
            return Err(Malformed::Option);
        }
        if right && sensible(self.client_id) && sensible(self.server_id) { Ok(()) } else { Err(Malformed::Duid) }
    }

    /// Whether it wants an option.
    pub fn requests(&self, code: u16) -> bool {
        self.requested.chunks_exact(2).any(|pair| pair == code.to_be_bytes())
    }
}

/// Message type of what a relay sends to a server (RFC 8415 section 9.1).
const RELAY_FORWARD: u8 = 12;
/// Type, hops, link address, peer address.
const RELAY_HEADER: usize = 34;

/// Of options that may stand once, the first counts.
const fn first<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8]) {
    if slot.is_none() {
        *slot = Some(value);
    }
}

#[cfg(test)]
mod tests;
