//! Authorization of cluster management on the peer port: with TLS, a member's certificate alone is not enough (ADR
//! 0018).

use std::sync::atomic::{AtomicBool, Ordering};

use helios_proto::tls::{MANAGEMENT_NAME, host_of, names_of};
use helios_proto::v1::ErrorCode;
use helios_service::database::Database as _;
use helios_service::rejections::Rejections;
use helios_service::tls::Caller;
use tonic::{Request, Status};

use crate::config::ManagementIdentity;
use crate::error::Error;
use crate::node::Node;

/// Holder of a certificate, by the names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Manager,
    Member,
    Other,
}

/// Admission of the callers that manage the cluster, for all services that do.
pub struct Admission {
    node: Node,
    gate: Gate,
    rejections: Rejections,
}

impl Admission {
    pub fn new(node: Node, rejections: Rejections) -> Self {
        let gate = Gate::new(node.settings().management_identity);
        Self { node, gate, rejections }
    }

    /// Records the caller of a call that needs no authorization.
    pub fn notice<T>(&self, request: &Request<T>) {
        if let Some(caller) = request.extensions().get::<Caller>() {
            self.gate.notice(caller);
        }
    }

    /// Returns the request if its caller may manage the cluster.
    pub fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let (membership, settings) = (self.node.store().membership(), self.node.settings());
        let hosts = membership.members.iter().map(|member| host_of(&member.peer_addr));
        let hosts = hosts.chain([host_of(&settings.advertise_addr)]);
        self.gate.check(&caller, hosts).inspect_err(|error| {
            self.rejections.report("peer", "not_manager", caller.client.address, error);
        })?;
        Ok(request.into_inner())
    }
}

/// Management authorization of one node.
#[derive(Debug)]
pub struct Gate {
    rule: ManagementIdentity,
    /// Whether a caller with the management name was seen since this process started. Until then the only manager may
    /// be an operator of an earlier version, which presents a member's certificate.
    has_manager: AtomicBool,
}

impl Gate {
    pub fn new(rule: ManagementIdentity) -> Self {
        Self { rule, has_manager: AtomicBool::new(false) }
    }

    /// Records that a manager exists if `caller` is one. To be called for every call, also for those that need no
    /// authorization.
    pub fn notice(&self, caller: &Caller) {
        if names(caller).iter().any(|name| name == MANAGEMENT_NAME) {
            self.has_manager.store(true, Ordering::Release);
        }
    }

    /// Checks that `caller` may manage the cluster; `hosts` are the members' hosts. Without TLS everyone may.
    ///
    /// # Errors
    /// `Forbidden` if the caller's certificate may not manage the cluster.
    pub fn check<'a>(&self, caller: &Caller, hosts: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        if caller.certificate.is_none() {
            return Ok(());
        }
        self.notice(caller);
        let has_manager = self.has_manager.load(Ordering::Acquire);
        let is_required = self.rule == ManagementIdentity::Required;
        match holder(&names(caller), hosts) {
            Holder::Manager => Ok(()),
            Holder::Member if has_manager || is_required => Err(refused("this is a member's certificate")),
            Holder::Other if is_required => Err(refused("this certificate is for something else")),
            Holder::Member | Holder::Other => Ok(()),
        }
    }
}

fn names(caller: &Caller) -> Vec<String> {
    // A certificate that cannot be parsed has no names.
    caller.certificate.as_deref().map(|leaf| names_of(leaf).unwrap_or_default()).unwrap_or_default()
}

fn holder<'a>(names: &[String], mut hosts: impl Iterator<Item = &'a str>) -> Holder {
    if names.iter().any(|name| name == MANAGEMENT_NAME) {
        return Holder::Manager;
    }
    let is_for = |host: &str| names.iter().any(|name| covers(name, host));
    if hosts.any(is_for) { Holder::Member } else { Holder::Other }
}

/// Whether the name covers the host as in RFC 6125: `*` stands for the whole first label.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    }
}

fn refused(why: &str) -> Error {
    Error::new(
        ErrorCode::Forbidden,
        format!(
            "{why}; to manage the cluster, present one for {MANAGEMENT_NAME} (heliosctl certs create --admin, or admin.crt and \
             admin.key in the Secret of the members' certificate)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use helios_proto::tls::certificates;
    use helios_proto::tls::issue::Pair;

    use super::*;

    const HOSTS: [&str; 2] = ["demo-0.demo-peers.default.svc", "10.0.0.2"];

    fn shows(hosts: &[&str]) -> Caller {
        let authority = Pair::authority("ours", 0..4_000_000_000).unwrap();
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let leaf = authority.sign("x", &hosts, 0..4_000_000_000).unwrap();
        let der = certificates(leaf.certificate.as_bytes()).unwrap().remove(0);
        Caller { certificate: Some(der.as_ref().into()), ..Caller::default() }
    }

    fn allows(gate: &Gate, caller: &Caller) -> bool {
        gate.check(caller, HOSTS.into_iter()).is_ok()
    }

    #[test]
    fn members_may_manage_until_a_manager_has_called() {
        let gate = Gate::new(ManagementIdentity::Auto);
        let members = [shows(&["*.demo-peers.default.svc", "localhost"]), shows(&["10.0.0.2"])];
        // The only manager is an operator of an earlier version, which presents a member's certificate.
        assert!(members.iter().all(|member| allows(&gate, member)));
        // One Status call makes the manager known.
        gate.notice(&shows(&[MANAGEMENT_NAME]));
        assert!(!members.iter().any(|member| allows(&gate, member)));
        assert!(allows(&gate, &shows(&[MANAGEMENT_NAME])));
        // A user's certificate from before the management name existed.
        assert!(allows(&gate, &shows(&["ops.example"])));
        // A certificate with both names counts as a manager's.
        assert!(allows(&gate, &shows(&["10.0.0.2", MANAGEMENT_NAME])));
        assert!(allows(&gate, &Caller::default()), "without TLS");
    }

    #[test]
    fn a_required_management_identity_applies_before_a_manager_was_seen() {
        let gate = Gate::new(ManagementIdentity::Required);
        assert!(!allows(&gate, &shows(&["10.0.0.2"])) && !allows(&gate, &shows(&["ops.example"])));
        assert!(allows(&gate, &shows(&[MANAGEMENT_NAME])));
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        assert!(covers("*.demo-peers", "demo-0.demo-peers") && covers("A.example", "a.example"));
        for (name, host) in [("*.demo-peers", "demo-peers"), ("*.b", "x.a.b"), ("*.b", "b"), ("a", "b")] {
            assert!(!covers(name, host), "{name} {host}");
        }
    }
}
