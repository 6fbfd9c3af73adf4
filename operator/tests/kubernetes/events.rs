//! What happens to members is told as events of the HeliosCluster, and by one operator only.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client};

use super::operator::{Operator, sum};
use super::{begin, create, ready, until};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn what_happens_to_members_is_told_once() {
    let (server, nodes) = begin().await;
    let client = &server.client;
    let mut operator = Operator::start(&server, "first");
    create(client, "c0").await;
    until("the cluster is ready", PATIENCE, async || ready(client).await == 1).await;
    until("its beginning is told", PATIENCE, async || {
        let told = told(client).await;
        let is_told = |word: &str| told.iter().any(|other| other == word);
        is_told("MemberJoined c0-2") && is_told("QuorumAchieved") && is_told("LeaderElected c0-0")
    })
    .await;
    nodes.elect("c0", 2);
    until("another leads, and it is told", PATIENCE, async || {
        told(client).await.contains(&"LeaderMoved c0-1".to_owned())
    })
    .await;

    let before = told(client).await;
    operator.signal("TERM");
    operator.ended().await;
    let next = Operator::start(&server, "second");
    until("the next one has looked", PATIENCE, async || {
        let looked = |labels: &str| labels.contains("ok") || labels.contains("quiet");
        sum(&next.metrics(), "reconcile_total", looked) >= 2.0
    })
    .await;
    assert_eq!(told(client).await, before, "the next operator tells nothing of what is old");
}

/// Of what was noticed, `Reason pod`, in order.
async fn told(client: &Client) -> Vec<String> {
    let events = Api::<Event>::default_namespaced(client.clone()).list(&Default::default()).await.unwrap();
    let noticed = events.items.into_iter().filter(|event| event.action.as_deref() == Some("Observe"));
    let mut words: Vec<_> = noticed
        .map(|event| {
            let pod = event.related.and_then(|pod| pod.name).unwrap_or_default();
            format!("{} {pod}", event.reason.unwrap_or_default()).trim_end().to_owned()
        })
        .collect();
    words.sort();
    words
}
