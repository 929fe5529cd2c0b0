//! Environments: what machines can be booted into or be written with. The files
//! of each are fetched once, checked, stored under their digest, and published;
//! until then the environment says what it waits for.
//!
//! ```text
//! stoker.yaml, Environment objects -> wanted -> assets (work, fetch) -> sets (served) -> manifest
//!                                                  |
//!                                                  +-> status.conditions (declared)
//! ```
//!
//! An object takes the place of the configuration file's environment of the same name.

mod bundle;
mod declared;
mod fetch;
mod image;
mod list;
mod served;
#[cfg(test)]
mod tests;
mod unpacked;
mod wanted;
mod work;

pub use bundle::{BadBundle, Bundle};
pub use image::ServedImage;
pub use list::Known;

use crate::api::types::AssetState;
use crate::config::{AssetSource, Settings};
use crate::limits;
use crate::plan::boot::{Files, Readiness};
use crate::publish::{Publisher, Stored};
use crate::resource::OWN_ENVIRONMENTS;
use crate::store::Store;
use fetch::Fetcher;
use protocol::id::Arch;
use protocol::manifest::ObjectId;
use served::{Key, Set};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use wanted::{Role, Variant, Wanted};

/// All environments and the state of their files.
pub struct Environments {
    configured: BTreeMap<String, Wanted>,
    default: Option<String>,
    bundle: Mutex<Option<Bundle>>,
    publisher: Arc<Publisher>,
    store: Arc<Store>,
    fetcher: Fetcher,
    room: Semaphore,
    inner: Mutex<Inner>,
    /// Objects that were read and found whole since the start: large ones take a while.
    whole: Mutex<BTreeSet<ObjectId>>,
    /// How large images are when they are unpacked, as far as that is known.
    unpacked: Mutex<BTreeMap<ObjectId, u64>>,
    /// Rung when a state has changed: statuses are written, sets remembered.
    changed: Notify,
}

/// What changes.
#[derive(Default)]
struct Inner {
    /// The objects, as they were last heard of.
    declared: BTreeMap<String, Wanted>,
    /// Those of them that are looked after: at most [`limits::ENVIRONMENTS`].
    seated: BTreeSet<String>,
    assets: HashMap<AssetSource, Asset>,
    served: BTreeMap<Key, Set>,
    /// What the last run served has been looked through.
    recalled: bool,
    /// The manifest does not have the present sets: the disk refused it.
    unpublished: bool,
}

/// One file, whatever environments use it.
struct Asset {
    state: AssetState,
    /// What was fetched last: the present version, or the one before while a fetch fails.
    stored: Option<Stored>,
    /// It is known whether an earlier run has left it here.
    looked: bool,
    /// Rung to fetch again.
    again: Arc<Notify>,
    /// Cancelled when no environment wants it any more.
    left: CancellationToken,
}

impl Environments {
    /// Of a configuration. Nothing is fetched before [`Environments::run`].
    pub fn new(settings: &Settings, publisher: Arc<Publisher>, store: Arc<Store>) -> Self {
        let configured = settings.environments.iter().map(|(name, e)| (name.clone(), Wanted::of_config(e)));
        Self {
            configured: configured.collect(),
            default: settings.default_environment.clone(),
            bundle: Mutex::new(None),
            fetcher: Fetcher::new(publisher.objects().clone()),
            publisher,
            store,
            room: Semaphore::new(limits::FETCHES),
            inner: Mutex::default(),
            whole: Mutex::default(),
            unpacked: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The version of the bundle that is published.
    pub fn bundle_version(&self) -> Option<String> {
        lock(&self.bundle).as_ref().map(|b| b.version.clone())
    }

    /// The environment of machines that name none.
    pub fn default_name(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// Whether an environment can be booted, and by which files.
    pub fn files(&self, name: &str, arch: Arch) -> Readiness {
        let inner = lock(&self.inner);
        let set = match self.set(&inner, name, arch) {
            Ok((_, set)) if set.image.is_some() => {
                return Readiness::NotReady(format!(
                    "environment {name} is a disk image: the agent writes it to a machine that is allocated, nothing boots it"
                ));
            }
            Ok((arch, set)) => (arch, set.args.clone()),
            Err(Readiness::NoSuch) => {
                drop(inner);
                return self.bundled(name);
            }
            Err(other) => return other,
        };
        let [kernel, initrd] = ["vmlinuz", "initramfs.xz"].map(|file| format!("env/{name}/{}/{file}", set.0));
        Readiness::Ready(Files { kernel, initrd, args: set.1 })
    }

    /// The set that a machine of this architecture gets, and the architecture that it is named by.
    fn set<'a>(&self, inner: &'a Inner, name: &str, arch: Arch) -> Result<(Arch, &'a Set), Readiness> {
        let wanted = self.wanted(inner, name)?;
        let Some((arch, variant)) = wanted.variant(arch) else {
            return Err(Readiness::NoArch(wanted.arches.keys().copied().collect()));
        };
        if let Some(set) = inner.served.get(&(name.to_owned(), arch)) {
            return Ok((arch, set));
        }
        let waits = inner.waits_for(variant).join("; ");
        Err(Readiness::NotReady(format!("environment {name} is not ready: {waits}")))
    }

    /// The environment of this name: the object, else the configuration file's.
    fn wanted<'a>(&'a self, inner: &'a Inner, name: &str) -> Result<&'a Wanted, Readiness> {
        match inner.declared.get(name) {
            Some(_) if !inner.seated.contains(name) => Err(Readiness::NotReady(too_many(name))),
            Some(wanted) => Ok(wanted),
            None => self.configured.get(name).ok_or(Readiness::NoSuch),
        }
    }

    /// Every environment that is looked after, by name.
    fn all<'a>(&'a self, inner: &'a Inner) -> impl Iterator<Item = (&'a String, &'a Wanted)> {
        let declared = inner.declared.iter().filter(|(name, _)| inner.seated.contains(*name));
        let configured = self.configured.iter().filter(|(name, _)| !inner.declared.contains_key(*name));
        declared.chain(configured)
    }

    fn bundled(&self, name: &str) -> Readiness {
        let bundle = lock(&self.bundle);
        let names = ["vmlinuz", "initramfs.xz"].map(|file| format!("env/{name}/{file}"));
        match bundle.as_ref() {
            Some(b) if names.iter().all(|n| b.names.contains_key(n)) => {
                let [kernel, initrd] = names;
                let args = b.args.get(name).cloned().unwrap_or_default();
                Readiness::Ready(Files { kernel, initrd, args })
            }
            _ => Readiness::NoSuch,
        }
    }

    /// Fetches all files of an environment again; how many, or nothing where there is no such environment.
    pub fn refetch(&self, name: &str) -> Option<u32> {
        let inner = lock(&self.inner);
        let wanted = self.wanted(&inner, name).ok()?;
        let mut rung = 0;
        for asset in wanted.sources().filter_map(|source| inner.assets.get(source)) {
            asset.again.notify_one();
            rung += 1;
        }
        Some(rung)
    }

    /// Takes every set that has become whole, drops those that nobody wants any more, and publishes.
    fn settle(&self) {
        let mut guard = lock(&self.inner);
        let mut sets = BTreeMap::new();
        for (name, wanted) in self.all(&guard) {
            // The plain Sidero path goes to x86_64, or to the only architecture there is.
            let plain = wanted.arches.keys().next().copied();
            for (arch, variant) in &wanted.arches {
                let key = (name.clone(), *arch);
                let whole = Set::of(variant, plain == Some(*arch), |source| guard.fetched(source));
                if let Some(set) = whole.or_else(|| guard.served.get(&key).cloned()) {
                    sets.insert(key, set);
                }
            }
        }
        let inner = &mut *guard;
        if sets != inner.served || inner.unpublished || !inner.recalled {
            inner.recalled = true;
            inner.served = sets;
            let published = self.publisher.set("environments", served::names(&inner.served));
            // What the last run served and is no set any more is nobody's.
            let published = published.and_then(|_| self.publisher.disown(is_environments));
            inner.unpublished = published.is_err();
            if let Err(e) = published {
                tracing::error!(error = %e, "environments are not published");
            }
        }
        drop(guard);
        self.changed.notify_one();
    }

    /// Changes what is known of an asset.
    fn change(&self, source: &AssetSource, change: impl FnOnce(&mut Asset)) {
        if let Some(asset) = lock(&self.inner).assets.get_mut(source) {
            change(asset);
        }
        self.changed.notify_one();
    }
}

impl Inner {
    /// A file that is here in the version that is wanted.
    fn fetched(&self, source: &AssetSource) -> Option<Stored> {
        let asset = self.assets.get(source)?;
        asset.stored.filter(|_| matches!(asset.state, AssetState::Ready { .. }))
    }

    /// What a variant waits for, in words.
    fn waits_for(&self, variant: &Variant) -> Vec<String> {
        let missing = variant.missing.iter().map(|role| format!("it names no {}", role.name()));
        let file = |(role, source): &(Role, AssetSource)| {
            let state = self.assets.get(source).map_or(AssetState::Pending, |a| a.state.clone());
            let ready = matches!(state, AssetState::Ready { .. });
            (!ready).then(|| format!("{} {}: {}", role.name(), source.url, words(&state)))
        };
        missing.chain(variant.files.iter().filter_map(file)).collect()
    }
}

/// Whether a published name belongs to an environment that is not the bundle's.
pub fn is_environments(name: &str) -> bool {
    let of = name.strip_prefix("env/").and_then(|rest| rest.split_once('/'));
    of.is_some_and(|(environment, _)| !OWN_ENVIRONMENTS.contains(&environment))
}

fn too_many(name: &str) -> String {
    format!("environment {name} is left out: more than {} are declared; delete some", limits::ENVIRONMENTS)
}

/// How far an asset is.
fn words(state: &AssetState) -> String {
    match state {
        AssetState::Pending => "waits to be fetched".into(),
        AssetState::Fetching { bytes, total: Some(total), .. } if *total > 0 => {
            format!("is being fetched, {} % of {total} bytes", bytes.saturating_mul(100) / total)
        }
        AssetState::Fetching { bytes, .. } => format!("is being fetched, {bytes} bytes so far"),
        AssetState::Ready { bytes, sha256 } => format!("{bytes} bytes, sha256 {sha256}"),
        AssetState::Failed { why, .. } => format!("failed: {why}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
