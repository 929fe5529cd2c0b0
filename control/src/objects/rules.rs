//! What a write makes of an object: pure, the same for every implementation
//! that has no API server to do it.

use super::stamp::{new_uid, rfc3339};
use super::{Error, Preconditions};
use crate::resource::{Object, validate};
use serde_json::Value;

/// What remains after a write.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// This, under a new version.
    Keep(Box<Object>),
    /// Nothing changed: no new version, no event.
    Same(Box<Object>),
    /// It is gone.
    Remove(Box<Object>),
}

/// A new object.
pub fn create(mut object: Object, old: Option<&Object>, now_ms: u64) -> Result<Outcome, Error> {
    if old.is_some() {
        return Err(Error::Exists(object.key()));
    }
    object.metadata.uid = new_uid().map_err(|e| Error::Store(format!("no random bytes for a uid: {e}")))?;
    object.metadata.creation_timestamp = Some(rfc3339(now_ms));
    object.metadata.deletion_timestamp = None;
    object.metadata.generation = 1;
    object.metadata.resource_version = String::new();
    object.status = Value::Null;
    valid(&object, None)?;
    Ok(Outcome::Keep(Box::new(object)))
}

/// Metadata, spec and data of `new` over `old`.
pub fn replace(mut new: Object, old: Option<&Object>) -> Result<Outcome, Error> {
    let old = current(&new, old)?;
    // What only the store writes stays; what is being deleted gets no new finalizer.
    new.metadata.uid.clone_from(&old.metadata.uid);
    new.metadata.creation_timestamp.clone_from(&old.metadata.creation_timestamp);
    new.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
    new.status = old.status.clone();
    let changed = new.spec != old.spec || new.data != old.data;
    new.metadata.generation = old.metadata.generation + u64::from(changed);
    if old.metadata.deletion_timestamp.is_some() {
        new.metadata.finalizers.retain(|f| old.metadata.finalizers.contains(f));
    }
    valid(&new, Some(old))?;
    settle(new, old)
}

/// The status of `new` over `old`.
pub fn replace_status(new: &Object, old: Option<&Object>) -> Result<Outcome, Error> {
    let old = current(new, old)?;
    let kept = Object { status: new.status.clone(), ..old.clone() };
    valid(&kept, Some(old))?;
    settle(kept, old)
}

/// Deletion: at once without finalizers, else a mark.
pub fn delete(key: &str, old: Option<&Object>, only: &Preconditions, now_ms: u64) -> Result<Outcome, Error> {
    let old = old.ok_or_else(|| Error::NotFound(key.to_owned()))?;
    let conflict = |expected: &str, found: &str| {
        Err(Error::Conflict { key: key.to_owned(), expected: expected.to_owned(), found: found.to_owned() })
    };
    match (&only.uid, &only.resource_version) {
        (Some(uid), _) if *uid != old.metadata.uid => return conflict(uid, &old.metadata.uid),
        (_, Some(version)) if *version != old.metadata.resource_version => {
            return conflict(version, &old.metadata.resource_version);
        }
        _ => {}
    }
    let mut marked = old.clone();
    if marked.metadata.finalizers.is_empty() {
        return Ok(Outcome::Remove(Box::new(marked)));
    }
    if marked.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Same(Box::new(marked)));
    }
    marked.metadata.deletion_timestamp = Some(rfc3339(now_ms));
    Ok(Outcome::Keep(Box::new(marked)))
}

/// The object that `new` may be written over.
fn current<'a>(new: &Object, old: Option<&'a Object>) -> Result<&'a Object, Error> {
    let old = old.ok_or_else(|| Error::NotFound(new.key()))?;
    let expected = &new.metadata.resource_version;
    if !expected.is_empty() && *expected != old.metadata.resource_version {
        let found = old.metadata.resource_version.clone();
        return Err(Error::Conflict { key: new.key(), expected: expected.clone(), found });
    }
    // The same name may be another object by now.
    if !new.metadata.uid.is_empty() && new.metadata.uid != old.metadata.uid {
        let (expected, found) = (new.metadata.uid.clone(), old.metadata.uid.clone());
        return Err(Error::Conflict { key: new.key(), expected, found });
    }
    Ok(old)
}

fn settle(mut new: Object, old: &Object) -> Result<Outcome, Error> {
    new.metadata.resource_version.clone_from(&old.metadata.resource_version);
    Ok(if new.metadata.deletion_timestamp.is_some() && new.metadata.finalizers.is_empty() {
        Outcome::Remove(Box::new(new))
    } else if new == *old {
        Outcome::Same(Box::new(new))
    } else {
        Outcome::Keep(Box::new(new))
    })
}

fn valid(object: &Object, old: Option<&Object>) -> Result<(), Error> {
    let complaints = validate(object, old);
    if complaints.is_empty() { Ok(()) } else { Err(Error::Invalid(complaints)) }
}
