//! The claim on a machine: written so that two who reach for the same machine
//! cannot both get it, and so that no wipe begins under a new owner.
//!
//! 1. The Server gets the annotation [`marks::CLAIMED_BY`], over the version in which it was free:
//!    of two, one fails here, and so does a wipe that was about to be confirmed (rule W5).
//! 2. The Secret with the configuration, then the ServerBinding (named as the Server: there can be
//!    only one).
//! 3. The annotation goes.
//!
//! Whoever dies in between leaves an annotation that [`super::follow`] takes off after
//! [`limits::CLAIM_AGE`], or a binding that is whole.

use super::Allocation;
use super::index::{Unfit, fit};
use crate::limits;
use crate::objects::{Error, Objects, Preconditions};
use crate::resource::{
    Kind, Meta, Object, ObjectReference, Server, ServerBinding, ServerBindingSpec, ServerBindingStatus, Typed, marks,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// `apiVersion` of what a binding made by [`Allocation::allocate`] is for; Cluster API's are for a MetalMachine.
pub const OWNER_VERSION: &str = "stoker.dev/v1";
/// Its `kind`.
pub const OWNER_KIND: &str = "Allocation";
/// The longest name of an allocation: it is also a host name (RFC 1123 section 2.1).
const MAX_NAME: usize = 63;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The allocation's name, and the machine's host name: an RFC 1123 label.
    pub name: String,
    /// Out of which machines.
    pub from: From,
    /// The machine's configuration, before patches. Without it, only what patches make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The Environment that it is installed from, over those of Server and class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

/// Out of which machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// Any free one of this ServerClass.
    Class(String),
    /// This one.
    Server(String),
}

/// Who got what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Allocated {
    /// The allocation's name.
    pub name: String,
    /// The machine.
    pub server: String,
    /// It had this machine before it asked.
    pub already: bool,
    /// What keeps the machine from being installed at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What is being taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Released {
    /// The allocation's name.
    pub name: String,
    /// The machine.
    pub server: String,
    /// It was asked for before.
    pub already: bool,
}

/// Why nothing was allocated or released. The texts name the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refused {
    #[error(
        "{0:?} is not a name: at most {MAX_NAME} lower-case letters, digits and '-', beginning and ending with a letter or digit"
    )]
    Name(String),
    #[error("there is no ServerClass {0}; `stoker get serverclasses` lists them")]
    NoClass(String),
    #[error("there is no Server {0}; `stoker servers` lists them")]
    NoServer(String),
    #[error("there is no Environment {0}; `stoker environments` lists them")]
    NoEnvironment(String),
    #[error("no machine of class {class} is free: {why}; `stoker servers` shows why each is not")]
    NoneFree { class: String, why: String },
    #[error("{server} cannot be allocated: it is {why}; `stoker describe server {server}` tells more")]
    NotFree { server: String, why: &'static str },
    #[error("{name} has machine {server}, which was not what was asked for; release it first, or choose another name")]
    Taken { name: String, server: String },
    #[error("{0} has neither machine nor allocation of that name; `stoker get serverbindings` lists allocations")]
    NotAllocated(String),
    #[error("machine {server} belongs to {kind} {name} of a cluster; delete that one, and the machine is released")]
    ClusterOwned { server: String, kind: String, name: String },
    #[error("the configuration is larger than {} bytes", crate::machineconfig::MAX_BYTES)]
    TooLarge,
    #[error("the configuration cannot be applied to this machine: {0}; correct it or the patches")]
    Config(#[from] crate::machineconfig::Error),
    #[error(transparent)]
    Store(#[from] Error),
}

impl<O: Objects> Allocation<O> {
    /// Gives a machine to `ask.name`; the same question again gets the same machine.
    ///
    /// # Errors
    /// See [`Refused`]; then nothing was changed.
    pub async fn allocate(&self, ask: Ask) -> Result<Allocated, Refused> {
        check_name(&ask.name)?;
        if ask.config.as_ref().is_some_and(|c| c.len() > crate::machineconfig::MAX_BYTES) {
            return Err(Refused::TooLarge);
        }
        let _turn = self.turn.lock().await;
        if let Some(binding) = self.binding_of(&ask.name).await? {
            return already(&ask, &binding);
        }
        if let Some(name) = ask.environment.as_ref().filter(|name| !self.configured.contains(*name)) {
            found(self.objects.get(Kind::Environment, "", name).await, || Refused::NoEnvironment(name.clone()))?;
        }
        let candidates = match &ask.from {
            From::Server(name) => vec![name.clone()],
            From::Class(class) => {
                found(self.objects.get(Kind::ServerClass, "", class).await, || Refused::NoClass(class.clone()))?;
                self.index().free(class, seed(&ask.name), limits::CLAIM_TRIES)
            }
        };
        for name in candidates {
            match self.claim(&name, &ask).await {
                Ok(()) => return Ok(Allocated { name: ask.name, server: name, already: false, warnings: Vec::new() }),
                // It was free a moment ago; another one may still be.
                Err(Refused::NotFree { .. } | Refused::NoServer(_) | Refused::Store(Error::Conflict { .. }))
                    if matches!(ask.from, From::Class(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let From::Class(class) = ask.from else { return Err(Refused::NotAllocated(ask.name)) };
        let why = self.index().why_none(&class);
        Err(Refused::NoneFree { class, why })
    }

    /// Takes a machine back, by the allocation's name or the Server's: it is wiped before it is free.
    /// Returns when that is on record, not when it is done.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn release(&self, which: &str) -> Result<Released, Refused> {
        let binding = match self.binding_of(which).await? {
            Some(binding) => binding,
            None => match self.objects.get(Kind::ServerBinding, "", which).await {
                Ok(object) => ServerBinding::from_object(&object).map_err(invalid)?,
                Err(Error::NotFound(_)) => return Err(Refused::NotAllocated(which.to_owned())),
                Err(e) => return Err(e.into()),
            },
        };
        let (server, owner) = (binding.metadata.name.clone(), &binding.spec.metal_machine_ref);
        if owner.kind != OWNER_KIND {
            let (kind, name) = (owner.kind.clone(), owner.name.clone());
            return Err(Refused::ClusterOwned { server, kind, name });
        }
        let already = binding.metadata.deletion_timestamp.is_some();
        if !already {
            let only = Preconditions { uid: Some(binding.metadata.uid.clone()), resource_version: None };
            self.objects.delete(Kind::ServerBinding, "", &server, only).await?;
        }
        Ok(Released { name: owner.name.clone(), server, already })
    }

    /// The binding of an allocation of ours.
    async fn binding_of(&self, name: &str) -> Result<Option<ServerBinding>, Refused> {
        let bindings = self.objects.list(Kind::ServerBinding).await?.objects;
        let mut ours = bindings.iter().filter_map(|o| ServerBinding::from_object(o).ok()).filter(|b| {
            let owner = &b.spec.metal_machine_ref;
            owner.kind == OWNER_KIND && owner.name == name
        });
        Ok(ours.next())
    }

    /// The three steps, for one machine.
    async fn claim(&self, name: &str, ask: &Ask) -> Result<(), Refused> {
        let (object, server) = self.free_server(name).await?;
        self.renders(ask, &server).await?;
        let claimed = self.mark(object, &ask.name).await?;
        let made = self.make(name, ask).await;
        // Whether it worked or not, the claim has ended. Where this fails, it ends by its age.
        self.unclaim(claimed).await;
        made
    }

    /// A Server that can be had now.
    pub(super) async fn free_server(&self, name: &str) -> Result<(Object, Server), Refused> {
        let object = found(self.objects.get(Kind::Server, "", name).await, || Refused::NoServer(name.to_owned()))?;
        let server = Server::from_object(&object).map_err(invalid)?;
        let bound = match self.objects.get(Kind::ServerBinding, "", name).await {
            Ok(_) => true,
            Err(Error::NotFound(_)) => false,
            Err(e) => return Err(e.into()),
        };
        fit(&server, bound).map_err(|why| not_free(name, why))?;
        Ok((object, server))
    }

    /// The first step: the mark on the Server, over the version in which it was free.
    pub(super) async fn mark(&self, mut server: Object, claimant: &str) -> Result<Object, Refused> {
        server.metadata.annotations.insert(marks::CLAIMED_BY.to_owned(), mark(claimant)?);
        Ok(self.objects.replace(server).await?)
    }

    /// Refuses a configuration now that could not be handed out later.
    async fn renders(&self, ask: &Ask, server: &Server) -> Result<(), Refused> {
        let class = match &ask.from {
            From::Class(class) => {
                let object = self.objects.get(Kind::ServerClass, "", class).await?;
                Some(crate::resource::ServerClass::from_object(&object).map_err(invalid)?)
            }
            From::Server(_) => None,
        };
        let config = ask.config.as_deref().unwrap_or_default();
        crate::machineconfig::of(config, server, class.as_ref())?;
        Ok(())
    }

    /// Secret and binding. A Secret without its binding is taken away by the sweep.
    async fn make(&self, server: &str, ask: &Ask) -> Result<(), Refused> {
        let secret_ref = match &ask.config {
            Some(config) => Some(self.secret(&ask.name, config).await?),
            None => None,
        };
        let reference = |kind: Kind, name: &String| ObjectReference {
            api_version: kind.api_version().to_owned(),
            kind: kind.name().to_owned(),
            name: name.clone(),
            ..ObjectReference::default()
        };
        let class = match &ask.from {
            From::Class(class) => Some(class),
            From::Server(_) => None,
        };
        let binding = ServerBinding {
            metadata: Meta {
                name: server.to_owned(),
                finalizers: vec![marks::RELEASE_FINALIZER.to_owned()],
                labels: [(marks::ALLOCATION.to_owned(), ask.name.clone())].into(),
                ..Meta::default()
            },
            spec: ServerBindingSpec {
                server_class_ref: class.map(|c| reference(Kind::ServerClass, c)),
                metal_machine_ref: ObjectReference {
                    api_version: OWNER_VERSION.to_owned(),
                    kind: OWNER_KIND.to_owned(),
                    name: ask.name.clone(),
                    ..ObjectReference::default()
                },
                hostname: ask.name.clone(),
                data_secret_ref: secret_ref,
                environment_ref: ask.environment.as_ref().map(|e| reference(Kind::Environment, e)),
                ..ServerBindingSpec::default()
            },
            status: ServerBindingStatus::default(),
        };
        self.put(binding).await
    }

    /// The second step: the binding, of which there can be only one.
    pub(super) async fn put(&self, binding: ServerBinding) -> Result<(), Refused> {
        match self.objects.create(binding.to_object()).await {
            Ok(_) => Ok(()),
            Err(Error::Exists(_)) => Err(not_free(&binding.metadata.name, Unfit::InUse)),
            Err(e) => Err(e.into()),
        }
    }

    /// The Secret of an allocation; one that an earlier try left behind is written over.
    async fn secret(&self, name: &str, config: &str) -> Result<ObjectReference, Refused> {
        let meta = Meta {
            name: format!("{name}-config"),
            namespace: marks::NAMESPACE.to_owned(),
            labels: [(marks::ALLOCATION.to_owned(), name.to_owned())].into(),
            ..Meta::default()
        };
        let secret = Object {
            api_version: Kind::Secret.api_version().to_owned(),
            kind: Kind::Secret,
            metadata: meta,
            spec: Value::Null,
            status: Value::Null,
            data: json!({ marks::CONFIG_KEY: STANDARD.encode(config) }),
        };
        let name = secret.metadata.name.clone();
        match self.objects.create(secret.clone()).await {
            Ok(_) => {}
            Err(Error::Exists(_)) => {
                let there = self.objects.get(Kind::Secret, marks::NAMESPACE, &name).await?;
                if there.metadata.labels.get(marks::ALLOCATION) != secret.metadata.labels.get(marks::ALLOCATION) {
                    return Err(Error::Exists(there.key()).into());
                }
                self.objects.replace(Object { data: secret.data, ..there }).await?;
            }
            Err(e) => return Err(e.into()),
        }
        Ok(ObjectReference {
            api_version: "v1".to_owned(),
            kind: Kind::Secret.name().to_owned(),
            name,
            namespace: marks::NAMESPACE.to_owned(),
            ..ObjectReference::default()
        })
    }

    /// Takes the annotation off again.
    pub(super) async fn unclaim(&self, mut claimed: Object) {
        let mine = claimed.metadata.annotations.remove(marks::CLAIMED_BY);
        for _ in 0..limits::CLAIM_TRIES {
            match self.objects.replace(claimed.clone()).await {
                Ok(_) | Err(Error::NotFound(_)) => return,
                // Others write to the Server too.
                Err(Error::Conflict { .. }) => {}
                Err(e) => {
                    tracing::warn!(server = claimed.metadata.name, error = %e, "a claim stays until its age ends it");
                    return;
                }
            }
            match self.objects.get(Kind::Server, "", &claimed.metadata.name).await {
                Ok(now) if now.metadata.annotations.get(marks::CLAIMED_BY) == mine.as_ref() => claimed = now,
                _ => return,
            }
            claimed.metadata.annotations.remove(marks::CLAIMED_BY);
        }
    }
}

fn already(ask: &Ask, binding: &ServerBinding) -> Result<Allocated, Refused> {
    let server = binding.metadata.name.clone();
    let same = match &ask.from {
        From::Server(name) => *name == server,
        From::Class(class) => binding.spec.server_class_ref.as_ref().is_some_and(|r| r.name == *class),
    };
    if same && binding.metadata.deletion_timestamp.is_none() {
        Ok(Allocated { name: ask.name.clone(), server, already: true, warnings: Vec::new() })
    } else {
        Err(Refused::Taken { name: ask.name.clone(), server })
    }
}

fn check_name(name: &str) -> Result<(), Refused> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let b = name.as_bytes();
    let ends = b.first().copied().is_some_and(plain) && b.last().copied().is_some_and(plain);
    if ends && b.len() <= MAX_NAME && b.iter().all(|&c| plain(c) || c == b'-') {
        Ok(())
    } else {
        Err(Refused::Name(name.chars().take(MAX_NAME).collect()))
    }
}

/// `NAME/RANDOM`: two claims are never the same text.
fn mark(name: &str) -> Result<String, Refused> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Error::Store(format!("no random numbers: {e}")))?;
    Ok(format!("{name}/{:016x}", u64::from_ne_bytes(random)))
}

pub(super) fn seed(name: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    hash.first_chunk().map_or(0, |b: &[u8; 8]| u64::from_le_bytes(*b))
}

pub(super) fn not_free(server: &str, why: Unfit) -> Refused {
    Refused::NotFree { server: server.to_owned(), why: why.words() }
}

pub(super) fn found(got: Result<Object, Error>, missing: impl FnOnce() -> Refused) -> Result<Object, Refused> {
    match got {
        Err(Error::NotFound(_)) => Err(missing()),
        other => Ok(other?),
    }
}

fn invalid(e: crate::resource::BadObject) -> Refused {
    Refused::Store(Error::Invalid(vec![e]))
}
