//! Makes the keys and certificates of a cluster: their names and validity. The time is an argument.

use helios_proto::tls::MANAGEMENT_NAME;
use helios_proto::tls::issue::{IssueError, Pair};
use jiff::{SignedDuration, Timestamp};

use super::check::{Names, Validity};

const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const MEMBER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Certificates begin earlier by this, for readers whose clock is behind.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("cannot make a certificate: the authority is not there")]
    NoAuthority,
}

/// A new authority of the cluster.
///
/// # Errors
/// When the system has no randomness to give.
pub fn authority(names: &Names, now: Timestamp) -> Result<(Pair, Validity), Failed> {
    let validity = validity(now, AUTHORITY_LIFE);
    let name = format!("{} CA {}", names.cluster, now.as_second());
    Ok((Pair::authority(&name, validity.seconds())?, validity))
}

/// A certificate for all members, signed by `signer`, which ends at `limit`.
///
/// # Errors
/// When `signer` is not what it says.
pub fn member(signer: &Pair, limit: Timestamp, names: &Names, now: Timestamp) -> Result<Pair, Failed> {
    let validity = until(limit, validity(now, MEMBER_LIFE));
    Ok(signer.sign(&format!("{} member", names.cluster), &names.all(), validity.seconds())?)
}

/// The admin's certificate, which no member shows; as [`member`] otherwise.
///
/// # Errors
/// When `signer` is not what it says.
pub fn admin(signer: &Pair, limit: Timestamp, names: &Names, now: Timestamp) -> Result<Pair, Failed> {
    let validity = until(limit, validity(now, MEMBER_LIFE));
    let hosts = [MANAGEMENT_NAME.to_owned()];
    Ok(signer.sign(&format!("{} admin", names.cluster), &hosts, validity.seconds())?)
}

/// The validity of a certificate that is issued now, for `life`. It begins an hour earlier.
pub fn validity(now: Timestamp, life: SignedDuration) -> Validity {
    Validity {
        not_before: now.saturating_sub(BACKDATED).unwrap_or(now),
        not_after: now.saturating_add(life).unwrap_or(now),
    }
}

/// A certificate does not outlive its signer.
fn until(limit: Timestamp, validity: Validity) -> Validity {
    Validity { not_after: validity.not_after.min(limit), ..validity }
}
