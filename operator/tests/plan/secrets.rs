//! Secrets in the plan: before everything else, one at a time, and given up when the API server refuses them.

use helios_crds::Reason;
use helios_operator::plan::{CertificateStep, SecretStep, Step, plan};
use helios_operator::security::Problem;

use crate::world::World;
use crate::world::settled;

const ISSUE: SecretStep = SecretStep::Certificates(CertificateStep::IssueCertificates);

#[test]
fn secrets_of_a_new_cluster_are_written_in_order_before_its_objects() {
    let mut world = World::new(3);
    let create = SecretStep::Certificates(CertificateStep::CreateAuthority);
    for expected in [create, ISSUE, SecretStep::Users] {
        assert_eq!(world.reconcile().step, Some(Step::Secret(expected)));
        assert_eq!(world.replicas, None, "no pod starts without its Secrets");
    }
    world.settle();
}

#[test]
fn certificate_is_issued_before_the_next_member_is_restarted_when_it_is_lost_in_a_rollout() {
    let mut world = settled(3);
    world.template = 2;
    while world.restarted.is_empty() {
        world.reconcile();
    }
    let (restarted, operation) = (world.restarted.clone(), world.status().operation);
    world.certificates.leaf = None;
    assert_eq!(world.reconcile().step, Some(Step::Secret(ISSUE)));
    assert_eq!(world.restarted, restarted);
    assert_eq!(world.status().operation, operation, "the rollout is still the operation");
    world.settle();
}

#[test]
fn paused_cluster_has_no_secret_step() {
    let mut world = settled(3);
    world.edit(|spec| spec.paused = true);
    world.certificates.leaf = None;
    assert_eq!(world.reconcile().step, None);
}

#[test]
fn rest_is_planned_when_the_write_of_a_secret_is_refused() {
    let mut world = settled(3);
    world.template = 2;
    world.reconcile();
    world.renewal_request = Some("today".to_owned());
    world.users.is_complete = false;
    let (cluster, mut seen) = (world.validated(), world.observe());
    for expected in [ISSUE, SecretStep::Users] {
        assert_eq!(plan(&cluster, &seen).step, Some(Step::Secret(expected)));
        seen.security.give_up(expected, Problem::warning(Reason::SecretsRefused, "no"));
    }
    let step = plan(&cluster, &seen).step;
    assert!(matches!(step, Some(Step::Evict { .. })), "the certificate in use is good enough: {step:?}");

    let (_, mut seen) = (world.validated(), world.observe());
    seen.security.give_up(ISSUE, Problem::blocking(Reason::SecretsRefused, "no"));
    seen.security.give_up(SecretStep::Users, Problem::warning(Reason::SecretsRefused, "no"));
    assert_eq!(plan(&cluster, &seen).step, None, "members would not start");
}
