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

/// Every member has another engine, and each is converted to the next one in turn, under load.
#[tokio::test]
async fn members_with_different_engines_keep_every_acknowledged_write_while_they_are_converted() {
    const ENGINES: [&str; 4] = ["sled", "redb", "runs", "sled"];
    let mut cluster = Cluster::fixed_with(3, "snapshot_entries: 300, trailing_entries: 100");
    for (index, engine) in ENGINES[..3].iter().enumerate() {
        cluster[index].config_mut().push_str(&format!("state: {{engine: {engine}}}\n"));
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(500).await;
    let leader = cluster.leader().await;
    cluster[leader].kill();
    load.wait_for(200).await;
    cluster[leader].start();
    cluster[leader].wait_ready().await;
    for (index, engines) in ENGINES.windows(2).enumerate() {
        cluster[index].terminate().await;
        let converted = cluster[index].config_mut().replace(engines[0], engines[1]);
        *cluster[index].config_mut() = converted;
        cluster[index].start();
        cluster[index].wait_ready().await;
        load.wait_for(200).await;
        assert!(cluster[index].log().contains("converting the state to another engine"), "{engines:?}");
    }
    load.finish().await.assert_kept(&cluster.agreed_data().await);
}
