//! Certificates and users of the world: texts instead of keys, since `plan` looks at validity and presence only.

use helios_operator::plan::{CertificateStep, Plan, SecretStep};
use helios_operator::security::UsersSecret;
use helios_operator::security::certificates::{Authority, Leaf, Root};
use helios_operator::security::check::Validity;
use helios_proto::tls::issue::Pair;
use jiff::SignedDuration;

use super::World;

impl World {
    /// The write of one Secret, after which the operator observes again (I9).
    pub(super) fn write_secret(&mut self, plan: &Plan, step: SecretStep) {
        assert!(
            plan.operation.is_none() && plan.latch.is_none() && plan.labels.is_empty(),
            "I9: a Secret is not written alone: {plan:?}"
        );
        assert!(!self.cluster.spec.paused, "writes although it is paused: {plan:?}");
        if self.lives() {
            match step {
                SecretStep::Users => self.users = UsersSecret { exists: true, is_complete: true },
                SecretStep::Certificates(CertificateStep::CreateAuthority) => {
                    self.certificates.authority =
                        Some(Authority { current: self.root(), next: None, old: None });
                }
                SecretStep::Certificates(CertificateStep::IssueCertificates) => {
                    self.certificates.leaf = Some(self.leaf());
                }
                SecretStep::Certificates(other) => panic!("no time for {other:?} has passed"),
            }
        }
        (self.dead, self.crashes_at) = (false, self.crashes_at.filter(|_| !self.dead));
    }

    pub fn is_renewed(&self) -> bool {
        self.certificates.leaf.as_ref().is_some_and(|leaf| leaf.renewal_request == self.renewal_request)
    }

    fn root(&self) -> Root {
        Root { pem: "authority".to_owned(), key: Some("key".to_owned()), validity: self.validity() }
    }

    fn leaf(&self) -> Leaf {
        let pair = Pair { certificate: "certificate".to_owned(), key: "key".to_owned() };
        let authority = self.certificates.authority.as_ref().expect("it signs");
        Leaf {
            admin: Some(pair.clone()),
            pair,
            fits: true,
            validity: self.validity(),
            bundle: authority.bundle(),
            written_at: Some(self.now),
            renewal_request: self.renewal_request.clone(),
        }
    }

    fn validity(&self) -> Validity {
        Validity { not_before: self.now, not_after: self.now + SignedDuration::from_hours(24 * 3650) }
    }
}
