//! Changes of members are events of the HeliosCluster, published once.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client};

use super::operator::{Operator, sum};
use super::{begin, create, ready, until};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn member_events_are_published_once_when_the_operator_is_replaced() {
    let (server, nodes) = begin().await;
    let client = &server.client;
    let mut operator = Operator::start(&server, "first");
    create(client, "c0").await;
    until("the cluster is ready", PATIENCE, async || ready(client).await == 1).await;
    until("its bootstrap is reported", PATIENCE, async || {
        let events = member_events(client).await;
        let is_there = |word: &str| events.iter().any(|other| other == word);
        is_there("MemberJoined c0-2") && is_there("QuorumAchieved") && is_there("LeaderElected c0-0")
    })
    .await;
    nodes.elect("c0", 2);
    until("another leads, and it is reported", PATIENCE, async || {
        member_events(client).await.contains(&"LeaderMoved c0-1".to_owned())
    })
    .await;

    let before = member_events(client).await;
    operator.signal("TERM");
    operator.ended().await;
    let next = Operator::start(&server, "second");
    until("the next one has reconciled", PATIENCE, async || {
        let reconciled = |labels: &str| labels.contains("ok") || labels.contains("quiet");
        sum(&next.metrics(), "reconcile_total", reconciled) >= 2.0
    })
    .await;
    assert_eq!(member_events(client).await, before, "the next operator reports nothing old");
}

/// Events of members as `Reason pod`, in order.
async fn member_events(client: &Client) -> Vec<String> {
    let events = Api::<Event>::default_namespaced(client.clone()).list(&Default::default()).await.unwrap();
    let found = events.items.into_iter().filter(|event| event.action.as_deref() == Some("Observe"));
    let mut words: Vec<_> = found
        .map(|event| {
            let pod = event.related.and_then(|pod| pod.name).unwrap_or_default();
            format!("{} {pod}", event.reason.unwrap_or_default()).trim_end().to_owned()
        })
        .collect();
    words.sort();
    words
}
