//! Schemas of what is not declared here: words of the agent, and JSON as it comes.

use protocol::report::{DataSource, ImageFormat, WipeMethod};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Serialize;

/// Any JSON.
pub fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// An object whose fields are the agent's. They are kept as they are: a newer agent may say more,
/// and a wipe record is signed over all of them.
pub fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A list of such objects.
pub fn objects(generator: &mut SchemaGenerator) -> Schema {
    let items = object(generator);
    json_schema!({ "type": "array", "items": items })
}

/// [`WipeMethod`].
pub fn wipe_method(_: &mut SchemaGenerator) -> Schema {
    words(&[WipeMethod::Auto, WipeMethod::Secure, WipeMethod::Zero, WipeMethod::Fast])
}

/// [`ImageFormat`].
pub fn image_format(_: &mut SchemaGenerator) -> Schema {
    words(&[ImageFormat::Raw, ImageFormat::Zst, ImageFormat::Xz])
}

/// [`DataSource`].
pub fn data_source(_: &mut SchemaGenerator) -> Schema {
    words(&[DataSource::None, DataSource::NoCloud, DataSource::ConfigDrive])
}

/// The texts that these are written as.
fn words<T: Serialize>(all: &[T]) -> Schema {
    let texts: Vec<_> = all.iter().filter_map(|word| serde_json::to_value(word).ok()).collect();
    json_schema!({ "type": "string", "enum": texts })
}
