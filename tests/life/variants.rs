//! The same life with something that goes wrong.

use crate::story::live;
use crate::world::{Case, LIMIT, World};
use control::rack::Firmware;
use control::rack::bmc::{Action, Faults};
use control::resource::{EffectState, OrderState, Phase};

/// Few enough that a wipe takes some seconds, for its samples are read one by one.
const SLOW_DISK: u32 = 60;

#[test]
fn control_may_be_killed_after_every_step() {
    live(Case::new("life-killed", Firmware::Bios), World::kill_control);
}

/// The edge dies while it sends a kernel, the machine's power is cut in the middle of its wipe and of its
/// installation, and nobody presses a button: its BMC's word is enough.
#[test]
fn power_may_be_cut_and_the_edge_be_killed_in_the_middle_of_everything() {
    let _one = crate::lock();
    let case = Case { iops: Some(SLOW_DISK), args: "stoker.pause=20", ..Case::new("life-cut", Firmware::Bios) };
    let mut w = World::new(case);
    w.power(&["pxe", "--cycle"]);
    w.until_log("vmlinuz");
    w.kill_edge();
    let spec = w.machine.spec().clone();
    w.stage.report_of(&spec, LIMIT);

    w.accept();
    let order =
        w.until("erasing", |s| s.status.order.as_ref().filter(|o| o.state == OrderState::Erasing).map(|o| o.id));
    w.by_hand(Action::Off);
    w.until_on(false);
    let cut = w.server().unwrap();
    assert_eq!(cut.status.phase, Some(Phase::Wiping), "the cut came too late to prove anything");
    assert_eq!(w.clean(), order, "the same order is taken up again");
    w.rest();

    w.install();
    w.until_console("stoker-installer: pausing", 1);
    w.by_hand(Action::Off);
    w.until_on(false);
    assert_eq!(w.server().unwrap().status.phase, Some(Phase::Installing));
    w.until_running();
    assert_eq!(w.console("stoker-installer: pausing"), 2, "it was installed from the beginning");
    println!("{}", w.log());
    w.end();
}

/// A BMC that is dead when it is needed, one that says "done" and does nothing, and one that says "off" of
/// a machine that is on.
#[test]
fn f22_a_bmc_may_be_dead_for_a_while_and_lie_once() {
    let _one = crate::lock();
    let mut w = World::new(Case::new("life-liar", Firmware::Bios));
    w.discover();
    w.accept();
    w.clean();
    w.rest();

    w.bmc.as_ref().unwrap().faults(Faults { silent: true, ..Faults::default() });
    w.declare_class();
    w.allocate();
    let why = w.until("a failed network boot", |s| {
        s.status.effect.as_ref().filter(|e| e.state == EffectState::Failed).map(|e| e.why.clone())
    });
    assert!(why.contains("BMC"), "{why}");
    assert!(!w.machine.is_on());
    let lie = Faults { ignores_power: true, once: true, ..Faults::default() };
    w.bmc.as_ref().unwrap().faults(lie);
    let why = w.until("the lie", |s| {
        s.status.effect.as_ref().filter(|e| e.state == EffectState::Failed && e.why != why).map(|e| e.why.clone())
    });
    assert!(why.contains("off"), "{why}");
    w.until_running();
    println!("{}", w.log());
    w.end();
}
