//! Which socket is for what.

use crate::ring::UdpId;
use crate::worker::UdpRole;
use std::net::{IpAddr, SocketAddr};

struct Socket {
    id: UdpId,
    local: SocketAddr,
    role: UdpRole,
}

/// The sockets of one worker: a handful, so they are looked through.
#[derive(Default)]
pub struct Sockets {
    all: Vec<Socket>,
    next_tid: usize,
}

impl Sockets {
    /// One more.
    pub fn add(&mut self, id: UdpId, local: SocketAddr, role: UdpRole) {
        self.all.push(Socket { id, local, role });
    }

    /// Requests are taken here.
    pub fn takes_requests(&self, id: UdpId) -> bool {
        self.all.iter().any(|socket| socket.id == id && matches!(socket.role, UdpRole::Requests { .. }))
    }

    /// From which socket to answer a request that came by `id`: itself in
    /// single-port mode, else the next TID on the same address.
    pub fn tid_for(&mut self, id: UdpId) -> UdpId {
        let Some(asked) = self.all.iter().find(|socket| socket.id == id) else { return id };
        if asked.role == (UdpRole::Requests { single_port: true }) {
            return id;
        }
        let address = asked.local.ip();
        let pool = || self.all.iter().filter(|socket| socket.role == UdpRole::Tid && socket.local.ip() == address);
        let count = pool().count().max(1);
        self.next_tid = (self.next_tid + 1) % count;
        pool().nth(self.next_tid).map_or(id, |socket| socket.id)
    }

    /// The peer is one of our own sockets: a forged source.
    pub fn is_own(&self, peer: SocketAddr, local: Option<IpAddr>) -> bool {
        self.all.iter().any(|socket| {
            socket.local.port() == peer.port() && (socket.local.ip() == peer.ip() || local == Some(peer.ip()))
        })
    }
}
