//! Which names are which bytes, in one generation.
//!
//! Built by [`crate::feed`], read by the services; opens nothing on the hot
//! path. An [`Image`] lives as long as someone holds it, so a transfer goes on
//! from the generation in which it began.
//!
//! | file | what it is |
//! |---|---|
//! | [`objects`] | the folder of objects, opened beneath one root |
//! | [`image`] | an object, copied once and verified while it is copied |
//! | [`framed`] | its form with TFTP headers |
//! | [`map`] | the sealed memory of both: the only `unsafe` here |
//! | [`budget`] | how much memory they may take |
//! | [`path`] | what a node asked for, as a name |

pub mod budget;
pub mod framed;
pub mod image;
pub mod map;
pub mod objects;
pub mod path;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use framed::Framed;
pub use image::{Image, LoadError};
pub use path::{Asked, BadPath, resolve};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A name's meaning.
#[derive(Clone)]
pub struct Named {
    /// The bytes.
    pub image: Arc<Image>,
    /// HTTP Content-Type.
    pub content_type: Arc<str>,
    /// Since when this name has meant these bytes on this edge, seconds since
    /// 1970 UTC (HTTP Last-Modified). Rises whenever the bytes change.
    pub modified: u64,
}

impl Named {
    /// `image` with this content type, since the beginning of time.
    pub fn new(image: Arc<Image>, content_type: &str) -> Self {
        Self { image, content_type: content_type.into(), modified: 0 }
    }
}

/// All names of one generation.
#[derive(Default)]
pub struct Catalog {
    /// The manifest's generation; 0 before the first.
    pub generation: u64,
    /// Name to bytes.
    pub names: HashMap<Box<str>, Named>,
    /// Names of the manifest whose object could not be loaded, nor an older one be kept.
    pub refused: HashSet<Box<str>>,
}

impl Catalog {
    /// What a name means.
    pub fn get(&self, name: &str) -> Option<&Named> {
        self.names.get(name)
    }

    /// Whether the manifest has this name, but its object could not be loaded.
    pub fn refused(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    /// Whether any manifest has been loaded.
    pub fn loaded(&self) -> bool {
        self.generation > 0
    }
}
