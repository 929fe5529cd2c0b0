//! Taking a machine back: the wipe order stands before anything is done, the
//! claim ends only when the machine is in our hands.

use super::{Step, ms};
use crate::limits;
use crate::objects::parse_rfc3339;
use crate::resource::{Phase, ServerBinding};
use protocol::report::OrderKind;

impl Step<'_> {
    /// The binding is being deleted, without a pause (rule R2): the machine is to leave.
    /// Returns whether that decided the phase.
    pub(super) fn leave(&mut self, binding: &ServerBinding) -> bool {
        if binding.metadata.deletion_timestamp.is_none() {
            return false;
        }
        self.enter(Phase::Releasing, "Released");
        self.done.status.order = None;
        self.releasing();
        true
    }

    /// The binding has gone by another way than ours (R6), or is another one.
    /// Returns whether that decided the phase.
    pub(super) fn bereft(&mut self) -> bool {
        let uid = self.done.status.install.as_ref().map(|i| i.binding.clone());
        match self.view.binding {
            None => {
                self.quarantine(
                    "BindingGone",
                    "its ServerBinding is gone without a release: finalizers stripped, or moved",
                );
            }
            Some(b) if uid.as_ref() != Some(&b.metadata.uid) => {
                self.quarantine("BindingReplaced", "its ServerBinding is another one than it was installed for");
            }
            Some(_) => return false,
        }
        true
    }

    pub(super) fn releasing(&mut self) {
        let Some(binding) = self.view.binding else {
            self.quarantine("BindingGone", "its ServerBinding is gone before the machine was in our hands");
            return;
        };
        if binding.metadata.deletion_timestamp.is_none() {
            self.quarantine("BindingReplaced", "it was to be released, and is bound again");
            return;
        }
        // The order stands before anything is done; where the disks are not known, the agent tells first.
        let ordered = self.done.status.order.as_ref().is_some_and(|o| matches!(o.order, OrderKind::Wipe(_)));
        if !ordered {
            let order = self.wipe_order("Released");
            self.done.status.order = order;
        }
        if self.done.status.order.is_none() {
            self.say(
                "NoFacts",
                "to be released; its disks are not known before its agent has reported",
                "network boot",
            );
            self.bring_up_agent();
            return;
        }
        // Only a boot after the release counts: the one before may be of its owner. Phases are written to the
        // second, so what was seen within that second may have been before.
        let since = self.since() + 1000;
        let here = self.agent().is_some_and(|a| a.since_ms >= since);
        let off = self.seen.power.is_some_and(|(on, at)| !on && at >= since);
        if here || off {
            let order = self.done.status.order.clone();
            self.enter(Phase::Wiping, "Released");
            self.done.status.order = order;
            self.done.status.install = None;
            // The finalizer goes in the next round: first this must be on disk.
            self.say("Released", "out of its cluster; waits for its agent to take the wipe order", "wipe");
            self.recheck(self.now + 1);
            return;
        }
        self.say("Leaving", "being taken out of its cluster by a network boot", "wipe");
        if !self.view.managed {
            self.done.status.message = "waits to be booted from the network: it has no BMC".into();
        }
        self.bring_up_agent();
        let begun = parse_rfc3339(&self.done.status.since).unwrap_or(self.now);
        if self.done.status.deadline.is_empty() && self.view.managed {
            self.recheck(begun + ms(limits::BOOT_TIME));
        }
    }
}
