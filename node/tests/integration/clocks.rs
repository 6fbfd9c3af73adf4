//! Wall clocks are not to be trusted.

use std::time::SystemTime;

use crate::common::{Clients, Cluster, Node, WallClock, temporary_directory};

const HOUR: i64 = 3_600;

#[tokio::test]
async fn wall_clocks_that_jump_by_an_hour_cost_no_election_no_key_and_no_order() {
    let dir = temporary_directory();
    let library = WallClock::build(dir.path());
    let mut cluster = Cluster::fixed(3);
    let clocks: Vec<_> = (0..3).map(|index| WallClock::of(&mut cluster[index], &library)).collect();
    cluster.start_all();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;
    let term = cluster[leader].status().await.term;
    let clients = Clients::start(&cluster.client_ports());
    clients.wait_for(0..3, 10).await;

    for node in [leader, (leader + 1) % 3] {
        for ahead in [HOUR, -HOUR, 0] {
            clocks[node].set_ahead(ahead);
            clients.wait_for(0..3, 10).await;
        }
    }
    assert_eq!(hours_ahead(&cluster[leader]).await, 1, "the log's clock went back, or no clock ever moved");
    // For the same reason a new expiry must not count as past.
    let set = redis::cmd("SET").arg("brief").arg("value").arg("EX").arg(100).clone();
    let () = set.query_async(&mut cluster[leader].redis().await).await.unwrap();
    for node in cluster.nodes() {
        let value: Option<String> =
            redis::cmd("GET").arg("brief").query_async(&mut node.redis().await).await.unwrap();
        assert_eq!(value.as_deref(), Some("value"), "expired on {}", node.name);
    }
    clients.finish(&cluster).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster[leader].status().await.term, term, "an election");
}

/// What the node takes for the time, the log's clock included, against the true one.
async fn hours_ahead(node: &Node) -> i64 {
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut node.redis().await).await.unwrap();
    let true_seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    (seconds - true_seconds + HOUR / 2).div_euclid(HOUR)
}
