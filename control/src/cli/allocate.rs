//! `stoker allocate` and `stoker release`.

use super::api::Api;
use super::{Failure, Reach, table};
use control::allocation::{Allocated, Ask, From, Released};
use hyper::Method;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The largest configuration that is sent, bytes.
const MAX_CONFIG: u64 = control::machineconfig::MAX_BYTES as u64;

/// Arguments of `stoker allocate`.
#[derive(clap::Args)]
#[command(after_help = "\
The machine gets FILE as its configuration (a Talos machine configuration, cloud-init
user data, ...), changed by the patches of its class and its own. It is installed from the
Environment named here, or that of the Server, of the class, or `default`.
Asked again with the same name, the same machine is answered.

Examples:
  stoker allocate --class any --name worker-1 --config worker.yaml
  stoker allocate --class big --name db-1 --config user-data.yaml --environment debian
  stoker allocate --server 6f0c4e2a-0b1d-4c5e-8f90-123456789abc --name db-1 --config db.yaml
  talosctl gen config ... -o - -t worker | stoker allocate --class big --name w2 --config -")]
pub struct Allocate {
    #[command(flatten)]
    reach: Reach,
    /// Any free machine of this ServerClass
    #[arg(long, value_name = "CLASS", conflicts_with = "server", required_unless_present = "server")]
    class: Option<String>,
    /// This machine
    #[arg(long, value_name = "UUID")]
    server: Option<String>,
    /// What the allocation is called; also the machine's host name
    #[arg(long)]
    name: String,
    /// The machine's configuration, `-` for standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What it is installed from
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// JSON, as the API gives it
    #[arg(long)]
    json: bool,
}

/// Arguments of `stoker release`.
#[derive(clap::Args)]
#[command(after_help = "\
Everything on the machine's disks is erased. Returns at once; `stoker servers --watch`
shows how far it is.

Example:
  stoker release worker-1")]
pub struct Release {
    #[command(flatten)]
    reach: Reach,
    /// Names of allocations, or UUIDs of Servers
    #[arg(required = true, value_name = "NAME")]
    which: Vec<String>,
    /// JSON, as the API gives it: one object a line
    #[arg(long)]
    json: bool,
}

impl Allocate {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let from = match (&self.class, &self.server) {
            (_, Some(server)) => From::Server(server.to_ascii_lowercase()),
            (Some(class), None) => From::Class(class.clone()),
            (None, None) => return Err(Failure::Usage("name a --class or a --server".to_owned())),
        };
        let config = self.config.as_deref().map(read).transpose()?;
        let ask = Ask { name: self.name.clone(), from, config, environment: self.environment.clone() };
        let got: Allocated = Api::new(&self.reach).call(Method::POST, "/api/v1/allocations", Some(&ask)).await?;
        for warning in got.warnings.iter().filter(|_| !self.json) {
            eprintln!("warning: {warning}");
        }
        if self.json {
            table::json(&got)?;
        } else if got.already {
            table::line(&format!("{} has machine {} already", got.name, got.server));
        } else {
            table::line(&format!("{} gets machine {}; it is being installed", got.name, got.server));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Release {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let api = Api::new(&self.reach);
        let mut failed = Vec::new();
        for which in &self.which {
            if which.is_empty() || !which.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.')) {
                return Err(Failure::Usage(format!("{which:?} is neither the name of an allocation nor a UUID")));
            }
            let path = format!("/api/v1/allocations/{which}");
            match api.call::<Released>(Method::DELETE, &path, None::<&()>).await {
                Ok(released) if self.json => table::json(&released)?,
                Ok(released) => {
                    let how = if released.already { "is being released already" } else { "is released" };
                    table::line(&format!("{} {how}: machine {} will be wiped", released.name, released.server));
                }
                // The others are released all the same.
                Err(Failure::Failed(why)) => failed.push(why),
                Err(other) => return Err(other),
            }
        }
        if failed.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Failure::Failed(failed.join("; "))) }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Usage(format!("--config {}: {e}", path.display()));
    let source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(|e| failed(&e))?)
    };
    let mut text = String::new();
    source.take(MAX_CONFIG + 1).read_to_string(&mut text).map_err(|e| failed(&e))?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(failed(&format!("larger than {MAX_CONFIG} bytes")));
    }
    Ok(text)
}
