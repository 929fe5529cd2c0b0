//! Boots on disk: one JSON line a machine, replaced whole. Nothing depends on
//! it but the operator's memory, so what cannot be read is left out.

use crate::api::types::Boot;
use crate::limits;
use crate::publish::{PublishError, replace_file};
use protocol::id::Mac;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

#[derive(Serialize, Deserialize)]
struct Line<B> {
    mac: Mac,
    boots: B,
}

pub(super) fn write(path: &Path, stories: &BTreeMap<Mac, VecDeque<Boot>>) -> Result<(), PublishError> {
    let mut text = Vec::new();
    for (mac, boots) in stories {
        let before = text.len();
        if serde_json::to_writer(&mut text, &Line { mac: *mac, boots }).is_err() {
            text.truncate(before);
            continue;
        }
        text.push(b'\n');
    }
    replace_file(path, &text)
}

pub(super) fn read(path: &Path) -> Vec<(Mac, VecDeque<Boot>)> {
    let Ok(file) = std::fs::File::open(path) else { return Vec::new() };
    let mut unreadable = 0;
    let stories = BufReader::new(file.take(limits::SNAPSHOT_BYTES))
        .split(b'\n')
        .map_while(Result::ok)
        .filter_map(|line| match serde_json::from_slice::<Line<VecDeque<Boot>>>(&line) {
            Ok(Line { mac, mut boots }) => {
                boots.truncate(limits::BOOTS);
                boots.iter_mut().for_each(|b| b.steps.truncate(limits::STEPS));
                Some((mac, boots))
            }
            Err(_) => {
                unreadable += 1;
                None
            }
        })
        .collect();
    if unreadable > 0 {
        tracing::warn!(path = %path.display(), unreadable, "boots of some machines cannot be read and are forgotten");
    }
    stories
}
