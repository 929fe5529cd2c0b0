//! Firmware by firmware and driver by driver: from power-on to the agent's
//! report, which must tell the truth about the machine.

use control::api::types::{Boot, StepState};
use control::rack::{Firmware, Images, Machine, Network, Spec};
use std::time::{Duration, Instant};
use stoker_tests::stage::{Stage, assert_true};
use stoker_tests::ways;

/// Four times what was measured under TCG on two quiet cores, from power-on to the report.
const BIOS: Duration = Duration::from_secs(80);
const UEFI: Duration = Duration::from_secs(120);

#[test]
fn bios_pxe_uring() {
    in_a_virtual_rack(Firmware::Bios, "uring");
}

#[test]
fn bios_pxe_epoll() {
    in_a_virtual_rack(Firmware::Bios, "epoll");
}

#[test]
fn uefi_pxe_over_tftp_uring() {
    in_a_virtual_rack(Firmware::Uefi, "uring");
}

#[test]
fn uefi_pxe_over_tftp_epoll() {
    in_a_virtual_rack(Firmware::Uefi, "epoll");
}

#[test]
fn uefi_http_boot_uring() {
    in_a_virtual_rack(Firmware::UefiHttp, "uring");
}

#[test]
fn uefi_http_boot_epoll() {
    in_a_virtual_rack(Firmware::UefiHttp, "epoll");
}

#[test]
fn uefi_pxe_beside_a_foreign_dhcp_server_uring() {
    on_a_network_with_a_dhcp_server(Firmware::Uefi, "uring");
}

#[test]
fn uefi_pxe_beside_a_foreign_dhcp_server_epoll() {
    on_a_network_with_a_dhcp_server(Firmware::Uefi, "epoll");
}

#[test]
fn uefi_http_boot_beside_a_foreign_dhcp_server() {
    on_a_network_with_a_dhcp_server(Firmware::UefiHttp, "auto");
}

#[test]
fn d45_uefi_pxe_over_ipv6_beside_a_foreign_dhcp_server() {
    let _one = crate::lock();
    let dir = tempfile::tempdir().unwrap();
    let images = Images::new(ways::bundle().as_deref());
    let accel = ways::accel(&images);
    let mut network = Network::create().unwrap();
    network.start_foreign_dhcp_of_both_families(dir.path()).unwrap();
    let config = dir.path().join("stoker.yaml");
    std::fs::write(&config, "dhcp:\n  mode: proxy\n  v6: {enabled: true}\n").unwrap();
    let config = config.to_str().unwrap();
    let mut stage = Stage::start(Some(&network), &["--interface", "br0", "--config", config]);
    stage.ready();

    let spec = Spec { memory_mib: 640, ipv6: true, ..Spec::new("uefi-v6", Firmware::Uefi) };
    let machines = stage.state.with_file_name("machines");
    let began = Instant::now();
    let mut machine = Machine::start(spec.clone(), &network, &images, accel, &machines).unwrap();
    boots(&mut stage, &spec, "auto", began);
    let steps = &stage.story_of(&spec).boots[0].steps;
    let offered = |step: &&control::api::types::Step| step.title.contains("tftp://[fd77::1]/");
    assert!(steps.iter().any(|s| offered(&s)), "the boot file was not offered over IPv6: {steps:#?}");
    let log = Network::foreign_log(dir.path());
    assert!(log.contains("DHCPREPLY") && log.contains("fd77::1"), "no address by DHCPv6 from elsewhere: {log}");
    machine.stop();
    stage.stop();
}

#[test]
fn bios_pxe_beside_a_foreign_dhcp_server() {
    on_a_network_with_a_dhcp_server(Firmware::Bios, "auto");
}

/// `stoker up --virtual-rack FIRMWARE`: server mode, machine and network by stoker itself.
fn in_a_virtual_rack(firmware: Firmware, driver: &'static str) {
    let _one = crate::lock();
    ways::accel(&Images::new(ways::bundle().as_deref()));
    let driver = ways::usable(driver);
    let spec = Spec { memory_mib: 640, ..Spec::new(&format!("{firmware}-1"), firmware) };
    let mut stage = Stage::start(None, &["--virtual-rack", firmware.name(), "--memory", "640", "--driver", driver]);
    let status = stage.ready();
    assert_eq!(status.dhcp_mode, "server");
    boots(&mut stage, &spec, driver, Instant::now());
    assert_eq!(stage.story_of(&spec).boots[0].steps[0].kind, "power_on", "the story begins where the machine does");
    stage.stop();
}

/// `stoker up --interface br0`: beside dnsmasq, the machine is somebody else's.
fn on_a_network_with_a_dhcp_server(firmware: Firmware, driver: &'static str) {
    let _one = crate::lock();
    let dir = tempfile::tempdir().unwrap();
    let images = Images::new(ways::bundle().as_deref());
    let accel = ways::accel(&images);
    let driver = ways::usable(driver);
    let mut network = Network::create().unwrap();
    network.start_foreign_dhcp(dir.path()).unwrap();
    let mut stage = Stage::start(Some(&network), &["--interface", "br0", "--driver", driver]);
    let status = stage.ready();
    assert_eq!((status.dhcp_mode.as_str(), status.interface.as_deref()), ("proxy", Some("br0")));

    let spec = Spec { memory_mib: 640, ..Spec::new(&format!("{firmware}-2"), firmware) };
    let machines = stage.state.with_file_name("machines");
    let began = Instant::now();
    let mut machine = Machine::start(spec.clone(), &network, &images, accel, &machines).unwrap();
    boots(&mut stage, &spec, driver, began);
    let log = Network::foreign_log(dir.path());
    assert!(log.contains("DHCPACK") && log.contains(&spec.mac().to_string()), "the address came from elsewhere: {log}");
    machine.stop();
    stage.stop();
}

fn boots(stage: &mut Stage, spec: &Spec, driver: &str, began: Instant) {
    let limit = if spec.firmware.is_uefi() { UEFI } else { BIOS };
    let record = stage.report_of(spec, limit);
    println!("{}, {driver}: agent's report {:.1} s after power-on", spec.name, began.elapsed().as_secs_f64());
    assert_true(&record, spec);

    let status = stage.ready();
    let running = status.edge.map(|e| e.driver).unwrap_or_default();
    assert!(driver == "auto" || running == driver, "asked for {driver}, runs {running}");

    let story = stage.story_of(spec);
    assert_eq!(story.boots.len(), 1, "one power-on is one boot: {story:#?}");
    let boot = &story.boots[0];
    assert_eq!((boot.summary.percent, boot.summary.diagnosis.as_ref()), (100, None), "{story:#?}");
    assert!(boot.steps.iter().all(|s| s.state != StepState::Failed), "{story:#?}");
    for kind in ["dhcp_discover", "script", "agent_hello"] {
        assert!(boot.steps.iter().any(|s| s.kind == kind), "no {kind} in {story:#?}");
    }
    let loaded = |name: &str| whole_files(boot).any(|title| title.contains(name));
    assert!(loaded("vmlinuz") && loaded("initramfs"), "{story:#?}");
    match spec.firmware {
        Firmware::Uefi | Firmware::Arm64 => {
            assert!(whole_files(boot).any(|t| t.starts_with("TFTP") && t.contains(".efi")), "{story:#?}")
        }
        Firmware::UefiHttp => {
            assert!(whole_files(boot).any(|t| t.starts_with("HTTP") && t.contains(".efi")), "{story:#?}")
        }
        // QEMU's option ROM is an iPXE: nothing is chained.
        Firmware::Bios => {}
    }
}

fn whole_files(boot: &Boot) -> impl Iterator<Item = &str> {
    let whole = |s: &&control::api::types::Step| s.state == StepState::Ok && s.total > 0 && s.bytes >= s.total;
    boot.steps.iter().filter(whole).map(|s| s.title.as_str())
}
