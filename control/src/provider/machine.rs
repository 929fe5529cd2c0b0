//! One MetalMachine: read, decide, write, act.

use super::index::Key;
use super::{Provider, Round};
use crate::allocation::{From, Refused};
use crate::objects::{Error, Objects, Preconditions};
use crate::plan::provider::{self, Held, MACHINE_FINALIZER, MachineAct, MachineView, PAUSED_BY_CLUSTER};
use crate::resource::capi::{BLOCK_MOVE, CLUSTER_NAME};
use crate::resource::{
    Cluster, Kind, Machine, Meta, MetalMachine, Object, ObjectReference, Server, ServerBinding, ServerBindingSpec,
    ServerBindingStatus, Typed, marks,
};

/// All that is declared and recorded of a MetalMachine, as it is in the store now.
struct Whole {
    object: Object,
    metal: MetalMachine,
    machine: Option<Machine>,
    cluster: Option<Cluster>,
    binding: Option<ServerBinding>,
    surplus: Option<ServerBinding>,
    server: Option<Server>,
}

impl<O: Objects> Provider<O> {
    pub(super) async fn machine(&self, key: &Key) -> Result<Round, Error> {
        let Some(object) = self.object(key.kind, &key.namespace, &key.name).await? else {
            self.refused().remove(key);
            return Ok(Round::Rest(None));
        };
        if !self.inner.scope.has(&object.metadata) {
            return Ok(Round::Rest(None));
        }
        let whole = self.whole(key, object).await?;
        let refused = self.refused().get(key).cloned();
        let view = MachineView {
            metal: &whole.metal,
            machine: whole.machine.as_ref(),
            cluster: whole.cluster.as_ref(),
            binding: whole.binding.as_ref(),
            server: whole.server.as_ref(),
            surplus: whole.surplus.as_ref(),
            refused: refused.as_deref(),
        };
        let decision = provider::machine(view, self.now());
        let mut object = whole.object.clone();
        if decision.status != whole.metal.status {
            object.status = serde_json::to_value(&decision.status).map_err(|e| Error::Store(e.to_string()))?;
            object = self.inner.objects.replace_status(object).await?;
        }
        self.act(key, &whole, object, decision.act).await
    }

    async fn act(&self, key: &Key, whole: &Whole, mut object: Object, act: MachineAct) -> Result<Round, Error> {
        let objects = &self.inner.objects;
        let meta = &mut object.metadata;
        match act {
            MachineAct::None => {
                self.refused().remove(key);
                return Ok(Round::Rest(None));
            }
            MachineAct::AddFinalizer => {
                meta.finalizers.push(MACHINE_FINALIZER.to_owned());
                meta.annotations.insert(BLOCK_MOVE.to_owned(), String::new());
                objects.replace(object).await?;
            }
            MachineAct::RemoveFinalizer => {
                meta.finalizers.retain(|f| f != MACHINE_FINALIZER);
                objects.replace(object).await?;
                tracing::info!(machine = %key, "a MetalMachine has left: its Server is in our hands, or it had none");
                return Ok(Round::Rest(None));
            }
            MachineAct::BlockMove(blocked) => {
                if blocked {
                    meta.annotations.insert(BLOCK_MOVE.to_owned(), String::new());
                } else {
                    meta.annotations.remove(BLOCK_MOVE);
                }
                objects.replace(object).await?;
            }
            MachineAct::Record(spec) => {
                object.spec = serde_json::to_value(&spec).map_err(|e| Error::Store(e.to_string()))?;
                object.metadata.annotations.remove(marks::CLAIMING);
                objects.replace(object).await?;
                self.refused().remove(key);
            }
            MachineAct::Claim { from, zone, secret } => return self.claim(key, object, from, zone, &secret).await,
            MachineAct::Adopt => {
                if let Some(mut binding) = whole.binding.clone() {
                    binding.spec.metal_machine_ref.uid.clone_from(&whole.metal.metadata.uid);
                    objects.replace(binding.to_object()).await?;
                }
            }
            MachineAct::Pause(paused) => {
                if let Some(mut binding) = whole.binding.clone() {
                    let annotations = &mut binding.metadata.annotations;
                    if paused {
                        annotations.insert(marks::PAUSED.to_owned(), PAUSED_BY_CLUSTER.to_owned());
                    } else {
                        annotations.remove(marks::PAUSED);
                    }
                    objects.replace(binding.to_object()).await?;
                }
            }
            MachineAct::Explain => {
                if let Some(mut server) = whole.server.clone() {
                    server.metadata.annotations.insert(marks::LIFT.to_owned(), "running".to_owned());
                    objects.replace(server.to_object()).await?;
                }
            }
            MachineAct::Release => self.release(whole.binding.as_ref()).await?,
            MachineAct::ReleaseSurplus => self.release(whole.surplus.as_ref()).await?,
        }
        Ok(Round::Again)
    }

    async fn release(&self, binding: Option<&ServerBinding>) -> Result<(), Error> {
        let Some(meta) = binding.map(|b| &b.metadata) else { return Ok(()) };
        // This very binding: what has come in its place since is somebody else's.
        let only = Preconditions { uid: Some(meta.uid.clone()), resource_version: None };
        match self.inner.objects.delete(Kind::ServerBinding, "", &meta.name, only).await {
            Ok(()) => tracing::info!(server = meta.name, "a Server is released by its MetalMachine"),
            Err(Error::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    // --- claiming -----------------------------------------------------------------

    /// One Server, in these steps: the mark on the Server, the annotation on the MetalMachine (over the version
    /// that was decided on), the binding. Two processes that claim for the same MetalMachine meet at the second.
    async fn claim(
        &self,
        key: &Key,
        mut object: Object,
        from: From,
        zone: Option<String>,
        secret: &str,
    ) -> Result<Round, Error> {
        // What an earlier try has reached for comes first: its binding may be on its way.
        let begun = object.metadata.annotations.get(marks::CLAIMING).cloned();
        let claimant = format!("{}.{}", key.namespace, key.name);
        let chosen = match begun.clone() {
            Some(server) => Ok(vec![server]),
            None => self.inner.allocation.candidates(&from, zone.as_deref(), &claimant).await,
        };
        let class = match &from {
            From::Class(class) => Some(class.clone()),
            From::Server(_) => None,
        };
        let mut last = None;
        for server in match chosen {
            Ok(candidates) => candidates,
            Err(why) => return self.not_had(key, why),
        } {
            let binding = binding(key, &object, &server, class.as_deref(), secret);
            let told = object.clone();
            let slot = &mut object;
            let agreed = async move || {
                let mut told = told;
                told.metadata.annotations.insert(marks::CLAIMING.to_owned(), server);
                *slot = self.inner.objects.replace(told).await?;
                Ok(())
            };
            match self.inner.allocation.bind(binding, &claimant, agreed).await {
                Ok(()) => return Ok(Round::Again),
                // It was free a moment ago; another one may still be.
                Err(why @ (Refused::NotFree { .. } | Refused::NoServer(_))) => last = Some(why),
                Err(Refused::Store(e)) => return Err(e),
                Err(why) => return self.not_had(key, why),
            }
        }
        if begun.is_some() {
            // Not ours, and nobody is reaching for it in our name any more: choose again.
            if let Some(why) = &last {
                tracing::info!(machine = %key, %why, "the Server that was reached for is not to be had");
            }
            if self.is_being_claimed(begun.as_deref(), &claimant).await? {
                return Ok(Round::Rest(Some(self.now() + 1000)));
            }
            object.metadata.annotations.remove(marks::CLAIMING);
            self.inner.objects.replace(object).await?;
            return Ok(Round::Again);
        }
        match last {
            Some(why) => self.not_had(key, why),
            None => Ok(Round::Rest(None)),
        }
    }

    /// Whether a mark in our name stands on the Server: somebody is between the first and the last step.
    async fn is_being_claimed(&self, server: Option<&str>, claimant: &str) -> Result<bool, Error> {
        let Some(server) = server else { return Ok(false) };
        let Some(object) = self.object(Kind::Server, "", server).await? else { return Ok(false) };
        let mark = object.metadata.annotations.get(marks::CLAIMED_BY);
        Ok(mark.and_then(|m| m.rsplit_once('/')).is_some_and(|(by, _)| by == claimant))
    }

    /// Remembers why; the condition tells it, and it is tried again when Servers have changed.
    fn not_had(&self, key: &Key, why: Refused) -> Result<Round, Error> {
        if let Refused::Store(e) = why {
            return Err(e);
        }
        let words = why.to_string();
        let news = self.refused().insert(key.clone(), words.clone()).is_none_or(|before| before != words);
        Ok(if news { Round::Again } else { Round::Rest(None) })
    }

    // --- reading ------------------------------------------------------------------

    async fn whole(&self, key: &Key, object: Object) -> Result<Whole, Error> {
        let metal = MetalMachine::from_object(&object).map_err(|e| Error::Invalid(vec![e]))?;
        let namespace = &key.namespace;
        let machine: Option<Machine> = match provider::owner(&metal.metadata, "Machine") {
            Some(name) => self.typed(namespace, name).await?,
            None => None,
        };
        let label = metal.metadata.labels.get(CLUSTER_NAME).cloned();
        let cluster = label.or_else(|| machine.as_ref().map(|m| m.spec.cluster_name.clone()));
        let cluster: Option<Cluster> = match cluster.filter(|c| !c.is_empty()) {
            Some(name) => self.typed(namespace, &name).await?,
            None => None,
        };
        // By its own word first; then by what is being claimed; then by what stands in its name.
        let recorded = metal.spec.server_ref.as_ref().map(|r| r.name.clone());
        let claiming = metal.metadata.annotations.get(marks::CLAIMING).cloned();
        let held = self.index().bindings_of(key);
        let mut binding: Option<ServerBinding> = None;
        for name in recorded.iter().chain(&claiming).chain(&held) {
            if binding.as_ref().is_some_and(|b| provider::ours(&metal, Some(b)) != Held::Theirs) {
                break;
            }
            binding = self.typed::<ServerBinding>("", name).await?.or(binding);
        }
        let mut surplus = None;
        if let Some(own) = &binding {
            for other in held.iter().filter(|name| **name != own.metadata.name) {
                let there: Option<ServerBinding> = self.typed("", other).await?;
                surplus = there.filter(|b| provider::ours(&metal, Some(b)) == Held::Ours).or(surplus);
            }
        }
        let server = match binding.as_ref().map(|b| b.metadata.name.clone()).or(recorded) {
            Some(name) => self.typed("", &name).await?,
            None => None,
        };
        Ok(Whole { object, metal, machine, cluster, binding, surplus, server })
    }

    pub(super) async fn object(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Object>, Error> {
        match self.inner.objects.get(kind, namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn typed<T: Typed>(&self, namespace: &str, name: &str) -> Result<Option<T>, Error> {
        let object = self.object(T::KIND, namespace, name).await?;
        object.map(|o| T::from_object(&o).map_err(|e| Error::Invalid(vec![e]))).transpose()
    }
}

/// The binding of a MetalMachine to a Server.
fn binding(key: &Key, metal: &Object, server: &str, class: Option<&str>, secret: &str) -> ServerBinding {
    let reference = |kind: Kind, namespace: &str, name: &str| ObjectReference {
        api_version: kind.api_version().to_owned(),
        kind: kind.name().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..ObjectReference::default()
    };
    let cluster = metal.metadata.labels.get(CLUSTER_NAME);
    ServerBinding {
        metadata: Meta {
            name: server.to_owned(),
            finalizers: vec![marks::RELEASE_FINALIZER.to_owned()],
            labels: cluster.map(|c| (CLUSTER_NAME.to_owned(), c.clone())).into_iter().collect(),
            ..Meta::default()
        },
        spec: ServerBindingSpec {
            server_class_ref: class.map(|c| reference(Kind::ServerClass, "", c)),
            metal_machine_ref: ObjectReference {
                uid: metal.metadata.uid.clone(),
                ..reference(Kind::MetalMachine, &key.namespace, &key.name)
            },
            hostname: key.name.clone(),
            data_secret_ref: Some(reference(Kind::Secret, &key.namespace, secret)),
            ..ServerBindingSpec::default()
        },
        status: ServerBindingStatus::default(),
    }
}
