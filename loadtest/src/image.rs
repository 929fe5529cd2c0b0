//! The file that is fetched: known to the client byte by byte, so that a
//! server's answer can be compared and not only counted.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The name under which every server offers the image.
pub const NAME: &str = "image.bin";
/// No generated image may be larger, bytes: it is held in memory.
pub const MAX_SIZE: u64 = 4 << 30;

/// The bytes of the image.
#[derive(Clone, Debug)]
pub struct Image {
    /// All of them.
    pub bytes: Arc<[u8]>,
}

impl Image {
    /// `size` bytes without a pattern that a block sent twice or out of place could hide in.
    ///
    /// # Errors
    /// When `size` is over [`MAX_SIZE`].
    pub fn generate(size: u64) -> Result<Self> {
        ensure!(
            size <= MAX_SIZE,
            "a file of {size} bytes is larger than the {MAX_SIZE} that a load test holds in memory"
        );
        let size = usize::try_from(size)?;
        let mut bytes = Vec::with_capacity(size + 8);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while bytes.len() < size {
            // xorshift64: never repeats a word within 2^64 of them.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(size);
        Ok(Self { bytes: bytes.into() })
    }

    /// The bytes of a file: what an external target serves.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { bytes: bytes.into() })
    }

    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether `part` is what stands at `offset`.
    pub fn holds(&self, offset: u64, part: &[u8]) -> bool {
        let Ok(start) = usize::try_from(offset) else { return false };
        let end = start.checked_add(part.len());
        end.and_then(|end| self.bytes.get(start..end)) == Some(part)
    }

    /// Writes it as [`NAME`] into `root`, readable by the users that servers turn into.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_into(&self, root: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = root.join(NAME);
        fs::write(&path, &self.bytes).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_knows_its_bytes_and_nothing_else() {
        let image = Image::generate(10_000).unwrap();
        assert_eq!(image.len(), 10_000);
        assert!(image.holds(9_000, &image.bytes[9_000..]));
        assert!(!image.holds(8_999, &image.bytes[9_000..]));
        assert!(!image.holds(9_999, &image.bytes[9_999..].repeat(2)));
        assert!(!image.holds(u64::MAX, &[0]));
        assert!(image.holds(10_000, &[]));
    }

    #[test]
    fn no_two_blocks_are_alike() {
        let image = Image::generate(1 << 20).unwrap();
        let blocks: std::collections::HashSet<_> = image.bytes.chunks(512).collect();
        assert_eq!(blocks.len(), (1 << 20) / 512);
    }

    #[test]
    fn too_large_an_image_is_refused() {
        assert!(Image::generate(MAX_SIZE + 1).is_err());
    }
}
