//! Processors: SMBIOS type 4, and the kernel's view where that says nothing.

use super::smbios::Table;
use protocol::report::{Compute, Processor};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Processors as SMBIOS has them; counts that it lacks come from `/proc/cpuinfo`.
pub fn compute(table: &Table, root: &Path, gaps: &mut Vec<String>) -> Compute {
    let seen = kernel(&fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default());
    let mut processors = table.processors();
    if processors.is_empty() {
        if seen.is_empty() {
            gaps.push("no processor found, neither in SMBIOS nor in /proc/cpuinfo".to_string());
        }
        processors = seen.clone();
    }
    for (i, processor) in processors.iter_mut().enumerate() {
        let Some(other) = seen.get(i) else { continue };
        if processor.core_count == 0 {
            processor.core_count = other.core_count;
        }
        if processor.thread_count == 0 {
            processor.thread_count = other.thread_count;
        }
        if processor.product_name.is_empty() {
            processor.product_name.clone_from(&other.product_name);
        }
    }
    Compute {
        total_core_count: processors.iter().map(|p| p.core_count).sum(),
        total_thread_count: processors.iter().map(|p| p.thread_count).sum(),
        processors,
    }
}

/// One processor for each `physical id` of /proc/cpuinfo, in its order.
fn kernel(cpuinfo: &str) -> Vec<Processor> {
    let mut sockets: BTreeMap<u32, (Processor, BTreeSet<u32>)> = BTreeMap::new();
    for block in cpuinfo.split("\n\n") {
        let get = |key: &str| {
            block.lines().find_map(|line| {
                let (k, v) = line.split_once(':')?;
                (k.trim() == key).then(|| v.trim().to_string())
            })
        };
        let Some(number) = get("processor").and_then(|n| n.parse::<u32>().ok()) else { continue };
        // Arm kernels tell no sockets and no cores: one socket, a core for each thread.
        let socket = get("physical id").and_then(|n| n.parse().ok()).unwrap_or(0);
        let core = get("core id").and_then(|n| n.parse().ok()).unwrap_or(number);
        let (processor, cores) = sockets.entry(socket).or_default();
        cores.insert(core);
        processor.thread_count += 1;
        processor.core_count = u32::try_from(cores.len()).unwrap_or(u32::MAX);
        processor.manufacturer = get("vendor_id").unwrap_or_default();
        processor.product_name = get("model name").unwrap_or_default();
        processor.speed = get("cpu MHz").and_then(|mhz| mhz.parse::<f64>().ok()).map_or(0, |mhz| mhz.round() as u32);
    }
    sockets.into_values().map(|(processor, _)| processor).collect()
}
