//! What becomes of a manifest. Knows files and the catalog; no threads, no clock.

use crate::catalog::objects::Objects;
use crate::catalog::{Budget, Catalog, Image, LoadError, Named};
use crate::limits;
use crate::ring::Waker;
use protocol::manifest::{Entry, MAX_BYTES, Manifest, ObjectId};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Under this name refusals of the manifest itself are listed.
pub const MANIFEST: &str = "manifest.json";

/// What a look at the manifest came to.
pub enum Outcome {
    /// A new catalog.
    Loaded(Arc<Catalog>),
    /// The generation that is served already.
    Same,
    /// There is no manifest, and there never was.
    Absent,
    /// The manifest as a whole was refused; what was served is served.
    Refused,
}

/// The catalog that is served, and how it came to be.
pub struct Loader {
    folder: PathBuf,
    budget: Arc<Budget>,
    framer: Option<Waker>,
    catalog: Arc<Catalog>,
    /// Digest of the manifest that the catalog was made from.
    digest: Option<ObjectId>,
    /// Every image that someone still holds, so that none is loaded twice.
    images: HashMap<ObjectId, Weak<Image>>,
    refused: BTreeMap<String, String>,
}

impl Loader {
    /// Serves nothing yet. `folder` is `publish`; `framer` is woken by wishes for pre-framed forms.
    pub fn new(folder: PathBuf, budget: Arc<Budget>, framer: Option<Waker>) -> Self {
        Self {
            folder,
            budget,
            framer,
            catalog: Arc::default(),
            digest: None,
            images: HashMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// The folder with the manifest.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is served.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What is not served, and why.
    pub fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// Looking again may help: an object may have been repaired, memory freed.
    pub fn unsettled(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Looks at the manifest and loads what is new. `now` is the wall clock, seconds since 1970 UTC.
    ///
    /// At start any generation is taken; afterwards it only rises. The same
    /// generation with other contents is refused, so a number means one thing.
    pub fn load(&mut self, now: u64) -> Outcome {
        let manifest = match self.read() {
            Ok(Some(manifest)) => manifest,
            Ok(None) if self.digest.is_none() => {
                self.refused.clear();
                return Outcome::Absent;
            }
            Ok(None) => return self.refuse("it has been removed; publish it again".to_owned()),
            Err(why) => return self.refuse(why),
        };
        let (new, serving) = (manifest.generation, self.catalog.generation);
        match self.digest {
            _ if new == 0 => return self.refuse("generations begin at 1; publish it again".to_owned()),
            Some(_) if new < serving => {
                return self.refuse(format!(
                    "generation {new} is older than {serving}, which is served; publish a higher one"
                ));
            }
            Some(digest) if new == serving && digest != manifest.digest => {
                return self.refuse(format!(
                    "generation {new} is served already and meant other contents; publish a higher one"
                ));
            }
            Some(_) if new == serving && !self.unsettled() => return Outcome::Same,
            _ => {}
        }
        self.take(&manifest, now)
    }

    fn read(&self) -> Result<Option<Manifest>, String> {
        let mut bytes = Vec::new();
        let file = match File::open(self.folder.join(MANIFEST)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other,
        };
        file.and_then(|f| f.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|e| format!("it cannot be read: {e}; check the folder's permissions"))?;
        Manifest::parse(&bytes).map(Some).map_err(|e| format!("{e}; publish it again"))
    }

    fn refuse(&mut self, why: String) -> Outcome {
        let keeps = match self.catalog.loaded() {
            true => format!("; generation {} goes on being served", self.catalog.generation),
            false => String::new(),
        };
        self.refused.insert(MANIFEST.to_owned(), format!("{why}{keeps}"));
        Outcome::Refused
    }

    fn take(&mut self, manifest: &Manifest, now: u64) -> Outcome {
        let mut catalog = Catalog { generation: manifest.generation, ..Catalog::default() };
        let mut refused = BTreeMap::new();
        let mut failed: HashMap<ObjectId, String> = HashMap::new();
        let objects = Objects::open(&self.folder.join("objects"));
        for (name, entry) in &manifest.entries {
            let tried = match failed.get(&entry.object) {
                Some(why) => Err(why.clone()),
                None => self.image(&objects, entry).map_err(|e| e.to_string()),
            };
            let old = self.catalog.get(name);
            match tried {
                Ok(image) => {
                    let modified = match old {
                        Some(old) if old.image.id() == entry.object => old.modified,
                        // Rises even where the clock does not.
                        Some(old) => now.max(old.modified + 1),
                        None => now,
                    };
                    let content_type = entry.content_type.as_str().into();
                    catalog.names.insert(name.as_str().into(), Named { image, content_type, modified });
                }
                Err(why) => {
                    failed.insert(entry.object, why.clone());
                    let kept = old.map(|old| format!("; object {} goes on being served", old.image.id()));
                    match old {
                        Some(old) => drop(catalog.names.insert(name.as_str().into(), old.clone())),
                        None => drop(catalog.refused.insert(name.as_str().into())),
                    }
                    if refused.len() < limits::FEED_REFUSALS {
                        refused.insert(name.clone(), why + &kept.unwrap_or_default());
                    }
                }
            }
        }
        // A second look at a generation with refusals, and nothing got better.
        let same = self.digest == Some(manifest.digest) && same_bytes(&self.catalog, &catalog);
        self.refused = refused;
        self.digest = Some(manifest.digest);
        self.images.retain(|_, image| image.strong_count() > 0);
        if same {
            return Outcome::Same;
        }
        self.catalog = Arc::new(catalog);
        Outcome::Loaded(self.catalog.clone())
    }

    fn image(&mut self, objects: &io::Result<Objects>, entry: &Entry) -> Result<Arc<Image>, LoadError> {
        let id = entry.object;
        if let Some(image) = self.images.get(&id).and_then(Weak::upgrade) {
            let found = image.len();
            return if found == entry.length {
                Ok(image)
            } else {
                Err(LoadError::Length { id, expected: entry.length, found })
            };
        }
        let image = match objects {
            Ok(objects) => objects.load(id, entry.length, &self.budget, self.framer.clone())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(LoadError::Missing(id)),
            Err(e) => return Err(LoadError::Unreadable { id, why: io::Error::from(e.kind()) }),
        };
        self.images.insert(id, Arc::downgrade(&image));
        Ok(image)
    }
}

fn same_bytes(a: &Catalog, b: &Catalog) -> bool {
    let same = |name: &str, x: &Named| b.get(name).is_some_and(|y| Arc::ptr_eq(&x.image, &y.image));
    a.names.len() == b.names.len() && a.refused == b.refused && a.names.iter().all(|(name, x)| same(name, x))
}
