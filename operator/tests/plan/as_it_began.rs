//! Clusters from before TLS and passwords, under an operator that turns both on by default.

use helios_crds::{HeliosCluster, HeliosClusterSpec, Reason, TlsMode};
use helios_operator::build::{self, Shape};
use helios_operator::locks::as_it_began;
use helios_operator::validate::{Defaults, ValidatedCluster, validate};
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::json;

fn cluster(spec: serde_json::Value) -> ValidatedCluster {
    let spec: HeliosClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = HeliosCluster::new("demo", spec);
    cluster.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000001".to_owned());
    let defaults =
        Defaults { node_image: Some("heliosd:1".to_owned()), operator_namespace: "operators".to_owned() };
    validate(&cluster, &defaults).unwrap()
}

fn stateful_set(cluster: &ValidatedCluster) -> StatefulSet {
    build::objects(cluster, &Shape { replicas: 3, template_volume_size: None }).unwrap().stateful_set
}

fn open() -> serde_json::Value {
    json!({"tls": {"mode": "off"}, "auth": {"enabled": false}})
}

/// As an operator wrote it that knew neither TLS nor passwords.
fn of_old() -> StatefulSet {
    let mut set = stateful_set(&cluster(open()));
    set.metadata.annotations = None;
    set
}

#[test]
fn a_cluster_from_before_tls_and_passwords_goes_on_without_and_is_told_how_to_have_them() {
    let (old, mut wanted) = (of_old(), cluster(json!({})));
    let told = as_it_began(&mut wanted, Some(&old)).unwrap();
    assert!(!told.blocks && told.reason == Reason::NotEncrypted, "{told:?}");
    for what_to_do in ["apply it again", "spec.auth.enabled: false", "Secret demo-auth"] {
        assert!(told.message.contains(what_to_do), "{}", told.message);
    }
    assert_eq!((wanted.spec.tls.mode, wanted.spec.auth.enabled), (TlsMode::Off, false));
    assert_eq!(stateful_set(&wanted), old, "the newer operator restarts nobody, and says no for nobody");
}

#[test]
fn passwords_are_turned_on_by_two_words_of_a_person() {
    let off = |enabled: bool| json!({"tls": {"mode": "off"}, "auth": {"enabled": enabled}});
    let mut waiting = cluster(off(true));
    assert_eq!(as_it_began(&mut waiting, Some(&of_old())).unwrap().reason, Reason::NoPassword);
    let mut declined = cluster(off(false));
    assert_eq!(as_it_began(&mut declined, Some(&of_old())), None, "no is an answer");
    let on_record = stateful_set(&declined);
    assert_eq!(on_record.spec.template, of_old().spec.template, "and restarts nobody");
    let mut asked = cluster(off(true));
    assert_eq!(as_it_began(&mut asked, Some(&on_record)), None);
    assert!(build::has_password(&stateful_set(&asked)));
}

#[test]
fn a_new_cluster_and_one_that_has_them_are_as_their_spec_says() {
    for live in [None, Some(stateful_set(&cluster(json!({}))))] {
        let mut wanted = cluster(json!({}));
        assert_eq!(as_it_began(&mut wanted, live.as_ref()), None);
        assert!(wanted.spec.auth.enabled && wanted.spec.tls.mode == TlsMode::Auto);
    }
}
