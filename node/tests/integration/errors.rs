//! Error codes that no other test here reaches, each by the fault that causes it.

use helios_proto::v1::{ErrorCode, ForceNewRequest, InitializeRequest, PutRequest, SnapshotRequest};

use super::common::{CLUSTER_ID, Cluster, Operator, error_code, eventually};

#[tokio::test]
async fn force_new_is_rejected_while_an_election_may_still_be_won() {
    let mut cluster = Cluster::of_three_with("preset: wan").await;
    cluster[0].kill();
    cluster[1].kill();
    let seen = eventually("the remaining member knows no leader", async || {
        Some(cluster[2].status().await).filter(|status| status.leader_id == 0)
    })
    .await;
    let call = ForceNewRequest {
        cluster_id: seen.cluster_id,
        expected_disk_id: seen.disk_id,
        expected_term: seen.last_log_term,
        expected_last_index: seen.last_index,
        fencing_token: 9,
    };
    let refused = cluster[2].cluster().force_new(call).await;
    assert_eq!(error_code(refused), ErrorCode::ElectionTimeout);
}

#[tokio::test]
async fn failed_snapshot_is_reported_to_the_caller_and_counted() {
    let cluster = Cluster::of_three().await;
    let node = &cluster[0];
    // A file in place of the directory of the snapshots.
    let (snapshots, away) = (node.data_dir().join("snapshots"), node.data_dir().join("away"));
    std::fs::rename(&snapshots, &away).unwrap();
    std::fs::write(&snapshots, "").unwrap();
    node.kv().put(PutRequest { key: "key".into(), ..PutRequest::default() }).await.unwrap();
    let refused = node.cluster().snapshot(SnapshotRequest {}).await;
    assert_eq!(error_code(refused), ErrorCode::SnapshotFailed);
    assert_eq!(node.metric("helios_snapshot_failures_total").await, Some(1));
    assert_eq!(node.status().await.snapshot_failures, 1);
    std::fs::remove_file(&snapshots).unwrap();
    std::fs::rename(&away, &snapshots).unwrap();
    node.cluster().snapshot(SnapshotRequest {}).await.unwrap();
}

#[tokio::test]
async fn node_that_cannot_write_its_marker_answers_storage_unavailable() {
    let mut cluster = Cluster::blank(1);
    cluster[0].start();
    let disk_id = cluster[0].status().await.disk_id;
    let draft = cluster[0].data_dir().join("node.json.tmp");
    std::fs::create_dir(&draft).unwrap();
    let call =
        InitializeRequest { cluster_id: CLUSTER_ID.into(), expected_disk_id: disk_id, ..Default::default() };
    let refused = cluster[0].cluster().initialize(call).await;
    assert_eq!(error_code(refused), ErrorCode::StorageUnavailable);

    std::fs::remove_dir(&draft).unwrap();
    cluster[0].kill();
    cluster[0].start();
    Operator::initialize(&cluster[0]).await;
}

#[tokio::test]
async fn log_that_starts_after_the_end_of_the_state_is_inconsistent() {
    // With other members it would fetch the state of one of them.
    let mut cluster = Cluster::fixed_with(1, "trailing_entries: 0");
    cluster.start_all();
    cluster.wait_ready().await;
    let put = PutRequest { key: "key".into(), ..PutRequest::default() };
    cluster[0].kv().put(put).await.unwrap();
    cluster[0].cluster().snapshot(SnapshotRequest {}).await.unwrap();
    eventually("the log was compacted", async || (cluster[0].status().await.first_index > 2).then_some(()))
        .await;
    cluster[0].terminate().await;
    for part in ["state", "snapshots"] {
        std::fs::remove_dir_all(cluster[0].data_dir().join(part)).unwrap();
    }
    cluster[0].start();
    assert_eq!(cluster[0].ended().await.code(), Some(74));
    let log = cluster[0].log();
    assert!(log.contains("LOG_INCONSISTENT") && log.contains("remove the member"), "{log}");
}
