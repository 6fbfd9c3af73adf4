//! Time until another leader after the leader's process dies.

use std::time::Duration;

use helios_proto::v1::Role;
use tokio::time::Instant;

use crate::common::{Cluster, Load, connect, eventually};

const LOST: &str = "the connection from the leader ended";
const AT_ONCE: &str = "campaigning without waiting for the election timeout";

#[tokio::test]
async fn killed_leader_is_replaced_without_waiting_for_the_election_timeout() {
    let mut cluster = Cluster::of_three().await;
    let load = Load::start(&cluster.client_ports());
    for _ in 0..3 {
        load.wait_for(200).await;
        let leader = cluster.leader().await;
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        let campaigns = |cluster: &Cluster| others.map(|other| cluster[other].log().matches(AT_ONCE).count());
        let before = campaigns(&cluster);
        cluster[leader].kill();
        cluster.leader_among(&others).await;
        assert_ne!(campaigns(&cluster), before, "no member campaigned at once");
        cluster[leader].start();
        cluster[leader].wait_ready().await;
    }
    load.finish().await.assert_kept(&cluster.agreed_data().await);
}

/// A client that polls every 50 ms sees the leader change exactly once.
#[tokio::test]
async fn polling_client_sees_one_leader_change_per_failover() {
    const POLL: Duration = Duration::from_millis(50);
    /// Number of polls with an unchanged leader after which the failover counts as complete.
    const SETTLED: usize = 40;
    let mut cluster = Cluster::of_three().await;
    for _ in 0..3 {
        let old = cluster.leader().await;
        let others = [(old + 1) % 3, (old + 2) % 3];
        let before = cluster[old].status().await.leader_name;
        cluster[old].kill();
        let mut seen = others.map(|_| vec![before.clone()]);
        let mut unchanged = 0;
        let mut polls = tokio::time::interval(POLL);
        while unchanged < SETTLED {
            polls.tick().await;
            unchanged += 1;
            for (at, seen) in others.iter().zip(&mut seen) {
                let leader = cluster[*at].try_status().await.map(|status| status.leader_name);
                let last = seen.last().cloned();
                if let Some(leader) = leader.filter(|name| !name.is_empty() && Some(name) != last.as_ref()) {
                    seen.push(leader);
                    unchanged = 0;
                }
                // The first change is still to come.
                if seen.len() == 1 {
                    unchanged = 0;
                }
            }
        }
        assert!(seen[0].len() == 2 && seen[0] == seen[1], "{seen:?}");
        cluster[old].start();
        cluster[old].wait_ready().await;
    }
}

#[tokio::test]
async fn followers_wait_for_the_lease_of_a_killed_leader() {
    let mut cluster = Cluster::of_three_configured("reads: {lease: on}\n").await;
    let leader = cluster.leader().await;
    cluster[leader].kill();
    cluster.leader_among(&[(leader + 1) % 3, (leader + 2) % 3]).await;
    assert!(cluster.nodes().iter().all(|node| !node.log().contains(LOST)));
}

#[tokio::test]
async fn broken_peer_link_does_not_depose_the_leader() {
    // Reconnecting may take long on a busy machine; the timeout is long so that only an early campaign could
    // depose the leader.
    let (cluster, network) = Cluster::wired_three_with("election_timeout: 1s").await;
    let leader = cluster.leader().await;
    let term = cluster[leader].status().await.term;
    let found = format!("leader known term={term} leader=");
    for other in network.others(leader) {
        network.reset(leader, other);
        eventually("the follower notices and finds its leader again", async || {
            let log = cluster[other].log();
            // The status may still be the one from before the break.
            let has_found = log.rfind(LOST).is_some_and(|at| log[at..].contains(&found));
            let status = cluster[other].try_status().await?;
            (has_found && status.leader_id == cluster[leader].status().await.member_id).then_some(())
        })
        .await;
    }
    assert!(cluster[leader].has_role(Role::Leader).await);
    assert_eq!(cluster[leader].status().await.term, term, "the broken link caused an election");
}

/// Run by: `cargo test --release -p helios-node --test integration failover::figures -- --ignored
/// --nocapture`
#[tokio::test]
#[ignore = "measures"]
async fn figures() {
    for preset in ["fast", "lan", "wan"] {
        for leases in ["on", "off"] {
            let mut gaps = gaps_on_kills(preset, leases).await;
            gaps.sort_unstable();
            let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
            println!(
                "{preset}, leases {leases}: write gap on kill -9 of the leader, {} kills: median {median:?}, longest {longest:?}",
                gaps.len()
            );
        }
    }
}

async fn gaps_on_kills(preset: &str, leases: &str) -> Vec<Duration> {
    const KILLS: usize = 30;
    let mut cluster = Cluster::fixed_with(3, &format!("preset: {preset}"));
    for index in 0..3 {
        cluster[index].config_mut().push_str(&format!("reads: {{lease: {leases}}}\n"));
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let quiet = if preset == "wan" { 2_600 } else { 400 };
    let mut gaps = Vec::new();
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(quiet)).await;
        let leader = cluster.leader().await;
        let mut connections = Vec::new();
        for other in [(leader + 1) % 3, (leader + 2) % 3] {
            connections.push(connect(cluster[other].ports.client, Duration::from_secs(10)).await.unwrap());
        }
        let key = format!("key {kill}");
        redis::cmd("SET").arg(&key).arg("before").exec_async(&mut connections[0]).await.unwrap();
        let died = Instant::now();
        cluster[leader].kill();
        for attempt in 0.. {
            let connection = &mut connections[attempt % 2];
            if redis::cmd("SET").arg(&key).arg(attempt).exec_async(connection).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gaps.push(died.elapsed());
        cluster[leader].start();
        cluster[leader].wait_ready().await;
    }
    gaps
}
