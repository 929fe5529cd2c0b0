//! `loadtest`: see `loadtest --help` and docs/PERFORMANCE.md.

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use loadtest::engine::{Arrival, Schedule};
use loadtest::image::Image;
use loadtest::peers::{Peer, Place, install};
use loadtest::run::{How, Job, Run};
use loadtest::{guard, report, run};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Load for boot servers: thousands of nodes at once, peers side by side.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Nodes that fetch by TFTP.
    Tftp(TftpFlags),
    /// Nodes that fetch by HTTP/1.1.
    Http(HttpFlags),
    /// The servers to compare with.
    Peers {
        #[command(subcommand)]
        task: PeersTask,
    },
}

#[derive(Subcommand)]
enum PeersTask {
    /// Fetch the ones that no package installs side by side (cargo, apt-get).
    Install {
        /// Where to.
        #[arg(long, default_value_os_t = install::default_folder())]
        tools: PathBuf,
    },
}

#[derive(Args)]
struct TftpFlags {
    #[command(flatten)]
    common: Common,
    /// Block size to ask for, bytes; 0 asks for none.
    #[arg(long, default_value_t = 1468)]
    blksize: u16,
    /// Window to ask for, blocks; 1 asks for none (lock-step).
    #[arg(long, default_value_t = 1)]
    windowsize: u16,
}

#[derive(Args)]
struct HttpFlags {
    #[command(flatten)]
    common: Common,
    /// Use a connection for one transfer after another instead of one each.
    #[arg(long)]
    keep_alive: bool,
}

#[derive(Args)]
struct Common {
    /// Servers to start and measure in turn; the first is the one the others are compared with.
    #[arg(long = "server", value_delimiter = ',', required_unless_present = "target")]
    servers: Vec<Peer>,
    /// A server that runs already, IP:PORT, instead.
    #[arg(long, conflicts_with = "servers", requires = "file")]
    target: Option<SocketAddr>,
    /// The file to ask the target for.
    #[arg(long, requires = "target")]
    file: Option<String>,
    /// What the target's file holds; needed to --verify it, and to know its length.
    #[arg(long, requires = "target")]
    image: Option<PathBuf>,
    /// The target is not this machine, and its network may be loaded.
    #[arg(long)]
    i_own_this_network: bool,
    /// Nodes under way at most.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// `burst`: all clients at once, each next transfer when one is free. `200/s`: so many a second, come what may.
    #[arg(long, default_value_t = Arrival::Burst)]
    arrival: Arrival,
    /// Transfers a round; one per client if neither this nor --duration is given.
    #[arg(long)]
    transfers: Option<u64>,
    /// Seconds during which transfers start, a round.
    #[arg(long)]
    duration: Option<f64>,
    /// Length of the file, bytes.
    #[arg(long, default_value_t = 1_000_000)]
    file_size: u64,
    /// Compare every byte with the known image.
    #[arg(long)]
    verify: bool,
    /// A transfer that takes longer has failed, seconds.
    #[arg(long, default_value_t = 60.0)]
    patience: f64,
    /// Every server once a round.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Threads of the client.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Cores of the server, e.g. `1` or `2,3`; the last core by default.
    #[arg(long, value_delimiter = ',')]
    server_cores: Vec<usize>,
    /// Cores of the client; the first core by default.
    #[arg(long, value_delimiter = ',')]
    client_cores: Vec<usize>,
    /// The stoker-edge program; the one beside this program by default.
    #[arg(long)]
    edge: Option<PathBuf>,
    /// Where `peers install` put its servers.
    #[arg(long, default_value_os_t = install::default_folder())]
    tools: PathBuf,
    /// Also write everything to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail unless the first server needs at most this part of every other's CPU per GB, without a failure of its own.
    #[arg(long)]
    at_most: Option<f64>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Tftp(flags) => tftp(&flags),
        Task::Http(flags) => measure(&flags.common, How::Http { keep_alive: flags.keep_alive }),
        Task::Peers { task: PeersTask::Install { tools } } => install::install(&tools).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn tftp(flags: &TftpFlags) -> Result<bool> {
    ensure!(flags.blksize == 0 || (8..=65464).contains(&flags.blksize), "blksize is 8 to 65464 bytes (RFC 2348)");
    ensure!(flags.windowsize >= 1, "windowsize is 1 to 65535 blocks (RFC 7440)");
    let blksize = (flags.blksize > 0).then_some(flags.blksize);
    let windowsize = (flags.windowsize > 1).then_some(flags.windowsize);
    measure(&flags.common, How::Tftp { blksize, windowsize })
}

/// Whether everything asked for was reached.
fn measure(common: &Common, how: How) -> Result<bool> {
    let job = job(common, how)?;
    let runs = match (common.target, &common.file) {
        (Some(target), Some(file)) => {
            guard::check(target.ip(), common.i_own_this_network)?;
            vec![run::target(&job, target, file)?]
        }
        _ => run::peers(&job, &common.servers, common.rounds, &place(common), &mut tell)?,
    };
    let lines = report::summarize(&runs)?;
    println!("{}\n", report::machine());
    println!("{}", report::table(&lines));
    if let Some(file) = &common.json {
        let command: Vec<String> = std::env::args().collect();
        let text = serde_json::to_string_pretty(&report::json(&job, &runs, &lines, &command))?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(common.at_most.is_none_or(|most| reached(&lines, most)))
}

fn reached(lines: &[report::Line], most: f64) -> bool {
    let Some((first, others)) = lines.split_first() else { return false };
    let mut good = first.failures.is_empty();
    if !good {
        println!("NOT REACHED: {} had failures", first.server);
    }
    for other in others {
        let ratio = report::ratio(first, other);
        if ratio.is_none_or(|ratio| ratio > most) {
            println!("NOT REACHED: at most {most} of {}'s CPU per GB", other.server);
            good = false;
        }
    }
    good
}

fn tell(run: &Run) {
    let cost = run.cpu_per_gb().map_or_else(|| "-".to_owned(), |c| format!("{c:.3}"));
    let failed = run.tally.failed_count();
    eprintln!(
        "round {} {:<11} {cost:>7} CPU s/GB  {:>6.0} MB/s  {failed} failed of {}",
        run.round,
        run.server,
        run.megabytes_per_second(),
        run.tally.started
    );
}

fn job(common: &Common, how: How) -> Result<Job> {
    ensure!(common.clients > 0 && common.threads > 0 && common.rounds > 0, "clients, threads and rounds start at 1");
    let image = match (&common.target, &common.image) {
        (Some(_), Some(path)) => Image::read(path)?,
        (Some(_), None) => {
            ensure!(!common.verify, "to --verify a target, name its file's contents with --image");
            Image::generate(common.file_size)?
        }
        (None, _) => Image::generate(common.file_size)?,
    };
    let duration = common.duration.map(Duration::try_from_secs_f64).transpose().context("--duration")?;
    let transfers = common.transfers.or_else(|| duration.is_none().then_some(common.clients as u64));
    let patience = Duration::try_from_secs_f64(common.patience).context("--patience")?;
    let schedule = Schedule { clients: common.clients, transfers, arrival: common.arrival, duration, patience };
    let cores = or_core(&common.client_cores, 0);
    Ok(Job { how, image, verify: common.verify, schedule, threads: common.threads, cores })
}

fn place(common: &Common) -> Place {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    Place { tools: common.tools.clone(), edge: common.edge.clone(), cores: or_core(&common.server_cores, last) }
}

/// On a machine with one core everything shares it, which the table shows.
fn or_core(given: &[usize], core: usize) -> Vec<usize> {
    if given.is_empty() { vec![core] } else { given.to_vec() }
}
