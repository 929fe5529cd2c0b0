//! An arm64 server, from power-on to the agent's report: AAVMF, DHCP, TFTP,
//! iPXE, HTTP, Debian's arm64 kernel, our agent. Run by `make test-arm64`.
//!
//! Not part of `make test`: on an x86 host it needs another compiler, another
//! kernel and a processor that is emulated in any case.

use control::api::types::StepState;
use control::rack::{Firmware, Spec};
use protocol::id::Arch;
use std::time::Duration;
use stoker_tests::stage::{Stage, assert_true};

/// From power-on to the report: 30 s measured on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn an_arm64_server_boots_into_the_agent() {
    let spec = Spec { memory_mib: 640, ..Spec::new("arm64-1", Firmware::Arm64) };
    let mut stage = Stage::start_from(
        &bundle().expect("no bundle for arm64: make bundle-arm64"),
        None,
        &["--virtual-rack", "arm64", "--memory", "640"],
    );
    stage.ready();
    let record = stage.report_of(&spec, LIMIT);
    assert_true(&record, &spec);
    assert_eq!(record.hello.facts.arch, Some(Arch::Arm64));

    let story = stage.story_of(&spec);
    assert_eq!(story.boots.len(), 1, "one power-on is one boot: {story:#?}");
    let boot = &story.boots[0];
    let whole = |s: &&control::api::types::Step| s.state == StepState::Ok && s.total > 0 && s.bytes >= s.total;
    let loaded: Vec<&str> = boot.steps.iter().filter(whole).map(|s| s.title.as_str()).collect();
    for file in ["ipxe-arm64.efi", "env/agent-arm64/vmlinuz", "env/agent-arm64/initramfs"] {
        assert!(loaded.iter().any(|title| title.contains(file)), "no {file} in {loaded:?}");
    }
    stage.stop();
}
