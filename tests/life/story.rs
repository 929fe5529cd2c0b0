//! The sixteen steps, in order.

use crate::world::{CONFIG, Case, World};
use control::lifecycle::holds;
use control::rack::Firmware;
use control::rack::bmc::Action;
use control::resource::{Phase, Server};
use sha2::{Digest as _, Sha256};
use std::time::Instant;
use stoker_tests::stage::assert_true;

#[test]
fn the_life_of_a_uefi_machine_with_a_bmc() {
    live(Case::new("life-uefi", Firmware::Uefi), World::nothing);
}

#[test]
fn the_life_of_a_bios_machine_with_a_bmc() {
    live(Case::new("life-bios", Firmware::Bios), World::nothing);
}

#[test]
fn the_life_of_a_machine_without_a_bmc() {
    live(Case { bmc: false, ..Case::new("life-none", Firmware::Uefi) }, World::nothing);
}

/// From the first power-on to clean and off again. `between` is done after every step.
pub fn live(case: Case, between: fn(&mut World)) {
    let _one = crate::lock();
    let began = Instant::now();
    let mut w = World::new(case);
    let step = |what: &str| println!("{:6.1} s  {what}", began.elapsed().as_secs_f64());

    step("1 to 7: power on, firmware, DHCP, boot loader, iPXE, agent, report");
    w.discover();
    between(&mut w);

    step("8 to 9: accepted, wiped");
    w.accept();
    between(&mut w);
    let first = w.clean();

    step("10: off");
    w.rest();
    between(&mut w);

    step("11 to 14: allocated, installer from the network, configuration, installed, runs from its disk");
    w.install();
    w.until_running();
    between(&mut w);

    step("another power cycle: the disk again, not the installer");
    w.boot_again();
    between(&mut w);

    step("15 to 16: released, wiped, off");
    w.release();
    between(&mut w);
    let second = w.clean();
    assert!(second > first, "another wipe, another order");
    w.rest();
    let story = w.log();
    println!("{story}");
    step("done");
    w.end();
}

impl World {
    pub fn nothing(&mut self) {}

    /// Powers the machine on for the first time; nobody has declared it.
    pub fn discover(&mut self) {
        let spec = self.machine.spec().clone();
        if self.bmc.is_some() {
            self.power(&["pxe", "--cycle"]);
        } else {
            self.by_hand(Action::On);
        }
        let record = self.stage.report_of(&spec, crate::world::LIMIT);
        assert_true(&record, &spec);
        self.phase(Phase::Discovered);
        let shown = self.stoker(&["servers"]);
        assert!(shown.contains(&self.name()) && shown.contains("Discovered"), "{shown}");
        assert!(self.is_marked(), "a machine that nobody has accepted is left as it is");
    }

    pub fn accept(&mut self) {
        if self.bmc.is_some() {
            self.declare_bmc();
        }
        self.stoker(&["accept", &self.name()]);
        self.until("wiping or wiped", |s| (s.status.phase != Some(Phase::Discovered)).then_some(()));
    }

    /// Waits until it is clean, and looks for itself. Returns the wipe's order.
    pub fn clean(&mut self) -> u64 {
        let server = self.phase(Phase::Available);
        assert_eq!(self.not_zero(), None, "the disk does not read zero");
        let record = server.status.wiped.expect("a wipe leaves a record");
        assert!(holds(&record), "its signature holds");
        assert!(record.server.starts_with(&self.name()) && record.disks.len() == 1 && record.disks[0].verified > 0);
        assert!(server.status.is_clean && !server.status.in_use);
        record.order
    }

    /// Clean and free: off, or holding where nobody could switch it on again.
    pub fn rest(&mut self) {
        if self.bmc.is_some() {
            self.until("off", |s| (s.status.reason == "Off" && s.status.power == "off").then_some(()));
            self.until_on(false);
        } else {
            self.until("free", |s| (s.status.reason == "Free").then_some(()));
            assert!(self.machine.is_on());
        }
    }

    /// Declares a class with its Environment, and allocates out of it; returns when the installer has begun.
    pub fn install(&mut self) {
        self.declare_class();
        self.allocate();
        self.until("installing", |s| {
            let begun = matches!(s.status.phase, Some(Phase::Installing | Phase::Running));
            begun.then_some(())
        });
    }

    pub fn until_running(&mut self) -> Server {
        let server = self.until("running, by its own word", |s| {
            (s.status.phase == Some(Phase::Running) && s.status.reason == "Reported").then(|| s.clone())
        });
        let install = server.status.install.clone().unwrap();
        for at in [&install.started, &install.config_fetched, &install.installed, &install.running] {
            assert!(!at.is_empty(), "{install:?}");
        }
        let digest: String = Sha256::digest(CONFIG).iter().map(|b| format!("{b:02x}")).collect();
        self.until_console(&format!("stoker-os: up: source=installer hostname=none config={digest}"), 1);
        server
    }

    /// Somebody switches the running machine off and on; it even asks the network first.
    pub fn boot_again(&mut self) {
        const STARTED: &str = "stoker-os: started";
        const REPORTED: &str = "stoker-os: reported running";
        let starts = self.console(STARTED);
        // What it says to control comes before what it says on its console.
        self.until_console(REPORTED, starts);
        if self.bmc.is_some() {
            self.power(&["pxe", "--cycle"]);
        } else {
            self.by_hand(Action::Cycle);
        }
        self.until_console(STARTED, starts + 1);
        self.until_console(REPORTED, starts + 1);
        assert_eq!(self.console("stoker-installer: started"), 1, "it was installed again");
        assert!(self.log().contains("script: local disk"), "{}", self.log());
        let server = self.server().unwrap();
        assert_eq!(server.status.phase, Some(Phase::Running));
    }

    pub fn release(&mut self) {
        self.stoker(&["release", "node-1"]);
        self.until("leaving", |s| (s.status.phase != Some(Phase::Running)).then_some(()));
        if self.bmc.is_none() {
            self.until("a hand", |s| s.status.next.contains("by hand").then_some(()));
            self.by_hand(Action::Reset);
        }
    }
}
