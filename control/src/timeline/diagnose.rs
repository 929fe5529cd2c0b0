//! Why does this machine not boot? Rules over one boot and the time: each names
//! one cause and one remedy. Pure: the same boot at the same time gets the same
//! answer.

use super::story::target;
use crate::api::types::{Boot, Diagnosis, Phase, Step, StepState};

/// An offer that nobody takes up after so long was refused or never arrived
/// (firmware asks again after 4, 8 and 16 s).
const OFFER_MS: u64 = 20_000;
/// Firmware of servers asks for an address within two to five minutes of power-on, and is then looked at by people.
const POWER_MS: u64 = 300_000;
/// Firmware asks for its boot file within a second of its lease.
const ASK_MS: u64 = 15_000;
/// A transfer without any news. TFTP clients repeat themselves every 4 s at most.
const STALL_MS: u64 = 30_000;
/// iPXE starts, waits for the link and asks for its script.
const LOADER_MS: u64 = 60_000;
/// A kernel with the agent reports well within this time, even under emulation.
const AGENT_MS: u64 = 120_000;
/// A broken transfer is tried again by most firmware at once.
const BROKEN_MS: u64 = 6_000;

type Rule = fn(&Boot, u64) -> Option<Found>;

struct Found {
    rule: &'static str,
    cause: String,
    remedy: String,
    since_ms: u64,
}

/// Asked in this order: the first that speaks is right.
const RULES: [Rule; 10] = [
    script_refused,
    file_refused,
    transfer_broken,
    transfer_stalled,
    dhcp_not_answered,
    offer_without_request,
    file_not_asked,
    loader_silent,
    nothing_after_script,
    nothing_after_power_on,
];

/// The diagnosis of a boot, or nothing when all is well.
pub fn diagnose(boot: &Boot, now_ms: u64) -> Option<Diagnosis> {
    if boot.summary.phase.is_goal() {
        return None;
    }
    let Found { rule, cause, remedy, since_ms } = RULES.iter().find_map(|rule| rule(boot, now_ms))?;
    Some(Diagnosis { rule: rule.into(), cause, remedy, since_ms })
}

fn found(rule: &'static str, step: &Step, cause: String, remedy: &str) -> Option<Found> {
    Some(Found { rule, cause, remedy: remedy.into(), since_ms: step.last_ms })
}

fn last<'a>(boot: &'a Boot, kind: &str) -> Option<&'a Step> {
    boot.steps.iter().filter(|s| s.kind == kind).max_by_key(|s| s.last_ms)
}

/// How long a step has been the last sign of life.
fn quiet_since(boot: &Boot, step: &Step, now_ms: u64) -> Option<u64> {
    let newer = boot.steps.iter().any(|s| s.at_ms > step.last_ms);
    (!newer).then(|| now_ms.saturating_sub(step.last_ms))
}

fn script_refused(boot: &Boot, _: u64) -> Option<Found> {
    let step = last(boot, "script").filter(|s| s.state == StepState::Failed)?;
    let what = step.title.trim_start_matches("script: ");
    let remedy = if step.detail.starts_with("HTTP 412") {
        "wait until the environment is ready, or correct its URL or digest: stoker environments"
    } else {
        "correct what the answer says in stoker.yaml, then restart stoker-control"
    };
    found("script-refused", step, format!("iPXE asked for its script ({what}) and got {}", step.detail), remedy)
}

fn file_refused(boot: &Boot, _: u64) -> Option<Found> {
    let step = last(boot, "file_refused").filter(|s| s.state == StepState::Failed)?;
    let name = step.title.trim_end_matches(" refused");
    let came_later = boot.steps.iter().any(|s| s.kind == "file" && (s.title == name || s.at_ms > step.last_ms));
    if came_later {
        return None;
    }
    let remedy = "publish that file (the bundle's files: stoker status), or name another one under dhcp.files";
    found("file-refused", step, format!("{name} was refused: {}", step.detail), remedy)
}

fn transfer_broken(boot: &Boot, now_ms: u64) -> Option<Found> {
    let step = last(boot, "file").filter(|s| s.state == StepState::Failed)?;
    quiet_since(boot, step, now_ms).filter(|quiet| *quiet >= BROKEN_MS)?;
    let remedy = if step.bytes == 0 {
        "no data was acknowledged: look for a firewall between stoker and the machine (UDP ports above 1024 for TFTP)"
    } else {
        "look at the path: packet loss, or an MTU below 1500 (then lower the edge's block size)"
    };
    found(
        "transfer-broken",
        step,
        format!("{} ended after {} of {} bytes ({})", step.title, step.bytes, step.total, step.detail),
        remedy,
    )
}

fn transfer_stalled(boot: &Boot, now_ms: u64) -> Option<Found> {
    let step = last(boot, "file").filter(|s| s.state == StepState::Running)?;
    quiet_since(boot, step, now_ms).filter(|quiet| *quiet >= STALL_MS)?;
    let cause = format!("{} was asked for and never finished: {} of {} bytes", step.title, step.bytes, step.total);
    let remedy = "see whether the machine still has power and link; a slow link shows progress here";
    found("transfer-stalled", step, cause, remedy)
}

fn nothing_after_power_on(boot: &Boot, now_ms: u64) -> Option<Found> {
    let step = last(boot, "power_on")?;
    let quiet = quiet_since(boot, step, now_ms).filter(|quiet| *quiet >= POWER_MS)?;
    let cause = format!("it was switched on {} s ago and has not asked for an address", quiet / 1000);
    let remedy = "look at its console: network boot must be first in the boot order, and the boot NIC must have a link";
    found("nothing-after-power-on", step, cause, remedy)
}

fn dhcp_not_answered(boot: &Boot, _: u64) -> Option<Found> {
    let step = last(boot, "dhcp_ignored")?;
    let answered = ["dhcp_offer", "dhcp_ack"].iter().any(|kind| last(boot, kind).is_some());
    if answered || boot.summary.phase > Phase::Ipxe {
        return None;
    }
    let remedy = "change the dhcp section of stoker.yaml if it should boot (policy, files, relays, pools)";
    found("dhcp-not-answered", step, format!("its DHCP is not answered: {}", step.detail), remedy)
}

fn offer_without_request(boot: &Boot, now_ms: u64) -> Option<Found> {
    let offer = last(boot, "dhcp_offer")?;
    let taken =
        ["dhcp_request", "pxe_request", "dhcp_ack", "file", "script"].iter().any(|kind| last(boot, kind).is_some());
    if taken || now_ms.saturating_sub(offer.at_ms) < OFFER_MS {
        return None;
    }
    let address = offer.detail.starts_with("address");
    let (cause, remedy) = if address {
        (
            "an address was offered, but the machine never took it up",
            "look for another DHCP server whose offer it takes (stoker doctor), or a relay that loses the answer",
        )
    } else if last(boot, "foreign_offer").is_some() {
        (
            "boot files were offered beside another server's address, but the machine took up neither",
            "check that machine and server share a VLAN without DHCP snooping that drops our offers",
        )
    } else {
        (
            "only the boot file was offered (proxy mode) and no server gives the machine an address",
            "start a DHCP server on that network, or set dhcp.mode: server",
        )
    };
    found("offer-without-request", offer, cause.into(), remedy)
}

fn file_not_asked(boot: &Boot, now_ms: u64) -> Option<Found> {
    let step = last(boot, "dhcp_ack").or_else(|| last(boot, "dhcp_request"))?;
    let asked = ["file", "file_refused", "script"].iter().any(|kind| last(boot, kind).is_some());
    if asked || now_ms.saturating_sub(step.last_ms) < ASK_MS {
        return None;
    }
    let remedy = "open UDP 69 and TCP 8080 and 8081 to this host, and see that stoker-edge runs (stoker doctor)";
    found("file-not-asked", step, "the machine has its address but never asked for its boot file".into(), remedy)
}

fn loader_silent(boot: &Boot, now_ms: u64) -> Option<Found> {
    if boot.summary.phase != Phase::Ipxe {
        return None;
    }
    let step = boot.steps.iter().filter(|s| s.state == StepState::Ok).max_by_key(|s| s.last_ms)?;
    quiet_since(boot, step, now_ms).filter(|quiet| *quiet >= LOADER_MS)?;
    let cause = "the boot program was loaded, but never asked for its script".to_owned();
    let remedy =
        "switch Secure Boot off or use a signed loader, check that the file fits the processor, and open TCP 8081";
    found("loader-silent", step, cause, remedy)
}

fn nothing_after_script(boot: &Boot, now_ms: u64) -> Option<Found> {
    let step = boot.steps.iter().max_by_key(|s| s.last_ms)?;
    let quiet = quiet_since(boot, step, now_ms)?;
    match boot.summary.phase {
        Phase::Script if quiet >= ASK_MS => {
            let remedy = "open TCP 8080 to this host and see that stoker-edge runs (stoker doctor)";
            found(
                "kernel-not-asked",
                step,
                "the script was given out, but the kernel was never asked for".into(),
                remedy,
            )
        }
        Phase::Kernel | Phase::Initrd if quiet >= LOADER_MS => {
            let remedy = "look at the machine's console: iPXE says there what it cannot load";
            found("load-stopped", step, "part of kernel and initrd was loaded, then nothing more".into(), remedy)
        }
        Phase::Starting if quiet >= AGENT_MS => {
            let what = target(boot).unwrap_or("the agent");
            let cause = format!("kernel and initrd of {what} were loaded {} s ago, but no agent reports", quiet / 1000);
            let remedy = "look at the machine's console (tty0, ttyS0): no driver for its network card, too little memory, or TCP 8081 closed";
            found("no-agent", step, cause, remedy)
        }
        _ => None,
    }
}
