//! Conditional requests (RFC 9110 section 13).
//!
//! Every object has a strong ETag, the hex digits of its SHA-256.

use super::answer::{Resource, Status};
use super::date;
use super::head::Request;
use super::range::{self, Asked};

/// What is left of a request after its conditions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Serve this much of it.
    Serve(Asked),
    /// Serve nothing: 304 or 412.
    Stop(Status),
}

/// Judges the conditions in the order of RFC 9110 section 13.2.2.
pub fn judge(request: &Request<'_>, resource: &Resource<'_>, now: u64) -> Verdict {
    let tag = resource.etag();
    let tag = str::from_utf8(&tag).unwrap_or_default();
    let modified = resource.modified;
    let date_of = |field| request.single(field).and_then(|value| date::parse(value, now));

    if request.has("if-match") {
        if !request.all("if-match").any(|value| lists(value, tag, Compare::Strong)) {
            return Verdict::Stop(Status::PreconditionFailed);
        }
    } else if date_of("if-unmodified-since").is_some_and(|since| modified > since) {
        return Verdict::Stop(Status::PreconditionFailed);
    }
    if request.has("if-none-match") {
        if request.all("if-none-match").any(|value| lists(value, tag, Compare::Weak)) {
            return Verdict::Stop(Status::NotModified);
        }
    } else if date_of("if-modified-since").is_some_and(|since| modified <= since) {
        return Verdict::Stop(Status::NotModified);
    }
    // Section 14.2: Range is for GET alone. Two Range fields contradict each other: the whole.
    let Some(range) = request.single("range").filter(|_| request.is_get()) else {
        return Verdict::Serve(Asked::Whole);
    };
    let same = match (request.has("if-range"), request.single("if-range")) {
        (false, _) => true,
        // Section 13.1.5: strong comparison, or exactly the date that was given out.
        (true, Some(value)) => value == tag.as_bytes() || date::parse(value, now) == Some(modified),
        (true, None) => false,
    };
    Verdict::Serve(if same { range::parse(range, resource.length) } else { Asked::Whole })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a list of entity tags (or `*`) names `tag`, quotes included.
///
/// What cannot be read names nothing: If-Match then fails and If-None-Match
/// lets the object through, both on the safe side.
fn lists(value: &[u8], tag: &str, compare: Compare) -> bool {
    let Ok(mut rest) = str::from_utf8(value) else { return false };
    if rest.trim_matches([' ', '\t']) == "*" {
        return true;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = rest.strip_prefix("W/");
        let Some(quoted) = weak.unwrap_or(rest).strip_prefix('"') else { return false };
        let Some((opaque, after)) = quoted.split_once('"') else { return false };
        let same = tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')) == Some(opaque);
        if same && (weak.is_none() || compare == Compare::Weak) {
            return true;
        }
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.starts_with(',') {
            return false;
        }
    }
}
