//! Fetches the peers that a distribution does not install side by side.

use crate::process;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of the crate `tftpd` that we compare with.
pub const RS_TFTPD: &str = "1.0.0";

/// Where peers are kept by default: `$XDG_CACHE_HOME/stoker/peers`.
pub fn default_folder() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| ".".into())).join(".cache");
    cache.unwrap_or_else(home).join("stoker/peers")
}

/// Puts rs-tftpd and tftpd-hpa under `folder`. Debian's tftpd-hpa and atftpd
/// exclude one another, so the former is unpacked, not installed.
///
/// # Errors
/// When cargo, apt-get or dpkg fails; what they say goes to the terminal.
pub fn install(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if !folder.join("bin/tftpd").exists() {
        run(Command::new("cargo").args(["install", "tftpd", "--locked", "--version", RS_TFTPD, "--root"]).arg(folder))?;
    }
    let hpa = folder.join("tftpd-hpa");
    if !hpa.join("usr/sbin/in.tftpd").exists() {
        fs::create_dir_all(&hpa)?;
        run(Command::new("apt-get").args(["download", "tftpd-hpa"]).current_dir(&hpa))?;
        let package =
            fs::read_dir(&hpa)?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
        run(Command::new("dpkg").arg("-x").arg(package.context("apt-get brought no package")?).arg(&hpa))?;
    }
    for (program, package) in
        [("dnsmasq", "dnsmasq-base"), ("atftpd", "atftpd"), ("nginx", "nginx-light"), ("setpriv", "util-linux")]
    {
        if !process::in_path(program) {
            eprintln!("{program} is missing: apt-get install --no-install-recommends {package}");
        }
    }
    eprintln!("peers are in {}", folder.display());
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}
