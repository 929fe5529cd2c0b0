//! `stoker doctor`: what stands between this host and a rack that boots.
//!
//! One finding a line, each with its verdict, and a remedy where one is due.

mod dhcp;
mod files;
mod host;
mod network;
mod ports;

use super::api::Api;
use super::{Failure, Reach, table};
use control::api::types::Status;
use control::rack::{Images, accel};
use serde::Serialize;
use std::process::ExitCode;

/// Arguments of `stoker doctor`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker doctor                     this host, and the stoker that runs on it
  stoker doctor --interface eth1    the same, and who answers DHCP on that network
  stoker doctor --json | jq '.findings[] | select(.verdict != \"good\")'

With an interface it sends one DHCPDISCOVER of a PXE client, and never asks for the
address that it is offered. Exit code: 0 all good, 1 something deserves a look,
2 something stands in the way of booting.")]
pub struct Doctor {
    #[command(flatten)]
    reach: Reach,
    /// The interface that machines boot on [default: that of the running stoker]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// JSON in place of lines
    #[arg(long)]
    json: bool,
}

/// How a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be, or of no consequence.
    Good,
    /// Works, but not as well as it could, or only perhaps.
    Look,
    /// Machines will not boot.
    Bad,
}

/// One line of the report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at: `port udp/69`, `io_uring`.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    fn new(verdict: Verdict, what: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.to_owned(), verdict, text: text.into(), remedy: remedy.into() }
    }

    /// All is well.
    pub fn good(what: &str, text: impl Into<String>) -> Self {
        Self::new(Verdict::Good, what, text, "")
    }

    /// Deserves a look.
    pub fn look(what: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Look, what, text, remedy)
    }

    /// Stands in the way.
    pub fn bad(what: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Bad, what, text, remedy)
    }

    fn lines(&self) -> Vec<String> {
        let mark = match self.verdict {
            Verdict::Good => "good",
            Verdict::Look => "LOOK",
            Verdict::Bad => "BAD ",
        };
        let mut lines = vec![format!("{mark}  {:<18} {}", self.what, self.text)];
        if !self.remedy.is_empty() {
            lines.push(format!("{:25}remedy: {}", "", self.remedy));
        }
        lines
    }
}

impl Doctor {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let api = Api::new(&self.reach);
        let status = match api.get::<Status>("/api/v1/status").await {
            Ok(status) => Some(status),
            Err(Failure::Unreachable(_)) => None,
            Err(e) => return Err(e),
        };
        let findings = self.examine(status.as_ref()).await;
        let worst = findings.iter().map(|f| f.verdict).max().unwrap_or(Verdict::Good);
        if self.json {
            table::json(&serde_json::json!({ "verdict": worst, "findings": findings }))?;
        } else {
            findings.iter().flat_map(Finding::lines).for_each(|line| table::line(&line));
            table::line(&summary(&findings, worst));
        }
        Ok(ExitCode::from(worst as u8))
    }

    async fn examine(&self, status: Option<&Status>) -> Vec<Finding> {
        let mut findings = vec![running(status)];
        findings.extend(status.iter().flat_map(|s| s.problems.iter()).map(|p| Finding::bad("control", p, "")));
        findings.extend(ports::examine(status));
        let interface = self.interface.clone().or_else(|| status.and_then(|s| s.interface.clone()));
        findings.extend(network::examine(interface.as_deref(), status));
        findings.extend(host::examine());
        if let Some(namespace) = status.and_then(ports::other_network) {
            let command = format!("ip netns exec {namespace} stoker doctor");
            findings.push(Finding::good(
                "DHCP servers",
                format!("not looked for: that network is seen from inside, with `{command}`"),
            ));
        } else if let Some(interface) = &interface {
            findings.extend(dhcp::examine(interface, status));
        } else {
            findings.push(Finding::good("DHCP servers", "not looked for: name the boot network with --interface"));
        }
        if let Some(status) = status {
            findings.extend(files::examine(status).await);
        }
        let verdict = accel::decide(&Images::new(None));
        findings.push(Finding::good("virtual rack", format!("would run on {verdict}")));
        findings
    }
}

fn running(status: Option<&Status>) -> Finding {
    match status {
        None => Finding::good("stoker", "does not run here: what follows is about starting it"),
        Some(s) => match &s.edge {
            Some(edge) if edge.alive => Finding::good(
                "stoker",
                format!(
                    "runs: control pid {}, edge pid {} ({}), generation {}",
                    s.pid, edge.pid, edge.driver, edge.generation
                ),
            ),
            _ => Finding::bad(
                "stoker",
                "control runs, the edge does not: no file can be served",
                "start stoker-edge with the same --state",
            ),
        },
    }
}

fn summary(findings: &[Finding], worst: Verdict) -> String {
    let count = |v| findings.iter().filter(|f| f.verdict == v).count();
    match worst {
        Verdict::Good => format!("all {} checks are good", findings.len()),
        Verdict::Look => format!(
            "{} of {} checks deserve a look; nothing stands in the way of booting",
            count(Verdict::Look),
            findings.len()
        ),
        Verdict::Bad => format!("{} of {} checks stand in the way of booting", count(Verdict::Bad), findings.len()),
    }
}
