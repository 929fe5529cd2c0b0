//! From JSON Schema (2020-12, as schemars writes it) to the structural schemas
//! of Kubernetes (OpenAPI v3 with restrictions).

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The structural schema of a type.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural(&mut schema);
    schema
}

/// Words of JSON Schema that a structural schema does not have. Defaults are left out so that an
/// object is stored as it was written.
const DROPPED: [&str; 4] = ["title", "default", "examples", "$defs"];

fn structural(schema: &mut Value) {
    // `true` is the schema of everything.
    if schema.is_boolean() {
        *schema = json!({ "x-kubernetes-preserve-unknown-fields": true });
    }
    let Value::Object(map) = schema else { return };
    for word in DROPPED {
        map.remove(word);
    }
    one_of_words(map);
    optional(map);
    integer(map);
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = described(text);
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(word) {
            structural(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
}

/// An enum with documented variants comes as `oneOf` of constants; it becomes a list of words.
fn one_of_words(map: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = map.get("oneOf") else { return };
    let mut words = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum")) {
            (Some(word), _) => words.push(word.clone()),
            (_, Some(Value::Array(more))) => words.extend(more.iter().cloned()),
            _ => return,
        }
    }
    map.remove("oneOf");
    map.insert("type".into(), json!("string"));
    map.insert("enum".into(), Value::Array(words));
}

/// `Option` comes as a choice between the type and null; here a field that is not set is not there.
fn optional(map: &mut Map<String, Value>) {
    if let Some(Value::Array(choices)) = map.get("anyOf") {
        let mut real = choices.iter().filter(|c| c.get("type") != Some(&json!("null")));
        if let (Some(Value::Object(only)), None) = (real.next().cloned(), real.next()) {
            map.remove("anyOf");
            for (key, value) in only {
                // What is said of the field is closer than what is said of its type.
                map.entry(key).or_insert(value);
            }
            one_of_words(map);
        }
    }
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|t| t != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            map.insert("type".into(), one);
        }
    }
    if let Some(Value::Array(words)) = map.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
}

/// Kubernetes knows int32 and int64; what is unsigned has a minimum.
fn integer(map: &mut Map<String, Value>) {
    let Some(format) = map.get("format").and_then(Value::as_str) else { return };
    let maximum = match format {
        "uint8" => Some(u64::from(u8::MAX)),
        "uint16" => Some(u64::from(u16::MAX)),
        "uint32" => Some(u64::from(u32::MAX)),
        "uint64" | "uint" => None,
        _ => return,
    };
    map.insert("format".into(), json!("int64"));
    map.insert("minimum".into(), json!(0));
    if let Some(maximum) = maximum {
        map.insert("maximum".into(), json!(maximum));
    }
}

/// A comment of the source as words for `kubectl explain`: lines joined, no links into the code.
fn described(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match (word.find('`'), word.rfind("::")) {
        // A path into the code: its last part is the word that users write.
        (Some(tick), Some(path)) if tick < path => format!("{}{}", &word[..=tick], &word[path + 2..]),
        _ => word.to_owned(),
    });
    let plain = words.collect::<Vec<_>>().join(" ").replace("[`", "`").replace("`]", "`");
    let Some(ours) = plain.strip_prefix("Ours: ") else { return plain };
    let mut letters = ours.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{} (Sidero Metal has no such field.)", letters.as_str())
}
