//! Talos' strategic merge: a patch looks like the configuration itself.
//!
//! The rules, from Talos' own merge of its configuration types: maps merge key
//! by key; scalars replace unless they are empty (zero, ""), but `false`
//! always counts; lists append, except a few that replace, and a few whose
//! entries are matched by a key; `$patch: delete` removes what it stands in.
//! Documents are matched by `apiVersion`, `kind` and `name`; one that matches
//! none is added.

use serde_json::{Map, Value};

/// Lists and maps that a patch replaces whole, by document kind (`""` is the
/// machine configuration) and path. `*` is one entry of a list.
const REPLACED: &[(&str, &str)] = &[
    ("", "cluster/apiServer/auditPolicy"),
    ("", "cluster/network/podSubnets"),
    ("", "cluster/network/serviceSubnets"),
    ("CRIBaseRuntimeSpecConfig", "overrides"),
    ("KubeAuditPolicyConfig", "configuration"),
    ("KubeAuthenticationConfig", "configuration"),
    ("KubeCredentialProviderConfig", "configuration"),
    ("KubeNetworkConfig", "podSubnets"),
    ("KubeNetworkConfig", "serviceSubnets"),
    ("KubeStaticPodConfig", "pod"),
    ("NetworkRuleConfig", "ingress"),
    ("NetworkRuleConfig", "portSelector/ports"),
];

/// Lists whose entries are matched, by path, and by which keys of an entry.
const KEYED: &[(&str, &str, &[&str])] = &[
    ("", "machine/network/interfaces", &["interface", "deviceSelector"]),
    ("", "machine/network/interfaces/*/vlans", &["vlanId"]),
    ("", "cluster/apiServer/admissionControl", &["name"]),
    ("ExtensionServiceConfig", "configFiles", &["mountPath"]),
];

/// How deep a patch may nest.
const MAX_DEPTH: usize = 64;

/// Merges one patch document into the documents.
pub fn apply(documents: &mut Vec<Value>, patch: Value) -> Result<(), String> {
    let Value::Object(mut patch) = patch else { return Err("a patch is a map, like the configuration".to_owned()) };
    let identity = |d: &Value| [key(d, "apiVersion"), key(d, "kind"), key(d, "name")];
    let wanted = identity(&Value::Object(patch.clone()));
    let kind = wanted[1].clone();
    // A patch without apiVersion and kind is for the machine configuration.
    let found = documents
        .iter()
        .position(|d| if kind.is_empty() { super::is_machine_config(d) } else { identity(d) == wanted });
    if is_delete(&patch) {
        return match found {
            Some(at) if !kind.is_empty() => {
                documents.remove(at);
                Ok(())
            }
            Some(_) => Err("the machine configuration itself cannot be deleted".to_owned()),
            None => Err(format!("there is no document {kind} {} to delete", wanted[2])),
        };
    }
    match found {
        Some(at) => {
            let walk = Walk { kind: &kind };
            documents.get_mut(at).map_or(Ok(()), |document| walk.merge(document, Value::Object(patch), &mut Vec::new()))
        }
        None if kind.is_empty() => Err("there is no machine configuration to patch".to_owned()),
        None => {
            patch.remove("$patch");
            documents.push(Value::Object(patch));
            Ok(())
        }
    }
}

struct Walk<'a> {
    kind: &'a str,
}

impl Walk<'_> {
    fn merge(&self, into: &mut Value, patch: Value, path: &mut Vec<String>) -> Result<(), String> {
        if path.len() > MAX_DEPTH {
            return Err(format!("it nests deeper than {MAX_DEPTH}"));
        }
        if self.is_replaced(path) && !is_empty(&patch) {
            *into = patch;
            return Ok(());
        }
        match (into, patch) {
            (_, Value::Null) => Ok(()),
            (Value::Object(into), Value::Object(patch)) => self.merge_map(into, patch, path),
            (Value::Array(into), Value::Array(patch)) => self.merge_list(into, patch, path),
            (into @ Value::Null, patch) => {
                *into = strip(patch);
                Ok(())
            }
            (into, patch)
                if std::mem::discriminant(&*into) == std::mem::discriminant(&patch)
                    || is_scalar(into) && is_scalar(&patch) =>
            {
                if matches!(patch, Value::Bool(_)) || !is_empty(&patch) {
                    *into = patch;
                }
                Ok(())
            }
            _ => Err(format!("{} has another type in the configuration", shown(path))),
        }
    }

    fn merge_map(
        &self,
        into: &mut Map<String, Value>,
        patch: Map<String, Value>,
        path: &mut Vec<String>,
    ) -> Result<(), String> {
        for (name, value) in patch {
            if let Value::Object(fields) = &value
                && is_delete(fields)
            {
                if into.remove(&name).is_none() {
                    return Err(format!("{}/{name} is not there to delete", shown(path)));
                }
                continue;
            }
            path.push(name.clone());
            match into.get_mut(&name) {
                Some(there) => self.merge(there, value, path)?,
                None if value.is_null() => {}
                None => drop(into.insert(name, strip(value))),
            }
            path.pop();
        }
        Ok(())
    }

    fn merge_list(&self, into: &mut Vec<Value>, patch: Vec<Value>, path: &mut Vec<String>) -> Result<(), String> {
        let keys = self.keys(path);
        for mut entry in patch {
            let delete = entry.as_object().is_some_and(is_delete);
            if delete && let Value::Object(fields) = &mut entry {
                fields.remove("$patch");
            }
            let same = |there: &Value| match keys {
                Some(keys) => {
                    keys.iter().any(|k| there.get(k).is_some_and(|v| !is_empty(v) && entry.get(k) == Some(v)))
                }
                // Without a key only a deletion looks for its entry: one that has all that it names.
                None => delete && covers(there, &entry),
            };
            match (into.iter().position(same), delete) {
                (Some(at), true) => drop(into.remove(at)),
                (None, true) => return Err(format!("{} has no such entry to delete", shown(path))),
                (Some(at), false) => {
                    path.push("*".to_owned());
                    if let Some(there) = into.get_mut(at) {
                        self.merge(there, entry, path)?;
                    }
                    path.pop();
                }
                (None, false) => into.push(strip(entry)),
            }
        }
        Ok(())
    }

    fn is_replaced(&self, path: &[String]) -> bool {
        REPLACED.iter().any(|(kind, at)| *kind == self.kind && at.split('/').eq(path.iter().map(String::as_str)))
    }

    fn keys(&self, path: &[String]) -> Option<&'static [&'static str]> {
        let found =
            KEYED.iter().find(|(kind, at, _)| *kind == self.kind && at.split('/').eq(path.iter().map(String::as_str)));
        found.map(|(_, _, keys)| *keys)
    }
}

/// Takes `$patch` marks and nulls out of what is added new.
fn strip(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .into_iter()
                .filter(|(name, v)| name != "$patch" && !v.is_null() && !v.as_object().is_some_and(is_delete));
            Value::Object(kept.map(|(name, v)| (name, strip(v))).collect())
        }
        Value::Array(entries) => {
            let kept = entries.into_iter().filter(|v| !v.as_object().is_some_and(is_delete));
            Value::Array(kept.map(strip).collect())
        }
        other => other,
    }
}

fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            !wanted.is_empty() && wanted.iter().all(|(k, w)| there.get(k).is_some_and(|t| covers(t, w)))
        }
        (there, wanted) => there == wanted,
    }
}

fn is_delete(fields: &Map<String, Value>) -> bool {
    fields.get("$patch").and_then(Value::as_str) == Some("delete")
}

const fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

/// Go's zero value: what a patch leaves as it is.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn key(document: &Value, name: &str) -> String {
    document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn shown(path: &[String]) -> String {
    format!("/{}", path.join("/"))
}
