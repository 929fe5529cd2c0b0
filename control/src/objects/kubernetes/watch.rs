//! A watch: one long request, made again where the API server ends it in order.

use super::super::{Change, Error, Revision, Watch};
use super::answer::Asked;
use super::revision;
use crate::limits;
use crate::resource::{Kind, Object};
use futures_util::{Stream, StreamExt as _};
use kube::api::WatchParams;
use kube::core::{Request, WatchEvent};
use std::pin::Pin;

type Stretch = Pin<Box<dyn Stream<Item = Result<WatchEvent<Object>, kube::Error>> + Send>>;

/// The changes of a kind.
pub struct Events {
    client: kube::Client,
    path: String,
    kind: Kind,
    /// Everything up to here has been told.
    read: Revision,
    /// The request that runs; none between two.
    stretch: Option<Stretch>,
}

impl Events {
    pub(super) async fn open(client: kube::Client, path: String, kind: Kind, from: Revision) -> Result<Self, Error> {
        let stretch = Some(ask(client.clone(), path.clone(), kind, from).await?);
        Ok(Self { client, path, kind, read: from, stretch })
    }

    /// What an event tells; nothing where it only moves the version.
    fn told(&mut self, event: WatchEvent<Object>) -> Result<Option<(Revision, Change)>, Error> {
        let change = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Change::Applied(object),
            WatchEvent::Deleted(object) => Change::Deleted(object),
            WatchEvent::Bookmark(mark) => {
                self.read = revision(&mark.metadata.resource_version)?;
                return Ok(None);
            }
            WatchEvent::Error(status) => {
                return Err(Asked::one(self.kind, "", "", &self.read.to_string()).status(&status));
            }
        };
        let (Change::Applied(object) | Change::Deleted(object)) = &change;
        self.read = revision(&object.metadata.resource_version)?;
        Ok(Some((self.read, change)))
    }
}

async fn ask(client: kube::Client, path: String, kind: Kind, from: Revision) -> Result<Stretch, Error> {
    let from = from.to_string();
    let parameters = WatchParams::default().timeout(limits::CLUSTER_WATCH_SECONDS);
    let request = Request::new(path)
        .watch(&parameters, &from)
        .map_err(|e| Error::Store(format!("{kind}: no watch can be asked for: {e}")))?;
    match tokio::time::timeout(limits::CLUSTER_REQUEST, client.request_events::<Object>(request)).await {
        Ok(Ok(stream)) => Ok(Box::pin(stream)),
        Ok(Err(e)) => Err(Asked::one(kind, "", "", &from).refused(e)),
        Err(_) => Err(Error::Store(format!("{kind}: the API server does not begin a watch"))),
    }
}

impl Watch for Events {
    async fn next(&mut self) -> Result<(Revision, Change), Error> {
        loop {
            let Some(stretch) = &mut self.stretch else {
                let (client, path) = (self.client.clone(), self.path.clone());
                self.stretch = Some(ask(client, path, self.kind, self.read).await?);
                continue;
            };
            // Bookmarks come about once a minute, so silence is a connection that nobody has closed.
            let Ok(event) = tokio::time::timeout(limits::CLUSTER_SILENCE, stretch.next()).await else {
                self.stretch = None;
                continue;
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(change) = self.told(event)? {
                        return Ok(change);
                    }
                }
                Some(Err(e)) => {
                    self.stretch = None;
                    return Err(Asked::one(self.kind, "", "", &self.read.to_string()).refused(e));
                }
                // Its time is over, or the server is being stopped: not at once again, lest a server
                // that ends every watch is asked without end.
                None => {
                    self.stretch = None;
                    tokio::time::sleep(limits::FOLLOW_PAUSE).await;
                }
            }
        }
    }
}
