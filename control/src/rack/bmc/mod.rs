//! The BMC of a machine of the virtual rack: what it knows, and what is wrong with it.
//!
//! ```text
//! ipmi (RMCP+ over UDP) --\
//!                          >-- State: user, boot override, faults, record --> Chassis (the machine)
//! another front end ------/
//! ```
//!
//! A front end speaks a protocol and changes the one [`State`]; what the
//! machine behind it does is the business of its [`Chassis`]. It has the faults
//! of real BMCs, so that tests can switch them on while it runs.

pub mod fleet;
mod ipmi;
mod records;
mod redfish;
mod switch;

pub use switch::Switch;

use protocol::ipmi::Suite;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The machine behind a BMC. Nothing may wait: clients repeat a command after a second.
pub trait Chassis: Send {
    /// Whether it is on.
    fn is_on(&mut self) -> bool;
    /// Begins to do it. Switching on what is on, and off what is off, changes nothing.
    fn power(&mut self, action: Action);
    /// The boot override has changed. What is for one boot alone is used up by the machine's next start.
    fn boot_from(&mut self, boot: Boot);
    /// How often it has started: switched on, reset, or rebooted by itself.
    fn starts(&mut self) -> u64;
}

/// What can be done to a machine (the actions of IPMI's Chassis Control and of Redfish's resets).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// On.
    On,
    /// Off at once.
    Off,
    /// Off at once, then on.
    Cycle,
    /// Hard reset.
    Reset,
    /// The power button of ACPI: the operating system is asked to end.
    Soft,
}

/// From where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Device {
    /// As the firmware is set up.
    #[default]
    Default,
    /// The network.
    Network,
    /// The first disk.
    Disk,
    /// An optical drive.
    Cd,
    /// The firmware's own set-up.
    Setup,
}

/// The boot override.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Boot {
    /// From where.
    pub device: Device,
    /// By UEFI, not as a legacy BIOS.
    pub efi: bool,
    /// For every boot, not for the next one alone.
    pub persistent: bool,
}

/// What is wrong with it. All off by default.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// Takes packets and never answers.
    pub silent: bool,
    /// Drops the first so many packets.
    pub drop_first: u32,
    /// Answers so much later.
    pub delay: Duration,
    /// Says that power commands went well, and does nothing.
    pub ignores_power: bool,
    /// Says that the boot override was taken, and keeps the old one.
    pub ignores_boot: bool,
    /// Takes the boot override and reads it back; the machine never hears of it.
    pub forgets_boot: bool,
    /// Says that the machine is off, whatever it is.
    pub says_off: bool,
    /// Says that the machine is on, whatever it is.
    pub says_on: bool,
    /// `ignores_*` and `forgets_boot` go away when they have struck once.
    pub once: bool,
    /// Does not know Get Channel Cipher Suites.
    pub hides_suites: bool,
    /// Does what it is told to do to the machine's power, and never answers to that.
    pub loses_power_reply: bool,
    /// Has no session left.
    pub no_sessions: bool,
    /// Answers every IPMI command of a session with this completion code where it is not 0, and every
    /// Redfish request with an internal error.
    pub code: u8,
    /// Redfish: has no session service, so that every request must bear the password.
    pub no_session_service: bool,
    /// Redfish: does not know its own entity tags again.
    pub wrong_etags: bool,
}

/// What it was asked, and what it has. All front ends share one.
pub struct State {
    /// What is wrong with it; may be changed while it runs.
    pub faults: Faults,
    /// Every IPMI command of an open session: network function, command, data.
    pub commands: Vec<(u8, u8, Vec<u8>)>,
    /// Sessions open now.
    pub open: usize,
    /// Logins tried, good or bad.
    pub logins: u64,
    /// The event log: when its sensor was too hot, seconds since 1970.
    pub events: Vec<u32>,
    /// As Redfish tells of the machine.
    pub identity: Identity,
    user: String,
    password: String,
    boot: Boot,
    /// The machine's starts when the override was set.
    starts: u64,
    chassis: Box<dyn Chassis>,
}

/// What Redfish tells of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// SMBIOS UUID.
    pub uuid: String,
    /// Serial number.
    pub serial: String,
    /// Network cards.
    pub macs: Vec<String>,
}

/// What the one sensor reads, degrees Celsius.
const INLET: u8 = 35;
/// The commands that are remembered; a BMC that is polled for days must not grow.
const COMMANDS: usize = 10_000;

impl State {
    /// Whether the machine is on, as this BMC tells it.
    pub fn is_on(&mut self) -> bool {
        let on = self.chassis.is_on();
        (on || self.faults.says_on) && !self.faults.says_off
    }

    /// Whether the machine is on, in truth.
    pub fn is_really_on(&mut self) -> bool {
        self.chassis.is_on()
    }

    /// The boot override as it reads back.
    pub fn boot(&mut self) -> Boot {
        if !self.boot.persistent && self.chassis.starts() != self.starts {
            self.boot = Boot::default();
        }
        self.boot
    }

    /// Does something to the machine, or only says so.
    pub fn power(&mut self, action: Action) {
        if self.faults.ignores_power {
            self.faults.ignores_power = !self.faults.once;
            return;
        }
        self.chassis.power(action);
    }

    /// Sets the boot override, or only says so.
    pub fn boot_from(&mut self, boot: Boot) {
        if self.faults.ignores_boot {
            self.faults.ignores_boot = !self.faults.once;
            return;
        }
        self.boot = boot;
        self.starts = self.chassis.starts();
        if self.faults.forgets_boot {
            self.faults.forgets_boot = !self.faults.once;
            return;
        }
        self.chassis.boot_from(boot);
    }

    fn note(&mut self, netfn: u8, command: u8, data: &[u8]) {
        if self.commands.len() < COMMANDS {
            self.commands.push((netfn, command, data.to_vec()));
        }
    }
}

/// A BMC; its front ends end when it is dropped.
pub struct Bmc {
    /// Where its first front end listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The user of [`Bmc::start`].
pub const USER: &str = "admin";
/// The password of [`Bmc::start`].
pub const PASSWORD: &str = "s3cret";

impl Bmc {
    /// One of IPMI alone on a free loopback port, for [`USER`], with these suites and so many sessions.
    ///
    /// # Panics
    /// Where loopback has no free port.
    pub fn start(suites: &[Suite], sessions: usize, machine: impl Chassis + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let mut bmc = Self::new(USER, PASSWORD, machine);
        bmc.serve_ipmi(socket, suites, sessions).expect("a bound socket has an address");
        bmc
    }

    /// One with this user and no front end yet.
    pub fn new(user: &str, password: &str, chassis: impl Chassis + 'static) -> Self {
        let state = State {
            faults: Faults::default(),
            commands: Vec::new(),
            open: 0,
            logins: 0,
            events: Vec::new(),
            identity: Identity::default(),
            user: user.to_owned(),
            password: password.to_owned(),
            boot: Boot::default(),
            starts: 0,
            chassis: Box::new(chassis),
        };
        Self {
            address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            state: Arc::new(Mutex::new(state)),
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Speaks IPMI 2.0 on this socket, with these suites and so many sessions at one time.
    ///
    /// # Errors
    /// Where the socket cannot be used.
    pub fn serve_ipmi(&mut self, socket: UdpSocket, suites: &[Suite], sessions: usize) -> io::Result<()> {
        let address = socket.local_addr()?;
        let mut server = ipmi::Server::new(socket, self.state.clone(), suites, sessions)?;
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || server.run(&stop)));
        if self.address.port() == 0 {
            self.address = address;
        }
        Ok(())
    }

    /// Speaks Redfish over plain HTTP on this listener, with so many sessions at one time.
    ///
    /// # Errors
    /// Where the listener cannot be used.
    pub fn serve_redfish(&mut self, listener: TcpListener, sessions: usize) -> io::Result<SocketAddr> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (state, stop) = (self.state.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || redfish::run(listener, state, sessions, &stop)));
        if self.address.port() == 0 {
            self.address = address;
        }
        Ok(address)
    }

    /// Its state, to look at or to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes what is wrong with it.
    pub fn faults(&self, faults: Faults) {
        self.state().faults = faults;
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Bmc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bmc").field("address", &self.address).finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Boot = Boot { device: Device::Network, efi: true, persistent: false };
    const ALWAYS: Boot = Boot { device: Device::Disk, efi: false, persistent: true };

    #[test]
    fn an_override_for_one_boot_is_used_up_by_it_and_a_persistent_one_stays() {
        let bmc = Bmc::new("u", "p", Switch::default());
        let mut state = bmc.state();
        state.boot_from(ONCE);
        assert_eq!(state.boot(), ONCE);
        state.power(Action::On);
        assert_eq!(state.boot(), Boot::default());
        state.boot_from(ALWAYS);
        state.power(Action::Reset);
        assert_eq!(state.boot(), ALWAYS);
    }

    #[test]
    fn a_fault_that_strikes_once_is_gone_after_it() {
        let switch = Switch::default();
        let bmc = Bmc::new("u", "p", switch.clone());
        bmc.faults(Faults { ignores_power: true, forgets_boot: true, once: true, ..Faults::default() });
        let mut state = bmc.state();
        state.boot_from(ONCE);
        assert_eq!(state.boot(), ONCE, "it reads back what the machine never hears of");
        state.power(Action::On);
        assert!(!state.is_on());
        state.boot_from(ONCE);
        state.power(Action::On);
        assert!(state.is_on());
        assert_eq!(switch.done(), ["boot Network once", "on"]);
    }
}
