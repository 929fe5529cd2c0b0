//! Every item of the conformance lists has a test, or a reason why it has none.
//!
//! `docs/conformance/*.md` hold tables: the id alone in the first cell, then
//! what it says, then the tests in backticks, or `not applicable: reason`.

use crate::source::{root, tree};
use std::collections::{BTreeMap, BTreeSet};

/// The lists: letter, page, number of the last item.
const LISTS: &[(char, &str, u32)] = &[
    ('T', "docs/conformance/tftp.md", 69),
    ('D', "docs/conformance/dhcp.md", 46),
    ('H', "docs/conformance/http.md", 43),
    ('W', "docs/conformance/wipe.md", 14),
    ('M', "docs/conformance/metadata.md", 17),
];

#[test]
fn every_item_has_a_test_or_a_reason() {
    let tests = all_functions();
    let mut bad = Vec::new();
    for &(letter, page, last) in LISTS {
        let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        let rows = rows(&text, letter);
        for number in 1..=last {
            let id = format!("{letter}{number}");
            match rows.get(&number) {
                None => bad.push(format!("{page}: {id} has no row")),
                Some(row) => {
                    bad.extend(faults(row, &id, &tests).into_iter().map(|fault| format!("{page}: {id} {fault}")))
                }
            }
        }
        let strange = rows.keys().filter(|n| !(1..=last).contains(*n));
        bad.extend(strange.map(|n| format!("{page}: there is no {letter}{n}")));
    }
    crate::none("promises without proof", bad);
}

/// What is wrong with one row.
fn faults(row: &str, id: &str, tests: &BTreeSet<String>) -> Vec<String> {
    if let Some((_, reason)) = row.split_once("not applicable:") {
        let reason = reason.trim_matches([' ', '|']);
        return if reason.len() < 10 { vec!["is `not applicable` without a reason".to_owned()] } else { Vec::new() };
    }
    let names = row.split('`').skip(1).step_by(2).map(|name| name.rsplit("::").next().unwrap_or(name));
    let names: Vec<&str> = names.filter(|name| name.contains('_')).collect();
    let (known, unknown): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| is_known(name, tests));
    let prefix = id.to_lowercase();
    let is_id = |name: &str| name.split('_').any(|part| part == prefix);
    let mut faults: Vec<String> = unknown
        .into_iter()
        .filter(|name| is_id(name))
        .map(|name| format!("names the test `{name}`, which does not exist"))
        .collect();
    if known.is_empty() {
        faults.push("names no test that exists".to_owned());
    }
    faults
}

/// `d12_*` and `d12_...` stand for all tests that begin so, of which there must be one.
fn is_known(name: &str, tests: &BTreeSet<String>) -> bool {
    let beginning = name.strip_suffix('*').or_else(|| name.strip_suffix("..."));
    match beginning {
        Some(beginning) => tests.range(beginning.to_owned()..).next().is_some_and(|test| test.starts_with(beginning)),
        None => tests.contains(name),
    }
}

/// Table rows by the numbers in their first cell.
fn rows(page: &str, letter: char) -> BTreeMap<u32, String> {
    let mut rows: BTreeMap<u32, String> = BTreeMap::new();
    for line in page.lines() {
        let Some(first) = line.trim().strip_prefix('|').and_then(|l| l.split('|').next()) else { continue };
        // One row may stand for several: `D35, D36`.
        for id in first.split(',') {
            let number = id.trim().trim_matches(['*', '`']).strip_prefix(letter).and_then(|n| n.parse().ok());
            if let Some(number) = number {
                rows.entry(number).or_default().push_str(line);
            }
        }
    }
    rows
}

/// The names of all functions below a `#[test]`, a `proptest!` or a macro that makes tests.
fn all_functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in tree("rs") {
        for (at, _) in file.code.match_indices("fn ") {
            let name = file.code[at + 3..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
            names.extend(name.filter(|n| !n.is_empty()).map(str::to_owned));
        }
        // Names handed to a macro that makes one test for each driver.
        for word in file.code.split(|c: char| !c.is_alphanumeric() && c != '_') {
            if is_test_name(word) {
                names.insert(word.to_owned());
            }
        }
    }
    names
}

/// `t24_duplicate_ack...`: a letter of a list, digits, words.
fn is_test_name(word: &str) -> bool {
    let Some((id, rest)) = word.split_once('_') else { return false };
    let number = id.strip_prefix(['t', 'd', 'h', 'w', 'm']).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && rest.len() > 3
}

#[test]
fn rows_and_their_faults_are_seen() {
    let page = "| id | what | tests |\n|---|---|---|\n| T1 | small file | `a::t1_small_file` |\n| **T2** | x | not applicable: no such thing here |\n| T3 | | |\n| T4, T5 | | |\n";
    let rows = rows(page, 'T');
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let tests = BTreeSet::from(["t1_small_file".to_owned()]);
    assert!(faults(&rows[&1], "T1", &tests).is_empty());
    assert!(faults(&rows[&2], "T2", &tests).is_empty());
    assert!(!faults(&rows[&3], "T3", &tests).is_empty());
    assert!(!faults("| T4 | x | not applicable: |", "T4", &tests).is_empty());
    assert!(faults("| T1 | x | `t1_*`, `t1_small_...` |", "T1", &tests).is_empty());
    assert_eq!(faults("| T1 | x | `t1_large_*` `t1_small_file` |", "T1", &tests).len(), 1);
    assert_eq!(faults("| T1 | x | `t1_gone` `t1_small_file` |", "T1", &tests).len(), 1);
    assert!(is_test_name("t24_duplicate_ack") && !is_test_name("t_raw") && !is_test_name("tx1_long"));
}
