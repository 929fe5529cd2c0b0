//! What people and programs ask of a BMC, as one word each: the same through
//! control's API and straight to an address.

use super::pool::Turn;
use super::{BmcInfo, BootDevice, BootFlags, ChassisStatus, Error, Event, Power, Sensor};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Power, faults and boot flags.
    Status,
    /// To switch the machine.
    Power {
        /// How.
        action: Power,
    },
    /// To choose what it boots from.
    Boot {
        /// From where.
        device: BootDevice,
        /// By UEFI or by legacy BIOS; as the machine's firmware is, where that is known, when absent.
        #[serde(default)]
        efi: Option<bool>,
        /// At every boot, not only the next.
        #[serde(default)]
        persistent: bool,
        /// And switch it on, or cycle it, now.
        #[serde(default)]
        cycle: bool,
    },
    /// Which BMC this is.
    Info,
    /// The event log.
    Sel {
        /// Empty it after it was read.
        #[serde(default)]
        clear: bool,
    },
    /// Every sensor.
    Sensors,
}

/// What the BMC says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// To [`Ask::Status`].
    Status {
        /// Power and faults.
        chassis: ChassisStatus,
        /// The boot flags, where it tells them.
        boot: Option<BootFlags>,
    },
    /// To [`Ask::Power`]: as it is now.
    Power {
        /// Power and faults.
        chassis: ChassisStatus,
    },
    /// To [`Ask::Boot`]: what it kept.
    Boot {
        /// As read back.
        kept: BootFlags,
    },
    /// To [`Ask::Info`].
    Info(Box<BmcInfo>),
    /// To [`Ask::Sel`].
    Sel {
        /// Oldest first.
        events: Vec<Event>,
    },
    /// To [`Ask::Sensors`].
    Sensors {
        /// As they read.
        sensors: Vec<Sensor>,
    },
}

impl Ask {
    /// Whether this changes what the machine does: its power, or from where it boots.
    pub const fn acts(&self) -> bool {
        matches!(self, Self::Power { .. } | Self::Boot { .. })
    }

    /// Asks it. `efi`: where the question leaves it open.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn of(self, turn: &mut Turn<'_>, efi: bool) -> Result<Told, Error> {
        Ok(match self {
            Self::Status => {
                let chassis = turn.session().status().await?;
                Told::Status { chassis, boot: turn.session().boot_flags().await.ok() }
            }
            Self::Power { action } => Told::Power { chassis: turn.power(action).await? },
            Self::Boot { device, efi: by, persistent, cycle } => {
                let kept = turn.set_boot(device, by.unwrap_or(efi), persistent).await?;
                if cycle {
                    turn.power(Power::Cycle).await?;
                }
                Told::Boot { kept }
            }
            Self::Info => Told::Info(Box::new(turn.session().info().await?)),
            Self::Sel { clear } => {
                let events = turn.session().sel().await?;
                if clear {
                    turn.session().sel_clear().await?;
                }
                Told::Sel { events }
            }
            Self::Sensors => Told::Sensors { sensors: turn.session().sensors().await? },
        })
    }
}
