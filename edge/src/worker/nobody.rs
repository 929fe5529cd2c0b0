//! The service that takes nothing.

use super::{Service, TcpService, UdpRole, UdpService};
use crate::catalog::Catalog;
use crate::ring::{ConnId, Datagram, ListenerId, Ring, UdpId};
use protocol::time::Instant;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// For a worker that speaks one protocol only: stands where the other's service would.
pub struct Nobody;

impl Service for Nobody {
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn tick(&mut self, _: Instant) {}
    fn catalog(&mut self, _: Arc<Catalog>) {}
    fn drain(&mut self) {}
    fn idle(&self) -> bool {
        true
    }
}

impl UdpService for Nobody {
    fn socket(&mut self, _: UdpId, _: SocketAddr, _: UdpRole) {}
    fn datagram(&mut self, _: Datagram<'_>, _: Instant) {}
    fn failed(&mut self, _: UdpId, _: SocketAddr, _: &io::Error, _: Instant) {}
    fn flush(&mut self, _: &mut impl Ring, _: Instant) {}
}

impl TcpService for Nobody {
    fn accepted(&mut self, _: ListenerId, _: ConnId, _: SocketAddr, _: SocketAddr, _: Instant) {}
    fn received(&mut self, _: ConnId, _: &[u8], _: Instant) {}
    fn sent(&mut self, _: ConnId, _: u64, _: Option<&io::Error>, _: Instant) {}
    fn failed(&mut self, _: ConnId, _: &io::Error, _: Instant) {}
    fn closed(&mut self, _: ConnId, _: Instant) {}
    fn flush(&mut self, _: &mut impl Ring, _: Instant) {}
}
