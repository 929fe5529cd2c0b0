//! Environments as the operator sees them.

use super::wanted::{Origin, Wanted};
use super::{Environments, Inner, lock, too_many};
use crate::api::types::{AssetState, AssetStatus, EnvironmentArch, EnvironmentList, EnvironmentStatus};
use crate::plan::boot::Readiness;
use crate::resource::Object;
use protocol::id::Arch;
use std::collections::BTreeMap;

/// Whether an environment is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// Every architecture of it can be installed.
    Ready,
    /// It is there, but not ready for this reason.
    NotReady(String),
    /// There is none of this name.
    No,
}

impl Environments {
    /// For the operator. `objects` are the Environments in the store now: of what is written there
    /// and was not heard of yet, nothing is claimed to be ready.
    pub fn list(&self, objects: &[Object]) -> EnvironmentList {
        let inner = lock(&self.inner);
        let mut all: BTreeMap<String, EnvironmentStatus> =
            self.all(&inner).map(|(name, wanted)| (name.clone(), self.status(&inner, name, wanted))).collect();
        for name in inner.declared.keys().filter(|name| !inner.seated.contains(*name)) {
            all.insert(name.clone(), self.blank(name, vec![too_many(name)]));
        }
        for object in objects {
            let (name, newest) = (&object.metadata.name, object.metadata.generation);
            let heard = inner.declared.get(name).is_some_and(|w| match &w.origin {
                Origin::Object { uid, generation } => *uid == object.metadata.uid && *generation >= newest,
                Origin::Config => false,
            });
            if !heard {
                all.insert(name.clone(), self.blank(name, vec!["it has just been applied".to_owned()]));
            }
        }
        drop(inner);
        let mut environments: Vec<EnvironmentStatus> = all.into_values().collect();
        if let Some(bundle) = lock(&self.bundle).as_ref() {
            environments.extend(bundle.environments());
        }
        environments.sort_by(|a, b| a.name.cmp(&b.name));
        EnvironmentList { environments }
    }

    /// Whether there is an environment of this name, and whether it can be installed.
    pub fn known(&self, name: &str) -> Known {
        let inner = lock(&self.inner);
        match self.wanted(&inner, name) {
            Ok(wanted) => {
                let status = self.status(&inner, name, wanted);
                if status.ready { Known::Ready } else { Known::NotReady(waits(&status)) }
            }
            Err(Readiness::NotReady(why)) => Known::NotReady(why),
            Err(_) => Known::No,
        }
    }

    fn status(&self, inner: &Inner, name: &str, wanted: &Wanted) -> EnvironmentStatus {
        let mut notes = Vec::new();
        if matches!(wanted.origin, Origin::Object { .. }) && self.configured.contains_key(name) {
            notes.push("takes the place of the one in the configuration file".to_owned());
        }
        let mut ready = !wanted.arches.is_empty();
        let mut arches = Vec::new();
        for (arch, variant) in &wanted.arches {
            notes.extend(variant.missing.iter().map(|role| format!("{arch}: it names no {}", role.name())));
            let waits = inner.waits_for(variant);
            ready &= waits.is_empty() && inner.served.contains_key(&(name.to_owned(), *arch));
            if !waits.is_empty() && inner.served.contains_key(&(name.to_owned(), *arch)) {
                notes.push(format!("{arch}: the version before stays served"));
            }
            let assets = variant.files.iter().map(|(role, source)| AssetStatus {
                role: role.name().into(),
                name: format!("env/{name}/{arch}/{}", variant.file_name(*role)),
                url: source.url.clone(),
                digest: source.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
                state: inner.assets.get(source).map_or(AssetState::Pending, |a| a.state.clone()),
            });
            arches.push(EnvironmentArch { arch: *arch, args: variant.args.clone(), assets: assets.collect() });
        }
        let source = match wanted.origin {
            Origin::Config => "config",
            Origin::Object { .. } => "object",
        };
        EnvironmentStatus { ready, arches, source: source.into(), ..self.blank(name, notes) }
    }

    fn blank(&self, name: &str, notes: Vec<String>) -> EnvironmentStatus {
        EnvironmentStatus {
            name: name.to_owned(),
            is_default: self.default.as_deref() == Some(name),
            source: "object".into(),
            ready: false,
            arches: Vec::new(),
            notes,
        }
    }
}

/// What an environment waits for, in one line.
fn waits(status: &EnvironmentStatus) -> String {
    let file = |arch: Arch, a: &AssetStatus| match &a.state {
        AssetState::Ready { .. } => None,
        state => Some(format!("{} for {arch} {}", a.role, super::words(state))),
    };
    let files = status.arches.iter().flat_map(|a| a.assets.iter().filter_map(|f| file(a.arch, f)));
    files.chain(status.notes.iter().cloned()).collect::<Vec<_>>().join("; ")
}
