//! The IPMI commands that a set-up needs: requests as bytes, answers as values.
//! Section and table numbers are those of the IPMI specification 2.0.

use std::fmt;
use std::net::Ipv4Addr;

/// Network function of the commands about users and channels.
const APP: u8 = 0x06;
/// Network function of the commands about the LAN.
const TRANSPORT: u8 = 0x0c;
/// Longest name of a user, bytes (22.28).
pub const NAME: usize = 16;
/// Longest password, bytes (22.30); BMCs before IPMI 2.0 take [`OLD_PASSWORD`].
pub const PASSWORD: usize = 20;
/// Length of the older form of a password, bytes.
pub const OLD_PASSWORD: usize = 16;
/// Most users that a BMC can have (6 bits).
const USERS: u8 = 0x3f;

/// A command for the BMC.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Network function.
    pub netfn: u8,
    /// Its number.
    pub number: u8,
    /// Its data; may hold a password.
    pub data: Vec<u8>,
    /// What it is for, in words.
    pub what: &'static str,
}

impl fmt::Debug for Command {
    /// Without the data: there may be a password in it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({:#04x} {:#04x})", self.what, self.netfn, self.number)
    }
}

const fn app(number: u8, data: Vec<u8>, what: &'static str) -> Command {
    Command { netfn: APP, number, data, what }
}

/// What the BMC said to a command that it did not carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub u8);

/// Busy: the same command again goes well later (table 5-2).
const BUSY: [u8; 3] = [0xc0, 0xc3, 0xce];
/// Test Password: it is another one (22.30).
pub const OTHER_PASSWORD: Code = Code(0x80);
/// Test Password: it is of the other length (22.30).
pub const OTHER_LENGTH: Code = Code(0x81);

impl Code {
    /// Whether the same command may go well a little later.
    pub const fn is_busy(self) -> bool {
        matches!(self.0, 0xc0 | 0xc3 | 0xce)
    }

    /// Whether the data was of a length or content that this BMC does not take.
    pub const fn is_bad_data(self) -> bool {
        matches!(self.0, 0xc7 | 0xc8 | 0xc9 | 0xcc)
    }

    /// Whether this BMC does not have the command at all.
    pub const fn is_unknown_command(self) -> bool {
        matches!(self.0, 0xc1 | 0xc2)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            code if BUSY.contains(&code) => "it is busy",
            0x80 | 0x81 => "refused for a reason of this command",
            0xc1 | 0xc2 => "it does not know that command",
            0xc4 => "it is out of space",
            0xc7 | 0xc8 => "it wants another length",
            0xc9 => "a parameter is out of range",
            0xcb => "there is no such thing",
            0xcc => "it does not take that value",
            0xd4 => "its firmware firewall or privilege level forbids that",
            0xd5 => "not in its present state",
            _ => "refused",
        };
        write!(out, "{words} (completion code {:#04x})", self.0)
    }
}

/// Get Channel Info (22.24).
pub fn channel_info(channel: u8) -> Command {
    app(0x42, vec![channel & 0x0f], "read a channel's kind")
}

/// Whether the answer to [`channel_info`] is that of an Ethernet LAN (table 6-3: 802.3).
pub fn is_lan(answer: &[u8]) -> bool {
    const ETHERNET: u8 = 0x04;
    answer.get(1).is_some_and(|medium| medium & 0x7f == ETHERNET)
}

/// Get Channel Access, the setting that survives a restart (22.23).
pub fn channel_access(channel: u8) -> Command {
    app(0x41, vec![channel & 0x0f, 0x40], "read whether the LAN channel is open")
}

/// Whether a channel with this answer to [`channel_access`] lets anybody in while a system runs:
/// always available, or shared with serial (table 22-28).
pub fn is_open(answer: &[u8]) -> bool {
    answer.first().is_some_and(|mode| matches!(mode & 0x07, 2 | 3))
}

/// Get LAN Configuration Parameters: IP address (23.2, parameter 3).
pub fn address(channel: u8) -> Command {
    parameter(channel, 3, "read its LAN address")
}

/// Get LAN Configuration Parameters: primary RMCP port (23.2, parameter 8).
pub fn port(channel: u8) -> Command {
    parameter(channel, 8, "read its LAN port")
}

fn parameter(channel: u8, parameter: u8, what: &'static str) -> Command {
    Command { netfn: TRANSPORT, number: 0x02, data: vec![channel & 0x0f, parameter, 0, 0], what }
}

/// The address in the answer to [`address`]; nothing where it has none.
pub fn as_address(answer: &[u8]) -> Option<Ipv4Addr> {
    // The first byte is the parameter's revision.
    let bytes: [u8; 4] = answer.get(1..5)?.try_into().ok()?;
    let address = Ipv4Addr::from(bytes);
    (!address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()).then_some(address)
}

/// The port in the answer to [`port`]: least significant byte first; nothing where it is 0.
pub fn as_port(answer: &[u8]) -> Option<u16> {
    let bytes: [u8; 2] = answer.get(1..3)?.try_into().ok()?;
    Some(u16::from_le_bytes(bytes)).filter(|port| *port != 0)
}

/// Get User Access (22.27).
pub fn user_access(channel: u8, user: u8) -> Command {
    app(0x44, vec![channel & 0x0f, user & USERS], "read a user's rights")
}

/// An answer to [`user_access`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// How many slots there are, slot 1 among them.
    pub slots: u8,
    /// How many of the first slots have names that cannot be changed.
    pub fixed: u8,
    /// The slot's user may log in.
    pub enabled: bool,
}

/// Reads an answer to [`user_access`].
pub fn as_access(answer: &[u8]) -> Option<Access> {
    let (slots, status, fixed) = (answer.first()?, answer.get(1)?, answer.get(2)?);
    let rights = answer.get(3).copied().unwrap_or(0);
    let enabled = match status >> 6 {
        1 => true,
        // Not told, as in IPMI 1.5: whoever may send messages at some level.
        0 => rights & 0x10 != 0 && (1..=5).contains(&(rights & 0x0f)),
        _ => false,
    };
    Some(Access { slots: slots & USERS, fixed: fixed & USERS, enabled })
}

/// Get User Name (22.29).
pub fn user_name(user: u8) -> Command {
    app(0x46, vec![user & USERS], "read a user's name")
}

/// The name in the answer to [`user_name`], up to its first zero byte.
pub fn as_name(answer: &[u8]) -> &[u8] {
    let name = answer.get(..NAME).unwrap_or(answer);
    name.split(|b| *b == 0).next().unwrap_or_default()
}

/// Set User Name (22.28).
pub fn set_name(user: u8, name: &str) -> Command {
    let mut data = vec![user & USERS];
    data.extend(padded(name, NAME));
    app(0x45, data, "name the user")
}

/// What Set User Password does (22.30).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordStep {
    /// Let the user log in.
    Enable,
    /// Set it.
    Set,
    /// Compare it.
    Test,
}

/// Set User Password (22.30): in the form of [`PASSWORD`] or of [`OLD_PASSWORD`] bytes.
pub fn password(user: u8, step: PasswordStep, password: &str, length: usize) -> Command {
    let long = if length == PASSWORD { 0x80 } else { 0 };
    let (number, what) = match step {
        PasswordStep::Enable => (1, "enable the user"),
        PasswordStep::Set => (2, "set the user's password"),
        PasswordStep::Test => (3, "test the user's password"),
    };
    let mut data = vec![user & USERS | long, number];
    data.extend(padded(password, length));
    app(0x47, data, what)
}

/// Set User Access (22.26): may send IPMI messages over this channel, at most as operator.
/// Operators switch machines and set boot devices; nothing that stoker does needs more.
pub fn set_operator(channel: u8, user: u8) -> Command {
    const CHANGE: u8 = 0x80;
    const LINK_AUTHENTICATION: u8 = 0x20;
    const MESSAGING: u8 = 0x10;
    const OPERATOR: u8 = 3;
    let flags = CHANGE | LINK_AUTHENTICATION | MESSAGING | channel & 0x0f;
    app(0x43, vec![flags, user & USERS, OPERATOR, 0], "give the user its rights")
}

fn padded(text: &str, length: usize) -> Vec<u8> {
    text.bytes().chain(std::iter::repeat(0)).take(length).collect()
}
