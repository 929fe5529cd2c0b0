//! stoker-bundle: collects and packs what machines download.
#![forbid(unsafe_code)]

use anyhow::Result;
use assets::bundle::{self, Plan};
use assets::lock::{self, Lock};
use assets::packages::{self, Store};
use assets::{progress, repository};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Collects and packs what machines download: iPXE, a kernel, the initramfs with the agent
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a bundle
    Build {
        #[command(flatten)]
        from: From,
        /// Folder to put it into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Architectures of the machines
        #[arg(long, value_name = "ARCH", value_delimiter = ',', default_value = "x86_64", value_parser = ["x86_64", "arm64"])]
        arch: Vec<String>,
        /// Take this agent for the first architecture instead of building one
        #[arg(long, value_name = "FILE")]
        agent: Option<PathBuf>,
    },
    /// Get firmware and option ROMs for virtual machines only
    Firmware {
        #[command(flatten)]
        from: From,
        /// Folder to put them into (in its folder `firmware`)
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Architectures of the machines
        #[arg(long, value_name = "ARCH", value_delimiter = ',', default_value = "x86_64", value_parser = ["x86_64", "arm64"])]
        arch: Vec<String>,
    },
    /// Check a bundle against its bundle.json
    Verify {
        /// The bundle's folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Pin what the Debian mirror offers now in assets/bundle.lock.toml
    Lock {
        #[command(flatten)]
        from: From,
    },
}

#[derive(Args)]
struct From {
    /// Where packages are kept [default: target/bundle-cache]
    #[arg(long, value_name = "DIR", env = "STOKER_CACHE")]
    cache: Option<PathBuf>,
    /// Use only what is in the cache
    #[arg(long)]
    offline: bool,
}

impl From {
    fn cache(&self) -> Result<PathBuf> {
        Ok(match &self.cache {
            Some(cache) => cache.clone(),
            None => repository()?.join("target/bundle-cache"),
        })
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::new(&self.cache()?, Lock::load(&repository()?)?, self.offline))
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            progress(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Build { from, out, arch, agent } => {
            let plan = Plan { out, repository: repository()?, archs: arch, agent, offline: from.offline };
            bundle::build(&plan, &from.store()?)?;
        }
        Command::Firmware { from, out, arch } => {
            bundle::firmware(&out, arch.iter().any(|a| a == "arm64"), &from.store()?)?
        }
        Command::Verify { dir } => {
            let bundle = bundle::verify(&dir)?;
            println!("{}: {} files are as they were built ({})", dir.display(), bundle.files.len(), bundle.name);
        }
        Command::Lock { from } => {
            anyhow::ensure!(!from.offline, "a lock cannot be made offline");
            let path = repository()?.join(lock::PATH);
            std::fs::write(&path, packages::current(&from.cache()?)?.to_text()?)?;
            progress(&format!("wrote {}", path.display()));
        }
    }
    Ok(())
}
