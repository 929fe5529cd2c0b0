//! The signature under a wipe record: whoever reads it later can tell that
//! this stoker wrote it, and that nobody has changed it.

use crate::resource::WipeRecord;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::io;
use std::path::Path;

/// Control's key.
pub struct Signer {
    key: Ed25519KeyPair,
}

impl Signer {
    /// Reads the key (PKCS #8, mode 0600), making it where there is none.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or is no key.
    pub fn open(file: &Path) -> io::Result<Self> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let fresh = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(io::Error::other)?;
                let folder = file.parent().unwrap_or_else(|| Path::new("."));
                let mut temp = tempfile::Builder::new()
                    .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
                    .tempfile_in(folder)?;
                temp.write_all(fresh.as_ref())?;
                temp.as_file().sync_all()?;
                temp.persist(file).map_err(|e| e.error)?;
                std::fs::OpenOptions::new().read(true).custom_flags(0).open(folder)?.sync_all()?;
                fresh.as_ref().to_vec()
            }
            Err(e) => return Err(e),
        };
        let key = Ed25519KeyPair::from_pkcs8(&bytes)
            .map_err(|e| io::Error::other(format!("{} is no Ed25519 key: {e}", file.display())))?;
        Ok(Self { key })
    }

    /// A key of this process alone.
    ///
    /// # Errors
    /// Without random numbers.
    pub fn fresh() -> io::Result<Self> {
        let bytes = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(io::Error::other)?;
        Ed25519KeyPair::from_pkcs8(bytes.as_ref()).map(|key| Self { key }).map_err(io::Error::other)
    }

    /// Signs a record over the JSON of all its other fields.
    pub fn sign(&self, record: &mut WipeRecord) {
        record.key = hex(self.key.public_key().as_ref());
        record.signature.clear();
        record.signature = hex(self.key.sign(&text(record)).as_ref());
    }
}

/// Whether a record is as it was signed, by the key that it names.
pub fn holds(record: &WipeRecord) -> bool {
    let (Some(key), Some(signature)) = (unhex(&record.key), unhex(&record.signature)) else { return false };
    let bare = WipeRecord { signature: String::new(), ..record.clone() };
    UnparsedPublicKey::new(&ED25519, key).verify(&text(&bare), &signature).is_ok()
}

fn text(record: &WipeRecord) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_record_that_was_changed_does_not_hold_and_the_key_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wipe.key");
        let mut record = WipeRecord { order: 7, server: "a/b".into(), ..WipeRecord::default() };
        Signer::open(&file).unwrap().sign(&mut record);
        assert!(holds(&record));
        assert!(!holds(&WipeRecord { order: 8, ..record.clone() }));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = record.clone();
        Signer::open(&file).unwrap().sign(&mut again);
        assert_eq!(again, record, "the same key after a restart");
        std::fs::write(&file, "nonsense").unwrap();
        assert!(Signer::open(&file).is_err());
    }
}
