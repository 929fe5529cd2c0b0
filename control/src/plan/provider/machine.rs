//! A MetalMachine: from the wish for a machine to a Server that runs, and back.

use super::{ABANDON, MACHINE_FINALIZER, PAUSED_BY_CLUSTER, PROVIDER, condition, kinds, paused, reasons, tell_paused};
use crate::allocation::From;
use crate::resource::capi::BLOCK_MOVE;
use crate::resource::{
    Cluster, Machine, Meta, MetalMachine, MetalMachineSpec, MetalMachineStatus, NodeAddress, ObjectReference, Phase,
    Server, ServerBinding, marks,
};

/// The facts.
#[derive(Clone, Copy)]
pub struct MachineView<'a> {
    /// It.
    pub metal: &'a MetalMachine,
    /// The Machine that owns it, where there is one.
    pub machine: Option<&'a Machine>,
    /// The Cluster that it belongs to, where that exists.
    pub cluster: Option<&'a Cluster>,
    /// The binding that is held in its name, or that stands on the Server it names.
    pub binding: Option<&'a ServerBinding>,
    /// The Server of that binding, or the one that it names.
    pub server: Option<&'a Server>,
    /// Another binding in its name, beside the one of the Server that its spec records: two processes have
    /// claimed for it at once.
    pub surplus: Option<&'a ServerBinding>,
    /// Why the last claim did not work.
    pub refused: Option<&'a str>,
}

/// Whose a binding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// There is none.
    Free,
    /// This MetalMachine's.
    Ours,
    /// This MetalMachine's before it was moved from another cluster: only the uid is another.
    Moved,
    /// Somebody else's.
    Theirs,
}

/// What follows.
#[derive(Clone, PartialEq, Debug)]
pub struct MachineDecision {
    /// To be written, where it differs.
    pub status: MetalMachineStatus,
    /// To be done first; then it is decided again.
    pub act: MachineAct,
}

/// One thing to do.
#[derive(Clone, PartialEq, Debug)]
pub enum MachineAct {
    /// Nothing.
    None,
    /// Put on the finalizer, and the annotation that makes a move wait.
    AddFinalizer,
    /// Take the finalizer off.
    RemoveFinalizer,
    /// Claim a Server.
    Claim {
        /// Out of which.
        from: From,
        /// Only in this failure domain.
        zone: Option<String>,
        /// The Secret of its configuration, in the MetalMachine's namespace.
        secret: String,
    },
    /// Write which Server it has into its spec.
    Record(Box<MetalMachineSpec>),
    /// Write its own uid into the binding that was moved with it.
    Adopt,
    /// Say on the quarantined Server that it runs, and for whom.
    Explain,
    /// Delete the binding: the machine leaves its cluster.
    Release,
    /// Delete the surplus binding: its Server was never this machine.
    ReleaseSurplus,
    /// Put the pause on the binding, so that nothing is done to the Server either, or take it off.
    Pause(bool),
    /// Let a move begin (nothing is under way any more), or make it wait again.
    BlockMove(bool),
}

/// Whose a binding is, seen from a MetalMachine. A new one of the same name is another one (its uid), unless it
/// was moved: then its spec says which Server it has.
pub fn ours(metal: &MetalMachine, binding: Option<&ServerBinding>) -> Held {
    let Some(binding) = binding else { return Held::Free };
    let (of, meta) = (&binding.spec.metal_machine_ref, &metal.metadata);
    let named = of.kind == "MetalMachine" && of.name == meta.name && of.namespace == meta.namespace;
    if !named {
        return Held::Theirs;
    }
    if of.uid.is_empty() || of.uid == meta.uid {
        return Held::Ours;
    }
    let recorded = metal.spec.provider_id == format!("{PROVIDER}{}", binding.metadata.name);
    if recorded { Held::Moved } else { Held::Theirs }
}

/// Decides.
pub fn machine(view: MachineView<'_>, now_ms: u64) -> MachineDecision {
    let meta = &view.metal.metadata;
    let mut step = Step {
        view,
        held: ours(view.metal, view.binding),
        now: now_ms,
        done: MachineDecision { status: view.metal.status.clone(), act: MachineAct::None },
    };
    let finalizer = meta.finalizers.iter().any(|f| f == MACHINE_FINALIZER);
    if paused(meta, view.cluster) {
        // R1: before everything else, deletion included. An object that nobody owns yet is not even told.
        if view.machine.is_some() || finalizer {
            tell_paused(&mut step.done.status.conditions, true, meta.generation, now_ms);
        }
        step.hand_pause_on();
        return step.done;
    }
    if meta.deletion_timestamp.is_some() {
        if finalizer {
            step.deleting();
        }
        return step.done;
    }
    // Made from a template, it has no Machine for a while; that is normal and nothing to write about.
    let (Some(machine), Some(cluster)) = (view.machine, view.cluster) else { return step.done };
    if !finalizer {
        step.done.act = MachineAct::AddFinalizer;
        return step.done;
    }
    tell_paused(&mut step.done.status.conditions, false, meta.generation, now_ms);
    if step.take_pause_off() {
        return step.done;
    }
    match step.held {
        Held::Moved => step.done.act = MachineAct::Adopt,
        Held::Ours => step.bound(),
        Held::Free | Held::Theirs => step.unbound(machine, cluster),
    }
    step.done
}

struct Step<'a> {
    view: MachineView<'a>,
    held: Held,
    now: u64,
    done: MachineDecision,
}

impl Step<'_> {
    fn ready(&mut self, holds: bool, reason: &str, message: &str) {
        let generation = self.view.metal.metadata.generation;
        let conditions = &mut self.done.status.conditions;
        condition(conditions, (kinds::READY, holds), reason, message, generation, self.now);
    }

    // --- pause ------------------------------------------------------------------

    /// The Server must rest too; then a move may begin.
    fn hand_pause_on(&mut self) {
        let meta = &self.view.metal.metadata;
        let moving = meta.annotations.contains_key(crate::resource::capi::DELETE_FOR_MOVE);
        if moving {
            return;
        }
        let held = matches!(self.held, Held::Ours | Held::Moved);
        let rests = self.view.binding.is_none_or(|b| b.metadata.annotations.contains_key(marks::PAUSED));
        if held && !rests {
            self.done.act = MachineAct::Pause(true);
        } else if meta.annotations.contains_key(BLOCK_MOVE) {
            self.done.act = MachineAct::BlockMove(false);
        }
    }

    /// Whether something is left of a pause that has ended.
    fn take_pause_off(&mut self) -> bool {
        let by_us = |m: &Meta| m.annotations.get(marks::PAUSED).is_some_and(|v| v == PAUSED_BY_CLUSTER);
        if self.held == Held::Ours && self.view.binding.is_some_and(|b| by_us(&b.metadata)) {
            self.done.act = MachineAct::Pause(false);
        } else if !self.view.metal.metadata.annotations.contains_key(BLOCK_MOVE) {
            self.done.act = MachineAct::BlockMove(true);
        } else {
            return false;
        }
        true
    }

    // --- to a machine -------------------------------------------------------------

    fn unbound(&mut self, machine: &Machine, cluster: &Cluster) {
        let spec = &self.view.metal.spec;
        if !spec.provider_id.is_empty() {
            // It had one. Another would be another machine under the same name.
            let words = "its ServerBinding is gone without a release; delete this machine, and it is replaced";
            self.ready(false, reasons::SERVER_GONE, words);
            return;
        }
        if !cluster.status.infrastructure() {
            self.ready(false, reasons::WAITING_FOR_CLUSTER, "the Cluster's infrastructure is not provisioned yet");
            return;
        }
        let secret = machine.spec.bootstrap.data_secret_name.clone();
        if secret.is_empty() {
            self.ready(false, reasons::WAITING_FOR_BOOTSTRAP, "the Machine names no bootstrap data Secret yet");
            return;
        }
        let (from, reason) = match (&spec.server_ref, &spec.server_class_ref) {
            (Some(server), _) => (From::Server(server.name.clone()), reasons::SERVER_UNAVAILABLE),
            (None, Some(class)) => (From::Class(class.name.clone()), reasons::NO_SERVER),
            (None, None) => {
                self.ready(false, reasons::NO_SERVER, "spec names neither a Server nor a ServerClass");
                return;
            }
        };
        let words = self.view.refused.unwrap_or("a Server is being claimed").to_owned();
        self.ready(false, reason, &words);
        let zone = Some(machine.spec.failure_domain.clone()).filter(|z| !z.is_empty());
        self.done.act = MachineAct::Claim { from, zone, secret };
    }

    fn bound(&mut self) {
        let (Some(binding), metal) = (self.view.binding, self.view.metal) else { return };
        let name = &binding.metadata.name;
        let id = format!("{PROVIDER}{name}");
        let named = metal.spec.server_ref.as_ref().is_some_and(|r| r.name == *name);
        if metal.spec.provider_id != id || !named {
            let server_ref = ObjectReference {
                api_version: crate::resource::Kind::Server.api_version().to_owned(),
                kind: "Server".to_owned(),
                name: name.clone(),
                ..ObjectReference::default()
            };
            let spec = MetalMachineSpec { provider_id: id, server_ref: Some(server_ref), ..metal.spec.clone() };
            self.done.act = MachineAct::Record(Box::new(spec));
            return;
        }
        let Some(server) = self.view.server else {
            self.ready(false, reasons::SERVER_GONE, &format!("Server {name} does not exist any more"));
            return;
        };
        if binding.metadata.deletion_timestamp.is_some() {
            let words = format!("ServerBinding {name} was deleted from under it; the machine is being released");
            self.ready(false, reasons::SERVER_GONE, &words);
            return;
        }
        if self.view.surplus.is_some_and(|b| b.metadata.deletion_timestamp.is_none()) {
            self.done.act = MachineAct::ReleaseSurplus;
            return;
        }
        self.done.status.addresses = addresses(binding, server);
        if let Some(zone) = server.metadata.labels.get(marks::ZONE) {
            self.done.status.failure_domain.clone_from(zone);
        }
        let told = format!("Server {name}: {}", told(server));
        match server.status.phase {
            Some(Phase::Running) => {
                // In this order: Cluster API must never see one without the other (the providerID stands by now).
                self.done.status.ready = true;
                self.done.status.initialization.provisioned = Some(true);
                self.ready(true, reasons::RUNNING, "");
            }
            Some(Phase::Quarantined) => {
                self.ready(false, reasons::QUARANTINED, &told);
                self.explain(server);
            }
            // Moved here without its status, and not yet looked at.
            None => self.ready(false, reasons::QUARANTINED, &told),
            Some(_) => self.ready(false, reasons::PROVISIONING, &told),
        }
    }

    /// R3: a Server whose status was lost on a move waits for its binding to explain it. It is explained by a
    /// machine that has been provisioned and names this Server as its own.
    fn explain(&mut self, server: &Server) {
        let has_node = self.view.machine.is_some_and(|m| m.status.node_ref.is_some());
        let lost = server.status.reason == "StatusLost";
        let said = server.metadata.annotations.contains_key(marks::LIFT);
        if has_node && lost && !said && server.spec.accepted {
            self.done.act = MachineAct::Explain;
        }
    }

    // --- and back -------------------------------------------------------------------

    /// Never blocked by a missing Machine or Cluster; never over before the claim has ended, which it does when the
    /// machine is in our hands and its wipe is on record.
    fn deleting(&mut self) {
        let abandoned = self.view.metal.metadata.annotations.contains_key(ABANDON);
        match (self.held, self.view.binding) {
            (Held::Ours | Held::Moved, Some(binding)) => {
                let server = self.view.server.map_or_else(|| "its Server is gone".to_owned(), told);
                let words = format!(
                    "waits for Server {} to be taken back ({server}); the annotation {ABANDON} ends the wait",
                    binding.metadata.name
                );
                self.ready(false, reasons::DELETING, &words);
                if binding.metadata.deletion_timestamp.is_none() {
                    self.done.act = MachineAct::Release;
                } else if abandoned {
                    self.done.act = MachineAct::RemoveFinalizer;
                }
            }
            _ => self.done.act = MachineAct::RemoveFinalizer,
        }
    }
}

/// How a Server is, in a line.
fn told(server: &Server) -> String {
    let s = &server.status;
    let phase = s.phase.map_or("unknown", Phase::name);
    if s.message.is_empty() { phase.to_owned() } else { format!("{phase}, {}", s.message) }
}

/// Cluster API's address types; what else a Server has is left out.
const TYPES: [&str; 5] = ["Hostname", "ExternalIP", "InternalIP", "ExternalDNS", "InternalDNS"];

/// Where the machine is reached: what its system has told, else what its agent saw.
fn addresses(binding: &ServerBinding, server: &Server) -> Vec<NodeAddress> {
    let own = binding.spec.addresses.iter();
    let mut all: Vec<NodeAddress> =
        own.map(|a| NodeAddress { r#type: "InternalIP".into(), address: a.clone() }).collect();
    if all.is_empty() {
        let seen = server.status.addresses.iter().filter(|a| TYPES.contains(&a.r#type.as_str()));
        all.extend(seen.cloned());
    }
    let named = |name: &&String| !name.is_empty();
    let hostname = Some(&binding.spec.hostname).filter(named).or(Some(&server.spec.hostname).filter(named));
    if let Some(name) = hostname.filter(|_| all.iter().all(|a| a.r#type != "Hostname")) {
        all.push(NodeAddress { r#type: "Hostname".into(), address: name.clone() });
    }
    all
}
