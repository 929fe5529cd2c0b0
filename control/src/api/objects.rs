//! Declared objects over the operator's API: as kubectl would read and write them.

use super::{Answer, Operator, no};
use crate::metadata::words::clean;
use crate::objects::{Error, Objects as _, Preconditions};
use crate::resource::{Kind, Object, Server, Typed as _, WipePolicy, marks};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Annotation with the spec that was applied last: what is in it and not in the next one is taken away.
const LAST_APPLIED: &str = "stoker.dev/last-applied-spec";
/// Tries to write an object that others write to as well.
const TRIES: usize = 8;

/// All objects of a kind.
#[derive(Debug, Serialize, Deserialize)]
pub struct ObjectList {
    /// By name.
    pub items: Vec<Object>,
}

/// What an apply did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Applied {
    /// It was not there.
    Created,
    /// It has changed.
    Configured,
    /// It was so already.
    Unchanged,
}

type Refusal = (StatusCode, Json<super::types::Problem>);

pub(super) async fn list(State(op): State<Arc<Operator>>, Path(kind): Path<String>) -> Answer<ObjectList> {
    let items = op.objects.list(word(&kind)?).await.map_err(|e| refused(&e))?.objects;
    Ok(Json(ObjectList { items }))
}

pub(super) async fn one(
    State(op): State<Arc<Operator>>,
    Path((kind, name)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer<Object> {
    let kind = word(&kind)?;
    op.objects.get(kind, &space(kind, &query), &name).await.map(Json).map_err(|e| refused(&e))
}

pub(super) async fn remove(
    State(op): State<Arc<Operator>>,
    Path((kind, name)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer<Value> {
    let kind = word(&kind)?;
    let all = Preconditions::default();
    op.objects.delete(kind, &space(kind, &query), &name, all).await.map_err(|e| refused(&e))?;
    let there = op.objects.get(kind, &space(kind, &query), &name).await.is_ok();
    // What has a finalizer goes when its work is done.
    Ok(Json(serde_json::json!({ "deleted": !there })))
}

/// Creates or changes an object. With a `resourceVersion` only over that version.
pub(super) async fn apply(State(op): State<Arc<Operator>>, Json(document): Json<Value>) -> Answer<Applied> {
    let new = Object::read(document).map_err(|bad| refused(&Error::Invalid(bad)))?;
    for _ in 0..TRIES {
        let done = match op.objects.get(new.kind, &new.metadata.namespace, &new.metadata.name).await {
            Err(Error::NotFound(_)) => op.objects.create(stamped(new.clone())).await.map(|_| Applied::Created),
            Err(e) => Err(e),
            Ok(old) => {
                let merged = merge(&old, new.clone());
                let version = old.metadata.resource_version;
                op.objects.replace(merged).await.map(|now| match now.metadata.resource_version == version {
                    true => Applied::Unchanged,
                    false => Applied::Configured,
                })
            }
        };
        match done {
            Ok(applied) => return Ok(Json(applied)),
            // Without a version of the writer's own, the newest is meant.
            Err(Error::Conflict { .. } | Error::Exists(_)) if new.metadata.resource_version.is_empty() => {}
            Err(e) => return Err(refused(&e)),
        }
    }
    Err(no(StatusCode::CONFLICT, format!("{} changes too fast to be written", new.key()), "try again"))
}

/// Replaces an object as a whole (`stoker edit`), over the version that was read.
pub(super) async fn replace(State(op): State<Arc<Operator>>, Json(document): Json<Value>) -> Answer<Object> {
    let new = Object::read(document).map_err(|bad| refused(&Error::Invalid(bad)))?;
    if new.metadata.resource_version.is_empty() {
        let what = "metadata.resourceVersion is missing: it tells which version was changed";
        return Err(no(StatusCode::UNPROCESSABLE_ENTITY, what, "leave it as it was read"));
    }
    op.objects.replace(stamped(new)).await.map(Json).map_err(|e| refused(&e))
}

pub(super) async fn export(State(op): State<Arc<Operator>>) -> Response {
    let mut lines = Vec::new();
    match op.objects.export(&mut lines).await {
        Ok(_) => ([(CONTENT_TYPE, "application/x-ndjson")], Body::from(lines)).into_response(),
        Err(e) => refused(&e).into_response(),
    }
}

pub(super) async fn import(State(op): State<Arc<Operator>>, lines: String) -> Answer<Value> {
    let count = op.objects.import(&lines).await.map_err(|e| refused(&e))?;
    Ok(Json(serde_json::json!({ "imported": count })))
}

/// What operators do to Servers by one word.
pub(super) async fn act(
    State(op): State<Arc<Operator>>,
    Path((name, verb)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer<Object> {
    for _ in 0..TRIES {
        let object = op.objects.get(Kind::Server, "", &name).await.map_err(|e| refused(&e))?;
        let mut server = Server::from_object(&object).map_err(|e| refused(&Error::Invalid(vec![e])))?;
        let conflict = |c: &&crate::resource::Condition| c.r#type == marks::IDENTITY_CONFLICT && c.status == "True";
        if verb == "accept"
            && let Some(c) = server.status.conditions.iter().find(conflict)
        {
            let what = format!("{name} is not accepted: {}", c.message);
            return Err(no(StatusCode::CONFLICT, what, "tell the two machines apart first"));
        }
        let spec = &mut server.spec;
        let notes = &mut server.metadata.annotations;
        match (verb.as_str(), query.get("as").map(String::as_str)) {
            ("accept", how) => {
                spec.accepted = true;
                if how == Some("clean") {
                    let policy = spec.wipe.get_or_insert_with(WipePolicy::default);
                    policy.on_accept = crate::resource::OnAccept::Keep;
                }
            }
            ("cordon", _) => spec.cordoned = true,
            ("uncordon", _) => spec.cordoned = false,
            ("retry", _) => drop(notes.insert(marks::RETRY.into(), String::new())),
            ("lift", Some(how @ ("wipe" | "running"))) => drop(notes.insert(marks::LIFT.into(), how.into())),
            _ => {
                let what = format!("{} is nothing that can be done to a Server", clean(&verb));
                return Err(no(StatusCode::NOT_FOUND, what, "accept, cordon, uncordon, retry, lift?as=wipe|running"));
            }
        }
        match op.objects.replace(server.to_object()).await {
            Ok(object) => return Ok(Json(object)),
            Err(Error::Conflict { .. }) => {}
            Err(e) => return Err(refused(&e)),
        }
    }
    Err(no(StatusCode::CONFLICT, format!("Server {} changes too fast to be written", clean(&name)), "try again"))
}

/// What is applied over what is there: what the last apply wrote and this one does not is taken
/// away; what others wrote (an agent's `hardware`) stays.
fn merge(old: &Object, new: Object) -> Object {
    let last: Value = old
        .metadata
        .annotations
        .get(LAST_APPLIED)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    let new = stamped(new);
    let mut meta = old.metadata.clone();
    meta.resource_version.clone_from(&new.metadata.resource_version);
    meta.labels.extend(new.metadata.labels);
    meta.annotations.extend(new.metadata.annotations);
    if !new.metadata.finalizers.is_empty() {
        meta.finalizers = new.metadata.finalizers;
    }
    let data = if new.data.is_null() { old.data.clone() } else { new.data };
    Object { metadata: meta, spec: three_way(&last, &old.spec, &new.spec), data, ..old.clone() }
}

fn three_way(last: &Value, old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let none = Map::new();
    let last = last.as_object().unwrap_or(&none);
    let mut merged: Map<String, Value> = old
        .iter()
        .filter(|(key, _)| new.contains_key(*key) || !last.contains_key(*key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, value) in new {
        let merged_value =
            three_way(last.get(key).unwrap_or(&Value::Null), old.get(key).unwrap_or(&Value::Null), value);
        merged.insert(key.clone(), merged_value);
    }
    Value::Object(merged)
}

/// Notes the spec that is applied. A Secret's contents are not noted.
fn stamped(mut object: Object) -> Object {
    if !object.spec.is_null() {
        object.metadata.annotations.insert(LAST_APPLIED.to_owned(), object.spec.to_string());
    }
    object
}

fn word(kind: &str) -> Result<Kind, Refusal> {
    Kind::from_word(kind).ok_or_else(|| {
        let remedy = "server, serverclass, environment, serverbinding, secret, metalcluster, metalmachine";
        no(StatusCode::NOT_FOUND, format!("{} is no kind of object", clean(kind)), remedy)
    })
}

fn space(kind: Kind, query: &HashMap<String, String>) -> String {
    match (kind.namespaced(), query.get("namespace")) {
        (false, _) => String::new(),
        (true, Some(namespace)) => namespace.clone(),
        (true, None) => marks::NAMESPACE.to_owned(),
    }
}

pub(super) fn refused(e: &Error) -> Refusal {
    let (status, remedy) = match e {
        Error::NotFound(_) => (StatusCode::NOT_FOUND, ""),
        Error::Exists(_) => (StatusCode::CONFLICT, ""),
        Error::Conflict { .. } => (StatusCode::CONFLICT, "read it again and repeat the change"),
        Error::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, ""),
        Error::Gone(_) => (StatusCode::GONE, ""),
        Error::Unknown(..) | Error::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, ""),
    };
    // The operator's own words come back here; control characters in them do not.
    let text: String = e.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    no(status, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_applied_before_and_is_not_now_is_taken_away_and_the_rest_stays() {
        let last = json!({"accepted": true, "bmc": {"endpoint": "a", "user": "u"}});
        let old = json!({"accepted": true, "bmc": {"endpoint": "a", "user": "u", "port": 5}, "hardware": {"x": 1}});
        let new = json!({"bmc": {"endpoint": "b"}, "cordoned": true});
        let merged = three_way(&last, &old, &new);
        assert_eq!(merged, json!({"bmc": {"endpoint": "b", "port": 5}, "hardware": {"x": 1}, "cordoned": true}));
        assert_eq!(three_way(&Value::Null, &json!({"a": [1, 2]}), &json!({"a": [3]})), json!({"a": [3]}));
    }
}
