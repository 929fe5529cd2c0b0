//! What the crates may depend on, in which versions, under which licences.

use crate::source::{root, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Which of our crates may use which. An arrow that is not here is a mistake in the design.
const MAY_USE: &[(&str, &[&str])] = &[
    ("stoker-protocol", &[]),
    ("stoker-edge", &["stoker-protocol"]),
    ("stoker-control", &["stoker-protocol"]),
    ("stoker-agent", &["stoker-protocol"]),
    ("stoker-assets", &["stoker-protocol"]),
    ("stoker-loadtest", &["stoker-protocol"]),
    ("stoker-benches", &["stoker-protocol", "stoker-edge", "stoker-control"]),
    (
        "stoker-tests",
        &[
            "stoker-protocol",
            "stoker-edge",
            "stoker-control",
            "stoker-loadtest",
            "stoker-assets",
            "stoker-agent",
            "stoker-fuzz-bodies",
        ],
    ),
];

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata(&["--no-deps"]);
    let mut bad = Vec::new();
    for package in list(&metadata, "packages") {
        let name = text(package, "name");
        let Some((_, allowed)) = MAY_USE.iter().find(|(who, _)| *who == name) else {
            bad.push(format!("{name} is not in the table of tests/tidy/manifests.rs"));
            continue;
        };
        for used in list(package, "dependencies").iter().map(|d| text(d, "name")).filter(|n| n.starts_with("stoker-")) {
            // Tests of a crate may use the crate itself.
            if used != name && !allowed.contains(&used) {
                bad.push(format!("{name} may not depend on {used}"));
            }
        }
    }
    crate::none("dependencies against the grain", bad);
}

#[test]
fn versions_stand_in_one_place() {
    let members = tree("Cargo.toml").filter(|f| f.path != "Cargo.toml" && !f.path.starts_with("tests/fuzz/"));
    let mut bad = Vec::new();
    for file in members {
        let mut section = String::new();
        for (i, line) in file.raw.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']).to_owned();
            } else if section.ends_with("dependencies") && line.contains('=') && !line.contains("workspace = true") {
                bad.push(format!("{}:{}: {line}", file.path, i + 1));
            }
        }
    }
    crate::none("versions outside the workspace's Cargo.toml", bad);
}

#[test]
fn every_dependency_has_a_licence_we_accept() {
    let allowed = allowed_licences();
    assert!(allowed.contains("Apache-2.0"), "deny.toml has no list of licences: {allowed:?}");
    let metadata = metadata(&[]);
    let packages = list(&metadata, "packages");
    assert!(packages.len() > 20, "cargo metadata names only {} packages", packages.len());
    let bad = packages.iter().filter_map(|package| {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        (!accepts(licence, &allowed)).then(|| format!("{name}: {licence:?}"))
    });
    crate::none("licences that deny.toml does not allow", bad);
}

#[test]
fn dependencies_come_from_one_registry() {
    let metadata = metadata(&[]);
    let bad = list(&metadata, "packages").iter().filter_map(|package| {
        let source = package.get("source").and_then(Value::as_str)?;
        (!source.starts_with("registry+")).then(|| format!("{} from {source}", text(package, "name")))
    });
    crate::none("dependencies from elsewhere than the registry", bad);
}

/// What the licences section of deny.toml allows.
fn allowed_licences() -> BTreeSet<String> {
    let deny = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let section = deny.split("\n[licenses]").nth(1).unwrap_or_default();
    let list = section.split("allow = [").nth(1).and_then(|l| l.split(']').next()).unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// SPDX expressions as crates write them: OR binds weaker than AND, parentheses
/// group, `/` is an old OR, WITH belongs to its licence.
fn accepts(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "-WITH-");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let verdict = any(&words, &mut at, allowed);
    verdict && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut good = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        good |= all(words, at, allowed);
    }
    good
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut good = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        good &= one(words, at, allowed);
    }
    good
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let good = any(words, at, allowed);
        *at += 1;
        return good;
    }
    allowed.contains(&word.replace("-WITH-", " WITH "))
}

fn metadata(arguments: &[&str]) -> Value {
    // What only other systems need was never downloaded, and is not ours to judge.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1", "--filter-platform", &platform])
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata speaks JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn licence_expressions_are_understood() {
    let allowed =
        BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()]);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/Apache-2.0",
        "(MIT OR GPL-2.0) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert!(accepts(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND Y", "MIT )", "MIT WITH Strange-exception"] {
        assert!(!accepts(bad, &allowed), "{bad}");
    }
}
