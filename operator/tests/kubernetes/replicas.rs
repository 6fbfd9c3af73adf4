//! Two replicas of the operator act as one (M-8), also when the one that acts is killed, paused or asked
//! to end.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};

use super::nodes::Nodes;
use super::operator::{Operator, sum};
use super::{begin, create, ready, until};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn second_replica_acts_only_when_the_first_is_killed() {
    let (server, nodes) = begin().await;
    let first = Operator::start(&server, "first");
    holder_is(&server.client, "first").await;
    let second = Operator::start(&server, "second");
    create(&server.client, "c0").await;
    until("c0 is Ready", PATIENCE, async || ready(&server.client).await == 1).await;

    assert_bootstrapped_once(&nodes, "c0", 1);
    assert_eq!(sum(&second.metrics(), "reconcile_total", |_| true), 0.0, "the second acted, too");

    // In the middle of a bootstrap.
    create(&server.client, "c1").await;
    until("c1 is begun", PATIENCE, async || nodes.membership("c1").is_some()).await;
    first.signal("KILL");
    until("c1 is Ready", PATIENCE, async || ready(&server.client).await == 2).await;
    let calls = nodes.calls("c1");
    assert!(calls.iter().all(|call| call.accepted), "{calls:?}");
    assert_changes("c1", &nodes);
    let tokens: Vec<_> = calls.iter().map(|call| call.fencing_token).collect();
    assert!(tokens.is_sorted() && tokens.last() == Some(&2), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn replica_exits_without_acting_when_its_lease_has_expired() {
    let (server, nodes) = begin().await;
    let mut first = Operator::start(&server, "first");
    holder_is(&server.client, "first").await;
    let _second = Operator::start(&server, "second");
    first.signal("STOP");
    holder_is(&server.client, "second").await;
    create(&server.client, "c0").await;
    until("c0 is Ready", PATIENCE, async || ready(&server.client).await == 1).await;
    first.signal("CONT");
    assert!(!first.ended().await.success(), "it has to be started again, to wait for the lease");
    assert_bootstrapped_once(&nodes, "c0", 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn replica_releases_the_lease_when_it_is_terminated() {
    let (server, _nodes) = begin().await;
    let mut first = Operator::start(&server, "first");
    create(&server.client, "c0").await;
    until("c0 is Ready", PATIENCE, async || ready(&server.client).await == 1).await;
    first.signal("TERM");
    assert!(first.ended().await.success(), "{}", first.log());
    assert_eq!(holder(&server.client).await, None, "the next one would have to wait");
}

/// Somebody deletes the Lease, or a cluster comes from where another operator ran it: its members have a
/// higher token on record than ours.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn holder_raises_its_token_when_members_have_seen_a_higher_one() {
    let (server, nodes) = begin().await;
    let _operator = Operator::start(&server, "first");
    create(&server.client, "c0").await;
    until("c0 is begun", PATIENCE, async || nodes.membership("c0").is_some()).await;
    nodes.record_token("c0", 41);
    until("c0 is Ready", PATIENCE, async || ready(&server.client).await == 1).await;
    assert_changes("c0", &nodes);
    let tokens: BTreeSet<_> =
        nodes.calls("c0").iter().filter(|call| call.accepted).map(|call| call.fencing_token).collect();
    assert_eq!(tokens.last(), Some(&42), "{tokens:?}");
}

/// By one holder, with nothing done twice.
fn assert_bootstrapped_once(nodes: &Nodes, cluster: &str, token: u64) {
    let calls = nodes.calls(cluster);
    assert!(calls.iter().all(|call| call.fencing_token == token), "{calls:?}");
    assert_changes(cluster, nodes);
}

/// One beginning, and each of the two others added and promoted.
fn assert_changes(cluster: &str, nodes: &Nodes) {
    let calls = nodes.calls(cluster);
    let changes = |name| calls.iter().filter(|call| call.changed && call.name == name).count();
    assert_eq!((changes("initialize"), changes("add_learner")), (1, 2), "{calls:?}");
    assert_eq!(nodes.membership(cluster).unwrap().voters.len(), 3);
}

async fn holder_is(client: &Client, identity: &str) {
    until(&format!("{identity} holds the lease"), PATIENCE, async || {
        holder(client).await.as_deref() == Some(identity)
    })
    .await;
}

async fn holder(client: &Client) -> Option<String> {
    let leases = Api::<Lease>::default_namespaced(client.clone());
    leases.get_opt("helios-operator").await.ok()??.spec?.holder_identity.filter(|holder| !holder.is_empty())
}
