//! stoker-demo: makes the small system that the tests install, and the objects
//! with which a newcomer installs it on a machine of the virtual rack.

use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stoker_tests::os::TestOs;

const USAGE: &str = "usage: stoker-demo DIR    makes demo.yaml and node-1.yaml in DIR";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [out] = args.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match make(Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("stoker-demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(out: &Path) -> Result<()> {
    let os = TestOs::build()?;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let files = [
        ("demo.yaml", objects(&os)?),
        ("node-1.yaml", "# What the machine gets by /configdata.\nhostname: node-1\n".into()),
    ];
    for (name, text) in files {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

/// An Environment, and a class of all machines that gets it.
fn objects(os: &TestOs) -> Result<String> {
    let url = |path: PathBuf| -> Result<String> { Ok(format!("file://{}", path.canonicalize()?.display())) };
    Ok(format!(
        "# A small system that is installed as real ones are: its installer boots from the network,\n\
         # fetches the machine's configuration, writes the disk, and says so.\n\
         apiVersion: metal.sidero.dev/v1alpha2\n\
         kind: Environment\n\
         metadata:\n  name: demo\n\
         spec:\n  kernel:\n    url: {}\n    args: [{}]\n  initrd:\n    url: {}\n  installedWhen: Reported\n\
         ---\n\
         # Every machine with 256 MiB or more, installed from it.\n\
         apiVersion: metal.sidero.dev/v1alpha2\n\
         kind: ServerClass\n\
         metadata:\n  name: demo\n\
         spec:\n  environmentRef:\n    name: demo\n  qualifiers:\n    requirements: [\"memory >= 256Mi\"]\n",
        url(os.kernel())?,
        TestOs::INSTALLER_ARGS.join(", "),
        url(os.installer())?,
    ))
}
