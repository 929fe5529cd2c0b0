//! The edge's events: datagrams on a Unix socket, turned into observations.

use crate::metadata::words::clean;
use crate::observe::{Milestone, Observation};
use protocol::event::{Event, Kind};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixDatagram;

/// Room for the events of some thousand transfers that begin at once, bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Binds `run/events.sock`. The edge runs as another user and may write to it.
///
/// # Errors
/// When the folder cannot be written.
pub fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    // Refused above the system's limit without CAP_NET_ADMIN; less is enough for less.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}

/// One datagram as an observation; nothing where it is not an event.
pub fn observation(datagram: &[u8]) -> Option<Observation> {
    let event: Event = serde_json::from_slice(datagram).ok()?;
    let (proto, name) = (event.proto, clean(&event.name));
    let what = match event.kind {
        Kind::Started { total, blksize, windowsize } => {
            Milestone::FileStarted { proto, name, total, blksize, windowsize }
        }
        Kind::Progress { bytes, total } => Milestone::FileProgress { proto, name, bytes, total },
        Kind::Ended { outcome, bytes, total, retries, elapsed_us, why } => {
            Milestone::FileEnded { proto, name, outcome, bytes, total, retries, elapsed_us, why: clean(&why) }
        }
        Kind::Refused { why, .. } => Milestone::FileRefused { proto, name, why: clean(&why) },
    };
    let ip = event.peer.parse::<SocketAddr>().ok().map(|peer| peer.ip().to_canonical());
    Some(Observation { at_ms: event.at_ms, mac: event.mac, ip, uuid: None, what })
}
