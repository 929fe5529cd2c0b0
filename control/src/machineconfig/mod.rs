//! What a machine gets as its configuration: bootstrap data, changed by the
//! patches of its class and then by its own.
//!
//! Order, as Sidero and Talos have it: the class's RFC 6902 patches, its
//! strategic patches, the server's RFC 6902 patches, its strategic patches,
//! then the node label and the providerID that tie the node to its Server. Pure: text in, text out.

mod strategic;

use crate::resource::{ConfigPatch, Server, ServerClass};
use serde_json::{Value, json};

/// The node label that names the Server.
pub const UUID_LABEL: &str = "metal.sidero.dev/uuid";
/// Scheme of the providerID, as Cluster API reads it on the Node.
pub const PROVIDER: &str = "sidero";
/// The kubelet's argument for it; one that is in the configuration already stays.
const PROVIDER_ID: &str = "provider-id";
/// No configuration may be larger, bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// No configuration may have more YAML documents.
pub const MAX_DOCUMENTS: usize = 256;

/// The patches of one object.
#[derive(Clone, Copy, Default)]
pub struct Patches<'a> {
    /// RFC 6902.
    pub json: &'a [ConfigPatch],
    /// Talos strategic merge, YAML.
    pub strategic: &'a [String],
}

/// Why there is no configuration. The text names the place, never the contents:
/// a configuration holds secrets.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Too large to be meant.
    #[error("{0} is larger than {MAX_BYTES} bytes or has more than {MAX_DOCUMENTS} documents")]
    TooLarge(&'static str),
    /// Not YAML.
    #[error("{place} is not valid YAML (line {line})")]
    Yaml {
        /// Which text.
        place: String,
        /// Where it breaks; 0 where unknown.
        line: u64,
    },
    /// Patches can only be applied to a Talos machine configuration.
    #[error(
        "the bootstrap data is not a Talos machine configuration (no document has version: v1alpha1), but there are patches for it; remove the patches or the data's other format"
    )]
    NotTalos,
    /// A patch does not apply.
    #[error("{place} does not apply: {why}")]
    Patch {
        /// Which patch.
        place: String,
        /// What is missing or of another type.
        why: String,
    },
}

/// Renders the configuration of a Server that is allocated out of a class.
///
/// # Errors
/// See [`Error`]; nothing is served then.
pub fn of(bootstrap: &str, server: &Server, class: Option<&ServerClass>) -> Result<String, Error> {
    let by_class = class
        .map(|c| Patches { json: &c.spec.config_patches, strategic: &c.spec.strategic_patches })
        .unwrap_or_default();
    let own = Patches { json: &server.spec.config_patches, strategic: &server.spec.strategic_patches };
    render(bootstrap, &server.metadata.name, by_class, own)
}

/// Renders the configuration of a machine.
///
/// # Errors
/// See [`Error`]; nothing is served then.
pub fn render(bootstrap: &str, uuid: &str, class: Patches<'_>, server: Patches<'_>) -> Result<String, Error> {
    if bootstrap.len() > MAX_BYTES {
        return Err(Error::TooLarge("the bootstrap data"));
    }
    let all = [("the class", class), ("the server", server)];
    let patched = all.iter().any(|(_, p)| !p.json.is_empty() || !p.strategic.is_empty());
    let documents = read(bootstrap, "the bootstrap data");
    let talos = documents.as_ref().is_ok_and(|docs| docs.iter().any(is_machine_config));
    if !talos {
        // Cloud-init, Ignition, ...: handed on as it is, where nothing is to be changed.
        return if patched { Err(documents.err().unwrap_or(Error::NotTalos)) } else { Ok(bootstrap.to_owned()) };
    }
    let mut documents = documents?;
    for (whose, patches) in all {
        apply_json(&mut documents, patches.json, whose)?;
        for (i, text) in patches.strategic.iter().enumerate() {
            let place = format!("strategic patch {} of {whose}", i + 1);
            for patch in read(text, &place)? {
                strategic::apply(&mut documents, patch).map_err(|why| Error::Patch { place: place.clone(), why })?;
            }
        }
    }
    let mut args = json!({ "node-labels": node_labels(&documents, uuid) });
    if extra_arg(&documents, PROVIDER_ID).is_none() {
        // Set by the kubelet itself it is there from the Node's first moment, whether or not the
        // cluster's API can be reached from here.
        args[PROVIDER_ID] = format!("{PROVIDER}://{uuid}").into();
    }
    let ours = json!({"version": "v1alpha1", "machine": {"kubelet": {"extraArgs": args}}});
    strategic::apply(&mut documents, ours).map_err(|why| Error::Patch { place: "the node label".into(), why })?;
    write(&documents)
}

/// The kubelet's `node-labels`, with ours added to what is there.
fn node_labels(documents: &[Value], uuid: &str) -> String {
    let there = extra_arg(documents, "node-labels").and_then(Value::as_str).unwrap_or_default();
    let kept = there.split(',').map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(&format!("{UUID_LABEL}=")));
    kept.map(str::to_owned).chain([format!("{UUID_LABEL}={uuid}")]).collect::<Vec<_>>().join(",")
}

/// What the configuration itself gives the kubelet.
fn extra_arg<'a>(documents: &'a [Value], name: &str) -> Option<&'a Value> {
    let mut configs = documents.iter().filter(|d| is_machine_config(d));
    configs.find_map(|d| d.pointer("/machine/kubelet/extraArgs")?.get(name))
}

/// RFC 6902 on the machine configuration document; all or none.
fn apply_json(documents: &mut [Value], patches: &[ConfigPatch], whose: &str) -> Result<(), Error> {
    let Some(config) = documents.iter_mut().find(|d| is_machine_config(d)) else { return Err(Error::NotTalos) };
    for (i, patch) in patches.iter().enumerate() {
        let place = || format!("config patch {} of {whose} ({} {})", i + 1, patch.op, patch.path);
        let operation = serde_json::to_value(patch)
            .and_then(|op| serde_json::from_value::<json_patch::PatchOperation>(with_value(op, &patch.op)))
            .map_err(|e| Error::Patch { place: place(), why: e.to_string() })?;
        json_patch::patch(config, &[operation])
            .map_err(|e| Error::Patch { place: place(), why: e.kind.to_string() })?;
    }
    Ok(())
}

/// An absent value of `add`, `replace` and `test` means null, as Kubernetes' JSON drops nulls.
fn with_value(mut operation: Value, op: &str) -> Value {
    if matches!(op, "add" | "replace" | "test")
        && let Value::Object(fields) = &mut operation
    {
        fields.entry("value").or_insert(Value::Null);
    }
    operation
}

fn is_machine_config(document: &Value) -> bool {
    document.get("version").and_then(Value::as_str) == Some("v1alpha1") && document.get("kind").is_none()
}

/// The YAML documents of a text, empty ones left out.
fn read(text: &str, place: &str) -> Result<Vec<Value>, Error> {
    let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|e| Error::Yaml { place: place.to_owned(), line: e.location().map_or(0, |l| l.line()) })?;
    if documents.len() > MAX_DOCUMENTS {
        return Err(Error::TooLarge("the configuration"));
    }
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

fn write(documents: &[Value]) -> Result<String, Error> {
    let mut text = String::new();
    for (i, document) in documents.iter().enumerate() {
        if i > 0 {
            text.push_str("---\n");
        }
        let part = serde_saphyr::to_string(document)
            .map_err(|_| Error::Yaml { place: "the finished configuration".to_owned(), line: 0 })?;
        text.push_str(&part);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
