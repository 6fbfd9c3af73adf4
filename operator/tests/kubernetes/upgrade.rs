//! A newer operator takes over a cluster that was created without TLS and passwords.

use std::time::Duration;

use helios_crds::{HeliosCluster, HeliosClusterSpec, TlsMode};
use helios_operator::build::{self, Shape};
use helios_operator::validate::{Defaults, validate};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::operator::Operator;
use super::{begin, degraded, until};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn upgraded_operator_turns_neither_tls_nor_passwords_on() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let old = of_earlier_operator(client, "c0").await;
    let operator = Operator::start(&server, "newer");
    let reported = async |words: &[&str]| {
        let found = degraded(client, "c0").await.filter(|(reason, _)| reason == "NotEncrypted");
        found.is_some_and(|(_, message)| words.iter().all(|word| message.contains(word)))
    };
    until("both are reported", PATIENCE, async || reported(&["TLS is off", "authentication is off"]).await)
        .await;
    // It has changed what it will: the simulated pods run.
    until("the members are members", PATIENCE, async || status(client).await.ready_replicas == 3).await;
    assert_eq!(set(client).await.spec.template, old.spec.template, "{}", operator.log());

    auth(client, false).await;
    until("the refusal is recorded", PATIENCE, async || build::has_declined_password(&set(client).await))
        .await;
    until("only TLS is reported", PATIENCE, async || {
        degraded(client, "c0").await.is_some_and(|(_, message)| !message.contains("authentication"))
    })
    .await;
    auth(client, true).await;
    until("passwords are turned on", PATIENCE, async || build::has_password(&set(client).await)).await;
}

/// A HeliosCluster with the defaults of today, and its StatefulSet as an earlier operator wrote it.
async fn of_earlier_operator(client: &Client, name: &str) -> StatefulSet {
    let api = Api::<HeliosCluster>::default_namespaced(client.clone());
    let cluster = HeliosCluster::new(name, HeliosClusterSpec::default());
    let mut cluster = api.create(&PostParams::default(), &cluster).await.unwrap();
    (cluster.spec.tls.mode, cluster.spec.auth.enabled) = (TlsMode::Off, false);
    let defaults =
        Defaults { node_image: Some("heliosd:test".to_owned()), operator_namespace: "default".to_owned() };
    let validated = validate(&cluster, None, &defaults).unwrap();
    let shape = Shape { replicas: 3, template_volume_size: None };
    let mut set = build::objects(&validated, &shape).unwrap().stateful_set;
    set.metadata.annotations = None;
    let sets = Api::<StatefulSet>::default_namespaced(client.clone());
    sets.create(&PostParams::default(), &set).await.unwrap()
}

async fn set(client: &Client) -> StatefulSet {
    Api::<StatefulSet>::default_namespaced(client.clone()).get("c0").await.unwrap()
}

async fn status(client: &Client) -> helios_crds::HeliosClusterStatus {
    let cluster = Api::<HeliosCluster>::default_namespaced(client.clone()).get("c0").await.unwrap();
    cluster.status.unwrap_or_default()
}

async fn auth(client: &Client, enabled: bool) {
    let patch = Patch::Merge(json!({"spec": {"auth": {"enabled": enabled}}}));
    let api = Api::<HeliosCluster>::default_namespaced(client.clone());
    api.patch("c0", &PatchParams::default(), &patch).await.unwrap();
}
