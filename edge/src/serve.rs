//! The whole edge: sockets, feed, workers, signals, and the end.
//!
//! Called by `main` and, piece by piece, by tests: [`open`] takes everything
//! that needs privileges, [`Open::start`] the rest.

use crate::config::{Config, User};
use crate::events::EventSender;
use crate::feed::{self, Feed};
use crate::listen::{self, Kind, ListenError, WorkerSockets};
use crate::metrics::{self, Metrics, WorkerMetrics};
use crate::ring::Ring;
use crate::ring::probe::{self, Chosen, Refused};
use crate::ring::uring::Uring;
use crate::worker::{Mailbox, Worker};
use crate::{http, privileges, tftp};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

/// Why the edge cannot go on. Each has its exit code.
#[derive(Debug)]
pub enum Fatal {
    /// A socket could not be had.
    Listen(ListenError),
    /// io_uring was demanded and is refused.
    Driver(Refused),
    /// The state folder is unusable.
    State(String),
    /// Privileges could not be given up.
    Privileges(String),
    /// Something else.
    Other(String),
}

impl fmt::Display for Fatal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(e) => e.fmt(out),
            Self::Driver(e) => write!(out, "--driver uring: {e}"),
            Self::State(e) | Self::Privileges(e) | Self::Other(e) => out.write_str(e),
        }
    }
}

impl std::error::Error for Fatal {}

impl Fatal {
    /// See the help of the command.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Listen(ListenError { kind: Kind::InUse, .. }) => 3,
            Self::Listen(ListenError { kind: Kind::NotAllowed, .. }) | Self::Privileges(_) => 4,
            Self::Listen(ListenError { kind: Kind::NoInterface, .. }) => 5,
            Self::Listen(ListenError { kind: Kind::NoAddress | Kind::NoFamily, .. }) => 6,
            Self::Driver(_) => 7,
            Self::State(_) => 8,
            Self::Listen(_) | Self::Other(_) => 1,
        })
    }
}

/// Serves until a signal says otherwise.
///
/// # Errors
/// Everything that keeps the edge from starting, and a worker that broke.
pub fn run(config: &Config) -> Result<(), Fatal> {
    // Before any thread, so that all threads leave the signals to this one.
    let signals = crate::ring::sys::signal_fd(&[libc::SIGTERM, libc::SIGINT])
        .map_err(|e| Fatal::Other(format!("signals cannot be taken: {e}")))?;
    privileges::raise_limits();
    let open = open(config)?;
    privileges::drop(config.user).map_err(Fatal::Privileges)?;
    let (happened, happens) = mpsc::channel();
    let edge = open.start(config, happened.clone())?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // One signalfd_siginfo a signal.
            while rustix::io::read(&signals, &mut [0; 128]).is_ok_and(|n| n == 128) {
                if happened.send(Happening::Signal).is_err() {
                    return;
                }
            }
        })
        .map_err(|e| Fatal::Other(format!("no thread for signals: {e}")))?;
    edge.until_the_end(&happens, config)
}

/// What `run` waits for.
#[derive(Debug)]
pub enum Happening {
    /// SIGTERM or SIGINT.
    Signal,
    /// This worker has returned.
    WorkerEnded(usize, io::Result<()>),
}

/// Sockets, opened; privileges are no longer needed.
#[derive(Debug)]
pub struct Open {
    sockets: Vec<WorkerSockets>,
    metrics: Option<TcpListener>,
    /// Where TFTP requests are taken.
    pub tftp: Vec<SocketAddr>,
    /// Where HTTP is served.
    pub http: Vec<SocketAddr>,
}

/// Opens everything that needs privileges.
///
/// # Errors
/// See [`Fatal`].
pub fn open(config: &Config) -> Result<Open, Fatal> {
    check_state(&config.state)?;
    make_ours(config)?;
    let opened = listen::open(&config.listen).map_err(Fatal::Listen)?;
    for note in &opened.notes {
        tracing::warn!("{note}");
    }
    let metrics = match config.metrics {
        None => None,
        Some(at) => Some(TcpListener::bind(at).map_err(|e| Fatal::Listen(ListenError::of("metrics", at, e)))?),
    };
    Ok(Open { sockets: opened.workers, metrics, tftp: opened.tftp, http: opened.http })
}

fn check_state(state: &Path) -> Result<(), Fatal> {
    match std::fs::metadata(state) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Fatal::State(format!("{} is not a folder: give another with --state", state.display()))),
        Err(e) => Err(Fatal::State(format!(
            "the state folder {} cannot be used: {e}; create it, or give another with --state",
            state.display()
        ))),
    }
}

/// The edge's own folder belongs to whom the edge becomes. Root too needs it to: it keeps no capability to
/// write into the folders of others.
fn make_ours(config: &Config) -> Result<(), Fatal> {
    let ours = config.state.join("edge");
    let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let (uid, gid) = config.user.map_or(me, |User { uid, gid }| (uid, gid));
    let made = std::fs::create_dir_all(&ours).and_then(|()| {
        if std::fs::metadata(&ours)?.uid() == uid { Ok(()) } else { chown(&ours, Some(uid), Some(gid)) }
    });
    made.map_err(|e| {
        Fatal::State(format!(
            "{} cannot be made ready: {e}; make it, and give it to the user of the edge",
            ours.display()
        ))
    })
}

/// A running edge.
pub struct Edge {
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Vec<thread::JoinHandle<()>>,
    _feed: Feed,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}

impl Open {
    /// Chooses the driver, starts feed, metrics and workers.
    ///
    /// # Errors
    /// See [`Fatal`].
    pub fn start(self, config: &Config, happened: mpsc::Sender<Happening>) -> Result<Edge, Fatal> {
        let other = |what: &str, e: &dyn fmt::Display| Fatal::Other(format!("{what}: {e}"));
        let uring = match probe::choose(config.driver).map_err(Fatal::Driver)? {
            Chosen::Uring(features) => {
                tracing::info!(driver = "uring", "io_uring with {features}");
                Ok(features.to_string())
            }
            Chosen::Epoll(why) => {
                tracing::info!(driver = "epoll", "epoll instead of io_uring: {why}");
                Err(why)
            }
        };
        let count = self.sockets.len();
        let counts = Metrics::new(count);
        match &uring {
            Ok(features) => counts.set_driver("uring", features),
            Err(why) => counts.set_driver("epoll", why),
        }
        let mailboxes: Vec<_> = (0..count).map(|_| Mailbox::new()).collect();
        let metrics = self.metrics.as_ref().and_then(|listener| listener.local_addr().ok());
        let listen: [(&str, &[SocketAddr]); 3] =
            [("tftp", &self.tftp), ("http", &self.http), ("metrics", metrics.as_slice())];
        let manifest = config.state.join("publish/manifest.json");
        if !manifest.exists() {
            tracing::warn!("no manifest at {}: nothing is served until control publishes one", manifest.display());
        }
        let feed = Feed::start(
            feed::Config {
                state_dir: config.state.clone(),
                memory_budget: config.memory_budget,
                listen: listen
                    .map(|(service, at)| (service.to_owned(), at.iter().map(SocketAddr::to_string).collect()))
                    .into(),
                driver: if uring.is_ok() { "uring" } else { "epoll" }.into(),
            },
            &counts,
            {
                let mailboxes = mailboxes.clone();
                move |catalog| mailboxes.iter().for_each(|m| m.publish(Arc::clone(&catalog)))
            },
        )
        .map_err(|e| {
            let state = config.state.display();
            Fatal::State(format!(
                "the state folder {state} cannot be used: {e}; give its edge/ to the user of the edge"
            ))
        })?;
        let mut threads = Vec::with_capacity(count);
        for (index, sockets) in self.sockets.into_iter().enumerate() {
            let worker = Start {
                uring: uring.is_ok(),
                sockets,
                mailbox: Arc::clone(&mailboxes[index]),
                metrics: counts.worker(index),
                events: config.state.join("run/events.sock"),
                tftp: config.tftp,
            };
            let happened = happened.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let result = worker.run();
                    let _ = happened.send(Happening::WorkerEnded(index, result));
                })
                .map_err(|e| other("no thread for a worker", &e))?;
            threads.push(thread);
        }
        if let Some(listener) = self.metrics {
            metrics::serve(listener, counts).map_err(|e| other("metrics", &e))?;
        }
        tracing::info!(tftp = ?self.tftp, http = ?self.http, metrics = ?metrics, workers = count, "serving");
        Ok(Edge { mailboxes, threads, _feed: feed, metrics })
    }
}

impl Edge {
    /// Takes nothing new; what runs may end.
    pub fn drain(&self) {
        self.mailboxes.iter().for_each(|m| m.drain());
    }

    /// Ends every worker at once.
    pub fn stop(&self) {
        self.mailboxes.iter().for_each(|m| m.stop());
    }

    /// Waits until all workers have returned: by a first signal after a drain, by a second or a broken worker at once.
    ///
    /// # Errors
    /// A worker broke.
    pub fn until_the_end(self, happens: &mpsc::Receiver<Happening>, config: &Config) -> Result<(), Fatal> {
        let mut broken = None;
        let mut running = self.threads.len();
        let mut drain_until = None::<Instant>;
        while running > 0 {
            let happening = match drain_until {
                None => happens.recv().ok(),
                Some(at) => match happens.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Ok(happening) => Some(happening),
                    Err(_) => {
                        tracing::warn!("the drain took too long: transfers that still run are cut off");
                        self.stop();
                        drain_until = None;
                        continue;
                    }
                },
            };
            match happening {
                None => break,
                Some(Happening::Signal) if drain_until.is_none() && running == self.threads.len() => {
                    tracing::info!("draining for at most {} s", config.drain_timeout.as_secs());
                    drain_until = Some(Instant::now() + config.drain_timeout);
                    self.drain();
                }
                Some(Happening::Signal) => {
                    tracing::info!("second signal: ending at once");
                    self.stop();
                }
                Some(Happening::WorkerEnded(index, result)) => {
                    running -= 1;
                    if let Err(error) = result {
                        tracing::error!(worker = index, "the ring broke: {error}");
                        broken = Some(error);
                        self.stop();
                    }
                }
            }
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        tracing::info!("ended");
        broken.map_or(Ok(()), |e| Err(Fatal::Other(format!("a worker's ring broke: {e}"))))
    }
}

/// What a worker's thread needs to begin.
struct Start {
    uring: bool,
    sockets: WorkerSockets,
    mailbox: Arc<Mailbox>,
    metrics: Arc<WorkerMetrics>,
    events: std::path::PathBuf,
    tftp: tftp::Config,
}

impl Start {
    /// The ring belongs to the thread that makes it (SINGLE_ISSUER), so it is made here.
    fn run(self) -> io::Result<()> {
        if !self.uring {
            return self.work(probe::epoll()?);
        }
        match Uring::new() {
            Ok(ring) => self.work(ring),
            Err(e) => {
                tracing::warn!(worker = self.metrics.index, "no ring for this worker, so epoll: {e}");
                self.work(probe::epoll()?)
            }
        }
    }

    fn work(self, ring: impl Ring) -> io::Result<()> {
        let events = || EventSender::new(Some(self.events.clone()), Arc::clone(&self.metrics));
        let tftp = tftp::Service::new(self.tftp, events(), Arc::clone(&self.metrics));
        let http = http::Service::new(http::Config::default(), events(), Arc::clone(&self.metrics));
        Worker::new(ring, tftp, http, self.mailbox, self.metrics, self.sockets)?.run()
    }
}
