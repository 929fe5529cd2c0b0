//! The bytes of RMCP, of the IPMI session header and of an IPMI message
//! (IPMI 2.0 sections 13.1 to 13.8). Used by the client's session and by
//! simulators of BMCs.

use super::crypto::{Keys, same};
use alloc::vec::Vec;

/// No BMC may send us more, bytes.
pub const MAX_PACKET: usize = 1024;

/// Payload types of RMCP+ (table 13-16).
pub mod payload {
    /// A plain IPMI message.
    pub const IPMI: u8 = 0x00;
    /// Open Session Request; its answer is one higher, as for the RAKP messages.
    pub const OPEN_SESSION: u8 = 0x10;
    /// RAKP message 1; message 2 is one higher.
    pub const RAKP1: u8 = 0x12;
    /// RAKP message 3; message 4 is one higher.
    pub const RAKP3: u8 = 0x14;
    /// Encrypted and authenticated bits.
    pub const SEALED: u8 = 0xc0;
}

/// RMCP header: version 6, no acknowledge, class IPMI.
const RMCP: [u8; 4] = [6, 0, 0xff, 7];
/// Authentication type of an RMCP+ header.
const RMCP_PLUS: u8 = 6;

/// An RMCP+ packet outside of a session (session id and sequence zero).
pub fn setup_packet(payload_type: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = header(payload_type, 0, 0, body.len());
    packet.extend_from_slice(body);
    packet
}

/// Payload type and body of a packet that is outside of a session.
pub fn read_setup(packet: &[u8]) -> Option<(u8, &[u8])> {
    let (head, body) = packet.split_first_chunk::<16>()?;
    let [_, _, _, 7, RMCP_PLUS, kind, 0, 0, 0, 0, _, _, _, _, l0, l1] = *head else { return None };
    body.get(..usize::from(u16::from_le_bytes([l0, l1]))).map(|body| (kind, body))
}

/// An IPMI 1.5 packet without a session or authentication: how a client asks
/// for a channel's capabilities before it has a session.
pub fn sessionless(message: &[u8]) -> Vec<u8> {
    let mut packet = RMCP.to_vec();
    packet.extend([0; 9]);
    packet.push(u8::try_from(message.len()).unwrap_or(0));
    packet.extend_from_slice(message);
    packet
}

/// The message in a packet made by [`sessionless`].
pub fn read_sessionless(packet: &[u8]) -> Option<&[u8]> {
    let (head, body) = packet.split_first_chunk::<14>()?;
    (head[3] == 7 && head[4] == 0).then(|| body.get(..usize::from(head[13])))?
}

/// Seals a message into a packet of a session.
pub fn seal(keys: &Keys, session: u32, sequence: u32, iv: [u8; 16], message: &[u8]) -> Vec<u8> {
    let sealed = keys.encrypt(iv, message);
    let mut packet = header(payload::SEALED | payload::IPMI, session, sequence, sealed.len());
    packet.extend(sealed);
    // The authenticated part (from the authentication type on) is padded to a multiple of four.
    let pad = (4 - (packet.len() - 4 + 2) % 4) % 4;
    packet.extend(core::iter::repeat_n(0xff, pad));
    packet.extend([u8::try_from(pad).unwrap_or(0), 7]);
    let icv = keys.icv(packet.get(4..).unwrap_or_default());
    packet.extend(icv);
    packet
}

/// Opens a packet of session `session`: its sequence number and its message.
/// `None` for whatever does not carry the right check value.
pub fn unseal(keys: &Keys, session: u32, packet: &[u8]) -> Option<(u32, Vec<u8>)> {
    let (head, _) = packet.split_first_chunk::<16>()?;
    if head[3] != 7 || head[4] != RMCP_PLUS || head[5] != payload::SEALED | payload::IPMI {
        return None;
    }
    let [s0, s1, s2, s3, q0, q1, q2, q3, l0, l1] = *head.last_chunk::<10>()?;
    if u32::from_le_bytes([s0, s1, s2, s3]) != session {
        return None;
    }
    let split = packet.len().checked_sub(keys.suite().icv_len())?;
    let (body, icv) = packet.split_at_checked(split)?;
    if !same(&keys.icv(body.get(4..)?), icv) {
        return None;
    }
    let sealed = body.get(16..)?.get(..usize::from(u16::from_le_bytes([l0, l1])))?;
    Some((u32::from_le_bytes([q0, q1, q2, q3]), keys.decrypt(sealed)?))
}

/// A request message to the BMC (LUN 0) from software id 0x81.
pub fn request(netfn: u8, rq_seq: u8, command: u8, data: &[u8]) -> Vec<u8> {
    message([0x20, netfn << 2], [0x81, rq_seq << 2, command], data)
}

/// A BMC's answer: the completion code comes first in `data`.
pub fn response(netfn: u8, rq_seq: u8, command: u8, data: &[u8]) -> Vec<u8> {
    message([0x81, netfn << 2], [0x20, rq_seq << 2, command], data)
}

fn message(first: [u8; 2], second: [u8; 3], data: &[u8]) -> Vec<u8> {
    let mut m = first.to_vec();
    m.push(checksum(&first));
    m.extend(second);
    m.extend_from_slice(data);
    m.push(checksum(m.get(3..).unwrap_or_default()));
    m
}

/// An IPMI message taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Network function (odd in answers).
    pub netfn: u8,
    /// The requester's sequence number, 0 to 63.
    pub rq_seq: u8,
    /// Command.
    pub command: u8,
    /// What follows; in an answer the completion code is first.
    pub data: &'a [u8],
}

/// Takes a message apart; `None` where it is short or a checksum is wrong.
pub fn read_message(m: &[u8]) -> Option<Message<'_>> {
    let (first, rest) = m.split_first_chunk::<3>()?;
    if checksum(first) != 0 || checksum(rest) != 0 {
        return None;
    }
    let (&[_, seq, command], data) = rest.split_first_chunk::<3>()?;
    let (_, data) = data.split_last()?;
    Some(Message { netfn: first[1] >> 2, rq_seq: seq >> 2, command, data })
}

/// Two's complement of the sum: bytes and their checksum together give 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg()
}

fn header(payload_type: u8, session: u32, sequence: u32, len: usize) -> Vec<u8> {
    let mut h = RMCP.to_vec();
    h.extend([RMCP_PLUS, payload_type]);
    h.extend(session.to_le_bytes());
    h.extend(sequence.to_le_bytes());
    h.extend(u16::try_from(len).unwrap_or(0).to_le_bytes());
    h
}

#[cfg(test)]
mod tests {
    use super::super::crypto::Suite;
    use super::*;

    #[test]
    fn messages_round_trip_and_damage_is_noticed() {
        let m = request(6, 17, 0x01, &[1, 2]);
        assert_eq!(read_message(&m), Some(Message { netfn: 6, rq_seq: 17, command: 1, data: &[1, 2] }));
        for i in 0..m.len() {
            let mut bad = m.clone();
            bad[i] ^= 0x10;
            assert_eq!(read_message(&bad), None, "byte {i}");
            assert_eq!(read_message(&m[..i]), None);
        }
    }

    #[test]
    fn a_sealed_packet_opens_only_whole_and_for_its_session() {
        for suite in [Suite::S3, Suite::S17] {
            let keys = Keys::derive(suite, b"k", &[3; 16], &[4; 16], b"r");
            for len in 0..40usize {
                let message: Vec<u8> = (0..len).map(|b| b as u8).collect();
                let packet = seal(&keys, 7, 9, [5; 16], &message);
                assert_eq!((packet.len() - 4 - suite.icv_len()) % 4, 0);
                assert_eq!(unseal(&keys, 7, &packet), Some((9, message)));
                assert_eq!(unseal(&keys, 8, &packet), None);
                for i in 4..packet.len() {
                    let mut bad = packet.clone();
                    bad[i] ^= 1;
                    assert_eq!(unseal(&keys, 7, &bad), None, "byte {i} of {len}");
                    assert_eq!(unseal(&keys, 7, &packet[..i]), None);
                }
            }
        }
    }

    #[test]
    fn sessionless_and_setup_packets_round_trip() {
        let m = request(6, 0, 0x54, &[0x0e, 0, 0x80]);
        assert_eq!(read_sessionless(&sessionless(&m)), Some(&m[..]));
        assert_eq!(read_setup(&setup_packet(0x11, b"abc")), Some((0x11, &b"abc"[..])));
        assert_eq!(read_setup(&setup_packet(0x11, b"abc")[..17]), None);
    }
}
