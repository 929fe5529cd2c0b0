//! Environments: what machines can be booted into. The files of each are
//! fetched once, checked, stored under their digest, and published; until
//! then the environment says what it waits for.

mod bundle;
mod fetch;
#[cfg(test)]
mod tests;
mod work;

pub use bundle::{BadBundle, Bundle};

use crate::api::types::{AssetState, AssetStatus, EnvironmentArch, EnvironmentList, EnvironmentStatus};
use crate::config::{AssetSource, Environment, Settings};
use crate::plan::boot::{Files, Readiness};
use crate::publish::{Names, Publisher, Stored};
use crate::store::Store;
use protocol::id::Arch;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// All environments and the state of their files.
pub struct Environments {
    configured: BTreeMap<String, Environment>,
    default: Option<String>,
    bundle: Mutex<Option<Bundle>>,
    publisher: Arc<Publisher>,
    store: Arc<Store>,
    assets: Mutex<HashMap<AssetSource, Asset>>,
}

/// One file, whatever environments use it.
struct Asset {
    state: AssetState,
    /// What is served: the present version, or the one before while a fetch fails.
    stored: Option<Stored>,
    /// Rung to fetch again.
    again: Arc<Notify>,
}

const ROLES: [(&str, &str); 2] = [("kernel", "vmlinuz"), ("initrd", "initramfs.xz")];

impl Environments {
    /// Of a configuration. Nothing is fetched before [`Environments::run`].
    pub fn new(settings: &Settings, publisher: Arc<Publisher>, store: Arc<Store>) -> Self {
        let configured = settings.environments.clone();
        let sources = configured.values().flat_map(|e| e.arches.values()).flat_map(|a| [&a.kernel, &a.initrd]);
        let assets = sources
            .map(|s| (s.clone(), Asset { state: AssetState::Pending, stored: None, again: Arc::default() }))
            .collect();
        Self {
            configured,
            default: settings.default_environment.clone(),
            bundle: Mutex::new(None),
            publisher,
            store,
            assets: Mutex::new(assets),
        }
    }

    /// The version of the bundle that is published.
    pub fn bundle_version(&self) -> Option<String> {
        lock(&self.bundle).as_ref().map(|b| b.version.clone())
    }

    /// Whether an environment can be booted, and by which files.
    pub fn files(&self, name: &str, arch: Arch) -> Readiness {
        if let Some(environment) = self.configured.get(name) {
            return self.configured_files(name, environment, arch);
        }
        let bundle = lock(&self.bundle);
        let names = ROLES.map(|(_, file)| format!("env/{name}/{file}"));
        match bundle.as_ref() {
            Some(b) if names.iter().all(|n| b.names.contains_key(n)) => {
                let [kernel, initrd] = names;
                let args = b.args.get(name).cloned().unwrap_or_default();
                Readiness::Ready(Files { kernel, initrd, args })
            }
            _ => Readiness::NoSuch,
        }
    }

    fn configured_files(&self, name: &str, environment: &Environment, arch: Arch) -> Readiness {
        // Sidero's single-architecture form is served whatever the machine says.
        let found = match environment.arches.get_key_value(&arch) {
            None if environment.any_arch => environment.arches.first_key_value(),
            found => found,
        };
        let Some((arch, files)) = found else { return Readiness::NoArch(environment.arches.keys().copied().collect()) };
        let assets = lock(&self.assets);
        let waits: Vec<String> = [&files.kernel, &files.initrd]
            .into_iter()
            .zip(ROLES)
            .filter(|(source, _)| assets.get(source).is_none_or(|a| a.stored.is_none()))
            .map(|(source, (role, _))| {
                format!("{role} {}: {}", source.url, assets.get(source).map_or("unknown".into(), |a| words(&a.state)))
            })
            .collect();
        if !waits.is_empty() {
            return Readiness::NotReady(format!("environment {name} is not ready: {}", waits.join("; ")));
        }
        let [kernel, initrd] = ROLES.map(|(_, file)| format!("env/{name}/{arch}/{file}"));
        Readiness::Ready(Files { kernel, initrd, args: files.args.clone() })
    }

    /// For the operator.
    pub fn list(&self) -> EnvironmentList {
        let assets = lock(&self.assets);
        let mut environments: Vec<EnvironmentStatus> = self
            .configured
            .iter()
            .map(|(name, environment)| {
                let arches: Vec<EnvironmentArch> =
                    environment.arches.iter().map(|(arch, files)| arch_status(&assets, name, *arch, files)).collect();
                EnvironmentStatus {
                    name: name.clone(),
                    is_default: self.default.as_ref() == Some(name),
                    source: "config".into(),
                    ready: arches.iter().flat_map(|a| &a.assets).all(|a| matches!(a.state, AssetState::Ready { .. })),
                    arches,
                }
            })
            .collect();
        drop(assets);
        if let Some(bundle) = lock(&self.bundle).as_ref() {
            environments.extend(bundle.environments());
        }
        environments.sort_by(|a, b| a.name.cmp(&b.name));
        EnvironmentList { environments }
    }

    /// Fetches all files of an environment again; how many, or nothing where there is no such environment.
    pub fn refetch(&self, name: &str) -> Option<u32> {
        let environment = self.configured.get(name)?;
        let assets = lock(&self.assets);
        let mut rung = 0;
        for source in environment.arches.values().flat_map(|a| [&a.kernel, &a.initrd]) {
            if let Some(asset) = assets.get(source) {
                asset.again.notify_one();
                rung += 1;
            }
        }
        Some(rung)
    }

    /// Publishes the names of everything that is ready.
    fn publish(&self) {
        let assets = lock(&self.assets);
        let mut names = Names::new();
        for (name, environment) in &self.configured {
            // The plain Sidero path goes to x86_64, or to the only architecture there is.
            let plain = environment.arches.keys().next().copied();
            for (arch, files) in &environment.arches {
                for (source, (_, file)) in [&files.kernel, &files.initrd].into_iter().zip(ROLES) {
                    let Some(stored) = assets.get(source).and_then(|a| a.stored) else { continue };
                    let entry = stored.entry("application/octet-stream");
                    if plain == Some(*arch) {
                        names.insert(format!("env/{name}/{file}"), entry.clone());
                    }
                    names.insert(format!("env/{name}/{arch}/{file}"), entry);
                }
            }
        }
        drop(assets);
        if let Err(e) = self.publisher.set("environments", names) {
            tracing::error!(error = %e, "environments are not published");
        }
    }

    fn set(&self, source: &AssetSource, change: impl FnOnce(&mut Asset)) {
        if let Some(asset) = lock(&self.assets).get_mut(source) {
            change(asset);
        }
    }
}

fn arch_status(
    assets: &HashMap<AssetSource, Asset>,
    name: &str,
    arch: Arch,
    files: &crate::config::EnvironmentArch,
) -> EnvironmentArch {
    let status = |source: &AssetSource, (role, file): (&str, &str)| AssetStatus {
        role: role.into(),
        name: format!("env/{name}/{arch}/{file}"),
        url: source.url.clone(),
        digest: source.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: assets.get(source).map_or(AssetState::Pending, |a| a.state.clone()),
    };
    let assets = [&files.kernel, &files.initrd].into_iter().zip(ROLES).map(|(s, role)| status(s, role)).collect();
    EnvironmentArch { arch, args: files.args.clone(), assets }
}

fn words(state: &AssetState) -> String {
    match state {
        AssetState::Pending => "waits to be fetched".into(),
        AssetState::Fetching { bytes, total: Some(total), .. } if *total > 0 => {
            format!("is being fetched, {} % of {total} bytes", bytes * 100 / total)
        }
        AssetState::Fetching { bytes, .. } => format!("is being fetched, {bytes} bytes so far"),
        AssetState::Ready { .. } => "is ready".into(),
        AssetState::Failed { why, .. } => format!("failed: {why}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
