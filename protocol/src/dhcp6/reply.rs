//! An answer as bytes, in the envelopes that the question came in.

use super::options::code;
use super::packet::{Kind, Packet, Relay};
use super::{MAX_REPLY, MAX_SERVER_DUID};
use alloc::vec::Vec;
use core::fmt;

/// An ADVERTISE or REPLY that gives a boot file and nothing else: no address,
/// no preference, no status. Firmware takes it for what it is only then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// ADVERTISE or REPLY.
    pub kind: Kind,
    /// Our identifier, at most [`MAX_SERVER_DUID`] bytes.
    pub server_id: &'a [u8],
    /// Boot file URL (59).
    pub url: &'a str,
    /// Boot file parameters (60); none leaves the option out.
    pub params: &'a [&'a str],
    /// Vendor class (16): enterprise number and text. UEFI takes an answer
    /// without an address for a boot server's only if this says so.
    pub class: Option<(u32, &'a str)>,
}

/// The answer does not fit into [`MAX_REPLY`] bytes, or our identifier is longer than firmware can bear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the answer does not fit into {MAX_REPLY} bytes; shorten the URLs of dhcp.v6")
    }
}

impl core::error::Error for TooLong {}

impl Reply<'_> {
    /// The UDP payload that answers `to`.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn encode(&self, to: &Packet<'_>) -> Result<Vec<u8>, TooLong> {
        if self.server_id.len() > MAX_SERVER_DUID {
            return Err(TooLong);
        }
        let mut bytes = Vec::with_capacity(256);
        let mut carried = Vec::new();
        for relay in to.relays() {
            open(&mut bytes, relay)?;
            carried.push(bytes.len());
        }
        let [a, b, c] = to.message.xid;
        bytes.extend_from_slice(&[self.kind as u8, a, b, c]);
        if let Some(id) = to.message.client_id {
            option(&mut bytes, code::CLIENT_ID, &[id])?;
        }
        option(&mut bytes, code::SERVER_ID, &[self.server_id])?;
        option(&mut bytes, code::BOOT_FILE_URL, &[self.url.as_bytes()])?;
        if !self.params.is_empty() {
            let mut list = Vec::new();
            for param in self.params {
                list.extend_from_slice(&length(param.len())?);
                list.extend_from_slice(param.as_bytes());
            }
            option(&mut bytes, code::BOOT_FILE_PARAM, &[&list])?;
        }
        if let Some((enterprise, text)) = self.class {
            let parts = [&enterprise.to_be_bytes()[..], &length(text.len())?, text.as_bytes()];
            option(&mut bytes, code::VENDOR_CLASS, &parts)?;
        }
        for at in carried {
            // What an envelope carries is its last option: only now its length is known.
            let known = length(bytes.len() - at)?;
            bytes.get_mut(at - 2..at).ok_or(TooLong)?.copy_from_slice(&known);
        }
        if bytes.len() > MAX_REPLY { Err(TooLong) } else { Ok(bytes) }
    }
}

/// Message type of what goes back to a relay (RFC 8415 section 9.2).
const RELAY_REPLY: u8 = 13;

/// Begins the envelope of one relay, up to the packet that it carries: all of
/// it goes back as it came (RFC 8415 section 19.3).
fn open(bytes: &mut Vec<u8>, relay: &Relay<'_>) -> Result<(), TooLong> {
    bytes.extend_from_slice(&[RELAY_REPLY, relay.hops]);
    bytes.extend_from_slice(&relay.link.octets());
    bytes.extend_from_slice(&relay.peer.octets());
    if let Some(id) = relay.interface_id {
        option(bytes, code::INTERFACE_ID, &[id])?;
    }
    option(bytes, code::RELAY_MESSAGE, &[])
}

fn option(bytes: &mut Vec<u8>, code: u16, parts: &[&[u8]]) -> Result<(), TooLong> {
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(&length(parts.iter().map(|p| p.len()).sum())?);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Ok(())
}

fn length(length: usize) -> Result<[u8; 2], TooLong> {
    u16::try_from(length).map(u16::to_be_bytes).map_err(|_| TooLong)
}

#[cfg(test)]
mod tests;
