//! The operator's real process at a real API server. Nodes, kubelets and members are simulated by the test.
//!
//! It takes the programs of the local cluster (`e2e/kubernetes/cluster.sh prepare`), so it is run by name:
//! `cargo test -p helios-operator --test kubernetes -- --ignored --nocapture --test-threads 1`

#![allow(clippy::unwrap_used)]

mod backups;
mod clients;
mod cost;
mod drills;
mod events;
mod foreign;
mod held;
mod injection;
mod nodes;
mod operator;
mod policy;
mod replicas;
mod secrets;
mod server;
mod stranded;
mod unreadable;
mod upgrade;
mod workloads;

use std::time::{Duration, Instant};

use helios_crds::{ConditionType, HeliosCluster, HeliosClusterSpec, HeliosClusterStatus};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use nodes::Nodes;
use operator::{Operator, sum};
use server::Server;

/// Waits until `condition` holds.
async fn until(what: &str, patience: Duration, condition: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < patience, "not within {} s: {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A server, and members for all StatefulSets that are created.
async fn begin() -> (Server, Nodes) {
    // Fails only if a provider is installed already, and then there is one.
    _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::start().await;
    let nodes = Nodes::default();
    tokio::spawn(workloads::serve(server.client.clone(), nodes.clone()));
    (server, nodes)
}

/// Creates a cluster whose simulated members have no TLS.
async fn create(client: &Client, name: &str) {
    create_as(client, name, json!({"tls": {"mode": "off"}})).await;
}

/// Creates a cluster with this `spec`; an empty one has all defaults.
async fn create_as(client: &Client, name: &str, spec: Value) {
    let spec: HeliosClusterSpec = serde_json::from_value(spec).unwrap();
    let api = Api::<HeliosCluster>::default_namespaced(client.clone());
    api.create(&PostParams::default(), &HeliosCluster::new(name, spec)).await.unwrap();
}

async fn change(client: &Client, name: &str, spec: Value) {
    let api = Api::<HeliosCluster>::default_namespaced(client.clone());
    let patch = Patch::Merge(json!({"spec": spec}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn status(client: &Client, name: &str) -> HeliosClusterStatus {
    let api = Api::<HeliosCluster>::default_namespaced(client.clone());
    api.get(name).await.unwrap().status.unwrap_or_default()
}

/// Reason and message of a true condition Degraded.
async fn degraded(client: &Client, name: &str) -> Option<(String, String)> {
    let status = status(client, name).await;
    let found = status.condition(ConditionType::Degraded).filter(|_| status.is(ConditionType::Degraded))?;
    Some((found.reason.clone(), found.message.clone()))
}

/// Waits for `count` more reconciles.
async fn await_reconciles(operator: &Operator, count: f64) {
    let reconciles = || sum(&operator.metrics(), "reconcile_total", |_| true);
    let before = reconciles();
    until("some reconciles are over", Duration::from_secs(120), async || reconciles() >= before + count)
        .await;
}

/// How many HeliosClusters are Ready.
async fn ready(client: &Client) -> usize {
    let all = Api::<HeliosCluster>::default_namespaced(client.clone()).list(&Default::default()).await;
    let is_ready =
        |cluster: &&HeliosCluster| cluster.status.as_ref().is_some_and(|it| it.is(ConditionType::Ready));
    all.map_or(0, |all| all.iter().filter(is_ready).count())
}
