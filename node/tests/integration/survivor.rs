//! Force-new-cluster: a majority is lost for good, and the survivor becomes the only member.

use helios_proto::v1::{AckLevel, ErrorCode, ForceNewRequest, PutRequest, Role, StatusResponse};

use crate::common::{CLUSTER_ID, Cluster, Operator, error_code, eventually};

fn put(number: u32) -> PutRequest {
    let key = format!("key-{number}").into();
    PutRequest { key, value: "held by all".into(), ack: AckLevel::AckAll.into(), ..PutRequest::default() }
}

fn confirmed(seen: &StatusResponse) -> ForceNewRequest {
    ForceNewRequest {
        cluster_id: CLUSTER_ID.into(),
        expected_disk_id: seen.disk_id.clone(),
        expected_term: seen.last_log_term,
        expected_last_index: seen.last_index,
        fencing_token: 9,
    }
}

#[tokio::test]
async fn survivor_of_a_lost_majority_keeps_its_data_and_the_cluster_scales_out_again() {
    let mut cluster = Cluster::blank(5);
    for index in 0..3 {
        cluster[index].start();
    }
    Operator::initialize(&cluster[0]).await;
    for index in [1, 2] {
        let id = Operator::add(&cluster[0], &cluster[index]).await;
        Operator::promote(&cluster[0], id).await;
    }
    for number in 0..50 {
        cluster[0].kv().put(put(number)).await.unwrap();
    }
    let with_leader = cluster[2].status().await;
    let refused = cluster[2].cluster().force_new(confirmed(&with_leader)).await;
    assert_eq!(error_code(refused), ErrorCode::AlreadyStarted, "forced although there is a leader");

    cluster[0].kill();
    cluster[1].kill();
    cluster[0].wipe();
    let seen = eventually("the survivor knows no leader", async || {
        Some(cluster[2].status().await).filter(|status| status.leader_id == 0)
    })
    .await;
    let call = confirmed(&seen);
    let survivor = &cluster[2];
    let other = |change: &dyn Fn(&mut ForceNewRequest)| {
        let mut other = call.clone();
        change(&mut other);
        other
    };
    let wrong_disk = other(&|call| call.expected_disk_id = "another".into());
    assert_eq!(error_code(survivor.cluster().force_new(wrong_disk).await), ErrorCode::WrongMember);
    let wrong_cluster = other(&|call| call.cluster_id = "another".into());
    assert_eq!(error_code(survivor.cluster().force_new(wrong_cluster).await), ErrorCode::WrongCluster);
    let wrong_end = other(&|call| call.expected_last_index -= 1);
    eventually("the majority counts as lost, and the end of the log was not confirmed", async || {
        let code = error_code(survivor.cluster().force_new(wrong_end.clone()).await);
        (code == ErrorCode::StaleTerm).then_some(())
    })
    .await;

    // The reply may be lost when the process restarts; the call is idempotent.
    drop(survivor.cluster().force_new(call.clone()).await);
    eventually("the survivor is the leader and the only voter", async || {
        let status = survivor.try_status().await?;
        let alone = status.membership.as_ref().is_some_and(|membership| membership.voters == [3]);
        (status.role() == Role::Leader && alone && status.incarnation == 1).then_some(())
    })
    .await;
    let again = survivor.cluster().force_new(call).await.unwrap().into_inner().membership.unwrap();
    assert_eq!((again.members.len(), again.next_id, again.fencing_token), (1, 4, 9));
    let status = survivor.status().await;
    assert!(status.term > seen.term, "the term was not raised");
    let held = survivor.dump().await;
    for number in 0..50 {
        let key = format!("key-{number}");
        assert!(held.iter().any(|entry| entry.key == key.as_bytes()), "{key} is lost");
    }

    cluster[1].start();
    eventually("a removed member with its old disk learns of its removal", async || {
        cluster[1].has_role(Role::Removed).await.then_some(())
    })
    .await;
    cluster[1].kill();

    for index in [3, 4] {
        cluster[index].start();
        let id = Operator::add(&cluster[2], &cluster[index]).await;
        assert_eq!(id, index as u64 + 1, "an id was used again");
        Operator::promote(&cluster[2], id).await;
    }
    cluster[2].kv().put(put(50)).await.unwrap();
    let data = cluster.agreed_data().await;
    assert_eq!(data.iter().filter(|entry| entry.key.starts_with(b"key-")).count(), 51);
    for status in cluster.statuses().await {
        assert_eq!((status.incarnation, status.membership.unwrap().voters), (1, vec![3, 4, 5]));
    }
}
