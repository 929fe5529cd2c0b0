//! Power: sessions with BMCs, and what is asked of them.
//!
//! A BMC's answer is a claim. After every write the state is read back, and
//! whoever needs certainty waits for the machine's own packets.

mod commands;
mod ipmi;
mod records;

pub use commands::{BootDevice, BootFlags, ChassisStatus, Power};
pub use ipmi::{Client, OPERATION_LIMIT};
pub use records::{Event, Sensor};

use commands::{GetBootFlags, GetChassisStatus, SetBootOption};
use ipmi_rs_core::app::GetDeviceId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The UDP port of RMCP (IPMI 2.0 section 13.1.2).
pub const IPMI_PORT: u16 = 623;
/// How long a machine may take to show the power state that it was told to have.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How often the power state is read meanwhile.
const SETTLE_POLL: Duration = Duration::from_secs(1);

/// Why something was not done.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The socket.
    #[error("cannot talk to the BMC: {0}")]
    Io(#[from] std::io::Error),
    /// The session.
    #[error("{0}")]
    Session(protocol::ipmi::Error),
    /// The BMC refused a command.
    #[error("the BMC refused command {netfn:#04x}/{command:#04x}: {}", completion(*.code))]
    Completion {
        /// Network function.
        netfn: u8,
        /// Command.
        command: u8,
        /// Completion code (table 5-2).
        code: u8,
    },
    /// The answer could not be read.
    #[error("the BMC's answer to command {netfn:#04x}/{command:#04x} is too short or not valid")]
    Answer {
        /// Network function.
        netfn: u8,
        /// Command.
        command: u8,
    },
    /// The session was closed meanwhile.
    #[error("the session with the BMC is closed")]
    Closed,
    /// [`OPERATION_LIMIT`] passed.
    #[error("the BMC answers, but did not finish within {} s", OPERATION_LIMIT.as_secs())]
    Limit,
    /// What was written did not read back.
    #[error("the BMC accepted the boot device but reads back {0}; it may not support it")]
    BootNotKept(BootFlags),
    /// The machine never showed the power state.
    #[error("the BMC accepted the command, but {} s later still says that the machine is {}", SETTLE_LIMIT.as_secs(), if *.0 { "on" } else { "off" })]
    PowerNotReached(bool),
}

impl From<protocol::ipmi::Error> for Error {
    fn from(error: protocol::ipmi::Error) -> Self {
        Self::Session(error)
    }
}

/// Completion codes in words (table 5-2).
fn completion(code: u8) -> String {
    let words = match code {
        0xc0 => "busy, try again",
        0xc1 => "command not known to this BMC",
        0xc3 => "it timed out",
        0xc9 => "a parameter is out of range",
        0xcb => "no such sensor, record or file",
        0xcc => "invalid data in the request",
        0xd4 => "the user's privilege level is too low",
        0xd5 => "not possible in the present state",
        _ => return format!("completion code {code:#04x}"),
    };
    format!("{words} (completion code {code:#04x})")
}

/// Which BMC this is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BmcInfo {
    /// IANA enterprise number of the manufacturer.
    pub manufacturer_id: u32,
    /// The manufacturer's product number.
    pub product_id: u16,
    /// Firmware revision.
    pub firmware: String,
    /// IPMI version.
    pub ipmi: String,
    /// Device id and revision.
    pub device: String,
}

impl Client {
    /// Which BMC this is (Get Device ID).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn info(&mut self) -> Result<BmcInfo, Error> {
        let id = self.exec(GetDeviceId).await?;
        Ok(BmcInfo {
            manufacturer_id: id.manufacturer_id,
            product_id: id.product_id,
            firmware: format!("{}.{:02}", id.major_fw_revision, id.minor_fw_revision),
            ipmi: format!("{}.{}", id.major_version, id.minor_version),
            device: format!("{:#04x} rev {}", id.device_id, id.device_revision),
        })
    }

    /// The chassis status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&mut self) -> Result<ChassisStatus, Error> {
        self.exec(GetChassisStatus).await
    }

    /// Does something to the machine's power and waits until the BMC shows it.
    ///
    /// `On` and `Off` do nothing where the machine is so already; `Cycle` and
    /// `Reset` of a machine that is off switch it on, as operators mean it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn power(&mut self, wanted: Power) -> Result<ChassisStatus, Error> {
        let before = self.status().await?;
        let action = match (wanted, before.on) {
            (Power::On, true) | (Power::Off | Power::Soft, false) => return Ok(before),
            (Power::Cycle | Power::Reset, false) => Power::On,
            (other, _) => other,
        };
        self.exec(action).await?;
        let on = matches!(action, Power::On | Power::Cycle | Power::Reset);
        let deadline = tokio::time::Instant::now() + SETTLE_LIMIT;
        loop {
            let status = self.status().await?;
            if status.on == on || tokio::time::Instant::now() >= deadline {
                return if status.on == on { Ok(status) } else { Err(Error::PowerNotReached(status.on)) };
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// The boot flags as the BMC has them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn boot_flags(&mut self) -> Result<BootFlags, Error> {
        self.exec(GetBootFlags).await
    }

    /// Sets from where the machine starts, and reads it back.
    ///
    /// # Errors
    /// [`Error::BootNotKept`] where the BMC kept another device.
    pub async fn set_boot(&mut self, device: BootDevice, efi: bool, persistent: bool) -> Result<BootFlags, Error> {
        let flags = BootFlags { valid: true, persistent, efi, device: Some(device) };
        // Parameters 0 and 4 are courtesy (ipmitool sends them too); BMCs that do not know them still take parameter 5.
        let courtesy = self.exec(SetBootOption::in_progress(true)).await.is_ok();
        self.exec(SetBootOption::flags(flags)).await?;
        let _ = self.exec(SetBootOption::acknowledge()).await;
        if courtesy {
            let _ = self.exec(SetBootOption::in_progress(false)).await;
        }
        let kept = self.boot_flags().await?;
        if kept.device == flags.device { Ok(kept) } else { Err(Error::BootNotKept(kept)) }
    }
}
