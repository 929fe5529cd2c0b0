//! The same life with something that goes wrong.

use crate::story::live;
use crate::world::{Case, World};
use control::rack::Firmware;

#[test]
fn control_may_be_killed_after_every_step() {
    live(Case::new("life-killed", Firmware::Bios), World::kill_control);
}

/// The edge dies while it sends a kernel; iPXE tries again, and the edge is started again.
#[test]
fn the_edge_may_be_killed_while_it_sends() {
    let _one = crate::lock();
    let mut w = World::new(Case::new("life-edge", Firmware::Bios));
    w.power(&["pxe", "--cycle"]);
    w.until_log("vmlinuz");
    w.kill_edge();
    let spec = w.machine.spec().clone();
    w.stage.report_of(&spec, crate::world::LIMIT);
    w.end();
}
