//! Snapshots: catch-up of a member that needs compacted log entries.

use helios_proto::v1::{Role, SnapshotRequest, StatusResponse};
use redis::aio::MultiplexedConnection;

use crate::common::{Cluster, Operator, eventually};

/// No log is kept for members that are away, so that they need a snapshot.
const OFTEN: &str = "snapshot_entries: 200, trailing_entries: 50, max_retained_log_bytes: 0";
const WRITES: usize = 6_000;
const PIPELINE: usize = 500;

/// Writes far more entries and bytes than the log may keep: new keys, new values of old ones, expiries.
async fn write_much(client: &mut MultiplexedConnection) {
    for first in (0..WRITES).step_by(PIPELINE) {
        let mut pipeline = redis::pipe();
        for number in first..first + PIPELINE {
            let set =
                pipeline.cmd("SET").arg(format!("key {}", number % 2_000)).arg(vec![b'x'; 1_000 + number]);
            if number % 10 == 0 {
                set.arg("EX").arg(5_000);
            }
            set.ignore();
        }
        let () = pipeline.query_async(client).await.unwrap();
    }
}

fn assert_compacted(status: &StatusResponse) {
    assert!(status.snapshot_index > 0, "no snapshot was taken");
    assert!(status.first_index > WRITES as u64 / 2, "the log still begins at {}", status.first_index);
}

#[tokio::test]
async fn new_member_catches_up_by_snapshot_after_log_compaction() {
    let mut cluster = Cluster::blank_with(3, OFTEN);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let second = Operator::add(&cluster[0], &cluster[1]).await;
    Operator::promote(&cluster[0], second).await;
    write_much(&mut cluster[0].redis().await).await;
    cluster[0].cluster().snapshot(SnapshotRequest {}).await.unwrap();
    eventually("the log was compacted", async || {
        (cluster[0].status().await.first_index > WRITES as u64 / 2).then_some(())
    })
    .await;
    assert_compacted(&cluster[0].status().await);

    let third = Operator::add(&cluster[0], &cluster[2]).await;
    cluster[2].wait_ready().await;
    assert!(cluster[2].has_role(Role::Learner).await);
    let installed = cluster[2].status().await;
    assert!(installed.snapshot_index > 0, "it did not come by snapshot");
    assert!(cluster[2].log().contains("snapshot installed"));
    Operator::promote(&cluster[0], third).await;

    let data = cluster.agreed_data().await;
    assert_eq!(data.len(), 2_000);
    assert_eq!(data.iter().filter(|entry| entry.expire_at_ms.is_some()).count(), 200);
    let memberships: Vec<_> = cluster.statuses().await.into_iter().map(|status| status.membership).collect();
    assert!(memberships.iter().all(|membership| *membership == memberships[0]), "{memberships:?}");

    // The installed snapshot must suffice for a restart after a crash, and for an election.
    cluster[2].kill();
    cluster[2].start();
    cluster[0].kill();
    let leader = cluster.leader_among(&[1, 2]).await;
    let () = redis::cmd("SET")
        .arg("key after")
        .arg("value")
        .query_async(&mut cluster[leader].redis().await)
        .await
        .unwrap();
    assert_eq!(cluster.agreed_data().await.len(), 2_001);
}

#[tokio::test]
async fn member_absent_beyond_log_compaction_catches_up_by_snapshot() {
    let mut cluster = Cluster::of_three_with(OFTEN).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let mut client = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("before").arg("old").query_async(&mut client).await.unwrap();
    cluster[away].kill();
    let () = redis::cmd("DEL").arg("before").query_async(&mut client).await.unwrap();
    write_much(&mut client).await;
    cluster[leader].cluster().snapshot(SnapshotRequest {}).await.unwrap();
    eventually("the log was compacted", async || {
        (cluster[leader].status().await.first_index > WRITES as u64 / 2).then_some(())
    })
    .await;

    cluster[away].start();
    cluster[away].wait_ready().await;
    assert_eq!(cluster.agreed_data().await.len(), 2_000, "what was deleted meanwhile came back");
    assert!(cluster[away].log().contains("snapshot installed"));
}
