//! Certificates and users: the next write of a Secret. One at a time, from what the Secrets contain, so that an operator
//! that continues after a crash finds out where the one before it was.
//!
//! All members show the same certificate, and use a changed Secret within [`SPREAD`]. So an authority is replaced in
//! three steps with that time between them: the next one is trusted, then it signs, then the old one is removed.
//! **At no moment do two members hold certificates that the other does not trust.**

use jiff::{SignedDuration, Timestamp};

use super::View;
use crate::security::certificates::Existing;

/// Longest time until every kubelet has brought a changed Secret to its pods (a minute and a half), with a wide margin.
pub const SPREAD: SignedDuration = SignedDuration::from_mins(15);

/// A write of one Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretStep {
    Certificates(CertificateStep),
    /// Adds the entries that the Secret of the users lacks.
    Users,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateStep {
    /// There is no authority, or it has expired.
    CreateAuthority,
    TrustNextAuthority,
    /// The next authority signs from now on.
    SwitchAuthority,
    RemoveOldAuthority,
    /// The members' certificate and the admin's.
    IssueCertificates,
    /// The same certificates, with the authorities that members trust brought up to date.
    DistributeTrust,
}

impl SecretStep {
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificates(CertificateStep::CreateAuthority) => "CreateAuthority",
            Self::Certificates(CertificateStep::TrustNextAuthority) => "TrustNextAuthority",
            Self::Certificates(CertificateStep::SwitchAuthority) => "SwitchAuthority",
            Self::Certificates(CertificateStep::RemoveOldAuthority) => "RemoveOldAuthority",
            Self::Certificates(CertificateStep::IssueCertificates) => "IssueCertificates",
            Self::Certificates(CertificateStep::DistributeTrust) => "DistributeTrust",
            Self::Users => "CompleteUsers",
        }
    }
}

/// Certificates before users, whose Secret names the authority that clients trust. A problem that blocks all else does
/// not hold these: they may resolve it.
pub(super) fn next(view: &View) -> Option<SecretStep> {
    if view.cluster.spec.paused {
        return None;
    }
    let security = &view.seen.security;
    let request = security.renewal_request.as_deref();
    let certificates = security.certificates.as_ref();
    certificates
        .and_then(|existing| next_certificate_step(existing, request, view.seen.now))
        .map(SecretStep::Certificates)
        .or_else(|| security.users.filter(|users| !users.is_complete).map(|_| SecretStep::Users))
}

/// The next step towards a certificate that fits and an authority that is trusted everywhere; `None` when there is
/// nothing to do, or the last step has not reached all members yet.
pub fn next_certificate_step(
    existing: &Existing,
    renewal_request: Option<&str>,
    now: Timestamp,
) -> Option<CertificateStep> {
    let Some(authority) = existing.authority.as_ref().filter(|it| !it.current.validity.is_over(now)) else {
        return Some(CertificateStep::CreateAuthority);
    };
    let can_sign = authority.current.key.is_some();
    let has_spread = match &existing.leaf {
        Some(leaf) if leaf.fits || !can_sign => {
            let is_stale = leaf.validity.is_due(now)
                || leaf.renewal_request.as_deref() != renewal_request
                || leaf.written_at.is_none()
                || leaf.admin.is_none();
            if can_sign && is_stale {
                return Some(CertificateStep::IssueCertificates);
            }
            if leaf.bundle != authority.bundle() {
                return Some(CertificateStep::DistributeTrust);
            }
            let useless = !leaf.fits || leaf.validity.is_over(now);
            useless || leaf.written_at.is_none_or(|then| now.duration_since(then) >= SPREAD)
        }
        _ if can_sign => return Some(CertificateStep::IssueCertificates),
        // Members have no certificate, so there is no trust to preserve.
        _ => true,
    };
    match (&authority.next, &authority.old) {
        (Some(_), _) if has_spread => Some(CertificateStep::SwitchAuthority),
        (None, Some(_)) if has_spread => Some(CertificateStep::RemoveOldAuthority),
        (None, None) if !can_sign || authority.current.validity.is_due(now) => {
            Some(CertificateStep::TrustNextAuthority)
        }
        _ => None,
    }
}
