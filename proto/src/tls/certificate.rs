//! What a certificate says of itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, certificates};

/// When the first certificate of a PEM text expires, in seconds since 1970.
///
/// # Errors
/// When there is no certificate.
pub fn not_after(pem: &[u8]) -> Result<i64, TlsError> {
    let chain = certificates(pem)?;
    let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(TlsError::unusable)?;
    Ok(parsed.validity().not_after.timestamp())
}

/// A DNS name in the certificate of whoever may manage a cluster: the operator, and people with heliosctl. No host has
/// it, so a member's certificate has no reason to.
pub const MANAGEMENT_NAME: &str = "management.heliosdb.io";

/// The DNS names and addresses that a certificate (DER) is for.
///
/// # Errors
/// When it cannot be read.
pub fn names_of(certificate: &[u8]) -> Result<Vec<String>, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(TlsError::unusable)?;
    let names = parsed.subject_alternative_name().map_err(TlsError::unusable)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(names.filter_map(name_of).collect())
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(bytes) => Some(Ipv4Addr::from(bytes).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}
