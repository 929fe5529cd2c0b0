//! What Redfish resources say, as pure functions of their JSON. Whatever is
//! missing or of another type counts as not said.

use crate::objects::parse_rfc3339;
use crate::power::{BootDevice, BootFlags, Event, Power, Sensor, SystemInfo};
use protocol::dhcp::text::printable;
use protocol::id::MachineId;
use serde_json::{Value, json};

/// What must match for a BMC to belong to a machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Its Server's name.
    pub uuid: String,
    /// Serial number, as its agent reported.
    pub serial: String,
    /// Network cards, as its agent reported.
    pub macs: Vec<String>,
}

/// Whether a machine is the one that a BMC speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Belongs {
    /// UUID, serial number or a network card is the same.
    Yes,
    /// Nothing is the same, and more than the UUID differs.
    No,
    /// One side tells too little.
    Unknown,
}

/// A text of a resource, made harmless.
pub fn word(resource: &Value, field: &str) -> String {
    let text = resource.get(field).and_then(Value::as_str).unwrap_or_default();
    printable(text.trim().as_bytes(), 64)
}

/// The `@odata.id` of a link.
pub fn link(resource: &Value, field: &str) -> Option<String> {
    resource.get(field)?.get("@odata.id")?.as_str().map(str::to_owned)
}

/// The links of a collection or of an array of links, at most `most`.
pub fn links(array: &Value, most: usize) -> Vec<String> {
    let all = array.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|m| m.get("@odata.id")?.as_str().map(str::to_owned)).take(most).collect()
}

/// Whether the machine is on. While it changes it is what it still is.
pub fn is_on(system: &Value) -> Option<bool> {
    match system.get("PowerState")?.as_str()? {
        "On" | "PoweringOff" | "Paused" => Some(true),
        "Off" | "PoweringOn" => Some(false),
        _ => None,
    }
}

/// What a health field says: a fault where it is not OK.
pub fn is_faulty(resource: &Value, field: &str) -> bool {
    let health =
        resource.get(field).and_then(|r| r.get("Status")).and_then(|s| s.get("HealthRollup").or(s.get("Health")));
    health.and_then(Value::as_str).is_some_and(|h| h == "Critical")
}

/// The machine as the BMC tells of it, without its network cards.
pub fn system_info(system: &Value) -> SystemInfo {
    SystemInfo {
        uuid: word(system, "UUID").to_ascii_lowercase(),
        serial: word(system, "SerialNumber"),
        manufacturer: word(system, "Manufacturer"),
        model: word(system, "Model"),
        macs: Vec::new(),
    }
}

/// Whether the machine that a BMC tells of is the one that is meant. Firmware and BMC may write the
/// first three fields of a UUID in either byte order.
pub fn belongs(machine: &Machine, system: &SystemInfo) -> Belongs {
    // "Default string", "To be filled by O.E.M.": what has a space in it is no serial number.
    let known = |a: &str, b: &str| [a, b].iter().all(|s| !s.is_empty() && !s.contains(' '));
    let uuids = |text: &str| text.parse::<MachineId>().ok().filter(|id| !id.is_placeholder());
    let same_uuid = match (uuids(&machine.uuid), uuids(&system.uuid)) {
        (Some(ours), Some(theirs)) => Some(ours == theirs || MachineId::from_smbios_wire(ours.0) == theirs),
        _ => None,
    };
    let same_serial =
        known(&machine.serial, &system.serial).then(|| machine.serial.eq_ignore_ascii_case(&system.serial));
    let same_mac = (!machine.macs.is_empty() && !system.macs.is_empty())
        .then(|| machine.macs.iter().any(|a| system.macs.iter().any(|b| a.eq_ignore_ascii_case(b))));
    let all = [same_uuid, same_serial, same_mac];
    if all.contains(&Some(true)) {
        Belongs::Yes
    } else if same_uuid != Some(true) && [same_serial, same_mac].contains(&Some(false)) {
        Belongs::No
    } else {
        Belongs::Unknown
    }
}

/// The reset types that do what is wanted, in their order; nothing where this BMC has none for it.
/// Without a list of its own a BMC is taken to have what nearly all have.
pub fn resets(wanted: Power, allowed: &[String]) -> Option<Vec<&'static str>> {
    const USUAL: [&str; 4] = ["On", "ForceOff", "GracefulShutdown", "ForceRestart"];
    let has = |word: &str| if allowed.is_empty() { USUAL.contains(&word) } else { allowed.iter().any(|a| a == word) };
    let first = |words: &[&'static str]| words.iter().copied().find(|w| has(w)).map(|w| vec![w]);
    match wanted {
        Power::On => first(&["On", "ForceOn", "PushPowerButton"]),
        Power::Off => first(&["ForceOff"]),
        Power::Soft => first(&["GracefulShutdown"]),
        Power::Reset => first(&["ForceRestart", "PowerCycle"]),
        Power::Cycle => first(&["PowerCycle"])
            .or_else(|| (has("ForceOff") && has("On")).then(|| vec!["ForceOff", "On"]))
            .or_else(|| first(&["ForceRestart"])),
    }
}

/// The values of an annotated list, such as `ResetType@Redfish.AllowableValues`.
pub fn allowable(resource: &Value, field: &str) -> Vec<String> {
    strings(resource.get(format!("{field}@Redfish.AllowableValues").as_str()).unwrap_or(&Value::Null))
}

/// The values of a parameter in an `ActionInfo`.
pub fn action_info(info: &Value, parameter: &str) -> Vec<String> {
    let parameters = info.get("Parameters").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = parameters.iter().find(|p| p.get("Name").and_then(Value::as_str) == Some(parameter));
    found.map(|p| strings(p.get("AllowableValues").unwrap_or(&Value::Null))).unwrap_or_default()
}

fn strings(array: &Value) -> Vec<String> {
    let all = array.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(Value::as_str).take(64).map(str::to_owned).collect()
}

/// The boot override as it stands.
pub fn boot_flags(system: &Value) -> BootFlags {
    let boot = system.get("Boot").unwrap_or(&Value::Null);
    let is = |field: &str, value: &str| boot.get(field).and_then(Value::as_str) == Some(value);
    let device = match boot.get("BootSourceOverrideTarget").and_then(Value::as_str) {
        Some("None") => Some(BootDevice::None),
        Some("Pxe") => Some(BootDevice::Pxe),
        Some("Hdd") => Some(BootDevice::Disk),
        Some("Cd") => Some(BootDevice::Cdrom),
        Some("BiosSetup") => Some(BootDevice::Setup),
        Some("UefiHttp") => Some(BootDevice::UefiHttp),
        _ => None,
    };
    BootFlags {
        valid: !is("BootSourceOverrideEnabled", "Disabled"),
        persistent: is("BootSourceOverrideEnabled", "Continuous"),
        efi: !is("BootSourceOverrideMode", "Legacy"),
        device,
    }
}

/// The PATCH that sets a boot override on this system.
///
/// # Errors
/// A sentence where the BMC lists its targets, and this is not among them.
pub fn boot_patch(system: &Value, flags: BootFlags) -> Result<Value, String> {
    let boot = system.get("Boot").unwrap_or(&Value::Null);
    let target = match flags.device.unwrap_or(BootDevice::None) {
        BootDevice::None => "None",
        BootDevice::Pxe => "Pxe",
        BootDevice::Disk => "Hdd",
        BootDevice::Cdrom => "Cd",
        BootDevice::Setup => "BiosSetup",
        BootDevice::UefiHttp => "UefiHttp",
    };
    let allowed = allowable(boot, "BootSourceOverrideTarget");
    if !allowed.is_empty() && !allowed.iter().any(|a| a == target) {
        let list = printable(allowed.join(", ").as_bytes(), 160);
        return Err(format!("this BMC cannot boot from {target}; it has {list}"));
    }
    let enabled = match (target, flags.persistent) {
        ("None", _) => "Disabled",
        (_, true) => "Continuous",
        (_, false) => "Once",
    };
    let mut change = json!({ "BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled });
    // A BMC that does not have the mode refuses to be told it.
    let modes = allowable(boot, "BootSourceOverrideMode");
    let mode = if flags.efi { "UEFI" } else { "Legacy" };
    let has_mode = boot.get("BootSourceOverrideMode").is_some_and(Value::is_string);
    if has_mode && target != "None" && (modes.is_empty() || modes.iter().any(|m| m == mode)) {
        change["BootSourceOverrideMode"] = mode.into();
    }
    Ok(json!({ "Boot": change }))
}

/// An entry of a log.
pub fn event(number: usize, entry: &Value) -> Event {
    let id = entry.get("Id").and_then(|id| id.as_str().map_or_else(|| id.as_u64(), |text| text.parse().ok()));
    let id = id.and_then(|id| u16::try_from(id).ok()).or_else(|| u16::try_from(number).ok()).unwrap_or(u16::MAX);
    let created = entry.get("Created").and_then(Value::as_str).and_then(parse_rfc3339);
    let at_s = created.and_then(|ms| u32::try_from(ms / 1000).ok());
    let severity = word(entry, "Severity");
    let message = entry.get("Message").and_then(Value::as_str).unwrap_or("no message");
    let what =
        if severity.is_empty() || severity == "OK" { message.to_owned() } else { format!("{severity}: {message}") };
    Event { id, at_s, what: printable(what.as_bytes(), 160) }
}

/// The sensors of `Thermal` and `Power` resources.
pub fn sensors(resource: &Value, most: usize) -> Vec<Sensor> {
    const LISTS: [(&str, &[&str], &str); 5] = [
        ("Temperatures", &["ReadingCelsius"], "\u{b0}C"),
        ("Fans", &["Reading", "ReadingRPM"], ""),
        ("Voltages", &["ReadingVolts"], "V"),
        ("PowerSupplies", &["LastPowerOutputWatts", "PowerInputWatts"], "W"),
        ("PowerControl", &["PowerConsumedWatts"], "W"),
    ];
    let mut found = Vec::new();
    for (list, fields, unit) in LISTS {
        let entries = resource.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for entry in entries.iter().take(most) {
            found.push(sensor(entry, fields, unit));
        }
    }
    found.truncate(most);
    found
}

/// One sensor: an entry of a list, or a `Sensor` resource.
pub fn sensor(entry: &Value, fields: &[&str], unit: &str) -> Sensor {
    let name = ["Name", "FanName", "MemberId", "Id"].map(|f| word(entry, f)).into_iter().find(|n| !n.is_empty());
    let reading = fields.iter().find_map(|f| entry.get(*f)).and_then(Value::as_f64);
    let own = ["ReadingUnits"].map(|f| word(entry, f)).into_iter().find(|u| !u.is_empty());
    let unit = own.unwrap_or_else(|| unit.to_owned());
    let status = entry.get("Status").unwrap_or(&Value::Null);
    let absent = word(status, "State") == "Absent";
    let state = match word(status, "Health").as_str() {
        _ if absent || reading.is_none() => "no reading",
        "Critical" => "critical",
        "Warning" => "warning",
        _ => "ok",
    };
    let value = reading.filter(|_| !absent).map(|r| format!("{r} {unit}").trim_end().to_owned());
    Sensor { name: name.unwrap_or_else(|| "unnamed".into()), value, state: state.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";

    fn machine(uuid: &str, serial: &str, macs: &[&str]) -> (Machine, SystemInfo) {
        let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
        let system = SystemInfo {
            uuid: uuid.to_owned(),
            serial: serial.to_owned(),
            macs: macs.clone(),
            ..SystemInfo::default()
        };
        (Machine { uuid: uuid.to_owned(), serial: serial.to_owned(), macs }, system)
    }

    #[test]
    fn a_bmc_belongs_to_its_machine_and_not_to_another() {
        let ours = machine(UUID, "SN1", &["52:54:00:00:00:01"]).0;
        let other = "11111111-2222-4333-8444-555555555555";
        let nil = "00000000-0000-0000-0000-000000000000";
        let table: [(&str, &str, &[&str], Belongs); 10] = [
            (UUID, "SN1", &[], Belongs::Yes),
            ("2a4e0c6f-1d0b-5e4c-8f90-123456789abc", "", &[], Belongs::Yes),
            (other, "sn1", &[], Belongs::Yes),
            (other, "SN2", &["52:54:00:00:00:01"], Belongs::Yes),
            (other, "SN2", &[], Belongs::No),
            (other, "", &["52:54:00:00:00:02"], Belongs::No),
            (nil, "SN2", &[], Belongs::No),
            (other, "", &[], Belongs::Unknown),
            (other, "Default string", &[], Belongs::Unknown),
            ("", "", &[], Belongs::Unknown),
        ];
        for (uuid, serial, macs, expected) in table {
            let theirs = machine(uuid, serial, macs).1;
            assert_eq!(belongs(&ours, &theirs), expected, "{uuid} {serial} {macs:?}");
        }
    }

    #[test]
    fn reset_types_are_taken_from_what_the_bmc_has() {
        let has = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let usual = has(&[]);
        assert_eq!(resets(Power::On, &usual), Some(vec!["On"]));
        assert_eq!(resets(Power::Cycle, &usual), Some(vec!["ForceOff", "On"]));
        assert_eq!(resets(Power::Cycle, &has(&["PowerCycle", "On", "ForceOff"])), Some(vec!["PowerCycle"]));
        assert_eq!(resets(Power::Reset, &has(&["PowerCycle"])), Some(vec!["PowerCycle"]));
        assert_eq!(resets(Power::On, &has(&["ForceOn", "ForceOff"])), Some(vec!["ForceOn"]));
        assert_eq!(resets(Power::Off, &has(&["On", "GracefulShutdown"])), None, "a request is no order");
        assert_eq!(resets(Power::Soft, &has(&["On"])), None);
    }

    #[test]
    fn boot_overrides_name_only_what_the_bmc_knows() {
        let flags = |device| BootFlags { valid: true, persistent: false, efi: true, device: Some(device) };
        let bare = json!({ "Boot": {} });
        let patch = boot_patch(&bare, flags(BootDevice::Pxe)).unwrap();
        assert_eq!(patch["Boot"]["BootSourceOverrideTarget"], "Pxe");
        assert_eq!(patch["Boot"]["BootSourceOverrideEnabled"], "Once");
        assert!(patch["Boot"].get("BootSourceOverrideMode").is_none());
        let full = json!({ "Boot": {
            "BootSourceOverrideMode": "Legacy",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
        }});
        let patch = boot_patch(&full, BootFlags { persistent: true, ..flags(BootDevice::Disk) }).unwrap();
        assert_eq!(patch["Boot"]["BootSourceOverrideMode"], "UEFI");
        assert_eq!(patch["Boot"]["BootSourceOverrideEnabled"], "Continuous");
        let refused = boot_patch(&full, flags(BootDevice::UefiHttp)).unwrap_err();
        assert!(refused.contains("UefiHttp") && refused.contains("None, Pxe, Hdd"), "{refused}");
    }

    #[test]
    fn overrides_read_back_as_they_were_written() {
        for device in [BootDevice::Pxe, BootDevice::Disk, BootDevice::Cdrom, BootDevice::Setup, BootDevice::UefiHttp] {
            for (persistent, efi) in [(false, false), (false, true), (true, false), (true, true)] {
                let flags = BootFlags { valid: true, persistent, efi, device: Some(device) };
                let system = json!({ "Boot": { "BootSourceOverrideMode": "UEFI" } });
                assert_eq!(boot_flags(&boot_patch(&system, flags).unwrap()), flags);
            }
        }
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 32, 4, |inner| {
            let names = prop_oneof![
                Just("Boot".to_owned()),
                Just("Temperatures".to_owned()),
                Just("PowerState".to_owned()),
                Just("@odata.id".to_owned()),
                Just("Id".to_owned()),
                "[A-Z][a-z]{0,6}",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((names, inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_makes_a_reader_panic_or_talk_without_end(value in anything()) {
            let _ = (is_on(&value), boot_flags(&value), link(&value, "Boot"), links(&value, 4));
            let _ = (action_info(&value, "ResetType"), allowable(&value, "Boot"), is_faulty(&value, "Boot"));
            let all = sensors(&value, 3);
            prop_assert!(all.len() <= 3);
            prop_assert!(event(0, &value).what.len() <= 700);
            let info = system_info(&value);
            prop_assert!(info.model.chars().all(|c| !c.is_control()));
        }
    }
}
