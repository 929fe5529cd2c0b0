//! Objects in a Kubernetes API server.
//!
//! Each call is one request to the API, but for two: a `replace` without a
//! version reads the version first (the API server wants one for our kinds),
//! and a list comes in pages of one snapshot. Nothing is cached and nothing is
//! repeated here: who writes decides again on what is there then.

mod answer;
mod lease;
mod watch;

pub use lease::LeaseAt;
pub use watch::Events;

use super::{Error, Listed, Objects, Preconditions, Revision};
use crate::crd;
use crate::limits;
use crate::resource::{Kind, Object, key, validate};
use answer::Asked;
use kube::api::{DeleteParams, GetParams, ListParams, PostParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;

/// How writes are signed in `managedFields`.
const MANAGER: &str = "stoker";

/// Why no API server can be talked to.
#[derive(thiserror::Error, Debug)]
pub enum ConnectError {
    /// The kubeconfig.
    #[error("the kubeconfig {0} cannot be used: {1}; give another with --kubeconfig")]
    Kubeconfig(String, kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a pod.
    #[error("no cluster is configured: {0}; give a file with --kubeconfig, or run in a pod with a service account")]
    Nowhere(kube::config::InferConfigError),
    /// Certificates, a token.
    #[error("the cluster's client cannot be made: {0}; look at certificates and tokens of the kubeconfig")]
    Client(kube::Error),
}

/// The objects of one cluster. A handle, cheap to copy.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    /// Where Secrets are listed and watched. They are read by name wherever an object refers to.
    namespace: String,
}

impl Cluster {
    /// By a kubeconfig; without one by `KUBECONFIG`, `~/.kube/config`, or as a pod.
    ///
    /// # Errors
    /// Where there is none, or it cannot be used. The API server is not asked.
    pub async fn connect(kubeconfig: Option<&Path>, namespace: &str) -> Result<Self, ConnectError> {
        let mut config = match kubeconfig {
            Some(path) => {
                let bad = |e| ConnectError::Kubeconfig(path.display().to_string(), e);
                let file = kube::config::Kubeconfig::read_from(path).map_err(bad)?;
                kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                    .await
                    .map_err(bad)?
            }
            None => kube::Config::infer().await.map_err(ConnectError::Nowhere)?,
        };
        // Who asks has deadlines of its own and tries again itself.
        config.default_retry = false;
        config.connect_timeout = Some(limits::CLUSTER_CONNECT);
        // A watch is silent for as long as nothing happens; `watch` has its own measure of silence.
        config.read_timeout = None;
        let client = kube::Client::try_from(config).map_err(ConnectError::Client)?;
        Ok(Self { client, namespace: namespace.to_owned() })
    }

    /// The client, for what is no object of ours.
    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The namespace of this stoker.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// One request, within [`limits::CLUSTER_REQUEST`].
    async fn ask<T: DeserializeOwned>(
        &self,
        request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
        asked: &Asked<'_>,
    ) -> Result<T, Error> {
        let request =
            request.map_err(|e| Error::Store(format!("{}: no request can be made of it: {e}", asked.key())))?;
        match tokio::time::timeout(limits::CLUSTER_REQUEST, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(asked.refused(e)),
            Err(_) => Err(Error::Store(format!(
                "{}: the API server has not answered within {} s",
                asked.key(),
                limits::CLUSTER_REQUEST.as_secs()
            ))),
        }
    }

    /// Where all of a kind are: Secrets are looked for in our namespace alone.
    fn everywhere(&self, kind: Kind) -> String {
        path(kind, if kind == Kind::Secret { &self.namespace } else { "" })
    }

    async fn page(&self, kind: Kind, parameters: &ListParams) -> Result<Page, Error> {
        let request = Request::new(self.everywhere(kind)).list(parameters);
        self.ask(request, &Asked::all(kind)).await
    }

    /// The version that a conflict is about, for the message.
    async fn conflict(&self, refusal: Error) -> Error {
        let Error::Conflict { key, expected, .. } = refusal else { return refusal };
        let mut parts = key.split('/');
        let kind = parts.next().and_then(|k| Kind::ALL.into_iter().find(|kind| kind.name() == k));
        let (last, first) = (parts.next_back().unwrap_or_default(), parts.next().unwrap_or_default());
        let found = match kind {
            Some(kind) => self.get(kind, first, last).await.map(|o| o.metadata.resource_version),
            None => Err(Error::NotFound(String::new())),
        };
        Error::Conflict { key, expected, found: found.unwrap_or_else(|_| "gone".to_owned()) }
    }
}

/// One page of a list.
#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    items: Vec<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    r#continue: String,
}

/// The collection of a kind in the API; of all namespaces where none is named.
fn path(kind: Kind, namespace: &str) -> String {
    let (version, plural) = (kind.api_version(), crd::plural(kind));
    let root = if version.contains('/') { "apis" } else { "api" };
    if kind.namespaced() && !namespace.is_empty() {
        format!("/{root}/{version}/namespaces/{namespace}/{plural}")
    } else {
        format!("/{root}/{version}/{plural}")
    }
}

/// An item of a list: those of built-in kinds come without their kind.
fn item(kind: Kind, mut item: Value) -> Result<Object, Error> {
    item["kind"] = json!(kind.name());
    item["apiVersion"] = json!(kind.api_version());
    serde_json::from_value(item).map_err(|e| Error::Store(format!("an object of kind {kind} cannot be read: {e}")))
}

/// Kubernetes calls versions opaque, and promises since 1.35 that they are numbers that rise.
fn revision(text: &str) -> Result<Revision, Error> {
    text.parse().map_err(|_| {
        Error::Store(format!("the API server gave {text:?} for a version; stoker needs one whose versions are numbers"))
    })
}

fn body(object: &Object) -> Vec<u8> {
    // An object holds only what JSON can say.
    serde_json::to_vec(object).unwrap_or_default()
}

/// The rules that a schema cannot say are checked here, with the others: all complaints come at once.
fn check(object: &Object) -> Result<(), Error> {
    let complaints = validate(object, None);
    if complaints.is_empty() { Ok(()) } else { Err(Error::Invalid(complaints)) }
}

fn post() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(MANAGER.to_owned()) }
}

impl Objects for Cluster {
    type Watch = Events;

    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Object, Error> {
        let request = Request::new(path(kind, namespace)).get(name, &GetParams::default());
        self.ask(request, &Asked::one(kind, namespace, name, "")).await
    }

    async fn list(&self, kind: Kind) -> Result<Listed, Error> {
        let mut parameters = ListParams::default().limit(limits::CLUSTER_PAGE);
        let mut objects = Vec::new();
        loop {
            let page = match self.page(kind, &parameters).await {
                // The snapshot is gone that the pages are of: all at once then.
                Err(Error::Gone(_)) if parameters.limit.is_some() => {
                    parameters = ListParams::default();
                    objects.clear();
                    continue;
                }
                page => page?,
            };
            for one in page.items {
                objects.push(item(kind, one)?);
            }
            if page.metadata.r#continue.is_empty() {
                objects.sort_by_key(Object::key);
                return Ok(Listed { objects, revision: revision(&page.metadata.resource_version)? });
            }
            parameters.continue_token = Some(page.metadata.r#continue);
        }
    }

    async fn watch(&self, kind: Kind, from: Revision) -> Result<Events, Error> {
        Events::open(self.client.clone(), self.everywhere(kind), kind, from).await
    }

    async fn create(&self, mut object: Object) -> Result<Object, Error> {
        check(&object)?;
        let meta = &mut object.metadata;
        // What only the API server writes.
        meta.uid.clear();
        meta.resource_version.clear();
        meta.creation_timestamp = None;
        meta.deletion_timestamp = None;
        meta.generation = 0;
        object.status = Value::Null;
        let request = Request::new(path(object.kind, &object.metadata.namespace)).create(&post(), body(&object));
        self.ask(request, &Asked::object(&object)).await
    }

    async fn replace(&self, mut object: Object) -> Result<Object, Error> {
        check(&object)?;
        object.status = Value::Null;
        let (kind, meta) = (object.kind, object.metadata.clone());
        let unconditional = meta.resource_version.is_empty();
        for _ in 0..limits::CLUSTER_UNCONDITIONAL {
            if unconditional {
                let there = self.get(kind, &meta.namespace, &meta.name).await?;
                object.metadata.resource_version = there.metadata.resource_version;
            }
            let request = Request::new(path(kind, &meta.namespace)).replace(&meta.name, &post(), body(&object));
            match self.ask(request, &Asked::object(&object)).await {
                // The last writer wins, if it takes some tries; another object of that name is none to win over.
                Err(Error::Conflict { .. }) if unconditional && meta.uid.is_empty() => {}
                Err(e) => return Err(self.conflict(e).await),
                Ok(done) => return Ok(done),
            }
        }
        Err(Error::Store(format!("{} changes too fast to be written over; try again", object.key())))
    }

    async fn replace_status(&self, object: Object) -> Result<Object, Error> {
        let (kind, meta) = (object.kind, &object.metadata);
        if kind == Kind::Secret {
            return Err(Error::Store("a Secret has no status".to_owned()));
        }
        let request =
            Request::new(path(kind, &meta.namespace)).replace_subresource("status", &meta.name, &post(), body(&object));
        match self.ask(request, &Asked::object(&object)).await {
            Ok(done) => Ok(done),
            Err(e) => Err(self.conflict(e).await),
        }
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str, only: Preconditions) -> Result<(), Error> {
        let expected = only.uid.clone().or_else(|| only.resource_version.clone()).unwrap_or_default();
        let preconditions = kube::api::Preconditions { uid: only.uid, resource_version: only.resource_version };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = Request::new(path(kind, namespace)).delete(name, &parameters);
        let asked = Asked::one(kind, namespace, name, &expected);
        // The answer is the object, or a word of success.
        match self.ask::<Value>(request, &asked).await {
            Ok(_) => Ok(()),
            Err(e) => Err(self.conflict(e).await),
        }
    }
}

/// The store's key of what was asked about.
fn key_of(kind: Kind, namespace: &str, name: &str) -> String {
    if name.is_empty() { kind.to_string() } else { key(kind, namespace, name) }
}
