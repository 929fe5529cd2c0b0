//! The bundle: boot loaders, and the agent's kernel and initramfs, in a folder
//! that `stoker-bundle` made. Its `bundle.json` lists each file with its digest.

use crate::api::types::{AssetState, AssetStatus, EnvironmentArch, EnvironmentStatus};
use crate::limits;
use crate::publish::{Names, Objects, PublishError, Stored};
use protocol::id::Arch;
use protocol::manifest::{ObjectId, is_plain_path};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

const ROLES: [(&str, &str); 2] = [("kernel", "vmlinuz"), ("initrd", "initramfs.xz")];

/// A bundle whose files are all in the object folder.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What it is made of, for people.
    pub version: String,
    /// The names to publish.
    pub names: Names,
    /// Kernel arguments that an environment of the bundle needs, by environment.
    pub args: BTreeMap<String, Vec<String>>,
}

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BadBundle {
    /// No such folder, or no index in it.
    #[error("the bundle's {0} cannot be read: {1}; build it with `stoker-bundle` and set `bundle` to its folder")]
    Unreadable(String, String),
    /// A file is not what the index says.
    #[error("the bundle's {0} does not match its digest; build the bundle again")]
    Damaged(String),
    /// A name that cannot be published.
    #[error("the bundle names {0:?}, which is not a plain relative path; build the bundle again")]
    Name(String),
    /// The disk.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

#[derive(Deserialize)]
struct Index {
    /// For people, such as `linux 6.12.107-1 agent 0.1.0`.
    name: String,
    files: Vec<IndexFile>,
}

#[derive(Deserialize)]
struct IndexFile {
    path: String,
    sha256: ObjectId,
    length: u64,
    #[serde(default = "octets")]
    content_type: String,
}

fn octets() -> String {
    "application/octet-stream".into()
}

impl Bundle {
    /// Reads the index, and takes every file that the edge is to serve into
    /// the object folder. Files under other folders (`firmware/` for virtual
    /// machines) are not for nodes and are left alone.
    pub(super) fn load(folder: &Path, objects: &Objects) -> Result<Self, BadBundle> {
        let mut text = Vec::new();
        std::fs::File::open(folder.join("bundle.json"))
            .and_then(|f| f.take(limits::BUNDLE_INDEX_BYTES).read_to_end(&mut text))
            .map_err(|e| BadBundle::Unreadable("bundle.json".into(), e.to_string()))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|e| BadBundle::Unreadable("bundle.json".into(), e.to_string()))?;
        let mut names = Names::new();
        for file in index.files {
            if !is_plain_path(&file.path) {
                return Err(BadBundle::Name(crate::metadata::words::clean(&file.path)));
            }
            let served = file.path.starts_with("tftp/") || file.path.starts_with("env/");
            if !served {
                continue;
            }
            let wanted = Stored { object: file.sha256, length: file.length };
            if !objects.verify(wanted) {
                let source = folder.join(&file.path);
                let found =
                    objects.copy(&source).map_err(|e| BadBundle::Unreadable(file.path.clone(), e.to_string()))?;
                if found != wanted {
                    return Err(BadBundle::Damaged(file.path));
                }
            }
            // Firmware is told `MAC/snponly.efi`; Sidero's path is `/tftp/snponly.efi`.
            if let Some(bare) = file.path.strip_prefix("tftp/") {
                names.insert(bare.to_owned(), wanted.entry(&file.content_type));
            }
            names.insert(file.path, wanted.entry(&file.content_type));
        }
        Ok(Self { version: index.name, names, args: BTreeMap::new() })
    }

    /// Its environments, for the operator.
    pub(super) fn environments(&self) -> Vec<EnvironmentStatus> {
        let agents = [("agent-amd64", Arch::X86_64), ("agent-arm64", Arch::Arm64)];
        let asset = |role: &str, name: String| {
            self.names.get(&name).map(|entry| AssetStatus {
                role: role.to_owned(),
                url: format!("bundle {}", self.version),
                digest: format!("sha256:{}", entry.object),
                state: AssetState::Ready { sha256: entry.object.to_string(), bytes: entry.length },
                name,
            })
        };
        let environment = |(name, arch): (&str, Arch)| {
            let assets = ROLES.map(|(role, file)| asset(role, format!("env/{name}/{file}")));
            let assets: Vec<AssetStatus> = assets.into_iter().flatten().collect();
            (assets.len() == 2).then(|| EnvironmentStatus {
                name: name.to_owned(),
                is_default: false,
                source: "bundle".into(),
                ready: true,
                arches: vec![EnvironmentArch { arch, args: Vec::new(), assets }],
                notes: Vec::new(),
            })
        };
        agents.into_iter().filter_map(environment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Publisher;

    fn index(files: &[(&str, &[u8], &[u8])], dir: &Path) {
        let files: Vec<_> = files
            .iter()
            .map(|(path, says, is)| {
                let at = dir.join(path);
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                std::fs::write(at, is).unwrap();
                serde_json::json!({"path": path, "sha256": ObjectId::of(says), "length": says.len(), "content_type": "application/efi", "role": "x", "arch": "x86_64"})
            })
            .collect();
        let text = serde_json::json!({"version": 1, "name": "1", "files": files}).to_string();
        std::fs::write(dir.join("bundle.json"), text).unwrap();
    }

    #[test]
    fn a_bundle_is_checked_and_named_for_tftp_and_http() {
        let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let publisher = Publisher::open(state.path()).unwrap();
        let good: &[(&str, &[u8], &[u8])] = &[
            ("tftp/snponly.efi", b"efi", b"efi"),
            ("env/agent-amd64/vmlinuz", b"k", b"k"),
            ("env/agent-amd64/initramfs.xz", b"i", b"i"),
            ("firmware/OVMF.fd", b"f", b"f"),
        ];
        index(good, dir.path());
        let bundle = Bundle::load(dir.path(), publisher.objects()).unwrap();
        let names: Vec<_> = bundle.names.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["env/agent-amd64/initramfs.xz", "env/agent-amd64/vmlinuz", "snponly.efi", "tftp/snponly.efi"]
        );
        assert_eq!(bundle.environments().len(), 1);
        index(&[("tftp/snponly.efi", b"efi", b"EFI2")], dir.path());
        std::fs::remove_file(publisher.objects().path(ObjectId::of(b"efi"))).unwrap();
        assert!(matches!(Bundle::load(dir.path(), publisher.objects()), Err(BadBundle::Damaged(_))));
        index(&[], dir.path());
        std::fs::write(
            dir.path().join("bundle.json"),
            br#"{"version":1,"name":"1","files":[{"path":"../x","sha256":"00","length":1}]}"#,
        )
        .unwrap();
        assert!(matches!(Bundle::load(dir.path(), publisher.objects()), Err(BadBundle::Unreadable(..))));
        std::fs::remove_file(dir.path().join("bundle.json")).unwrap();
        let why = Bundle::load(dir.path(), publisher.objects()).unwrap_err().to_string();
        assert!(why.contains("stoker-bundle"), "{why}");
    }
}
