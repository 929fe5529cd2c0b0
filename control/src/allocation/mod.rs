//! Allocation: who gets which machine. A ServerBinding of the Server's name is
//! the lock; a ServerClass says which machines are alike.
//!
//! ```text
//! watches -> follow -> index -> ServerClass.status
//!                        |
//! allocate ---------> claim -> annotation on the Server, Secret, ServerBinding
//! release ----------> deletion of the ServerBinding; the reconciler wipes
//! ```

mod bind;
mod claim;
mod follow;
mod index;
mod least;

#[cfg(test)]
mod tests;

pub use claim::{Allocated, Ask, From, Refused, Released};
pub use follow::follow;
pub use index::{ANY, Unfit, fit};
pub use least::Size;

use crate::objects::Objects;
use index::Index;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gives machines to those who ask, and takes them back.
pub struct Allocation<O: Objects> {
    objects: O,
    /// Environments of the configuration file, which have no object.
    configured: BTreeSet<String>,
    index: Mutex<Index>,
    /// One at a time, so that the same name asked for twice at once gets one machine.
    turn: tokio::sync::Mutex<()>,
}

impl<O: Objects> Allocation<O> {
    /// Knows no machine before [`follow`] has listed them.
    pub fn new(objects: O) -> Arc<Self> {
        Self::knowing(objects, BTreeSet::new())
    }

    /// As [`Allocation::new`], with Environments that may be named beside the declared ones.
    pub fn knowing(objects: O, configured: BTreeSet<String>) -> Arc<Self> {
        Arc::new(Self { objects, configured, index: Mutex::default(), turn: tokio::sync::Mutex::default() })
    }

    /// How often a Server has been compared with a class since the start: the cost of what changed.
    pub fn compared(&self) -> u64 {
        self.index().compared()
    }

    /// The least that an accepted machine of a class has; nothing where no size is known.
    pub fn least(&self, class: &str) -> Option<Size> {
        self.index().least(class)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
