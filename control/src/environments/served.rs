//! Whole sets of files: what machines are given. A set replaces the one before
//! only when every file of it is here, so that nobody loads the kernel of one
//! version with the initrd of another, and so that the version before stays
//! served while a new one fails (F16). Sets outlive restarts.

use super::wanted::{Role, Variant, format};
use crate::publish::{Names, Stored};
use crate::resource::Image;
use crate::store::{Store, StoreError};
use protocol::id::Arch;
use protocol::report::ImageFormat;
use redb::{ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is served, by `ENVIRONMENT/ARCH`.
const SERVED: TableDefinition<&str, &[u8]> = TableDefinition::new("served");

/// Which set: environment and architecture.
pub type Key = (String, Arch);

/// One environment's files for one architecture, as they are served.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Set {
    /// By the last part of their names.
    pub files: BTreeMap<String, Stored>,
    /// Kernel arguments of that version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// How its image is to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The plain Sidero path (`env/NAME/vmlinuz`) leads here.
    #[serde(default)]
    pub plain: bool,
}

impl Set {
    /// The set of a variant, where every file of it is here.
    pub fn of(
        variant: &Variant,
        plain: bool,
        find: impl Fn(&crate::config::AssetSource) -> Option<Stored>,
    ) -> Option<Self> {
        if variant.files.is_empty() || !variant.missing.is_empty() {
            return None;
        }
        let file = |(role, source): &(Role, _)| Some((variant.file_name(*role).to_owned(), find(source)?));
        let files: Option<BTreeMap<String, Stored>> = variant.files.iter().map(file).collect();
        Some(Self { files: files?, args: variant.args.clone(), image: variant.image.clone(), plain })
    }

    /// The image, its format, and the file that it is served as.
    pub fn image(&self) -> Option<(&Image, ImageFormat, &str, Stored)> {
        let image = self.image.as_ref()?;
        let (file, stored) = self.files.first_key_value()?;
        Some((image, format(image), file, *stored))
    }
}

/// The names of sets, for the edge.
pub fn names(sets: &BTreeMap<Key, Set>) -> Names {
    let mut names = Names::new();
    for ((name, arch), set) in sets {
        for (file, stored) in &set.files {
            let entry = stored.entry("application/octet-stream");
            if set.plain {
                names.insert(format!("env/{name}/{file}"), entry.clone());
            }
            names.insert(format!("env/{name}/{arch}/{file}"), entry);
        }
    }
    names
}

/// The sets of the last run whose files are whole on disk.
pub fn recall(store: &Store, whole: impl Fn(Stored) -> bool) -> BTreeMap<Key, Set> {
    let rows = || -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let txn = store.read()?;
        let Ok(table) = txn.open_table(SERVED) else { return Ok(Vec::new()) };
        table
            .iter()?
            .map(|row| row.map(|(k, v)| (k.value().to_owned(), v.value().to_vec())))
            .collect::<Result<_, _>>()
            .map_err(StoreError::from)
    };
    let rows = rows().unwrap_or_else(|e| {
        tracing::warn!(error = %e, "what was served before is not known; it is fetched again");
        Vec::new()
    });
    let parse = |(key, row): (String, Vec<u8>)| {
        let (name, arch) = key.rsplit_once('/')?;
        Some(((name.to_owned(), arch.parse().ok()?), serde_json::from_slice::<Set>(&row).ok()?))
    };
    let there = |set: &Set| set.files.values().all(|stored| whole(*stored));
    rows.into_iter().filter_map(parse).filter(|(_, set)| there(set)).collect()
}

/// Writes down what is served now, in place of what was.
pub async fn remember(store: &Store, sets: &BTreeMap<Key, Set>) -> Result<(), StoreError> {
    let rows: Vec<(String, Vec<u8>)> = sets
        .iter()
        .map(|((name, arch), set)| (format!("{name}/{arch}"), serde_json::to_vec(set).unwrap_or_default()))
        .collect();
    store
        .write(move |txn| {
            let mut table = txn.open_table(SERVED)?;
            table.retain(|key, _| rows.iter().any(|(k, _)| k == key))?;
            for (key, row) in &rows {
                if table.get(key.as_str())?.is_none_or(|old| old.value() != row.as_slice()) {
                    table.insert(key.as_str(), row.as_slice())?;
                }
            }
            Ok(())
        })
        .await
}
