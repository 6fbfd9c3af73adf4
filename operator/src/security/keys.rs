//! Makes the keys and certificates of a cluster: their names and validity. The time is an argument.

use helios_proto::tls::MANAGEMENT_NAME;
use helios_proto::tls::issue::{IssueError, Pair};
use jiff::{SignedDuration, Timestamp};

use super::check::{Names, Validity};

const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const MEMBER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Certificates begin earlier by this, for members whose clock is behind.
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
    let validity = Validity { not_before: earlier(now), not_after: later(now, AUTHORITY_LIFE) };
    let name = format!("{} CA {}", names.cluster, now.as_second());
    Ok((Pair::authority(&name, validity.seconds())?, validity))
}

/// A certificate for all members, signed by `signer`, which ends at `limit`.
///
/// # Errors
/// When `signer` is not what it says.
pub fn member(signer: &Pair, limit: Timestamp, names: &Names, now: Timestamp) -> Result<Pair, Failed> {
    let validity = Validity { not_before: earlier(now), not_after: later(now, MEMBER_LIFE).min(limit) };
    Ok(signer.sign(&format!("{} member", names.cluster), &names.all(), validity.seconds())?)
}

/// The admin's certificate, which no member shows; as [`member`] otherwise.
///
/// # Errors
/// When `signer` is not what it says.
pub fn admin(signer: &Pair, limit: Timestamp, names: &Names, now: Timestamp) -> Result<Pair, Failed> {
    let validity = Validity { not_before: earlier(now), not_after: later(now, MEMBER_LIFE).min(limit) };
    let hosts = [MANAGEMENT_NAME.to_owned()];
    Ok(signer.sign(&format!("{} admin", names.cluster), &hosts, validity.seconds())?)
}

fn earlier(now: Timestamp) -> Timestamp {
    now.saturating_sub(BACKDATED).unwrap_or(now)
}

fn later(now: Timestamp, life: SignedDuration) -> Timestamp {
    now.saturating_add(life).unwrap_or(now)
}
