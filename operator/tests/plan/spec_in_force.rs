//! Clusters from before TLS and passwords, under an operator that turns both on by default.

use helios_crds::{HeliosCluster, HeliosClusterSpec, Reason, TlsMode};
use helios_operator::build::{self, Shape};
use helios_operator::validate::{Defaults, ValidatedCluster, validate};
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::json;

fn cluster_with(spec: serde_json::Value, live: Option<&StatefulSet>) -> ValidatedCluster {
    let spec: HeliosClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = HeliosCluster::new("demo", spec);
    cluster.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000001".to_owned());
    let defaults =
        Defaults { node_image: Some("heliosd:1".to_owned()), operator_namespace: "operators".to_owned() };
    validate(&cluster, live, &defaults).unwrap()
}

fn cluster(spec: serde_json::Value) -> ValidatedCluster {
    cluster_with(spec, None)
}

fn stateful_set(cluster: &ValidatedCluster) -> StatefulSet {
    build::objects(cluster, &Shape { replicas: 3, template_volume_size: None }).unwrap().stateful_set
}

fn open() -> serde_json::Value {
    json!({"tls": {"mode": "off"}, "auth": {"enabled": false}})
}

/// The StatefulSet of an operator without TLS and passwords.
fn of_earlier_operator() -> StatefulSet {
    let mut set = stateful_set(&cluster(open()));
    set.metadata.annotations = None;
    set
}

#[test]
fn cluster_without_tls_and_passwords_stays_without_when_the_operator_is_upgraded() {
    let old = of_earlier_operator();
    let wanted = cluster_with(json!({}), Some(&old));
    let problem = wanted.problem.clone().unwrap();
    assert!(!problem.blocks && problem.reason == Reason::NotEncrypted, "{problem:?}");
    for remedy in ["apply it again", "spec.auth.enabled: false", "Secret demo-auth"] {
        assert!(problem.message.contains(remedy), "{}", problem.message);
    }
    assert_eq!((wanted.spec.tls.mode, wanted.spec.auth.enabled), (TlsMode::Off, false));
    assert_eq!(stateful_set(&wanted), old, "no member is restarted, and no refusal is recorded");
}

#[test]
fn passwords_are_turned_on_when_a_user_declines_them_and_then_enables_them() {
    let off = |enabled: bool| json!({"tls": {"mode": "off"}, "auth": {"enabled": enabled}});
    let old = of_earlier_operator();
    let waiting = cluster_with(off(true), Some(&old));
    assert_eq!(waiting.problem.unwrap().reason, Reason::NoPassword);
    let declined = cluster_with(off(false), Some(&old));
    assert_eq!(declined.problem, None, "an explicit false is an answer");
    let on_record = stateful_set(&declined);
    assert_eq!(on_record.spec.template, old.spec.template, "and restarts no member");
    let enabled = cluster_with(off(true), Some(&on_record));
    assert_eq!(enabled.problem, None);
    assert!(build::has_password(&stateful_set(&enabled)));
}

#[test]
fn spec_is_in_force_as_written_when_the_cluster_is_new_or_has_tls_and_passwords() {
    for live in [None, Some(stateful_set(&cluster(json!({}))))] {
        let wanted = cluster_with(json!({}), live.as_ref());
        assert_eq!(wanted.problem, None);
        assert!(wanted.spec.auth.enabled && wanted.spec.tls.mode == TlsMode::Auto);
    }
}
