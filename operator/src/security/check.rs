//! Reads certificates, and checks whether members can use them. The time is an argument.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use helios_proto::tls::issue::Pair;
use helios_proto::tls::{MANAGEMENT_NAME, certificates, names_of, private_key, roots};
use jiff::Timestamp;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::names;

/// Names of a cluster's members, for each other and, where the client ports have TLS, for clients.
#[derive(Debug, Clone)]
pub struct Names {
    pub cluster: String,
    pub namespace: String,
    pub replicas: u32,
    pub for_clients: bool,
}

impl Names {
    /// For a certificate that any member may show.
    pub fn all(&self) -> Vec<String> {
        let peers = names::peers_service(&self.cluster);
        let wide = names::in_every_length(&peers, &self.namespace).map(|host| format!("*.{host}"));
        let services = names::client_services(&self.cluster);
        let services = services.iter().filter(|_| self.for_clients);
        let services = services.flat_map(|service| names::in_every_length(service, &self.namespace));
        wide.into_iter().chain(services).chain(["localhost".to_owned(), "127.0.0.1".to_owned()]).collect()
    }

    /// Those that a certificate must have: the members dial each other by the first, and clients by the last.
    fn needed(&self) -> impl Iterator<Item = String> {
        let member = |ordinal| names::stable_host(&self.cluster, &self.namespace, ordinal);
        let service = self.for_clients.then(|| format!("{}.{}.svc", self.cluster, self.namespace));
        (0..self.replicas).map(member).chain(service)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Validity {
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }

    pub fn seconds(&self) -> Range<i64> {
        self.not_before.as_second()..self.not_after.as_second()
    }

    /// Two thirds of its life are over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let Range { start, end } = self.seconds();
        now.as_second() >= start + (end - start) / 3 * 2
    }
}

/// Validity of the first certificate of a PEM text.
///
/// # Errors
/// In words, when there is none.
pub fn validity(pem: &str) -> Result<Validity, String> {
    let chain = certificates(pem.as_bytes()).map_err(|error| error.to_string())?;
    let first = chain.first().ok_or("holds no certificate")?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|error| error.to_string())?;
    let at = |seconds| Timestamp::from_second(seconds).map_err(|error| error.to_string());
    let period = parsed.validity();
    Ok(Validity {
        not_before: at(period.not_before.timestamp())?,
        not_after: at(period.not_after.timestamp())?,
    })
}

/// The certificates of a PEM text, each as one.
pub fn split(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END)
        .filter(|part| part.contains(END))
        .map(|part| format!("{}\n", part.trim()))
        .collect()
}

/// # Errors
/// In words, when one of them cannot be read, or they are of different pairs.
pub fn belong_together(certificate: &str, key: &str) -> Result<(), String> {
    let chain = certificates(certificate.as_bytes()).map_err(|error| format!("the certificate {error}"))?;
    let key = private_key(key.as_bytes()).map_err(|error| format!("the key {error}"))?;
    CertifiedKey::from_der(chain, key, &provider()).map(drop).map_err(|error| error.to_string())
}

/// The certificate is an admin's.
pub fn is_for_management(certificate: &str) -> bool {
    let names = certificates(certificate.as_bytes()).ok().and_then(|chain| names_of(chain.first()?).ok());
    names.is_some_and(|names| names.iter().any(|name| name == MANAGEMENT_NAME))
}

/// A member that shows `pair` is accepted by one that trusts `bundle`, under each of its names.
///
/// # Errors
/// In words, what does not fit.
pub fn fits(pair: &Pair, bundle: &str, names: &Names, now: Timestamp) -> Result<(), String> {
    belong_together(&pair.certificate, &pair.key)?;
    let chain = certificates(pair.certificate.as_bytes()).map_err(|error| error.to_string())?;
    let (leaf, between) = chain.split_first().ok_or("holds no certificate")?;
    let trusted = Arc::new(roots(bundle.as_bytes()).map_err(|error| format!("ca.crt {error}"))?);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap_or_default()));
    let provider = provider();
    let parsed = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &trusted, between, at, algorithms)
        .map_err(|error| format!("as a server's: {error}"))?;
    WebPkiClientVerifier::builder_with_provider(trusted, provider.clone())
        .build()
        .map_err(|error| error.to_string())?
        .verify_client_cert(leaf, between, at)
        .map_err(|error| format!("as a client's: {error}"))?;
    for name in names.needed() {
        let wanted = ServerName::try_from(name.as_str()).map_err(|error| error.to_string())?;
        verify_server_name(&parsed, &wanted).map_err(|_| format!("it is not for {name}; add that name"))?;
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
