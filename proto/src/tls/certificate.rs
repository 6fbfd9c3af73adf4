//! Fields of a certificate: expiry and names.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, certificates};

/// Returns the expiry of the first certificate of a PEM text, in seconds since 1970.
///
/// # Errors
/// When there is no certificate, or it cannot be parsed.
pub fn not_after(pem: &[u8]) -> Result<i64, TlsError> {
    let chain = certificates(pem)?;
    let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(TlsError::unusable)?;
    Ok(parsed.validity().not_after.timestamp())
}

/// The DNS name in certificates that authorize the management of a cluster: of the operator and of users of
/// heliosctl. No host has this name, so the certificate of a member does not contain it.
pub const MANAGEMENT_NAME: &str = "management.heliosdb.io";

/// Returns the DNS names and IP addresses of a certificate (DER).
///
/// # Errors
/// When it cannot be parsed.
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
