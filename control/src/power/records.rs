//! What a BMC has noted and what it measures: System Event Log and sensors.
//!
//! Records come from the BMC and are read by `ipmi-rs-core`; should a record
//! make its reader panic, that record alone is lost and said so.

use super::{Client, Error};
use ipmi_rs_core::connection::IpmiCommand;
use ipmi_rs_core::sensor_event::{GetSensorReading, ThresholdReading};
use ipmi_rs_core::storage::sdr::record::{IdentifiableSensor as _, Record};
use ipmi_rs_core::storage::sel::{Entry, GetSelInfo, SelInfo};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Entries of the event log that are read at most.
pub const SEL_LIMIT: usize = 4096;
/// Sensor records that are read at most.
pub const SDR_LIMIT: usize = 1024;

/// `Storage` network function.
const STORAGE: u8 = 0x0a;
const RESERVE_SDR: u8 = 0x22;
const GET_SDR: u8 = 0x23;
const GET_SEL_ENTRY: u8 = 0x43;
const CLEAR_SEL: u8 = 0x47;
const RESERVE_SEL: u8 = 0x42;
/// "No further record" (sections 31.5 and 33.12).
const LAST: u16 = 0xffff;
/// Bytes of a sensor record read at one time: what every BMC's buffer holds.
const PIECE: u8 = 16;
/// The header of a sensor record, bytes.
const SDR_HEADER: u8 = 5;

/// One entry of the System Event Log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub id: u16,
    /// Seconds since 1970 on the BMC's clock, or since its start where below 2^29.
    pub at_s: Option<u32>,
    /// What happened, in words.
    pub what: String,
}

/// One sensor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sensor {
    /// Its name.
    pub name: String,
    /// Value and unit; `None` where the BMC has none at the moment.
    pub value: Option<String>,
    /// `ok`, or which threshold is passed.
    pub state: String,
}

impl Client {
    /// Size and state of the event log.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sel_info(&mut self) -> Result<SelInfo, Error> {
        self.exec(GetSelInfo).await
    }

    /// The event log, oldest first, at most [`SEL_LIMIT`] entries.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn read_sel(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        let mut next = 0u16;
        while next != LAST && events.len() < SEL_LIMIT {
            let [low, high] = next.to_le_bytes();
            let answer = match self.raw(STORAGE, GET_SEL_ENTRY, vec![0, 0, low, high, 0, 0xff]).await {
                // An empty log says "no such record" for its first.
                Err(Error::Completion { code: 0xcb, .. }) if events.is_empty() => break,
                answer => answer?,
            };
            let Some((following, record)) = answer.split_first_chunk::<2>() else { break };
            let following = u16::from_le_bytes(*following);
            events.push(event(next, record));
            if following == next {
                break; // a BMC that points at itself would go on for ever
            }
            next = following;
        }
        Ok(events)
    }

    /// Empties the event log.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn clear_sel(&mut self) -> Result<(), Error> {
        let reservation = self.raw(STORAGE, RESERVE_SEL, Vec::new()).await?;
        let &[low, high, ..] = &reservation[..] else {
            return Err(Error::Answer { netfn: STORAGE, command: RESERVE_SEL });
        };
        self.raw(STORAGE, CLEAR_SEL, vec![low, high, b'C', b'L', b'R', 0xaa]).await.map(|_| ())
    }

    /// Every sensor with a reading of its own.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn read_sensors(&mut self) -> Result<Vec<Sensor>, Error> {
        let mut sensors = Vec::new();
        let (mut next, mut seen) = (0u16, 0);
        while next != LAST && seen < SDR_LIMIT {
            seen += 1;
            let (following, record) = self.sdr(next).await?;
            if let Ok(Ok(record)) = catch_unwind(AssertUnwindSafe(|| Record::parse(&record))) {
                sensors.extend(self.sensor(&record).await?);
            }
            if following == next {
                break;
            }
            next = following;
        }
        Ok(sensors)
    }

    /// One sensor record in pieces, and the number of the following one (section 33.12).
    async fn sdr(&mut self, id: u16) -> Result<(u16, Vec<u8>), Error> {
        let short = || Error::Answer { netfn: STORAGE, command: GET_SDR };
        let reservation = self.raw(STORAGE, RESERVE_SDR, Vec::new()).await?;
        let &[r0, r1, ..] = &reservation[..] else { return Err(short()) };
        let [i0, i1] = id.to_le_bytes();
        let head = self.raw(STORAGE, GET_SDR, vec![r0, r1, i0, i1, 0, SDR_HEADER]).await?;
        let (next, header) = head.split_first_chunk::<2>().ok_or_else(short)?;
        let mut record = header.to_vec();
        let end = u16::from(*header.get(4).ok_or_else(short)?) + u16::from(SDR_HEADER);
        while let Ok(at) = u8::try_from(record.len())
            && u16::from(at) < end
        {
            let want = u16::from(PIECE).min(end - u16::from(at));
            let piece = vec![r0, r1, i0, i1, at, u8::try_from(want).unwrap_or(PIECE)];
            let piece = self.raw(STORAGE, GET_SDR, piece).await?;
            let bytes = piece.get(2..).filter(|b| !b.is_empty()).ok_or_else(short)?;
            record.extend_from_slice(bytes);
        }
        Ok((u16::from_le_bytes(*next), record))
    }

    async fn sensor(&mut self, record: &Record) -> Result<Option<Sensor>, Error> {
        let Some(common) = record.common_data() else { return Ok(None) };
        let name = match (record.full_sensor(), record.compact_sensor()) {
            (Some(full), _) => full.id_string().to_string(),
            (_, Some(compact)) => compact.id_string().to_string(),
            _ => return Ok(None),
        };
        let name = protocol::dhcp::text::printable(name.as_bytes(), 32);
        let reading = match self.exec(GetSensorReading::for_sensor_key(&common.key)).await {
            Ok(reading) => ThresholdReading::from(&reading),
            // Behind another controller, or absent with its hardware.
            Err(Error::Completion { .. }) => return Ok(Some(Sensor { name, value: None, state: "no reading".into() })),
            Err(error) => return Err(error),
        };
        let raw = reading.reading.filter(|_| !reading.scanning_disabled);
        let value = match (record.full_sensor(), raw) {
            (Some(full), Some(raw)) => catch_unwind(AssertUnwindSafe(|| full.display_reading(raw))).ok().flatten(),
            (None, Some(raw)) => Some(format!("{raw:#04x}")),
            _ => None,
        };
        let state = match reading.threshold_status {
            _ if raw.is_none() => "no reading",
            Some(t) if record.full_sensor().is_some() => {
                if t.at_or_above_non_recoverable || t.at_or_below_lower_non_recoverable {
                    "beyond recovery"
                } else if t.at_or_above_upper_critical || t.at_or_below_lower_critical {
                    "critical"
                } else if t.at_or_above_upper_non_critical || t.at_or_below_lower_non_critical {
                    "warning"
                } else {
                    "ok"
                }
            }
            _ => "ok",
        };
        Ok(Some(Sensor { name, value, state: state.to_owned() }))
    }
}

/// Reads an entry; what cannot be read is shown as its bytes.
fn event(id: u16, record: &[u8]) -> Event {
    struct Words<'a>(&'a Entry);
    impl fmt::Display for Words<'_> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.event_description(out)
        }
    }
    let id = record.first_chunk::<2>().map_or(id, |b| u16::from_le_bytes(*b));
    let at = record.get(3..7).and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
    let read = catch_unwind(AssertUnwindSafe(|| {
        let entry = <ipmi_rs_core::storage::sel::GetSelEntry as IpmiCommand>::parse_success_response(
            &[&[0, 0], record].concat(),
        )
        .ok()?
        .entry;
        Some(match &entry {
            Entry::System { sensor_type, sensor_number, event_direction, .. } => (
                at,
                format!("sensor {sensor_number:#04x} (type {sensor_type:#04x}): {} {event_direction:?}", Words(&entry)),
            ),
            Entry::OemTimestamped { manufacturer_id, data, .. } => {
                (at, format!("OEM {manufacturer_id:#x}: {data:02x?}"))
            }
            Entry::OemNotTimestamped { data, .. } => (None, format!("OEM: {data:02x?}")),
        })
    }));
    let (at_s, what) = read.ok().flatten().unwrap_or_else(|| (None, format!("not readable: {record:02x?}")));
    Event { id, at_s, what: protocol::dhcp::text::printable(what.as_bytes(), 160) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_or_shown_as_bytes_and_never_panic() {
        let system = [7, 0, 2, 1, 0, 0, 0x60, 0x20, 0, 4, 1, 0x30, 1, 0x57, 0x40, 0x30];
        let read = event(7, &system);
        assert_eq!((read.id, read.at_s), (7, Some(0x6000_0001)));
        assert!(read.what.starts_with("sensor 0x30 (type 0x01)"), "{}", read.what);
        for kind in 0..=255u8 {
            for end in 0..system.len() {
                let mut record = system;
                record[2] = kind;
                record[12] = kind;
                let _ = event(1, &record[..end]);
                assert!(!event(1, &record).what.is_empty());
            }
        }
    }
}
