//! What an object must satisfy before the store takes it: the checks of
//! Sidero's webhooks, and those that they lack.

use super::class::Operator;
use super::{
    Asset, BadObject, Environment, Image, Kernel, Kind, MetalCluster, MetalClusterSpec, MetalClusterTemplate,
    MetalMachine, MetalMachineTemplate, MetalRemediation, MetalRemediationTemplate, Object, Requirement, Server,
    ServerBinding, ServerClass, Typed, bounds,
};
use crate::limits;
use crate::metadata::words;
use protocol::id::MachineId;

/// Kubernetes' limit of a name (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// How a providerID begins.
const PROVIDER: &str = "sidero://";
/// Names of environments that stoker itself brings along.
pub const OWN_ENVIRONMENTS: [&str; 2] = ["agent-amd64", "agent-arm64"];
/// The operations of RFC 6902.
const PATCH_OPS: [&str; 6] = ["add", "remove", "replace", "copy", "move", "test"];

/// All complaints about an object (and about its change from `old`); none where it is fine.
pub fn validate(object: &Object, old: Option<&Object>) -> Vec<BadObject> {
    let mut bad = Vec::new();
    let mut complain = |what: String| bad.push(BadObject::Field(format!("{}: {what}", object.key())));
    let name = &object.metadata.name;
    if name.is_empty() || name.len() > MAX_NAME || !name.split('.').all(is_label) {
        complain(format!(
            "metadata.name {name:?} is not a name: lower-case letters, digits, '-' and '.', starting and ending with a letter or digit"
        ));
    }
    if object.kind.namespaced() == object.metadata.namespace.is_empty() {
        complain(if object.kind.namespaced() {
            "metadata.namespace is missing".into()
        } else {
            format!("a {} has no namespace", object.kind)
        });
    }
    if let Some(old) = old
        && !object.metadata.uid.is_empty()
        && object.metadata.uid != old.metadata.uid
    {
        complain("metadata.uid differs: this is another object of the same name".into());
    }
    let typed = match object.kind {
        Kind::Server => Server::from_object(object).map(|server| check_server(&server, &mut complain)),
        Kind::ServerClass => ServerClass::from_object(object).map(|class| check_class(&class, &mut complain)),
        Kind::Environment => Environment::from_object(object).map(|env| check_environment(&env, &mut complain)),
        Kind::ServerBinding => ServerBinding::from_object(object).map(|binding| {
            if binding.metadata.name.parse::<MachineId>().is_err() {
                complain("a ServerBinding is named by its Server's UUID".into());
            }
            if binding.spec.metal_machine_ref.name.is_empty() {
                complain("spec.metalMachineRef.name is missing".into());
            }
        }),
        Kind::MetalCluster => MetalCluster::from_object(object).map(|c| check_cluster("spec", &c.spec, &mut complain)),
        Kind::MetalClusterTemplate => MetalClusterTemplate::from_object(object).map(|t| {
            check_cluster("spec.template.spec", &t.spec.template.spec, &mut complain);
        }),
        Kind::MetalMachine => MetalMachine::from_object(object).map(|machine| {
            let before = old.and_then(|o| MetalMachine::from_object(o).ok());
            check_machine(&machine, before.as_ref(), &mut complain);
        }),
        Kind::MetalMachineTemplate => MetalMachineTemplate::from_object(object).map(|template| {
            let before = old.and_then(|o| MetalMachineTemplate::from_object(o).ok());
            check_machine_template(&template, before.as_ref(), &mut complain);
        }),
        Kind::MetalRemediation => MetalRemediation::from_object(object).map(|_| ()),
        Kind::MetalRemediationTemplate => MetalRemediationTemplate::from_object(object).map(|_| ()),
        // Not ours to judge.
        Kind::Cluster | Kind::Machine | Kind::Secret => Ok(()),
    };
    if let Err(error) = typed {
        bad.push(error);
    }
    bad
}

fn check_server(server: &Server, complain: &mut impl FnMut(String)) {
    let name = &server.metadata.name;
    match name.parse::<MachineId>() {
        Err(_) => complain(format!("a Server is named by its SMBIOS UUID in lower case, not {name:?}")),
        Ok(id) if id.to_string() != *name => complain("the UUID in metadata.name must be in lower case".into()),
        Ok(id) if id.is_placeholder() => {
            complain(
                "this UUID is a placeholder that many machines share; give the machine an alias by serial number"
                    .into(),
            );
        }
        Ok(_) => {}
    }
    if let Some(bmc) = &server.spec.bmc {
        if bmc.endpoint.is_empty() {
            complain("spec.bmc.endpoint is missing".into());
        }
        if bmc.port > u32::from(u16::MAX) {
            complain(format!("spec.bmc.port {} is not a port (0 to 65535)", bmc.port));
        }
        for (field, text) in [("endpoint", &bmc.endpoint), ("user", &bmc.user), ("pass", &bmc.pass)] {
            bounded(&format!("spec.bmc.{field}"), text, bounds::TEXT, complain);
        }
        for (field, plain, from) in [("user", &bmc.user, &bmc.user_from), ("pass", &bmc.pass, &bmc.pass_from)] {
            if !plain.is_empty() && from.is_some() {
                complain(format!("spec.bmc has both {field} and {field}From; keep one"));
            }
        }
        if !matches!(bmc.interface.as_str(), "" | "lanplus" | "redfish" | "redfish+http" | "none") {
            complain(format!(
                "spec.bmc.interface {:?}: expected lanplus, redfish, redfish+http or none",
                bmc.interface
            ));
        }
        if bmc.tls.is_some() && bmc.interface != "redfish" {
            complain("spec.bmc.tls is for spec.bmc.interface redfish only".into());
        }
    }
    check_patches(&server.spec.config_patches, complain);
}

fn check_class(class: &ServerClass, complain: &mut impl FnMut(String)) {
    let q = &class.spec.qualifiers;
    if q.requirements.len() > bounds::REQUIREMENTS {
        complain(format!("spec.qualifiers.requirements has more than {} entries", bounds::REQUIREMENTS));
    }
    for (i, text) in q.requirements.iter().enumerate() {
        if let Err(why) = text.parse::<Requirement>() {
            complain(format!("spec.qualifiers.requirements[{i}] {text:?}: {why}"));
        }
    }
    bounded_list("spec.selector.matchExpressions", class.spec.selector.match_expressions.len(), complain);
    for (i, e) in class.spec.selector.match_expressions.iter().enumerate() {
        let at = format!("spec.selector.matchExpressions[{i}]");
        let lists = matches!(e.operator, Operator::In | Operator::NotIn);
        if lists && e.values.is_empty() {
            complain(format!("{at}: {:?} needs values", e.operator));
        } else if !lists && !e.values.is_empty() {
            complain(format!("{at}: {:?} takes no values", e.operator));
        }
    }
    check_patches(&class.spec.config_patches, complain);
}

fn check_patches(patches: &[super::ConfigPatch], complain: &mut impl FnMut(String)) {
    bounded_list("spec.configPatches", patches.len(), complain);
    for (i, patch) in patches.iter().enumerate() {
        if !PATCH_OPS.contains(&patch.op.as_str()) {
            complain(format!("spec.configPatches[{i}].op {:?}: expected one of {}", patch.op, PATCH_OPS.join(", ")));
        }
        for (field, pointer) in [("path", &patch.path), ("from", &patch.from)] {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                complain(format!("spec.configPatches[{i}].{field} {pointer:?}: a JSON pointer starts with '/'"));
            }
        }
        for (field, pointer) in [("path", &patch.path), ("from", &patch.from)] {
            bounded(&format!("spec.configPatches[{i}].{field}"), pointer, bounds::POINTER, complain);
        }
        if matches!(patch.op.as_str(), "copy" | "move") && patch.from.is_empty() {
            complain(format!("spec.configPatches[{i}]: {} needs from", patch.op));
        }
    }
}

fn check_environment(env: &Environment, complain: &mut impl FnMut(String)) {
    let (name, spec) = (env.metadata.name.as_str(), &env.spec);
    if OWN_ENVIRONMENTS.contains(&name) {
        complain(format!("{name} is stoker's own agent; choose another name"));
    }
    check_files("spec", &spec.kernel, &spec.initrd, spec.image.as_ref(), complain);
    for (arch, variant) in [("x86_64", &spec.x86_64), ("arm64", &spec.arm64)] {
        if let Some(v) = variant {
            check_files(&format!("spec.{arch}"), &v.kernel, &v.initrd, v.image.as_ref(), complain);
        }
    }
}

fn check_files(at: &str, kernel: &Kernel, initrd: &Asset, image: Option<&Image>, complain: &mut impl FnMut(String)) {
    let mut check = |field: &str, url: &str, sha512: &str| {
        let known = ["http://", "https://", "file:///"].iter().any(|s| url.starts_with(s));
        let plain = url.len() <= limits::URL_BYTES && url.bytes().all(|c| c.is_ascii_graphic());
        let wrong = !known || !plain;
        if !url.is_empty() && wrong {
            let url: String = url.chars().take(limits::NETWORK_TEXT).collect();
            complain(format!("{at}.{field}.url {url:?}: expected http://, https:// or file:///"));
        }
        if !sha512.is_empty() && (sha512.len() != 128 || !sha512.bytes().all(|c| c.is_ascii_hexdigit())) {
            complain(format!("{at}.{field}.sha512 is not 128 hex digits (sha512sum prints them)"));
        }
    };
    check("kernel", &kernel.asset.url, &kernel.asset.sha512);
    check("initrd", &initrd.url, &initrd.sha512);
    if let Some(image) = image {
        check("image", &image.url, &image.sha512);
        if !kernel.asset.url.is_empty() || !initrd.url.is_empty() {
            complain(format!("{at} has an image and a kernel: keep one of them"));
        }
        bounded(&format!("{at}.image.efiLoader"), &image.efi_loader, bounds::POINTER, complain);
        if image.efi_loader.bytes().any(|c| !c.is_ascii_graphic()) {
            complain(format!("{at}.image.efiLoader has a space, a control character or one outside ASCII"));
        }
    }
    bounded_list(&format!("{at}.kernel.args"), kernel.args.len(), complain);
    let words = || kernel.args.iter().flat_map(|arg| arg.split_ascii_whitespace());
    if kernel.args.iter().any(|arg| arg.chars().any(char::is_control)) {
        complain(format!("{at}.kernel.args has a control character"));
    } else if let Some((arg, why)) = words().find_map(|a| Some((a, words::check_arg(a).err()?))) {
        complain(format!("{at}.kernel.args {arg:?} {why}"));
    }
    let bytes: usize = words().map(|a| a.len() + 1).sum();
    if bytes > limits::ARGS_BYTES {
        complain(format!("{at}.kernel.args has {bytes} bytes, more than {}", limits::ARGS_BYTES));
    }
}

fn check_cluster(at: &str, spec: &MetalClusterSpec, complain: &mut impl FnMut(String)) {
    if let Some(endpoint) = &spec.control_plane_endpoint
        && (endpoint.port > u32::from(u16::MAX) || endpoint.host.is_empty() != (endpoint.port == 0))
    {
        complain(format!("{at}.controlPlaneEndpoint needs a host and a port (1 to 65535), or neither"));
    }
    let mut names: Vec<&str> = spec.failure_domains.iter().map(|d| d.name.as_str()).collect();
    names.sort_unstable();
    if names.iter().any(|n| n.is_empty()) || names.windows(2).any(|w| w.first() == w.last()) {
        complain(format!("{at}.failureDomains: each needs a name of its own"));
    }
}

fn check_machine(machine: &MetalMachine, old: Option<&MetalMachine>, complain: &mut impl FnMut(String)) {
    let spec = &machine.spec;
    if spec.server_ref.is_none() && spec.server_class_ref.is_none() {
        complain("spec needs a serverRef or a serverClassRef".into());
    }
    if !spec.provider_id.is_empty() && !spec.provider_id.starts_with(PROVIDER) {
        complain(format!("spec.providerID {:?} does not begin with {PROVIDER}", spec.provider_id));
    }
    if let Some(before) = old.map(|o| &o.spec.provider_id).filter(|id| !id.is_empty())
        && *before != spec.provider_id
    {
        complain("spec.providerID cannot be changed once it is set".into());
    }
}

fn check_machine_template(
    template: &MetalMachineTemplate,
    old: Option<&MetalMachineTemplate>,
    complain: &mut impl FnMut(String),
) {
    let spec = &template.spec.template.spec;
    if !spec.provider_id.is_empty() {
        complain("spec.template.spec.providerID: a template has none; each machine gets its own".into());
    }
    if spec.server_class_ref.is_none() && spec.server_ref.is_none() {
        complain("spec.template.spec needs a serverClassRef".into());
    }
    if old.is_some_and(|o| o.spec.template.spec != *spec) {
        complain("spec.template.spec cannot be changed; make another template and refer to that".into());
    }
}

fn bounded(at: &str, text: &str, most: usize, complain: &mut impl FnMut(String)) {
    if text.len() > most {
        complain(format!("{at} is longer than {most} bytes"));
    }
}

fn bounded_list(at: &str, length: usize, complain: &mut impl FnMut(String)) {
    if length > bounds::LIST {
        complain(format!("{at} has more than {} entries", bounds::LIST));
    }
}

/// An RFC 1123 label.
fn is_label(label: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let b = label.as_bytes();
    b.len() <= 63
        && b.first().copied().is_some_and(plain)
        && b.last().copied().is_some_and(plain)
        && b.iter().all(|&c| plain(c) || c == b'-')
}
