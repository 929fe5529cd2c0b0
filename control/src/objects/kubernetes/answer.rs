//! What a refusal of the API server means.

use super::super::Error;
use super::key_of;
use crate::resource::{BadObject, Kind, Object};
use kube::core::Status;
use std::error::Error as _;

/// What was asked about, for the words of an error.
pub struct Asked<'a> {
    kind: Kind,
    namespace: &'a str,
    name: &'a str,
    /// The version (or uid) that was expected.
    expected: &'a str,
}

impl<'a> Asked<'a> {
    /// About all of a kind.
    pub fn all(kind: Kind) -> Self {
        Self { kind, namespace: "", name: "", expected: "" }
    }

    /// About one object.
    pub fn one(kind: Kind, namespace: &'a str, name: &'a str, expected: &'a str) -> Self {
        Self { kind, namespace, name, expected }
    }

    /// About this object.
    pub fn object(object: &'a Object) -> Self {
        let meta = &object.metadata;
        Self::one(object.kind, &meta.namespace, &meta.name, &meta.resource_version)
    }

    /// Its key in the store.
    pub fn key(&self) -> String {
        key_of(self.kind, self.namespace, self.name)
    }

    /// The store's error for a failed request.
    pub fn refused(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => self.status(&status),
            other => Error::Store(format!("{}: the API server is not reached: {}", self.key(), chain(&other))),
        }
    }

    /// The store's error for a status.
    pub fn status(&self, status: &Status) -> Error {
        match status.code {
            404 => self.not_found(status),
            409 if status.is_already_exists() => Error::Exists(self.key()),
            409 => Error::Conflict {
                key: self.key(),
                expected: self.expected.to_owned(),
                // Looked up by who answers for it.
                found: String::new(),
            },
            410 => Error::Gone(self.expected.parse().unwrap_or_default()),
            400 | 413 | 422 => Error::Invalid(self.complaints(status)),
            401 => Error::Store(format!(
                "{}: the cluster does not know who asks: {}; look at the token or certificate of the kubeconfig",
                self.key(),
                said(status)
            )),
            403 => Error::Store(format!(
                "{}: {}; give stoker's account this right (assets/deploy)",
                self.key(),
                said(status)
            )),
            code => Error::Store(format!("{}: the API server answers {code}: {}", self.key(), said(status))),
        }
    }

    /// An object that is not there, a kind that the cluster does not know, or a namespace that is missing.
    fn not_found(&self, status: &Status) -> Error {
        let details = status.details.as_ref();
        let about = details.map_or("", |d| d.name.as_str());
        if details.is_some_and(|d| d.kind == "namespaces") {
            return Error::Store(format!(
                "{}: the namespace {about} does not exist; make it: kubectl create namespace {about}",
                self.key()
            ));
        }
        if self.name.is_empty() || about.is_empty() {
            let remedy = match self.kind {
                Kind::Cluster | Kind::Machine => "install Cluster API: clusterctl init",
                _ => "install the definitions: stoker crds | kubectl apply --server-side -f -",
            };
            return Error::Unknown(self.kind, remedy);
        }
        Error::NotFound(self.key())
    }

    /// Every field that is complained about.
    fn complaints(&self, status: &Status) -> Vec<BadObject> {
        let causes = status.details.iter().flat_map(|d| &d.causes);
        let complaints: Vec<BadObject> = causes
            .map(|cause| BadObject::Field(format!("{}: {}: {}", self.key(), cause.field, plain(&cause.message))))
            .collect();
        if complaints.is_empty() {
            vec![BadObject::Field(format!("{}: {}", self.key(), said(status)))]
        } else {
            complaints
        }
    }
}

/// The server's words.
fn said(status: &Status) -> String {
    plain(if status.message.is_empty() { &status.reason } else { &status.message })
}

/// Words of the network, for a log line: plain, and of a bearable length.
fn plain(text: &str) -> String {
    const LONGEST: usize = 500;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// An error with its causes: the outer one says little.
pub fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(code: u16, reason: &str, details: serde_json::Value) -> Status {
        serde_json::from_value(json!({
            "status": "Failure", "code": code, "reason": reason, "message": "said", "details": details,
        }))
        .unwrap()
    }

    #[test]
    fn refusals_become_the_errors_of_the_store() {
        let asked = Asked::one(Kind::Server, "", "a", "7");
        let named = json!({"name": "a", "kind": "servers"});
        assert!(matches!(asked.status(&status(404, "NotFound", named.clone())), Error::NotFound(k) if k == "Server/a"));
        assert!(matches!(asked.status(&status(409, "AlreadyExists", named.clone())), Error::Exists(_)));
        assert!(
            matches!(asked.status(&status(409, "Conflict", named)), Error::Conflict { expected, .. } if expected == "7")
        );
        assert!(matches!(asked.status(&status(410, "Expired", json!(null))), Error::Gone(7)));
        let unknown = asked.status(&status(404, "NotFound", json!({})));
        assert!(matches!(unknown, Error::Unknown(Kind::Server, remedy) if remedy.contains("stoker crds")));
        for (code, reason, details, says) in [
            (404, "NotFound", json!({"name": "stoker", "kind": "namespaces"}), "kubectl create namespace stoker"),
            (403, "Forbidden", json!({"name": "a"}), "right"),
            (401, "Unauthorized", json!(null), "token"),
            (503, "ServiceUnavailable", json!(null), "503"),
        ] {
            let error = asked.status(&status(code, reason, details));
            assert!(matches!(&error, Error::Store(text) if text.contains(says)), "{code}: {error}");
        }
    }

    #[test]
    fn every_complaint_names_its_field() {
        let causes = json!({"causes": [
            {"field": "spec.bmc", "message": "endpoint is missing", "reason": "FieldValueInvalid"},
            {"field": "spec.bmc.port", "message": "too\nlarge", "reason": "FieldValueInvalid"},
        ]});
        let error = Asked::one(Kind::Server, "", "a", "").status(&status(422, "Invalid", causes)).to_string();
        assert!(
            error.contains("spec.bmc: endpoint is missing") && error.contains("spec.bmc.port: too large"),
            "{error}"
        );
    }
}
