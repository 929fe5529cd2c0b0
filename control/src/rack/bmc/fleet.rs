//! Many BMCs at one time, each with its own address and state, on one thread: as many as a site has.

use super::{Faults, PASSWORD, State, Switch, USER, ipmi::Engine, lock};
use protocol::ipmi::Suite;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The fleet; ends when it is dropped.
pub struct Fleet {
    /// Where each one listens, on loopback.
    pub addresses: Vec<SocketAddr>,
    states: Vec<Arc<Mutex<State>>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts so many, of IPMI with both suites and four sessions each, for [`USER`] and [`PASSWORD`].
    ///
    /// # Errors
    /// Where the process may not have so many sockets.
    pub fn start(count: usize) -> io::Result<Self> {
        let (mut addresses, mut states, mut servers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            let state = super::Bmc::new(USER, PASSWORD, Switch::default()).state.clone();
            addresses.push(socket.local_addr()?);
            servers.push((socket, Engine::new(state.clone(), &[Suite::S17, Suite::S3], 4)));
            states.push(state);
        }
        let stop = CancellationToken::new();
        let (end, (tell, started)) = (stop.clone(), mpsc::channel());
        let thread = std::thread::spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(tell.send(Err(e))),
            };
            let _ = tell.send(Ok(()));
            runtime.block_on(async {
                for (socket, engine) in servers {
                    tokio::spawn(serve(socket, engine));
                }
                end.cancelled().await;
            });
        });
        started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")))?;
        Ok(Self { addresses, states, stop, thread: Some(thread) })
    }

    /// Changes what is wrong with one.
    pub fn faults(&self, which: usize, faults: Faults) {
        if let Some(state) = self.states.get(which) {
            lock(state).faults = faults;
        }
    }

    /// Logins that one was asked for.
    pub fn logins(&self, which: usize) -> u64 {
        self.states.get(which).map_or(0, |state| lock(state).logins)
    }
}

async fn serve(socket: UdpSocket, mut engine: Engine) {
    let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else { return };
    let socket = Arc::new(socket);
    let mut buffer = [0; 2048];
    // An error is an ICMP message of a client that has gone.
    loop {
        let Ok((n, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Some((answer, delay)) = engine.receive(&buffer[..n]) else { continue };
        if delay.is_zero() {
            let _ = socket.send_to(&answer, peer).await;
        } else {
            let socket = socket.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = socket.send_to(&answer, peer).await;
            });
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
