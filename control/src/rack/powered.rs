//! A machine that stays where it is when it is off: what its BMC switches.
//!
//! A thread of its own owns the QEMU process (which dies with the thread that
//! started it) and does what it is told, in order; whoever tells it does not
//! wait. Disks and UEFI variables stay in the machine's folder from one start
//! to the next.

use super::bmc::{Action, Boot, Chassis, Device};
use super::{Accel, First, Images, Machine, Namespace, Spec};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a running machine is looked at: whether it has ended, or was reset by what runs on it.
const LOOK: Duration = Duration::from_millis(100);
/// Commands that may wait; whoever is in such a hurry is not heard.
const QUEUE: usize = 64;

/// A machine with a power button. Dropping it switches the machine off.
pub struct Powered {
    spec: Spec,
    folder: PathBuf,
    shared: Arc<Mutex<Shared>>,
    tell: SyncSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// The same machine, for its BMC.
pub struct Switchboard {
    shared: Arc<Mutex<Shared>>,
    tell: SyncSender<Command>,
}

#[derive(Default)]
struct Shared {
    on: bool,
    starts: u64,
    boot: Boot,
    problem: Option<String>,
}

enum Command {
    Power(Action),
    /// The boot override has changed.
    Boot,
    /// Off, for ever.
    End,
}

impl Powered {
    /// A machine that is off, to run in `<folder>/<name>`.
    pub fn new(spec: Spec, network: &Namespace, images: &Images, accel: Accel, folder: &Path) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (tell, commands) = sync_channel(QUEUE);
        let owner = Owner {
            spec: spec.clone(),
            network: network.clone(),
            images: images.clone(),
            accel,
            folder: folder.to_owned(),
            shared: shared.clone(),
            machine: None,
            resets: 0,
        };
        let thread = std::thread::spawn(move || owner.run(&commands));
        let folder = folder.join(&spec.name);
        Self { spec, folder, shared, tell, thread: Some(thread) }
    }

    /// What it is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its folder: disks, variables, console.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// For its BMC.
    pub fn switchboard(&self) -> Switchboard {
        Switchboard { shared: self.shared.clone(), tell: self.tell.clone() }
    }

    /// Begins to do something to its power, as a human at its front would.
    pub fn power(&self, action: Action) {
        self.switchboard().power(action);
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        lock(&self.shared).on
    }

    /// How often it has started.
    pub fn starts(&self) -> u64 {
        lock(&self.shared).starts
    }

    /// Why it could not be switched on the last time, told once.
    pub fn problem(&self) -> Option<String> {
        lock(&self.shared).problem.take()
    }

    /// The last lines of the console, control characters removed.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        super::machine::console_tail(&self.folder.join("console.log"), lines)
    }

    /// Switches it off and waits until it is.
    pub fn stop(&mut self) {
        // A BMC may hold the other end for longer than the machine lives.
        let _ = self.tell.send(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Chassis for Switchboard {
    fn is_on(&mut self) -> bool {
        lock(&self.shared).on
    }

    fn power(&mut self, action: Action) {
        // A full queue or a machine that is gone: a power button that does nothing.
        let _ = self.tell.try_send(Command::Power(action));
    }

    fn boot_from(&mut self, boot: Boot) {
        lock(&self.shared).boot = boot;
        let _ = self.tell.try_send(Command::Boot);
    }

    fn starts(&mut self) -> u64 {
        lock(&self.shared).starts
    }
}

struct Owner {
    spec: Spec,
    network: Namespace,
    images: Images,
    accel: Accel,
    folder: PathBuf,
    shared: Arc<Mutex<Shared>>,
    machine: Option<Machine>,
    /// Resets of the machine that were taken note of.
    resets: u64,
}

impl Owner {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.recv_timeout(LOOK) {
                Ok(Command::Power(action)) => self.power(action),
                Ok(Command::Boot) => self.apply(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return self.off(),
            }
            self.look();
        }
    }

    fn power(&mut self, action: Action) {
        match action {
            Action::On if self.machine.is_none() => self.on(),
            Action::On => {}
            Action::Off => self.off(),
            Action::Cycle => {
                self.off();
                self.on();
            }
            Action::Reset => self.with(Machine::reset),
            Action::Soft => self.with(Machine::press_power),
        }
    }

    fn on(&mut self) {
        let spec = Spec { first: self.first(), ..self.spec.clone() };
        let started = Machine::start(spec, &self.network, &self.images, self.accel, &self.folder);
        let mut shared = lock(&self.shared);
        match started {
            Ok(machine) => {
                (shared.on, shared.problem) = (true, None);
                self.machine = Some(machine);
            }
            Err(e) => shared.problem = Some(e.to_string()),
        }
        drop(shared);
        if self.machine.is_some() {
            self.resets = 0;
            self.started();
        }
    }

    fn off(&mut self) {
        if let Some(mut machine) = self.machine.take() {
            machine.stop();
        }
        lock(&self.shared).on = false;
    }

    /// It starts: what was meant for this start alone is used up.
    fn started(&mut self) {
        let mut shared = lock(&self.shared);
        shared.starts += 1;
        if !shared.boot.persistent {
            shared.boot = Boot::default();
        }
        drop(shared);
        self.apply();
    }

    /// The firmware reads the boot order when it starts: what is set now counts from the next reset on.
    fn apply(&mut self) {
        let first = self.first();
        self.with(|machine| machine.set_first(first));
    }

    fn look(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        if !machine.is_on() {
            return self.off();
        }
        // It may be ending right now: then it is seen in the next round.
        let Ok(resets) = machine.resets() else { return };
        if resets > self.resets {
            self.resets = resets;
            self.started();
        }
    }

    fn first(&self) -> First {
        let boot = lock(&self.shared).boot;
        // Real firmware, too, passes by an override of the other kind.
        match boot.device {
            Device::Network if boot.efi == self.spec.firmware.is_uefi() => First::Network,
            Device::Disk if boot.efi == self.spec.firmware.is_uefi() => First::Disk,
            _ => self.spec.first,
        }
    }

    fn with(&mut self, act: impl FnOnce(&mut Machine) -> Result<(), super::RackError>) {
        if let Some(machine) = &mut self.machine
            && let Err(e) = act(machine)
            && machine.is_on()
        {
            lock(&self.shared).problem = Some(e.to_string());
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
