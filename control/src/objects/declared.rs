//! The store that was chosen: this machine's file, or a cluster's API.

use super::embedded::{Embedded, LogWatch};
use super::kubernetes::{Cluster, Events};
use super::{Change, Error, Listed, Objects, Preconditions, Revision, Watch};
use crate::resource::{Kind, Object};

/// Where the declared objects are.
#[derive(Clone)]
pub enum Declared {
    /// In this machine's file.
    Embedded(Embedded),
    /// In a Kubernetes API server.
    Kubernetes(Cluster),
}

impl Declared {
    /// Every object as a JSON line, Secrets included, in an order in which they can be restored.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn export(&self, out: &mut Vec<u8>) -> Result<usize, Error> {
        let cluster = match self {
            Self::Embedded(embedded) => return embedded.export(out),
            Self::Kubernetes(cluster) => cluster,
        };
        let mut count = 0;
        for kind in Kind::ALL {
            let objects = match cluster.list(kind).await {
                Ok(listed) => listed.objects,
                // Not every cluster has Cluster API.
                Err(Error::Unknown(Kind::Cluster | Kind::Machine, _)) => continue,
                Err(e) => return Err(e),
            };
            for object in objects {
                serde_json::to_writer(&mut *out, &object).map_err(|e| Error::Store(e.to_string()))?;
                out.push(b'\n');
                count += 1;
            }
        }
        Ok(count)
    }

    /// Takes the lines of [`Declared::export`] into an empty file, as they are.
    ///
    /// # Errors
    /// A line that is not an object, a store that is not empty, or a cluster: uids are the API
    /// server's to give there, and records of wipes and installations name them.
    pub async fn import(&self, lines: &str) -> Result<usize, Error> {
        match self {
            Self::Embedded(embedded) => embedded.import(lines).await,
            Self::Kubernetes(_) => Err(Error::Store(
                "an export goes only into an embedded store; in a cluster declare the objects with kubectl apply"
                    .to_owned(),
            )),
        }
    }
}

impl Objects for Declared {
    type Watch = DeclaredWatch;

    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Object, Error> {
        match self {
            Self::Embedded(store) => store.get(kind, namespace, name).await,
            Self::Kubernetes(store) => store.get(kind, namespace, name).await,
        }
    }

    async fn list(&self, kind: Kind) -> Result<Listed, Error> {
        match self {
            Self::Embedded(store) => store.list(kind).await,
            Self::Kubernetes(store) => store.list(kind).await,
        }
    }

    async fn watch(&self, kind: Kind, from: Revision) -> Result<DeclaredWatch, Error> {
        match self {
            Self::Embedded(store) => store.watch(kind, from).await.map(DeclaredWatch::Embedded),
            Self::Kubernetes(store) => store.watch(kind, from).await.map(DeclaredWatch::Kubernetes),
        }
    }

    async fn create(&self, object: Object) -> Result<Object, Error> {
        match self {
            Self::Embedded(store) => store.create(object).await,
            Self::Kubernetes(store) => store.create(object).await,
        }
    }

    async fn replace(&self, object: Object) -> Result<Object, Error> {
        match self {
            Self::Embedded(store) => store.replace(object).await,
            Self::Kubernetes(store) => store.replace(object).await,
        }
    }

    async fn replace_status(&self, object: Object) -> Result<Object, Error> {
        match self {
            Self::Embedded(store) => store.replace_status(object).await,
            Self::Kubernetes(store) => store.replace_status(object).await,
        }
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str, only: Preconditions) -> Result<(), Error> {
        match self {
            Self::Embedded(store) => store.delete(kind, namespace, name, only).await,
            Self::Kubernetes(store) => store.delete(kind, namespace, name, only).await,
        }
    }
}

/// A watch on either.
pub enum DeclaredWatch {
    /// On the file's log.
    Embedded(LogWatch),
    /// On the API.
    Kubernetes(Events),
}

impl Watch for DeclaredWatch {
    async fn next(&mut self) -> Result<(Revision, Change), Error> {
        match self {
            Self::Embedded(watch) => watch.next().await,
            Self::Kubernetes(watch) => watch.next().await,
        }
    }
}
