//! Requests to a BMC: bounded in time and size, never led elsewhere, and
//! never more trusting than told.

use super::tls::{self, Trust};
use crate::limits;
use crate::power::Error;
use protocol::dhcp::text::printable;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// How long requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// A whole request.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: limits::BMC_CONNECT, request: limits::BMC_REQUEST }
    }
}

/// A way to one BMC.
pub struct Http {
    client: reqwest::Client,
    base: String,
    auth: Option<(HeaderName, HeaderValue)>,
    tls: tls::Seen,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// `ETag`.
    pub etag: Option<String>,
    /// `Location`, its path only.
    pub location: Option<String>,
    /// `X-Auth-Token`.
    pub token: Option<HeaderValue>,
    /// Its body; null where it is empty or no JSON.
    pub body: Value,
}

impl Http {
    /// Over plain HTTP.
    ///
    /// # Errors
    /// A base that is no URL.
    pub fn plain(base: &str, timeouts: Timeouts) -> Result<Self, Error> {
        Self::new(base, builder(timeouts), tls::Seen::default())
    }

    /// Over TLS.
    ///
    /// # Errors
    /// As [`Http::plain`].
    pub fn tls(base: &str, trust: &Trust, timeouts: Timeouts) -> Result<Self, Error> {
        let seen = tls::Seen::default();
        let builder = match tls::config(trust, &seen) {
            Some(config) => builder(timeouts).tls_backend_preconfigured(config),
            None => builder(timeouts),
        };
        Self::new(base, builder.https_only(true), seen)
    }

    fn new(base: &str, builder: reqwest::ClientBuilder, tls: tls::Seen) -> Result<Self, Error> {
        if reqwest::Url::parse(base).is_err() {
            return Err(Error::Unsupported(format!("{} is no URL of a BMC", printable(base.as_bytes(), 80))));
        }
        let client = builder.build().map_err(|e| Error::Http(words(&e)))?;
        Ok(Self { client, base: base.to_owned(), auth: None, tls })
    }

    /// Sends this with every request from now on; it is never logged.
    pub fn authenticate(&mut self, token: Option<HeaderValue>, basic: Option<(&str, &str)>) {
        use base64::Engine as _;
        self.auth = match (token, basic) {
            (Some(token), _) => Some((HeaderName::from_static("x-auth-token"), token)),
            (None, Some((user, password))) => {
                let both = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                HeaderValue::from_str(&format!("Basic {both}")).ok().map(|value| (AUTHORIZATION, value))
            }
            (None, None) => None,
        };
        if let Some((_, value)) = &mut self.auth {
            value.set_sensitive(true);
        }
    }

    /// The fingerprint of the certificate that the BMC showed.
    pub fn certificate(&self) -> Option<String> {
        self.tls.fingerprint()
    }

    /// Sends a request and reads its answer, whatever its status.
    ///
    /// # Errors
    /// A BMC that cannot be reached, does not answer in time, shows a wrong certificate, or says too much.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Reply, Error> {
        let path = local(path)?;
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base));
        for (name, value) in self.auth.iter().chain(headers) {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        } else if method == Method::POST {
            // Some BMCs insist on a length.
            request = request.header("content-length", "0").body("");
        }
        let mut answer = request.send().await.map_err(|e| self.failed(&e))?;
        let status = answer.status();
        let header = |name| text(answer.headers(), name);
        let etag = header(ETAG);
        let location = header(LOCATION).and_then(|l| path_of(&l));
        let token = answer.headers().get("x-auth-token").cloned();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|e| self.failed(&e))? {
            if bytes.len() + piece.len() > limits::BMC_ANSWER_BYTES {
                return Err(Error::Refused(format!(
                    "GET {path}: its answer is larger than {} KiB",
                    limits::BMC_ANSWER_BYTES >> 10
                )));
            }
            bytes.extend_from_slice(&piece);
        }
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Reply { status, etag, location, token, body })
    }

    fn failed(&self, e: &reqwest::Error) -> Error {
        match self.tls.refusal() {
            Some(why) => Error::Certificate(why),
            None if is_certificate(e) => Error::Certificate(format!(
                "its certificate is not trusted ({}): have it signed by an authority that this host knows, or set spec.bmc.tls to pin",
                words(e)
            )),
            None if e.is_timeout() => Error::Http("the BMC does not answer in time".to_owned()),
            None if e.is_connect() => Error::Http(format!(
                "the BMC cannot be reached ({}): check spec.bmc.endpoint and its network",
                words(e)
            )),
            None => Error::Http(format!("the connection to the BMC broke ({})", words(e))),
        }
    }
}

impl Reply {
    /// The body of an answer that says yes.
    ///
    /// # Errors
    /// What the BMC says instead.
    pub fn done(self, what: &str) -> Result<Value, Error> {
        match self.status {
            status if status.is_success() => Ok(self.body),
            StatusCode::UNAUTHORIZED => Err(Error::Closed),
            StatusCode::FORBIDDEN => {
                Err(Error::Refused(format!("{what}: the role of this user does not allow it{}", self.says())))
            }
            status => Err(Error::Refused(format!("{what}: HTTP {}{}", status.as_u16(), self.says()))),
        }
    }

    /// The BMC's own words on an error (DSP0266, extended error responses), made harmless.
    pub fn says(&self) -> String {
        let error = &self.body["error"];
        let message = error["@Message.ExtendedInfo"][0]["Message"].as_str().or_else(|| error["message"].as_str());
        message.map(|m| format!(": {}", printable(m.as_bytes(), 160))).unwrap_or_default()
    }
}

/// A path on this BMC, and nothing that leads elsewhere.
fn local(path: &str) -> Result<&str, Error> {
    let sane = path.len() <= limits::URL_BYTES && path.bytes().all(|b| b.is_ascii_graphic());
    match path.starts_with('/') && !path.starts_with("//") && sane {
        true => Ok(path),
        false => Err(Error::Refused(format!("a link to {}: it is no path", printable(path.as_bytes(), 80)))),
    }
}

/// The path of a link; BMCs write whole URLs into `Location`, with whatever they take their name to be.
fn path_of(link: &str) -> Option<String> {
    if link.starts_with('/') {
        return Some(link.to_owned());
    }
    reqwest::Url::parse(link).ok().map(|url| url.path().to_owned())
}

fn builder(timeouts: Timeouts) -> reqwest::ClientBuilder {
    // Every TLS user of this process has the same provider; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("stoker/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeouts.connect)
        .timeout(timeouts.request)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(limits::BMC_IDLE)
        .no_proxy()
        .http1_only()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn is_certificate(e: &(dyn std::error::Error + 'static)) -> bool {
    causes(e).any(|cause| matches!(cause.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_))))
}

/// The innermost cause: the outer ones repeat the URL.
fn words(e: &(dyn std::error::Error + 'static)) -> String {
    let last = causes(e).last().map_or_else(|| e.to_string(), ToString::to_string);
    printable(last.as_bytes(), 160)
}

/// An error and its causes, those that an `io::Error` wraps included: it names only their causes.
fn causes<'a>(e: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let next = |e: &&'a (dyn std::error::Error + 'static)| -> Option<&'a (dyn std::error::Error + 'static)> {
        match e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => e.source(),
        }
    };
    std::iter::successors(Some(e), next).take(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_else() {
        for good in ["/redfish/v1/Systems/1", "/a?b=c"] {
            assert_eq!(local(good).unwrap(), good);
        }
        for bad in ["", "redfish", "//evil/x", "http://evil/", "/a b", "/a\r\nX: y", "@evil/", &"/".repeat(5000)] {
            assert!(local(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path_of("https://bmc.lan/redfish/v1/x").as_deref(), Some("/redfish/v1/x"));
        assert_eq!(path_of("nonsense"), None);
    }
}
