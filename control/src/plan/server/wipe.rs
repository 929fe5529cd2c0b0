//! Wiping: an order that stands until every disk in it is read back as erased.

use super::{Step, ms};
use crate::limits;
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{EffectKind, OrderRecord, OrderState, Phase, WipeRecord, marks};
use protocol::report::{Disk, DiskResult, DiskState, DiskTarget, Facts, Level, OrderKind, Target, WipeOrder};

/// The machine that an order is for, by its own last report.
pub fn target(facts: &Facts) -> Target {
    Target {
        uuid: facts.system.uuid.filter(|u| !u.is_placeholder()),
        serial_number: facts.system.serial_number.clone(),
        macs: facts.network.iter().filter_map(|i| i.mac).collect(),
    }
}

/// A disk, by what stays the same.
pub fn disk_target(disk: &Disk) -> DiskTarget {
    DiskTarget {
        wwid: disk.wwid.clone(),
        serial_number: disk.serial_number.clone(),
        model: disk.model.clone(),
        size: disk.size,
        name: disk.name.clone(),
    }
}

/// Whether the policy names this disk.
pub fn is_named(disk: &Disk, names: &[String]) -> bool {
    names.iter().any(|n| !n.is_empty() && [&disk.wwid, &disk.serial_number, &disk.name, &disk.device_name].contains(&n))
}

/// How a disk is attached that is not the machine's own (W7).
const FOREIGN: [&str; 6] = ["usb", "iscsi", "fc", "fcoe", "nvme-of", "mmc-removable"];

/// Whether a disk is the machine's own and can be written to (W7).
pub fn is_own(disk: &Disk) -> bool {
    let foreign = FOREIGN.contains(&disk.transport.to_ascii_lowercase().as_str());
    !disk.removable && !disk.read_only && disk.size > 0 && !foreign
}

impl Step<'_> {
    /// A new wipe order over the machine's own disks (W1, W7); nothing where they are not known.
    pub(super) fn wipe_order(&mut self, reason: &str) -> Option<OrderRecord> {
        let facts = self.view.facts?;
        let policy = self.policy();
        let disks = facts.storage.iter().filter(|d| is_own(d) && !is_named(d, &policy.keep_disks));
        let order = WipeOrder {
            target: target(facts),
            disks: disks.map(disk_target).collect(),
            method: policy.method,
            force: policy.force,
            dry_run: policy.dry_run,
        };
        Some(OrderRecord {
            id: self.next_id(),
            order: OrderKind::Wipe(order),
            state: OrderState::Pending,
            reason: reason.to_owned(),
            requested_by: self.requested_by(),
            created: rfc3339(self.now),
            expires: String::new(),
            disks: Vec::new(),
            counter: 0,
            heard: String::new(),
            message: String::new(),
        })
    }

    fn requested_by(&self) -> String {
        self.view.binding.map_or_else(
            || "operator".to_owned(),
            |b| format!("{} {}", b.spec.metal_machine_ref.kind, b.spec.metal_machine_ref.name).trim().to_owned(),
        )
    }

    pub(super) fn wiping(&mut self) {
        self.done.status.is_clean = false;
        if let Some(binding) = self.view.binding {
            if binding.metadata.deletion_timestamp.is_some() {
                // The order stands, and the phase says so on disk: the claim may end.
                self.done.release = true;
            } else {
                self.say(
                    "BoundWhileWiping",
                    "somebody has bound it before it was clean: delete that ServerBinding",
                    "",
                );
                return;
            }
        }
        let Some(order) = self.done.status.order.clone().filter(|o| matches!(o.order, OrderKind::Wipe(_))) else {
            self.quarantine("OrderLost", "it is to be wiped, but no order for it is on record");
            return;
        };
        if !self.view.server.spec.accepted {
            self.say("NotAccepted", "acceptance was taken back: nothing more is erased", "stoker accept");
            return;
        }
        if self.is_for_another(&order) {
            return;
        }
        self.take_report(order);
        let Some(order) = self.done.status.order.clone() else { return };
        match order.state {
            OrderState::Done if all_clean(&order) => self.wiped(&order),
            // Whoever wrote that, it is not what an agent has told (W6).
            OrderState::Done => self.quarantine("OrderDisagrees", "its wipe order says done, but not of every disk"),
            OrderState::Failed => self.wipe_failed(&order),
            OrderState::Pending => {
                self.say("Ordered", "waits for its agent to take the wipe order", "wipe");
                self.bring_up_agent();
            }
            OrderState::Running | OrderState::Erasing => self.wipe_runs(&order),
        }
    }

    /// The machine that is here is not the one that the order names (W3): it is not told of it. Whether
    /// its parts were changed or it is another one, a human has to say.
    fn is_for_another(&mut self, order: &OrderRecord) -> bool {
        let OrderKind::Wipe(wipe) = &order.order else { return false };
        let ended = matches!(order.state, OrderState::Done | OrderState::Failed);
        let Some(facts) = self.view.facts.filter(|f| !ended && !crate::plan::order::is(&wipe.target, f)) else {
            return false;
        };
        if self.done.heeded.contains(&marks::RETRY)
            && let Some(fresh) = self.wipe_order("Requested")
        {
            self.done.status.order = Some(fresh);
            return false;
        }
        let (meant, here) = (&wipe.target, target(facts));
        let why = if meant.uuid != here.uuid {
            "another UUID"
        } else if meant.serial_number != here.serial_number {
            "another serial number"
        } else {
            "other network cards"
        };
        let message =
            format!("the machine that reports has {why} than the one that its wipe order names: nothing is erased");
        self.say("OrderForAnother", &message, "a human: if its parts were changed, stoker retry orders anew");
        true
    }

    /// What the agent says of this order, into its record.
    fn take_report(&mut self, mut order: OrderRecord) {
        let Some(agent) = self.seen.agent.as_ref().filter(|a| a.verified && a.order == order.id) else { return };
        if matches!(order.state, OrderState::Done | OrderState::Failed) {
            return;
        }
        // Every poll has other numbers: they are written down now and then, and when they mean something.
        let states = |disks: &[DiskResult]| disks.iter().map(|d| d.state).collect::<Vec<_>>();
        let heard = parse_rfc3339(&order.heard);
        let due = heard.is_none_or(|at| agent.seen_ms >= at + ms(limits::PROGRESS_WRITE));
        let final_word = !matches!(agent.level, Level::Running | Level::Holding);
        if due || final_word || states(&agent.disks) != states(&order.disks) {
            let counter = agent.progress.as_ref().map_or(0, |p| p.counter);
            if counter != order.counter || heard.is_none() {
                order.counter = counter;
                order.heard = rfc3339(agent.seen_ms);
            }
            if !agent.disks.is_empty() {
                order.disks.clone_from(&agent.disks);
            }
            order.message.clone_from(&agent.detail);
        }
        // Only who has asked has been told to go on (W5); a dry run erases nothing and need not ask.
        let asked = order.state == OrderState::Erasing || matches!(&order.order, OrderKind::Wipe(w) if w.dry_run);
        order.state = match agent.level {
            Level::Done if all_clean(&order) && asked => OrderState::Done,
            Level::Done if !asked => {
                order.message = "the agent says done, and never asked whether it may begin".to_owned();
                OrderState::Failed
            }
            // "Done" with a disk that is not: the agent's word is not enough (W6).
            Level::Done => {
                order.message = "the agent says done, but not every disk was read back as erased".to_owned();
                OrderState::Failed
            }
            Level::Failed | Level::Unsupported => OrderState::Failed,
            Level::Running if order.state == OrderState::Pending => OrderState::Running,
            Level::Running | Level::Holding => order.state,
        };
        self.done.status.order = Some(order);
    }

    fn wiped(&mut self, order: &OrderRecord) {
        let OrderKind::Wipe(what) = &order.order else { return };
        if what.dry_run {
            self.say("DryRun", "a dry run: the order's record tells what would be erased", "take wipe.dryRun away");
            if !self.policy().dry_run {
                let fresh = self.wipe_order("Requested");
                self.done.status.order = fresh;
            }
            return;
        }
        let meta = &self.view.server.metadata;
        self.done.status.wiped = Some(WipeRecord {
            order: order.id,
            server: format!("{}/{}", meta.name, meta.uid),
            finished: rfc3339(self.now),
            boot_id: self.seen.agent.as_ref().map(|a| a.boot_id.clone()).unwrap_or_default(),
            disks: order.disks.clone(),
            ..WipeRecord::default()
        });
        self.enter(Phase::Available, "Wiped");
        self.done.status.is_clean = true;
        self.done.status.order = None;
        self.available();
    }

    /// Not clean, not to be allocated (W6); tried again a few times, then a human is asked.
    fn wipe_failed(&mut self, order: &OrderRecord) {
        let bad = order.disks.iter().filter(|d| d.state != DiskState::Clean);
        let disks: Vec<String> = bad.map(|d| format!("{}: {}", d.disk.name, d.why)).collect();
        let why = if disks.is_empty() { order.message.clone() } else { disks.join("; ") };
        self.say("WipeFailed", &format!("not clean: {why}"), "another try");
        let tries = self.done.status.attempts;
        if tries >= limits::ATTEMPTS {
            self.done.status.next = "a human: mend or keep the disk (spec.wipe), then stoker retry".into();
            return;
        }
        let heard = parse_rfc3339(&order.heard).or_else(|| parse_rfc3339(&order.created)).unwrap_or(self.now);
        let due = heard + ms(limits::RETRY_PAUSE) * u64::from(tries + 1);
        if self.now < due {
            self.recheck(due);
        } else if let Some(mut fresh) = self.wipe_order("Retried") {
            self.done.status.attempts = tries + 1;
            fresh.message.clone_from(&order.message);
            self.done.status.order = Some(fresh);
        }
    }

    /// Under way. An agent that falls silent, or whose counter stands still, has died with its
    /// machine: it is booted again and resumes the same order (F26).
    fn wipe_runs(&mut self, order: &OrderRecord) {
        let clean = order.disks.iter().filter(|d| d.state == DiskState::Clean).count();
        let total = match &order.order {
            OrderKind::Wipe(w) => w.disks.len(),
            _ => 0,
        };
        self.say("Erasing", &format!("{clean} of {total} disks are clean"), "off");
        let heard = parse_rfc3339(&order.heard).unwrap_or(self.now);
        let stalled = heard + ms(limits::WIPE_STALL);
        let rebooted = self.done_at(EffectKind::NetworkBoot).filter(|at| *at > heard);
        if self.agent_here() && self.now < stalled {
            // A new boot of the agent that has not begun is not a stall. Its silence is noticed before.
            self.deadline(stalled);
            self.recheck(self.now + ms(limits::AGENT_SILENCE));
        } else if self.agent().is_some_and(|a| a.since_ms > heard) {
            self.recheck(self.now + ms(limits::AGENT_SILENCE));
        } else if rebooted.is_some() {
            self.bring_up_agent();
        } else if self.now >= stalled || !self.agent_here() {
            let last = self.seen.agent.as_ref().map_or(heard, |a| a.seen_ms);
            let silent = last + ms(limits::BOOT_TIME);
            if !self.lost_power(last) && self.now < silent && self.now < stalled {
                // It may be rebooting by itself.
                self.deadline(silent.min(stalled));
                return;
            }
            self.say("AgentLost", "its agent fell silent while erasing: booted again, the same order goes on", "wipe");
            if self.view.managed {
                self.want_effect(EffectKind::NetworkBoot);
            } else {
                self.done.status.next = "a network boot by hand: it has no BMC".into();
            }
        }
    }
}

/// Every disk of the order, and none twice, is verified clean (or would be erased, in a dry run).
fn all_clean(order: &OrderRecord) -> bool {
    let OrderKind::Wipe(what) = &order.order else { return false };
    what.disks.iter().all(|disk| {
        let mut of = order.disks.iter().filter(|r| r.disk == *disk);
        let state = of.next().map(|r| r.state);
        let good = if what.dry_run { DiskState::WouldErase } else { DiskState::Clean };
        state == Some(good) && of.next().is_none()
    })
}
