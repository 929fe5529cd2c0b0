//! The initramfs: a newc cpio archive, the same bytes for the same contents.

use crate::modules::Selection;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

/// Compression level of zstd: modules are packed already, so more gains little.
const LEVEL: i32 = 19;
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;

/// An archive in the making; entries are kept by path, so their order is fixed.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
}

/// The agent's initramfs, packed.
///
/// # Errors
/// When a module cannot be read.
pub fn build(agent: &[u8], modules: &Selection) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "etc", "proc", "run", "sys", "tmp"] {
        archive.folder(folder);
    }
    archive.file("init", PROGRAM, agent.to_vec());
    let home = format!("lib/modules/{}", modules.release);
    for (name, path) in &modules.files {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.file(&format!("{home}/{name}"), DATA, bytes);
    }
    archive.file(&format!("{home}/modules.dep"), DATA, modules.dep.clone().into_bytes());
    archive.file(&format!("{home}/modules.alias"), DATA, modules.alias.clone().into_bytes());
    let raw = archive.to_bytes()?;
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    // With the size in the frame the kernel can reckon how large a window it needs.
    encoder.set_pledged_src_size(Some(raw.len() as u64))?;
    encoder.include_checksum(true)?;
    encoder.write_all(&raw)?;
    Ok(encoder.finish()?)
}

impl Archive {
    /// A folder, and those above it.
    pub fn folder(&mut self, path: &str) {
        for above in Path::new(path).ancestors().filter(|p| !p.as_os_str().is_empty()) {
            self.entries.entry(above.to_string_lossy().into_owned()).or_insert((FOLDER, Vec::new()));
        }
    }

    /// A file, and the folders above it.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        if let Some(above) = Path::new(path).parent() {
            self.folder(&above.to_string_lossy());
        }
        self.entries.insert(path.to_string(), (mode, bytes));
    }

    /// The archive: sorted by path, owned by root, without times.
    ///
    /// # Errors
    /// When an entry is larger than the format allows (4 GiB).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (ino, (path, (mode, bytes))) in (1_u32..).zip(&self.entries) {
            let links = if *mode == FOLDER { 2 } else { 1 };
            let builder = cpio::newc::Builder::new(path).ino(ino).mode(*mode).uid(0).gid(0).nlink(links).mtime(0);
            let length = u32::try_from(bytes.len()).with_context(|| format!("{path} is too large"))?;
            let mut writer = builder.write(&mut out, length);
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        cpio::newc::trailer(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> (Vec<u8>, Selection) {
        let module = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(module.path(), b"module").unwrap();
        let files = BTreeMap::from([("kernel/a.ko.xz".to_string(), module.path().to_path_buf())]);
        let selection =
            Selection { release: "6.1-x".into(), files, dep: "kernel/a.ko.xz:\n".into(), ..Selection::default() };
        let packed = build(b"the agent", &selection).unwrap();
        assert_eq!(packed, build(b"the agent", &selection).unwrap(), "the same contents must be the same bytes");
        (packed, selection)
    }

    #[test]
    fn cpio_reads_the_archive() {
        let (packed, _) = sample();
        let raw = zstd::decode_all(&packed[..]).unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&raw).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let names: Vec<&str> = listing.lines().filter_map(|l| l.split_ascii_whitespace().last()).collect();
        let home = "lib/modules/6.1-x";
        let mut expected: Vec<String> = ["dev", "etc", "init", "lib", "lib/modules", home].map(String::from).to_vec();
        expected.extend(["kernel", "kernel/a.ko.xz", "modules.alias", "modules.dep"].map(|f| format!("{home}/{f}")));
        expected.extend(["proc", "run", "sys", "tmp"].map(String::from));
        assert_eq!(names, expected);
        let init = listing.lines().find(|l| l.ends_with(" init")).unwrap();
        assert!(init.starts_with("-rwxr-xr-x") && init.contains("root") && init.contains("1970"), "{init}");
    }

    #[test]
    fn the_order_of_making_does_not_matter() {
        let (mut one, mut two) = (Archive::default(), Archive::default());
        one.file("b/c", DATA, vec![1]);
        one.folder("a");
        two.folder("a");
        two.file("b/c", DATA, vec![1]);
        assert_eq!(one.to_bytes().unwrap(), two.to_bytes().unwrap());
    }
}
