//! Which volumes are lost with their hosts: those that no Node could use for a minute, by its labels.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::operator::Operator;
use super::{await_reconciles, begin, create, degraded, ready, status, until};

const PATIENCE: Duration = Duration::from_secs(120);
/// A little less, for clocks that begin a little later.
const ALMOST_A_MINUTE: Duration = Duration::from_secs(55);

/// The clusters' volumes can be used where the label is so.
const LABELS: [(&str, &str, &str); 2] =
    [("c0", "kubernetes.io/hostname", "ip-10-0-0-1"), ("c1", "topology.topolvm.io/node", "rack-7")];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster; takes a minute and more"]
async fn volume_is_lost_when_no_host_matches_it_for_a_minute() {
    let (server, nodes) = begin().await;
    let client = &server.client;
    // As on some clouds: the label is not the name.
    let labels: serde_json::Map<_, _> =
        LABELS.iter().map(|(_, key, value)| ((*key).to_owned(), json!(value))).collect();
    create_node(client, "ip-10-0-0-1.internal", json!(labels)).await;
    let operator = Operator::start(&server, "first");
    for (cluster, ..) in LABELS {
        create(client, cluster).await;
    }
    until("the clusters are Ready", PATIENCE, async || ready(client).await == 2).await;

    for (cluster, key, value) in LABELS {
        bind(client, cluster, key, value).await;
        nodes.silence(cluster, 1);
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let pods = Api::<Pod>::default_namespaced(client.clone());
        let patch = Patch::Strategic(not_ready);
        pods.patch_status(&format!("{cluster}-1"), &PatchParams::default(), &patch).await.unwrap();
        until("it is missed", PATIENCE, async || {
            degraded(client, cluster).await.is_some_and(|(reason, _)| reason == "MemberDown")
        })
        .await;
    }
    await_reconciles(&operator, 6.0).await;
    for (cluster, ..) in LABELS {
        assert_eq!(status(client, cluster).await.replacement, None, "{cluster}: its host is there");
    }

    let hosts = Api::<Node>::all(client.clone());
    hosts.delete("ip-10-0-0-1.internal", &DeleteParams::default()).await.unwrap();
    let gone = Instant::now();
    for (cluster, ..) in LABELS {
        until("its volume is lost", PATIENCE, async || {
            let latched = status(client, cluster).await.replacement;
            assert!(latched.is_none() || gone.elapsed() > ALMOST_A_MINUTE, "{cluster}: {latched:?}");
            latched.is_some_and(|latched| latched.reason == "HostGone")
        })
        .await;
    }
}

async fn create_node(client: &Client, name: &str, labels: Value) {
    let node = json!({"metadata": {"name": name, "labels": labels}});
    let node: Node = serde_json::from_value(node).unwrap();
    Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
}

/// The claim of the member at ordinal 1 to a volume that can be used only where the label `key` is `value`.
async fn bind(client: &Client, cluster: &str, key: &str, value: &str) {
    let term = json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
    let volume = json!({
        "metadata": {"name": format!("pv-{cluster}")},
        "spec": {
            "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/disks/1"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    });
    let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
    Api::<PersistentVolume>::all(client.clone()).create(&PostParams::default(), &volume).await.unwrap();
    let claims = Api::<PersistentVolumeClaim>::default_namespaced(client.clone());
    let patch = Patch::Merge(json!({"spec": {"volumeName": format!("pv-{cluster}")}}));
    claims.patch(&format!("data-{cluster}-1"), &PatchParams::default(), &patch).await.unwrap();
}
