//! KVM or TCG: which of QEMU's two ways to run a processor works here.
//!
//! A writable `/dev/kvm` proves little: nested software KVMs offer one, and
//! stop the firmware with an internal error at the first instruction that they
//! cannot emulate. So KVM is taken only where the processor itself has the
//! extension *and* a short probe really runs firmware; else TCG, which runs
//! everything, some ten times slower.

use super::process::Process;
use super::qmp::Qmp;
use super::{Firmware, Images};
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the probe lets firmware run. A nested KVM that cannot was seen to stop it within 0.8 s.
const PROBE: Duration = Duration::from_secs(2);

/// How QEMU runs the processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// The host's processor, by KVM.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accel {
    /// `kvm` or `tcg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The choice, and the reason in words for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What to use.
    pub accel: Accel,
    /// Why.
    pub why: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.accel {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG (software emulation)",
        };
        write!(f, "{name}: {}", self.why)
    }
}

/// Decides for this host. Takes two seconds where KVM may work, none where it cannot.
pub fn decide(images: &Images) -> Verdict {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").map(drop);
    let tcg = |why| Verdict { accel: Accel::Tcg, why };
    if let Err(why) = may_work(&cpuinfo, kvm.map_err(|e| e.to_string())) {
        return tcg(why);
    }
    match probe(images) {
        Ok(()) => Verdict { accel: Accel::Kvm, why: "firmware ran in a probe of two seconds".to_owned() },
        Err(why) => tcg(format!("the probe of KVM failed: {why}")),
    }
}

/// What the processor and the device node tell, before any probe.
fn may_work(cpuinfo: &str, kvm: Result<(), String>) -> Result<(), String> {
    kvm.map_err(|e| format!("/dev/kvm cannot be opened ({e})"))?;
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    if !flags.flat_map(str::split_ascii_whitespace).any(|flag| matches!(flag, "vmx" | "svm")) {
        return Err("/dev/kvm is there, but the processor shows neither vmx nor svm: a nested software KVM \
                    cannot run firmware"
            .to_owned());
    }
    Ok(())
}

/// Runs firmware without disk or network for [`PROBE`] and asks QEMU how it fares.
fn probe(images: &Images) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = Command::new("qemu-system-x86_64");
    command.current_dir(dir.path()).args([
        "-accel",
        "kvm",
        "-cpu",
        CPU,
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
    ]);
    command.args(["-no-user-config", "-no-reboot", "-qmp", "unix:qmp,server=on,wait=off"]);
    // UEFI does the harder instructions and does them first.
    match images.flash(Firmware::Uefi) {
        Ok(flash) => {
            std::fs::copy(&flash.vars, dir.path().join("vars.fd")).map_err(|e| e.to_string())?;
            command.args(["-machine", "q35"]).args(super::machine::flash_args(&flash.code, Path::new("vars.fd")))
        }
        Err(_) => command.args(["-machine", "pc"]),
    };
    let log = dir.path().join("log");
    let mut qemu = Process::spawn("kvm-probe", command, &log).map_err(|e| e.to_string())?;
    let outcome = Qmp::connect(dir.path(), "qmp", Duration::from_secs(5)).and_then(|mut qmp| {
        qemu.wait(PROBE);
        qmp.status()
    });
    let ended = qemu.ended().is_some();
    qemu.stop(Duration::from_secs(2));
    match outcome {
        Ok(status) if status == "running" => Ok(()),
        Ok(status) => Err(format!("the machine went to state {status}")),
        Err(_) if ended => Err(last_line(&log)),
        Err(e) => Err(e.to_string()),
    }
}

/// The processor model under KVM: some nested hosts refuse the MSR of `arch-capabilities`.
pub(super) const CPU: &str = "host,-arch-capabilities";

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("QEMU ended without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_the_device_and_the_extension() {
        let vmx = "processor\t: 0\nflags\t\t: fpu vmx sse2\n";
        assert_eq!(may_work(vmx, Ok(())), Ok(()));
        assert!(may_work("flags : fpu svm\n", Ok(())).is_ok());
        assert!(may_work("flags : fpu svml vmxx\nvmx flags : ept\n", Ok(())).unwrap_err().contains("nested"));
        assert!(may_work(vmx, Err("Permission denied".to_owned())).unwrap_err().contains("Permission denied"));
    }
}
