//! A reply as bytes, through dhcproto behind a guard.
//!
//! What dhcproto 0.15 does not do is done here: options above 255 bytes are
//! refused (it would write a wrong length), the least important options are
//! left out when the client's packet would overflow, option 82 is put at the
//! end untouched, the packet is padded, and a panic inside it costs one reply.

use super::plan::Reply;
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType as WireType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};
use protocol::dhcp::options::code;
use protocol::dhcp::{Destination, HEADER, MAX_FILE, MIN_REPLY, MessageType, Request};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a reply could not be written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// What the client needs to make sense of it does not fit.
    #[error("the reply does not fit the {room} bytes that the client takes")]
    TooLong {
        /// UDP payload that it takes, bytes.
        room: usize,
    },
    /// dhcproto refused it, or panicked.
    #[error("the DHCP encoder refused the reply: {0}")]
    Encoder(String),
}

/// Options that a reply is useless without; all others may be left out.
const NEEDED: [u8; 9] = [
    code::SERVER_ID,
    code::SUBNET_MASK,
    code::LEASE_TIME,
    code::VENDOR_CLASS,
    code::BOOT_FILE,
    code::VENDOR_SPECIFIC,
    code::MACHINE_ID,
    code::CLIENT_ID,
    code::RELAY_AGENT,
];

/// The UDP payload of a reply: at least [`MIN_REPLY`] bytes, never more than the client takes.
///
/// # Errors
/// When it does not fit even without the options that can be spared.
pub fn encode(request: &Request, reply: &Reply) -> Result<Vec<u8>, EncodeError> {
    let options = fitting(request, reply)?;
    let mut bytes = catch_unwind(AssertUnwindSafe(|| write(request, reply, &options)))
        .unwrap_or_else(|_| Err("it panicked".into()))
        .map_err(EncodeError::Encoder)?;
    if bytes.len() < MIN_REPLY {
        bytes.resize(MIN_REPLY, 0);
    }
    Ok(bytes)
}

/// The options in their order of importance, as many as there is room for.
fn fitting<'a>(request: &Request, reply: &'a Reply) -> Result<Vec<&'a (u8, Vec<u8>)>, EncodeError> {
    // Option 53 and the end mark are always there.
    let room = request.room();
    let mut left = room.saturating_sub(HEADER + 3 + 1);
    let mut chosen = Vec::with_capacity(reply.options.len());
    let (needed, spare): (Vec<_>, Vec<_>) = reply.options.iter().partition(|(code, _)| NEEDED.contains(code));
    for (option, is_needed) in needed.into_iter().map(|o| (o, true)).chain(spare.into_iter().map(|o| (o, false))) {
        let cost = 2 + option.1.len();
        if option.1.len() <= 255 && cost <= left {
            left -= cost;
            chosen.push(option);
        } else if is_needed {
            return Err(EncodeError::TooLong { room });
        }
    }
    Ok(chosen)
}

fn write(request: &Request, reply: &Reply, options: &[&(u8, Vec<u8>)]) -> Result<Vec<u8>, String> {
    let mut message = Message::default();
    let hardware = request.chaddr.get(..usize::from(request.hlen)).ok_or("hardware address")?;
    // A relay must broadcast a refusal: the client has no address (RFC 2131 section 4.3.2).
    let relayed_nak = reply.kind == MessageType::Nak && matches!(reply.destination, Destination::Relay(_));
    let flags = if relayed_nak { request.flags | Request::BROADCAST } else { request.flags };
    message
        .set_opcode(Opcode::BootReply)
        .set_htype(HType::from(request.htype))
        .set_hops(0)
        .set_xid(request.xid)
        .set_secs(0)
        .set_flags(Flags::from(flags))
        .set_ciaddr(reply.ciaddr)
        .set_yiaddr(reply.yiaddr)
        .set_siaddr(reply.siaddr)
        .set_giaddr(request.giaddr)
        .set_chaddr(hardware);
    if !reply.sname.is_empty() && reply.sname.len() < 64 {
        message.set_sname_str(&reply.sname);
    }
    if !reply.file.is_empty() && reply.file.len() <= MAX_FILE {
        message.set_fname_str(&reply.file);
    }
    let list = message.opts_mut();
    list.insert(DhcpOption::MessageType(WireType::from(reply.kind as u8)));
    for (code, value) in options.iter().filter(|(c, _)| *c != code::RELAY_AGENT) {
        // Raw bytes for all: what is echoed must come back exactly as it came.
        list.insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::from(*code), value.clone())));
    }
    let mut bytes = Vec::with_capacity(512);
    message.encode(&mut Encoder::new(&mut bytes)).map_err(|e| e.to_string())?;
    if let Some((_, value)) = options.iter().find(|(c, _)| *c == code::RELAY_AGENT) {
        // Last before the end mark, byte for byte (RFC 3046 section 2.2). dhcproto would
        // take it apart, or write a raw one twice.
        if bytes.pop() != Some(code::END) {
            return Err("it wrote no end mark".into());
        }
        bytes.extend_from_slice(&[code::RELAY_AGENT, u8::try_from(value.len()).map_err(|e| e.to_string())?]);
        bytes.extend_from_slice(value);
        bytes.push(code::END);
    }
    Ok(bytes)
}
