//! `edge.state`: the edge's answer to control, written beside and renamed over.

use super::Config;
use protocol::manifest::{CURRENT, EdgeState};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

pub(super) struct StateFile {
    folder: PathBuf,
    driver: String,
    listen: BTreeMap<String, Vec<String>>,
    written: bool,
}

impl StateFile {
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let folder = config.state_dir.join("edge");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, driver: config.driver.clone(), listen: config.listen.clone(), written: false })
    }

    /// Whether this process has written it yet.
    pub(super) fn written(&self) -> bool {
        self.written
    }

    pub(super) fn write(&mut self, generation: u64, refused: &BTreeMap<String, String>) -> io::Result<()> {
        let state = EdgeState {
            version: CURRENT,
            pid: std::process::id(),
            at_ms: crate::clock::wall_ms(),
            generation,
            refused: refused.clone(),
            driver: self.driver.clone(),
            listen: self.listen.clone(),
        };
        let beside = self.folder.join("edge.state.new");
        fs::write(&beside, serde_json::to_vec_pretty(&state)?)?;
        fs::rename(&beside, self.folder.join("edge.state"))?;
        self.written = true;
        Ok(())
    }
}
