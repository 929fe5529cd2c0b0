//! The boots of many machines at a glance: a table for a screen, lines for a log.

use super::super::{table, time};
use control::api::types::{BootSummary, WatchLine};
use control::observe::Milestone;
use protocol::event::{Outcome, Proto};
use protocol::id::Mac;
use std::collections::BTreeMap;

/// The latest boot of each machine.
#[derive(Default)]
pub struct View {
    boots: BTreeMap<Mac, BootSummary>,
    names: BTreeMap<Mac, String>,
    /// Boots that began before are not shown, ms since 1970 UTC.
    since_ms: u64,
    synced: bool,
}

impl View {
    /// Calls a machine by a name instead of its address.
    pub fn name(&mut self, mac: Mac, name: &str) {
        self.names.insert(mac, name.to_owned());
    }

    /// Shows only boots that begin from now on: those of an earlier run are history.
    pub fn begin(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
        self.boots.clear();
    }

    /// Takes in the state of a boot.
    pub fn update(&mut self, boot: BootSummary) {
        self.boots.insert(boot.mac, boot);
    }

    /// The latest boot of a machine.
    pub fn boot(&self, mac: Mac) -> Option<&BootSummary> {
        self.boots.get(&mac)
    }

    /// Takes in a line of a watch; gives back what to print where there is no screen.
    pub fn take(&mut self, line: WatchLine) -> Vec<String> {
        let (boot, seen) = match line {
            WatchLine::Boot { boot, seen } => (boot, seen),
            WatchLine::Synced => {
                self.synced = true;
                return Vec::new();
            }
            WatchLine::Lagged { missed } => {
                return vec![format!("({missed} changes were missed: this reader was too slow)")];
            }
            WatchLine::Alive { .. } | WatchLine::Unknown => return Vec::new(),
        };
        if boot.started_ms < self.since_ms {
            return Vec::new();
        }
        let old = self.boots.get(&boot.mac);
        let mut words = Vec::new();
        if self.synced {
            let who = self.names.get(&boot.mac).cloned().unwrap_or_else(|| boot.mac.to_string());
            let at = seen.as_ref().map_or(boot.last_ms, |s| s.at_ms);
            let head = format!("{:>7}  {who:<18}", time::since(boot.started_ms, at));
            words.extend(seen.and_then(|s| describe(&s.what)).map(|text| format!("{head} {text}")));
            let reached = boot.reached_ms.filter(|_| old.is_none_or(|o| o.boot != boot.boot || o.reached_ms.is_none()));
            if let Some(at) = reached {
                let took = time::since(boot.started_ms, at);
                words.push(format!("{head} == {} after {took} s", boot.phase.name()));
            }
            if let Some(d) = boot.diagnosis.as_ref().filter(|d| old.and_then(|o| o.diagnosis.as_ref()) != Some(*d)) {
                words.push(format!("{head} !! {}", d.cause));
                words.push(format!("{head}    remedy: {}", d.remedy));
            }
        }
        self.update(boot);
        words
    }

    /// The table, machines in the order of their addresses.
    pub fn lines(&self, now_ms: u64) -> Vec<String> {
        if self.boots.is_empty() {
            return vec!["waiting for a machine to ask for an address ...".to_owned()];
        }
        let named = !self.names.is_empty();
        let mut rows = Vec::new();
        let mut notes = Vec::new();
        for boot in self.boots.values() {
            let name = self.names.get(&boot.mac).map_or("-", String::as_str).to_owned();
            let mut row = if named { vec![name] } else { Vec::new() };
            row.extend([
                boot.mac.to_string(),
                or_dash(&boot.firmware),
                boot.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string()),
                time::since(boot.started_ms, boot.reached_ms.unwrap_or(now_ms)) + " s",
                format!("{} {:>3}%", table::bar(boot.percent, 16), boot.percent),
                doing(boot),
            ]);
            rows.push(row);
            notes.push(boot.diagnosis.as_ref());
        }
        let headings = ["MACHINE", "MAC", "FIRMWARE", "ADDRESS", "TIME", "PROGRESS", "NOW"];
        let mut lines = table::columns(&headings[usize::from(!named)..], &rows);
        // Diagnoses stand below the machine that they are about.
        for (i, note) in notes.iter().enumerate().rev() {
            if let Some(d) = note {
                lines.insert(i + 2, format!("    !! {}", d.cause));
                lines.insert(i + 3, format!("       remedy: {}", d.remedy));
            }
        }
        lines
    }
}

fn doing(boot: &BootSummary) -> String {
    match boot.doing.as_str() {
        _ if boot.phase.is_goal() => boot.phase.name().to_owned(),
        "" => boot.phase.name().to_owned(),
        doing => doing.to_owned(),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

const fn proto(proto: Proto) -> &'static str {
    match proto {
        Proto::Tftp => "TFTP",
        Proto::Http => "HTTP",
    }
}

/// A milestone in a few words; `None` for those that would only make noise.
fn describe(what: &Milestone) -> Option<String> {
    use Milestone as M;
    Some(match what {
        M::PowerOn { name } => format!("switched on ({name})"),
        M::DhcpDiscover { client, relay } => match relay {
            Some(relay) => format!("DISCOVER from {client} through relay {relay}"),
            None => format!("DISCOVER from {client}"),
        },
        M::DhcpOffer { file, address } => match (address, file.as_str()) {
            (Some(address), "") => format!("OFFER {address}"),
            (Some(address), file) => format!("OFFER {address}, {file}"),
            (None, file) => format!("OFFER {file}"),
        },
        M::DhcpIgnored { why } => format!("not answered: {why}"),
        M::DhcpRequest { server: Some(server) } => format!("REQUEST to {server}"),
        M::DhcpRequest { server: None } => "REQUEST".to_owned(),
        M::PxeRequest => "PXE request on port 4011".to_owned(),
        M::DhcpAck { file } if file.is_empty() => "ACK".to_owned(),
        M::DhcpAck { file } => format!("ACK {file}"),
        M::DhcpNak { why } => format!("NAK: {why}"),
        M::ForeignOffer { server } => format!("another DHCP server answers: {server}"),
        M::FileStarted { proto: p, name, total, blksize, windowsize } => {
            let options =
                if *blksize > 0 { format!(", blksize {blksize}, windowsize {windowsize}") } else { String::new() };
            format!("{} {name} begins: {}{options}", proto(*p), time::bytes(*total))
        }
        M::Config { status: 200, .. } => "has its configuration".to_owned(),
        M::Config { status, why } => format!("its configuration is refused, HTTP {status}: {why}"),
        M::Report { event, detail } if detail.is_empty() => format!("reports {event}"),
        M::Report { event, detail } => format!("reports {event}: {detail}"),
        M::Power { action, done: None, .. } => format!("BMC: {action}"),
        M::Power { action, done: Some(false), why, .. } => format!("!! BMC: {action} failed: {why}"),
        M::Life { phase, why } if why.is_empty() => format!("== {phase}"),
        M::Life { phase, why } => format!("== {phase}: {why}"),
        M::AgentStatus { order: 0, .. } => return None,
        M::AgentStatus { order, level, detail } => format!("order {order} {level}: {detail}"),
        M::FileProgress { .. } | M::Power { .. } => return None,
        M::FileEnded { proto: p, name, outcome, bytes, elapsed_us, retries, why, .. } => {
            let (ms, us) = (elapsed_us / 1000, elapsed_us % 1000);
            let mut text = match outcome {
                Outcome::Complete => format!("{} {name} done: {} in {ms}.{us:03} ms", proto(*p), time::bytes(*bytes)),
                Outcome::Probe => format!("{} {name}: size asked", proto(*p)),
                Outcome::Unknown => format!("{} {name}: all sent, last ACK never came", proto(*p)),
                Outcome::Aborted => {
                    format!("{} {name} given up by the machine after {}", proto(*p), time::bytes(*bytes))
                }
                Outcome::TimedOut => {
                    format!("{} {name}: the machine fell silent after {}", proto(*p), time::bytes(*bytes))
                }
                Outcome::Failed => format!("{} {name} failed here after {}", proto(*p), time::bytes(*bytes)),
            };
            if *retries > 0 {
                text += &format!(", {retries} sent again");
            }
            if !why.is_empty() {
                text += &format!(" ({why})");
            }
            text
        }
        M::FileRefused { proto: p, name, why } => format!("{} {name} refused: {why}", proto(*p)),
        M::Script { to, status: 200, .. } => format!("script: to {to}"),
        M::Script { status, why, .. } => format!("script: {status} {why}"),
        M::AgentHello { summary, uptime_s, .. } => format!("agent, {uptime_s:.1} s after its kernel: {summary}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::api::types::{Diagnosis, Phase};
    use control::observe::Observation;

    fn boot(last: u8, phase: Phase) -> BootSummary {
        BootSummary {
            boot: 1,
            mac: Mac([0x52, 0x54, 0, 0, 0, last]),
            uuid: None,
            ip: None,
            firmware: "UEFI x64 PXE".to_owned(),
            phase,
            percent: 40,
            doing: "TFTP snponly.efi 40 %".to_owned(),
            started_ms: 1000,
            last_ms: 3000,
            reached_ms: None,
            diagnosis: None,
        }
    }

    fn line(boot: BootSummary, what: Option<Milestone>) -> WatchLine {
        let seen = what.map(|what| Observation { at_ms: 3500, mac: Some(boot.mac), ip: None, uuid: None, what });
        WatchLine::Boot { boot, seen }
    }

    #[test]
    fn lines_tell_what_is_new_and_only_that() {
        let mut view = View::default();
        view.name(boot(1, Phase::Dhcp).mac, "uefi-1");
        assert!(view.take(line(boot(1, Phase::Dhcp), None)).is_empty(), "present boots are not news");
        view.take(WatchLine::Synced);
        let words = view.take(line(boot(1, Phase::Dhcp), Some(Milestone::PxeRequest)));
        assert_eq!(words, ["    2.5  uefi-1             PXE request on port 4011"]);
        let mut done = boot(1, Phase::Agent);
        done.reached_ms = Some(9000);
        assert!(view.take(line(done.clone(), None)).concat().contains("agent ready after 8.0 s"));
        assert!(view.take(line(done, None)).is_empty(), "told once");
    }

    #[test]
    fn boots_of_an_earlier_run_are_history() {
        let mut view = View::default();
        view.begin(2000);
        view.take(line(boot(1, Phase::Agent), None));
        assert_eq!(view.boot(boot(1, Phase::Agent).mac), None);
        let later = BootSummary { started_ms: 2000, ..boot(1, Phase::Dhcp) };
        view.take(line(later, None));
        assert!(view.boot(boot(1, Phase::Agent).mac).is_some());
    }

    #[test]
    fn a_diagnosis_stands_below_its_machine() {
        let mut view = View::default();
        let mut stuck = boot(1, Phase::Loader);
        stuck.diagnosis =
            Some(Diagnosis { rule: "r".into(), cause: "no ACK".into(), remedy: "look".into(), since_ms: 0 });
        view.update(stuck);
        view.update(boot(2, Phase::Agent));
        let lines = view.lines(5000);
        assert_eq!(lines.len(), 5);
        assert!(lines[1].contains("4.0 s") && lines[1].contains("40%") && lines[1].contains("snponly"), "{}", lines[1]);
        assert!(lines[2].contains("no ACK") && lines[3].contains("look") && lines[4].contains("agent ready"));
    }
}
