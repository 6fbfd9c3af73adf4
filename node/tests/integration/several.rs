//! Membership changes of several members in one step, and fencing of stale callers.

use helios_proto::v1::{
    ChangeMembershipRequest, ErrorCode, RemoveRequest, Role, StepDownRequest, TransferRequest,
};

use crate::common::{Cluster, Load, Operator, error_code, eventually};

#[tokio::test]
async fn two_learners_are_promoted_and_two_voters_replaced_in_one_step_each() {
    let mut cluster = Cluster::blank(6);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    for index in [1, 2] {
        let id = Operator::add(&cluster[0], &cluster[index]).await;
        Operator::promote(&cluster[0], id).await;
    }
    let load = Load::start(&[cluster[0].ports.client, cluster[1].ports.client]);
    load.wait_for(50).await;
    let term = cluster[0].status().await.term;

    for index in [3, 4] {
        Operator::add(&cluster[0], &cluster[index]).await;
    }
    let grow = ChangeMembershipRequest { promote: vec![4, 5], max_lag_entries: 1_000, ..Default::default() };
    let grown = eventually("both learners have caught up and are promoted", async || {
        cluster[0].cluster().change_membership(grow.clone()).await.ok()
    })
    .await;
    let grown = grown.into_inner().membership.unwrap();
    assert_eq!(grown.voters, [1, 2, 3, 4, 5]);
    assert!(
        grown.voters_outgoing.is_empty() && grown.learners.is_empty(),
        "answered before the change was complete"
    );
    let again = cluster[0].cluster().change_membership(grow).await.unwrap().into_inner().membership.unwrap();
    assert_eq!(again.index, grown.index, "a repeated call took effect twice");

    Operator::add(&cluster[0], &cluster[5]).await;
    let replace = ChangeMembershipRequest {
        promote: vec![6],
        remove: vec![2, 3],
        max_lag_entries: 1_000,
        ..Default::default()
    };
    let replaced = eventually("two voters are replaced by one", async || {
        cluster[0].cluster().change_membership(replace.clone()).await.ok()
    })
    .await;
    assert_eq!(replaced.into_inner().membership.unwrap().voters, [1, 4, 5, 6]);
    for index in [1, 2] {
        eventually("the replaced member knows its removal", async || {
            cluster[index].has_role(Role::Removed).await.then_some(())
        })
        .await;
        cluster[index].kill();
    }
    let ports = [cluster[0].ports.client];
    load.finish().await.assert_kept(&cluster.agreed_data().await);
    assert_eq!(cluster[0].status().await.term, term, "the changes caused an election");
    let after = Load::start(&ports);
    after.wait_for(50).await;
    after.finish().await;
}

#[tokio::test]
async fn change_that_would_lose_the_quorum_or_remove_the_leader_is_rejected() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::form(&cluster).await;
    let call = |remove: &[u64]| ChangeMembershipRequest { remove: remove.to_vec(), ..Default::default() };
    let refused = cluster[0].cluster().change_membership(call(&[])).await;
    assert_eq!(error_code(refused), ErrorCode::InvalidArgument);
    let refused = cluster[1].cluster().change_membership(call(&[3])).await;
    assert_eq!(error_code(refused), ErrorCode::NotLeader);
    let stale = ChangeMembershipRequest { expected_membership_index: 1, ..call(&[2, 3]) };
    assert_eq!(error_code(cluster[0].cluster().change_membership(stale).await), ErrorCode::MembershipChanged);

    cluster[2].kill();
    eventually("the leader notices that a voter is dead", async || {
        let status = cluster[0].try_status().await?;
        status.progress.iter().any(|peer| peer.id == 3 && !peer.active).then_some(())
    })
    .await;
    let one_live_of_two = cluster[0].cluster().change_membership(call(&[2])).await;
    assert_eq!(error_code(one_live_of_two), ErrorCode::NoQuorum);
    let removed = cluster[0].cluster().change_membership(call(&[3])).await.unwrap().into_inner();
    assert_eq!(removed.membership.unwrap().voters, [1, 2]);
    let steps_down = cluster[0].cluster().change_membership(call(&[1])).await;
    assert_eq!(error_code(steps_down), ErrorCode::NotLeader, "the leader removed itself");
    assert_eq!(cluster.leader().await, 1);
}

#[tokio::test]
async fn call_with_an_older_fencing_token_is_rejected_by_every_leader() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::form(&cluster).await;
    let token = |fencing_token| RemoveRequest { id: 3, fencing_token, ..Default::default() };
    let removed = cluster[0].cluster().remove(token(7)).await.unwrap().into_inner().membership.unwrap();
    assert_eq!(removed.fencing_token, 7);
    assert_eq!(error_code(cluster[0].cluster().remove(token(6)).await), ErrorCode::Fenced);

    cluster[2].kill();
    cluster[0].kill();
    cluster[0].start();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;
    let node = &cluster[leader];
    assert_eq!(node.status().await.membership.unwrap().fencing_token, 7, "a new leader does not know it");
    assert_eq!(error_code(node.cluster().remove(token(6)).await), ErrorCode::Fenced);
    let step_down = StepDownRequest { timeout_ms: 2_000, fencing_token: 6 };
    assert_eq!(error_code(node.cluster().step_down(step_down).await), ErrorCode::Fenced);
    let other = [2, 1][leader];
    let transfer = TransferRequest { target_id: other, timeout_ms: 2_000, fencing_token: 6 };
    assert_eq!(error_code(node.cluster().transfer_leadership(transfer).await), ErrorCode::Fenced);
    node.cluster().remove(token(0)).await.unwrap();
    node.cluster().transfer_leadership(TransferRequest { fencing_token: 7, ..transfer }).await.unwrap();
}
