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
