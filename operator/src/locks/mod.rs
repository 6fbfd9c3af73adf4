//! What keeps strangers out of a cluster: the certificate of its members and the password of its clients, each in a
//! Secret. `certificates` and `users` decide and are pure; `keys` makes certificates; `secrets` reads and writes.

pub mod certificates;
pub mod check;
pub mod keys;
mod secrets;
pub mod users;

use helios_crds::{Reason, TlsMode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;

use crate::build;
use crate::validate::ValidatedCluster;

pub use secrets::{Kept, keep};

/// Time before the expiry of a user-supplied certificate from which on a warning is reported.
const NEAR_ITS_END: SignedDuration = SignedDuration::from_hours(24 * 21);

/// What a pass found of a cluster's Secrets, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locks {
    /// When the members' certificate ends.
    pub expires: Option<Timestamp>,
    pub trouble: Option<Trouble>,
}

/// What a person has to see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Machine-readable, for the condition.
    pub reason: Reason,
    pub message: String,
    /// Members would not start, or not understand each other: nothing is changed until it is gone.
    pub blocks: bool,
}

impl Trouble {
    pub fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), blocks: false }
    }

    pub fn blocking(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), blocks: true }
    }
}

/// A cluster that began before there was TLS, or before there were passwords, goes on without: members with TLS and
/// without would refuse each other while they are changed one at a time, and clients that know no password would be
/// shut out by nothing but a newer operator.
pub fn as_it_began(cluster: &mut ValidatedCluster, live: Option<&StatefulSet>) -> Option<Trouble> {
    let live = live?;
    let (unencrypted, open) = (without_tls(cluster, live), without_password(cluster, live));
    match (unencrypted, open) {
        (Some(one), Some(other)) => {
            Some(Trouble::warning(one.reason, format!("{}. And {}", one.message, other.message)))
        }
        (one, other) => one.or(other),
    }
}

fn without_tls(cluster: &mut ValidatedCluster, live: &StatefulSet) -> Option<Trouble> {
    let tls = &mut cluster.spec.tls;
    if tls.mode == TlsMode::Off || build::has_certificate(live) {
        return None;
    }
    (tls.mode, tls.clients) = (TlsMode::Off, false);
    let message = "TLS is off because this cluster was created without it; to enable it, delete the HeliosCluster while \
                   spec.storage.retain is true and apply it again, which stops it for a moment and keeps the data";
    Some(Trouble::warning(Reason::NotEncrypted, message))
}

/// An explicit `auth.enabled: false` is recorded on the StatefulSet; a cluster with neither predates authentication.
fn without_password(cluster: &mut ValidatedCluster, live: &StatefulSet) -> Option<Trouble> {
    let auth = &mut cluster.spec.auth;
    if !auth.enabled || build::has_password(live) || build::has_declined_password(live) {
        return None;
    }
    auth.enabled = false;
    let message = "authentication is off because this cluster was created without it, and every client is let in; write \
                   spec.auth.enabled: false, which changes nothing but this message, and true once the clients know \
                   the password: the members then restart one at a time and make Secret NAME-auth";
    Some(Trouble::warning(Reason::NoPassword, message.replace("NAME", &cluster.name)))
}

impl Locks {
    /// The first trouble counts, but a blocking one more.
    pub fn note(&mut self, trouble: Trouble) {
        if self.trouble.as_ref().is_none_or(|known| trouble.blocks && !known.blocks) {
            self.trouble = Some(trouble);
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.blocks)
    }

    /// The trouble, or else that the certificate ends soon, which nobody but a person can prevent by then: the
    /// operator renews its own a month before.
    pub fn finding(&self, now: Timestamp) -> Option<Trouble> {
        let expiring = || {
            let expires = self.expires.filter(|end| end.duration_since(now) < NEAR_ITS_END)?;
            let message = format!(
                "the members' certificate ends at {expires}; put a renewed one into its Secret, which restarts nothing"
            );
            Some(Trouble::warning(Reason::CertExpiring, message))
        };
        self.trouble.clone().or_else(expiring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_near_is_told_unless_there_is_worse() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ends_in =
            |days: i64| Locks { expires: Some(now + SignedDuration::from_hours(24 * days)), trouble: None };
        assert_eq!(ends_in(30).finding(now), None, "the operator renews its own before");
        let found = ends_in(10).finding(now).unwrap();
        assert!(
            found.reason == Reason::CertExpiring && !found.blocks && found.message.contains("2027-"),
            "{found:?}"
        );
        let worse =
            Locks { trouble: Some(Trouble::blocking(Reason::CertificateInvalid, "x")), ..ends_in(10) };
        assert_eq!(worse.finding(now).unwrap().reason, Reason::CertificateInvalid);
        assert_eq!(Locks::default().finding(now), None);
    }
}
