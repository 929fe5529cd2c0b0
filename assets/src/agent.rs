//! Building the agent: one fully static program, so that the initramfs needs no libraries.

use crate::packages::Store;
use crate::{progress, toolchain};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rust's name of a target, and the linker that it needs on a machine of another kind.
fn target(arch: &str) -> Result<(&'static str, &'static str)> {
    match arch {
        "x86_64" => Ok(("x86_64-unknown-linux-gnu", "x86_64-linux-gnu-gcc")),
        "arm64" => Ok(("aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc")),
        _ => bail!("no such architecture: {arch} (x86_64, arm64)"),
    }
}

/// Builds the agent for an architecture with the repository's own cargo settings;
/// the program's path. Where the toolchain has no standard library for arm64, with
/// Debian's compiler out of `store`.
///
/// # Errors
/// When the toolchain lacks that target, or the build fails, or the outcome is not static.
pub fn build(repository: &Path, arch: &str, offline: bool, store: &Store) -> Result<PathBuf> {
    let (target, linker) = target(arch)?;
    let compiler = match has_std(target) {
        true => None,
        false if arch == "arm64" => Some(toolchain::rustc(store).with_context(|| {
            format!(
                "the Rust toolchain has no standard library for {target} (`rustup target add {target}`), nor has Debian"
            )
        })?),
        false => bail!("the Rust toolchain has no standard library for {target}; run `rustup target add {target}`"),
    };
    let foreign = !target.starts_with(std::env::consts::ARCH);
    if foreign && Command::new(linker).arg("--version").output().is_err() {
        bail!("no linker {linker}; run `assets/install-dependencies arm64`");
    }
    progress(&format!("building the agent for {arch}"));
    let home = std::env::var("CARGO_TARGET_DIR").map_or_else(|_| repository.join("target"), PathBuf::from);
    // A folder of its own: other flags than the rest of the workspace's, and cargo may be running us.
    // And one for each compiler.
    let home = std::path::absolute(home)?.join(if compiler.is_some() { "agent-debian" } else { "agent" });
    let repository = std::path::absolute(repository)?;
    let flags = format!(
        "-C target-feature=+crt-static -C relocation-model=static --remap-path-prefix={}=stoker",
        repository.display()
    );
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&repository).env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
    if foreign {
        let key = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        cargo.env(key, linker);
    }
    cargo
        .args(["build", "--quiet", "--profile", "agent", "-p", "stoker-agent", "--target", target, "--target-dir"])
        .arg(&home);
    if let Some(rustc) = &compiler {
        cargo.env("RUSTC", rustc).env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    }
    if offline {
        cargo.arg("--offline");
    }
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the agent does not build: {status}");
    }
    let program = home.join(target).join("agent/stoker-agent");
    let bytes = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    if !is_static(&bytes) {
        bail!("{} asks for a dynamic linker: it could not start in the initramfs", program.display());
    }
    Ok(program)
}

fn has_std(target: &str) -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
}

/// Whether an ELF program names no interpreter (PT_INTERP; System V ABI, chapter 5).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| {
        elf.get(at..at + length).map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    let headers = || Some((number(0x20, 8)? as usize, number(0x36, 2)? as usize, number(0x38, 2)? as usize));
    let Some((table, size, count)) = headers().filter(|_| elf.starts_with(b"\x7fELF\x02\x01")) else { return false };
    (0..count).all(|i| table.checked_add(i * size).and_then(|at| number(at, 4)).is_some_and(|kind| kind != PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_libraries_is_recognised() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own), "test programs are linked dynamically");
        assert!(!is_static(b"#!/bin/sh") && !is_static(b""));
        let mut without = own;
        without[0x38..0x3a].fill(0); // no program headers at all
        assert!(is_static(&without));
    }

    #[test]
    fn unknown_architectures_are_named() {
        let store = Store::new(Path::new("/nowhere"), crate::lock::Lock::new(Vec::new()), true);
        assert!(build(Path::new("/"), "riscv64", true, &store).unwrap_err().to_string().contains("riscv64"));
    }
}
