//! Writes on any node, and the behaviour without a majority.

use std::time::{Duration, Instant};

use crate::common::Cluster;

#[tokio::test]
async fn follower_forwards_writes_to_the_leader() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    for follower in [(leader + 1) % 3, (leader + 2) % 3] {
        let mut client = cluster[follower].redis().await;
        let mut pipeline = redis::pipe();
        for number in 0..200 {
            pipeline.cmd("SET").arg(format!("key {number}")).arg(follower).ignore();
        }
        let () = pipeline.query_async(&mut client).await.unwrap();
        let found: Vec<usize> =
            redis::cmd("MGET").arg("key 0").arg("key 199").query_async(&mut client).await.unwrap();
        assert_eq!(found, [follower; 2]);
        let metrics = crate::common::http(cluster[follower].ports.metrics, "GET", "/metrics", "").await;
        let (_, metrics) = metrics.unwrap();
        assert!(!metrics.contains("helios_forwarded_total 0"), "{metrics}");
    }
}

#[tokio::test]
async fn without_a_quorum_writes_and_linearizable_reads_fail_and_stale_reads_work() {
    let timeout = Duration::from_secs(2);
    let mut cluster = Cluster::fixed(3);
    for index in 0..3 {
        cluster[index].config_mut().push_str("client: {request_timeout: 2s}\n");
    }
    cluster.start_all();
    let leader = cluster.leader().await;
    let mut client = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("key").arg("old").query_async(&mut client).await.unwrap();
    cluster.agreed_data().await;
    let (left, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // In this order: the two that are left could elect another leader, which would log the write.
    cluster[other].kill();
    cluster[leader].kill();

    let mut client = cluster[left].redis().await;
    for command in [redis::cmd("SET").arg("key").arg("new"), redis::cmd("GET").arg("key")] {
        let asked = Instant::now();
        let error = command.query_async::<Option<String>>(&mut client).await.unwrap_err();
        assert_eq!(error.code(), Some("CLUSTERDOWN"), "{error}");
        assert!(asked.elapsed() < timeout + Duration::from_secs(1), "answered after {:?}", asked.elapsed());
    }
    let () = redis::cmd("READONLY").query_async(&mut client).await.unwrap();
    let stale: String = redis::cmd("GET").arg("key").query_async(&mut client).await.unwrap();
    assert_eq!(stale, "old");

    cluster[other].start();
    cluster.leader_among(&[left, other]).await;
    let () = redis::cmd("SET").arg("key").arg("new").query_async(&mut client).await.unwrap();
    cluster.agreed_data().await;
}
