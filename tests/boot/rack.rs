//! The rack by itself: firmware runs, asks for an address on the rack's own
//! network, and nothing stays behind.

use control::rack::{Firmware, Images, Machine, Network, Spec};
use std::path::Path;
use std::time::{Duration, Instant};
use stoker_tests::ways;

/// From power-on to the firmware's DHCP request at a foreign DHCP server: 3 to 8 s measured.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn bios_firmware_asks_a_foreign_server_for_its_address() {
    firmware_asks(Firmware::Bios);
}

#[test]
fn uefi_firmware_asks_a_foreign_server_for_its_address() {
    firmware_asks(Firmware::Uefi);
}

fn firmware_asks(firmware: Firmware) {
    let _one = crate::lock();
    let dir = tempfile::tempdir().unwrap();
    let images = Images::new(ways::bundle().as_deref());
    let accel = ways::accel(&images);
    let mut network = Network::create().unwrap();
    let name = network.name().to_owned();
    network.start_foreign_dhcp(dir.path()).unwrap();

    let spec = Spec::new(&format!("alone-{firmware}"), firmware);
    let mac = spec.mac().to_string();
    let mut machine = Machine::start(spec, &network, &images, accel, dir.path()).unwrap();
    let asked = |line: &str| line.contains("DHCPDISCOVER") && line.contains(&mac);
    let began = Instant::now();
    while !Network::foreign_log(dir.path()).lines().any(asked) {
        assert!(machine.is_on(), "QEMU ended: {:?}", machine.console_tail(10));
        assert!(began.elapsed() < LIMIT, "no DHCPDISCOVER in {LIMIT:?}: {:?}", machine.console_tail(20));
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{firmware}: DHCPDISCOVER {:.1} s after power-on", machine.since().elapsed().as_secs_f64());

    machine.stop();
    assert!(!machine.is_on());
    drop(network);
    for gone in [name.clone(), format!("{name}-dhcp")] {
        assert!(!Path::new("/run/netns").join(&gone).exists(), "{gone} was left behind");
    }
}
