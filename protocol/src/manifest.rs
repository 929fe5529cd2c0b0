//! Control to the edge: which names are which bytes.
//!
//! Control writes `manifest.json` beside and renames it over; the edge loads
//! it, opens and verifies the objects, and answers in `edge.state`
//! ([`EdgeState`]). The manifest names bytes, never machines.
//!
//! Folder layout under the state directory that both processes share:
//!
//! ```text
//! publish/manifest.json         written by control, renamed into place
//! publish/objects/sha256/<hex>  immutable, named by their SHA-256
//! edge/edge.state               written by the edge, renamed into place
//! run/events.sock               Unix datagram socket, bound by control
//! ```

use crate::id::hex_pair;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The oldest manifest this reader understands.
pub const MIN: u32 = 1;
/// The version that this writer writes.
pub const CURRENT: u32 = 1;
/// No manifest may be larger, bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// No manifest may name more entries.
pub const MAX_ENTRIES: usize = 4096;
/// No entry name may be longer, bytes.
pub const MAX_NAME: usize = 255;

/// A SHA-256 digest; prints and parses as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 32]);

impl ObjectId {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(out, "{b:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl core::str::FromStr for ObjectId {
    type Err = crate::id::BadId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const BAD: crate::id::BadId = crate::id::BadId { expected: "a SHA-256 digest: 64 hex digits" };
        if text.len() != 64 {
            return Err(BAD);
        }
        let mut id = [0; 32];
        for (out, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *out = hex_pair(pair[0], pair[1]).ok_or(BAD)?;
        }
        Ok(Self(id))
    }
}

impl Serialize for ObjectId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One generation of names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the language ([`MIN`]..=[`CURRENT`]).
    pub version: u32,
    /// Rises with every publication; the edge never goes back.
    pub generation: u64,
    /// Name (a relative path such as `tftp/snponly.efi`) to object.
    pub entries: BTreeMap<String, Entry>,
    /// SHA-256 over version, generation and entries as [`Manifest::digest`] reckons it.
    pub digest: ObjectId,
}

/// What one name stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The object's name and digest.
    pub object: ObjectId,
    /// Its exact length, bytes.
    pub length: u64,
    /// HTTP Content-Type.
    pub content_type: String,
}

/// Why a manifest was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadManifest {
    /// Larger than [`MAX_BYTES`].
    TooLarge,
    /// Not the JSON that it should be.
    Syntax(String),
    /// A version outside [`MIN`]..=[`CURRENT`].
    Version(u32),
    /// The digest does not match: half-written or edited by hand.
    Digest,
    /// More than [`MAX_ENTRIES`].
    TooManyEntries(usize),
    /// A name that is not a plain relative path.
    Name(String),
}

impl fmt::Display for BadManifest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(out, "manifest is larger than {MAX_BYTES} bytes"),
            Self::Syntax(why) => write!(out, "manifest cannot be read: {why}"),
            Self::Version(v) => write!(out, "manifest version {v}, this edge understands {MIN} to {CURRENT}"),
            Self::Digest => out.write_str("manifest does not match its own digest: damaged or edited by hand"),
            Self::TooManyEntries(n) => write!(out, "manifest names {n} entries, at most {MAX_ENTRIES} are allowed"),
            Self::Name(name) => write!(out, "manifest entry {name:?} is not a plain relative path"),
        }
    }
}

impl core::error::Error for BadManifest {}

impl Manifest {
    /// A manifest of these entries, with its digest.
    pub fn new(generation: u64, entries: BTreeMap<String, Entry>) -> Self {
        let mut manifest = Self { version: CURRENT, generation, entries, digest: ObjectId([0; 32]) };
        manifest.digest = manifest.digest();
        manifest
    }

    /// Reads and checks a manifest file.
    ///
    /// # Errors
    /// Every way in which it can be unfit, see [`BadManifest`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadManifest> {
        if bytes.len() > MAX_BYTES {
            return Err(BadManifest::TooLarge);
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let syntax = |e: serde_json::Error| BadManifest::Syntax(e.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(syntax)?;
        if !(MIN..=CURRENT).contains(&version) {
            return Err(BadManifest::Version(version));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        if manifest.digest != manifest.digest() {
            return Err(BadManifest::Digest);
        }
        if manifest.entries.len() > MAX_ENTRIES {
            return Err(BadManifest::TooManyEntries(manifest.entries.len()));
        }
        match manifest.entries.keys().find(|name| !is_plain_path(name)) {
            Some(name) => Err(BadManifest::Name(name.chars().take(MAX_NAME).collect())),
            None => Ok(manifest),
        }
    }

    /// The file to write.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// The digest that the present contents should carry: SHA-256 over lines of
    /// decimal numbers and length-prefixed texts, independent of JSON layout.
    pub fn digest(&self) -> ObjectId {
        let mut hash = Sha256::new();
        hash.update(alloc::format!("stoker manifest {} {}\n", self.version, self.generation));
        for (name, e) in &self.entries {
            let (nl, tl) = (name.len(), e.content_type.len());
            hash.update(alloc::format!("{nl}:{name} {} {} {tl}:{}\n", e.object, e.length, e.content_type));
        }
        ObjectId(hash.finalize().into())
    }
}

/// A relative path of printable ASCII without empty, `.` or `..` components,
/// without backslashes: what a manifest may name and a request may ask for.
pub fn is_plain_path(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|c| c.is_ascii_graphic() && c != b'\\')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The edge's answer, written to `edge.state` as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EdgeState {
    /// Version of this file ([`CURRENT`] of the writer).
    pub version: u32,
    /// Process id of the edge.
    pub pid: u32,
    /// When the edge wrote this, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// The generation being served; 0 before the first.
    pub generation: u64,
    /// Entries (or the manifest itself, under the name `manifest.json`) that could not be served, and why.
    pub refused: BTreeMap<String, String>,
    /// Which driver runs: `uring` or `epoll`.
    pub driver: String,
    /// Addresses served on, by service (`tftp`, `http`, `metrics`).
    pub listen: BTreeMap<String, Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let entry = Entry { object: ObjectId::of(b"x"), length: 1, content_type: "application/efi".into() };
        Manifest::new(3, BTreeMap::from([("tftp/snponly.efi".to_string(), entry)]))
    }

    #[test]
    fn a_manifest_survives_its_file() {
        let m = sample();
        assert_eq!(Manifest::parse(&m.to_bytes()), Ok(m));
    }

    #[test]
    fn version_1_is_frozen() {
        // Written by version 1. Do not change this text: an edge must go on reading it.
        let text = br#"{"version":1,"generation":3,"entries":{"tftp/snponly.efi":{"object":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","length":1,"content_type":"application/efi"}},"digest":"DIGEST"}"#;
        let text = core::str::from_utf8(text).unwrap().replace("DIGEST", &sample().digest.to_string());
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(sample()));
    }

    #[test]
    fn a_changed_manifest_is_refused() {
        let text = alloc::string::String::from_utf8(sample().to_bytes()).unwrap();
        assert_eq!(
            Manifest::parse(text.replace("\"length\": 1", "\"length\": 2").as_bytes()),
            Err(BadManifest::Digest)
        );
        assert_eq!(
            Manifest::parse(text.replace("\"version\": 1", "\"version\": 9").as_bytes()),
            Err(BadManifest::Version(9))
        );
        assert!(matches!(Manifest::parse(&text.as_bytes()[..40]), Err(BadManifest::Syntax(_))));
    }

    #[test]
    fn only_plain_names_pass() {
        for name in ["a", "tftp/x.efi", "env/default/vmlinuz"] {
            assert!(is_plain_path(name), "{name}");
        }
        for name in ["", "/a", "a//b", "../a", "a/..", "a/./b", "a\\b", "a b", "a\0", "é"] {
            assert!(!is_plain_path(name), "{name}");
        }
    }
}
