//! A conversation with a BMC, whatever it speaks, and what is written only
//! together with being read back.

use super::{BootDevice, BootFlags, ChassisStatus, Error, Event, Power, Sensor};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a machine may take to show the power state that it was told to have.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How often the power state is read meanwhile.
const SETTLE_POLL: Duration = Duration::from_secs(1);

/// What a BMC answers.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// Which BMC this is, and which machine it is built into.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BmcInfo {
    /// What it speaks, with its version: `IPMI 2.0`, `Redfish 1.15.0`.
    pub speaks: String,
    /// Its manufacturer: a name, or an IANA enterprise number.
    pub manufacturer: String,
    /// The manufacturer's model or product number.
    pub product: String,
    /// Firmware revision.
    pub firmware: String,
    /// The fingerprint of its TLS certificate, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The machine, where the BMC tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemInfo>,
}

/// The machine that a BMC is built into, as the BMC says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SystemInfo {
    /// SMBIOS UUID, as written by the BMC.
    pub uuid: String,
    /// Serial number.
    pub serial: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Its network cards.
    pub macs: Vec<String>,
}

/// An open conversation. One request at a time; nothing here waits for longer than the deadlines
/// of its own protocol.
pub trait Session: Send {
    /// Which BMC this is.
    fn info(&mut self) -> Answer<'_, BmcInfo>;
    /// Power and faults.
    fn status(&mut self) -> Answer<'_, ChassisStatus>;
    /// Sends one power command and does not wait for its end: see [`Session::power`].
    fn switch(&mut self, action: Power) -> Answer<'_, ()>;
    /// The boot flags as the BMC has them.
    fn boot_flags(&mut self) -> Answer<'_, BootFlags>;
    /// Writes the boot flags and does not read them back: see [`Session::set_boot`].
    fn write_boot(&mut self, flags: BootFlags) -> Answer<'_, ()>;
    /// The event log, oldest first.
    fn sel(&mut self) -> Answer<'_, Vec<Event>>;
    /// Empties the event log.
    fn sel_clear(&mut self) -> Answer<'_, ()>;
    /// Every sensor.
    fn sensors(&mut self) -> Answer<'_, Vec<Sensor>>;
    /// Gives the session back to the BMC, which has few of them.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;

    /// Does something to the machine's power and waits until the BMC shows it.
    ///
    /// `On` and `Off` do nothing where the machine is so already; `Cycle` and
    /// `Reset` of a machine that is off switch it on, as operators mean it.
    ///
    /// # Errors
    /// [`Error::PowerNotReached`] where the BMC never shows the state, and whatever the BMC says.
    fn power(&mut self, wanted: Power) -> Answer<'_, ChassisStatus> {
        Box::pin(async move {
            let before = self.status().await?;
            let Some(action) = action(wanted, before.on) else { return Ok(before) };
            self.switch(action).await?;
            let on = action.leaves_on();
            let deadline = Instant::now() + SETTLE_LIMIT;
            loop {
                let status = self.status().await?;
                if status.on == on {
                    return Ok(status);
                }
                if Instant::now() >= deadline {
                    return Err(Error::PowerNotReached(status.on));
                }
                sleep(SETTLE_POLL).await;
            }
        })
    }

    /// Sets from where the machine starts, and reads it back.
    ///
    /// # Errors
    /// [`Error::BootNotKept`] where the BMC kept another device.
    fn set_boot(&mut self, device: BootDevice, efi: bool, persistent: bool) -> Answer<'_, BootFlags> {
        Box::pin(async move {
            let flags = BootFlags { valid: true, persistent, efi, device: Some(device) };
            self.write_boot(flags).await?;
            let kept = self.boot_flags().await?;
            if kept.device == flags.device { Ok(kept) } else { Err(Error::BootNotKept(kept)) }
        })
    }
}

/// The command that does what is wanted of a machine that is on or off; `None` where nothing is to be done.
pub fn action(wanted: Power, on: bool) -> Option<Power> {
    match (wanted, on) {
        (Power::On, true) | (Power::Off | Power::Soft, false) => None,
        (Power::Cycle | Power::Reset, false) => Some(Power::On),
        (other, _) => Some(other),
    }
}
