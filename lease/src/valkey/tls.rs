//! TLS to the servers: certificates out of PEM text, checked before the first connection.

use std::fmt;

use redis::{ClientTlsConfig, TlsCertificates};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Secret;

/// Whom to trust, and as whom to appear, on TLS connections.
///
/// Unverified TLS is not offered: who can answer in the server's place can hand out every lease.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ValkeyTls {
    /// Certificates (PEM) of the authorities that servers' certificates must lead to, in place of
    /// the system's; `None`: the system's.
    pub ca_pem: Option<String>,
    /// This client's certificate (PEM), followed by those between it and its authority; `None`:
    /// the client shows none. Goes with `key_pem`.
    pub cert_pem: Option<String>,
    /// The private key (PEM) of `cert_pem`'s first certificate.
    pub key_pem: Option<Secret>,
}

impl fmt::Debug for ValkeyTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeyTls")
            .field("ca_pem", &self.ca_pem.as_ref().map(String::len))
            .field("cert_pem", &self.cert_pem.as_ref().map(String::len))
            .field("key_pem", &self.key_pem)
            .finish()
    }
}

impl ValkeyTls {
    /// Checks that all of it can be used.
    ///
    /// Done here although the client would do it too: it takes an empty PEM for "trust nobody",
    /// and finds out only while connecting that key and certificate do not match.
    pub(crate) fn mistake(&self) -> Option<(&'static str, String)> {
        let ca = self.ca_pem.as_deref().map(check_ca);
        if let Some(Err(reason)) = ca {
            return Some(("tls.ca_file", reason));
        }
        match (&self.cert_pem, &self.key_pem) {
            (None, None) => None,
            (Some(_), None) => Some(("tls.key_file", "a client certificate needs its key".into())),
            (None, Some(_)) => Some(("tls.cert_file", "a client key needs its certificate".into())),
            (Some(cert), Some(key)) => check_identity(cert, key.expose()).err(),
        }
    }

    /// Returns the first field that is set, as the configuration names it.
    pub(crate) fn first_field(&self) -> Option<&'static str> {
        let set = [
            (self.ca_pem.is_some(), "tls.ca_file"),
            (self.cert_pem.is_some(), "tls.cert_file"),
            (self.key_pem.is_some(), "tls.key_file"),
        ];
        set.into_iter()
            .find_map(|(set, field)| set.then_some(field))
    }

    /// Returns what the client library takes.
    pub(crate) fn certificates(&self) -> TlsCertificates {
        let client_tls = self.cert_pem.as_ref().zip(self.key_pem.as_ref());
        TlsCertificates {
            client_tls: client_tls.map(|(cert, key)| ClientTlsConfig {
                client_cert: cert.clone().into_bytes(),
                client_key: key.expose().as_bytes().to_vec(),
            }),
            root_cert: self.ca_pem.clone().map(String::into_bytes),
        }
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err("it has no certificate; allowed: PEM with BEGIN CERTIFICATE".to_owned())
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("it is no readable PEM: {error}")),
    }
}

fn check_ca(pem: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots
            .add(certificate)
            .map_err(|error| format!("a certificate in it cannot be an authority's: {error}"))?;
    }
    Ok(())
}

fn check_identity(cert: &str, key: &str) -> Result<(), (&'static str, String)> {
    let chain = certificates(cert).map_err(|reason| ("tls.cert_file", reason))?;
    // The parser's error could quote a line of the file, so it is left out.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
        let reason = "it has no readable private key; allowed: unencrypted PEM";
        ("tls.key_file", reason.to_owned())
    })?;
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let reason = "it is not the key of the first certificate in tls.cert_file";
            Err(("tls.key_file", reason.to_owned()))
        }
        Err(error) => Err(("tls.cert_file", format!("it cannot be used: {error}"))),
    }
}

#[cfg(test)]
mod tests;
