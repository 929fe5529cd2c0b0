//! Erasing disks: only those that the order names, only on the machine that it
//! names, only after control has said "go" (rules W3, W5, W6, W7, W8).

pub mod ata;
pub mod erase;
pub mod guard;
pub mod nvme;

use crate::sys;
use erase::{Erased, Media};
use protocol::report::{Disk, DiskResult, DiskState, DiskTarget, Facts, Target, WipeOrder};
use std::io;

/// What the work of an order may ask and tell.
pub trait Host {
    /// The machine as it is now.
    fn facts(&mut self) -> Facts;
    /// Opens a disk for this process alone.
    ///
    /// # Errors
    /// The kernel's: it is mounted, read-only, gone.
    fn open(&mut self, disk: &Disk) -> io::Result<Box<dyn Media>>;
    /// Asks control for the last time, as often as it takes; false: the order is gone.
    fn confirm(&mut self) -> bool;
    /// How far it is; false: stop.
    fn tell(&mut self, disks: &[DiskResult], step: &str, done: u64, total: u64) -> bool;
}

/// Why an order was not carried out as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// Withdrawn, or never confirmed.
    Withdrawn,
    /// In words.
    Failed(String),
}

/// Whether this machine is the one that is meant (W3).
///
/// # Errors
/// What differs.
pub fn check_target(target: &Target, facts: &Facts) -> Result<(), String> {
    let system = &facts.system;
    if target.uuid.is_some() && target.uuid != system.uuid {
        return Err("the order is for a machine with another UUID".into());
    }
    if !target.serial_number.is_empty() && target.serial_number != system.serial_number {
        return Err("the order is for a machine with another serial number".into());
    }
    let own = |mac| facts.network.iter().any(|i| i.mac == Some(mac));
    if !target.macs.is_empty() && !target.macs.iter().any(|mac| own(*mac)) {
        return Err("the order is for a machine with other network cards".into());
    }
    Ok(())
}

/// The disk that is meant, among those that are here.
///
/// # Errors
/// None, or more than one, fits.
pub fn find<'a>(target: &DiskTarget, disks: &'a [Disk]) -> Result<&'a Disk, String> {
    let fits = |d: &&Disk| {
        d.size == target.size
            && if !target.wwid.is_empty() {
                d.wwid == target.wwid
            } else if !target.serial_number.is_empty() {
                d.serial_number == target.serial_number && d.model == target.model
            } else {
                d.name == target.name && d.serial_number.is_empty() && d.wwid.is_empty()
            }
    };
    let mut all = disks.iter().filter(fits);
    match (all.next(), all.next()) {
        (Some(disk), None) => Ok(disk),
        (None, _) => Err("no disk here is the one that the order names".into()),
        (Some(_), Some(_)) => Err("more than one disk here fits what the order names".into()),
    }
}

/// Erases the disks of an order, one after the other; each has its own result (W6).
///
/// # Errors
/// [`Stopped`]; the results say what became of each disk.
pub fn wipe(order: &WipeOrder, host: &mut dyn Host) -> (Vec<DiskResult>, Result<(), Stopped>) {
    let mut results: Vec<DiskResult> =
        order.disks.iter().map(|d| DiskResult { disk: d.clone(), ..DiskResult::default() }).collect();
    let facts = host.facts();
    if let Err(why) = check_target(&order.target, &facts) {
        return (results, Err(Stopped::Failed(why)));
    }
    // Everything is looked at before anything is touched.
    let mut ready = Vec::new();
    for (i, target) in order.disks.iter().enumerate() {
        match prepare(target, order.force, &facts, host) {
            Ok(media) => ready.push((i, media)),
            Err(why) => fail(&mut results, i, why),
        }
    }
    if order.dry_run {
        for (i, _) in &ready {
            if let Some(result) = results.get_mut(*i) {
                result.state = DiskState::WouldErase;
            }
        }
        let all = results.iter().all(|r| r.state == DiskState::WouldErase);
        return (results, if all { Ok(()) } else { Err(Stopped::Failed("not every disk could be erased".into())) });
    }
    if !ready.is_empty() && !host.confirm() {
        return (results, Err(Stopped::Withdrawn));
    }
    let total: u64 = order.disks.iter().map(|d| d.size).sum();
    let mut before = 0;
    for (i, mut media) in ready {
        let size = media.size();
        let mut go_on = true;
        let ended = {
            let results = &mut results;
            let mut tell = |state: DiskState, method: &str, done: u64| {
                if let Some(result) = results.get_mut(i) {
                    (result.state, result.done) = (state, done);
                    method.clone_into(&mut result.method);
                }
                let step = if state == DiskState::Verifying { "verifying" } else { "erasing" };
                go_on = host.tell(results, step, before + done, total);
                go_on
            };
            erase::erase(media.as_mut(), order.method, &mut tell)
        };
        match ended {
            Ok(Erased { method, verified, refused }) => {
                if let Some(result) = results.get_mut(i) {
                    (result.state, result.method, result.verified, result.done) =
                        (DiskState::Clean, method.to_owned(), verified, size);
                    result.why = refused;
                }
            }
            Err(why) => fail(&mut results, i, why),
        }
        if !go_on {
            return (results, Err(Stopped::Withdrawn));
        }
        before += size;
        host.tell(&results, "erasing", before, total);
    }
    let bad = results.iter().filter(|r| r.state != DiskState::Clean).count();
    match bad {
        0 => (results, Ok(())),
        n => (results, Err(Stopped::Failed(format!("{n} disks are not clean")))),
    }
}

/// Finds, checks and opens one disk.
///
/// # Errors
/// Why it is not to be written to.
pub fn prepare(target: &DiskTarget, force: bool, facts: &Facts, host: &mut dyn Host) -> Result<Box<dyn Media>, String> {
    let disk = find(target, &facts.storage)?;
    if disk.read_only {
        return Err("it is read-only".into());
    }
    let mut media = host.open(disk).map_err(|e| format!("it cannot be opened: {e}"))?;
    if media.size() != target.size {
        return Err(format!("it has {} bytes, the order names {}", media.size(), target.size));
    }
    // A drive that erases itself since before a power loss can neither be read nor spared any more.
    if !force
        && !media.is_erasing()
        && let Some(what) = guard::shared(media.as_mut()).map_err(|e| format!("it cannot be read: {e}"))?
    {
        return Err(format!("it bears {what}, which other machines may use; spec.wipe.force erases it all the same"));
    }
    Ok(media)
}

fn fail(results: &mut [DiskResult], i: usize, why: String) {
    if let Some(result) = results.get_mut(i) {
        result.state = DiskState::Failed;
        result.why = why;
    }
}

/// Opens a disk of this machine.
///
/// # Errors
/// The kernel's.
pub fn open(disk: &Disk) -> io::Result<Box<dyn Media>> {
    Ok(Box::new(sys::block::Block::open(std::path::Path::new(&disk.device_name))?))
}

#[cfg(test)]
mod tests;
