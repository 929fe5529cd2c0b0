//! `assets/bundle.lock.toml`: which package, version and bytes the bundle is made of.

use crate::packages::Want;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The lock file, from the repository's root.
pub const PATH: &str = "assets/bundle.lock.toml";
/// The layout that this program reads and writes.
const VERSION: u32 = 1;
const HEAD: &str = "# What the bundle is made of. Rewritten by `stoker-bundle lock`.\n\
                    # Packages come from the Debian mirror of the machine's own apt configuration.\n";

/// All pins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    version: u32,
    /// One for each package that the bundle may use.
    pub package: Vec<Pin>,
}

/// One pinned package.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The name asked for (`linux-image-amd64`), which tells pins apart together with the suite.
    pub want: String,
    /// Debian's code name.
    pub suite: String,
    /// The package that holds the files: `want` itself, or what that metapackage depends on.
    pub package: String,
    /// Debian's name of the architecture, or `all`.
    pub architecture: String,
    /// Exact version.
    pub version: String,
    /// Of the `.deb`, 64 hex digits.
    pub sha256: String,
    /// Length of the `.deb`, bytes.
    pub size: u64,
}

impl Lock {
    /// A lock of these pins, in a fixed order.
    pub fn new(mut package: Vec<Pin>) -> Self {
        let place = |p: &Pin| (p.want.clone(), p.suite.clone(), p.architecture.clone(), p.package.clone());
        package.sort_by_key(place);
        Self { version: VERSION, package }
    }

    /// Reads a lock file's text.
    ///
    /// # Errors
    /// When it is not one, or of another version, or a digest is none.
    pub fn parse(text: &str) -> Result<Self> {
        let lock: Self = toml::from_str(text).context("not a bundle lock")?;
        if lock.version != VERSION {
            bail!("lock of version {}, this program reads {VERSION}; run `stoker-bundle lock`", lock.version);
        }
        for pin in &lock.package {
            if pin.sha256.len() != 64 || !pin.sha256.bytes().all(|c| c.is_ascii_hexdigit()) {
                bail!("the digest of {} in the lock is not 64 hex digits", pin.want);
            }
        }
        Ok(lock)
    }

    /// Reads the lock of a repository.
    ///
    /// # Errors
    /// As [`Lock::parse`], and when the file cannot be read.
    pub fn load(repository: &Path) -> Result<Self> {
        let path = repository.join(PATH);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for a lock made by [`Lock::new`].
    pub fn to_text(&self) -> Result<String> {
        Ok(format!("{HEAD}{}", toml::to_string_pretty(self)?))
    }

    /// The pin of a package.
    pub fn pin(&self, want: &Want) -> Option<&Pin> {
        let built_for = |pin: &Pin| pin.architecture == want.architecture || pin.architecture == "all";
        let asked = |pin: &Pin| pin.want == want.name && pin.suite == want.suite;
        self.package.iter().find(|p| asked(p) && built_for(p) && want.through == (p.package != p.want))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(want: &str, suite: &str) -> Pin {
        Pin {
            want: want.into(),
            suite: suite.into(),
            package: want.into(),
            architecture: "all".into(),
            version: "1.0+git~1-2".into(),
            sha256: "ab".repeat(32),
            size: 7,
        }
    }

    #[test]
    fn a_lock_survives_its_file_in_a_fixed_order() {
        let lock = Lock::new(vec![pin("ovmf", "trixie"), pin("ipxe", "trixie"), pin("ipxe", "bookworm")]);
        let text = lock.to_text().unwrap();
        assert_eq!(Lock::parse(&text).unwrap(), lock);
        assert_eq!(lock.package[0].suite, "bookworm");
        let want = |suite, through| Want { name: "ovmf", suite, architecture: "amd64", through };
        assert_eq!(lock.pin(&want("trixie", false)).map(|p| p.size), Some(7));
        assert!(lock.pin(&want("bookworm", false)).is_none());
        assert!(lock.pin(&want("trixie", true)).is_none(), "what a package depends on is another pin");
    }

    #[test]
    fn one_name_may_be_pinned_for_several_architectures() {
        let of = |architecture: &str, package: &str| Pin {
            architecture: architecture.into(),
            package: package.into(),
            ..pin("libx-dev", "trixie")
        };
        let lock = Lock::new(vec![of("arm64", "libx-dev"), of("amd64", "libx-1.2"), of("amd64", "libx-dev")]);
        let find = |architecture, through| {
            let pin = lock.pin(&Want { name: "libx-dev", suite: "trixie", architecture, through }).unwrap();
            (pin.architecture.as_str(), pin.package.as_str())
        };
        assert_eq!(find("amd64", false), ("amd64", "libx-dev"));
        assert_eq!(find("arm64", false), ("arm64", "libx-dev"));
        assert_eq!(find("amd64", true), ("amd64", "libx-1.2"));
    }

    #[test]
    fn damaged_locks_are_refused() {
        let good = Lock::new(vec![pin("ipxe", "trixie")]).to_text().unwrap();
        for bad in [
            String::new(),
            good.replace("version = 1\n", "version = 2\n"),
            good.replace(&"ab".repeat(32), "abab"),
            good.replace("size = 7", "size = 7\nunheard_of = 1"),
        ] {
            assert!(Lock::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_lock_of_this_repository_pins_every_package() {
        let lock = Lock::load(&crate::repository().unwrap()).unwrap();
        for want in crate::packages::all() {
            assert!(lock.pin(want).is_some(), "{} of {} is not pinned", want.name, want.suite);
        }
    }
}
