//! What is wanted of an environment: the files of each architecture, read out
//! of the configuration file or out of a declared object. Pure.

use crate::config::{self, AssetSource, Digest};
use crate::resource::{self, Asset, Image, Kernel};
use protocol::id::Arch;
use protocol::report::ImageFormat;
use std::collections::BTreeMap;

/// What a file is of its environment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Kernel,
    Initrd,
    Image,
}

impl Role {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Image => "image",
        }
    }
}

/// Where an environment is written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In `stoker.yaml`.
    Config,
    /// In an Environment object.
    Object {
        uid: String,
        /// `metadata.generation` of what is wanted here.
        generation: u64,
    },
}

/// An environment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub origin: Origin,
    /// By architecture. Without an entry there is nothing for machines of that kind.
    pub arches: BTreeMap<Arch, Variant>,
    /// Sidero's form: one set of files, whatever the machine says it is.
    pub any_arch: bool,
}

/// What machines of one architecture get.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Variant {
    pub files: Vec<(Role, AssetSource)>,
    /// Files that belong there and are not named.
    pub missing: Vec<Role>,
    /// Kernel arguments.
    pub args: Vec<String>,
    /// How the image is to be written, where it is one.
    pub image: Option<Image>,
}

impl Wanted {
    /// Of the configuration file.
    pub fn of_config(environment: &config::Environment) -> Self {
        let variant = |files: &config::EnvironmentArch| Variant {
            files: vec![(Role::Kernel, files.kernel.clone()), (Role::Initrd, files.initrd.clone())],
            args: files.args.clone(),
            ..Variant::default()
        };
        Self {
            origin: Origin::Config,
            arches: environment.arches.iter().map(|(arch, files)| (*arch, variant(files))).collect(),
            any_arch: environment.any_arch,
        }
    }

    /// Of an object. Files beside the variants are for every architecture that has no variant.
    pub fn of_object(object: &resource::Environment) -> Self {
        let spec = &object.spec;
        let plain = variant(&spec.kernel, &spec.initrd, spec.image.as_ref());
        let own = |v: &resource::Variant| variant(&v.kernel, &v.initrd, v.image.as_ref());
        let variants = [(Arch::X86_64, &spec.x86_64), (Arch::Arm64, &spec.arm64)];
        let mut arches: BTreeMap<Arch, Variant> =
            variants.iter().filter_map(|(arch, v)| Some((*arch, own(v.as_ref()?)))).collect();
        let any_arch = arches.is_empty();
        if any_arch {
            arches.insert(Arch::X86_64, plain);
        } else if !plain.files.is_empty() {
            for arch in [Arch::X86_64, Arch::Arm64] {
                arches.entry(arch).or_insert_with(|| plain.clone());
            }
        }
        let meta = &object.metadata;
        Self { origin: Origin::Object { uid: meta.uid.clone(), generation: meta.generation }, arches, any_arch }
    }

    /// What a machine of this architecture gets.
    pub fn variant(&self, arch: Arch) -> Option<(Arch, &Variant)> {
        let found = match self.arches.get_key_value(&arch) {
            None if self.any_arch => self.arches.first_key_value(),
            found => found,
        };
        found.map(|(arch, variant)| (*arch, variant))
    }

    /// Every file that must be fetched.
    pub fn sources(&self) -> impl Iterator<Item = &AssetSource> {
        self.arches.values().flat_map(|v| &v.files).map(|(_, source)| source)
    }
}

impl Variant {
    /// The last part of the name under which a file is served: Sidero's, and one of our own for images.
    pub fn file_name(&self, role: Role) -> &'static str {
        match (role, self.image.as_ref().map(format)) {
            (Role::Kernel, _) => "vmlinuz",
            (Role::Initrd, _) => "initramfs.xz",
            (Role::Image, Some(ImageFormat::Zst)) => "disk.img.zst",
            (Role::Image, Some(ImageFormat::Xz)) => "disk.img.xz",
            (Role::Image, _) => "disk.img",
        }
    }
}

/// How an image is packed: as its object says, else by the suffix of its URL's path.
pub fn format(image: &Image) -> ImageFormat {
    let path = image.url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    match image.format {
        Some(format) => format,
        None if path.ends_with(".zst") || path.ends_with(".zstd") => ImageFormat::Zst,
        None if path.ends_with(".xz") => ImageFormat::Xz,
        None => ImageFormat::Raw,
    }
}

fn variant(kernel: &Kernel, initrd: &Asset, image: Option<&Image>) -> Variant {
    if let Some(image) = image {
        let from = source(&image.url, &image.sha512).map(|s| (Role::Image, s));
        let missing = if from.is_none() { vec![Role::Image] } else { Vec::new() };
        return Variant { files: from.into_iter().collect(), missing, args: Vec::new(), image: Some(image.clone()) };
    }
    let named = [(Role::Kernel, &kernel.asset), (Role::Initrd, initrd)];
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for (role, asset) in named {
        match source(&asset.url, &asset.sha512) {
            Some(source) => files.push((role, source)),
            None => missing.push(role),
        }
    }
    // Several arguments in one item are several arguments to the kernel too.
    let args = kernel.args.iter().flat_map(|a| a.split_ascii_whitespace()).map(str::to_owned).collect();
    Variant { files, missing, args, image: None }
}

fn source(url: &str, sha512: &str) -> Option<AssetSource> {
    let digest = Some(sha512.to_ascii_lowercase()).filter(|hex| !hex.is_empty()).map(Digest::Sha512);
    Some(AssetSource { url: url.to_owned(), digest, size: None }).filter(|_| !url.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Environment, Object, Typed as _};

    fn read(spec: &str) -> Wanted {
        let text = format!(
            "{{apiVersion: metal.sidero.dev/v1alpha2, kind: Environment, metadata: {{name: e}}, spec: {spec}}}"
        );
        let object = Object::read(serde_saphyr::from_str(&text).unwrap()).unwrap();
        Wanted::of_object(&Environment::from_object(&object).unwrap())
    }

    fn urls(wanted: &Wanted, arch: Arch) -> Vec<String> {
        let Some((_, v)) = wanted.variant(arch) else { return vec!["nothing".into()] };
        v.files.iter().map(|(role, s)| format!("{} {}", role.name(), s.url)).collect()
    }

    #[test]
    fn files_are_found_by_architecture() {
        let (k, i) = ("kernel: {url: 'http://h/k', args: [a=b, 'c d=e']}", "initrd: {url: 'http://h/i'}");
        let sidero = read(&format!("{{{k}, {i}}}"));
        assert!(sidero.any_arch);
        for arch in [Arch::X86_64, Arch::Arm64] {
            assert_eq!(urls(&sidero, arch), ["kernel http://h/k", "initrd http://h/i"]);
        }
        assert_eq!(sidero.variant(Arch::Arm64).unwrap().1.args, ["a=b", "c", "d=e"]);

        let both =
            read(&format!("{{{k}, {i}, arm64: {{kernel: {{url: 'http://h/k64'}}, initrd: {{url: 'http://h/i64'}}}}}}"));
        assert_eq!(urls(&both, Arch::X86_64), ["kernel http://h/k", "initrd http://h/i"]);
        assert_eq!(urls(&both, Arch::Arm64), ["kernel http://h/k64", "initrd http://h/i64"]);

        let only = read(&format!("{{arm64: {{{k}, {i}}}}}"));
        assert_eq!(urls(&only, Arch::X86_64), ["nothing"]);

        let half = read(&format!("{{{k}}}"));
        assert_eq!(half.variant(Arch::X86_64).unwrap().1.missing, [Role::Initrd]);
        assert_eq!(read("{}").variant(Arch::X86_64).unwrap().1.missing, [Role::Kernel, Role::Initrd]);
    }

    #[test]
    fn an_image_is_named_by_how_it_is_packed() {
        for (url, more, file) in [
            ("http://h/d.raw", "", "disk.img"),
            ("http://h/d.img.zst?sig=a.xz", "", "disk.img.zst"),
            ("http://h/D.XZ", "", "disk.img.xz"),
            ("http://h/d", ", format: zst", "disk.img.zst"),
            ("http://h/d.xz", ", format: raw", "disk.img"),
        ] {
            let wanted = read(&format!("{{image: {{url: '{url}'{more}}}}}"));
            let (_, v) = wanted.variant(Arch::X86_64).unwrap();
            assert_eq!((v.file_name(Role::Image), v.files.len()), (file, 1), "{url}");
        }
        assert_eq!(read("{image: {}}").variant(Arch::X86_64).unwrap().1.missing, [Role::Image]);
    }
}
