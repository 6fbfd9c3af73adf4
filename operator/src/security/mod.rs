//! Certificates of the members and passwords of the clients, each in a Secret. `certificates` and `users` know what the
//! Secrets contain, `check` and `keys` read and make certificates. `observe::secrets` reads the Secrets, `plan::secrets`
//! decides which one is written next, and `execute::secrets` writes it.

pub mod certificates;
pub mod check;
pub mod keys;
pub mod users;

use helios_crds::Reason;
use jiff::{SignedDuration, Timestamp};

use certificates::Existing;

use crate::plan::SecretStep;

/// Time before the expiry of a user-supplied certificate from which on a warning is reported.
const EXPIRY_WARNING: SignedDuration = SignedDuration::from_hours(24 * 21);

/// The Secrets of a cluster as they were read, for the plan and the status.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// End of the members' certificate.
    pub expires: Option<Timestamp>,
    pub problem: Option<Problem>,
    /// The Secret of the members' certificate has one for management, too.
    pub has_admin: bool,
    /// Absent when the operator does not issue them, or must not write.
    pub certificates: Option<Existing>,
    /// Absent without passwords, or when the operator must not write.
    pub users: Option<UsersSecret>,
    /// Value of [`helios_crds::RENEW_CERTIFICATES`] on the HeliosCluster.
    pub renewal_request: Option<String>,
}

/// The Secret with the clients' users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsersSecret {
    pub exists: bool,
    /// It has all entries, and those that follow from others are up to date.
    pub is_complete: bool,
}

/// A problem that a user has to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Machine-readable, for the condition.
    pub reason: Reason,
    pub message: String,
    /// Members would not start, or not understand each other: nothing is changed until it is resolved.
    pub blocks: bool,
}

impl Problem {
    pub fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), blocks: false }
    }

    pub fn blocking(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), blocks: true }
    }
}

impl Security {
    /// Keeps the first problem, unless a later one blocks and it does not.
    pub fn add_problem(&mut self, problem: Problem) {
        if self.problem.as_ref().is_none_or(|known| problem.blocks && !known.blocks) {
            self.problem = Some(problem);
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.blocks)
    }

    /// The write of `step` was refused: in this reconcile no other write of that Secret is planned.
    pub fn give_up(&mut self, step: SecretStep, problem: Problem) {
        self.add_problem(problem);
        match step {
            SecretStep::Certificates(_) => self.certificates = None,
            SecretStep::Users => self.users = None,
        }
    }

    /// Forgets what the Secrets contain, keys among it; no write is planned from what is left.
    pub fn forget_contents(&mut self) {
        (self.certificates, self.users) = (None, None);
    }

    /// The problem, or else that the certificate ends soon, which only a user can prevent by then: the operator renews
    /// its own a month before.
    pub fn reported_problem(&self, now: Timestamp) -> Option<Problem> {
        let expiring = || {
            let expires = self.expires.filter(|end| end.duration_since(now) < EXPIRY_WARNING)?;
            let message = format!(
                "the members' certificate ends at {expires}; put a renewed one into its Secret, which restarts nothing"
            );
            Some(Problem::warning(Reason::CertExpiring, message))
        };
        self.problem.clone().or_else(expiring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_reported_when_it_is_near_and_there_is_no_other_problem() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ends_in = |days: i64| Security {
            expires: Some(now + SignedDuration::from_hours(24 * days)),
            ..Security::default()
        };
        assert_eq!(ends_in(30).reported_problem(now), None, "the operator renews its own before");
        let found = ends_in(10).reported_problem(now).unwrap();
        assert!(
            found.reason == Reason::CertExpiring && !found.blocks && found.message.contains("2027-"),
            "{found:?}"
        );
        let worse = Problem::blocking(Reason::CertificateInvalid, "x");
        let worse = Security { problem: Some(worse), ..ends_in(10) };
        assert_eq!(worse.reported_problem(now).unwrap().reason, Reason::CertificateInvalid);
        assert_eq!(Security::default().reported_problem(now), None);
    }
}
