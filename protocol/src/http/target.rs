//! The request's target (RFC 9112 section 3.2) as a path.

use super::answer::{Bad, Status};
use crate::id::hex_pair;
use alloc::vec::Vec;

/// The path that a target names, percent signs decoded once, without the query.
///
/// Origin form (`/a/b?c`) and absolute form (`http://edge/a/b`) are taken; a
/// file server has no use for the others. Whose name stands in an absolute
/// form does not matter: nothing is forwarded.
///
/// # Errors
/// 400 where it is neither, has a fragment, or a percent sign without two hex digits.
pub fn path(target: &str) -> Result<Vec<u8>, Bad> {
    const BAD: Bad = Bad { status: Status::BadRequest, why: "not a path" };
    let path = form(target).ok_or(BAD)?;
    if path.contains('#') {
        return Err(BAD);
    }
    let path = path.split_once('?').map_or(path, |(path, _query)| path);
    decode(if path.is_empty() { "/" } else { path }).ok_or(BAD)
}

/// The path and query of a target in origin or absolute form.
pub(super) fn form(target: &str) -> Option<&str> {
    if target.starts_with('/') { Some(target) } else { after_authority(target) }
}

/// What follows `http://host:port`, where that is well formed.
fn after_authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    if !(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    (!authority.is_empty() && is_host(authority.as_bytes())).then_some(path)
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; also empty (RFC 9112 section 3.2 allows an empty Host).
pub fn is_host(value: &[u8]) -> bool {
    let Ok(value) = str::from_utf8(value) else { return false };
    let port = |text: &str| text.len() <= 5 && text.bytes().all(|c| c.is_ascii_digit());
    if let Some(rest) = value.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        // A zone (`%eth0`) has no meaning outside its own host, but old clients send it.
        let address = address.split_once('%').map_or(address, |(address, _zone)| address);
        return address.parse::<core::net::Ipv6Addr>().is_ok() && rest.strip_prefix(':').map_or(rest.is_empty(), port);
    }
    let (host, digits) = value.split_once(':').unwrap_or((value, ""));
    // RFC 3986 section 3.2.2: reg-name.
    port(digits) && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&c))
}

fn decode(path: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex_pair(bytes.next()?, bytes.next()?)?,
            plain => plain,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(target: &str) -> std::string::String {
        std::string::String::from_utf8(path(target).unwrap()).unwrap()
    }

    #[test]
    fn h07_absolute_form_is_accepted() {
        for target in ["http://edge/a/b", "HTTP://10.0.0.1:8080/a/b", "http://[fd77::1]:8080/a/b", "https://edge/a/b?x"]
        {
            assert_eq!(ok(target), "/a/b", "{target}");
        }
        assert_eq!(ok("http://edge"), "/");
        for target in ["ftp://edge/a", "http:///a", "http://e e/a", "edge:80", "*", "", "a/b", "http://[::1/a"] {
            assert!(path(target).is_err(), "{target}");
        }
    }

    #[test]
    fn h08_percent_signs_are_decoded_once() {
        assert_eq!(ok("/a%20b"), "/a b");
        assert_eq!(ok("/%2e%2E%2f"), "/../");
        assert_eq!(ok("/%252e"), "/%2e");
        assert_eq!(ok("/%00"), "/\0");
        for target in ["/%", "/%2", "/%zz", "/%+1", "/a#b"] {
            assert!(path(target).is_err(), "{target}");
        }
    }

    #[test]
    fn h09_the_query_is_ignored() {
        assert_eq!(ok("/a?b=/../c%zz"), "/a");
        assert_eq!(ok("/a?"), "/a");
    }

    #[test]
    fn h39_an_ipv6_literal_is_a_host() {
        for host in ["", "edge", "edge:8080", "10.0.0.1", "[fd77::1]", "[fd77::1]:8080", "[fe80::1%eth0]", "edge:"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "fd77::1",
            "[fd77::1",
            "[x]",
            "[::1]x",
            "e e",
            "edge:80:80",
            "edge:http",
            "edge:123456",
            "a/b",
            "a@b",
            "\u{e9}",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
