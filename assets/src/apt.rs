//! Debian packages through apt, without touching the machine's own apt: a
//! private state folder with one suite in it. The mirror, proxies and the like
//! are those of the machine; signatures are checked against Debian's keyring.

use crate::progress;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Foreign architectures whose packages can be asked for.
const ARCHITECTURES: &str = "amd64,arm64";
/// The index is asked for anew when it is older.
const INDEX_AGE: Duration = Duration::from_secs(6 * 3600);

/// A private apt with one suite.
#[derive(Debug)]
pub struct Apt {
    root: PathBuf,
}

/// What the signed index says of a package.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct Found {
    pub package: String,
    pub version: String,
    pub architecture: String,
    pub depends: String,
    pub sha256: String,
    pub size: u64,
}

impl Apt {
    /// Makes the private state below `parent` if need be, and fetches the index if it is old.
    ///
    /// # Errors
    /// When there is no apt, no Debian mirror, no keyring, or no connection.
    pub fn open(parent: &Path, suite: &str) -> Result<Self> {
        let root = std::path::absolute(parent.join(suite))?;
        for folder in ["state/lists/partial", "cache/archives/partial", "download"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let apt = Self { root };
        let stamp = apt.root.join("updated");
        let fresh = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < INDEX_AGE));
        if !fresh {
            apt.configure(suite)?;
            progress(&format!("fetching the index of {suite}"));
            apt.run("apt-get", &["-q", "update", "-o", "APT::Update::Error-Mode=any"])?;
            fs::write(&stamp, "")?;
        }
        Ok(apt)
    }

    /// The record of `NAME:ARCHITECTURE` in this version, or the newest.
    ///
    /// # Errors
    /// When apt cannot be run.
    pub fn show(&self, name: &str, version: Option<&str>) -> Result<Option<Found>> {
        let name = version.map_or_else(|| name.to_string(), |version| format!("{name}={version}"));
        let output = self
            .command("apt-cache")
            .args(["show", "--no-all-versions", &name])
            .output()
            .context("cannot run apt-cache")?;
        // A package that is not there is exit code 100 and nothing on standard output.
        Ok(parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads `NAME:ARCHITECTURE` in this version; apt checks it against the signed index.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn download(&self, name: &str, version: &str) -> Result<PathBuf> {
        let folder = self.root.join(format!("download/{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let mut command = self.command("apt-get");
        command.current_dir(&folder).args(["-q", "download", &format!("{name}={version}")]);
        run(&mut command)?;
        let deb =
            fs::read_dir(&folder)?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
        deb.with_context(|| format!("apt-get download left no file for {name}"))
    }

    /// A configuration of our own with the machine's ways to the network in it. Its
    /// hooks stay out: they tidy up the machine's caches, which are none of ours.
    fn configure(&self, suite: &str) -> Result<()> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
        }
        let dump = run(Command::new("apt-config").arg("dump"))?;
        let network: String = dump.lines().filter(|l| is_network_setting(l)).map(|l| format!("{l}\n")).collect();
        let root = self.root.display();
        let own = format!(
            "{network}Dir::State \"{root}/state\";\nDir::State::status \"{root}/state/status\";\nDir::Cache \"{root}/cache\";\n\
             Dir::Etc::sourcelist \"{root}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::main \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; \"arm64\"; }};\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
        );
        fs::write(self.root.join("state/status"), "")?;
        fs::write(self.root.join("apt.conf"), own)?;
        let mirror = mirror()?;
        let sources = format!("deb [signed-by={KEYRING} arch={ARCHITECTURES}] {mirror} {suite} main\n");
        Ok(fs::write(self.root.join("sources.list"), sources)?)
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C").current_dir(&self.root);
        command
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(tool).args(arguments))
    }
}

/// Proxies, time limits, certificates, credentials: not what to fetch (other
/// programs add index targets), nor anything that runs commands.
fn is_network_setting(line: &str) -> bool {
    line.starts_with("Acquire::")
        && !["IndexTargets", "Languages", "GzipIndexes", "Retries"].iter().any(|w| line[9..].starts_with(w))
}

/// The Debian mirror that this machine's apt uses.
fn mirror() -> Result<String> {
    const FORMAT: &str = "$(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI)";
    let targets = run(Command::new("apt-get").args(["indextargets", "--format", FORMAT]))?;
    pick_mirror(&targets).with_context(|| {
        "this machine's apt knows no Debian mirror (`apt-get indextargets`); add one to /etc/apt/sources.list.d and run `apt-get update`"
    })
}

/// What the mirror's release file calls itself counts; where apt has not
/// fetched any, a suite of that name at an address that ends in `debian`.
fn pick_mirror(targets: &str) -> Option<String> {
    const SUITES: [&str; 6] = ["bookworm", "trixie", "forky", "stable", "testing", "sid"];
    let rows = || targets.lines().filter_map(|l| l.splitn(4, '|').collect::<Vec<_>>().try_into().ok());
    let named = rows().find(|[origin, label, _, _]: &[&str; 4]| *origin == "Debian" && *label == "Debian");
    let guessed = || {
        rows().find(|[_, _, release, uri]| SUITES.contains(release) && uri.trim_end_matches('/').ends_with("debian"))
    };
    named.or_else(guessed).map(|[_, _, _, uri]| uri.to_string())
}

fn parse(record: &str) -> Option<Found> {
    let get = |key: &str| record.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(": ")).map(str::to_string);
    Some(Found {
        package: get("Package")?,
        version: get("Version")?,
        architecture: get("Architecture")?,
        depends: get("Depends").unwrap_or_default(),
        sha256: get("SHA256")?,
        size: get("Size")?.parse().ok()?,
    })
}

/// Runs to the end; its standard output. What it said on standard error is in the error.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_machine() {
        let targets = "Google|x|y|https://a.example/apt\nDebian|Debian-Security|bookworm-security|http://m.example/debian-security/\n\
                       Debian|Debian|bookworm|http://m.example/debian/\n";
        assert_eq!(pick_mirror(targets).as_deref(), Some("http://m.example/debian/"));
        assert_eq!(pick_mirror("||bookworm|http://m.example/debian/\n").as_deref(), Some("http://m.example/debian/"));
        assert_eq!(pick_mirror("||noble|http://m.example/ubuntu/\n||bookworm|http://m.example/other\n"), None);
    }

    #[test]
    fn a_record_is_read() {
        let found = parse(
            "Package: ipxe\nVersion: 1.21.1-1\nArchitecture: all\nDepends: a (= 1), b\nSize: 12\nSHA256: abc\n\n",
        )
        .unwrap();
        assert_eq!((found.package.as_str(), found.size, found.depends.as_str()), ("ipxe", 12, "a (= 1), b"));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn hooks_and_foreign_index_targets_stay_out() {
        assert!(is_network_setting(r#"Acquire::http::Proxy "http://p.example:3128";"#));
        assert!(!is_network_setting(r#"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "true";"#));
        assert!(!is_network_setting(r#"APT::Update::Post-Invoke:: "rm -f x";"#));
    }
}
