//! The virtual rack: machines with real firmware, in a network of their own.
//!
//! One rack is a network namespace with a bridge, and QEMU machines on it that
//! boot exactly as servers do: SeaBIOS or OVMF, network first. What serves
//! them is started inside the namespace by whoever owns the rack (`stoker up
//! --virtual-rack`, the boot tests), so nothing of it is seen by other links of
//! this host. The path of a boot through the files:
//!
//! ```text
//! firmware (which images) + accel (KVM or TCG) -> machine (QEMU's command line)
//! network (namespace, bridge, taps, a foreign DHCP server)   qmp (power)   process (ending what was started)
//! bmc (what a machine is switched by from outside) -> powered (a machine, on or off)
//! ```
//!
//! All of it is blocking std code: the machines are few and the waits are
//! bounded. It needs root (or `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`), iproute2
//! and QEMU.

pub mod accel;
pub mod bmc;
pub mod firmware;
pub mod machine;
pub mod network;
pub mod powered;
pub mod process;
pub mod qmp;

pub use accel::Accel;
pub use firmware::{Firmware, Images};
pub use machine::{Disk, First, Machine, Spec};
pub use network::{Namespace, Network};
pub use powered::Powered;

use std::path::PathBuf;

/// Why a part of the rack could not be had; the text names cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum RackError {
    /// A tool is not installed.
    #[error("{program} is not installed: {remedy}")]
    Missing {
        /// Its name.
        program: String,
        /// What to do.
        remedy: String,
    },
    /// A tool ran and failed.
    #[error("`{command}` failed: {why}")]
    Tool {
        /// The command, for people.
        command: String,
        /// Its own words.
        why: String,
    },
    /// A file could not be made, read or removed.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No image of this firmware was found.
    #[error("no {firmware} firmware found (looked in {looked}): {remedy}")]
    NoFirmware {
        /// Which kind.
        firmware: &'static str,
        /// The folders searched.
        looked: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A machine ended when it should run.
    #[error("machine {name} ended at once: {why}")]
    Ended {
        /// Its name.
        name: String,
        /// QEMU's last words.
        why: String,
    },
    /// QMP, QEMU's control socket, did not do as asked.
    #[error("machine {name} does not answer on its control socket: {why}")]
    Qmp {
        /// The machine.
        name: String,
        /// In words.
        why: String,
    },
    /// A rack specification that makes no sense.
    #[error("{0}")]
    Spec(String),
}

impl RackError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
