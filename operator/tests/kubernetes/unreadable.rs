//! One HeliosCluster that this version cannot read does not take the others with it.

use std::time::Duration;

use helios_crds::HeliosCluster;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::operator::{Operator, sum};
use super::{begin, create, ready, until};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn clusters_are_reconciled_when_another_one_is_unreadable() {
    let (server, _nodes) = begin().await;
    accept_anything(&server.client).await;
    let resource = ApiResource::erase::<HeliosCluster>(&());
    // The members are played without TLS.
    let broken = DynamicObject::new("c0", &resource)
        .data(json!({"spec": {"replicas": 3, "tls": {"mode": "off"}, "storage": "many"}}));
    let broken_api = Api::<DynamicObject>::default_namespaced_with(server.client.clone(), &resource);
    until("the API server takes what it refused", PATIENCE, async || {
        broken_api.create(&PostParams::default(), &broken).await.is_ok()
    })
    .await;

    let operator = Operator::start(&server, "first");
    create(&server.client, "c1").await;
    until("the good one has its members", PATIENCE, async || {
        let all = broken_api.get("c1").await.unwrap();
        all.data["status"]["readyReplicas"] == 3
    })
    .await;
    let unreadable = sum(&operator.metrics(), "reconcile_total", |labels| labels.contains("unreadable"));
    assert!(unreadable >= 1.0, "{}", operator.log());
    until("an event has the reason", PATIENCE, async || {
        let events = Api::<Event>::default_namespaced(server.client.clone()).list(&Default::default()).await;
        events.unwrap().iter().any(|event| event.reason.as_deref() == Some("Unreadable"))
    })
    .await;

    let api = Api::<HeliosCluster>::default_namespaced(server.client.clone());
    let heal = json!({"spec": {"storage": null}});
    api.patch_metadata("c0", &PatchParams::default(), &Patch::Merge(heal)).await.unwrap();
    until("the other one, once it can be read", PATIENCE, async || ready(&server.client).await == 2).await;
}

/// As the resource's next version might.
async fn accept_anything(client: &Client) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let name = "heliosclusters.heliosdb.io";
    let mut definition = api.get(name).await.unwrap();
    let anything =
        json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    definition.spec.versions[0].schema = serde_json::from_value(anything).unwrap();
    api.replace(name, &PostParams::default(), &definition).await.unwrap();
}
