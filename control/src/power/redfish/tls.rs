//! Which certificate of a BMC is believed. Few BMCs have one that an authority
//! signed; most have made their own, which is then pinned.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex, PoisonError};

/// What is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// What an authority has signed that this host knows, for the name or address of the endpoint.
    Verify,
    /// The certificate of this fingerprint (`sha256:<hex>` of its DER form), and no other.
    Pin(String),
    /// Whatever is shown: to look at the certificate, before anything secret is sent.
    FirstSight,
    /// Whatever is shown, always. Whoever is on the path can read the password.
    Insecure,
}

/// What a connection has shown.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    inner: Arc<Mutex<(Option<String>, Option<String>)>>,
}

impl Seen {
    /// The certificate's fingerprint.
    pub fn fingerprint(&self) -> Option<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Why it was not believed.
    pub fn refusal(&self) -> Option<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn note(&self, fingerprint: String, refusal: Option<String>) {
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = (Some(fingerprint), refusal);
    }
}

/// How rustls is to judge; `None` is as the host does.
pub fn config(trust: &Trust, seen: &Seen) -> Option<ClientConfig> {
    let pin = match trust {
        Trust::Verify => return None,
        Trust::Pin(pin) => Some(pin.clone()),
        Trust::FirstSight | Trust::Insecure => None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let judge = Judge { pin, algorithms, seen: seen.clone() };
    let config = builder(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(judge));
    Some(config.with_no_client_auth())
}

fn builder(provider: Arc<CryptoProvider>) -> Option<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    // The provider has what TLS 1.2 and 1.3 need; it is ours.
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()
}

/// `sha256:<hex>` of a certificate.
pub fn fingerprint(certificate: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(certificate).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a text is a fingerprint.
pub fn is_fingerprint(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Judges by fingerprint. That the BMC has the key of its certificate is always verified.
#[derive(Debug)]
struct Judge {
    pin: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Seen,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = fingerprint(certificate);
        let wrong = self.pin.as_ref().filter(|pin| !pin.eq_ignore_ascii_case(&shown)).map(|pin| {
            format!(
                "its certificate {shown} is not the pinned one ({pin}): somebody is in between, or the BMC has made itself a new one; if that is so, remove the annotation {} of the Server",
                crate::resource::marks::BMC_CERTIFICATE
            )
        });
        self.seen.note(shown, wrong.clone());
        match wrong {
            None => Ok(ServerCertVerified::assertion()),
            Some(_) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_told_from_other_texts() {
        let real = fingerprint(b"certificate");
        assert!(is_fingerprint(&real), "{real}");
        for text in ["", "sha256:", &real[1..], &real[..real.len() - 1], &format!("{real}0")] {
            assert!(!is_fingerprint(text), "{text}");
        }
    }

    #[test]
    fn only_the_pinned_certificate_passes_and_the_other_one_is_named() {
        let seen = Seen::default();
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let judge = Judge { pin: Some(fingerprint(b"ours")), algorithms, seen: seen.clone() };
        let name = ServerName::try_from("bmc").unwrap();
        let judged = |der: &[u8]| {
            judge.verify_server_cert(&CertificateDer::from(der.to_vec()), &[], &name, &[], UnixTime::now())
        };
        assert!(judged(b"ours").is_ok());
        assert_eq!(seen.refusal(), None);
        assert!(judged(b"theirs").is_err());
        assert!(seen.refusal().unwrap().contains(&fingerprint(b"theirs")));
    }
}
