//! What a node asked for, as a name of the catalog.
//!
//! Names are keys of a map and never reach the file system; what is refused
//! here could not be found anyway, but deserves a word in the log.

use protocol::id::Mac;
use protocol::manifest::{MAX_NAME, is_plain_path};

/// A path that a node asked for, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<'a> {
    /// The machine, where the path began with its MAC address (`52-54-00-12-34-56/ipxe.efi`).
    pub mac: Option<Mac>,
    /// The name to look up.
    pub name: &'a str,
}

/// Why a path names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadPath {
    /// Empty, or nothing but slashes.
    Empty,
    /// Longer than a name can be.
    TooLong,
    /// `..`, `.`, `//`, a backslash, a drive, a control character or a byte outside ASCII.
    NotPlain,
}

impl BadPath {
    /// Words for the operator.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "no file named",
            Self::TooLong => "file name too long",
            Self::NotPlain => "not a plain file name",
        }
    }
}

/// Takes a requested path apart: one leading slash (iPXE and some ROMs send
/// it) and a leading MAC address are stripped, everything that is not a plain
/// relative path is refused. HTTP decodes percent signs before.
///
/// # Errors
/// See [`BadPath`].
pub fn resolve(path: &[u8]) -> Result<Asked<'_>, BadPath> {
    const MAC: usize = "52-54-00-12-34-56/".len();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Err(BadPath::Empty);
    }
    if path.len() > MAX_NAME + MAC {
        return Err(BadPath::TooLong);
    }
    let path = str::from_utf8(path).map_err(|_| BadPath::NotPlain)?;
    let (mac, name) = match path.split_once('/').map(|(first, rest)| (machine(first), rest)) {
        Some((mac @ Some(_), rest)) => (mac, rest),
        _ => (None, path),
    };
    let drive = matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    match name {
        "" => Err(BadPath::Empty),
        _ if name.len() > MAX_NAME => Err(BadPath::TooLong),
        _ if drive || !is_plain_path(name) => Err(BadPath::NotPlain),
        _ => Ok(Asked { mac, name }),
    }
}

/// Only the forms with separators: twelve bare hex digits may be a file's name.
fn machine(component: &str) -> Option<Mac> {
    if component.len() == 17 { component.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slash_and_mac_are_stripped() {
        let mac = Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        for (path, mac, name) in [
            ("tftp/x.efi", None, "tftp/x.efi"),
            ("/tftp/x.efi", None, "tftp/x.efi"),
            ("52-54-00-12-34-56/ipxe.efi", mac, "ipxe.efi"),
            ("/52:54:00:12:34:56/env/a/vmlinuz", mac, "env/a/vmlinuz"),
            ("525400123456/ipxe.efi", None, "525400123456/ipxe.efi"),
            ("a..b", None, "a..b"),
        ] {
            assert_eq!(resolve(path.as_bytes()), Ok(Asked { mac, name }), "{path}");
        }
    }

    #[test]
    fn t17_h08_what_is_no_plain_name_is_refused() {
        for path in [
            "../etc/passwd",
            "a/../b",
            "..\\x",
            "a\\b",
            "//etc/passwd",
            "a//b",
            "C:\\x",
            "C:/x",
            "c:x",
            "./a",
            "a/.",
            "a\0b",
            "a b",
            "a\r\nb",
            "\u{e9}",
            "52-54-00-12-34-56/../x",
            "52-54-00-12-34-56//x",
            "a/",
        ] {
            assert_eq!(resolve(path.as_bytes()), Err(BadPath::NotPlain), "{path:?}");
        }
        assert_eq!(resolve(b"\xff\xfe"), Err(BadPath::NotPlain));
        for path in ["", "/", "52-54-00-12-34-56/"] {
            assert_eq!(resolve(path.as_bytes()), Err(BadPath::Empty), "{path:?}");
        }
        assert_eq!(resolve(&[b'a'; MAX_NAME + 1]), Err(BadPath::TooLong));
        assert_eq!(resolve(&[b'a'; 9000]), Err(BadPath::TooLong));
        assert!(resolve(&[b'a'; MAX_NAME]).is_ok());
    }
}
