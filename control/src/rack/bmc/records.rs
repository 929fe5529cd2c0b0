//! The BMC's event log and its one sensor, as IPMI has them (sections 31, 33 and 35).

use super::{INLET, State};

/// Number of the one sensor.
const SENSOR: u8 = 0x30;
/// The full sensor record (43.1) of a temperature in degrees Celsius, named `Inlet`.
const SDR: [u8; 54] = [
    0x01, 0x00, 0x51, 0x01, 0x31, // header: id 1, version 1.5, full sensor, 49 bytes follow
    0x20, 0x00, SENSOR, 0x07, 0x01, 0x7f, 0x68, 0x01, 0x01, 0x80, 0x0a, 0x80, 0x0a, 0x3f, 0x3f, 0x00, 0x01, 0x00, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x14, 0x28, 0x0a, 0xff, 0x00, 0x50, 0x46, 0x3c, 0x00, 0x00, 0x00, 0x02,
    0x02, 0x00, 0x00, 0x00, 0xc6, b'I', b'n', b'l', b'e', b't', b' ',
];

/// The commands of storage and sensors; `None` is not one of them.
pub(super) fn command(state: &mut State, netfn: u8, command: u8, data: &[u8]) -> Option<Vec<u8>> {
    let count = u16::try_from(state.events.len()).unwrap_or(u16::MAX);
    Some(match (netfn, command, data) {
        // Get SDR Repository Info, Reserve, Get SDR.
        (0x0a, 0x20, _) => vec![0, 0x51, 1, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        (0x0a, 0x22 | 0x42, _) => vec![0, 1, 0],
        (0x0a, 0x23, [_, _, _, _, from, length, ..]) => {
            let rest = SDR.get(usize::from(*from)..).unwrap_or_default();
            let piece = if *length == 0xff { rest } else { &rest[..rest.len().min(usize::from(*length))] };
            [&[0, 0xff, 0xff], piece].concat()
        }
        // Get SEL Info, Get SEL Entry, Add, Clear, Get SEL Time.
        (0x0a, 0x40, _) => {
            let [low, high] = count.to_le_bytes();
            vec![0, 0x51, low, high, 0xff, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, 2]
        }
        (0x0a, 0x43, [_, _, low, high, ..]) => {
            let asked = u16::from_le_bytes([*low, *high]);
            let id = match asked {
                0 => 1,
                0xffff => count,
                id => id,
            };
            let Some(at_s) = usize::from(id).checked_sub(1).and_then(|i| state.events.get(i)) else {
                return Some(vec![0xcb]);
            };
            let next = if id == count { 0xffff } else { id + 1 };
            let mut answer = vec![0];
            answer.extend(next.to_le_bytes());
            answer.extend(id.to_le_bytes());
            answer.push(2);
            answer.extend(at_s.to_le_bytes());
            // From the BMC, event format 4: temperature, upper critical going high.
            answer.extend([0x20, 0, 4, 1, SENSOR, 1, 0x59, 0, 0]);
            answer
        }
        (0x0a, 0x47, [_, _, b'C', b'L', b'R', ..]) => {
            state.events.clear();
            vec![0, 1]
        }
        (0x0a, 0x48, _) => vec![0, 0, 0, 0, 0x60],
        // Get Sensor Reading, Get Sensor Thresholds.
        (0x04, 0x2d, [SENSOR, ..]) => vec![0, INLET, 0xc0, 0xc0],
        (0x04, 0x27, [SENSOR, ..]) => vec![0, 0x3f, 10, 5, 0, 60, 70, 80],
        (0x04, 0x2d | 0x27, _) => vec![0xcb],
        _ => return None,
    })
}
