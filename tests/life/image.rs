//! The life of a machine whose system is a disk image that the agent writes.

use crate::world::{CONFIG, Case, World};
use control::rack::Firmware;
use control::resource::Phase;
use sha2::{Digest as _, Sha256};

#[test]
fn the_life_of_a_machine_that_gets_a_disk_image() {
    let _one = crate::lock();
    let mut w = World::new(Case::new("life-image", Firmware::Uefi));
    w.discover();
    w.accept();
    w.clean();
    w.rest();

    w.declare_image_class();
    w.allocate();
    let server = w.until("running, by its own word", |s| {
        (s.status.phase == Some(Phase::Running) && s.status.reason == "Reported").then(|| s.clone())
    });
    let install = server.status.install.clone().unwrap();
    assert!(!install.installed.is_empty() && !install.config_fetched.is_empty(), "{install:?}");
    let digest: String = Sha256::digest(CONFIG).iter().map(|b| format!("{b:02x}")).collect();
    w.until_console(&format!("stoker-os: up: source=NoCloud hostname=node-1 config={digest}"), 1);
    assert_eq!(w.console("stoker-installer: started"), 0, "no installer was booted");

    w.release();
    w.clean();
    w.rest();
    println!("{}", w.log());
    w.end();
}
