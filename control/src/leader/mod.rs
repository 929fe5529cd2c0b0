//! Which of several controls looks after machines: the holder of a Lease.
//!
//! As client-go does it: who holds the Lease renews it; who does not watches
//! whether it is renewed, by its own monotonic clock, and takes it when it was
//! not for the Lease's whole duration. The times written in the Lease are for
//! people: clocks of hosts may be apart. The holder stops well before others
//! may begin, so that two overlap only where a host stands still in between;
//! for that case every order and claim is written over the version that it was
//! decided on.

mod election;

use crate::limits;
use crate::objects::kubernetes::{Cluster, LeaseAt};
pub use election::Record;
use election::{Election, Step};
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The Lease's name.
pub const LEASE: &str = "stoker-control";

/// Whether this control looks after machines now.
#[derive(Clone)]
pub struct Leading(watch::Receiver<bool>);

impl Leading {
    /// The only control there is.
    pub fn always() -> Self {
        // The value outlives its sender.
        Self(watch::channel(true).1)
    }

    /// Whether it does.
    pub fn now(&self) -> bool {
        *self.0.borrow()
    }

    /// Runs `duty` whenever it does, with a token that ends with the term or with `stop`.
    pub async fn during<F: Future<Output = ()>>(
        mut self,
        stop: CancellationToken,
        duty: impl Fn(CancellationToken) -> F,
    ) {
        loop {
            let elected = async {
                // Without a sender the value is what it will ever be.
                if self.0.wait_for(|leads| *leads).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = elected => {}
            }
            let term = stop.child_token();
            let ending = term.clone();
            let mut leads = self.0.clone();
            let over = async {
                if leads.wait_for(|leads| !leads).await.is_err() {
                    std::future::pending::<()>().await;
                }
                ending.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = duty(term.clone()) => {}
                () = over => {}
            }
            term.cancel();
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

/// Stands for election until `stop`; then gives the Lease away, so that another need not wait.
pub fn stand(cluster: Cluster, identity: String, stop: CancellationToken) -> (Leading, impl Future<Output = ()>) {
    let (tell, leads) = watch::channel(false);
    (Leading(leads), campaign(cluster, identity, tell, stop))
}

async fn campaign(cluster: Cluster, identity: String, tell: watch::Sender<bool>, stop: CancellationToken) {
    let lease = LeaseAt::new(cluster, LEASE);
    let mut election = Election::new(identity.clone(), limits::LEASE_DURATION, limits::LEASE_RENEW_DEADLINE);
    loop {
        // A request that hangs must not keep a holder from stepping down in time.
        let patience = Instant::now() + limits::LEASE_REQUEST;
        let patience = election.until().map_or(patience, |until| until.min(patience));
        let leads = tokio::select! {
            () = stop.cancelled() => break,
            _ = tokio::time::timeout_at(patience.into(), turn(&lease, &mut election)) => election.leads(Instant::now()),
        };
        if tell.send_replace(leads) != leads {
            if leads {
                tracing::info!(identity, "this control looks after machines from now on");
            } else {
                tracing::warn!(
                    identity,
                    "another control may look after machines from now on: the Lease was not renewed in time"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(limits::LEASE_RETRY) => {}
        }
    }
    let led = tell.send_replace(false);
    if led && let Some((record, version)) = election.release() {
        // Best effort: without it the others wait for the Lease's duration.
        let _ = tokio::time::timeout(limits::LEASE_RETRY, lease.write(&record, Some(&version))).await;
    }
}

/// A name for this process that no other has: the host's, and something random.
pub fn identity() -> String {
    let host = rustix::system::uname();
    let host: String =
        host.nodename().to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    let mut random = [0; 8];
    // Without random bytes the process id must do: it differs on one host, and hosts differ by name.
    if getrandom::fill(&mut random).is_err() {
        random = u64::from(std::process::id()).to_be_bytes();
    }
    format!("{host}_{:016x}", u64::from_be_bytes(random))
}

/// One look, and one write where it is our turn.
async fn turn(lease: &LeaseAt, election: &mut Election) {
    let began = Instant::now();
    let seen = match lease.read().await {
        Ok(seen) => seen,
        Err(e) => {
            tracing::warn!(error = %e, "the Lease cannot be read");
            return;
        }
    };
    let (record, version) =
        match election.look(seen.as_ref().map(|(record, version)| (record, version.as_str())), began) {
            Step::Wait => return,
            Step::Take { record, over } => (record, over),
        };
    match lease.write(&record, version.as_deref()).await {
        Ok(version) => election.taken(record, version, began),
        // Somebody was faster; the next look shows who.
        Err(crate::objects::Error::Conflict { .. } | crate::objects::Error::Exists(_)) => {}
        Err(e) => tracing::warn!(error = %e, "the Lease cannot be written"),
    }
}
