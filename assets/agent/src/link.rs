//! Network interfaces as sysfs shows them.

use protocol::id::Mac;
use std::fs;
use std::path::{Path, PathBuf};

/// Interfaces looked at; more are not.
const MAX_INTERFACES: usize = 256;

/// An interface of real hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Such as `eth0`.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Its folder in sysfs.
    pub folder: PathBuf,
}

impl Link {
    /// Whether the cable carries a signal; false as long as the interface is down.
    pub fn has_carrier(&self) -> bool {
        text(&self.folder, "carrier").as_deref() == Some("1")
    }
}

/// Ethernet interfaces of hardware below `root` (`/sys`), by index: those with a device behind them.
pub fn hardware(root: &Path) -> Vec<Link> {
    let Ok(entries) = fs::read_dir(root.join("class/net")) else { return Vec::new() };
    let mut links: Vec<Link> = entries.flatten().take(MAX_INTERFACES).filter_map(|entry| read(entry.path())).collect();
    links.sort_by_key(|link| link.index);
    links
}

fn read(folder: PathBuf) -> Option<Link> {
    const ARPHRD_ETHER: &str = "1";
    if !folder.join("device").exists() || text(&folder, "type")? != ARPHRD_ETHER {
        return None;
    }
    let mac: Mac = text(&folder, "address")?.parse().ok()?;
    let index = text(&folder, "ifindex")?.parse().ok()?;
    let name = folder.file_name()?.to_str()?.to_string();
    Some(Link { name, index, mac, folder })
}

/// One attribute of sysfs, trimmed; none where it is missing or unreadable (the speed of a link that is down is).
pub fn text(folder: &Path, name: &str) -> Option<String> {
    fs::read(folder.join(name))
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).trim().trim_end_matches('\0').to_string())
}

/// As [`text`], a number.
pub fn number<T: std::str::FromStr>(folder: &Path, name: &str) -> Option<T> {
    text(folder, name)?.parse().ok()
}
