//! The program of the control plane: built from Go modules once, kept under
//! the target directory for as long as the versions are the same.

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Go that the modules want.
const GO: (u32, u32) = (1, 26);

/// Where everything that is built goes.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The program, built where it is not there yet.
///
/// # Errors
/// Where there is no Go, or the build fails.
pub fn built() -> Result<PathBuf> {
    let source = root().join("tests/kubernetes");
    let folder = target().join("kubernetes");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let program = folder.join(format!("kubernetes-{}", key(&source)?));
    // One builds, others wait for it.
    let lock = File::create(folder.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if program.exists() {
        return Ok(program);
    }
    let go = go()?;
    eprintln!("building kube-apiserver, etcd and kubectl with {} (some minutes, once)", go.display());
    let version = std::fs::read_to_string(source.join("go.mod"))?
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ").map(str::to_owned))
        .context("tests/kubernetes/go.mod requires k8s.io/kubernetes")?;
    let fresh = program.with_extension("new");
    let status = Command::new(&go)
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!("-s -w -X k8s.io/component-base/version.gitVersion={version}"))
        .arg("-o")
        .arg(&fresh)
        .arg(".")
        .current_dir(&source)
        // No C: one static program, and no compiler needed. No other Go than this one.
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env_remove("GOFLAGS")
        .env_remove("GOROOT")
        .status()
        .with_context(|| format!("{} cannot be run", go.display()))?;
    if !status.success() {
        bail!("the control plane of the tests was not built: see the words of go above");
    }
    std::fs::rename(&fresh, &program)?;
    Ok(program)
}

/// Another key where anything is different that goes in.
fn key(source: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum", "main.go"] {
        hash.update(std::fs::read(source.join(name)).with_context(|| format!("tests/kubernetes/{name}"))?);
    }
    let mut key = String::new();
    for byte in hash.finalize().iter().take(8) {
        write!(key, "{byte:02x}")?;
    }
    Ok(key)
}

/// The machine's Go where it is new enough, else the one that `assets/install-dependencies test` brings.
fn go() -> Result<PathBuf> {
    for go in [PathBuf::from("go"), target().join("go/go/bin/go")] {
        let Ok(out) = Command::new(&go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output() else {
            continue;
        };
        if out.status.success() && new_enough(&String::from_utf8_lossy(&out.stdout)) {
            return Ok(go);
        }
    }
    bail!("there is no Go {}.{} or newer; run: assets/install-dependencies test", GO.0, GO.1)
}

/// `go1.26.8`.
fn new_enough(version: &str) -> bool {
    let mut numbers = version.trim().trim_start_matches("go").split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= GO
}

#[test]
fn versions_of_go_are_compared_by_number() {
    for (version, good) in [("go1.26.8\n", true), ("go1.27", true), ("go2.0", true), ("go1.19.8", false), ("", false)] {
        assert_eq!(new_enough(version), good, "{version}");
    }
}
