//! A rollout that the disruption budget holds: it costs little however long it lasts, no reconcile waits for it, and no pod
//! is evicted on an outdated plan. The test plays the controller of budgets.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::nodes::Nodes;
use super::operator::{Operator, Samples, sum};
use super::server::Server;
use super::{await_reconciles, begin, change, create, create_as, ready, status, until};

const PATIENCE: Duration = Duration::from_secs(120);
const OVER: Duration = Duration::from_secs(40);
const MOST_WRITES_A_SECOND: f64 = 0.2;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn held_rollout_costs_few_status_writes_when_clients_are_busy() {
    let (server, nodes, operator) = one_cluster(true).await;
    let client = &server.client;
    nodes.keep_busy("c0");
    let held = json!({"restartAt": "2026-11-21T08:00:00Z", "updateStrategy": {"paused": true}});
    change(client, "c0", held).await;
    until("a user holds the roll", PATIENCE, async || is_held_by(client, "held by spec").await).await;
    assert_few_writes(&operator, &nodes).await;

    budget_allows(client, 0).await;
    change(client, "c0", json!({"updateStrategy": {"paused": false}})).await;
    until("the budget holds it", PATIENCE, async || is_held(client).await).await;
    assert_few_writes(&operator, &nodes).await;
    assert!(is_held(client).await, "{:?}", status(client, "c0").await.operation);
}

async fn assert_few_writes(operator: &Operator, nodes: &Nodes) {
    let (before, answers) = (operator.metrics(), nodes.answers("c0"));
    tokio::time::sleep(OVER).await;
    let after = operator.metrics();
    let more = |name: &str| (sum(&after, name, |_| true) - sum(&before, name, |_| true)) / OVER.as_secs_f64();
    let answers = (nodes.answers("c0") - answers) as f64 / OVER.as_secs_f64();
    println!(
        "a second: {:.3} status writes, {:.2} reconciles, {:.1} requests, {answers:.1} answers of members",
        more("status_writes_total"),
        more("reconcile_duration_seconds_count"),
        more("api_requests_total"),
    );
    assert!(answers > 0.1, "the operator does not look, so it has nothing to write");
    assert!(more("status_writes_total") < MOST_WRITES_A_SECOND, "a hot loop:\n{}", operator.log());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn reconcile_returns_and_the_next_ones_act_when_an_eviction_is_refused() {
    let (server, nodes, operator) = one_cluster(false).await;
    let client = &server.client;
    budget_allows(client, 0).await;
    let began = Instant::now();
    change(client, "c0", json!({"restartAt": "2026-11-21T08:00:00Z"})).await;
    until("it is reported as held", Duration::from_secs(20), async || is_held(client).await).await;
    println!("reported {:.1} s after the change", began.elapsed().as_secs_f64());
    await_reconciles(&operator, 3.0).await;
    assert_eq!(reconciles_above_2_5_seconds(&operator.metrics()), 0.0, "{}", operator.log());

    // While it is held, the cluster is reconciled as before.
    nodes.elect("c0", 2);
    let pods = Api::<Pod>::default_namespaced(client.clone());
    until("the new leader has its label", Duration::from_secs(20), async || {
        pods.get("c0-1").await.unwrap().labels().get("heliosdb.io/role").is_some_and(|role| role == "leader")
    })
    .await;
    assert!(pods.list(&Default::default()).await.unwrap().iter().all(is_left), "nobody was evicted");
}

/// Each observation finds another leader, so the member that a plan stops leads when it is observed again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn member_is_not_evicted_when_it_leads_since_the_plan_was_made() {
    let (server, nodes, operator) = one_cluster(false).await;
    let client = &server.client;
    budget_allows(client, 1).await;
    nodes.alternate("c0", &[2, 3]);
    change(client, "c0", json!({"restartAt": "2026-11-21T08:00:00Z"})).await;
    let steps = |outcome: &'static str| sum(&operator.metrics(), "steps_total", |it| it.contains(outcome));
    let (refused, done) = (steps("not_yet"), steps("done"));
    let pods = Api::<Pod>::default_namespaced(client.clone());
    until("evictions were planned", PATIENCE, async || {
        let evicted = pods.list(&Default::default()).await.unwrap().items.len() < 3;
        evicted || steps("not_yet") >= refused + 3.0
    })
    .await;
    let left = pods.list(&Default::default()).await.unwrap();
    assert!(left.items.len() == 3 && left.iter().all(is_left), "{}", operator.log());
    assert_eq!(steps("done"), done, "{}", operator.log());
    nodes.alternate("c0", &[]);
    until("the rollout continues", PATIENCE, async || pods.get_opt("c0-2").await.unwrap().is_none()).await;
}

/// A Ready cluster `c0`, and its operator.
async fn one_cluster(tls: bool) -> (Server, Nodes, Operator) {
    let (server, nodes) = begin().await;
    let operator = Operator::start(&server, "first");
    match tls {
        true => create_as(&server.client, "c0", json!({})).await,
        false => create(&server.client, "c0").await,
    }
    until("the cluster is Ready", PATIENCE, async || ready(&server.client).await == 1).await;
    (server, nodes, operator)
}

/// As the controller of budgets would say it, if so many pods may go.
async fn budget_allows(client: &Client, disruptions: i32) {
    let budgets = Api::<PodDisruptionBudget>::default_namespaced(client.clone());
    let generation = budgets.get("c0").await.unwrap().metadata.generation;
    let status = json!({
        "observedGeneration": generation, "disruptionsAllowed": disruptions,
        "currentHealthy": 3, "desiredHealthy": 3 - disruptions, "expectedPods": 3,
    });
    let patch = Patch::Merge(json!({"status": status}));
    budgets.patch_status("c0", &PatchParams::default(), &patch).await.unwrap();
}

async fn is_held(client: &Client) -> bool {
    is_held_by(client, "the disruption budget holds").await
}

async fn is_held_by(client: &Client, words: &str) -> bool {
    status(client, "c0").await.operation.is_some_and(|operation| operation.step.contains(words))
}

fn is_left(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

fn reconciles_above_2_5_seconds(samples: &Samples) -> f64 {
    let reconciles = |bound: &'static str| {
        sum(samples, "reconcile_duration_seconds_bucket", |labels| {
            labels.contains(&format!("le=\"{bound}\""))
        })
    };
    reconciles("+Inf") - reconciles("2.5")
}
