//! `stoker`: the command of people who boot machines.
#![forbid(unsafe_code)]

mod allocate;
mod api;
mod boots;
mod crds;
mod doctor;
mod environments;
mod inventory;
mod objects;
mod power;
mod servers;
mod state;
mod table;
mod tftp;
mod time;
mod up;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0    done, or all is well
  1    it did not succeed (`doctor`: something deserves a look)
  2    wrong use or configuration (`doctor`: something stands in the way of booting)
  3    no running stoker-control was reached

Try it without any hardware:  stoker up --virtual-rack
On a real network:            stoker up --interface eth1
Then, in another terminal:    stoker boots --watch";

/// Takes bare-metal servers from powered off to running, and shows how.
#[derive(Parser)]
#[command(name = "stoker", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run edge and control on this machine and show machines as they boot
    Up(up::Up),
    /// List the present boot of each machine
    Boots(boots::Boots),
    /// Tell the story of one machine's boots
    #[command(subcommand)]
    Boot(boots::BootCommand),
    /// List the machines that have reported, with their hardware
    Machines(inventory::Machines),
    /// List what machines can be booted into, and whether it is ready
    Environments(environments::Environments),
    /// List machines and where they are in their lives
    Servers(servers::Servers),
    /// Take discovered machines in: each is wiped, switched off, and free
    Accept(servers::Accept),
    /// Keep machines out of allocation
    Cordon(servers::Which),
    /// Let machines into allocation again
    Uncordon(servers::Which),
    /// Try again what was given up
    Retry(servers::Which),
    /// Machines about which facts disagree
    #[command(subcommand)]
    Quarantine(servers::Quarantine),
    /// Give a machine to a cluster or a purpose: it is installed and boots from its disk
    Allocate(allocate::Allocate),
    /// Take machines back: each is wiped, then free again
    Release(allocate::Release),
    /// Create or change declared objects from YAML
    Apply(objects::Apply),
    /// Show declared objects
    Get(objects::Get),
    /// Tell everything about one object
    Describe(objects::Describe),
    /// Delete declared objects
    Delete(objects::Delete),
    /// Change an object in an editor
    Edit(objects::Edit),
    /// Write all objects as JSON lines, Secrets included
    Export(objects::Export),
    /// Read the lines of an export into an empty store
    Import(objects::Import),
    /// Print the CustomResourceDefinitions for a Kubernetes cluster
    Crds(crds::Crds),
    /// Show how edge and control are
    Status(inventory::StatusArgs),
    /// TFTP by hand: what a troubleshooter does first
    #[command(subcommand)]
    Tftp(tftp::TftpCommand),
    /// Switch a machine by its BMC (IPMI 2.0), and choose what it boots from
    Power(power::PowerArgs),
    /// What a BMC knows: itself, its event log, its sensors
    Bmc(power::BmcArgs),
    /// Check this host: ports, network, limits, io_uring, other DHCP servers, boot files
    Doctor(doctor::Doctor),
}

/// Where a running stoker is found.
#[derive(clap::Args, Clone, Debug)]
pub struct Reach {
    /// State directory of the stoker to talk to [default: that of the running `stoker up`, else /var/lib/stoker]
    #[arg(long, value_name = "DIR", env = "STOKER_STATE")]
    pub state: Option<PathBuf>,
}

/// How a command failed; becomes the exit code.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2.
    Usage(String),
    /// Exit code 3.
    Unreachable(String),
}

impl Failure {
    /// From any error that ends a command.
    pub fn from_error(e: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{e:#}"))
    }

    fn parts(&self) -> (u8, &str) {
        match self {
            Self::Failed(why) => (1, why),
            Self::Usage(why) => (2, why),
            Self::Unreachable(why) => (3, why),
        }
    }
}

fn main() -> ExitCode {
    // One thread for everything: the kernel ends our children when the thread
    // that started them ends, so that must be the one that lives longest.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report(&Failure::Failed(format!("cannot start: {e}"))),
    };
    let cli = Cli::parse();
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(failure) => report(&failure),
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(up) => up.run().await,
        Command::Boots(boots) => boots.run().await,
        Command::Boot(boot) => boot.run().await,
        Command::Machines(machines) => machines.run().await,
        Command::Environments(environments) => environments.run().await,
        Command::Servers(servers) => servers.run().await,
        Command::Accept(accept) => accept.run().await,
        Command::Cordon(which) => which.run("cordon", "cordoned").await,
        Command::Uncordon(which) => which.run("uncordon", "uncordoned").await,
        Command::Retry(which) => which.run("retry", "is tried again").await,
        Command::Quarantine(quarantine) => quarantine.run().await,
        Command::Apply(apply) => apply.run().await,
        Command::Get(get) => get.run().await,
        Command::Describe(describe) => describe.run().await,
        Command::Delete(delete) => delete.run().await,
        Command::Edit(edit) => edit.run().await,
        Command::Export(export) => export.run().await,
        Command::Import(import) => import.run().await,
        Command::Allocate(allocate) => allocate.run().await,
        Command::Release(release) => release.run().await,
        Command::Crds(crds) => crds.run(),
        Command::Status(status) => status.run().await,
        Command::Tftp(tftp) => tftp.run(),
        Command::Power(power) => power.run().await,
        Command::Bmc(bmc) => bmc.run().await,
        Command::Doctor(doctor) => doctor.run().await,
    }
}

fn report(failure: &Failure) -> ExitCode {
    let (code, why) = failure.parts();
    eprintln!("stoker: {why}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_an_example() {
        fn check(command: &clap::Command, path: &str, taught: bool) {
            for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let taught = taught || help.contains(&path);
                assert!(taught || sub.has_subcommands(), "`{path}` shows no example of itself");
                check(sub, &path, taught);
            }
        }
        check(&Cli::command(), "stoker", false);
    }
}
