//! Bad input, on stable Rust and in every run of the tests: each decoder gets
//! its committed seeds, and a million random and mutated packets made of them.
//!
//! The same bodies are fuzz targets, see `tests/fuzz`. A failure prints the
//! input; put it into `tests/fuzz/seeds/<decoder>/` together with the repair.

#[path = "fuzz/bodies.rs"]
mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Inputs for each decoder, besides the seeds.
const INPUTS: u32 = 1_000_000;
/// No input is longer, bytes.
const LENGTH_MAX: usize = 2048;

/// The seeds of one decoder, in the order of their names.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    // Captures of real firmware stand with the other fixtures.
    for folder in [tests.join("fuzz/seeds").join(name), tests.join("fixtures").join(name)] {
        files.extend(std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("a seed can be read")).collect();
    assert!(!seeds.is_empty(), "tests/fuzz/seeds/{name} holds no seeds");
    seeds
}

fn replay(name: &str) {
    let (_, body) = bodies::BODIES.iter().find(|(body, _)| *body == name).expect("a body of that name");
    let run = |input: &[u8]| {
        let outcome = catch_unwind(AssertUnwindSafe(|| body(input)));
        assert!(outcome.is_ok(), "{name} broke on \"{}\"", input.escape_ascii());
    };
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| run(seed));
    let mut chance = Chance(0x5eed_0000 + name.len() as u64);
    let mut input = Vec::with_capacity(LENGTH_MAX);
    for _ in 0..INPUTS {
        mutate(&mut input, &seeds, &mut chance);
        run(&input);
    }
}

/// A seed (or nothing) with a few bytes changed, cut, doubled, or put in between.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], chance: &mut Chance) {
    input.clear();
    if chance.below(16) == 0 {
        let length = chance.below(64) * chance.below(32);
        input.extend((0..length).map(|_| chance.next() as u8));
    } else {
        input.extend_from_slice(&seeds[chance.below(seeds.len())]);
    }
    for _ in 0..chance.below(6) {
        let at = chance.below(input.len() + 1);
        let end = (at + chance.below(16)).min(input.len());
        match chance.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => input.extend_from_within(at..end),
            3 => input.insert(at, chance.next() as u8),
            4 => {
                let other = &seeds[chance.below(seeds.len())];
                input.truncate(at);
                input.extend_from_slice(&other[at.min(other.len())..]);
            }
            5 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)]),
            _ => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << chance.below(8)),
        }
    }
    input.truncate(LENGTH_MAX);
}

/// xorshift64*: the same inputs in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

macro_rules! replay {
    ($($test:ident: $name:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_body_is_replayed() {
            let replayed = [$(stringify!($name)),*];
            assert!(bodies::BODIES.iter().all(|(name, _)| replayed.contains(name)));
        }
    };
}

replay! {
    t69_a_million_packets_for_the_tftp_decoder: tftp_packet,
    t69_a_million_conversations_with_a_tftp_transfer: tftp_transfer,
    t69_a_million_answers_for_the_tftp_client: tftp_fetch,
    h43_a_million_connections: http_head,
    h43_a_million_ranges: http_range,
    d46_a_million_frames: dhcp,
    a_million_manifests: manifest,
    a_million_events: event,
    a_million_reports: report,
    a_million_smbios_tables: smbios,
    a_million_bmc_answers: ipmi,
}
