//! What is done to a machine from outside: intended, done, tried again.
//!
//! An effect is written down as intended before it is done. After a crash it
//! is not known whether it was done: then the machine's own words count, and
//! only after [`limits::EFFECT_REST`] is it done again (F23).

use super::{Step, ms};
use crate::limits;
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{EffectKind, EffectRecord, EffectState, marks};

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
            effect.at = rfc3339(self.now);
            effect.attempts = effect.attempts.saturating_add(1);
            self.done.effect = Some(effect.clone());
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

    /// Boots the machine into the agent by its BMC, and again where it does not show up in time.
    pub(super) fn bring_up_agent(&mut self) {
        if self.agent_here() {
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
}
