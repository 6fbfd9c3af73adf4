//! Membership changes as the operator makes them: bootstrap, scale out, scale in, transfer of leadership.

use std::time::Duration;

use helios_proto::v1::{ErrorCode, InitializeRequest, PromoteRequest, RemoveRequest, Role, StepDownRequest};
use rustix::process::Signal;

use crate::common::{Cluster, Load, Operator, error_code, eventually, http, never};

#[tokio::test]
async fn blank_nodes_never_bootstrap_a_cluster_without_a_request() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    cluster.statuses().await;
    never(Duration::from_millis(1_500), "a blank node took part in an election", async || {
        cluster.statuses().await.iter().any(|status| status.role() != Role::Uninitialized || status.term > 0)
    })
    .await;
    let (code, reason) = http(cluster[0].ports.metrics, "GET", "/readyz", "").await.unwrap();
    assert_eq!((code, reason.trim()), (503, "belongs to no cluster yet"));
    let mut client = cluster[0].redis().await;
    let refused = redis::cmd("SET").arg("key").arg(1).exec_async(&mut client).await.unwrap_err();
    assert_eq!(refused.code(), Some("LOADING"), "{refused}");
}

#[tokio::test]
async fn cluster_is_initialized_once_with_one_cluster_id() {
    let mut cluster = Cluster::blank(1);
    cluster.start_all();
    let call = |cluster_id: &str, disk_id: &str| InitializeRequest {
        cluster_id: cluster_id.into(),
        expected_disk_id: disk_id.into(),
        ..Default::default()
    };
    let disk_id = cluster[0].status().await.disk_id;
    let mut service = cluster[0].cluster();
    assert_eq!(error_code(service.initialize(call("", "")).await), ErrorCode::InvalidArgument);
    assert_eq!(error_code(service.initialize(call("c", "another disk")).await), ErrorCode::WrongMember);
    assert!(cluster[0].has_role(Role::Uninitialized).await, "a rejected call initialized a cluster");

    let begun = Operator::initialize(&cluster[0]).await;
    assert_eq!((begun.voters.clone(), begun.next_id), (vec![1], 2));
    let repeated = service.initialize(call(&begun.cluster_id, &disk_id)).await.unwrap().into_inner();
    assert_eq!(repeated.membership.unwrap().voters, begun.voters);
    assert_eq!(error_code(service.initialize(call("another", &disk_id)).await), ErrorCode::AlreadyStarted);

    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut client).await.unwrap();
    cluster[0].kill();
    cluster[0].start();
    cluster[0].wait_ready().await;
    let found: String =
        redis::cmd("GET").arg("key").query_async(&mut cluster[0].redis().await).await.unwrap();
    assert_eq!(found, "value");
}

#[tokio::test]
async fn cluster_scales_from_one_to_three_under_load_without_an_election() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let term = cluster[0].status().await.term;
    let load = Load::start(&[cluster[0].ports.client]);
    load.wait_for(50).await;

    for index in [1, 2] {
        let mut add = Operator::add_request(&cluster[index]).await;
        let before = cluster[0].status().await.membership.unwrap();
        add.expected_membership_index = before.index + 1;
        assert_eq!(
            error_code(cluster[0].cluster().add_learner(add.clone()).await),
            ErrorCode::MembershipChanged
        );
        add.expected_membership_index = before.index;
        let added =
            cluster[0].cluster().add_learner(add.clone()).await.unwrap().into_inner().membership.unwrap();
        let id = added.learners[0];
        assert_eq!(id, before.next_id);
        assert!(!added.voters.contains(&id), "a learner must not vote");
        eventually("the new node knows it is a learner", async || {
            cluster[index].has_role(Role::Learner).await.then_some(())
        })
        .await;
        let stale = PromoteRequest {
            id,
            max_lag_entries: 1_000,
            expected_membership_index: before.index,
            ..Default::default()
        };
        assert_eq!(error_code(cluster[0].cluster().promote(stale).await), ErrorCode::MembershipChanged);
        Operator::promote(&cluster[0], id).await;
        Operator::promote(&cluster[0], id).await;
        add.expected_membership_index = 0;
        let repeated = cluster[0].cluster().add_learner(add).await.unwrap().into_inner().membership.unwrap();
        assert_eq!(repeated.next_id, id + 1, "a repeated call added the node twice");
    }
    let report = load.finish().await;
    cluster.wait_ready().await;
    for status in cluster.statuses().await {
        assert_eq!(status.term, term, "scaling out caused an election");
        assert_eq!(status.membership.unwrap().voters, [1, 2, 3]);
    }
    report.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn lagging_learner_is_not_promoted_and_does_not_count_for_quorum() {
    let mut cluster = Cluster::blank(2);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let add = Operator::add_request(&cluster[1]).await;
    cluster[1].kill();
    let added = cluster[0].cluster().add_learner(add).await.unwrap().into_inner().membership.unwrap();
    let load = Load::start(&[cluster[0].ports.client]);
    load.wait_for(100).await;
    load.finish().await;

    let promote = PromoteRequest { id: added.learners[0], max_lag_entries: 10, ..Default::default() };
    let refused = cluster[0].cluster().promote(promote).await.unwrap_err();
    assert!(refused.message().contains("entries behind"), "{}", refused.message());
    assert_eq!(error_code(Err::<(), _>(refused)), ErrorCode::LearnerLagging);
    let any_lag = PromoteRequest { max_lag_entries: u64::MAX, ..promote };
    let refused = cluster[0].cluster().promote(any_lag).await;
    assert_eq!(error_code(refused), ErrorCode::LearnerLagging, "a dead learner was made a voter");
    let unknown = PromoteRequest { id: 77, ..promote };
    assert_eq!(error_code(cluster[0].cluster().promote(unknown).await), ErrorCode::NodeNotFound);

    cluster[1].start();
    Operator::promote(&cluster[0], added.learners[0]).await;
    cluster.wait_ready().await;
    cluster.agreed_data().await;
}

#[tokio::test]
async fn removed_member_reports_its_removal_and_does_not_disturb_the_cluster() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::form(&cluster).await;
    let term = cluster[0].status().await.term;
    let removed_id = cluster[2].status().await.member_id;

    let left = Operator::remove(&cluster[0], removed_id).await;
    assert_eq!(left.voters, [1, 2]);
    assert_eq!(Operator::remove(&cluster[0], removed_id).await.index, left.index, "removed twice");
    eventually("the removed node reports its removal", async || {
        cluster[2].has_role(Role::Removed).await.then_some(())
    })
    .await;
    let (code, reason) = http(cluster[2].ports.metrics, "GET", "/readyz", "").await.unwrap();
    assert_eq!((code, reason.trim()), (503, "was removed from its cluster"));

    cluster[2].kill();
    cluster[2].start();
    assert_eq!(cluster[2].status().await.role(), Role::Removed, "forgotten by a restart");
    let mut client = cluster[1].redis().await;
    never(Duration::from_secs(2), "the removed node disturbed the others", async || {
        let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut client).await.unwrap();
        cluster[0].status().await.term != term || cluster[1].status().await.term != term
    })
    .await;

    cluster[2].kill();
    cluster[2].wipe();
    cluster[2].start();
    let id = Operator::add(&cluster[0], &cluster[2]).await;
    assert_eq!(id, removed_id + 1, "a member id was used again");
    Operator::promote(&cluster[0], id).await;
    cluster.wait_ready().await;
    cluster.agreed_data().await;
}

#[tokio::test]
async fn member_removed_while_down_learns_of_its_removal_when_it_restarts() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::form(&cluster).await;
    let id = cluster[2].status().await.member_id;
    let term = cluster[0].status().await.term;
    cluster[2].kill();
    Operator::remove(&cluster[0], id).await;
    cluster[2].start();
    eventually("the removed node learns of it", async || {
        cluster[2].has_role(Role::Removed).await.then_some(())
    })
    .await;
    assert_eq!(cluster[0].status().await.term, term);
    // Each member that it connected to has logged and counted the rejection.
    let mut rejections = 0;
    for node in &cluster.nodes()[..2] {
        let counted = node.metric("helios_rejected_total{reason=\"removed_member\"}").await;
        rejections += counted.unwrap_or(0);
        assert_eq!(counted.is_some(), node.log().contains("removed_member"), "counted and not logged");
    }
    assert!(rejections > 0, "no member counted a rejection");
}

#[tokio::test]
async fn leader_asked_to_remove_itself_transfers_leadership_first() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::form(&cluster).await;
    let load = Load::start(&[cluster[1].ports.client, cluster[2].ports.client]);
    load.wait_for(50).await;
    let before = cluster[0].status().await;
    let remove = RemoveRequest { id: before.member_id, ..Default::default() };

    // Members that have just started grant no vote for an election timeout, so no transfer succeeds before.
    let answer = eventually("the leader hands over", async || {
        let answer = cluster[0].cluster().remove(remove).await.unwrap_err();
        (helios_proto::detail_of(&answer).code() != ErrorCode::TransferFailed).then_some(answer)
    })
    .await;
    let hint = helios_proto::detail_of(&answer).leader_hint;
    assert_eq!(error_code(Err::<(), _>(answer)), ErrorCode::NotLeader);
    let next = cluster.leader().await;
    assert_eq!(cluster[next].name, hint);
    assert_ne!(next, 0);
    let left = Operator::remove(&cluster[next], before.member_id).await;
    assert_eq!(left.voters, [2, 3]);
    eventually("the old leader knows it was removed", async || {
        cluster[0].has_role(Role::Removed).await.then_some(())
    })
    .await;

    load.wait_for(50).await;
    let report = load.finish().await;
    assert!(report.longest < Duration::from_secs(1), "a write took {:?}", report.longest);
    assert_eq!(cluster[next].status().await.term, before.term + 1);
    cluster[0].kill();
    report.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn last_voter_is_neither_removed_nor_steps_down() {
    let mut cluster = Cluster::blank(1);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let remove = |id| RemoveRequest { id, ..Default::default() };
    assert_eq!(error_code(cluster[0].cluster().remove(remove(1)).await), ErrorCode::InsufficientPeers);
    assert_eq!(
        error_code(
            cluster[0].cluster().step_down(StepDownRequest { timeout_ms: 500, ..Default::default() }).await
        ),
        ErrorCode::TransferFailed
    );
    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut client).await.unwrap();
}

#[tokio::test]
async fn voter_needed_for_quorum_is_not_removed() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (down, needed) = ((leader + 1) % 3, (leader + 2) % 3);
    let id = cluster[needed].status().await.member_id;
    let down_id = cluster[down].status().await.member_id;
    cluster[down].signal(Signal::STOP);
    let request = RemoveRequest { id, ..Default::default() };
    eventually("the leader notices that a voter is down", async || {
        let progress = cluster[leader].status().await.progress;
        // That voter, and no other: on a loaded machine both may be without contact for a moment.
        progress.iter().all(|peer| peer.active == (peer.id != down_id)).then_some(())
    })
    .await;
    assert_eq!(error_code(cluster[leader].cluster().remove(request).await), ErrorCode::NoQuorum);
    cluster[down].signal(Signal::CONT);
    eventually("it is removed once the other is back", async || {
        cluster[leader].cluster().remove(request).await.ok()
    })
    .await;
}

#[tokio::test]
async fn leader_that_steps_down_is_succeeded_within_one_term() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let before = cluster[leader].status().await;
    let request = StepDownRequest { timeout_ms: 2_000, ..Default::default() };
    let answer = cluster[leader].cluster().step_down(request).await.unwrap().into_inner();
    assert_ne!(answer.leader_id, before.member_id);
    assert_eq!(answer.term, before.term + 1, "more than one election");
    let next = cluster.leader().await;
    assert_eq!(cluster[next].status().await.member_id, answer.leader_id);
    assert_eq!(error_code(cluster[leader].cluster().step_down(request).await), ErrorCode::NotLeader);
}
