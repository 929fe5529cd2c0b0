//! `stoker crds`: the CustomResourceDefinitions of stoker's kinds.

use super::Failure;
use control::crd;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `stoker crds`.
#[derive(clap::Args)]
#[command(after_help = "\
Server, ServerClass, Environment (metal.sidero.dev/v1alpha2), ServerBinding, MetalCluster,
MetalMachine, ... (infrastructure.cluster.x-k8s.io/v1alpha3): what stoker keeps, as a Kubernetes
API server is to know it. A cluster must have them before stoker-control starts with
--store kubernetes.

Examples:
  stoker crds | kubectl apply --server-side -f -
  stoker crds --out crds/                      one file for each kind, and one for kustomize")]
pub struct Crds {
    /// Write one file for each kind into this folder, in place of printing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crds {
    /// Prints or writes them.
    pub fn run(self) -> Result<ExitCode, Failure> {
        for definition in crd::all() {
            let text = crd::yaml(&definition).map_err(Failure::from_error)?;
            let Some(folder) = &self.out else {
                print!("{text}");
                continue;
            };
            let path = folder.join(crd::file_name(&definition));
            let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
            written.map_err(|e| Failure::Failed(format!("{} cannot be written: {e}", path.display())))?;
            println!("{}", path.display());
        }
        if let Some(folder) = &self.out {
            let (name, text) = crd::kustomization();
            let path = folder.join(name);
            std::fs::write(&path, text)
                .map_err(|e| Failure::Failed(format!("{} cannot be written: {e}", path.display())))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
