//! A request's answer: the path becomes a name, the name an image.

use crate::catalog::{Asked, BadPath, Catalog, Named, resolve};
use crate::metrics::Refusal;
use protocol::http::answer::Bad;
use protocol::http::{Answer, Request, Resource, Status};
use protocol::id::Mac;

/// Where the edge says how it is.
const HEALTH: &[u8] = b"/healthz";

/// What to send, and what to tell about it.
pub(super) struct Reply<'c> {
    pub(super) answer: Answer,
    /// The object that is served; None for words, refusals and HEAD.
    pub(super) named: Option<&'c Named>,
    pub(super) asked: Told,
    pub(super) refused: Option<(Refusal, &'static str)>,
}

/// What was asked for, as events tell it.
pub(super) struct Told {
    pub(super) mac: Option<Mac>,
    pub(super) name: String,
}

pub(super) fn reply<'c>(catalog: &'c Catalog, request: &Request<'_>, draining: bool, date: u64) -> Reply<'c> {
    let refuse = |status, reason, why, asked| {
        let answer = request.refuse(Bad { status, why }, date);
        Reply { answer, named: None, asked, refused: Some((reason, why)) }
    };
    let target = || Told { mac: None, name: request.target().to_owned() };
    if let Some(bad) = request.refusal() {
        return refuse(bad.status, Refusal::Unsupported, bad.why, target());
    }
    let path = match request.path() {
        Ok(path) => path,
        Err(bad) => return refuse(bad.status, Refusal::BadPath, bad.why, target()),
    };
    if path == HEALTH {
        // Balancers send nothing new to whom cannot serve or is leaving.
        return match (catalog.loaded(), draining) {
            (true, false) => Reply { answer: request.text("ok", date), named: None, asked: target(), refused: None },
            (true, true) => unhealthy(request, "going down", date, target()),
            (false, _) => unhealthy(request, "no manifest loaded yet", date, target()),
        };
    }
    let Asked { mac, name } = match resolve(&path) {
        Ok(asked) => asked,
        Err(BadPath::NotPlain) => {
            return refuse(Status::BadRequest, Refusal::BadPath, BadPath::NotPlain.as_str(), target());
        }
        Err(other) => return refuse(Status::NotFound, Refusal::NotFound, other.as_str(), target()),
    };
    let asked = Told { mac, name: name.to_owned() };
    match catalog.get(name) {
        None if !catalog.loaded() => {
            refuse(Status::ServiceUnavailable, Refusal::NotReady, "no manifest loaded yet", asked)
        }
        None if catalog.refused(name) => refuse(
            Status::ServiceUnavailable,
            Refusal::NotReady,
            "its object is missing or damaged, see edge.state",
            asked,
        ),
        None => refuse(Status::NotFound, Refusal::NotFound, "no such file", asked),
        Some(named) => {
            let resource = Resource {
                length: named.image.len(),
                digest: named.image.id(),
                content_type: &named.content_type,
                modified: named.modified,
            };
            let answer = request.answer(&resource, date);
            let refused = match answer.status {
                Status::RangeNotSatisfiable => Some((Refusal::Condition, "range beyond the end")),
                Status::PreconditionFailed => Some((Refusal::Condition, "it has changed")),
                _ => None,
            };
            Reply { answer, named: Some(named).filter(|_| request.is_get()), asked, refused }
        }
    }
}

fn unhealthy<'c>(request: &Request<'_>, why: &'static str, date: u64, asked: Told) -> Reply<'c> {
    let answer = request.refuse(Bad { status: Status::ServiceUnavailable, why }, date);
    Reply { answer, named: None, asked, refused: None }
}

/// What a rejected head is counted as.
pub(super) fn reason(status: Status) -> Refusal {
    match status {
        Status::HeadTooLarge | Status::UriTooLong | Status::ContentTooLarge => Refusal::TooLarge,
        Status::VersionNotSupported => Refusal::Unsupported,
        Status::RequestTimeout => Refusal::TooSlow,
        _ => Refusal::Malformed,
    }
}
