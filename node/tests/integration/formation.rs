//! Formation of one cluster by nodes with a common list of initial members.

use std::time::Duration;

use helios_proto::v1::Role;

use crate::common::{Cluster, never};

#[tokio::test]
async fn three_nodes_form_one_cluster_in_any_start_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut cluster = Cluster::fixed(3);
        let [first, second, third] = order;
        cluster[first].start();
        cluster[second].start();
        let leader = cluster.leader_among(&[first, second]).await;
        let term = cluster[leader].status().await.term;
        cluster[third].start();
        cluster.wait_ready().await;

        let statuses = cluster.statuses().await;
        assert_eq!(statuses.iter().filter(|status| status.role() == Role::Leader).count(), 1);
        for status in statuses {
            assert_eq!(status.term, term, "the third node disturbed the leader: {status:?}");
            assert_eq!(status.leader_name, cluster[leader].name);
            assert_eq!(status.membership.unwrap().voters.len(), 3);
        }
    }
}

#[tokio::test]
async fn single_node_of_three_waits_for_quorum_and_never_leads() {
    let mut cluster = Cluster::fixed(3);
    cluster[0].start();
    cluster[0].status().await;
    never(Duration::from_millis(1_500), "a single node of three leads or is ready", async || {
        cluster[0].try_status().await.is_some_and(|status| status.role() == Role::Leader || status.ready)
    })
    .await;
    assert_eq!(cluster[0].status().await.term, 1, "it raised its term without reaching anyone");
    assert!(cluster[0].log().contains("waiting for quorum"));
}

#[tokio::test]
async fn acknowledged_write_is_read_on_every_other_node_at_once() {
    let cluster = Cluster::of_three().await;
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        clients.push(node.redis().await);
    }
    for round in 0..150 {
        let (writer, reader) = (round % 3, (round / 3) % 3);
        let () = redis::cmd("SET").arg("key").arg(round).query_async(&mut clients[writer]).await.unwrap();
        let found: usize = redis::cmd("GET").arg("key").query_async(&mut clients[reader]).await.unwrap();
        assert_eq!(found, round, "node-{} is behind what node-{} acknowledged", reader + 1, writer + 1);
    }
    assert_eq!(cluster.agreed_data().await.len(), 1);
}
