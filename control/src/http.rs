//! The server loop under control's HTTP: hyper's HTTP/1.1 under an axum
//! router, with a cap on connections, a time limit on request heads, and a
//! bounded drain when the process ends.

use crate::limits;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Whom a request came from; absent on a Unix socket.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

impl Peer {
    /// The address, an IPv4 one written as such even on a socket of both families.
    pub fn ip(self) -> Option<IpAddr> {
        self.0.map(|p| p.ip().to_canonical())
    }
}

/// Where requests come in.
pub enum Listener {
    /// Nodes, or operators from afar.
    Tcp(TcpListener),
    /// Operators on this host.
    Unix(UnixListener),
}

/// Serves `app` until `stop`, then lets running requests end.
pub async fn serve(listener: Listener, app: Router, connections: usize, stop: CancellationToken) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_HEADER_TIME)
        .max_buf_size(limits::HTTP_HEAD_BYTES)
        .max_headers(limits::HTTP_HEADERS);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(connections));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone().layer(axum::Extension(Peer(peer))));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, ?peer, "a connection ended badly");
            }
            drop(permit);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(limits::DRAIN_TIME, graceful.shutdown()).await;
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Accepted = (Box<dyn Stream>, Option<SocketAddr>, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &Listener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    // A place first: what does not fit waits in the kernel's backlog.
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok(match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            (Box::new(stream), Some(peer), permit)
        }
        Listener::Unix(listener) => (Box::new(listener.accept().await?.0), None, permit),
    })
}

/// Listens for nodes on a port: on every address of both families, or on the
/// loopback alone where that is our address.
///
/// # Errors
/// When the port cannot be had; the text names the port and the remedy.
pub fn listen(address: IpAddr, port: u16) -> Result<TcpListener, ListenError> {
    let everywhere: &[IpAddr] = &[Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let only = [address];
    let choices = if address.is_loopback() { only.as_slice() } else { everywhere };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for ip in choices {
        match bind(SocketAddr::new(*ip, port)) {
            Ok(listener) => return Ok(listener),
            // A host without IPv6 (ipv6.disable=1) still has the other.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                last = e;
                break;
            }
            Err(e) => last = e,
        }
    }
    Err(ListenError { what: format!("TCP port {port}"), source: last })
}

/// Listens on one TCP address.
///
/// # Errors
/// As [`listen`].
pub fn listen_on(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|source| ListenError { what: format!("TCP {address}"), source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket2::SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(u32::try_from(limits::HTTP_CONNECTIONS).unwrap_or(u32::MAX))
}

/// Listens on a Unix socket that only this user may use. A socket that a dead
/// process left behind is replaced; one that answers is not.
///
/// # Errors
/// As [`listen`].
pub fn listen_unix(path: &Path) -> Result<UnixListener, ListenError> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |source| ListenError { what: format!("the socket {}", path.display()), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(fail(io::ErrorKind::AddrInUse.into()));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub struct ListenError {
    what: String,
    source: io::Error,
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(out, "{what} is in use by another process; end it, or choose another port in the configuration")
            }
            io::ErrorKind::PermissionDenied => {
                write!(out, "{what} may not be opened by this user; run as root or grant CAP_NET_BIND_SERVICE")
            }
            _ => write!(out, "{what} cannot be opened: {source}"),
        }
    }
}

/// Reads a body within its limits of size and time.
///
/// # Errors
/// The HTTP status to answer with, and words.
pub async fn body(body: axum::body::Body, most: usize) -> Result<bytes::Bytes, (u16, String)> {
    body_within(body, most, limits::HTTP_BODY_TIME).await
}

async fn body_within(body: axum::body::Body, most: usize, time: Duration) -> Result<bytes::Bytes, (u16, String)> {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    match tokio::time::timeout(time, Limited::new(body, most).collect()).await {
        Err(_) => Err((408, format!("the body was not there within {} s", time.as_secs()))),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err((413, format!("the body is larger than {most} bytes"))),
        Ok(Err(e)) => Err((400, format!("the body broke off: {e}"))),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}
