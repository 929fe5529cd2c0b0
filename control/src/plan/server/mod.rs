//! What becomes of a Server: from what is declared, recorded and seen, to its
//! next status and at most one thing to do to the machine.
//!
//! Pure, so that every phase and observation can be tried in a table. The rules
//! (W1 to W14, R1 to R6) are law here: without a persisted order nothing is
//! erased; what is not understood is left alone.

pub mod bmc;
mod conditions;
mod effect;
mod install;
mod release;
mod wipe;

pub use wipe::{disk_target, is_named, is_own, target};

#[cfg(test)]
mod tests;

use crate::limits;
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{
    Condition, EffectKind, EffectRecord, OnAccept, OrderRecord, OrderState, Phase, Server, ServerBinding, ServerClass,
    ServerStatus, WipePolicy, marks,
};
use protocol::report::{BmcFound, DiskResult, Facts, ImageOrder, Level, OrderKind, Progress};
use std::time::Duration;

/// The facts that a decision rests on.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The machine.
    pub server: &'a Server,
    /// Who has it.
    pub binding: Option<&'a ServerBinding>,
    /// The class it was allocated out of.
    pub class: Option<&'a ServerClass>,
    /// What it is to be installed from.
    pub install: &'a Install,
    /// Its last inventory.
    pub facts: Option<&'a Facts>,
    /// Whether it can be switched from outside.
    pub managed: bool,
    /// The operator or Cluster API says: touch nothing.
    pub paused: bool,
    /// BMCs that nobody has declared are set up by the agent.
    pub set_up_bmc: bool,
    /// Why another machine claims to be this one, and what to do about it (F33).
    pub conflict: Option<&'a str>,
}

/// What a machine is installed from.
#[derive(Clone, PartialEq, Debug)]
pub enum Install {
    /// It is not allocated.
    None,
    /// A kernel and its initrd, booted from the network.
    Kernel {
        /// The Environment.
        environment: String,
        /// Whether its installer tells when it is done; else the next boot is taken for it.
        reports: bool,
    },
    /// A disk image, written by the agent.
    Image {
        /// The Environment.
        environment: String,
        /// The order, without what is secret in it.
        order: Box<ImageOrder>,
    },
    /// Nothing that could be installed now, for this reason.
    NotReady(String),
}

/// What has been seen of a machine. Levels: each stands until it is replaced.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Seen {
    /// The agent that speaks for the machine.
    pub agent: Option<Agent>,
    /// The last script that it was given.
    pub script: Option<Script>,
    /// The uid of the binding whose configuration it has fetched, and when.
    pub fetched: Option<(String, u64)>,
    /// What its installer or system said last, for the binding of that uid.
    pub reported: Option<(String, Report)>,
    /// Whether it is on, as its BMC says, and when it said so.
    pub power: Option<(bool, u64)>,
    /// The effect that is being done now.
    pub running: Option<u64>,
    /// Whether the configuration of the binding of that uid could be made, and why not.
    pub config: Option<(String, Result<(), String>)>,
    /// How an effect ended.
    pub ended: Option<(u64, Result<(), String>)>,
    /// Whether control could log in to the BMC, by the id of its set-up and the number of the try.
    pub bmc_login: Option<(u64, u16, Result<(), String>)>,
    /// What is known of its BMC.
    pub bmc: Option<crate::power::pool::Known>,
    /// Somebody asked for its configuration who may not have it: when, and why not.
    pub refused: Option<(u64, String)>,
}

/// An agent, as it reports.
#[derive(Clone, PartialEq, Debug)]
pub struct Agent {
    /// One for each boot of the agent.
    pub boot_id: String,
    /// Control has sent this machine into this very boot. Without that it is told nothing.
    pub verified: bool,
    /// Its first words in this boot, milliseconds since 1970.
    pub since_ms: u64,
    /// Its last words.
    pub seen_ms: u64,
    /// The order that it speaks of.
    pub order: u64,
    /// How far that is.
    pub level: Level,
    /// In words.
    pub detail: String,
    /// In numbers.
    pub progress: Option<Progress>,
    /// Of a wipe.
    pub disks: Vec<DiskResult>,
    /// Of a BMC's set-up.
    pub bmc: Option<BmcFound>,
}

/// A script that a machine was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// Where it was sent.
    pub to: Destination,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// Where a machine is sent when it boots from the network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Our agent.
    Agent,
    /// The installer of this allocation (binding uid).
    Installer(String),
    /// Its disk.
    Disk,
}

/// What an installer or an installed system says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// It is installed.
    Installed,
    /// It cannot be installed, for this reason.
    Failed(String),
    /// The installed system runs.
    Running,
}

/// What follows.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// The status to be written, where it differs.
    pub status: ServerStatus,
    /// To be done, once the status (in which it stands as intended) is on disk.
    pub effect: Option<EffectRecord>,
    /// The binding's finalizer is to be taken off, once the status is on disk.
    pub release: bool,
    /// Annotations of the Server that have been heeded and are to be taken off.
    pub heeded: Vec<&'static str>,
    /// The Server is to bear the mark of its first acceptance.
    pub mark_accepted: bool,
    /// The power state is to be read: what is known of it is too old.
    pub read_power: bool,
    /// Control is to log in to the BMC that the agent has set up.
    pub try_bmc: bool,
    /// `spec.bmc` is to say how, before the status is written.
    pub adopt_bmc: bool,
    /// To be looked at again at this time, milliseconds since 1970, if nothing else happens.
    pub recheck_ms: Option<u64>,
}

/// Decides.
pub fn server(view: &View<'_>, seen: &Seen, now_ms: u64) -> Decision {
    let mut step = Step::new(view, seen, now_ms);
    // Whoever waits for something says until when; what was waited for before is over.
    step.done.status.deadline.clear();
    if view.paused {
        step.say("Paused", "paused: nothing is done to this machine", "unpause it");
        return step.done;
    }
    step.effect_result();
    step.heed_retry();
    match step.done.status.phase {
        None => step.unknown(),
        Some(Phase::Discovered) => step.discovered(),
        Some(Phase::Wiping) => step.wiping(),
        Some(Phase::Available) => step.available(),
        Some(Phase::Allocated) => step.allocated(),
        Some(Phase::Installing) => step.installing(),
        Some(Phase::Running) => step.running(),
        Some(Phase::Releasing) => step.releasing(),
        Some(Phase::Quarantined) => step.quarantined(),
    }
    step.set_up_bmc();
    step.settle();
    // What is not on record is not done: the machine has gone on in the meantime.
    if step.done.effect != step.done.status.effect {
        step.done.effect = None;
    }
    step.done
}

/// A decision in the making.
struct Step<'a> {
    view: &'a View<'a>,
    seen: &'a Seen,
    now: u64,
    done: Decision,
}

impl<'a> Step<'a> {
    fn new(view: &'a View<'a>, seen: &'a Seen, now: u64) -> Self {
        let done = Decision {
            status: view.server.status.clone(),
            effect: None,
            release: false,
            heeded: Vec::new(),
            mark_accepted: false,
            read_power: false,
            try_bmc: false,
            adopt_bmc: false,
            recheck_ms: None,
        };
        Self { view, seen, now, done }
    }

    // --- phases that need no file of their own --------------------------------

    /// No status: a machine that is new to us, or one whose status was lost.
    fn unknown(&mut self) {
        let known = self.annotated(marks::ACCEPTED_AT).is_some();
        if known || self.view.binding.is_some() {
            self.quarantine("StatusLost", "what was known of this machine is gone (moved, or restored from elsewhere)");
        } else {
            self.enter(Phase::Discovered, "New");
            self.discovered();
        }
    }

    /// Reported by its agent, or written down by the operator; not ours before it is accepted (W11).
    fn discovered(&mut self) {
        if !self.view.server.spec.accepted {
            self.say("NotAccepted", "left as it is until it is accepted", "stoker accept");
            return;
        }
        if self.view.binding.is_some() {
            self.say("BoundUnaccepted", "somebody has bound it before it was clean: delete that ServerBinding", "");
            return;
        }
        if self.view.conflict.is_some() {
            // `settle` says so.
            return;
        }
        let policy = self.policy();
        if policy.on_accept == OnAccept::Keep {
            self.done.mark_accepted = true;
            self.done.status.is_clean = true;
            self.enter(Phase::Available, "AcceptedAsIs");
            self.available();
            return;
        }
        match self.wipe_order("Accepted") {
            Some(order) => {
                self.done.mark_accepted = true;
                self.done.status.order = Some(order);
                self.enter(Phase::Wiping, "Accepted");
                self.wiping();
            }
            None => {
                self.say("NoFacts", "accepted; its disks are not known before its agent has reported", "network boot");
                self.bring_up_agent();
            }
        }
    }

    /// Clean and free: off where it can be switched on again, else holding in the agent.
    fn available(&mut self) {
        if let Some(binding) = self.view.binding {
            if binding.metadata.deletion_timestamp.is_some() {
                // Nothing has been installed in its name.
                self.done.release = true;
                self.say("Free", "an allocation ended before it began", "");
                return;
            }
            self.enter(Phase::Allocated, "Bound");
            self.begin_install(binding);
            self.allocated();
            return;
        }
        self.done.status.install = None;
        if !self.view.managed {
            self.done.status.order = None;
            self.say("Free", "clean; waits in its agent (it has no BMC that could switch it on)", "stoker allocate");
            return;
        }
        if self.power() == Some(false) {
            self.done.status.order = None;
            self.say("Off", "clean and switched off", "stoker allocate");
            return;
        }
        self.say("SwitchingOff", "clean; is being switched off", "off");
        if self.seen.power.is_none_or(|(_, at)| self.now >= at + ms(limits::POWER_POLL)) {
            self.done.read_power = true;
        }
        self.recheck(self.now + ms(limits::POWER_POLL));
        // The agent's own hand first: firmware and disks like that better.
        let since = self.since();
        if self.agent_here() && self.now < since + ms(limits::POWER_OFF_TIME) {
            self.want_order(OrderKind::PowerOff, "Free");
            self.recheck(since + ms(limits::POWER_OFF_TIME));
        } else {
            self.want_effect(EffectKind::PowerOff);
        }
    }

    /// Nothing, until a human explains.
    fn quarantined(&mut self) {
        let lift = self.annotated(marks::LIFT).map(str::to_owned);
        let reason = self.done.status.reason.clone();
        match (lift.as_deref(), self.view.binding) {
            (Some("running"), Some(binding)) => {
                self.done.heeded.push(marks::LIFT);
                self.begin_install(binding);
                let now = rfc3339(self.now);
                if let Some(install) = &mut self.done.status.install {
                    (install.installed, install.running) = (now.clone(), now);
                }
                self.done.mark_accepted = true;
                self.enter(Phase::Running, "QuarantineLifted");
                self.running();
            }
            (Some("wipe"), None) if self.view.server.spec.accepted => match self.wipe_order("Requested") {
                Some(order) => {
                    self.done.heeded.push(marks::LIFT);
                    self.done.mark_accepted = true;
                    self.done.status.order = Some(order);
                    self.enter(Phase::Wiping, "QuarantineLifted");
                    self.wiping();
                }
                None => self.say(&reason, "to be wiped, but its disks are not known: boot it into the agent", ""),
            },
            (Some("wipe"), Some(_)) => self.say(&reason, "cannot be wiped while a ServerBinding holds it", ""),
            (Some("running"), None) => {
                self.say(&reason, "no ServerBinding holds it: it can only be lifted to wipe", "")
            }
            (Some("wipe"), None) => self.say(&reason, "cannot be wiped before it is accepted", ""),
            _ => {
                self.done.status.next = "a human: stoker quarantine lift".into();
                self.done.status.deadline.clear();
            }
        }
    }

    fn quarantine(&mut self, reason: &str, why: &str) {
        self.enter(Phase::Quarantined, reason);
        // Whatever was to be done is not done any more.
        self.done.status.order = None;
        self.done.effect = None;
        self.done.release = false;
        self.say(reason, why, "a human: stoker quarantine lift");
    }

    // --- what phases share ------------------------------------------------------

    /// Into another phase, or again into the same one (another try).
    fn enter(&mut self, phase: Phase, reason: &str) {
        let s = &mut self.done.status;
        s.phase = Some(phase);
        s.since = rfc3339(self.now);
        s.attempts = 0;
        s.deadline.clear();
        s.next.clear();
        s.message.clear();
        s.reason = reason.to_owned();
        // The machine has gone on: what was meant to bring it here is not repeated, whatever became of it.
        if s.effect.as_ref().is_some_and(|e| self.seen.running != Some(e.id)) {
            s.effect = None;
        }
    }

    fn say(&mut self, reason: &str, message: &str, next: &str) {
        let s = &mut self.done.status;
        (s.reason, s.message, s.next) = (reason.to_owned(), message.to_owned(), next.to_owned());
    }

    fn recheck(&mut self, at_ms: u64) {
        let at = at_ms.max(self.now + 1);
        self.done.recheck_ms = Some(self.done.recheck_ms.map_or(at, |old| old.min(at)));
    }

    fn deadline(&mut self, at_ms: u64) {
        self.done.status.deadline = rfc3339(at_ms);
        self.recheck(at_ms);
    }

    fn annotated(&self, mark: &str) -> Option<&'a str> {
        self.view.server.metadata.annotations.get(mark).map(String::as_str)
    }

    /// Since when it is in its phase.
    fn since(&self) -> u64 {
        parse_rfc3339(&self.done.status.since).unwrap_or(self.now)
    }

    fn policy(&self) -> WipePolicy {
        let class = self.view.class.and_then(|c| c.spec.wipe.clone());
        self.view.server.spec.wipe.clone().or(class).unwrap_or_default()
    }

    /// The agent that may be given orders, and that has been heard lately. A machine that has asked for a script
    /// since then has restarted: that agent is gone, however short a time ago it spoke.
    fn agent(&self) -> Option<&'a Agent> {
        let restarted = |a: &Agent| self.seen.script.as_ref().is_some_and(|s| s.at_ms > a.seen_ms);
        let heard = |a: &&Agent| a.verified && self.now.saturating_sub(a.seen_ms) < ms(limits::AGENT_SILENCE);
        self.seen.agent.as_ref().filter(heard).filter(|a| !restarted(a))
    }

    fn agent_here(&self) -> bool {
        self.agent().is_some()
    }

    /// The power state, where the BMC has told it in this phase, and after the last effect.
    fn power(&self) -> Option<bool> {
        let (on, at) = self.seen.power?;
        let effect = self.done.status.effect.as_ref().and_then(|e| parse_rfc3339(&e.at)).unwrap_or(0);
        (at >= effect.max(self.since())).then_some(on)
    }

    fn next_id(&mut self) -> u64 {
        self.done.status.last_id = self.done.status.last_id.saturating_add(1);
        self.done.status.last_id
    }

    /// Makes an order of this kind, unless one stands that has not ended.
    fn want_order(&mut self, kind: OrderKind, reason: &str) {
        let same = |o: &OrderRecord| {
            std::mem::discriminant(&o.order) == std::mem::discriminant(&kind) && !matches!(o.state, OrderState::Failed)
        };
        if self.done.status.order.as_ref().is_some_and(same) {
            return;
        }
        let id = self.next_id();
        self.done.status.order = Some(OrderRecord {
            id,
            order: kind,
            state: OrderState::Pending,
            reason: reason.to_owned(),
            requested_by: String::new(),
            created: rfc3339(self.now),
            expires: String::new(),
            disks: Vec::new(),
            counter: 0,
            heard: String::new(),
            message: String::new(),
        });
    }

    /// What follows from all of it, for those who know Sidero's fields.
    fn settle(&mut self) {
        let bound = self.view.binding.is_some();
        if let Some(why) = self.view.conflict {
            // Who has it already keeps it; nobody gets it, and it is not accepted.
            if matches!(self.done.status.phase, Some(Phase::Discovered | Phase::Available)) {
                self.say("IdentityConflict", why, "a human: tell the two machines apart");
            }
            self.recheck(self.now + ms(limits::RETRY_PAUSE));
        }
        let s = &mut self.done.status;
        let phase = s.phase.unwrap_or(Phase::Quarantined);
        s.in_use = bound || matches!(phase, Phase::Allocated | Phase::Installing | Phase::Running | Phase::Releasing);
        s.is_clean = s.is_clean && matches!(phase, Phase::Available | Phase::Allocated);
        s.ready = matches!(phase, Phase::Available | Phase::Allocated | Phase::Installing | Phase::Running);
        s.power = match self.seen.power {
            Some((true, _)) => "on".into(),
            Some((false, _)) => "off".into(),
            None if s.power.is_empty() => String::new(),
            None => "unknown".into(),
        };
        let installed = s.install.as_ref().is_some_and(|i| !i.installed.is_empty());
        self.bmc_conditions();
        let s = &mut self.done.status;
        condition(s, "PXEBooted", installed, if installed { "Installed" } else { "NotInstalled" }, self.now);
        self.config_condition();
        self.conditions();
    }
}

impl Step<'_> {
    /// Whether the configuration of the present allocation can be handed out, as far as that was tried.
    fn config_condition(&mut self) {
        let uid = self.view.binding.map(|b| b.metadata.uid.as_str());
        let conditions = &mut self.done.status.conditions;
        let Some(uid) = uid else {
            conditions.retain(|c| c.r#type != marks::CONFIG_READY);
            return;
        };
        let Some((_, made)) = self.seen.config.as_ref().filter(|(of, _)| of == uid) else { return };
        let reason = if made.is_ok() { "Made" } else { "NotMade" };
        condition(&mut self.done.status, marks::CONFIG_READY, made.is_ok(), reason, self.now);
        let conditions = &mut self.done.status.conditions;
        if !conditions.iter().any(|c| c.r#type == marks::CONFIG_READY) {
            let last_transition_time = rfc3339(self.now);
            let (kind, status) = (marks::CONFIG_READY.to_owned(), "False".to_owned());
            let reason = reason.to_owned();
            conditions.push(Condition { r#type: kind, status, reason, last_transition_time, ..Condition::default() });
        }
        if let Some(c) = conditions.iter_mut().find(|c| c.r#type == marks::CONFIG_READY) {
            c.message = made.as_ref().err().cloned().unwrap_or_default();
        }
    }
}

/// Sets a condition; its time changes only with its status.
fn condition(status: &mut ServerStatus, kind: &str, holds: bool, reason: &str, now: u64) {
    let word = if holds { "True" } else { "False" };
    let fresh = || Condition {
        r#type: kind.to_owned(),
        status: word.to_owned(),
        reason: reason.to_owned(),
        last_transition_time: rfc3339(now),
        ..Condition::default()
    };
    match status.conditions.iter_mut().find(|c| c.r#type == kind) {
        Some(c) if c.status == word => c.reason = reason.to_owned(),
        Some(c) => *c = fresh(),
        None if holds => status.conditions.push(fresh()),
        None => {}
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
