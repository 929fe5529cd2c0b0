//! Environment objects: followed, and told how far their files are. The only
//! writer of an Environment's status.

use super::wanted::{Origin, Role, Wanted};
use super::{Environments, Inner, lock, served, too_many, words};
use crate::api::types::AssetState;
use crate::config::{AssetSource, Digest};
use crate::limits;
use crate::objects::follow::News;
use crate::objects::{Error, Objects};
use crate::resource::{AssetCondition, Environment, EnvironmentStatus, Kind, Object, Typed as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

impl Environments {
    /// Reads what is declared, so that nothing that exists is unknown after a start.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn read<O: Objects>(&self, objects: &O) -> Result<(), Error> {
        let listed = objects.list(Kind::Environment).await?;
        self.hear(News::All(Kind::Environment, listed.objects));
        Ok(())
    }

    /// Takes in what is declared.
    pub(super) fn hear(&self, news: News) {
        let mut inner = lock(&self.inner);
        match news {
            News::All(_, objects) => {
                inner.declared.clear();
                objects.iter().for_each(|o| inner.declare(o));
            }
            News::Applied(object) => inner.declare(&object),
            News::Deleted(object) => drop(inner.declared.remove(&object.metadata.name)),
        }
        inner.seat();
    }
}

impl Inner {
    fn declare(&mut self, object: &Object) {
        let name = &object.metadata.name;
        match Environment::from_object(object) {
            // One that is being deleted is still there until its finalizers are gone.
            Ok(environment) => drop(self.declared.insert(name.clone(), Wanted::of_object(&environment))),
            Err(e) => {
                // Written by another version of stoker: what is known of it stays.
                tracing::warn!(environment = name, error = %e, "an Environment cannot be read");
            }
        }
    }

    /// Who has a place keeps it.
    fn seat(&mut self) {
        let Self { declared, seated, .. } = self;
        seated.retain(|name| declared.contains_key(name));
        for name in declared.keys() {
            if seated.len() >= limits::ENVIRONMENTS {
                return;
            }
            seated.insert(name.clone());
        }
    }

    /// The conditions of an object, and the same without what only counts up.
    fn conditions(&self, name: &str, wanted: &Wanted) -> (Vec<AssetCondition>, Vec<String>) {
        let Origin::Object { generation, .. } = wanted.origin else { return Default::default() };
        let blank = AssetCondition { r#type: "Ready".into(), observed_generation: generation, ..Default::default() };
        let no = |reason: &str, message: String| AssetCondition {
            status: "False".into(),
            reason: reason.into(),
            message,
            ..blank.clone()
        };
        if !self.seated.contains(name) {
            return (vec![no("TooMany", too_many(name))], vec!["TooMany".into()]);
        }
        let mut found: BTreeMap<(bool, Role, AssetSource), (AssetCondition, String)> = BTreeMap::new();
        let mut missing = Vec::new();
        for (arch, variant) in &wanted.arches {
            let stays = self.served.contains_key(&(name.to_owned(), *arch));
            for role in &variant.missing {
                missing.push(no("Incomplete", format!("{}.url is missing ({arch})", role.name())));
            }
            for (role, source) in &variant.files {
                let (condition, gist) = self.condition(&blank, *role, source, stays);
                let ready = condition.status == "True";
                found.insert((ready, *role, source.clone()), (condition, gist));
            }
        }
        let mut conditions = missing;
        let mut gist: Vec<String> = conditions.iter().map(|c| c.message.clone()).collect();
        // What is not ready comes first: `kubectl wait` looks at the first condition of a type.
        for (condition, short) in found.into_values() {
            conditions.push(condition);
            gist.push(short);
        }
        (conditions, gist)
    }

    fn condition(
        &self,
        blank: &AssetCondition,
        role: Role,
        source: &AssetSource,
        stays: bool,
    ) -> (AssetCondition, String) {
        let state = self.assets.get(source).map_or(AssetState::Pending, |a| a.state.clone());
        let (status, reason, gist) = match &state {
            AssetState::Pending => ("False", "Pending", String::new()),
            AssetState::Fetching { .. } => ("False", "Fetching", String::new()),
            AssetState::Ready { sha256, .. } => ("True", "Ready", sha256.clone()),
            AssetState::Failed { why, .. } => ("False", "Failed", why.clone()),
        };
        let mut message = format!("{} {}", role.name(), words(&state));
        if stays && status == "False" {
            message.push_str("; the version before stays served");
        }
        let sha512 = match &source.digest {
            Some(Digest::Sha512(hex)) => hex.clone(),
            _ => String::new(),
        };
        let condition = AssetCondition {
            url: source.url.clone(),
            sha512,
            status: status.into(),
            reason: reason.into(),
            message,
            ..blank.clone()
        };
        let gist = format!("{reason} {} {gist} {stays}", source.url);
        (condition, gist)
    }
}

/// What was written last of an object.
struct Written {
    generation: u64,
    gist: Vec<String>,
    conditions: Vec<AssetCondition>,
    at: Instant,
}

/// Writes statuses and remembers sets, until `stop`. Progress is written now and then, what has
/// become ready or has failed at once.
pub(super) async fn write<O: Objects>(all: Arc<Environments>, objects: O, stop: CancellationToken) {
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    let mut remembered = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = all.changed.notified() => {}
            () = tokio::time::sleep(limits::PROGRESS_WRITE) => {}
        }
        // Many changes at once become one write.
        tokio::time::sleep(limits::ASSET_STATUS_PAUSE).await;
        if lock(&all.inner).unpublished {
            all.settle();
        }
        let (sets, due) = {
            let inner = lock(&all.inner);
            written.retain(|name, _| inner.declared.contains_key(name));
            let sets = inner.recalled.then(|| inner.served.clone());
            (sets, inner.due(&written))
        };
        let mut failed = false;
        if let Some(sets) = sets.filter(|s| remembered.as_ref() != Some(s)) {
            match served::remember(&all.store, &sets).await {
                Ok(()) => remembered = Some(sets),
                Err(e) => {
                    tracing::warn!(error = %e, "what is served is not remembered; trying again");
                    failed = true;
                }
            }
        }
        for (name, new) in due {
            match write_one(&objects, &name, &new).await {
                Ok(()) => drop(written.insert(name, new)),
                // It has changed or is gone: that is heard of, and it is looked at again.
                Err(Error::Conflict { .. } | Error::NotFound(_)) => all.changed.notify_one(),
                Err(e) => {
                    tracing::warn!(environment = name, error = %e, "the status of an Environment was not written; trying again");
                    failed = true;
                }
            }
        }
        if failed {
            all.changed.notify_one();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(limits::RECONCILE_PAUSE) => {}
            }
        }
    }
}

impl Inner {
    /// The statuses to be written now.
    fn due(&self, written: &BTreeMap<String, Written>) -> Vec<(String, Written)> {
        let mut due = Vec::new();
        if !self.recalled {
            return due;
        }
        for (name, wanted) in &self.declared {
            let Origin::Object { generation, .. } = wanted.origin else { continue };
            // Nothing is said of files before they have been looked at: after a restart they may all be here.
            let looked = |s| self.assets.get(s).is_some_and(|a| a.looked);
            if self.seated.contains(name) && !wanted.sources().all(looked) {
                continue;
            }
            let (conditions, gist) = self.conditions(name, wanted);
            let now = match written.get(name) {
                None => true,
                Some(old) if old.generation != generation || old.gist != gist => true,
                Some(old) => old.conditions != conditions && old.at.elapsed() >= limits::PROGRESS_WRITE,
            };
            if now {
                due.push((name.clone(), Written { generation, gist, conditions, at: Instant::now() }));
            }
        }
        due
    }
}

async fn write_one<O: Objects>(objects: &O, name: &str, new: &Written) -> Result<(), Error> {
    let mut object = objects.get(Kind::Environment, "", name).await?;
    let status = EnvironmentStatus { conditions: new.conditions.clone() };
    let status = serde_json::to_value(status).map_err(|e| Error::Store(e.to_string()))?;
    if object.metadata.generation != new.generation {
        let found = object.metadata.generation.to_string();
        return Err(Error::Conflict { key: object.key(), expected: new.generation.to_string(), found });
    }
    if object.status == status {
        return Ok(());
    }
    object.status = status;
    objects.replace_status(object).await.map(|_| ())
}
