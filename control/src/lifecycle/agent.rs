//! What machines tell, and what they are told: agents, scripts, configurations,
//! reports of installers.

use super::Lifecycle;
use crate::limits;
use crate::objects::{Error, Objects};
use crate::plan::order::{self, HOLD, is, target_of};
use crate::plan::server::{Agent, Destination, Report, Script};
use crate::resource::{Kind, OrderState, Phase, Server, ServerBinding, Typed, marks};
use protocol::report::{CURRENT, Confirmed, Hello, Level, Order, OrderKind, Status};

impl<O: Objects> Lifecycle<O> {
    /// An agent's first words. `verified`: by the token of its boot.
    pub fn hello(&self, server: &str, hello: &Hello, verified: bool) {
        let now = self.now();
        {
            let mut board = self.board();
            let entry = board.of(server);
            let known = entry.seen.agent.as_ref().is_some_and(|a| a.boot_id == hello.boot_id && a.verified == verified);
            // Whoever cannot prove it does not take the place of one who could.
            let usurps = !verified && entry.seen.agent.as_ref().is_some_and(|a| a.verified);
            if known || usurps {
                return;
            }
            entry.facts = Some(hello.facts.clone());
            entry.seen.agent = Some(Agent {
                boot_id: hello.boot_id.clone(),
                verified,
                since_ms: now,
                seen_ms: now,
                order: 0,
                level: Level::Holding,
                detail: String::new(),
                progress: None,
                disks: Vec::new(),
                bmc: None,
            });
        }
        self.wake(server);
    }

    /// An agent's further words. An agent that said hello to another control process is asked for it
    /// again by [`Lifecycle::knows`].
    pub fn status(&self, server: &str, status: &Status, verified: bool) {
        let news = {
            let now = self.now();
            let mut board = self.board();
            let Some(agent) = board.of(server).seen.agent.as_mut() else { return };
            if agent.boot_id != status.boot_id || agent.verified != verified {
                return;
            }
            let before = agent.clone();
            agent.seen_ms = now;
            agent.order = status.order;
            agent.level = status.level;
            agent.detail = crate::metadata::words::clean(&status.detail);
            agent.progress.clone_from(&status.progress);
            agent.disks.clone_from(&status.disks);
            agent.bmc.clone_from(&status.bmc);
            // A poll without news is no reason to look at the machine.
            Agent { seen_ms: 0, ..before } != Agent { seen_ms: 0, ..agent.clone() }
        };
        if news {
            self.wake(server);
        }
    }

    /// Whether this boot of an agent has said hello to this process.
    pub fn knows(&self, server: &str, boot_id: &str) -> bool {
        self.board().of(server).seen.agent.as_ref().is_some_and(|a| a.boot_id == boot_id)
    }

    /// What an agent is told now.
    pub async fn order(&self, server: &str, verified: bool) -> Order {
        let Ok(object) = self.inner.objects.get(Kind::Server, "", server).await else { return HOLD };
        let Ok(server) = Server::from_object(&object) else { return HOLD };
        let paused = self.is_paused(&server).await;
        if let Some(order) = self.bmc_order(&server, verified, paused).await {
            return order;
        }
        let board = self.board();
        order::order(&server, board.facts(&server.metadata.name), verified, paused)
    }

    /// The last question before disks are touched (W5): answered from the store, and `go` only when
    /// it is on disk that the machine is being erased.
    pub async fn confirm(&self, server: &str, status: &Status, verified: bool) -> Confirmed {
        let (go, why) = match self.confirmed(server, status, verified).await {
            Ok(()) => (true, String::new()),
            Err(why) => (false, why),
        };
        tracing::info!(server, order = status.order, go, why, "an agent asks whether it may write to its disks");
        Confirmed { version: CURRENT, order: status.order, go, why }
    }

    async fn confirmed(&self, name: &str, status: &Status, verified: bool) -> Result<(), String> {
        if !verified {
            return Err("this boot is not one that stoker has ordered".into());
        }
        let facts = self.board().facts(name).cloned().ok_or("say hello first")?;
        for _ in 0..limits::RECONCILE_ROUNDS {
            let failed = |e: &Error| format!("the store cannot tell: {e}");
            let object = self.inner.objects.get(Kind::Server, "", name).await.map_err(|e| failed(&e))?;
            let mut server = Server::from_object(&object).map_err(|e| e.to_string())?;
            let binding = match self.inner.objects.get(Kind::ServerBinding, "", name).await {
                Ok(binding) => Some(ServerBinding::from_object(&binding).map_err(|e| e.to_string())?),
                Err(Error::NotFound(_)) => None,
                Err(e) => return Err(failed(&e)),
            };
            if self.is_paused(&server).await {
                return Err("paused".into());
            }
            let now = self.now();
            let record = server.status.order.as_mut().filter(|o| o.id == status.order).ok_or("the order is gone")?;
            if !matches!(record.state, OrderState::Pending | OrderState::Running | OrderState::Erasing) {
                return Err("the order has ended".into());
            }
            if !record.expires.is_empty() && crate::objects::parse_rfc3339(&record.expires).is_none_or(|t| t < now) {
                return Err("the order has expired".into());
            }
            if !target_of(&record.order).is_some_and(|t| is(t, &facts)) {
                return Err("the order is for another machine".into());
            }
            let claimed = server.metadata.annotations.contains_key(marks::CLAIMED_BY);
            match (&record.order, server.status.phase, &binding) {
                (OrderKind::Wipe(_), Some(Phase::Wiping), None) if server.spec.accepted && !claimed => {}
                (OrderKind::Wipe(_), ..) => {
                    return Err("the machine is not accepted, not to be wiped, or somebody has it".into());
                }
                (OrderKind::WriteImage(_), Some(Phase::Installing), Some(b))
                    if b.metadata.deletion_timestamp.is_none()
                        && server.status.install.as_ref().is_some_and(|i| i.binding == b.metadata.uid) => {}
                _ => return Err("the allocation has ended".into()),
            }
            if record.state == OrderState::Erasing {
                return Ok(());
            }
            self.may_erase(now)?;
            record.state = OrderState::Erasing;
            record.heard = crate::objects::rfc3339(now);
            match self.inner.objects.replace_status(server.to_object()).await {
                Ok(_) => return Ok(()),
                // Somebody claims it, or it has changed: read again.
                Err(Error::Conflict { .. }) => {}
                Err(e) => return Err(failed(&e)),
            }
        }
        Err("the Server changes too fast; ask again".into())
    }

    /// Blast radius (W12): so many wipes at once are probably a mistake.
    fn may_erase(&self, now: u64) -> Result<(), String> {
        let mut confirmed = self.inner.confirmed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while confirmed.front().is_some_and(|t| now.saturating_sub(*t) > 60_000) {
            confirmed.pop_front();
        }
        let most = self.inner.wipes_per_minute;
        if confirmed.len() >= most {
            tracing::warn!(limit = most, "too many machines are to be erased within a minute: the others wait");
            return Err(format!("more than {most} machines would be erased within a minute; ask again"));
        }
        confirmed.push_back(now);
        Ok(())
    }

    /// Where a machine is sent that asks for its script; nothing for one that has no Server, or is
    /// not ours.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn goal(&self, server: &str, known_card: bool) -> Result<Option<Goal>, Error> {
        let object = match self.inner.objects.get(Kind::Server, "", server).await {
            Ok(object) => object,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        let view = self.view(&object).await?;
        Ok(goal(&view, known_card, self.now()))
    }

    /// A machine was given a script.
    pub fn sent(&self, server: &str, to: Destination) {
        let at_ms = self.now();
        self.board().of(server).seen.script = Some(Script { to, at_ms });
        self.wake(server);
    }

    /// A machine has fetched the configuration of its allocation; returns when that is on record.
    ///
    /// # Errors
    /// Where the store fails: the machine asks again.
    pub async fn fetched(&self, server: &str, binding: &str) -> Result<(), Error> {
        {
            let now = self.now();
            let mut board = self.board();
            let seen = &mut board.of(server).seen;
            if seen.fetched.as_ref().is_none_or(|(b, _)| b != binding) {
                seen.fetched = Some((binding.to_owned(), now));
            }
        }
        self.reconcile(server).await
    }

    /// Whether the configuration of a machine could be made for it.
    pub fn config(&self, server: &str, binding: &str, made: Result<(), String>) {
        let made = made.map_err(|why| crate::metadata::words::clean(&why));
        let news = Some((binding.to_owned(), made));
        {
            let mut board = self.board();
            let seen = &mut board.of(server).seen;
            if seen.config == news {
                return;
            }
            seen.config = news;
        }
        self.wake(server);
    }

    /// Somebody has asked for the configuration of a machine who may not have it. Shown on the Server, and
    /// written there now and then only: whoever asks often must not keep the store busy.
    pub fn refused(&self, server: &str, why: &str) {
        let now = self.now();
        {
            let mut board = self.board();
            let Some(refused) = board.known(server).map(|seen| &mut seen.refused) else { return };
            let rest = u64::try_from(limits::REFUSAL_REST.as_millis()).unwrap_or(u64::MAX);
            if refused.as_ref().is_some_and(|(at, _)| now < at.saturating_add(rest)) {
                return;
            }
            *refused = Some((now, why.to_owned()));
        }
        self.wake(server);
    }

    /// An installer or installed system has reported; returns when that is on record.
    ///
    /// # Errors
    /// Where the store fails: the machine asks again.
    pub async fn reported(&self, server: &str, binding: &str, report: Report) -> Result<(), Error> {
        self.board().of(server).seen.reported = Some((binding.to_owned(), report));
        self.reconcile(server).await
    }
}

/// Where a machine goes, and how.
#[derive(Clone, PartialEq, Debug)]
pub enum Goal {
    /// Into our agent.
    Agent,
    /// Into the installer of its allocation.
    Installer {
        /// The Environment.
        environment: String,
        /// The binding's uid.
        binding: String,
    },
    /// To its disk.
    Disk(Option<crate::resource::BootFromDisk>),
}

/// The table of phases. `known_card`: the card that asks is one that the machine has reported.
pub(super) fn goal(view: &super::reconcile::Whole, known_card: bool, now: u64) -> Option<Goal> {
    use crate::plan::server::Install;
    let (server, status) = (&view.server, &view.server.status);
    let method = server.spec.boot_from_disk_method.or(view.class.as_ref().and_then(|c| c.spec.boot_from_disk_method));
    let bound = view.binding.as_ref().filter(|b| b.metadata.deletion_timestamp.is_none());
    let installer = || match (&view.install, bound) {
        // A stranger with this machine's UUID gets neither its installer nor its configuration (F33).
        (Install::Kernel { environment, .. }, Some(b)) if known_card => {
            Goal::Installer { environment: environment.clone(), binding: b.metadata.uid.clone() }
        }
        _ => Goal::Agent,
    };
    let installed = status.install.as_ref().is_some_and(|i| !i.installed.is_empty());
    // Once it is in its installer it goes there again, or waits: where the files are not here for a
    // moment (a restart, a new version), it is refused a script and asks again.
    let begun = || match (&view.install, bound, &status.install) {
        (Install::NotReady(_), Some(b), Some(i)) if known_card && !i.environment.is_empty() => {
            Goal::Installer { environment: i.environment.clone(), binding: b.metadata.uid.clone() }
        }
        _ => installer(),
    };
    // Diskless: its Environment is its system. An image has nothing to boot from the network.
    let always = server.spec.pxe_boot_always && bound.is_some() && !matches!(view.install, Install::Image { .. });
    match status.phase {
        None | Some(Phase::Discovered) => None,
        Some(Phase::Wiping | Phase::Releasing | Phase::Available) => Some(Goal::Agent),
        Some(Phase::Allocated) => Some(installer()),
        Some(Phase::Installing | Phase::Running) if always => Some(begun()),
        Some(Phase::Installing) if installed || view.silent_installer_is_done(now) => Some(Goal::Disk(method)),
        Some(Phase::Installing) => Some(begun()),
        Some(Phase::Running) => Some(Goal::Disk(method)),
        Some(Phase::Quarantined) if status.install.is_some() || view.binding.is_some() => Some(Goal::Disk(method)),
        Some(Phase::Quarantined) => Some(Goal::Agent),
    }
}
