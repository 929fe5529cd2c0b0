//! Servers in turn: each round starts every server, loads it, and ends it, so
//! that what the machine does meanwhile meets them all alike.

use crate::cpu::{self, Usage, Watched};
use crate::engine::{self, Schedule};
use crate::http::Http;
use crate::image::Image;
use crate::peers::{self, Language, Peer, Place, Started};
use crate::process;
use crate::tally::Tally;
use crate::tftp::Tftp;
use anyhow::{Context as _, Result, bail, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A server must answer within so many tries, each as patient as the next line says.
const READY_TRIES: u32 = 12;
/// Patience of the first try; it grows by half with each.
const READY_PATIENCE: Duration = Duration::from_millis(200);
/// Between tries, so that a server that refuses at once has time to start.
const READY_PAUSE: Duration = Duration::from_millis(50);
/// Children of a forking server end after their clients do; they are counted when waited for.
const SETTLE: Duration = Duration::from_millis(100);

/// What is fetched, how, and how often.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is spoken.
    pub how: How,
    /// What is fetched.
    pub image: Image,
    /// Whether each byte is compared.
    pub verify: bool,
    /// The load.
    pub schedule: Schedule,
    /// Threads of the client.
    pub threads: usize,
    /// Cores of the client; empty for all.
    pub cores: Vec<usize>,
}

/// The language and its options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// TFTP, asking for these.
    Tftp {
        /// Bytes.
        blksize: Option<u16>,
        /// Blocks.
        windowsize: Option<u16>,
    },
    /// HTTP/1.1.
    Http {
        /// Whether connections are used again.
        keep_alive: bool,
    },
}

impl How {
    /// The language.
    pub fn language(self) -> Language {
        match self {
            Self::Tftp { .. } => Language::Tftp,
            Self::Http { .. } => Language::Http,
        }
    }
}

/// One server in one round.
#[derive(Clone, Debug)]
pub struct Run {
    /// The server's name.
    pub server: String,
    /// The round, from 1.
    pub round: u32,
    /// What the nodes saw.
    pub tally: Tally,
    /// What the server used; unknown for an external one.
    pub usage: Option<Usage>,
    /// Its largest resident set, bytes.
    pub memory: Option<u64>,
    /// CPU time of the client's threads.
    pub client: Duration,
}

impl Run {
    /// CPU seconds of the server for 10^9 bytes delivered.
    pub fn cpu_per_gb(&self) -> Option<f64> {
        let usage = self.usage?;
        (self.tally.bytes > 0).then(|| usage.total().as_secs_f64() / (self.tally.bytes as f64 / 1e9))
    }

    /// 10^6 bytes a second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.tally.bytes as f64 / 1e6 / self.tally.elapsed.as_secs_f64().max(1e-9)
    }
}

/// All servers, `rounds` times, in turn. `told` hears of each run as it ends.
///
/// # Errors
/// When a server cannot be started or never answers.
pub fn peers(job: &Job, servers: &[Peer], rounds: u32, place: &Place, told: &mut dyn FnMut(&Run)) -> Result<Vec<Run>> {
    for server in servers {
        ensure!(server.speaks(job.how.language()), "{server} does not speak {:?}", job.how.language());
    }
    raise_descriptors(job.schedule.clients)?;
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for &server in servers {
            let mut started = peers::start(server, job.how.language(), &job.image, place)?;
            wait_until_ready(job, &mut started).with_context(|| format!("{server} does not serve"))?;
            let run = measured(job, server, round, &mut started)?;
            told(&run);
            runs.push(run);
        }
    }
    Ok(runs)
}

/// A server that runs already.
///
/// # Errors
/// When the kernel refuses sockets.
pub fn target(job: &Job, address: SocketAddr, file: &str) -> Result<Run> {
    raise_descriptors(job.schedule.clients)?;
    let (tally, client) = load(job, address, file)?;
    Ok(Run { server: address.to_string(), round: 1, tally, usage: None, memory: None, client })
}

fn measured(job: &Job, server: Peer, round: u32, started: &mut Started) -> Result<Run> {
    let pid = started.server.pid();
    let before = cpu::of_tree(pid)?;
    let done = AtomicBool::new(false);
    let (loaded, caught) = std::thread::scope(|scope| {
        let watcher = server.loses_children().then(|| scope.spawn(|| watch(pid, &done)));
        let loaded = load(job, started.address, &started.file);
        std::thread::sleep(SETTLE);
        done.store(true, Ordering::Relaxed);
        (loaded, watcher.and_then(|w| w.join().ok()))
    });
    let (tally, client) = loaded?;
    if let Some(end) = started.server.ended() {
        // A server that died under load has failed; its cost died with it.
        eprintln!("{server} ended under load: {end}");
        return Ok(Run { server: server.to_string(), round, tally, usage: None, memory: None, client });
    }
    let usage = caught.map_or_else(|| cpu::of_tree(pid), Ok)?.since(before);
    let memory = cpu::peak_memory_of_tree(pid)?;
    Ok(Run { server: server.to_string(), round, tally, usage: Some(usage), memory: Some(memory), client })
}

fn watch(pid: u32, done: &AtomicBool) -> Usage {
    let mut watched = Watched::default();
    while !done.load(Ordering::Relaxed) && watched.look(pid).is_ok() {
        std::thread::sleep(Watched::INTERVAL);
    }
    watched.total()
}

/// One transfer that goes well, which also warms the server's caches.
fn wait_until_ready(job: &Job, started: &mut Started) -> Result<()> {
    let mut patience = READY_PATIENCE;
    let mut seen = Tally::new()?;
    for _ in 0..READY_TRIES {
        if let Some(end) = started.server.ended() {
            bail!("it ended at once: {end}");
        }
        let schedule = Schedule { clients: 1, transfers: Some(1), duration: None, patience, ..job.schedule };
        let once = Job { schedule, threads: 1, verify: true, ..job.clone() };
        let (tally, _) = load(&once, started.address, &started.file)?;
        if tally.completed == 1 {
            return Ok(());
        }
        seen.add(&tally, false)?;
        patience = patience * 3 / 2;
        std::thread::sleep(READY_PAUSE);
    }
    bail!("no transfer went well: {:?}; its last words:\n{}", seen.failures, started.server.last_words())
}

/// The whole load, on the client's threads; the tally and what the threads used.
fn load(job: &Job, address: SocketAddr, file: &str) -> Result<(Tally, Duration)> {
    let threads = job.threads.clamp(1, job.schedule.clients.max(1));
    let parts = std::thread::scope(|scope| {
        let part = |i| scope.spawn(move || load_thread(job, job.schedule.share(i, threads), address, file));
        let handles: Vec<_> = (0..threads).map(part).collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| bail!("a load thread panicked"))).collect::<Vec<_>>()
    });
    let mut sum = Tally::new()?;
    let mut used = Duration::ZERO;
    for part in parts {
        let (tally, cpu) = part?;
        sum.add(&tally, true)?;
        used += cpu;
    }
    Ok((sum, used))
}

fn load_thread(job: &Job, schedule: Schedule, address: SocketAddr, file: &str) -> Result<(Tally, Duration)> {
    process::bind_thread(&job.cores)?;
    let before = thread_cpu();
    let image = job.image.clone();
    let tally = match job.how {
        How::Tftp { blksize, windowsize } => {
            engine::run(&mut Tftp::new(address, file, blksize, windowsize, image, job.verify), schedule)?
        }
        How::Http { keep_alive } => {
            engine::run(&mut Http::new(address, file, image, job.verify, keep_alive), schedule)?
        }
    };
    Ok((tally, thread_cpu().saturating_sub(before)))
}

fn thread_cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Each client is a descriptor here and one or two in the server, which inherits the limit.
fn raise_descriptors(clients: usize) -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = clients as u64 * 2 + 256;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= wanted) {
        return Ok(());
    }
    limit.current = limit.maximum.map_or(Some(wanted), |most| Some(most.min(wanted)));
    limit.maximum = limit.maximum.map(|most| most.max(wanted));
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit.maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    ensure!(
        getrlimit(Resource::Nofile).current.is_none_or(|now| now >= wanted),
        "{clients} clients need {wanted} descriptors, and this shell may open fewer: `ulimit -n {wanted}`"
    );
    Ok(())
}
