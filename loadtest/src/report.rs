//! The table and the JSON.

use crate::run::{Job, Run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One server over all rounds.
#[derive(Clone, Debug)]
pub struct Line {
    /// The server.
    pub server: String,
    /// Transfers begun.
    pub started: u64,
    /// Transfers that brought the file.
    pub completed: u64,
    /// What failed, by cause.
    pub failures: BTreeMap<String, u64>,
    /// Packets the nodes sent again.
    pub retransmissions: u64,
    /// CPU seconds a 10^9 bytes: median, least, most.
    pub cpu_per_gb: Option<[f64; 3]>,
    /// Part of the CPU time in user mode.
    pub user_part: Option<f64>,
    /// Median 10^6 bytes a second.
    pub throughput: f64,
    /// Transfer times at 50 %, 99 %, 99.9 % and the longest, milliseconds.
    pub total_ms: [f64; 4],
    /// Times to the first byte at 50 % and 99 %, milliseconds.
    pub first_byte_ms: [f64; 2],
    /// Cores used by the server and by the client, median.
    pub cores: (Option<f64>, f64),
    /// Largest resident set, 10^6 bytes.
    pub memory_mb: Option<f64>,
}

/// Sums up the runs, a line a server, in the order they first ran.
///
/// # Errors
/// Never: all tallies have the same bounds.
pub fn summarize(runs: &[Run]) -> anyhow::Result<Vec<Line>> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.server.as_str()) {
            names.push(&run.server);
        }
    }
    names.into_iter().map(|name| line(name, runs.iter().filter(|r| r.server == name))).collect()
}

fn line<'a>(server: &str, runs: impl Iterator<Item = &'a Run> + Clone) -> anyhow::Result<Line> {
    let mut sum = crate::tally::Tally::new()?;
    for run in runs.clone() {
        sum.add(&run.tally, false)?;
    }
    let of = |f: &dyn Fn(&Run) -> Option<f64>| runs.clone().filter_map(f).collect::<Vec<_>>();
    let seconds = |r: &Run| r.tally.elapsed.as_secs_f64().max(1e-9);
    let spent = of(&|r| Run::cpu_per_gb(r));
    let quantile = |h: &hdrhistogram::Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1e3;
    Ok(Line {
        server: server.to_owned(),
        started: sum.started,
        completed: sum.completed,
        cpu_per_gb: median(&spent).map(|m| {
            [m, spent.iter().copied().fold(f64::INFINITY, f64::min), spent.iter().copied().fold(0.0, f64::max)]
        }),
        user_part: median(&of(&|r| r.usage.map(|u| u.user.as_secs_f64() / u.total().as_secs_f64().max(1e-9)))),
        throughput: median(&of(&|r| Some(r.megabytes_per_second()))).unwrap_or(0.0),
        total_ms: [0.5, 0.99, 0.999, 1.0].map(|q| quantile(&sum.total, q)),
        first_byte_ms: [0.5, 0.99].map(|q| quantile(&sum.first_byte, q)),
        cores: (
            median(&of(&|r| r.usage.map(|u| u.total().as_secs_f64() / seconds(r)))),
            median(&of(&|r| Some(r.client.as_secs_f64() / seconds(r)))).unwrap_or(0.0),
        ),
        memory_mb: of(&|r| r.memory.map(|m| m as f64 / 1e6)).into_iter().reduce(f64::max),
        retransmissions: sum.retransmissions,
        failures: sum.failures,
    })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// How much of `other`'s CPU per GB the line needs.
pub fn ratio(line: &Line, other: &Line) -> Option<f64> {
    Some(line.cpu_per_gb?[0] / other.cpu_per_gb?[0])
}

/// A Markdown table, failures and ratios below it.
pub fn table(lines: &[Line]) -> String {
    let mut out = String::from(
        "| server | ok/started | resent | CPU s/GB | spread | user % | server core | client core | MB/s | p50 ms | p99 ms | p99.9 ms | first byte p50/p99 ms | memory MB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let or_dash = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
    for l in lines {
        let spread = l.cpu_per_gb.map_or_else(|| "-".to_owned(), |[_, low, high]| format!("{low:.3}-{high:.3}"));
        let [p50, p99, p999, _] = l.total_ms;
        let [f50, f99] = l.first_byte_ms;
        let (server, client) = l.cores;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {}/{} | {} | {} | {spread} | {} | {} | {client:.2} | {:.0} | {p50:.1} | {p99:.1} | {p999:.1} | {f50:.2}/{f99:.2} | {} |",
            l.server,
            l.completed,
            l.started,
            l.retransmissions,
            or_dash(l.cpu_per_gb.map(|c| c[0]), 3),
            or_dash(l.user_part.map(|u| u * 100.0), 0),
            or_dash(server, 2),
            l.throughput,
            or_dash(l.memory_mb, 0),
        );
    }
    for l in lines.iter().filter(|l| !l.failures.is_empty()) {
        let causes: Vec<String> = l.failures.iter().map(|(cause, n)| format!("{cause} ({n})")).collect();
        let _ = writeln!(out, "\n{} failed {}: {}", l.server, l.started - l.completed, causes.join(", "));
    }
    if let Some((first, rest)) = lines.split_first() {
        for other in rest {
            if let Some(ratio) = ratio(first, other) {
                let _ = writeln!(out, "\n{} needs {ratio:.3} of {}'s CPU per GB", first.server, other.server);
            }
        }
    }
    out
}

/// Everything, for machines.
pub fn json(job: &Job, runs: &[Run], lines: &[Line], command: &[String]) -> Value {
    let runs: Vec<Value> = runs
        .iter()
        .map(|r| {
            json!({
                "server": r.server, "round": r.round, "started": r.tally.started, "completed": r.tally.completed,
                "failures": r.tally.failures, "bytes": r.tally.bytes, "retransmissions": r.tally.retransmissions,
                "duplicates": r.tally.duplicates, "seconds": r.tally.elapsed.as_secs_f64(),
                "server_user_seconds": r.usage.map(|u| u.user.as_secs_f64()),
                "server_system_seconds": r.usage.map(|u| u.system.as_secs_f64()),
                "server_memory_bytes": r.memory, "client_seconds": r.client.as_secs_f64(),
                "cpu_seconds_per_gb": r.cpu_per_gb(),
            })
        })
        .collect();
    let lines: Vec<Value> = lines
        .iter()
        .map(|l| {
            json!({
                "server": l.server, "started": l.started, "completed": l.completed, "failures": l.failures,
                "cpu_seconds_per_gb": l.cpu_per_gb.map(|[median, least, most]| json!({"median": median, "least": least, "most": most})),
                "megabytes_per_second": l.throughput, "memory_mb": l.memory_mb,
                "transfer_ms": {"p50": l.total_ms[0], "p99": l.total_ms[1], "p999": l.total_ms[2], "max": l.total_ms[3]},
                "first_byte_ms": {"p50": l.first_byte_ms[0], "p99": l.first_byte_ms[1]},
            })
        })
        .collect();
    json!({
        "command": command, "machine": machine(),
        "file_bytes": job.image.len(), "clients": job.schedule.clients, "arrival": job.schedule.arrival.to_string(),
        "verified": job.verify, "how": format!("{:?}", job.how),
        "servers": lines, "runs": runs,
    })
}

/// Where this was measured: kernel, processor, cores.
pub fn machine() -> String {
    let uname = rustix::system::uname();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cores} cores, {model}", uname.release().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Usage;
    use crate::engine::Marks;
    use crate::tally::Tally;
    use protocol::time::Instant;
    use std::time::Duration;

    fn a_run(server: &str, round: u32, cpu_ms: u64) -> Run {
        let mut tally = Tally::new().unwrap();
        tally.started = 2;
        let marks =
            Marks { first_byte: Some(Instant::from_millis(1)), bytes: 500_000_000, retransmissions: 3, duplicates: 0 };
        tally.completed(Instant::ZERO, Instant::from_millis(10), &marks);
        tally.failed("no answer".to_owned(), &Marks::default());
        tally.elapsed = Duration::from_secs(1);
        let usage = Usage { user: Duration::ZERO, system: Duration::from_millis(cpu_ms) };
        Run {
            server: server.to_owned(),
            round,
            tally,
            usage: Some(usage),
            memory: Some(4_000_000),
            client: Duration::from_millis(500),
        }
    }

    #[test]
    fn medians_spread_ratios_and_failures_are_shown() {
        let mut runs = Vec::new();
        for (round, (ours, theirs)) in [(400, 1000), (100, 900), (200, 1100)].into_iter().enumerate() {
            runs.push(a_run("ours", round as u32 + 1, ours));
            runs.push(a_run("theirs", round as u32 + 1, theirs));
        }
        let lines = summarize(&runs).unwrap();
        assert_eq!(lines[0].cpu_per_gb, Some([0.4, 0.2, 0.8]));
        assert_eq!(ratio(&lines[0], &lines[1]), Some(0.2));
        assert_eq!((lines[0].started, lines[0].completed), (6, 3));
        let table = table(&lines);
        assert!(table.contains("| ours | 3/6 | 9 | 0.400 | 0.200-0.800 |"), "{table}");
        assert!(table.contains("ours failed 3: no answer (3)"), "{table}");
        assert!(table.contains("ours needs 0.200 of theirs's CPU per GB"), "{table}");
    }

    #[test]
    fn a_server_without_a_cost_has_no_ratio() {
        let mut dead = a_run("dead", 1, 5);
        dead.usage = None;
        let lines = summarize(&[a_run("ours", 1, 5), dead]).unwrap();
        assert_eq!(ratio(&lines[0], &lines[1]), None);
        assert_eq!(median(&[]), None);
    }
}
