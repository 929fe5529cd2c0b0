//! One machine: read, decide, write, act.

use super::{Lifecycle, Wanted};
use crate::limits;
use crate::objects::{Error, Objects, parse_rfc3339};
use crate::observe::{Milestone, Observation};
use crate::plan::provider::paused;
use crate::plan::server::{self, Decision, Install, View};
use crate::resource::{
    Bmc, EffectKind, EffectRecord, Environment, Kind, Object, Phase, PxeMode, Server, ServerBinding, ServerClass,
    Typed, marks,
};
use protocol::report::{Facts, FirmwareKind};

/// All that is declared and recorded of a machine, as it is in the store now.
pub struct Whole {
    pub object: Object,
    pub server: Server,
    pub binding: Option<ServerBinding>,
    pub class: Option<ServerClass>,
    pub install: Install,
    pub facts: Option<Facts>,
    pub paused: bool,
    pub set_up_bmc: bool,
    /// Why another machine claims to be this one, if one does.
    pub conflict: Option<String>,
}

impl Whole {
    /// Whether an installer that does not report has come round: its machine has its configuration
    /// for a while, and boots again.
    pub fn silent_installer_is_done(&self, now: u64) -> bool {
        let silent = matches!(self.install, Install::Kernel { reports: false, .. });
        let fetched = self.server.status.install.as_ref().and_then(|i| parse_rfc3339(&i.config_fetched));
        silent && fetched.is_some_and(|at| now > at + 1000)
    }

    fn view(&self) -> View<'_> {
        let spec = &self.server.spec;
        View {
            server: &self.server,
            binding: self.binding.as_ref(),
            class: self.class.as_ref(),
            install: &self.install,
            facts: self.facts.as_ref(),
            managed: spec.bmc.as_ref().is_some_and(Bmc::is_used) || spec.management_api.is_some(),
            paused: self.paused,
            set_up_bmc: self.set_up_bmc,
            conflict: self.conflict.as_deref(),
        }
    }
}

/// Whether a machine's firmware is UEFI, as far as anybody knows.
pub fn efi(server: &Server, facts: Option<&Facts>) -> bool {
    match (server.spec.pxe_mode, facts.map(|f| f.firmware)) {
        (Some(mode), _) => mode == PxeMode::Uefi,
        (None, Some(FirmwareKind::Bios)) => false,
        (None, _) => true,
    }
}

impl<O: Objects> Lifecycle<O> {
    /// Brings a machine's status up to date and does what follows, until nothing more follows.
    ///
    /// # Errors
    /// Where the store fails. Whatever was written so far stands; the next call goes on from there.
    pub async fn reconcile(&self, name: &str) -> Result<(), Error> {
        for _ in 0..limits::RECONCILE_ROUNDS {
            let object = match self.inner.objects.get(Kind::Server, "", name).await {
                Ok(object) => object,
                Err(Error::NotFound(_)) => {
                    self.board().forget(name);
                    self.waiting().remove(name);
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            let now = self.now();
            let whole = self.view(&object).await?;
            if matches!(whole.install, Install::NotReady(_)) {
                self.waiting().insert(name.to_owned());
            }
            let mut seen = self.board().seen(name);
            seen.bmc = self.inner.hands.bmc(&whole.server);
            let decision = server::server(&whole.view(), &seen, now);
            match self.carry_out(&whole, decision).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // Somebody else has written: decide again, on what is there now.
                Err(Error::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Store("its status does not settle".to_owned()))
    }

    /// Writes and does what was decided; whether something was written, so that more may follow.
    async fn carry_out(&self, whole: &Whole, mut decision: Decision) -> Result<bool, Error> {
        let name = &whole.server.metadata.name;
        let mut wrote = false;
        // First the record of an acceptance, which must not be lost with the status.
        let mut object = whole.object.clone();
        let accepted = decision.mark_accepted && !object.metadata.annotations.contains_key(marks::ACCEPTED_AT);
        if accepted {
            let at = crate::objects::rfc3339(self.now());
            object.metadata.annotations.insert(marks::ACCEPTED_AT.to_owned(), at);
            object = self.inner.objects.replace(object).await?;
            wrote = true;
        }
        // Likewise how to reach its BMC: after a crash the status follows from it.
        if decision.adopt_bmc
            && let Some(setup) = &decision.status.bmc_setup
        {
            object = self.adopt_bmc(object, setup).await?;
            wrote = true;
        }
        if decision.status != whole.server.status {
            let fresh = decision.status.wiped != whole.server.status.wiped;
            if let Some(record) = decision.status.wiped.as_mut().filter(|_| fresh) {
                self.inner.signer.sign(record);
            }
            self.tell(&whole.server, &decision);
            object.status = serde_json::to_value(&decision.status).map_err(|e| Error::Store(e.to_string()))?;
            object = self.inner.objects.replace_status(object).await?;
            wrote = true;
        }
        // What was heeded is taken off only after its consequence is on disk.
        let heeded: Vec<_> = decision.heeded.iter().filter(|m| object.metadata.annotations.contains_key(**m)).collect();
        if !heeded.is_empty() {
            for mark in heeded {
                object.metadata.annotations.remove(*mark);
            }
            self.inner.objects.replace(object).await?;
            wrote = true;
        }
        if decision.release
            && let Some(binding) = &whole.binding
            && binding.metadata.finalizers.iter().any(|f| f == marks::RELEASE_FINALIZER)
        {
            let mut binding = binding.clone();
            binding.metadata.finalizers.retain(|f| f != marks::RELEASE_FINALIZER);
            self.inner.objects.replace(binding.to_object()).await?;
            wrote = true;
        }
        if let Some(effect) = decision.effect {
            self.act(whole, effect);
        }
        if decision.read_power {
            self.read_power(whole);
        }
        if decision.try_bmc
            && let Some(setup) = &decision.status.bmc_setup
        {
            self.try_bmc(whole, setup);
        }
        if let Some(at) = decision.recheck_ms {
            self.wake_at(name, at);
        }
        Ok(wrote)
    }

    /// Begins an effect that is on record. Its end wakes the machine.
    fn act(&self, whole: &Whole, effect: EffectRecord) {
        let name = whole.server.metadata.name.clone();
        {
            let mut board = self.board();
            let seen = &mut board.of(&name).seen;
            if seen.running == Some(effect.id) {
                return;
            }
            seen.running = Some(effect.id);
            seen.power = None;
        }
        let (this, server, efi) = (self.clone(), whole.server.clone(), efi(&whole.server, whole.facts.as_ref()));
        tokio::spawn(async move {
            tracing::info!(server = name, effect = effect.id, kind = ?effect.kind, "doing it");
            this.see(&server, power(effect.kind, None));
            let result = this.inner.hands.act(&server, efi, effect.kind).await;
            if let Err(why) = &result {
                tracing::warn!(server = name, effect = effect.id, kind = ?effect.kind, why, "it failed");
            }
            this.see(&server, power(effect.kind, Some(&result)));
            {
                let now = this.now();
                let mut board = this.board();
                let seen = &mut board.of(&name).seen;
                if result.is_ok() {
                    seen.power = Some((effect.kind != EffectKind::PowerOff, now));
                }
                seen.ended = Some((effect.id, result.map_err(|e| crate::metadata::words::clean(&e))));
                seen.running = None;
            }
            this.wake(&name);
        });
    }

    /// Another phase, or another reason for it, is worth a line.
    fn tell(&self, before: &Server, decision: &Decision) {
        let (old, new) = (&before.status, &decision.status);
        if old.phase == new.phase && old.reason == new.reason {
            return;
        }
        let phase = new.phase.map_or("-", Phase::name);
        tracing::info!(server = before.metadata.name, phase, reason = new.reason, "{}", new.message);
        self.see(before, Milestone::Life { phase: phase.to_owned(), why: new.message.clone() });
    }

    /// Tells the story of a machine.
    fn see(&self, server: &Server, what: Milestone) {
        let Some(observer) = &self.inner.observer else { return };
        let mac = self.inner.machines.of_server(server).and_then(|r| r.mac);
        let uuid = server.metadata.name.parse().ok();
        observer.see(Observation { at_ms: self.now(), mac, ip: None, uuid, what });
    }

    fn read_power(&self, whole: &Whole) {
        let name = whole.server.metadata.name.clone();
        if !self.board().reading(&name) {
            return;
        }
        let (this, server) = (self.clone(), whole.server.clone());
        tokio::spawn(async move {
            let on = this.inner.hands.is_on(&server).await;
            if let Err(why) = &on {
                tracing::warn!(server = name, why, "its power state cannot be read");
            }
            let now = this.now();
            this.board().read(&name, on.ok(), now);
            this.wake(&name);
        });
    }

    /// Everything that a decision about a machine rests on, as the store has it now.
    pub(super) async fn view(&self, object: &Object) -> Result<Whole, Error> {
        let server = Server::from_object(object).map_err(|e| Error::Invalid(vec![e]))?;
        let name = &server.metadata.name;
        let binding: Option<ServerBinding> = self.typed(name).await?;
        let class_name = binding.as_ref().and_then(|b| b.spec.server_class_ref.as_ref()).map(|r| r.name.clone());
        let class: Option<ServerClass> = match class_name {
            Some(class) => self.typed(&class).await?,
            None => None,
        };
        let known = self.board().facts(name).cloned();
        let facts = known.or_else(|| self.inner.machines.of_server(&server).map(|r| r.hello.facts));
        let mut whole = Whole {
            object: object.clone(),
            conflict: self.inner.inventory.conflict(&server.metadata.name),
            paused: paused(&server.metadata, None) || binding.as_ref().is_some_and(|b| paused(&b.metadata, None)),
            server,
            binding,
            class,
            install: Install::None,
            facts,
            set_up_bmc: self.inner.set_up_bmcs,
        };
        whole.install = self.install(&whole).await?;
        Ok(whole)
    }

    async fn install(&self, whole: &Whole) -> Result<Install, Error> {
        let Some(binding) = &whole.binding else { return Ok(Install::None) };
        let of_class = whole.class.as_ref().and_then(|c| c.spec.environment_ref.as_ref());
        let refs = [binding.spec.environment_ref.as_ref(), whole.server.spec.environment_ref.as_ref(), of_class];
        let name = refs.into_iter().flatten().map(|r| r.name.as_str()).next();
        let name = name.unwrap_or_else(|| self.inner.installs.default_environment());
        let environment: Option<Environment> = self.typed(name).await?;
        Ok(self.inner.installs.install(&Wanted {
            name,
            environment: environment.as_ref(),
            server: &whole.server,
            binding,
            class: whole.class.as_ref(),
            facts: whole.facts.as_ref(),
        }))
    }

    async fn typed<T: Typed>(&self, name: &str) -> Result<Option<T>, Error> {
        match self.inner.objects.get(T::KIND, "", name).await {
            Ok(object) => T::from_object(&object).map(Some).map_err(|e| Error::Invalid(vec![e])),
            Err(Error::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether nothing may be done to a machine. What cannot be read counts as paused (W13).
    pub(super) async fn is_paused(&self, server: &Server) -> bool {
        if paused(&server.metadata, None) {
            return true;
        }
        match self.typed::<ServerBinding>(&server.metadata.name).await {
            Ok(binding) => binding.is_some_and(|b| paused(&b.metadata, None)),
            Err(_) => true,
        }
    }
}

/// What a BMC does, for the story of the machine.
fn power(kind: EffectKind, result: Option<&Result<(), String>>) -> Milestone {
    let (action, starts) = match kind {
        EffectKind::NetworkBoot => ("network boot", true),
        EffectKind::DiskBoot => ("disk boot", true),
        EffectKind::PowerOn => ("on", true),
        EffectKind::PowerOff => ("off", false),
    };
    let why = result.and_then(|r| r.as_ref().err()).map(|e| crate::metadata::words::clean(e)).unwrap_or_default();
    Milestone::Power { action: action.to_owned(), starts, done: result.map(Result::is_ok), why }
}
