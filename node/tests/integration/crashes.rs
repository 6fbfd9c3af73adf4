//! `kill -9` under load.

use crate::common::{Cluster, Load};

#[tokio::test]
async fn killing_the_leader_five_times_in_a_row_loses_no_acknowledged_write() {
    let mut cluster = Cluster::of_three().await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(100).await;
    for _ in 0..5 {
        let leader = cluster.leader().await;
        cluster[leader].kill();
        load.wait_for(100).await;
        cluster[leader].start();
        cluster[leader].wait_ready().await;
    }
    let report = load.finish().await;
    report.assert_kept(&cluster.agreed_data().await);
    println!("{} writes, the longest took {:?}", report.written.len(), report.longest);
}

#[tokio::test]
async fn killing_all_three_at_once_loses_no_acknowledged_write() {
    let mut cluster = Cluster::of_three().await;
    let load = Load::start(&cluster.client_ports());
    for _ in 0..3 {
        load.wait_for(200).await;
        (0..3).for_each(|index| cluster[index].kill());
        cluster.start_all();
    }
    load.wait_for(50).await;
    let report = load.finish().await;
    report.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn members_on_redb_keep_every_acknowledged_write() {
    let mut cluster = Cluster::fixed_with(3, "snapshot_entries: 300, trailing_entries: 100");
    for index in 0..3 {
        cluster[index].config_mut().push_str("state: {engine: redb}\n");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(1_000).await;
    let leader = cluster.leader().await;
    cluster[leader].kill();
    load.wait_for(400).await;
    cluster[leader].start();
    cluster[leader].wait_ready().await;
    // Back to sled: the other engine's state is set aside, and nothing is lost.
    let other = (leader + 1) % 3;
    cluster[other].terminate().await;
    let sled = cluster[other].config_mut().replace("redb", "sled");
    *cluster[other].config_mut() = sled;
    cluster[other].start();
    cluster[other].wait_ready().await;
    load.finish().await.assert_kept(&cluster.agreed_data().await);
    assert!(cluster[other].log().contains("written by Redb, but the engine is set to Sled"));
}
