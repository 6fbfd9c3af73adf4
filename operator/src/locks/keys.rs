//! Draws keys and signs certificates. Takes the time it is told.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use super::check::{Names, Validity};

const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const MEMBER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Certificates begin earlier by this, for members whose clock is behind.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("cannot make a certificate: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("cannot make a certificate that ends at {0}")]
    Time(Timestamp),
    #[error("cannot make a certificate: the authority is not there")]
    NoAuthority,
}

/// A certificate and its private key, both PEM.
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

/// A new authority of the cluster.
///
/// # Errors
/// When the system has no randomness to give.
pub fn authority(names: &Names, now: Timestamp) -> Result<(Pair, Validity), Failed> {
    let validity = Validity { not_before: earlier(now), not_after: later(now, AUTHORITY_LIFE) };
    let mut params = params(&format!("{} CA {}", names.cluster, now.as_second()), validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((Pair { certificate, key: key.serialize_pem() }, validity))
}

/// A certificate for all members, signed by `signer`, which ends at `limit`.
///
/// # Errors
/// When `signer` is not what it says.
pub fn member(signer: &Pair, limit: Timestamp, names: &Names, now: Timestamp) -> Result<Pair, Failed> {
    let validity = Validity { not_before: earlier(now), not_after: later(now, MEMBER_LIFE).min(limit) };
    let mut params = params(&format!("{} member", names.cluster), validity)?;
    params.subject_alt_names = CertificateParams::new(names.all())?.subject_alt_names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(&signer.certificate, KeyPair::from_pem(&signer.key)?)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, Failed> {
    let at = |time: Timestamp| {
        OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| Failed::Time(time))
    };
    let mut params = CertificateParams::default();
    params.not_before = at(validity.not_before)?;
    params.not_after = at(validity.not_after)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn earlier(now: Timestamp) -> Timestamp {
    now.saturating_sub(BACKDATED).unwrap_or(now)
}

fn later(now: Timestamp, life: SignedDuration) -> Timestamp {
    now.saturating_add(life).unwrap_or(now)
}
