//! The story of one boot: a pure fold of observations into steps.

use crate::api::types::{Boot, BootSummary, Phase, Step, StepState};
use crate::limits;
use crate::observe::{Milestone, Observation};
use protocol::event::{Outcome, Proto};
use protocol::id::Mac;

/// A boot of which nothing has been seen yet.
pub fn begin(number: u64, mac: Mac, at_ms: u64) -> Boot {
    Boot {
        summary: BootSummary {
            boot: number,
            mac,
            uuid: None,
            ip: None,
            firmware: String::new(),
            phase: Phase::Dhcp,
            percent: 0,
            doing: String::new(),
            started_ms: at_ms,
            last_ms: at_ms,
            reached_ms: None,
            diagnosis: None,
        },
        steps: Vec::new(),
        steps_lost: 0,
    }
}

/// Whether this observation cannot belong to that boot, but begins another.
pub fn begins_another(boot: &Boot, seen: &Observation) -> bool {
    let s = &boot.summary;
    let silent = seen.at_ms.saturating_sub(s.last_ms) > u64::try_from(limits::BOOT_GAP.as_millis()).unwrap_or(u64::MAX);
    match &seen.what {
        Milestone::PowerOn { .. } => !boot.steps.is_empty(),
        // Firmware asks again and again while nobody answers; once it has loaded something, it starts over.
        Milestone::DhcpDiscover { client, .. } if is_firmware(client) => silent || s.phase > Phase::Dhcp,
        // iPXE asks after the loader (the same boot), in rounds while it has no script (the same), or as a ROM.
        Milestone::DhcpDiscover { client, .. } if client.starts_with("iPXE") => silent || s.phase >= Phase::Kernel,
        Milestone::DhcpDiscover { .. } => false,
        // Tried again while nothing has come of it, it is the same boot.
        Milestone::Power { starts: true, done: None, .. } => boot.steps.iter().any(|s| s.kind != "power"),
        // A ROM whose DHCP another server handles shows up with its script.
        Milestone::Script { .. } => silent || s.phase.is_goal(),
        Milestone::FileStarted { name, .. } => {
            silent || (s.phase.is_goal() && s.phase != Phase::Handed && role(name) == Phase::Loader)
        }
        Milestone::AgentHello { uptime_s, .. } => match s.reached_ms {
            // Its kernel started after the last boot was over: we missed what came between.
            Some(reached) if s.phase == Phase::Agent => {
                seen.at_ms.saturating_sub((uptime_s.clamp(0.0, 1e9) * 1000.0) as u64) > reached
            }
            _ => false,
        },
        _ => false,
    }
}

/// Takes one observation into a boot.
pub fn fold(boot: &mut Boot, seen: &Observation) {
    let s = &mut boot.summary;
    s.last_ms = s.last_ms.max(seen.at_ms);
    s.ip = seen.ip.or(s.ip);
    s.uuid = seen.uuid.or(s.uuid);
    let at = seen.at_ms;
    use StepState::{Failed, Ok, Running, Warn};
    match &seen.what {
        Milestone::PowerOn { name } => note(boot, at, "power_on", "switched on".into(), name.clone(), Ok),
        Milestone::DhcpDiscover { client, relay } => {
            if boot.summary.firmware.is_empty() && !client.starts_with("Linux") {
                boot.summary.firmware.clone_from(client);
            }
            let through = relay.map(|r| format!("through relay {r}")).unwrap_or_default();
            note(boot, at, "dhcp_discover", format!("DISCOVER ({client})"), through, Ok);
            if client.starts_with("iPXE") {
                advance(boot, Phase::Ipxe);
            }
        }
        Milestone::DhcpOffer { file, address } => {
            let title = if file.is_empty() { "OFFER".to_owned() } else { format!("OFFER {file}") };
            note(boot, at, "dhcp_offer", title, address.map(|a| format!("address {a}")).unwrap_or_default(), Ok);
            boot.summary.ip = address.or(boot.summary.ip);
        }
        Milestone::DhcpIgnored { why } => note(boot, at, "dhcp_ignored", "not answered".into(), why.clone(), Warn),
        Milestone::DhcpRequest { server } => {
            let to = server.map(|s| format!("to {s}")).unwrap_or_default();
            note(boot, at, "dhcp_request", "REQUEST".into(), to, Ok);
        }
        Milestone::PxeRequest => note(boot, at, "pxe_request", "PXE REQUEST (4011)".into(), String::new(), Ok),
        Milestone::DhcpAck { file } => {
            note(boot, at, "dhcp_ack", format!("ACK {file}").trim_end().into(), String::new(), Ok)
        }
        Milestone::DhcpNak { why } => note(boot, at, "dhcp_nak", "NAK".into(), why.clone(), Warn),
        Milestone::ForeignOffer { server } => {
            note(boot, at, "foreign_offer", format!("OFFER of another server, {server}"), String::new(), Ok);
        }
        Milestone::FileStarted { proto, name, total, blksize, windowsize } => {
            let detail = match proto {
                Proto::Tftp => format!("blksize {blksize}, windowsize {windowsize}"),
                Proto::Http => String::new(),
            };
            note(boot, at, "file", title(*proto, name), detail, Running);
            transferred(boot, *proto, name, at, 0, *total);
            advance(boot, role(name));
        }
        Milestone::FileProgress { proto, name, bytes, total } => {
            if find(boot, "file", &title(*proto, name)).is_none() {
                note(boot, at, "file", title(*proto, name), String::new(), Running);
            }
            transferred(boot, *proto, name, at, *bytes, *total);
            advance(boot, role(name));
        }
        Milestone::FileEnded { proto, name, outcome, bytes, total, retries, elapsed_us, why } => {
            if find(boot, "file", &title(*proto, name)).is_none() {
                note(boot, at, "file", title(*proto, name), String::new(), Running);
            }
            transferred(boot, *proto, name, at, *bytes, *total);
            let (state, words) = outcome_words(*outcome, *bytes, *elapsed_us, *retries, why);
            if let Some(step) = find(boot, "file", &title(*proto, name)) {
                step.state = state;
                step.detail = if step.detail.is_empty() { words } else { format!("{}; {words}", step.detail) };
                step.detail.truncate(step.detail.floor_char_boundary(limits::NETWORK_TEXT));
            }
            // The datagram that told of its beginning may have been lost.
            advance(boot, role(name));
            if matches!(outcome, Outcome::Complete | Outcome::Unknown) {
                loaded(boot, role(name));
            }
        }
        Milestone::FileRefused { proto, name, why } => {
            let state = if plain(name).ends_with("autoexec.ipxe") { Warn } else { Failed };
            note(boot, at, "file_refused", format!("{} refused", title(*proto, name)), why.clone(), state);
            advance(boot, role(name));
        }
        Milestone::Script { to, status, why } => {
            let disk = to.starts_with("local disk");
            let state = if *status == 200 || disk { Ok } else { Failed };
            let words = if why.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {why}") };
            note(boot, at, "script", format!("script: {to}"), words, state);
            advance(
                boot,
                if disk {
                    Phase::Disk
                } else if *status == 200 {
                    Phase::Script
                } else {
                    Phase::Ipxe
                },
            );
        }
        Milestone::AgentHello { version, uptime_s, arch, summary } => {
            let arch = arch.map(|a| format!(" on {a}")).unwrap_or_default();
            let title = format!("agent {version}{arch}, {uptime_s:.1} s after its kernel started");
            note(boot, at, "agent_hello", title, summary.clone(), Ok);
            advance(boot, Phase::Agent);
        }
        Milestone::Config { status, why } => {
            let state = if *status == 200 { Ok } else { Failed };
            let title = if *status == 200 { "its configuration" } else { "its configuration refused" };
            note(boot, at, "config", title.into(), format!("HTTP {status} {why}").trim_end().into(), state);
        }
        Milestone::Report { event, detail } => {
            let state = if event == "install_failed" { Failed } else { Ok };
            note(boot, at, "report", format!("reports {event}"), detail.clone(), state);
        }
        Milestone::Power { action, done, why, .. } => {
            let state = match done {
                None => Running,
                Some(true) => Ok,
                Some(false) => Failed,
            };
            note(boot, at, "power", format!("BMC: {action}"), why.clone(), state);
        }
        Milestone::Life { phase, why } => note(boot, at, "life", format!("== {phase}"), why.clone(), Ok),
        Milestone::AgentStatus { order, level, detail } => {
            let state = if level == "failed" || level == "unsupported" { Failed } else { Ok };
            note(boot, at, "agent_status", format!("order {order}: {level}"), detail.clone(), state);
            advance(boot, Phase::Agent);
        }
    }
    settle(boot, at);
}

/// The last script that was given out, as it was announced.
pub fn target(boot: &Boot) -> Option<&str> {
    let step = boot.steps.iter().rev().find(|s| s.kind == "script" && s.state == StepState::Ok)?;
    step.title.strip_prefix("script: ")
}

fn is_firmware(client: &str) -> bool {
    !client.starts_with("iPXE") && !client.starts_with("Linux")
}

/// What a file is for, by its name.
fn role(name: &str) -> Phase {
    let file = plain(name).rsplit('/').next().unwrap_or_default();
    if file.ends_with(".ipxe") {
        Phase::Ipxe
    } else if file.starts_with("vmlinuz") || file.contains("kernel") {
        Phase::Kernel
    } else if file.starts_with("init") {
        Phase::Initrd
    } else {
        Phase::Loader
    }
}

/// The name without a leading slash and MAC.
fn plain(name: &str) -> &str {
    let name = name.trim_start_matches('/');
    match name.split_once('/') {
        Some((first, rest)) if first.parse::<Mac>().is_ok() => rest,
        _ => name,
    }
}

fn title(proto: Proto, name: &str) -> String {
    let proto = match proto {
        Proto::Tftp => "TFTP",
        Proto::Http => "HTTP",
    };
    format!("{proto} {}", plain(name))
}

fn find<'a>(boot: &'a mut Boot, kind: &str, title: &str) -> Option<&'a mut Step> {
    boot.steps.iter_mut().rev().find(|s| s.kind == kind && s.title == title)
}

/// Adds a step, or counts it once more where it was seen before.
fn note(boot: &mut Boot, at_ms: u64, kind: &str, title: String, detail: String, state: StepState) {
    if let Some(step) = find(boot, kind, &title) {
        step.count = step.count.saturating_add(1);
        step.last_ms = step.last_ms.max(at_ms);
        step.state = state;
        step.detail = detail;
        return;
    }
    if boot.steps.len() >= limits::STEPS {
        boot.steps_lost = boot.steps_lost.saturating_add(1);
        // The first step and what went wrong tell more than what went well.
        match boot.steps.iter().skip(1).position(|s| s.state == StepState::Ok) {
            Some(i) => drop(boot.steps.remove(i + 1)),
            None => return,
        }
    }
    boot.steps.push(Step {
        at_ms,
        last_ms: at_ms,
        kind: kind.into(),
        title,
        detail,
        state,
        bytes: 0,
        total: 0,
        count: 1,
    });
}

fn transferred(boot: &mut Boot, proto: Proto, name: &str, at_ms: u64, bytes: u64, total: u64) {
    if let Some(step) = find(boot, "file", &title(proto, name)) {
        step.bytes = bytes;
        step.total = total;
        step.last_ms = step.last_ms.max(at_ms);
    }
}

fn outcome_words(outcome: Outcome, bytes: u64, elapsed_us: u64, retries: u32, why: &str) -> (StepState, String) {
    let seconds = elapsed_us as f64 / 1e6;
    let mut words = format!("{bytes} bytes in {seconds:.2} s");
    if retries > 0 {
        words.push_str(&format!(", {retries} packets again"));
    }
    let (state, ended) = match outcome {
        Outcome::Complete => (StepState::Ok, ""),
        Outcome::Probe => (StepState::Ok, "asked for the size only"),
        Outcome::Unknown => (StepState::Ok, "the last acknowledgement never came"),
        Outcome::Aborted => (StepState::Failed, "the machine broke it off"),
        Outcome::TimedOut => (StepState::Failed, "the machine fell silent"),
        Outcome::Failed => (StepState::Failed, "the edge could not go on"),
    };
    for part in [ended, why].into_iter().filter(|p| !p.is_empty()) {
        words = format!("{words}; {part}");
    }
    (state, words)
}

fn advance(boot: &mut Boot, to: Phase) {
    let s = &mut boot.summary;
    // Late news of a file must not take a goal back; an agent after "OS started" is news.
    if !s.phase.is_goal() || to == Phase::Agent {
        s.phase = s.phase.max(to);
        if to == Phase::Agent {
            s.phase = Phase::Agent;
        }
    }
}

/// A file is there in full: what comes next?
fn loaded(boot: &mut Boot, role: Phase) {
    match role {
        Phase::Loader => advance(boot, Phase::Ipxe),
        Phase::Kernel | Phase::Initrd => {
            let done = |phase| {
                let mut files = boot.steps.iter().filter(|s| s.kind == "file");
                files.any(|s| s.state == StepState::Ok && self::role(s.title.get(5..).unwrap_or_default()) == phase)
            };
            if done(Phase::Kernel) && done(Phase::Initrd) {
                let os = target(boot).is_some_and(|t| t.starts_with("environment"));
                advance(boot, if os { Phase::Handed } else { Phase::Starting });
            }
        }
        _ => {}
    }
}

/// Brings the summary in line with the steps.
fn settle(boot: &mut Boot, at_ms: u64) {
    let file = boot.steps.iter().rev().find(|s| s.kind == "file" && s.state == StepState::Running);
    let share = file.filter(|f| f.total > 0).map_or(0.0, |f| (f.bytes as f64 / f.total as f64).min(1.0));
    let s = &mut boot.summary;
    let (from, to) = match s.phase {
        Phase::Dhcp => (2.0, 2.0),
        Phase::Loader => (5.0, 25.0),
        Phase::Ipxe => (30.0, 30.0),
        Phase::Script => (40.0, 40.0),
        Phase::Kernel => (42.0, 60.0),
        Phase::Initrd => (60.0, 88.0),
        Phase::Starting => (90.0, 90.0),
        Phase::Agent | Phase::Handed | Phase::Disk => (100.0, 100.0),
    };
    let percent: f64 = from + (to - from) * share;
    s.percent = s.percent.max(percent.clamp(0.0, 100.0) as u8);
    if s.phase.is_goal() && s.reached_ms.is_none() {
        s.reached_ms = Some(at_ms);
    }
    s.doing = match file {
        Some(f) if !s.phase.is_goal() => format!("{} {:.0} %", f.title, share * 100.0),
        _ => boot.steps.iter().max_by_key(|step| step.last_ms).map(|step| step.title.clone()).unwrap_or_default(),
    };
}
