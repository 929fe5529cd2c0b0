//! IPMI commands that `ipmi-rs-core` does not have, in its own form: what is
//! sent (`Into<Message>`) and how the answer reads (`parse_success_response`).

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Get Chassis Status (section 28.2).
pub struct GetChassisStatus;

/// What Get Chassis Status says, as far as we use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChassisStatus {
    /// Main power is on.
    pub on: bool,
    /// The power supply reports a fault.
    pub power_fault: bool,
    /// An intrusion was noticed.
    pub intrusion: bool,
    /// A drive reports a fault.
    pub drive_fault: bool,
    /// A fan reports a fault.
    pub fan_fault: bool,
}

impl From<GetChassisStatus> for Message {
    fn from(_: GetChassisStatus) -> Self {
        Self::new_request(NetFn::Chassis, 0x01, Vec::new())
    }
}

impl IpmiCommand for GetChassisStatus {
    type Output = ChassisStatus;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<ChassisStatus, NotEnoughData> {
        let &[power, _last_event, misc, ..] = data else { return Err(NotEnoughData) };
        Ok(ChassisStatus {
            on: power & 1 != 0,
            power_fault: power & 0b1_1000 != 0,
            intrusion: misc & 1 != 0,
            drive_fault: misc & 0b100 != 0,
            fan_fault: misc & 0b1000 != 0,
        })
    }
}

/// What to do to a machine's power (Chassis Control, section 28.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Power {
    /// Off, at once.
    Off = 0,
    /// On.
    On = 1,
    /// Off, a pause, on again. Refused by many BMCs while the machine is off.
    Cycle = 2,
    /// Hard reset.
    Reset = 3,
    /// Ask the operating system to shut down (ACPI).
    Soft = 5,
}

impl Power {
    /// Whether the machine is on when it is done.
    pub const fn leaves_on(self) -> bool {
        matches!(self, Self::On | Self::Cycle | Self::Reset)
    }
}

impl From<Power> for Message {
    fn from(power: Power) -> Self {
        Self::new_request(NetFn::Chassis, 0x02, vec![power as u8])
    }
}

impl IpmiCommand for Power {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

/// From where a machine starts (boot option parameter 5, section 28.13).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum BootDevice {
    /// As its firmware is set up.
    None = 0,
    /// The network.
    Pxe = 1,
    /// The first disk.
    Disk = 2,
    /// A CD or virtual CD.
    Cdrom = 5,
    /// The firmware's set-up.
    Setup = 6,
    /// UEFI HTTP boot, which Redfish has and IPMI has not.
    #[serde(rename = "http")]
    UefiHttp = 0x80,
}

impl FromStr for BootDevice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "pxe" => Ok(Self::Pxe),
            "disk" => Ok(Self::Disk),
            "cdrom" => Ok(Self::Cdrom),
            "setup" => Ok(Self::Setup),
            "http" => Ok(Self::UefiHttp),
            _ => Err("expected none, pxe, disk, cdrom, setup or http"),
        }
    }
}

/// The boot flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BootFlags {
    /// The BMC says that these flags count. It forgets them by itself where
    /// the machine does not start within 60 s (parameter 3).
    pub valid: bool,
    /// For every boot to come, not for the next one alone.
    pub persistent: bool,
    /// By UEFI, not by legacy BIOS.
    pub efi: bool,
    /// From where.
    pub device: Option<BootDevice>,
}

impl fmt::Display for BootFlags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match self.device {
            Some(BootDevice::None) => "firmware's own order",
            Some(BootDevice::Pxe) => "pxe",
            Some(BootDevice::Disk) => "disk",
            Some(BootDevice::Cdrom) => "cdrom",
            Some(BootDevice::Setup) => "setup",
            Some(BootDevice::UefiHttp) => "UEFI HTTP boot",
            None => "another device",
        };
        let lasting = if self.persistent { "every boot" } else { "next boot only" };
        let by = if self.efi { "UEFI" } else { "legacy BIOS" };
        let valid = if self.valid { "" } else { ", not marked valid by the BMC" };
        write!(out, "{device}, {lasting}, {by}{valid}")
    }
}

/// Set System Boot Options, any parameter (section 28.12).
pub struct SetBootOption {
    /// Parameter selector.
    pub parameter: u8,
    /// Its data.
    pub data: Vec<u8>,
}

impl SetBootOption {
    /// Parameter 0: begins (1) or ends (0) a set of changes.
    pub fn in_progress(begin: bool) -> Self {
        Self { parameter: 0, data: vec![u8::from(begin)] }
    }

    /// Parameter 4: marks the boot info as not yet handled by the BIOS (acknowledge bit of BIOS cleared).
    pub fn acknowledge() -> Self {
        Self { parameter: 4, data: vec![1, 1] }
    }

    /// Parameter 5: the boot flags.
    pub fn flags(flags: BootFlags) -> Self {
        let first = u8::from(flags.valid) << 7 | u8::from(flags.persistent) << 6 | u8::from(flags.efi) << 5;
        let device = flags.device.unwrap_or(BootDevice::None) as u8;
        Self { parameter: 5, data: vec![first, device << 2, 0, 0, 0] }
    }
}

impl From<SetBootOption> for Message {
    fn from(option: SetBootOption) -> Self {
        let mut data = vec![option.parameter];
        data.extend(option.data);
        Self::new_request(NetFn::Chassis, 0x08, data)
    }
}

impl IpmiCommand for SetBootOption {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

/// Get System Boot Options, parameter 5 (section 28.13).
pub struct GetBootFlags;

impl From<GetBootFlags> for Message {
    fn from(_: GetBootFlags) -> Self {
        Self::new_request(NetFn::Chassis, 0x09, vec![5, 0, 0])
    }
}

impl IpmiCommand for GetBootFlags {
    type Output = BootFlags;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<BootFlags, NotEnoughData> {
        let &[_version, _parameter, first, second, ..] = data else { return Err(NotEnoughData) };
        let device = match second >> 2 & 0x0f {
            0 => Some(BootDevice::None),
            1 => Some(BootDevice::Pxe),
            2 => Some(BootDevice::Disk),
            5 => Some(BootDevice::Cdrom),
            6 => Some(BootDevice::Setup),
            _ => None,
        };
        Ok(BootFlags { valid: first & 0x80 != 0, persistent: first & 0x40 != 0, efi: first & 0x20 != 0, device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_flags_read_back_as_they_were_written() {
        for device in [BootDevice::None, BootDevice::Pxe, BootDevice::Disk, BootDevice::Cdrom, BootDevice::Setup] {
            for bits in 0..8u8 {
                let flags = BootFlags {
                    valid: bits & 1 != 0,
                    persistent: bits & 2 != 0,
                    efi: bits & 4 != 0,
                    device: Some(device),
                };
                let message: Message = SetBootOption::flags(flags).into();
                let mut answer = vec![1];
                answer.extend(message.data());
                assert_eq!(GetBootFlags::parse_success_response(&answer), Ok(flags));
            }
        }
    }

    #[test]
    fn short_answers_are_refused() {
        assert!(GetChassisStatus::parse_success_response(&[1, 0]).is_err());
        assert!(GetBootFlags::parse_success_response(&[1, 5, 0]).is_err());
    }
}
