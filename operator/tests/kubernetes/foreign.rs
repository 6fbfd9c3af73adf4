//! Objects that have a name which the operator would use and that are somebody else's: left alone, never adopted,
//! changed or deleted; the status and an event name them.

use std::time::Duration;

use helios_crds::HeliosCluster;
use helios_operator::build::{self, Shape};
use helios_operator::names::FIELD_MANAGER;
use helios_operator::validate::{Defaults, validate};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, TypeMeta};
use kube::core::{GroupVersionKind, NamespaceResourceScope};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::operator::Operator;
use super::{await_reconciles, begin, change, create, create_as, degraded, ready, status, until};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn foreign_object_of_each_kind_is_left_alone_and_reported() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let strangers = strangers();
    let mut before = Vec::new();
    for stranger in &strangers {
        before.push(plant(client, stranger.clone()).await);
    }
    let operator = Operator::start(&server, "first");
    for number in 0..strangers.len() {
        create_as(client, &format!("c{number}"), json!({})).await;
    }
    for (number, stranger) in strangers.iter().enumerate() {
        let cluster = format!("c{number}");
        let named = format!("{} {}", kind(stranger), stranger.name_any());
        until(&format!("{named} is named"), PATIENCE, async || {
            degraded(client, &cluster)
                .await
                .is_some_and(|(reason, message)| reason == "NameTaken" && message.contains(&named))
        })
        .await;
    }
    until("an event reports each", PATIENCE, async || {
        let events =
            Api::<Event>::default_namespaced(client.clone()).list(&Default::default()).await.unwrap();
        let reported = events.iter().filter(|event| event.reason.as_deref() == Some("NameTaken"));
        reported.count() == strangers.len()
    })
    .await;
    await_reconciles(&operator, 2.0 * strangers.len() as f64).await;
    for before in before {
        let now = api_of(client, &before).get(&before.name_any()).await.unwrap();
        assert_eq!(now, before, "{}", operator.log());
    }
    // Nothing was begun beside them, either.
    assert_eq!(ours::<StatefulSet>(client).await, 0);
    assert_eq!(ours::<ServiceAccount>(client).await + ours::<Service>(client).await, 0);

    let clusters = Api::<HeliosCluster>::default_namespaced(client.clone());
    for (number, stranger) in strangers.iter().enumerate() {
        clusters.delete(&format!("c{number}"), &DeleteParams::default()).await.unwrap();
        let left = api_of(client, stranger).get(&stranger.name_any()).await.unwrap();
        assert!(left.owner_references().is_empty(), "Kubernetes would delete it with the cluster: {left:?}");
    }
}

/// The certificate authority and the passwords of a planter count for nothing, before and after.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn foreign_secret_is_not_trusted_and_its_name_is_used_when_it_is_free() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    for name in ["c0-ca", "c0-auth"] {
        // With all that can be known beforehand.
        let secret = json!({
            "metadata": {"name": name, "labels": helios_operator::names::labels("c0")},
            "data": {"password": "cGxhbnRlZA==", "ca.crt": "cGxhbnRlZA=="},
        });
        plant(client, object("", "v1", "Secret", secret)).await;
    }
    let operator = Operator::start(&server, "first");
    create_as(client, "c0", json!({})).await;
    for name in ["Secret c0-ca", "Secret c0-auth"] {
        until(name, PATIENCE, async || {
            degraded(client, "c0")
                .await
                .is_some_and(|(reason, said)| reason == "NameTaken" && said.contains(name))
        })
        .await;
    }
    await_reconciles(&operator, 3.0).await;
    let secrets = Api::<Secret>::default_namespaced(client.clone());
    assert!(secrets.get_opt("c0-peer-tls").await.unwrap().is_none(), "a certificate, by whom?");
    for name in ["c0-ca", "c0-auth"] {
        secrets.delete(name, &DeleteParams::default()).await.unwrap();
    }
    until("the cluster begins", PATIENCE, async || ready(client).await == 1).await;
    let uid =
        Api::<HeliosCluster>::default_namespaced(client.clone()).get("c0").await.unwrap().uid().unwrap();
    for name in ["c0-ca", "c0-auth", "c0-peer-tls"] {
        let owners = secrets.get(name).await.unwrap().metadata.owner_references.unwrap();
        assert_eq!(owners[0].uid, uid, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn running_cluster_continues_when_the_name_of_a_service_is_taken() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let mut first = Operator::start(&server, "first");
    create(client, "c0").await;
    until("the cluster is Ready", PATIENCE, async || ready(client).await == 1).await;
    first.signal("TERM");
    first.ended().await;
    let services = Api::<Service>::default_namespaced(client.clone());
    services.delete("c0-read", &DeleteParams::default()).await.unwrap();
    let before = plant(client, foreign_service("c0-read")).await;
    let _second = Operator::start(&server, "second");
    until("it is named", PATIENCE, async || {
        degraded(client, "c0").await.is_some_and(|(_, message)| message.contains("Service c0-read"))
    })
    .await;
    change(client, "c0", json!({"service": {"annotations": {"asked": "for"}}})).await;
    until("the other Services follow the spec", PATIENCE, async || {
        services.get("c0-leader").await.unwrap().annotations().contains_key("asked")
    })
    .await;
    assert_eq!(api_of(client, &before).get("c0-read").await.unwrap(), before);
    services.delete("c0-read", &DeleteParams::default()).await.unwrap();
    until("its own takes the name", PATIENCE, async || {
        services.get_opt("c0-read").await.unwrap().is_some_and(|it| it.annotations().contains_key("asked"))
    })
    .await;
    until("all is well", PATIENCE, async || degraded(client, "c0").await.is_none()).await;
}

/// They were made by server-side apply, and have the owner that they have today.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn objects_of_an_earlier_operator_are_kept() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let spec = json!({"tls": {"mode": "off"}, "service": {"annotations": {"old": "value"}}});
    create_as(client, "c0", spec.clone()).await;
    create_as(client, "c1", spec).await;
    let uid = as_applied_by_an_earlier_operator(client, "c0").await;
    let _operator = Operator::start(&server, "newer");
    until("both clusters are Ready", PATIENCE, async || ready(client).await == 2).await;
    assert_eq!(degraded(client, "c0").await, None);
    let services = Api::<Service>::default_namespaced(client.clone());
    assert_eq!(services.get("c0").await.unwrap().uid(), Some(uid), "the same object");

    // What is not wanted any more goes, from what was applied once as from what was created.
    for cluster in ["c0", "c1"] {
        assert!(services.get(cluster).await.unwrap().annotations().contains_key("old"));
        change(client, cluster, json!({"service": {"annotations": {"old": null, "new": "value"}}})).await;
        until("the annotation is another", PATIENCE, async || {
            let service = services.get(cluster).await.unwrap();
            let has = |name| service.annotations().contains_key(name);
            has("new") && !has("old")
        })
        .await;
        change(client, cluster, json!({"service": {"annotations": {"new": null}}})).await;
        until("the annotation is gone", PATIENCE, async || {
            !services.get(cluster).await.unwrap().annotations().contains_key("new")
        })
        .await;
    }
}

/// Nobody knows the UID of a HeliosCluster before it exists.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn objects_are_handed_over_by_their_labels() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let password = json!({"metadata": {"name": "c0-auth"}, "data": {"password": "b2YgbWluZQ=="}});
    let account = json!({"metadata": {"name": "c0"}});
    let planted = [object("", "v1", "Secret", password), object("", "v1", "ServiceAccount", account)];
    for object in &planted {
        plant(client, object.clone()).await;
    }
    let _operator = Operator::start(&server, "first");
    create(client, "c0").await;
    until("it is named", PATIENCE, async || degraded(client, "c0").await.is_some()).await;
    let uid =
        Api::<HeliosCluster>::default_namespaced(client.clone()).get("c0").await.unwrap().uid().unwrap();
    let labels = json!({"heliosdb.io/cluster": "c0", "heliosdb.io/cluster-uid": uid});
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    for object in &planted {
        let api = api_of(client, object);
        api.patch(&object.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }
    until("the cluster is Ready", PATIENCE, async || ready(client).await == 1).await;
    for object in &planted {
        let owned = api_of(client, object).get(&object.name_any()).await.unwrap();
        assert_eq!(owned.owner_references()[0].uid, uid, "{}", kind(object));
    }
    let secret = Api::<Secret>::default_namespaced(client.clone()).get("c0-auth").await.unwrap();
    let data = secret.data.unwrap();
    assert_eq!(data["password"].0, b"of mine");
    assert!(data.contains_key("users.yaml"), "completed with what follows from it");
}

/// `c0-leader` can have been created before names like this were refused. It must not take c0's Service.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn colliding_name_is_rejected_and_an_existing_one_stays_editable() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let clusters = Api::<HeliosCluster>::default_namespaced(client.clone());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    for name in ["default", "kubernetes", "c0-leader", "c0-read", "c0-peers"] {
        let refused = clusters.create(&dry, &HeliosCluster::new(name, Default::default())).await.unwrap_err();
        assert!(refused.to_string().contains("choose a name other than"), "{name}: {refused}");
        // The API server drops the status of an object that is created.
        let mut with_status = HeliosCluster::new(name, Default::default());
        with_status.status = serde_json::from_value(json!({"observedGeneration": 1})).unwrap();
        clusters.create(&dry, &with_status).await.unwrap_err();
    }
    let today = definition(client).await;
    let mut of_old = today.clone();
    for version in &mut of_old.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()).unwrap();
        schema.x_kubernetes_validations = None;
    }
    define(client, of_old).await;
    create(client, "c0").await;
    let old = HeliosCluster::new("c0-leader", Default::default());
    until("the rule is away", PATIENCE, async || clusters.create(&PostParams::default(), &old).await.is_ok())
        .await;
    define(client, today).await;
    until("the rule is back", PATIENCE, async || {
        clusters.create(&dry, &HeliosCluster::new("c1-leader", Default::default())).await.is_err()
    })
    .await;

    let _operator = Operator::start(&server, "first");
    until("c0 is Ready", PATIENCE, async || ready(client).await == 1).await;
    until("the Service is named", PATIENCE, async || {
        degraded(client, "c0-leader").await.is_some_and(|(reason, message)| {
            reason == "NameTaken" && message.contains("Service c0-leader (of HeliosCluster c0)")
        })
    })
    .await;
    change(client, "c0-leader", json!({"replicas": 5})).await;
    until("the edited spec is seen", PATIENCE, async || {
        status(client, "c0-leader").await.observed_generation == Some(2)
    })
    .await;
    let services = Api::<Service>::default_namespaced(client.clone());
    let service = services.get("c0-leader").await.unwrap();
    assert_eq!(service.owner_references()[0].name, "c0");
}

/// One for each name that is used, the cluster of each another: `c0`, `c1` and so on.
fn strangers() -> Vec<DynamicObject> {
    let labels = json!({"app": "other"});
    let spec = json!({
        "selector": {"matchLabels": labels}, "serviceName": "other",
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
    });
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let named = |name: &str| json!({"metadata": {"name": name}});
    let with = |name: &str, spec: &Value| json!({"metadata": {"name": name}, "spec": spec});
    let selecting = json!({"podSelector": {"matchLabels": labels}});
    vec![
        foreign_service("c0"),
        foreign_service("c1-peers"),
        object("", "v1", "ServiceAccount", named("c2")),
        object("", "v1", "ConfigMap", named("c3")),
        object("", "v1", "Secret", named("c4-ca")),
        object("", "v1", "Secret", named("c5-auth")),
        object("", "v1", "Secret", named("c6-peer-tls")),
        object("apps", "v1", "StatefulSet", with("c7", &spec)),
        object("policy", "v1", "PodDisruptionBudget", with("c8", &json!({"maxUnavailable": 1}))),
        object("networking.k8s.io", "v1", "NetworkPolicy", with("c9", &selecting)),
        object("", "v1", "PersistentVolumeClaim", with("data-c10-2", &claim)),
    ]
}

fn foreign_service(name: &str) -> DynamicObject {
    let spec = json!({"selector": {"app": "other"}, "ports": [{"port": 80}]});
    object("", "v1", "Service", json!({"metadata": {"name": name}, "spec": spec}))
}

fn object(group: &str, version: &str, kind: &str, content: Value) -> DynamicObject {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let types = TypeMeta { api_version: gvk.api_version(), kind: kind.to_owned() };
    DynamicObject { types: Some(types), ..serde_json::from_value(content).unwrap() }
}

fn kind(object: &DynamicObject) -> &str {
    &object.types.as_ref().unwrap().kind
}

fn api_of(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::try_from(object.types.clone().unwrap()).unwrap();
    Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk(&gvk))
}

async fn plant(client: &Client, object: DynamicObject) -> DynamicObject {
    api_of(client, &object).create(&PostParams::default(), &object).await.unwrap()
}

/// How many of a kind belong to a HeliosCluster.
async fn ours<K>(client: &Client) -> usize
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let all = Api::<K>::default_namespaced(client.clone()).list(&Default::default()).await.unwrap();
    all.iter().filter(|object| !object.owner_references().is_empty()).count()
}

/// UID of the Service of the cluster's own name.
async fn as_applied_by_an_earlier_operator(client: &Client, name: &str) -> String {
    let cluster = Api::<HeliosCluster>::default_namespaced(client.clone()).get(name).await.unwrap();
    let defaults =
        Defaults { node_image: Some("heliosd:test".to_owned()), operator_namespace: "default".to_owned() };
    let validated = validate(&cluster, None, &defaults).unwrap();
    let objects = build::objects(&validated, &Shape { replicas: 3, template_volume_size: None }).unwrap();
    applied(client, &objects.service_account).await;
    applied(client, &objects.config_map).await;
    for service in [&objects.peers, &objects.leader, &objects.read] {
        applied(client, service).await;
    }
    applied(client, &objects.budget.unwrap()).await;
    applied(client, &objects.network_policy.unwrap()).await;
    applied(client, &objects.stateful_set).await;
    applied(client, &objects.client).await
}

async fn applied<K>(client: &Client, object: &K) -> String
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let mut document = json!(object);
    document["metadata"]["annotations"]["heliosdb.io/applied"] = json!("00000000");
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let api = Api::<K>::default_namespaced(client.clone());
    let ObjectMeta { uid, .. } =
        api.patch(&object.name_any(), &params, &Patch::Apply(document)).await.unwrap().meta().clone();
    uid.unwrap()
}

async fn definition(client: &Client) -> CustomResourceDefinition {
    Api::<CustomResourceDefinition>::all(client.clone()).get("heliosclusters.heliosdb.io").await.unwrap()
}

async fn define(client: &Client, wanted: CustomResourceDefinition) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let mut present = definition(client).await;
    present.spec = wanted.spec;
    api.replace("heliosclusters.heliosdb.io", &PostParams::default(), &present).await.unwrap();
}
