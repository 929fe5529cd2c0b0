//! Loading drivers by modalias, as udev and modprobe would: each device says in
//! sysfs what it is, `modules.alias` says which module knows such a device, and
//! `modules.dep` what that module needs first (modules.dep(5), modules.alias(5)).

use crate::{say, sys};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Levels of folders below /sys/devices that are walked.
const MAX_DEPTH: usize = 24;
/// Devices looked at in one walk.
const MAX_DEVICES: usize = 100_000;
/// Modules that one device's modalias may load, those they need included.
const MAX_MODULES: usize = 64;

/// Modules to load for the devices present.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Drivers of network interfaces.
    pub network: Vec<String>,
    /// All others.
    pub others: Vec<String>,
}

/// A driver that takes longer is named on the console (probing of disk shelves does).
const SLOW: Duration = Duration::from_secs(2);

/// What can be loaded, and for which devices.
#[derive(Debug, Default)]
pub struct Modules {
    /// (pattern, module): in the file's order.
    aliases: Vec<(String, String)>,
    /// Module to its file and the modules that it needs, in the order in which to load them.
    files: BTreeMap<String, (PathBuf, Vec<String>)>,
    /// Those tried already, with or without success.
    tried: BTreeSet<String>,
    /// Modaliases looked up already.
    seen: BTreeSet<String>,
    /// Failures, in words.
    pub failures: Vec<String>,
}

impl Modules {
    /// Reads the two files in `folder` (`/lib/modules/RELEASE`). Without them nothing can be loaded, which is said.
    pub fn open(folder: &Path) -> Self {
        let read = |name: &str| {
            fs::read_to_string(folder.join(name)).map_err(|e| format!("{}: {e}", folder.join(name).display()))
        };
        match read("modules.dep").and_then(|dep| Ok((dep, read("modules.alias")?))) {
            Ok((dep, alias)) => Self::parse(folder, &dep, &alias),
            Err(e) => Self { failures: vec![format!("no loadable drivers: {e}")], ..Self::default() },
        }
    }

    fn parse(folder: &Path, dep: &str, alias: &str) -> Self {
        let files = dep.lines().filter_map(|line| {
            let (file, needs) = line.split_once(':')?;
            // modules.dep names the last to load first.
            let needs = needs.split_ascii_whitespace().rev().map(module_name).collect();
            Some((module_name(file), (folder.join(file), needs)))
        });
        let aliases = alias.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("alias")).then_some(())?;
            Some((words.next()?.to_string(), words.next()?.replace('-', "_")))
        });
        Self { files: files.collect(), aliases: aliases.collect(), ..Self::default() }
    }

    /// The drivers of every device that has appeared in `devices` (`/sys/devices`)
    /// since the last call, those of network interfaces first: while their links
    /// train, disks can be probed.
    pub fn wanted(&mut self, devices: &Path) -> Wanted {
        let mut found = BTreeSet::new();
        collect(devices, 0, &mut found);
        let fresh: Vec<String> = found.difference(&self.seen).cloned().collect();
        self.seen.extend(found);
        let wanted: BTreeSet<String> = fresh.iter().flat_map(|modalias| self.matching(modalias)).collect();
        let is_network = |module: &String| {
            self.files.get(module).is_some_and(|(file, _)| file.to_string_lossy().contains("/drivers/net/"))
        };
        let (network, others) = wanted.into_iter().filter(|m| !self.tried.contains(m)).partition(is_network);
        Wanted { network, others }
    }

    /// The modules that say they know such a device.
    pub fn matching(&self, modalias: &str) -> Vec<String> {
        self.aliases
            .iter()
            .filter(|(pattern, _)| matches(pattern.as_bytes(), modalias.as_bytes()))
            .map(|(_, m)| m.clone())
            .collect()
    }

    /// Loads each of these and what it needs.
    pub fn load_all(&mut self, modules: &[String]) {
        for module in modules {
            self.load(module);
        }
    }

    /// Loads one module and what it needs; returns how many files the kernel took.
    pub fn load(&mut self, module: &str) -> usize {
        let Some((_, needs)) = self.files.get(module) else { return 0 };
        let order: Vec<String> = needs.iter().cloned().chain([module.to_string()]).take(MAX_MODULES).collect();
        order.iter().map(|name| usize::from(self.insert(name))).sum()
    }

    fn insert(&mut self, module: &str) -> bool {
        if !self.tried.insert(module.to_string()) {
            return false;
        }
        let Some((file, _)) = self.files.get(module) else { return false };
        let start = Instant::now();
        let outcome = sys::load_module(file);
        if start.elapsed() > SLOW {
            say!("driver {module} took {:.1} s", start.elapsed().as_secs_f64());
        }
        match outcome {
            Ok(()) => true,
            Err(e) => {
                say!("driver {module} does not load: {e}");
                self.failures.push(format!("driver {module} does not load: {e}"));
                false
            }
        }
    }
}

/// `kernel/drivers/net/virtio_net.ko.xz` is `virtio_net`; the kernel treats `-` and `_` alike.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn collect(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if found.len() >= MAX_DEVICES {
            return;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < MAX_DEPTH {
            collect(&entry.path(), depth + 1, found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string));
        }
    }
}

/// fnmatch(3) without flags, for the patterns that modules carry: `*`, `?` and `[...]`.
/// Iterative, so that a pattern full of `*` costs at most pattern times text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(c) if *c == text[t] => Some(1),
            _ => None,
        };
        match (step, &mut retry) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after, from))) => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The length of the class at the head of `pattern` if `c` is in it.
fn class(pattern: &[u8], c: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let mut inside = &pattern[1..end];
    let negated = matches!(inside.first(), Some(b'!' | b'^'));
    if negated {
        inside = &inside[1..];
    }
    let mut hit = false;
    while let Some(&low) = inside.first() {
        let range = inside.get(1) == Some(&b'-') && inside.len() > 2;
        let high = if range { inside[2] } else { low };
        hit |= (low..=high).contains(&c);
        inside = &inside[if range { 3 } else { 1 }..];
    }
    (hit != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEP: &str = "kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz\n\
                       kernel/net/core/failover.ko.xz:\nkernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n";
    const ALIAS: &str =
        "# Aliases\nalias virtio:d00000001v* virtio_net\nalias pci:v00008086d00001521sv*sd*bc*sc*i* igb\n";

    #[test]
    fn a_device_finds_its_driver() {
        let modules = Modules::parse(Path::new("/lib/modules/x"), DEP, ALIAS);
        assert_eq!(modules.matching("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(modules.matching("pci:v00008086d00001521sv000015D9sd00000001bc02sc00i00"), ["igb"]);
        assert!(modules.matching("virtio:d00000002v00001AF4").is_empty());
    }

    #[test]
    fn what_a_module_needs_is_loaded_first() {
        let modules = Modules::parse(Path::new("/m"), DEP, ALIAS);
        let (file, needs) = &modules.files["virtio_net"];
        assert_eq!(file, Path::new("/m/kernel/drivers/net/virtio_net.ko.xz"));
        assert_eq!(needs, &["failover", "net_failover"]);
    }

    #[test]
    fn a_missing_folder_is_said() {
        let modules = Modules::open(Path::new("/nonexistent"));
        assert!(modules.failures[0].contains("/nonexistent/modules.dep"), "{:?}", modules.failures);
    }

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("a", "", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("*bc0Csc07i0[0-2]*", "pci:v1bc0Csc07i01", true),
            ("*i0[0-2]", "i03", false),
            ("dmi*:[!a]x", "dmi:bx", true),
            ("a?c", "abc", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn every_text_matches_itself_and_stars(text in "[a-z0-9:]{0,30}", at in 0_usize..30) {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
            let at = at.min(text.len());
            let starred = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(matches(starred.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn no_pattern_can_break_the_matcher(pattern in "[\\[\\]!^*?a-]{0,20}", text in "[a-]{0,20}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }
    }
}
