//! Members that die, hang, and are partitioned, while clients of all of them read and write. In every case
//! the history of each key is linearizable.

use std::time::Duration;

use helios_proto::v1::Role;
use rustix::process::Signal;

use crate::common::{Clients, Cluster, Network, eventually};

const ALL: [usize; 3] = [0, 1, 2];

async fn three() -> (Cluster, Network, Clients) {
    let (cluster, network) = Cluster::wired_three().await;
    let clients = Clients::start(&cluster.client_ports());
    clients.wait_for(ALL, 30).await;
    (cluster, network, clients)
}

async fn await_step_down(cluster: &Cluster, node: usize) {
    eventually("an isolated leader steps down", async || {
        (!cluster[node].has_role(Role::Leader).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn history_is_linearizable_when_leaders_are_killed() {
    let (mut cluster, _network, clients) = three().await;
    for _ in 0..4 {
        let leader = cluster.leader().await;
        cluster[leader].kill();
        clients.wait_for([(leader + 1) % 3, (leader + 2) % 3], 30).await;
        cluster[leader].start();
        cluster[leader].wait_ready().await;
        clients.wait_for([leader], 10).await;
    }
    clients.finish(&cluster).await;
}

#[tokio::test]
async fn paused_leader_that_resumes_serves_no_stale_read_and_applies_nothing_twice() {
    let (cluster, _network, clients) = three().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        cluster[leader].signal(Signal::STOP);
        cluster.leader_among(&others).await;
        clients.wait_for(others, 30).await;
        cluster[leader].signal(Signal::CONT);
        clients.wait_for([leader], 10).await;
    }
    clients.finish(&cluster).await;
}

#[tokio::test]
async fn leader_whose_sends_are_cut_is_replaced_and_rejoins() {
    let (cluster, network, clients) = three().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let others: Vec<_> = network.others(leader).collect();
        others.iter().for_each(|other| network.cut(leader, *other));
        cluster.leader_among(&others).await;
        clients.wait_for(others, 30).await;
        network.heal();
        clients.wait_for(ALL, 10).await;
    }
    clients.finish(&cluster).await;
}

#[tokio::test]
async fn leader_whose_receives_are_cut_steps_down_and_rejoins() {
    let (cluster, network, clients) = three().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let others: Vec<_> = network.others(leader).collect();
        others.iter().for_each(|other| network.cut(*other, leader));
        await_step_down(&cluster, leader).await;
        cluster.leader_among(&others).await;
        clients.wait_for(others, 30).await;
        network.heal();
        clients.wait_for(ALL, 10).await;
    }
    clients.finish(&cluster).await;
}

#[tokio::test]
async fn isolated_leader_answers_no_request_while_the_others_continue() {
    let (cluster, network, clients) = three().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let others: Vec<_> = network.others(leader).collect();
        network.isolate(leader);
        cluster.leader_among(&others).await;
        await_step_down(&cluster, leader).await;
        let answered = clients.answered(leader);
        clients.wait_for(others, 50).await;
        assert_eq!(clients.answered(leader), answered, "answered without a majority");
        network.heal();
        clients.wait_for(ALL, 10).await;
    }
    clients.finish(&cluster).await;
}

#[tokio::test]
async fn history_is_linearizable_over_slow_and_broken_links() {
    let (cluster, network, clients) = three().await;
    let leader = cluster.leader().await;
    for (near, other) in network.others(leader).enumerate() {
        network.delay(leader, other, Duration::from_millis(20 + 30 * near as u64));
        network.delay(other, leader, Duration::from_millis(40));
    }
    clients.wait_for(ALL, 10).await;
    for round in 0..6 {
        network.reset(round % 3, (round + 1) % 3);
        clients.wait_for([round % 3], 5).await;
    }
    network.heal();
    clients.wait_for(ALL, 10).await;
    clients.finish(&cluster).await;
}
