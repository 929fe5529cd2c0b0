//! Laying the bundle out, describing it in `bundle.json`, and checking one.

use crate::packages::{self, Store};
use crate::{agent, digest, initramfs, modules, progress};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The description's file name.
pub const FILE: &str = "bundle.json";
/// What the bundle was made of; the same again need not be made again.
const MADE_OF: &str = ".made-of";
/// The layout that this program writes and checks.
const VERSION: u32 = 1;

/// `bundle.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// Of this layout.
    pub version: u32,
    /// What it is made of, for people.
    pub name: String,
    /// What is to be published, by path.
    pub files: Vec<Entry>,
}

/// One file to publish.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// From the bundle's folder; also the name to publish it under.
    pub path: String,
    /// 64 hex digits.
    pub sha256: String,
    /// Bytes.
    pub length: u64,
    /// For HTTP.
    pub content_type: String,
    /// What it is for.
    pub role: Role,
    /// `x86_64` or `arm64`: the machines that can use it.
    pub arch: String,
}

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A network boot program: what firmware loads first.
    Nbp,
    /// A Linux kernel.
    Kernel,
    /// What the kernel unpacks and starts.
    Initramfs,
}

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bundle's folder; made if need be.
    pub out: PathBuf,
    /// The repository whose agent is built.
    pub repository: PathBuf,
    /// Architectures, of `x86_64` and `arm64`.
    pub archs: Vec<String>,
    /// An agent that was built already, for the first architecture.
    pub agent: Option<PathBuf>,
    /// Build and fetch nothing over the network.
    pub offline: bool,
}

/// (path in the bundle, path in the package, content type, architecture)
const NBPS: [(&str, &str, &str, &str); 6] = [
    ("tftp/undionly.kpxe", "undionly.kpxe", "application/octet-stream", "x86_64"),
    ("tftp/ipxe.pxe", "ipxe.pxe", "application/octet-stream", "x86_64"),
    ("tftp/snponly.efi", "snponly.efi", "application/efi", "x86_64"),
    ("tftp/ipxe.efi", "ipxe-amd64.efi", "application/efi", "x86_64"),
    ("tftp/ipxe-arm64.efi", "ipxe-arm64.efi", "application/efi", "arm64"),
    // Debian builds no snponly for arm64. The full one can use the firmware's driver too.
    ("tftp/snponly-arm64.efi", "ipxe-arm64.efi", "application/efi", "arm64"),
];

/// Builds everything, writes `bundle.json` last, so that a folder with one is whole.
///
/// # Errors
/// The first thing that could not be had or made.
pub fn build(plan: &Plan, store: &Store) -> Result<Bundle> {
    let out = &plan.out;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let agents: Vec<Result<PathBuf>> = plan
        .archs
        .iter()
        .enumerate()
        .map(|(i, arch)| match &plan.agent {
            Some(path) if i == 0 => Ok(path.clone()),
            _ => agent::build(&plan.repository, arch, plan.offline, store),
        })
        .collect();
    let made_of = made_of(plan, &agents)?;
    if fs::read_to_string(out.join(MADE_OF)).is_ok_and(|there| there == made_of)
        && let Ok(bundle) = verify(out)
    {
        progress(&format!("{}: whole and made of the same things; left as it is", out.display()));
        return Ok(bundle);
    }
    let _ = fs::remove_file(out.join(FILE));
    let mut files = Vec::new();
    let mut publish = |path: &str, content_type: &str, role: Role, arch: &str| -> Result<()> {
        let (sha256, length) = digest(&out.join(path))?;
        files.push(Entry {
            path: path.into(),
            sha256,
            length,
            content_type: content_type.into(),
            role,
            arch: arch.into(),
        });
        Ok(())
    };

    let (ipxe, pin) = store.unpacked(&packages::IPXE)?;
    let mut name = format!("ipxe {}", pin.version);
    for (path, source, content_type, arch) in NBPS {
        copy(&ipxe.join("usr/lib/ipxe").join(source), &out.join(path))?;
        publish(path, content_type, Role::Nbp, arch)?;
    }
    for (arch, built) in plan.archs.iter().zip(agents) {
        let program = match built {
            Ok(program) => program,
            // arm64 is worth having without an agent: the boot loader alone installs systems.
            Err(e) if arch == "arm64" => {
                progress(&format!("arm64: agent not built: {e:#}"));
                continue;
            }
            Err(e) => return Err(e),
        };
        let (kernel, debian) =
            if arch == "arm64" { (packages::KERNEL_ARM64, "arm64") } else { (packages::KERNEL_X86_64, "amd64") };
        let (package, pin) = store.unpacked(&kernel)?;
        let selection = modules::select(&package, modules::DRIVERS)?;
        if !selection.missing.is_empty() {
            progress(&format!("{arch}: this kernel has no {}", selection.missing.join(", ")));
        }
        let folder = format!("env/agent-{debian}");
        let (vmlinuz, initrd) = (format!("{folder}/vmlinuz"), format!("{folder}/initramfs.xz"));
        copy(&package.join(format!("boot/vmlinuz-{}", selection.release)), &out.join(&vmlinuz))?;
        publish(&vmlinuz, "application/octet-stream", Role::Kernel, arch)?;
        let packed = initramfs::build(&fs::read(&program)?, &selection)?;
        progress(&format!("{arch}: initramfs of {} modules, {} kB", selection.files.len(), packed.len() / 1000));
        fs::write(out.join(&initrd), packed)?;
        publish(&initrd, "application/octet-stream", Role::Initramfs, arch)?;
        name += &format!(", {arch}: linux {} agent {}", pin.version, env!("CARGO_PKG_VERSION"));
    }
    firmware(out, plan.archs.iter().any(|a| a == "arm64"), store)?;

    files.sort_by(|a, b| a.path.cmp(&b.path));
    let bundle = Bundle { version: VERSION, name, files };
    let partial = out.join(format!("{FILE}.partial"));
    fs::write(&partial, serde_json::to_vec_pretty(&bundle)?)?;
    fs::rename(&partial, out.join(FILE))?;
    fs::write(out.join(MADE_OF), made_of)?;
    progress(&format!("{}: {} files to publish", out.display(), bundle.files.len()));
    Ok(bundle)
}

/// What a bundle is made of: the pins, the agents, this program. The same text
/// makes the same bundle.
fn made_of(plan: &Plan, agents: &[Result<PathBuf>]) -> Result<String> {
    let mut text = format!("archs {}\n", plan.archs.join(","));
    let lock = plan.repository.join(crate::lock::PATH);
    let program = std::env::current_exe().context("this program has no path")?;
    for path in [&lock, &program].into_iter().chain(agents.iter().flatten()) {
        text += &format!("{} {}\n", digest(path)?.0, path.display());
    }
    Ok(text)
}

/// Firmware and option ROMs for virtual machines, in `OUT/firmware`.
///
/// # Errors
/// When a package cannot be had.
pub fn firmware(out: &Path, arm64: bool, store: &Store) -> Result<()> {
    let folder = out.join("firmware");
    let (ovmf, _) = store.unpacked(&packages::OVMF)?;
    for name in ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"] {
        copy(&ovmf.join("usr/share/OVMF").join(name), &folder.join(name))?;
    }
    if arm64 {
        let (aavmf, _) = store.unpacked(&packages::AAVMF)?;
        for name in ["AAVMF_CODE.fd", "AAVMF_VARS.fd"] {
            copy(&aavmf.join("usr/share/AAVMF").join(name), &folder.join(name))?;
        }
    }
    for (want, source, target) in [
        (packages::ROMS, "usr/share/qemu", folder.clone()),
        (packages::ROMS_2019, "usr/lib/ipxe/qemu", folder.join("2019")),
    ] {
        let (package, _) = store.unpacked(&want)?;
        let source = package.join(source);
        let roms = fs::read_dir(&source).with_context(|| format!("cannot list {}", source.display()))?;
        for rom in roms.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "rom")) {
            copy(&rom.path(), &target.join(rom.file_name()))?;
        }
    }
    Ok(())
}

/// Checks every file against `bundle.json`.
///
/// # Errors
/// All that differs, in one message.
pub fn verify(folder: &Path) -> Result<Bundle> {
    let path = folder.join(FILE);
    let text =
        fs::read(&path).with_context(|| format!("no bundle in {}: run `stoker-bundle build`", folder.display()))?;
    let bundle: Bundle = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    if bundle.version != VERSION {
        bail!("{} is of version {}, this program knows {VERSION}", path.display(), bundle.version);
    }
    let faults: Vec<String> = bundle
        .files
        .iter()
        .filter_map(|entry| match digest(&folder.join(&entry.path)) {
            Ok((sha256, length)) if sha256 == entry.sha256 && length == entry.length => None,
            Ok(_) => Some(format!("{} is not what was built", entry.path)),
            Err(e) => Some(format!("{e:#}")),
        })
        .collect();
    if faults.is_empty() { Ok(bundle) } else { bail!("{}; build the bundle again", faults.join("; ")) }
}

/// Copies beside and renames: whoever serves the old file goes on serving the old file.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    let folder = to.parent().with_context(what)?;
    fs::create_dir_all(folder).with_context(what)?;
    let partial = to.with_added_extension("partial");
    fs::copy(from, &partial).with_context(what)?;
    fs::rename(&partial, to).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_missing_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tftp/a.efi");
        fs::create_dir(folder.path().join("tftp")).unwrap();
        fs::write(&file, "one").unwrap();
        let (sha256, length) = digest(&file).unwrap();
        let (path, content_type, arch) = ("tftp/a.efi".into(), "application/efi".into(), "x86_64".into());
        let entry = Entry { path, sha256, length, content_type, role: Role::Nbp, arch };
        let bundle = Bundle { version: VERSION, name: "test".into(), files: vec![entry] };
        fs::write(folder.path().join(FILE), serde_json::to_vec(&bundle).unwrap()).unwrap();
        assert_eq!(verify(folder.path()).unwrap(), bundle);
        fs::write(&file, "two").unwrap();
        assert!(verify(folder.path()).unwrap_err().to_string().contains("tftp/a.efi is not what was built"));
        fs::remove_file(&file).unwrap();
        assert!(verify(folder.path()).unwrap_err().to_string().contains("cannot open"));
    }

    #[test]
    fn the_layout_of_version_1_is_frozen() {
        let text = r#"{"version":1,"name":"n","files":[{"path":"env/agent-amd64/vmlinuz","sha256":"00","length":1,"content_type":"application/octet-stream","role":"kernel","arch":"x86_64"}]}"#;
        let bundle: Bundle = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&bundle).unwrap(), text);
    }
}
