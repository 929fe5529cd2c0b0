//! `stoker machines`, `stoker status`.

use super::api::Api;
use super::{Failure, Reach, table, time};
use control::api::types::{MachineList, MachineRecord, Status};
use control::observe::now_ms;
use std::process::ExitCode;

/// Arguments of `stoker machines`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker machines                                       one line a machine
  stoker machines 52:54:00:12:34:56                     everything about one, by MAC or UUID
  stoker machines --json | jq '.machines[].hello.facts.storage'")]
pub struct Machines {
    #[command(flatten)]
    reach: Reach,
    /// MAC address or UUID of one machine
    id: Option<String>,
    /// JSON, as the API gives it
    #[arg(long)]
    json: bool,
}

/// Arguments of `stoker status`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  stoker status     addresses, driver, what is published, and what stands in the way (exit code 1 then)"
)]
pub struct StatusArgs {
    #[command(flatten)]
    reach: Reach,
    /// JSON, as the API gives it
    #[arg(long)]
    json: bool,
}

impl Machines {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let api = Api::new(&self.reach);
        if let Some(id) = &self.id {
            let plain = id.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '-'));
            if !plain {
                return Err(Failure::Usage(format!("{id:?} is neither a MAC address nor a UUID")));
            }
            let record: MachineRecord = api.get(&format!("/api/v1/machines/{id}")).await?;
            if self.json {
                table::json(&record)?;
            } else {
                sheet(&record).iter().for_each(|line| table::line(line));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let list: MachineList = api.get("/api/v1/machines").await?;
        if self.json {
            table::json(&list)?;
        } else if list.machines.is_empty() {
            table::line("no machine has reported yet");
        } else {
            let rows: Vec<_> = list.machines.iter().map(row).collect();
            let headings = ["UUID", "MAC", "ADDRESS", "PRODUCT", "CORES", "MEMORY", "DISKS", "SEEN"];
            table::columns(&headings, &rows).iter().for_each(|line| table::line(line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(m: &MachineRecord) -> Vec<String> {
    let facts = &m.hello.facts;
    let disks: Vec<_> = facts.storage.iter().map(|d| time::bytes(d.size)).collect();
    vec![
        m.id.clone(),
        m.mac.map_or_else(dash, |mac| mac.to_string()),
        m.ip.map_or_else(dash, |ip| ip.to_string()),
        Some(facts.system.product_name.clone()).filter(|p| !p.is_empty()).unwrap_or_else(dash),
        facts.compute.total_core_count.to_string(),
        time::memory(facts.memory.total_bytes),
        if disks.is_empty() { dash() } else { disks.join(" ") },
        time::span(now_ms().saturating_sub(m.seen_ms.max(m.hello_ms))) + " ago",
    ]
}

fn sheet(m: &MachineRecord) -> Vec<String> {
    let (facts, hello) = (&m.hello.facts, &m.hello);
    let system = &facts.system;
    let mut lines = vec![
        format!(
            "machine    {} {} (serial {})",
            system.manufacturer,
            system.product_name,
            or_dash(&system.serial_number)
        ),
        format!("UUID       {}", m.uuid.map_or_else(|| "not set by its firmware".to_owned(), |u| u.to_string())),
        format!("booted by  {} {:?}", m.mac.map_or_else(dash, |mac| mac.to_string()), facts.firmware),
        format!("address    {}", m.ip.map_or_else(dash, |ip| ip.to_string())),
        format!("agent      {} (boot {})", hello.agent, hello.boot_id),
        format!("cores      {} ({} threads)", facts.compute.total_core_count, facts.compute.total_thread_count),
        format!(
            "memory     {} ({} usable)",
            time::memory(facts.memory.total_bytes),
            time::memory(facts.memory.usable_bytes)
        ),
    ];
    for p in &facts.compute.processors {
        lines.push(format!("processor  {} {}, {} cores", p.manufacturer, p.product_name, p.core_count));
    }
    for d in &facts.storage {
        lines.push(format!(
            "disk       {} {} {} {} {}",
            d.device_name,
            time::bytes(d.size),
            d.r#type,
            d.model,
            d.serial_number
        ));
    }
    for i in &facts.network {
        let (mac, link) = (i.mac.map_or_else(dash, |m| m.to_string()), if i.link { "link" } else { "no link" });
        lines.push(format!("interface  {} {mac} {} {link} {}", i.name, or_dash(&i.driver), i.addresses.join(" ")));
    }
    lines.extend(facts.gaps.iter().map(|gap| format!("not known  {gap}")));
    lines.extend(m.warnings.iter().map(|warning| format!("!! {warning}")));
    lines
}

impl StatusArgs {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let status: Status = Api::new(&self.reach).get("/api/v1/status").await?;
        if self.json {
            table::json(&status)?;
        } else {
            status_lines(&status).iter().for_each(|line| table::line(line));
        }
        Ok(ExitCode::from(u8::from(!status.problems.is_empty())))
    }
}

fn status_lines(s: &Status) -> Vec<String> {
    let interface = s.interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
    let mut lines = vec![
        format!("control   {} pid {}, up {}", s.version, s.pid, time::span(s.now_ms.saturating_sub(s.started_ms))),
        format!("address   {}{interface}, DHCP mode {}", s.address, s.dhcp_mode),
        format!("scripts   {}/boot.ipxe", s.control_url),
        format!("files     {}", s.edge_url),
        format!("bundle    {}", s.bundle.as_deref().unwrap_or("none: build one with `stoker-bundle build`")),
        format!("state     {}, generation {}", s.state_dir, s.generation),
    ];
    lines.push(match &s.edge {
        None => "edge      has never run with this state directory".to_owned(),
        Some(e) => {
            let alive = if e.alive { format!("pid {}", e.pid) } else { format!("NOT RUNNING (was pid {})", e.pid) };
            let listen: Vec<_> = e.listen.iter().map(|(service, at)| format!("{service} {}", at.join(" "))).collect();
            format!("edge      {alive}, driver {}, generation {}, {}", e.driver, e.generation, listen.join(", "))
        }
    });
    lines.push(format!("machines  {} known, {} booting", s.machines, s.booting));
    if let Some(edge) = &s.edge {
        lines.extend(edge.refused.iter().map(|(name, why)| format!("!! edge does not serve {name}: {why}")));
    }
    lines.extend(s.problems.iter().map(|problem| format!("!! {problem}")));
    lines
}

fn dash() -> String {
    "-".to_owned()
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
