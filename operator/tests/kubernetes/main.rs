//! The operator's real process at a real API server. Nodes, kubelets and members are played by the test.
//!
//! It takes the programs of the local cluster (`e2e/kubernetes/cluster.sh prepare`), so it is run by name:
//! `cargo test -p helios-operator --test kubernetes -- --ignored --nocapture --test-threads 1`

#![allow(clippy::unwrap_used)]

mod as_it_began;
mod cost;
mod events;
mod nodes;
mod operator;
mod replicas;
mod secrets;
mod server;
mod unreadable;
mod workloads;

use std::time::{Duration, Instant};

use helios_crds::{HeliosCluster, HeliosClusterSpec, TlsMode};
use kube::api::PostParams;
use kube::{Api, Client};

use nodes::Nodes;
use server::Server;

/// Waits until `condition` holds.
async fn until(what: &str, patience: Duration, condition: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < patience, "not within {} s: {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A server, and members for whatever StatefulSets come to be there.
async fn begin() -> (Server, Nodes) {
    // Fails only if a provider is installed already, and then there is one.
    _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::start().await;
    let nodes = Nodes::default();
    tokio::spawn(workloads::serve(server.client.clone(), nodes.clone()));
    (server, nodes)
}

/// One whose members are played without TLS.
async fn create(client: &Client, name: &str) {
    let mut cluster = HeliosCluster::new(name, HeliosClusterSpec::default());
    cluster.spec.tls.mode = TlsMode::Off;
    let api = Api::<HeliosCluster>::default_namespaced(client.clone());
    api.create(&PostParams::default(), &cluster).await.unwrap();
}

/// How many HeliosClusters are Ready.
async fn ready(client: &Client) -> usize {
    let all = Api::<HeliosCluster>::default_namespaced(client.clone()).list(&Default::default()).await;
    let is_ready = |cluster: &&HeliosCluster| {
        let conditions = cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    all.map_or(0, |all| all.iter().filter(is_ready).count())
}
