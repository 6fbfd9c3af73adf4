//! The admission policies of the chart at a real API server, without a webhook and without an operator.

use std::time::Duration;

use helios_crds::{
    HeliosClient, INJECT_LABEL, SIDECAR, SidecarMode, SidecarOffline, SidecarReads, SidecarSettings,
};
use helios_operator::injection::patch::{Asked, asked, patch};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::injection::{chart, plain, pod};
use super::{begin, until};

/// Image that the chart names by default.
const IMAGE: &str = concat!("heliosd:", env!("CARGO_PKG_VERSION"));
const PATIENCE: Duration = Duration::from_secs(60);

async fn install(client: &Client) {
    let is_policy = |object: &Value| object["kind"].as_str().unwrap().contains("AdmissionPolicy");
    let policies: Vec<_> = chart("policy").into_iter().filter(is_policy).collect();
    assert_eq!(policies.len(), 4);
    for policy in policies {
        let text = |field: &str| policy[field].as_str().unwrap().to_owned();
        let (group, version) = text("apiVersion").split_once('/').map(|(a, b)| (a.into(), b.into())).unwrap();
        let kind = ApiResource::from_gvk(&GroupVersionKind { group, version, kind: text("kind") });
        let object: DynamicObject = serde_json::from_value(policy).unwrap();
        Api::all_with(client.clone(), &kind).create(&PostParams::default(), &object).await.unwrap();
    }
}

struct Pods(Api<Pod>);

impl Pods {
    /// Returns the pod as it would be created.
    async fn admit(&self, pod: &Pod) -> Result<Pod, String> {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        self.0.create(&dry, pod).await.map_err(|refused| refused.to_string())
    }

    /// Returns the spec of the pod as the webhook would make it, with the defaults of the API server.
    async fn by_the_webhook(&self, before: &Pod, settings: SidecarSettings) -> PodSpec {
        let Asked::Sidecar { client, spec } = asked(before) else { panic!("not injected") };
        let mut changed = serde_json::to_value(before).unwrap();
        json_patch::patch(&mut changed, &patch(client, spec, IMAGE, settings)).unwrap();
        // It has a sidecar, so that the policies leave it as it is.
        self.admit(&serde_json::from_value(changed).unwrap()).await.unwrap().spec.unwrap()
    }
}

fn replica(memory: &str, max_staleness: &str) -> SidecarSettings {
    SidecarSettings::new(SidecarMode::Replica, Some(memory), Some(max_staleness)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn policies_without_a_webhook_make_the_pod_that_the_webhook_makes() {
    let (server, _nodes) = begin().await;
    let client = server.client.clone();
    install(&client).await;
    let pods = Pods(Api::default_namespaced(client.clone()));
    let app = pod("app", plain());
    let missing = "there is no HeliosClient orders in namespace default; create it, or correct the label";
    let refuses = async || pods.admit(&app).await.is_err_and(|refused| refused.contains(missing));
    until("a pod without its HeliosClient is refused", PATIENCE, refuses).await;

    let clients = Api::<HeliosClient>::default_namespaced(client.clone());
    for name in ["orders", "audit"] {
        let spec = serde_json::from_value(json!({"cluster": {"name": "demo"}})).unwrap();
        clients.create(&PostParams::default(), &HeliosClient::new(name, spec)).await.unwrap();
    }
    let full = pod(
        "full",
        json!({
            "initContainers": [
                {"name": "migrate", "image": "app", "env": [{"name": "A", "value": "1"}]},
                {"name": "wait", "image": "app"},
            ],
            "containers": [
                {"name": "app", "image": "app", "ports": [{"containerPort": 8080}]},
                {"name": "own", "image": "app", "env": [{"name": "HELIOS_URL", "value": "redis://x"}]},
                {"name": "more", "image": "app", "env": [{"name": "B", "value": "2"}]},
            ],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        }),
    );
    for (settings, fields) in [
        (SidecarSettings::Proxy, json!({"mode": "Proxy"})),
        (replica("64Mi", "1s"), json!({"mode": "Replica"})),
        (
            replica("9Mi", "250ms").reading(SidecarReads::Linearizable, SidecarOffline::Refuse),
            json!({"mode": "Replica", "memory": "9Mi", "maxStaleness": "250ms", "reads": "Linearizable"}),
        ),
        (
            replica("2Gi", "2s").reading(SidecarReads::Session, SidecarOffline::ServeStale),
            json!({"mode": "Replica", "memory": "2Gi", "maxStaleness": "2s", "reads": "Session", "offline": "ServeStale"}),
        ),
    ] {
        let change = Patch::Merge(json!({"spec": fields}));
        clients.patch("orders", &PatchParams::default(), &change).await.unwrap();
        // The policy reads a cache of the API server.
        let wanted = pods.by_the_webhook(&app, settings).await;
        let follows = async || pods.admit(&app).await.is_ok_and(|found| found.spec.as_ref() == Some(&wanted));
        until(&format!("pods have {settings:?}"), PATIENCE, follows).await;
        let found = pods.admit(&full).await.unwrap().spec.unwrap();
        assert_eq!(found, pods.by_the_webhook(&full, settings).await, "{settings:?}");
    }

    let mut unlabelled = app.clone();
    unlabelled.metadata.labels = None;
    assert_eq!(pods.admit(&unlabelled).await.unwrap().spec.unwrap().init_containers, None);
    let pasted = pod(
        "pasted",
        json!({
            "initContainers": [{"name": SIDECAR, "image": "mine", "restartPolicy": "Always"}],
            "containers": [{"name": "cache", "image": "redis", "ports": [{"containerPort": 6379}]}],
        }),
    );
    let found = pods.admit(&pasted).await.unwrap().spec.unwrap().init_containers.unwrap();
    assert_eq!((found.len(), found[0].image.as_deref()), (1, Some("mine")));
    let excluded = Pods(Api::namespaced(client.clone(), "kube-system"));
    assert_eq!(excluded.admit(&app).await.unwrap().spec.unwrap().init_containers, None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn policies_refuse_the_pods_that_the_webhook_refuses_in_its_words() {
    let (server, _nodes) = begin().await;
    let client = server.client.clone();
    install(&client).await;
    let spec = serde_json::from_value(json!({"cluster": {"name": "demo"}})).unwrap();
    let clients = Api::<HeliosClient>::default_namespaced(client.clone());
    clients.create(&PostParams::default(), &HeliosClient::new("orders", spec)).await.unwrap();
    let pods = Pods(Api::default_namespaced(client.clone()));
    let injects = async || {
        let found = pods.admit(&pod("app", plain())).await;
        found.is_ok_and(|found| found.spec.unwrap().init_containers.is_some())
    };
    until("the policies are in force", PATIENCE, injects).await;

    let port = |port: u16, list: &str| {
        let ports = json!([{"containerPort": 80}, {"containerPort": port}]);
        let mut spec = plain();
        let containers = spec[list].take();
        let mut containers = containers.as_array().cloned().unwrap_or_default();
        containers.push(json!({"name": "cache", "image": "redis", "ports": ports}));
        spec[list] = containers.into();
        spec
    };
    let mut host = plain();
    host["hostNetwork"] = json!(true);
    let mut volume = plain();
    volume["volumes"] = json!([{"name": SIDECAR, "emptyDir": {}}]);
    let mut refused = Vec::new();
    for spec in [port(6379, "containers"), port(9121, "initContainers"), host, volume] {
        refused.push(pod("refused", spec));
    }
    for label in ["", "Orders", "a.b"] {
        let mut unnamed = pod("refused", plain());
        unnamed.metadata.labels.as_mut().unwrap().insert(INJECT_LABEL.to_owned(), label.to_owned());
        refused.push(unnamed);
    }
    for pod in refused {
        let Asked::Impossible(reason) = asked(&pod) else { panic!("the webhook takes {pod:?}") };
        let found = pods.admit(&pod).await.unwrap_err();
        assert!(found.contains(&reason), "{found}, not {reason}");
    }
}
