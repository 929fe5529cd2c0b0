//! Between decisions and the disk: groups lease changes, and says when each is safe.

use super::book::Entry;
use super::serve::Event;
use crate::limits;
use crate::store::{Store, leases};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The durable changes of one decision.
#[derive(Debug)]
pub struct Save {
    /// Ties the answer to its reply.
    pub token: u64,
    /// What to keep.
    pub entries: Vec<(Ipv4Addr, Entry)>,
}

/// Writes until the queue is closed, then returns: everything taken is on disk.
pub async fn run(store: Arc<Store>, mut queue: mpsc::Receiver<Save>, done: mpsc::Sender<Event>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, limits::DHCP_JOURNAL_GROUP).await > 0 {
        let entries = group.iter().flat_map(|save| save.entries.iter().cloned()).collect();
        let result = leases::write(&store, entries).await.map_err(|e| e.to_string());
        for save in group.drain(..) {
            let addresses = save.entries.iter().map(|(address, _)| *address).collect();
            // The loop that decides is gone: nobody is left to send the reply.
            if done.send(Event::Saved { token: save.token, addresses, result: result.clone() }).await.is_err() {
                return;
            }
        }
    }
}
