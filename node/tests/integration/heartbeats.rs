//! Heartbeats do not wait behind what a leader replicates.

use helios_proto::v1::Role;

use crate::common::{Cluster, PATIENCE, eventually, eventually_within};

const KIB: u64 = 1 << 10;
const VALUE_BYTES: usize = 900 << 10;
const WRITES: usize = 4;
/// At most two seconds: a busy machine shall not be taken for a slow line.
const PATIENT: &str = "election_timeout: 1s";

/// Each append is under way for longer than any election timeout, all of them for seven.
#[tokio::test]
async fn appends_that_take_longer_than_an_election_timeout_cost_no_election() {
    let (cluster, network) = Cluster::wired_three_with(PATIENT).await;
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
    // It takes longer than a client may wait; what is asked here is whether it is committed in the end.
    drop(pipeline.query_async::<()>(&mut client).await);
    eventually_within(3 * PATIENCE, "all is applied", async || {
        let status = cluster[leader].try_status().await?;
        assert_eq!((status.term, status.role()), (term, Role::Leader), "an election, for no reason");
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
