//! The repository checks itself: dependency direction, where `unsafe` may
//! stand, what nobody may leave behind, and that every promise has its test.
//!
//! Each test names all offenders at once, with file and line.

#[path = "tidy/source.rs"]
mod source;

#[path = "tidy/conformance.rs"]
mod conformance;

#[path = "tidy/manifests.rs"]
mod manifests;

use source::{File, root, tree};
use std::path::Path;

/// What may stand at the top of the repository.
const TOP: &[&str] = &[
    "protocol",
    "edge",
    "control",
    "assets",
    "benches",
    "loadtest",
    "tests",
    "docs",
    ".ci",
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "Makefile",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
    "deny.toml",
    ".gitignore",
];
/// What may lie there without being part of it: see `.gitignore`.
const LITTER: &[&str] = &[".git", "target", ".stoker", ".cargo"];

/// Where `unsafe` may stand: the ring, the catalog's map, the agent's system calls.
const UNSAFE_HOMES: &[&str] =
    &["edge/src/ring/", "edge/src/catalog/", "assets/agent/src/sys/", "assets/agent/src/sys.rs"];
/// How far above an `unsafe` its reason may begin, lines.
const SAFETY_WITHIN: usize = 12;

/// Longer files are about more than one thing.
const LINES_MAX: usize = 700;

#[test]
fn nothing_strange_lies_at_the_top() {
    let strange = std::fs::read_dir(root()).expect("the repository").flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (!TOP.contains(&name.as_str()) && !LITTER.contains(&name.as_str())).then_some(name)
    });
    none("entries at the top that the layout does not have", strange);
}

#[test]
fn protocol_reaches_no_machine() {
    let lib = File::read(&root().join("protocol/src/lib.rs"));
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        assert!(lib.code.contains(attribute), "protocol/src/lib.rs must say {attribute}");
    }
    let bad = ["std::", "tokio", "async ", "await"];
    let hits = tree("rs").filter(|f| f.path.starts_with("protocol/src/") && !f.is_test()).flat_map(|f| {
        f.lines_outside_tests(|line| {
            bad.iter().any(|word| contains_word(line, word) && !line.contains("extern crate std"))
        })
    });
    none("protocol is sans-IO: no std, no async", hits);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let outside = tree("rs").filter(|f| !UNSAFE_HOMES.iter().any(|home| f.path.starts_with(home)));
    none(
        "`unsafe` outside edge::ring, edge::catalog and agent::sys",
        outside.flat_map(|f| f.lines(|line| contains_word(line, "unsafe") && !line.trim_start().starts_with("#!["))),
    );
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    let mut bad = Vec::new();
    for file in tree("rs") {
        let raw: Vec<&str> = file.raw.lines().collect();
        for (i, line) in file.code.lines().enumerate() {
            let block = ["unsafe {", "unsafe impl", "unsafe extern"].iter().any(|word| contains_word(line, word));
            let function = contains_word(line, "unsafe fn");
            let above = &raw[i.saturating_sub(SAFETY_WITHIN)..=i];
            let wanted = if function { "Safety" } else { "SAFETY:" };
            if (block || function) && !above.iter().any(|line| line.contains(wanted) || line.contains("SAFETY:")) {
                bad.push(format!("{}:{}: {}", file.path, i + 1, line.trim()));
            }
        }
    }
    none("`unsafe` without a SAFETY: comment", bad);
}

#[test]
fn nothing_is_left_to_do() {
    let left = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "#![ignore"];
    none("unfinished code", tree("rs").flat_map(|f| f.lines(|line| left.iter().any(|word| line.contains(word)))));
}

#[test]
fn files_are_about_one_thing() {
    let long = tree("rs").chain(tree("sh")).filter(|f| f.raw.lines().count() > LINES_MAX);
    none("files over 700 lines", long.map(|f| format!("{}: {} lines", f.path, f.raw.lines().count())));
}

#[test]
fn plans_only_decide() {
    let plans = tree("rs").filter(|f| f.path.starts_with("control/src/") && f.path.contains("/plan"));
    let acts = ["async", "await", "tokio", "reqwest", "hyper", "kube"];
    none(
        "a plan that does more than decide",
        plans.flat_map(|f| f.lines(|l| acts.iter().any(|word| contains_word(l, word)))),
    );
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // Put together here, or this file would name them.
    let places = [
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!("/root/.ca", "rgo"),
        "/home/",
        concat!("arti", "factory"),
        concat!("index.crates", ".io"),
    ];
    let files = ["rs", "md", "toml", "sh", "yaml", "json", "Makefile", "run"].into_iter().flat_map(tree);
    let own = |f: &File| f.path == "tests/tidy.rs";
    let hits =
        files.filter(|f| !own(f)).flat_map(|f| f.raw_lines(|line| places.iter().any(|place| line.contains(place))));
    none("places that only exist on one machine", hits);
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let pages = tree("md").filter(|f| f.path == "README.md" || f.path.starts_with("docs/"));
    let mut dead = Vec::new();
    for page in pages {
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new("")).to_path_buf();
        for (number, target) in source::links(&page.raw) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty()
                && !path.contains("://")
                && !path.starts_with("mailto:")
                && !root().join(&folder).join(path).exists()
            {
                dead.push(format!("{}:{number}: {target}", page.path));
            }
        }
    }
    none("links to nothing", dead);
}

/// Whether `word` stands in `line` without a letter, digit or `_` on either side.
fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let ends_in_word = word.chars().next_back().is_some_and(part);
        let after = ends_in_word && line[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

/// Fails with the whole list.
fn none(what: &str, found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
