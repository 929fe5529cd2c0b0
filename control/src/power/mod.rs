//! Power: sessions with BMCs, and what is asked of them.
//!
//! ```text
//! Server + Secrets -> target -> pool (one queue per BMC) -> session: ipmi | redfish | management
//! ```
//!
//! A BMC's answer is a claim. After every write the state is read back, and
//! whoever needs certainty waits for the machine's own packets.

pub mod ask;
mod commands;
mod ipmi;
mod management;
pub mod pool;
mod records;
pub mod redfish;
mod session;
pub mod target;

pub use commands::{BootDevice, BootFlags, ChassisStatus, Power};
pub use ipmi::{Client, OPERATION_LIMIT};
pub use records::{Event, Sensor};
pub use session::{Answer, BmcInfo, SETTLE_LIMIT, Session, SystemInfo, action};

/// The UDP port of RMCP (IPMI 2.0 section 13.1.2).
pub const IPMI_PORT: u16 = 623;

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
    /// A power cycle or reset so soon after another one (F23).
    #[error("it was power-cycled or reset {} s ago, and is on; not again before {} s have passed", .0.as_secs(), crate::limits::EFFECT_REST.as_secs())]
    JustCycled(std::time::Duration),
    /// The BMC cannot do that by the way in which it is spoken to.
    #[error("{0}")]
    Unsupported(String),
    /// An HTTP BMC could not be reached, or broke off.
    #[error("{0}")]
    Http(String),
    /// An HTTP BMC refuses the login.
    #[error("the BMC refuses the user name or the password (HTTP {0})")]
    Login(u16),
    /// An HTTP BMC has no session left.
    #[error("the BMC has no session left; wait for others to close theirs")]
    NoSession,
    /// An HTTP BMC refused a request.
    #[error("the BMC refused {0}")]
    Refused(String),
    /// The BMC's certificate is not the one that is trusted.
    #[error("{0}")]
    Certificate(String),
    /// The BMC belongs to another machine.
    #[error("{0}")]
    OtherMachine(String),
}

/// What kind of trouble an error is: who has to act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The BMC, or the way to it, is away.
    Unreachable,
    /// It does not take the user name or password.
    Login,
    /// It is there, and has no session free.
    NoSession,
    /// It is there, and did not do what was asked.
    Answered,
}

impl Error {
    /// What kind of trouble this is.
    pub fn trouble(&self) -> Trouble {
        use protocol::ipmi::Error as Ipmi;
        match self {
            Self::Io(_) | Self::Closed | Self::Limit | Self::Http(_) => Trouble::Unreachable,
            // Status codes of table 13-15: role, privilege, name, proof.
            Self::Session(Ipmi::Refused(_, 0x09 | 0x0a | 0x0d | 0x0f) | Ipmi::BadPassword | Ipmi::Privilege(_)) => {
                Trouble::Login
            }
            Self::Session(Ipmi::Refused(_, 0x01)) | Self::NoSession => Trouble::NoSession,
            Self::Session(Ipmi::Silent) => Trouble::Unreachable,
            Self::Login(_) => Trouble::Login,
            _ => Trouble::Answered,
        }
    }
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
