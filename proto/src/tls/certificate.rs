//! What a certificate says of itself.

use x509_parser::prelude::{FromDer, X509Certificate};

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
