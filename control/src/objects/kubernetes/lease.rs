//! One Lease (coordination.k8s.io/v1), read and written.

use super::answer::chain;
use super::{Cluster, post};
use crate::leader::Record;
use crate::limits;
use crate::objects::{Error, rfc3339};
use crate::observe::now_ms;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use serde_json::json;

/// Where a Lease is.
pub struct LeaseAt {
    cluster: Cluster,
    name: String,
}

/// The part of a Lease that is read.
#[derive(Deserialize)]
struct Lease {
    metadata: LeaseMeta,
    #[serde(default)]
    spec: Record,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseMeta {
    resource_version: String,
}

impl LeaseAt {
    /// In stoker's namespace.
    pub fn new(cluster: Cluster, name: &str) -> Self {
        Self { cluster, name: name.to_owned() }
    }

    fn request(&self) -> Request {
        Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.cluster.namespace()))
    }

    /// The record and its version; nothing where there is none yet.
    ///
    /// # Errors
    /// Where the API server is not reached or refuses.
    pub async fn read(&self) -> Result<Option<(Record, String)>, Error> {
        match self.send(self.request().get(&self.name, &GetParams::default())).await {
            Ok(lease) => Ok(Some((lease.spec, lease.metadata.resource_version))),
            Err(Error::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes the record, renewed now: over this version, or as a new Lease. Returns the new version.
    ///
    /// # Errors
    /// [`Error::Conflict`] or [`Error::Exists`] where somebody else was faster.
    pub async fn write(&self, record: &Record, over: Option<&str>) -> Result<String, Error> {
        let now = rfc3339(now_ms()).replace('Z', ".000000Z");
        let mut record = record.clone();
        record.acquire_time.get_or_insert_with(|| now.clone());
        record.renew_time = Some(now);
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name}, "spec": record,
        });
        let request = match over {
            Some(version) => {
                lease["metadata"]["resourceVersion"] = json!(version);
                self.request().replace(&self.name, &post(), lease.to_string().into_bytes())
            }
            None => self.request().create(&post(), lease.to_string().into_bytes()),
        };
        self.send(request).await.map(|lease| lease.metadata.resource_version)
    }

    async fn send(
        &self,
        request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Lease, Error> {
        let request = request.map_err(|e| Error::Store(format!("no request can be made of the Lease: {e}")))?;
        let key = || format!("Lease/{}/{}", self.cluster.namespace(), self.name);
        match tokio::time::timeout(limits::CLUSTER_REQUEST, self.cluster.client().request::<Lease>(request)).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(kube::Error::Api(status))) => Err(match status.code {
                404 if status.details.as_ref().is_some_and(|d| d.kind == "namespaces") => Error::Store(format!(
                    "the namespace {0} does not exist; make it: kubectl create namespace {0}",
                    self.cluster.namespace()
                )),
                404 => Error::NotFound(key()),
                409 if status.is_already_exists() => Error::Exists(key()),
                409 => Error::Conflict { key: key(), expected: String::new(), found: String::new() },
                code => Error::Store(format!("{}: the API server answers {code}: {}", key(), status.reason)),
            }),
            Ok(Err(e)) => Err(Error::Store(format!("{}: the API server is not reached: {}", key(), chain(&e)))),
            Err(_) => Err(Error::Store(format!("{}: the API server does not answer", key()))),
        }
    }
}
