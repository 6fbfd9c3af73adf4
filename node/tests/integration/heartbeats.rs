//! Heartbeats are not queued behind the entries that a leader replicates.

use helios_proto::v1::Role;

use crate::common::{Cluster, PATIENCE, eventually, eventually_within};

const KIB: u64 = 1 << 10;
const VALUE_BYTES: usize = 900 << 10;
const WRITES: usize = 4;
/// Setting with an election timeout of one to two seconds, so that a busy machine is not taken for a slow
/// link.
const LONG_TIMEOUT: &str = "election_timeout: 1s";

/// Each append is in flight for longer than any election timeout, all of them together for seven.
#[tokio::test]
async fn appends_longer_than_an_election_timeout_cause_no_election() {
    let (cluster, network) = Cluster::wired_three_with(LONG_TIMEOUT).await;
    let leader = cluster.leader().await;
    let term = cluster[leader].status().await.term;
    for other in network.others(leader) {
        network.limit(leader, other, 256 * KIB);
    }
    let mut client = cluster[leader].redis().await;
    let mut pipeline = redis::pipe();
    for number in 0..WRITES {
        pipeline.cmd("SET").arg(format!("key {number}")).arg(vec![b'x'; VALUE_BYTES]).ignore();
    }
    // The request times out for the client; this test checks that the writes are committed in the end.
    drop(pipeline.query_async::<()>(&mut client).await);
    eventually_within(3 * PATIENCE, "all is applied", async || {
        let status = cluster[leader].try_status().await?;
        assert_eq!((status.term, status.role()), (term, Role::Leader), "an unnecessary election");
        (status.keys == WRITES as u64).then_some(())
    })
    .await;
    for node in cluster.nodes() {
        eventually("it has followed", async || {
            let status = node.try_status().await?;
            assert_eq!(status.term, term, "{} saw an election", node.name);
            (status.keys == WRITES as u64).then_some(())
        })
        .await;
    }
}
