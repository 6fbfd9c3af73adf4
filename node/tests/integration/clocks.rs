//! Wall clocks that jump or are wrong must not affect elections, expiries or linearizability.

use std::time::SystemTime;

use helios_proto::v1::TransferRequest;
use tempfile::TempDir;

use crate::common::{Clients, Cluster, Node, WallClock, eventually, temporary_directory};

const HOUR: i64 = 3_600;

/// Returns three members, each with its own wall clock; the directory holds the preloaded library.
async fn three_with_wall_clocks() -> (TempDir, Vec<WallClock>, Cluster) {
    let dir = temporary_directory();
    let library = WallClock::build(dir.path());
    let mut cluster = Cluster::fixed(3);
    let clocks = (0..3).map(|index| WallClock::of(&mut cluster[index], &library)).collect();
    cluster.start_all();
    cluster.wait_ready().await;
    (dir, clocks, cluster)
}

#[tokio::test]
async fn wall_clock_jumps_of_an_hour_cause_no_election_no_early_expiry_and_no_reordering() {
    let (_dir, clocks, cluster) = three_with_wall_clocks().await;
    let leader = cluster.leader().await;
    let term = cluster[leader].status().await.term;
    let clients = Clients::start(&cluster.client_ports());
    clients.wait_for(0..3, 10).await;

    set_brief(&cluster[leader]).await;
    for node in [leader, (leader + 1) % 3] {
        for ahead in [HOUR, -HOUR, 0] {
            clocks[node].set_ahead(ahead);
            clients.wait_for(0..3, 10).await;
            if ahead == HOUR {
                assert_eq!(hours_ahead(&cluster[node]).await, 1, "the clock did not move");
            }
            assert_brief(&cluster).await;
        }
    }
    assert_eq!(hours_ahead(&cluster[leader]).await, 0, "the log's clock followed one wall clock");
    // A new expiry must not already be in the past.
    set_brief(&cluster[leader]).await;
    assert_brief(&cluster).await;
    clients.finish(&cluster).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster[leader].status().await.term, term, "an election");
}

/// Sets a key that expires long after the test, and long before an hour has passed.
async fn set_brief(node: &Node) {
    let set = redis::cmd("SET").arg("brief").arg("value").arg("EX").arg(1_000).clone();
    let () = set.query_async(&mut node.redis().await).await.unwrap();
}

async fn assert_brief(cluster: &Cluster) {
    for node in cluster.nodes() {
        let value: Option<String> =
            redis::cmd("GET").arg("brief").query_async(&mut node.redis().await).await.unwrap();
        assert_eq!(value.as_deref(), Some("value"), "expired early on {}", node.name);
    }
}

#[tokio::test]
async fn leader_with_a_clock_an_hour_ahead_expires_nothing_early() {
    let (_dir, clocks, cluster) = three_with_wall_clocks().await;
    let old = cluster.leader().await;
    set_brief(&cluster[old]).await;
    // The next leader's clock has been wrong since before its term.
    let others = [(old + 1) % 3, (old + 2) % 3];
    clocks[others[0]].set_ahead(HOUR);
    let target = cluster[others[0]].status().await.member_id;
    let transfer = TransferRequest { target_id: target, ..TransferRequest::default() };
    cluster[old].cluster().transfer_leadership(transfer).await.unwrap();
    assert_eq!(cluster.leader().await, others[0]);
    for number in 0..100 {
        let set = redis::cmd("SET").arg("other").arg(number).clone();
        let () = set.query_async(&mut cluster[others[0]].redis().await).await.unwrap();
    }
    assert_brief(&cluster).await;
    // A key that is due still expires.
    let set = redis::cmd("SET").arg("short").arg("value").arg("PX").arg(200).clone();
    let () = set.query_async(&mut cluster[old].redis().await).await.unwrap();
    eventually("the short key expires", async || {
        let found: bool =
            redis::cmd("EXISTS").arg("short").query_async(&mut cluster[old].redis().await).await.ok()?;
        (!found).then_some(())
    })
    .await;
    assert_eq!(hours_ahead(&cluster[old]).await, 0);
}

/// Returns the hours by which the node's time, including the log's clock, is ahead of the true time.
async fn hours_ahead(node: &Node) -> i64 {
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut node.redis().await).await.unwrap();
    let true_seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    (seconds - true_seconds + HOUR / 2).div_euclid(HOUR)
}
