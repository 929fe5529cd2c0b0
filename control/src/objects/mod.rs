//! The store of declared objects, as the Kubernetes API means it: list and
//! watch from a version, writes that fail where the object has moved on,
//! status apart from spec, deletion that waits for finalizers.
//!
//! Controllers know only [`Objects`]. There are two implementations:
//! [`embedded::Embedded`], a file, and [`kubernetes::Cluster`], a Kubernetes
//! API server; [`declared::Declared`] is the one that was chosen.
//! [`conformance`] is the suite that both pass.

pub mod conformance;
pub mod declared;
pub mod embedded;
pub mod follow;
pub mod kubernetes;
mod rules;
mod stamp;

pub use stamp::{parse_rfc3339, rfc3339};

use crate::resource::{BadObject, Kind, Object};
use std::future::Future;

/// A version of the whole store. Object versions are the store's version at
/// their last write; both only rise.
pub type Revision = u64;

/// Why the store did not do something.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// No such object.
    #[error("{0} does not exist")]
    NotFound(String),
    /// One of that name is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The object has changed since it was read: read it again and repeat.
    #[error("{key} has changed since version {expected} (it is now {found})")]
    Conflict {
        /// Which object.
        key: String,
        /// The version that the writer had.
        expected: String,
        /// The version there is.
        found: String,
    },
    /// The object breaks a rule.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<BadObject>),
    /// The version is older than what the store remembers (HTTP 410): list again.
    #[error("version {0} is too old to watch from; list again")]
    Gone(Revision),
    /// A kind that this store (a cluster) has not been told of.
    #[error("the cluster does not know the kind {0}; {1}")]
    Unknown(Kind, &'static str),
    /// The store itself.
    #[error("{0}")]
    Store(String),
}

/// Everything of a kind at one version.
#[derive(Debug)]
pub struct Listed {
    /// The objects, by key.
    pub objects: Vec<Object>,
    /// Watch from here on.
    pub revision: Revision,
}

/// A change.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// Made or changed; as it is now.
    Applied(Object),
    /// Gone; as it was last.
    Deleted(Object),
}

/// What must hold of an object for a deletion to be meant.
#[derive(Clone, Default, Debug)]
pub struct Preconditions {
    /// It is this object, not another of the same name.
    pub uid: Option<String>,
    /// It is at this version.
    pub resource_version: Option<String>,
}

/// A stream of changes.
pub trait Watch: Send {
    /// The next change, when there is one.
    ///
    /// # Errors
    /// [`Error::Gone`] where the watcher fell too far behind.
    fn next(&mut self) -> impl Future<Output = Result<(Revision, Change), Error>> + Send;
}

/// The store of declared objects.
pub trait Objects: Clone + Send + Sync + 'static {
    /// Its watches.
    type Watch: Watch;

    /// One object.
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> impl Future<Output = Result<Object, Error>> + Send;

    /// All objects of a kind.
    fn list(&self, kind: Kind) -> impl Future<Output = Result<Listed, Error>> + Send;

    /// The changes of a kind after `from`.
    fn watch(&self, kind: Kind, from: Revision) -> impl Future<Output = Result<Self::Watch, Error>> + Send;

    /// Makes an object. `status` is left out: a new object has none.
    fn create(&self, object: Object) -> impl Future<Output = Result<Object, Error>> + Send;

    /// Writes metadata, `spec` and `data`; `status` stays as it is. With a
    /// `resourceVersion` only over that version. An object that is being
    /// deleted goes with its last finalizer.
    fn replace(&self, object: Object) -> impl Future<Output = Result<Object, Error>> + Send;

    /// Writes `status` alone, over the version given.
    fn replace_status(&self, object: Object) -> impl Future<Output = Result<Object, Error>> + Send;

    /// Deletes, or marks for deletion where finalizers stand.
    fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        only: Preconditions,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}
