//! Following a kind of objects: a list, then its changes, without end. What
//! cannot be followed any more (too old, store unreachable) is listed again.

use super::{Change, Error, Objects, Watch as _};
use crate::limits;
use crate::resource::{Kind, Object};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What a follower hears.
#[derive(Clone, PartialEq, Debug)]
pub enum News {
    /// All objects of a kind: what is not among them is gone.
    All(Kind, Vec<Object>),
    /// Made or changed; as it is now.
    Applied(Object),
    /// Gone; as it was last.
    Deleted(Object),
}

/// Tells of every object of a kind, until `stop` or until nobody listens. Never gives up: a store
/// that fails is asked again, ever more slowly.
pub async fn follow<O: Objects>(objects: O, kind: Kind, tell: mpsc::Sender<News>, stop: CancellationToken) {
    let mut pause = limits::FOLLOW_PAUSE;
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = once(&objects, kind, &tell, &mut pause) => ended,
        };
        let Some(why) = ended else { return };
        if !matches!(why, Error::Gone(_)) {
            tracing::warn!(%kind, error = %why, retry_s = pause.as_secs_f32(), "objects cannot be followed; listing again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(limits::FOLLOW_PAUSE_MAX);
    }
}

/// One list and its changes; nothing where nobody listens any more.
async fn once<O: Objects>(objects: &O, kind: Kind, tell: &mpsc::Sender<News>, pause: &mut Duration) -> Option<Error> {
    let listed = match objects.list(kind).await {
        Ok(listed) => listed,
        Err(e) => return Some(e),
    };
    if tell.send(News::All(kind, listed.objects)).await.is_err() {
        return None;
    }
    let mut watch = match objects.watch(kind, listed.revision).await {
        Ok(watch) => watch,
        Err(e) => return Some(e),
    };
    *pause = limits::FOLLOW_PAUSE;
    loop {
        let news = match watch.next().await {
            Ok((_, Change::Applied(object))) => News::Applied(object),
            Ok((_, Change::Deleted(object))) => News::Deleted(object),
            Err(e) => return Some(e),
        };
        if tell.send(news).await.is_err() {
            return None;
        }
    }
}
