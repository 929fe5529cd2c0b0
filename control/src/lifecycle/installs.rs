//! What a machine is installed from: an Environment and a machine become an
//! installer's files or an order to write an image. Pure but for the look at
//! what is served.

use crate::environments::{Environments, ServedImage};
use crate::plan::boot::Readiness;
use crate::plan::disk;
use crate::plan::server::{Install, disk_target, target};
use crate::resource::{Environment, InstalledWhen, Server, ServerBinding, ServerClass};
use protocol::id::Arch;
use protocol::report::{DataSource, Facts, ImageOrder};
use std::sync::Arc;

/// The Environment of those that name none, as with Sidero.
pub const DEFAULT_ENVIRONMENT: &str = "default";

/// Whether an Environment can be installed now.
pub trait Installs: Send + Sync + 'static {
    /// What a machine is installed from.
    fn install(&self, wanted: &Wanted<'_>) -> Install;

    /// The Environment of those that name none.
    fn default_environment(&self) -> &str {
        DEFAULT_ENVIRONMENT
    }
}

/// What is known of an installation that is asked for.
pub struct Wanted<'a> {
    /// The Environment's name.
    pub name: &'a str,
    /// Its object, where there is one (else it is one of the configuration file).
    pub environment: Option<&'a Environment>,
    /// The machine.
    pub server: &'a Server,
    /// Who has it.
    pub binding: &'a ServerBinding,
    /// The class it was allocated out of.
    pub class: Option<&'a ServerClass>,
    /// Its last inventory.
    pub facts: Option<&'a Facts>,
}

/// The environments of this process.
pub struct ServedEnvironments {
    /// Their files.
    pub environments: Arc<Environments>,
    /// Base URL of the edge, as machines see it.
    pub edge_url: String,
}

impl Installs for ServedEnvironments {
    fn install(&self, wanted: &Wanted<'_>) -> Install {
        let (name, arch) = (wanted.name, wanted.facts.and_then(|f| f.arch).unwrap_or(Arch::X86_64));
        if let Some(image) = self.environments.image(name, arch) {
            return order(wanted, &image, &self.edge_url).unwrap_or_else(Install::NotReady);
        }
        let reports = wanted.environment.is_some_and(|e| e.spec.installed_when == Some(InstalledWhen::Reported));
        match self.environments.files(name, arch) {
            Readiness::Ready(files) => match self.environments.refused(&[&files.kernel, &files.initrd]) {
                Some(why) => Install::NotReady(why),
                None => Install::Kernel { environment: name.to_owned(), reports },
            },
            Readiness::NotReady(why) => Install::NotReady(why),
            Readiness::NoSuch => Install::NotReady(format!(
                "there is no Environment {name}; apply one of that name, or name another one (stoker environments)"
            )),
            Readiness::NoArch(has) => {
                let has = has.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ");
                Install::NotReady(format!("Environment {name} has no files for {arch}, only for {has}"))
            }
        }
    }

    fn default_environment(&self) -> &str {
        self.environments.default_name().unwrap_or(DEFAULT_ENVIRONMENT)
    }
}

/// The order to write an image, or why there is none.
fn order(wanted: &Wanted<'_>, served: &ServedImage, edge_url: &str) -> Result<Install, String> {
    if let Some(why) = &served.refused {
        return Err(why.clone());
    }
    let facts = wanted.facts.ok_or("its disks are not known before its agent has reported")?;
    let (server, class) = (&wanted.server.spec, wanted.class.map(|c| &c.spec));
    let hints = server.root_device_hints.as_ref().or(class.and_then(|c| c.root_device_hints.as_ref()));
    let wipe = server.wipe.as_ref().or(class.and_then(|c| c.wipe.as_ref()));
    let keep = wipe.map(|w| w.keep_disks.as_slice()).unwrap_or_default();
    let disk = disk::choose(facts, hints, keep, served.unpacked)?;
    let hostname = [&wanted.binding.spec.hostname, &server.hostname].into_iter().find(|h| !h.is_empty());
    // A configuration that was given and went nowhere would be no service to anybody.
    let given = wanted.binding.spec.data_secret_ref.is_some();
    let fitting = if given { DataSource::NoCloud } else { DataSource::None };
    Ok(Install::Image {
        environment: wanted.name.to_owned(),
        order: Box::new(ImageOrder {
            target: target(facts),
            disk: disk_target(disk),
            url: format!("{edge_url}/{}", served.name),
            sha256: served.stored.object.to_string(),
            length: served.stored.length,
            format: served.format,
            grow: served.image.grow,
            data_source: served.image.data_source.unwrap_or(fitting),
            hostname: hostname.cloned().unwrap_or_default(),
            instance_id: wanted.binding.metadata.uid.clone(),
            efi_loader: served.image.efi_loader.clone(),
            boot_label: wanted.name.to_owned(),
            ..ImageOrder::default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Stored;
    use crate::resource::{
        Image, Meta, ObjectReference, RootDeviceHints, ServerBindingSpec, ServerClassSpec, ServerSpec,
    };
    use protocol::manifest::ObjectId;
    use protocol::report::{Disk, ImageFormat, System};

    const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";

    fn served() -> ServedImage {
        ServedImage {
            name: "env/deb/x86_64/disk.img.zst".into(),
            stored: Stored { object: ObjectId([7; 32]), length: 1000 },
            image: Image { grow: true, efi_loader: "\\EFI\\debian\\grubx64.efi".into(), ..Image::default() },
            format: ImageFormat::Zst,
            unpacked: 5 << 30,
            refused: None,
        }
    }

    struct Machine {
        server: Server,
        binding: ServerBinding,
        class: ServerClass,
        facts: Facts,
    }

    fn machine() -> Machine {
        let disk = |name: &str, gib: u64| Disk {
            name: name.into(),
            size: gib << 30,
            serial_number: name.to_uppercase(),
            ..Disk::default()
        };
        let meta = |name: &str| Meta { name: name.into(), uid: format!("uid of {name}"), ..Meta::default() };
        let hints = |name: &str| Some(RootDeviceHints { device_name: name.into(), ..RootDeviceHints::default() });
        Machine {
            server: Server {
                metadata: meta(UUID),
                spec: ServerSpec { root_device_hints: hints("sdc"), ..ServerSpec::default() },
                status: Default::default(),
            },
            binding: ServerBinding {
                metadata: meta(UUID),
                spec: ServerBindingSpec {
                    hostname: "web-1".into(),
                    data_secret_ref: Some(ObjectReference::default()),
                    ..Default::default()
                },
                status: Default::default(),
            },
            class: ServerClass {
                metadata: meta("big"),
                spec: ServerClassSpec { root_device_hints: hints("sdb"), ..ServerClassSpec::default() },
                status: Default::default(),
            },
            facts: Facts {
                system: System { uuid: UUID.parse().ok(), ..System::default() },
                storage: vec![disk("sda", 8), disk("sdb", 16), disk("sdc", 32), disk("sdd", 4)],
                ..Facts::default()
            },
        }
    }

    fn ordered(m: &Machine, served: &ServedImage) -> Result<ImageOrder, String> {
        let wanted = Wanted {
            name: "deb",
            environment: None,
            server: &m.server,
            binding: &m.binding,
            class: Some(&m.class),
            facts: Some(&m.facts),
        };
        match order(&wanted, served, "http://10.0.0.2:8080")? {
            Install::Image { environment, order } if environment == "deb" => Ok(*order),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_image_becomes_an_order_for_this_machine_and_disk() {
        let mut m = machine();
        let o = ordered(&m, &served()).unwrap();
        assert_eq!(
            (o.url.as_str(), o.length, o.format),
            ("http://10.0.0.2:8080/env/deb/x86_64/disk.img.zst", 1000, ImageFormat::Zst)
        );
        assert_eq!((o.sha256.as_str(), o.grow), ("07".repeat(32).as_str(), true));
        assert_eq!(o.target.uuid.map(|u| u.to_string()).as_deref(), Some(UUID));
        assert_eq!(
            (o.disk.name.as_str(), o.disk.serial_number.as_str()),
            ("sdc", "SDC"),
            "the Server's hint is over the class's"
        );
        assert_eq!((o.hostname.as_str(), o.instance_id.as_str()), ("web-1", format!("uid of {UUID}").as_str()));
        assert_eq!(
            (o.data_source, o.boot_label.as_str()),
            (DataSource::NoCloud, "deb"),
            "a configuration has a way to the system"
        );
        assert!(o.config_url.is_empty(), "what is secret is not in the record");
        m.server.spec.root_device_hints = None;
        assert_eq!(ordered(&m, &served()).unwrap().disk.name, "sdb", "the class's");
        m.class.spec.root_device_hints = None;
        assert_eq!(ordered(&m, &served()).unwrap().disk.name, "sda", "the smallest with room");
        m.binding.spec.data_secret_ref = None;
        assert_eq!(ordered(&m, &served()).unwrap().data_source, DataSource::None);
        let mut cloud = served();
        cloud.image.data_source = Some(DataSource::ConfigDrive);
        assert_eq!(ordered(&m, &cloud).unwrap().data_source, DataSource::ConfigDrive);
    }

    #[test]
    fn what_stands_against_it_is_said() {
        let mut m = machine();
        let large = ServedImage { unpacked: 64 << 30, ..served() };
        assert!(ordered(&m, &large).unwrap_err().contains("sdc: 34359738368 bytes, the image has 68719476736"));
        let refused = ServedImage { refused: Some("the edge does not serve it".into()), ..served() };
        assert_eq!(ordered(&m, &refused).unwrap_err(), "the edge does not serve it");
        m.facts.storage.clear();
        assert!(ordered(&m, &served()).unwrap_err().contains("no disk"));
    }
}
