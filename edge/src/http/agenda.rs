//! Whose turn it is.
//!
//! Two queues of sends: an answer's first piece goes before the further pieces
//! of long bodies, so a boot loader or a script never waits for somebody's
//! initrd. Further pieces go round in turn. Timers and idle connections are
//! kept in order; a connection has at most one place in each.

use crate::ring::{Close, ConnId};
use protocol::time::Instant;
use std::collections::{BTreeSet, HashMap, VecDeque};

#[derive(Default)]
pub(super) struct Agenda {
    firsts: VecDeque<ConnId>,
    nexts: VecDeque<ConnId>,
    reads: VecDeque<ConnId>,
    closes: VecDeque<(ConnId, Close)>,
    timers: Ordered,
    idle: Ordered,
}

impl Agenda {
    pub(super) fn send_first(&mut self, id: ConnId) {
        self.firsts.push_back(id);
    }

    pub(super) fn send_next(&mut self, id: ConnId) {
        self.nexts.push_back(id);
    }

    /// The next connection to send for, and whether it is a first piece.
    /// Further pieces only while `left` bytes of the turn are left.
    pub(super) fn next_send(&mut self, left: u64) -> Option<(ConnId, bool)> {
        match self.firsts.pop_front() {
            Some(id) => Some((id, true)),
            None if left > 0 => self.nexts.pop_front().map(|id| (id, false)),
            None => None,
        }
    }

    pub(super) fn read(&mut self, id: ConnId) {
        self.reads.push_back(id);
    }

    pub(super) fn next_read(&mut self) -> Option<ConnId> {
        self.reads.pop_front()
    }

    pub(super) fn close(&mut self, id: ConnId, how: Close) {
        self.arm(id, None, None);
        self.closes.push_back((id, how));
    }

    pub(super) fn next_close(&mut self) -> Option<(ConnId, Close)> {
        self.closes.pop_front()
    }

    /// Something waits for the next flush.
    pub(super) fn has_work(&self) -> bool {
        !(self.firsts.is_empty() && self.nexts.is_empty() && self.reads.is_empty() && self.closes.is_empty())
    }

    /// Sets when to look at the connection again, and since when it is idle.
    pub(super) fn arm(&mut self, id: ConnId, due: Option<Instant>, idle: Option<Instant>) {
        self.timers.set(id, due);
        self.idle.set(id, idle);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| at)
    }

    /// A connection whose time has come; its timer is gone then.
    pub(super) fn due(&mut self, now: Instant) -> Option<ConnId> {
        let (_, id) = self.timers.first().filter(|&(at, _)| at <= now)?;
        self.timers.set(id, None);
        Some(id)
    }

    pub(super) fn oldest_idle(&self) -> Option<ConnId> {
        self.idle.first().map(|(_, id)| id)
    }

    /// The id means nothing any more.
    pub(super) fn forget(&mut self, id: ConnId) {
        self.arm(id, None, None);
        // The queues are emptied by every flush, and what they name is looked up there.
    }
}

/// Connections in the order of a moment each.
#[derive(Default)]
struct Ordered {
    order: BTreeSet<(Instant, u64)>,
    moments: HashMap<ConnId, Instant>,
}

impl Ordered {
    fn set(&mut self, id: ConnId, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.moments.insert(id, at),
            None => self.moments.remove(&id),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.order.remove(&(old, id.0));
        }
        if let Some(at) = at {
            self.order.insert((at, id.0));
        }
    }

    fn first(&self) -> Option<(Instant, ConnId)> {
        self.order.first().map(|&(at, id)| (at, ConnId(id)))
    }
}
