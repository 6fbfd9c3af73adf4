//! Generates keys and signs certificates, for members and clients. The time is an argument: seconds since 1970.

use std::ops::Range;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("cannot issue a certificate: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("cannot issue a certificate that is valid from or until {0} seconds after 1970")]
    Time(i64),
}

/// A certificate and its private key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Pair {
    /// Creates a CA. No leaf should have its name: some verifiers take a leaf of the same name for self-signed.
    ///
    /// # Errors
    /// If the system's random numbers fail, or the time cannot be written in a certificate.
    pub fn authority(name: &str, valid: Range<i64>) -> Result<Self, IssueError> {
        let mut params = params(name, valid)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        Ok(Self { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// Issues a certificate of this CA, for server and client use under each of `hosts`: DNS names, also with a leading
    /// `*.`, and addresses.
    ///
    /// # Errors
    /// As `authority`, and if this is not a CA or one of `hosts` is not a host.
    pub fn sign(&self, name: &str, hosts: &[String], valid: Range<i64>) -> Result<Self, IssueError> {
        let mut params = params(name, valid)?;
        params.subject_alt_names = CertificateParams::new(hosts)?.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        Ok(Self { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn params(name: &str, valid: Range<i64>) -> Result<CertificateParams, IssueError> {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| IssueError::Time(seconds));
    let mut params = CertificateParams::default();
    params.not_before = at(valid.start)?;
    params.not_after = at(valid.end)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
