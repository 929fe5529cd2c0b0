//! Disk images as the agent's orders name them.

use super::{Environments, lock, unpacked};
use crate::publish::Stored;
use crate::resource::Image;
use protocol::id::Arch;
use protocol::report::ImageFormat;

/// An image that is served.
#[derive(Clone, PartialEq, Debug)]
pub struct ServedImage {
    /// The name under which the edge has it.
    pub name: String,
    /// Its bytes as served.
    pub stored: Stored,
    /// How its object wants it written.
    pub image: Image,
    /// How it is packed.
    pub format: ImageFormat,
    /// Bytes on the disk, at least, as far as its headers tell.
    pub unpacked: u64,
    /// Why the edge does not serve it.
    pub refused: Option<String>,
}

impl Environments {
    /// The image of an environment for machines of this architecture; nothing where it is none, or
    /// not here yet.
    pub fn image(&self, name: &str, arch: Arch) -> Option<ServedImage> {
        let (name, image, format, stored) = {
            let inner = lock(&self.inner);
            let (arch, set) = self.set(&inner, name, arch).ok()?;
            let (image, format, file, stored) = set.image()?;
            (format!("env/{name}/{arch}/{file}"), image.clone(), format, stored)
        };
        let mut sizes = lock(&self.unpacked);
        let unpacked = *sizes.entry(stored.object).or_insert_with(|| {
            unpacked::at_least(&self.publisher.objects().path(stored.object), format, stored.length)
        });
        drop(sizes);
        let refused = self.refused(&[&name]);
        Some(ServedImage { name, stored, image, format, unpacked, refused })
    }

    /// Why the edge does not serve one of these names, where it says so.
    pub fn refused(&self, names: &[&str]) -> Option<String> {
        let edge = self.publisher.edge_state()?;
        let why = |name: &&str| Some(format!("the edge does not serve {name}: {}", edge.refused.get(*name)?));
        names.iter().find_map(why)
    }
}
