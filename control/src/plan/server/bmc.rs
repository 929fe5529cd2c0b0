//! Giving a machine's BMC a user of ours, by its agent, before its disks are
//! erased. Nothing depends on it: a machine whose BMC cannot be set up goes on
//! as one that has none, and says so in a condition.

use super::{Seen, Step, ms};
use crate::limits;
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{BmcSetup, BmcSetupState, Condition, OrderRecord, OrderState, Phase, Server, marks};
use protocol::report::{Facts, Level, OrderKind};

/// Whether an agent is told to set the BMC up before anything else: the machine is to be wiped, has
/// a BMC that nobody has declared, and the wipe has not begun.
pub fn is_due(server: &Server, facts: &Facts) -> bool {
    let (spec, status) = (&server.spec, &server.status);
    let waits = |o: &OrderRecord| matches!(o.order, OrderKind::Wipe(_)) && o.state == OrderState::Pending;
    let Some(wipe) = status.order.as_ref().filter(|o| waits(o)) else { return false };
    // Once for each wipe: what failed last time may go well the next time round.
    let tried = status.bmc_setup.as_ref().is_some_and(|s| s.id > wipe.id);
    let ended = status.bmc_setup.as_ref().is_some_and(|s| s.state != BmcSetupState::Ordered);
    spec.accepted
        && spec.bmc.is_none()
        && spec.management_api.is_none()
        && facts.bmc_present
        && status.phase == Some(Phase::Wiping)
        && !(tried && ended)
}

impl Step<'_> {
    /// The next step of the set-up, if there is one. After the phase's own step.
    pub(super) fn set_up_bmc(&mut self) {
        let spec = &self.view.server.spec;
        let retried = self.done.heeded.contains(&marks::RETRY);
        if retried && self.done.status.bmc_setup.as_ref().is_some_and(|s| s.state == BmcSetupState::Failed) {
            self.done.status.bmc_setup = None;
        }
        let setup = self.done.status.bmc_setup.clone();
        if spec.bmc.is_some() || spec.management_api.is_some() {
            // Written by us before a crash, or by the operator, whose word goes before ours.
            let open = |s: &BmcSetup| matches!(s.state, BmcSetupState::Ordered | BmcSetupState::Verifying);
            if let Some(setup) = setup.filter(open) {
                self.bmc_ends(setup, BmcSetupState::Done, String::new());
            }
            return;
        }
        match setup {
            Some(setup) if setup.state == BmcSetupState::Verifying => self.verify_bmc(setup),
            setup => self.order_bmc(setup),
        }
    }

    fn order_bmc(&mut self, setup: Option<BmcSetup>) {
        let now = self.now;
        let decided = Server { status: self.done.status.clone(), ..self.view.server.clone() };
        let due = self.view.set_up_bmc && self.view.facts.is_some_and(|facts| is_due(&decided, facts));
        let ordered = setup.as_ref().filter(|s| s.state == BmcSetupState::Ordered).cloned();
        if !due {
            if ordered.is_some() {
                self.done.status.bmc_setup = None;
            }
            return;
        }
        // Only an agent that is there can do it, and the wipe need not wait for it to come.
        let Some(agent) = self.agent() else { return };
        let setup = match ordered {
            Some(setup) => setup,
            None => BmcSetup { id: self.next_id(), since: rfc3339(now), ..BmcSetup::default() },
        };
        self.done.status.bmc_setup = Some(setup.clone());
        self.say("BmcSetUp", "its agent gives its BMC a user of ours; then its disks are erased", "wipe");
        if agent.order == setup.id {
            match (agent.level, agent.bmc.as_ref()) {
                (Level::Done, Some(found)) => match found.address.parse::<std::net::IpAddr>() {
                    Ok(address) => {
                        let found = BmcSetup {
                            state: BmcSetupState::Verifying,
                            endpoint: address.to_string(),
                            port: found.port,
                            logins: 1,
                            since: rfc3339(now),
                            ..setup
                        };
                        self.done.status.bmc_setup = Some(found.clone());
                        return self.verify_bmc(found);
                    }
                    Err(_) => return self.bmc_fails(setup, "the agent does not tell the BMC's address".into()),
                },
                (Level::Done, None) => return self.bmc_fails(setup, "the agent does not tell where the BMC is".into()),
                (Level::Failed | Level::Unsupported, _) => return self.bmc_fails(setup, agent.detail.clone()),
                (Level::Holding | Level::Running, _) => {}
            }
        }
        let begun = parse_rfc3339(&setup.since).unwrap_or(now).max(agent.since_ms);
        let deadline = begun + ms(limits::BMC_SETUP_TIME);
        if now >= deadline {
            let minutes = limits::BMC_SETUP_TIME.as_secs() / 60;
            self.bmc_fails(setup, format!("the agent was not done within {minutes} minutes"));
        } else {
            self.recheck(deadline);
        }
    }

    /// The agent's word is a claim; what counts is that control can log in.
    fn verify_bmc(&mut self, setup: BmcSetup) {
        match login_of(self.seen, &setup) {
            Some(Ok(())) => {
                self.done.adopt_bmc = true;
                self.bmc_ends(setup, BmcSetupState::Done, String::new());
            }
            Some(Err(why)) if setup.logins >= limits::BMC_SETUP_LOGINS => {
                self.bmc_fails(setup, format!("a user was made, but control cannot log in: {why}"));
            }
            Some(Err(_)) => {
                let again = BmcSetup { logins: setup.logins + 1, since: rfc3339(self.now), ..setup };
                self.done.status.bmc_setup = Some(again);
                self.recheck(self.now + ms(limits::BMC_SETUP_PAUSE));
            }
            None => {
                let begun = parse_rfc3339(&setup.since).unwrap_or(self.now);
                let due = if setup.logins > 1 { begun + ms(limits::BMC_SETUP_PAUSE) } else { begun };
                self.done.try_bmc = self.now >= due;
                self.recheck(if self.done.try_bmc { self.now + ms(limits::EFFECT_TIME) } else { due });
            }
        }
    }

    fn bmc_fails(&mut self, setup: BmcSetup, why: String) {
        self.bmc_ends(setup, BmcSetupState::Failed, why);
    }

    fn bmc_ends(&mut self, setup: BmcSetup, state: BmcSetupState, message: String) {
        let ok = state == BmcSetupState::Done;
        let (status, reason) = if ok { ("True", "LoggedIn") } else { ("False", "SetUpFailed") };
        let fresh = Condition {
            r#type: marks::BMC_SET_UP.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.clone(),
            last_transition_time: rfc3339(self.now),
            ..Condition::default()
        };
        let conditions = &mut self.done.status.conditions;
        conditions.retain(|c| c.r#type != marks::BMC_SET_UP);
        conditions.push(fresh);
        if self.done.status.reason == "BmcSetUp" {
            self.say("Ordered", "waits for its agent to take the wipe order", "wipe");
        }
        self.done.status.bmc_setup = Some(BmcSetup { state, message, ..setup });
    }
}

/// How control's present login for this set-up went, if it has ended.
fn login_of(seen: &Seen, setup: &BmcSetup) -> Option<Result<(), String>> {
    let same = |(id, logins, _): &&(u64, u16, Result<(), String>)| (*id, *logins) == (setup.id, setup.logins);
    seen.bmc_login.as_ref().filter(same).map(|(.., result)| result.clone())
}
