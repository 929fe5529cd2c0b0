//! From an allocation to a machine that boots from its own disk.

use super::{Destination, Install, Report, Step, ms};
use crate::limits;
use crate::objects::{parse_rfc3339, rfc3339};
use crate::resource::{EffectKind, EffectState, InstallRecord, OrderState, Phase, ServerBinding, marks};
use protocol::report::{Level, OrderKind};

impl Step<'_> {
    /// The record of an installation that has not begun.
    pub(super) fn begin_install(&mut self, binding: &ServerBinding) {
        self.done.status.order = None;
        self.done.status.install =
            Some(InstallRecord { binding: binding.metadata.uid.clone(), ..InstallRecord::default() });
    }

    pub(super) fn allocated(&mut self) {
        let Some(binding) = self.view.binding else {
            self.quarantine("BindingGone", "its ServerBinding is gone without a release");
            return;
        };
        if self.leave(binding) || self.bereft() {
            return;
        }
        match self.view.install {
            Install::NotReady(why) => {
                self.say("EnvironmentNotReady", why, "install");
                self.recheck(self.now + ms(limits::RETRY_PAUSE));
            }
            Install::None => self.say("NoEnvironment", "nothing says what it is to be installed from", "install"),
            Install::Kernel { environment, .. } => {
                let uid = binding.metadata.uid.clone();
                if self.sent_to_installer(&uid) {
                    self.start(environment);
                    return;
                }
                self.say("Booting", "being booted into its installer", "install");
                if self.view.managed {
                    self.boot_installer();
                } else if self.agent_here() {
                    self.want_order(OrderKind::Reboot, "Installing");
                } else {
                    self.done.status.next = "a network boot by hand: it has no BMC".into();
                }
            }
            Install::Image { environment, order } => {
                self.say("Booting", "being booted into the agent, which writes its image", "install");
                if self.agent_here() {
                    self.want_order(OrderKind::WriteImage((**order).clone()), "Installing");
                    self.start(environment);
                } else {
                    self.bring_up_agent();
                }
            }
        }
    }

    fn sent_to_installer(&self, binding: &str) -> bool {
        self.seen.script.as_ref().is_some_and(|s| matches!(&s.to, Destination::Installer(uid) if uid == binding))
    }

    fn boot_installer(&mut self) {
        match self.done_at(EffectKind::NetworkBoot) {
            Some(at) if self.now < at + ms(limits::BOOT_TIME) => self.deadline(at + ms(limits::BOOT_TIME)),
            Some(_) => {
                self.done.status.message = "it did not ask for its installer's script in time".into();
                self.want_effect(EffectKind::NetworkBoot);
            }
            None => _ = self.want_effect(EffectKind::NetworkBoot),
        }
    }

    fn start(&mut self, environment: &str) {
        let order = self.done.status.order.take();
        self.enter(Phase::Installing, "Installing");
        self.done.status.order = order.filter(|o| matches!(o.order, OrderKind::WriteImage(_)));
        let now = rfc3339(self.now);
        if let Some(install) = &mut self.done.status.install {
            install.environment = environment.to_owned();
            install.started = now;
        }
        self.installing();
    }

    pub(super) fn installing(&mut self) {
        let Some(binding) = self.view.binding else {
            self.quarantine("BindingGone", "its ServerBinding is gone without a release");
            return;
        };
        if self.leave(binding) || self.bereft() {
            return;
        }
        self.done.status.is_clean = false;
        self.take_milestones(&binding.metadata.uid);
        let install = self.done.status.install.clone().unwrap_or_default();
        if !install.running.is_empty() {
            self.run("Reported", "runs from its disk and has said so");
            return;
        }
        if !install.installed.is_empty() {
            self.installed(&install);
            return;
        }
        let begun = self.since().max(parse_rfc3339(&install.config_fetched).unwrap_or(0));
        let deadline = begun + ms(limits::INSTALL_TIME);
        if let Some(why) = self.failure(&binding.metadata.uid) {
            self.try_again("InstallFailed", &why, deadline);
        } else if self.now >= deadline {
            self.try_again("InstallTimeout", "nothing was heard of its installation in time", deadline);
        } else if self.cut_off() {
            self.try_again("PowerLost", "it went off in the middle of its installation", deadline);
        } else {
            let fetched = !install.config_fetched.is_empty();
            let words = if fetched { "has its configuration, installs" } else { "is in its installer" };
            self.say("Installing", words, "boot from its disk");
            self.deadline(deadline);
        }
    }

    /// Whether it is off though nobody has switched it off. An installer that says nothing may end so.
    fn cut_off(&mut self) -> bool {
        let silent = matches!(self.view.install, Install::Kernel { reports: false, .. });
        let fetched = self.done.status.install.as_ref().is_some_and(|i| !i.config_fetched.is_empty());
        if silent && fetched {
            return false;
        }
        if self.agent_here() && matches!(self.view.install, Install::Image { .. }) {
            self.recheck(self.now + ms(limits::AGENT_SILENCE));
            return false;
        }
        let words = [
            self.seen.script.as_ref().map(|s| s.at_ms),
            self.seen.fetched.as_ref().map(|(_, at)| *at),
            self.done.status.effect.as_ref().and_then(|e| parse_rfc3339(&e.at)),
        ];
        self.lost_power(words.into_iter().flatten().max().unwrap_or(0))
    }

    /// What installer, agent and system have told, into the record.
    fn take_milestones(&mut self, uid: &str) {
        let now = rfc3339(self.now);
        let began = self.since();
        let order = self.done.status.order.clone();
        let (agent, script) = (self.seen.agent.as_ref().filter(|a| a.verified), self.seen.script.as_ref());
        let Some(install) = &mut self.done.status.install else { return };
        let fetched = self.seen.fetched.as_ref().filter(|(b, _)| b == uid).map(|(_, at)| *at);
        if let (Some(at), true) = (fetched, install.config_fetched.is_empty()) {
            install.config_fetched = rfc3339(at);
        }
        let said = self.seen.reported.as_ref().filter(|(b, _)| b == uid).map(|(_, r)| r);
        if matches!(said, Some(Report::Installed | Report::Running)) && install.installed.is_empty() {
            install.installed.clone_from(&now);
        }
        if matches!(said, Some(Report::Running)) && install.running.is_empty() {
            install.running.clone_from(&now);
        }
        // An installer that says nothing: it has its configuration, and its machine boots again.
        let silent = matches!(self.view.install, Install::Kernel { reports: false, .. });
        let config = parse_rfc3339(&install.config_fetched);
        let again = script.zip(config).is_some_and(|(s, at)| s.at_ms > at + 1000);
        if silent && again && install.installed.is_empty() {
            install.installed.clone_from(&now);
        }
        // The agent, of an image.
        let Some(mut order) = order.filter(|o| matches!(o.order, OrderKind::WriteImage(_))) else { return };
        let Some(agent) = agent.filter(|a| a.order == order.id && a.seen_ms >= began) else { return };
        order.message.clone_from(&agent.detail);
        let counter = agent.progress.as_ref().map_or(0, |p| p.counter);
        if counter != order.counter {
            (order.counter, order.heard) = (counter, rfc3339(agent.seen_ms));
        }
        order.state = match agent.level {
            Level::Done => {
                if install.installed.is_empty() {
                    install.installed.clone_from(&now);
                }
                OrderState::Done
            }
            Level::Failed | Level::Unsupported => OrderState::Failed,
            Level::Running if order.state == OrderState::Pending => OrderState::Running,
            Level::Running | Level::Holding => order.state,
        };
        self.done.status.order = Some(order);
    }

    fn failure(&self, uid: &str) -> Option<String> {
        let order = self.done.status.order.as_ref().filter(|o| o.state == OrderState::Failed);
        let said = self.seen.reported.as_ref().filter(|(b, _)| b == uid);
        match (order, said) {
            (Some(order), _) => Some(order.message.clone()),
            (None, Some((_, Report::Failed(why)))) => Some(why.clone()),
            _ => None,
        }
    }

    /// From the beginning; the binding stays.
    fn try_again(&mut self, reason: &str, why: &str, deadline: u64) {
        let tries = self.done.status.attempts;
        self.say(reason, why, "another try");
        if tries + 1 >= limits::ATTEMPTS {
            self.done.status.next = "a human: stoker boot log tells how far it came; then stoker retry".into();
            self.done.status.deadline.clear();
            return;
        }
        let due = deadline.min(self.since() + ms(limits::RETRY_PAUSE) * u64::from(tries + 1));
        if self.now < due {
            self.recheck(due);
            return;
        }
        let image = match self.view.install {
            Install::Image { order, .. } => Some((**order).clone()),
            _ => None,
        };
        match image {
            Some(order) => {
                if self.done.status.order.as_ref().is_some_and(|o| o.state == OrderState::Failed) {
                    self.done.status.order = None;
                    self.want_order(OrderKind::WriteImage(order), "Retried");
                }
                self.done.status.attempts = tries + 1;
                self.done.status.since = rfc3339(self.now);
                self.bring_up_agent();
            }
            None => {
                if self.want_effect(EffectKind::NetworkBoot) {
                    self.done.status.since = rfc3339(self.now);
                } else if !self.view.managed {
                    self.done.status.next = "a network boot by hand: it has no BMC".into();
                }
            }
        }
    }

    /// Installed: on its way to its own disk.
    fn installed(&mut self, install: &InstallRecord) {
        let at = parse_rfc3339(&install.installed).unwrap_or(self.now);
        self.say("Installed", "installed; boots from its disk", "its system's first report");
        // The agent has written the image, and holds: it is told to start it.
        if self.agent().is_some_and(|a| a.since_ms <= at + 1000) && matches!(self.view.install, Install::Image { .. }) {
            self.want_order(OrderKind::Reboot, "Installed");
        }
        // `pxeBootAlways`: its Environment is what it runs.
        let always = self.view.server.spec.pxe_boot_always;
        let home = |to: &Destination| *to == Destination::Disk || always && matches!(to, Destination::Installer(_));
        let sent = self.seen.script.as_ref().filter(|s| home(&s.to) && s.at_ms > at).map(|s| s.at_ms);
        if let Some(sent) = sent {
            let grace = sent + ms(limits::DISK_GRACE);
            if self.now >= grace {
                self.run("SentToDisk", "was sent to its disk and is not back; its system does not report");
            } else {
                self.deadline(grace);
            }
            return;
        }
        let deadline = at + ms(limits::RUN_TIME);
        if self.now >= deadline {
            // It may boot from its disk without asking us: a boot order of its own.
            self.run("NotHeard", "is installed; nothing was heard of its system, which may not report");
        } else {
            self.deadline(deadline);
        }
    }

    fn run(&mut self, reason: &str, message: &str) {
        self.enter(Phase::Running, reason);
        self.done.status.order = None;
        self.say(reason, message, "");
        self.running();
    }

    pub(super) fn running(&mut self) {
        if let Some(binding) = self.view.binding
            && self.leave(binding)
        {
            return;
        }
        if self.bereft() {
            return;
        }
        self.done.status.is_clean = false;
        let uid = self.view.binding.map(|b| b.metadata.uid.as_str()).unwrap_or_default();
        let said = self.seen.reported.as_ref().is_some_and(|(b, r)| b == uid && *r == Report::Running);
        let now = rfc3339(self.now);
        if said
            && let Some(install) = &mut self.done.status.install
            && install.running.is_empty()
        {
            install.running = now;
            self.say("Reported", "runs from its disk and has said so", "");
        }
        self.heed_power_cycle();
    }

    /// Somebody asks for a power cycle: once for each wish, whatever becomes of it.
    fn heed_power_cycle(&mut self) {
        let Some(wish) = self.annotated(marks::POWER_CYCLE).map(str::to_owned) else { return };
        let busy = self.done.status.effect.as_ref().is_some_and(|e| e.state == EffectState::Intended);
        if wish.is_empty() || wish == self.done.status.cycled || busy {
            return;
        }
        self.done.status.cycled = wish;
        self.done.status.attempts = 0;
        self.done.status.effect = None;
        self.want_effect(EffectKind::DiskBoot);
    }
}
