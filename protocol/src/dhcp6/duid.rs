//! Identifiers of clients and servers (DUID, RFC 8415 section 11, RFC 6355),
//! and what they tell of the machine.

use crate::id::{Mac, MachineId};
use core::net::Ipv6Addr;

const LINK_LAYER_TIME: u16 = 1;
const LINK_LAYER: u16 = 3;
const UUID: u16 = 4;
const ETHERNET: u16 = 1;

/// The Ethernet address in a DUID-LLT or DUID-LL; that of *one* NIC of the machine.
pub fn mac(duid: &[u8]) -> Option<Mac> {
    let (kind, rest) = number(duid)?;
    let (hardware, rest) = number(rest)?;
    let address = match kind {
        LINK_LAYER_TIME => rest.get(4..)?,
        LINK_LAYER => rest,
        _ => return None,
    };
    if hardware == ETHERNET { machine(address) } else { None }
}

/// The UUID in a DUID-UUID, its bytes as they stand.
pub fn uuid(duid: &[u8]) -> Option<[u8; 16]> {
    let (kind, rest) = number(duid)?;
    if kind == UUID { rest.try_into().ok() } else { None }
}

/// The machine's UUID out of its DUID-UUID. iPXE writes it as RFC 6355 has it;
/// UEFI (EDK2) as SMBIOS has it, three fields little-endian.
pub fn machine_id(duid: &[u8], ipxe: bool) -> Option<MachineId> {
    let bytes = uuid(duid)?;
    let id = if ipxe { MachineId(bytes) } else { MachineId::from_smbios_wire(bytes) };
    Some(id).filter(|id| !id.is_placeholder())
}

/// A DUID-UUID: 18 bytes.
pub fn from_uuid(uuid: [u8; 16]) -> [u8; 18] {
    let mut duid = [0; 18];
    let (kind, value) = duid.split_at_mut(2);
    kind.copy_from_slice(&UUID.to_be_bytes());
    value.copy_from_slice(&uuid);
    duid
}

/// The Ethernet address in a link-local address that was made of it (modified EUI-64, RFC 4291 appendix A).
pub fn mac_of_link_local(address: Ipv6Addr) -> Option<Mac> {
    let o = address.octets();
    let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] = o else { return None };
    machine(&[a ^ 2, b, c, d, e, f])
}

/// The Ethernet address in the option that relays add (RFC 6939 section 4).
pub fn mac_of_relay(option_79: &[u8]) -> Option<Mac> {
    let (hardware, address) = number(option_79)?;
    if hardware == ETHERNET { machine(address) } else { None }
}

/// An address that one machine can have.
fn machine(address: &[u8]) -> Option<Mac> {
    let mac = Mac(address.try_into().ok()?);
    Some(mac).filter(|mac| !mac.is_group() && mac.0 != [0; 6])
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u16::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn d45_the_mac_is_read_out_of_both_link_layer_duids() {
        assert_eq!(mac(&[0, 1, 0, 1, 1, 2, 3, 4, 0x52, 0x54, 0, 0x12, 0x34, 0x56]), Some(MAC));
        assert_eq!(mac(&[0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]), Some(MAC));
        for bad in [
            &[][..],
            &[0, 3],
            &[0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34],
            &[0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0],
            &[0, 3, 0, 32, 0x52, 0x54, 0, 0x12, 0x34, 0x56],
            &[0, 3, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0, 3, 0, 1, 0, 0, 0, 0, 0, 0],
            &[0, 2, 0, 0, 0, 9, 1, 2, 3, 4],
            &[0, 1, 0, 1, 1, 2],
        ] {
            assert_eq!(mac(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn d45_the_mac_is_read_out_of_a_link_local_address() {
        assert_eq!(mac_of_link_local("fe80::5054:ff:fe12:3456".parse().unwrap()), Some(MAC));
        for other in ["fe80::1", "2001:db8::5054:ff:fe12:3456", "fe80:0:0:1:5054:ff:fe12:3456", "::"] {
            assert_eq!(mac_of_link_local(other.parse().unwrap()), None, "{other}");
        }
        assert_eq!(mac_of_relay(&[0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]), Some(MAC));
        assert_eq!(mac_of_relay(&[0]), None);
    }

    #[test]
    fn d45_a_uuid_is_read_in_the_order_of_its_writer() {
        let duid = from_uuid(core::array::from_fn(|i| i as u8));
        let name = |ipxe| machine_id(&duid, ipxe).unwrap().to_string();
        assert_eq!(name(true), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(name(false), "03020100-0504-0706-0809-0a0b0c0d0e0f");
        assert_eq!(machine_id(&from_uuid([0; 16]), true), None, "a UUID that was never set names nobody");
        assert_eq!(machine_id(&duid[..17], true), None);
    }
}
