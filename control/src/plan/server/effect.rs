//! What is done to a machine from outside: intended, done, tried again.
//!
//! An effect is written down as intended before it is done. After a crash it
//! is not known whether it was done: then the machine's own words count, and
//! only after [`limits::EFFECT_REST`] is it done again, if it is still wanted (F23).

use super::{Step, ms};
use crate::limits;
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{Condition, EffectKind, EffectRecord, EffectState, marks};

impl Step<'_> {
    /// Takes in how the last effect has ended.
    pub(super) fn effect_result(&mut self) {
        let Some(effect) = &mut self.done.status.effect else { return };
        if effect.state != EffectState::Intended {
            return;
        }
        let at = parse_rfc3339(&effect.at).unwrap_or(0);
        match &self.seen.ended {
            Some((id, result)) if *id == effect.id => {
                match result {
                    Ok(()) => (effect.state, effect.why) = (EffectState::Done, String::new()),
                    Err(why) => (effect.state, effect.why) = (EffectState::Failed, why.clone()),
                }
                return;
            }
            _ if self.seen.running == Some(effect.id) => return,
            _ => {}
        }
        // Nobody knows how it ended: this process did not begin it.
        let booted = |kind: EffectKind| matches!(kind, EffectKind::NetworkBoot | EffectKind::DiskBoot);
        let agent = self.seen.agent.as_ref().map(|a| a.since_ms);
        let script = self.seen.script.as_ref().map(|s| s.at_ms);
        let shows = agent.max(script).is_some_and(|t| t >= at);
        let reads = self.seen.power.is_some_and(|(on, t)| t >= at && on == (effect.kind != EffectKind::PowerOff));
        if booted(effect.kind) && shows || !booted(effect.kind) && reads {
            effect.state = EffectState::Done;
        } else if self.now >= at + ms(limits::EFFECT_REST) {
            // Whether it is still wanted, the phase decides; that control has died is no try of the BMC's.
            effect.state = EffectState::Failed;
            "control ended before it was known how it went".clone_into(&mut effect.why);
            self.done.status.attempts = self.done.status.attempts.saturating_sub(1);
        } else {
            let due = at + ms(limits::EFFECT_REST);
            self.recheck(due);
        }
    }

    /// A human asks for another try.
    pub(super) fn heed_retry(&mut self) {
        if self.annotated(marks::RETRY).is_some() {
            self.done.heeded.push(marks::RETRY);
            self.done.status.attempts = 0;
            let ended = |e: &EffectRecord| e.state != EffectState::Intended;
            if self.done.status.effect.as_ref().is_some_and(ended) {
                self.done.status.effect = None;
            }
        }
    }

    /// Has something done, unless it is being done, was just done, or has been tried too often.
    /// Returns whether it is under way or done.
    pub(super) fn want_effect(&mut self, kind: EffectKind) -> bool {
        if !self.view.managed {
            return false;
        }
        if !self.view.server.spec.accepted {
            // Nothing is switched that is not ours (W11).
            self.done.status.next = "stoker accept: without it nothing is done to this machine".into();
            return false;
        }
        let mut wait = 0;
        if let Some(effect) = &self.done.status.effect {
            let at = parse_rfc3339(&effect.at).unwrap_or(0);
            match effect.state {
                EffectState::Intended => return effect.kind == kind,
                EffectState::Done if effect.kind == kind => wait = at + ms(limits::EFFECT_REST),
                EffectState::Done => {}
                EffectState::Failed => {
                    let why = effect.why.clone();
                    wait = at + self.pause();
                    let tries = self.done.status.attempts;
                    self.done.status.message =
                        format!("{}; try {tries} failed: {why}", self.done.status.message.trim_end_matches(';'));
                }
            }
        }
        if self.done.status.attempts >= limits::ATTEMPTS {
            self.done.status.next = "a human: stoker describe server, then stoker retry".into();
            self.done.status.deadline.clear();
            return false;
        }
        if self.now < wait {
            self.recheck(wait);
            return false;
        }
        self.done.status.attempts = self.done.status.attempts.saturating_add(1);
        let id = self.next_id();
        let effect = EffectRecord {
            id,
            kind,
            state: EffectState::Intended,
            at: rfc3339(self.now),
            attempts: 1,
            why: String::new(),
        };
        self.done.status.effect = Some(effect.clone());
        self.done.effect = Some(effect);
        true
    }

    /// When an effect of this kind was last done; nothing where the last effect was another.
    pub(super) fn done_at(&self, kind: EffectKind) -> Option<u64> {
        let effect = self.done.status.effect.as_ref()?;
        (effect.kind == kind && effect.state == EffectState::Done).then(|| parse_rfc3339(&effect.at)).flatten()
    }

    /// Whether a machine that has been silent since `heard_ms` is off by its BMC's word: its power was
    /// cut in the middle of something. Has that read now and then.
    pub(super) fn lost_power(&mut self, heard_ms: u64) -> bool {
        if !self.view.managed {
            return false;
        }
        match self.seen.power {
            Some((false, at)) if at > heard_ms => return true,
            Some((_, at)) if self.now < at + ms(limits::POWER_CHECK) => self.recheck(at + ms(limits::POWER_CHECK)),
            _ => {
                self.done.read_power = true;
                self.recheck(self.now + ms(limits::POWER_CHECK));
            }
        }
        false
    }

    /// Boots the machine into the agent by its BMC, and again where it does not show up in time.
    pub(super) fn bring_up_agent(&mut self) {
        if let Some(agent) = self.agent() {
            // It may be one that is only remembered.
            self.recheck(agent.seen_ms + ms(limits::AGENT_SILENCE));
            return;
        }
        if !self.view.managed {
            self.done.status.next = "a network boot by hand: it has no BMC".into();
            return;
        }
        match self.done_at(EffectKind::NetworkBoot) {
            Some(at) if self.now < at + ms(limits::BOOT_TIME) => self.deadline(at + ms(limits::BOOT_TIME)),
            Some(_) => {
                let tries = self.done.status.attempts;
                self.done.status.message =
                    format!("{}; it did not show up after network boot {tries}", self.done.status.message);
                self.want_effect(EffectKind::NetworkBoot);
            }
            None => _ = self.want_effect(EffectKind::NetworkBoot),
        }
    }

    fn pause(&self) -> u64 {
        let doubled = ms(limits::RETRY_PAUSE) << self.done.status.attempts.saturating_sub(1).min(10);
        doubled.min(ms(limits::RETRY_PAUSE_MAX))
    }

    /// What is known of the BMC, for whoever looks at the Server.
    pub(super) fn bmc_conditions(&mut self) {
        let conditions = &mut self.done.status.conditions;
        if !self.view.managed {
            conditions.retain(|c| c.r#type != marks::BMC_REACHABLE && c.r#type != marks::BMC_AUTH_FAILED);
            return;
        }
        let Some(bmc) = &self.seen.bmc else { return };
        let told = |holds: bool| if holds { String::new() } else { bmc.why.clone() };
        if let Some(answers) = bmc.reachable {
            let reason = if answers { "Answers" } else { "DoesNotAnswer" };
            state(conditions, (marks::BMC_REACHABLE, answers), reason, told(answers), self.now);
        }
        let known = conditions.iter().any(|c| c.r#type == marks::BMC_AUTH_FAILED);
        if bmc.auth_failed || known {
            let reason = if bmc.auth_failed { "LoginRefused" } else { "LoginAccepted" };
            state(conditions, (marks::BMC_AUTH_FAILED, bmc.auth_failed), reason, told(!bmc.auth_failed), self.now);
        }
    }
}

/// Sets a condition with its message; its time changes only with its status.
fn state(conditions: &mut Vec<Condition>, what: (&str, bool), reason: &str, message: String, now: u64) {
    let (kind, holds) = what;
    let status = if holds { "True" } else { "False" }.to_owned();
    let found = conditions.iter_mut().find(|c| c.r#type == kind);
    let since = found.as_ref().filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let fresh = Condition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: since.unwrap_or_else(|| rfc3339(now)),
        ..Condition::default()
    };
    match found {
        Some(condition) => *condition = fresh,
        None => conditions.push(fresh),
    }
}
