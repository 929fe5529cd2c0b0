//! Rust for arm64 machines where rustup's is not at hand: Debian's compiler and
//! its standard library for arm64, unpacked beside the bundle's other packages.
//!
//! The compiler is of a newer Debian than the machine's, so it is started with
//! the loader and the libraries of that Debian; nothing of it is installed.

use crate::packages::{Store, Want};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The suite with a Rust that is new enough for this repository.
const SUITE: &str = "forky";

const fn host(name: &'static str) -> Want {
    Want { name, suite: SUITE, architecture: "amd64", through: false }
}

/// The compiler, its standard library for this machine (build scripts, macros) and for arm64, and
/// the libraries that it is linked with.
pub const PACKAGES: [Want; 14] = [
    host("rustc"),
    host("libstd-rust-dev"),
    Want { name: "libstd-rust-dev", suite: SUITE, architecture: "arm64", through: false },
    // The compiler's own library has its version in its name.
    Want { name: "libstd-rust-dev", suite: SUITE, architecture: "amd64", through: true },
    host("libllvm22"),
    host("libc6"),
    host("libgcc-s1"),
    host("libstdc++6"),
    host("zlib1g"),
    host("libzstd1"),
    host("libffi8"),
    host("libedit2"),
    host("libxml2-16"),
    host("libz3-4"),
];
/// What those need in turn.
pub const MORE: [Want; 3] = [host("libtinfo6"), host("libbsd0"), host("libmd0")];

/// A program that is called like `rustc` and knows arm64.
///
/// # Errors
/// When a package is not to be had, or the compiler does not start.
pub fn rustc(store: &Store) -> Result<PathBuf> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("Debian's compiler is fetched for x86_64 hosts only");
    }
    let mut parts = Vec::new();
    let mut name = Sha256::new();
    for want in PACKAGES.iter().chain(&MORE) {
        let (folder, pin) = store.unpacked(want)?;
        name.update(&pin.sha256);
        parts.push(folder);
    }
    let name: String = name.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let home = store.folder("toolchain").join(name);
    let program = home.join("rustc");
    if !program.is_file() {
        assemble(&parts, &home)?;
    }
    let works = Command::new(&program).arg("-vV").output();
    if !works.as_ref().is_ok_and(|o| o.status.success()) {
        let said = works.map(|o| String::from_utf8_lossy(&o.stderr).trim().to_owned());
        bail!("Debian's rustc does not start: {}", said.unwrap_or_else(|e| e.to_string()));
    }
    Ok(program)
}

/// One tree of links to the unpacked packages' files, and the program that starts the compiler in it.
fn assemble(parts: &[PathBuf], home: &Path) -> Result<()> {
    let parent = home.parent().context("no cache folder")?;
    fs::create_dir_all(parent)?;
    let partial = parent.join(format!("partial-{}", std::process::id()));
    let _ = fs::remove_dir_all(&partial);
    for part in parts {
        merge(part, &partial)?;
    }
    // The compiler looks for its standard library beside itself: all that it opens is in this tree.
    let script = format!(
        "#!/bin/sh\nhere={home}\nlibraries=$here/usr/lib/x86_64-linux-gnu\n\
         exec $libraries/ld-linux-x86-64.so.2 --library-path $libraries $here/usr/bin/rustc --sysroot $here/usr \"$@\"\n",
        home = quoted(home)?
    );
    let program = partial.join("rustc");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    match fs::rename(&partial, home) {
        Err(_) if home.is_dir() => Ok(fs::remove_dir_all(&partial)?), // another run was quicker
        other => other.with_context(|| format!("cannot make {}", home.display())),
    }
}

fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|t| !t.contains('\'')).context("the cache's path has a quote in it")?;
    Ok(format!("'{text}'"))
}

/// Hard links where that is possible: the packages are 600 MB.
fn merge(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            merge(&source, &target)?;
        } else if kind.is_symlink() {
            let _ = fs::remove_file(&target);
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            let _ = fs::remove_file(&target);
            if fs::hard_link(&source, &target).is_err() {
                fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_become_one_tree_and_links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, home) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("cache/home"));
        fs::create_dir_all(one.join("usr/bin")).unwrap();
        fs::create_dir_all(two.join("usr/lib")).unwrap();
        fs::write(one.join("usr/bin/rustc"), "program").unwrap();
        fs::write(two.join("usr/lib/libx.so.1"), "library").unwrap();
        std::os::unix::fs::symlink("libx.so.1", two.join("usr/lib/libx.so")).unwrap();
        assemble(&[one, two], &home).unwrap();
        assert_eq!(fs::read_to_string(home.join("usr/lib/libx.so")).unwrap(), "library");
        assert!(fs::symlink_metadata(home.join("usr/lib/libx.so")).unwrap().is_symlink());
        let script = fs::read_to_string(home.join("rustc")).unwrap();
        assert!(script.contains("--sysroot") && script.contains("cache/home"), "{script}");
        assert!(quoted(Path::new("/a'b")).is_err());
    }
}
