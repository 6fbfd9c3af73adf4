//! Leadership changes: on SIGTERM, on request, and away from a stopped node.

use std::collections::BTreeSet;
use std::time::Duration;

use helios_proto::v1::{ErrorCode, Role, TransferRequest};
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::common::{Cluster, Load, error_code, eventually, is_outcome_unknown};

#[tokio::test]
async fn leader_stopped_by_sigterm_transfers_leadership_within_a_second() {
    let mut cluster = Cluster::of_three().await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(200).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let term = cluster[leader].status().await.term;

        let exit = cluster[leader].terminate().await;

        assert_eq!(exit.code(), Some(0));
        assert!(cluster[leader].log().contains("leadership transferred"));
        let next = cluster.leader().await;
        assert_eq!(cluster[next].status().await.term, term + 1, "more than one election");
        load.wait_for(200).await;
        cluster[leader].start();
        cluster[leader].wait_ready().await;
        assert_eq!(cluster.leader().await, next, "the node that came back disturbed the leader");
    }
    let report = load.finish().await;
    assert!(report.longest < Duration::from_secs(1), "a write took {:?}", report.longest);
    report.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn transfer_makes_the_target_the_leader_in_the_next_term() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let before = cluster[leader].status().await;
    let target = (leader + 1) % 3;
    let target_id = cluster[target].status().await.member_id;
    let request = TransferRequest { target_id, timeout_ms: 2_000, ..Default::default() };

    let answer = cluster[leader].cluster().transfer_leadership(request).await.unwrap().into_inner();

    assert_eq!((answer.leader_id, answer.term), (target_id, before.term + 1));
    assert!(cluster[target].has_role(Role::Leader).await);
    let again = cluster[leader].cluster().transfer_leadership(request).await;
    assert_eq!(error_code(again), ErrorCode::NotLeader);
    let repeated = cluster[target].cluster().transfer_leadership(request).await.unwrap().into_inner();
    assert_eq!(repeated.term, answer.term, "a repeated transfer took effect twice");
    let stranger = TransferRequest { target_id: 99, ..request };
    assert_eq!(
        error_code(cluster[target].cluster().transfer_leadership(stranger).await),
        ErrorCode::NodeNotFound
    );
}

#[tokio::test]
async fn paused_leader_serves_no_stale_read() {
    serves_no_stale_read("LINEARIZABLE").await;
}

/// The lease was valid when the leader was stopped, and the read is its first input when it resumes.
#[tokio::test]
async fn paused_leader_serves_no_read_by_its_expired_lease() {
    serves_no_stale_read("LEASE").await;
}

async fn serves_no_stale_read(level: &str) {
    let cluster = Cluster::of_three_configured("reads: {lease: on}\n").await;
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut to_old = cluster[leader].redis().await;
    let () = redis::cmd("HELIOS.READ").arg(level).query_async(&mut to_old).await.unwrap();
    let mut to_other = cluster[others[0]].redis().await;
    for round in 0..20 {
        let () = redis::cmd("SET").arg("key").arg(round).query_async(&mut to_old).await.unwrap();
        let found: u32 = redis::cmd("GET").arg("key").query_async(&mut to_old).await.unwrap();
        assert_eq!(found, round);
    }

    cluster[leader].signal(Signal::STOP);
    cluster.leader_among(&others).await;
    let () = redis::cmd("SET").arg("key").arg("new").query_async(&mut to_other).await.unwrap();
    // The request waits in the stopped node's socket and is its first input when it resumes.
    let read =
        tokio::spawn(async move { redis::cmd("GET").arg("key").query_async::<String>(&mut to_old).await });
    tokio::task::yield_now().await;
    cluster[leader].signal(Signal::CONT);

    assert_eq!(read.await.unwrap().unwrap(), "new");
    cluster[leader].wait_ready().await;
    assert!(cluster[leader].has_role(Role::Follower).await);
    cluster.agreed_data().await;
}

#[tokio::test]
async fn increments_are_applied_at_most_once_across_leader_failures() {
    let mut cluster = Cluster::of_three().await;
    let until = Instant::now() + Duration::from_secs(5);
    let mut counters = JoinSet::new();
    for node in cluster.nodes().iter().chain(cluster.nodes()) {
        counters.spawn(count_until(until, node.ports.client));
    }
    let stopped = cluster.leader().await;
    cluster[stopped].signal(Signal::STOP);
    let killed = cluster.leader_among(&[(stopped + 1) % 3, (stopped + 2) % 3]).await;
    cluster[stopped].signal(Signal::CONT);
    eventually("the node that was stopped follows again", async || {
        cluster[stopped].has_role(Role::Follower).await.then_some(())
    })
    .await;
    cluster[killed].kill();
    cluster[killed].start();

    let mut total = Counted::default();
    while let Some(counted) = counters.join_next().await {
        total.add(counted.unwrap());
    }
    let data = cluster.agreed_data().await;
    let counter: usize = std::str::from_utf8(&data[0].value).unwrap().parse().unwrap();
    let acknowledged = total.acknowledged.len();
    assert!(acknowledged > 100, "only {acknowledged} increments were acknowledged");
    assert!(
        (acknowledged..=acknowledged + total.unknown).contains(&counter),
        "counted to {counter} with {acknowledged} acknowledged and {} unknown",
        total.unknown
    );
}

#[derive(Default)]
struct Counted {
    /// Values of the acknowledged increments.
    acknowledged: BTreeSet<i64>,
    /// Number of increments with an unknown outcome.
    unknown: usize,
}

impl Counted {
    fn add(&mut self, other: Self) {
        let expected = self.acknowledged.len() + other.acknowledged.len();
        self.acknowledged.extend(other.acknowledged);
        assert_eq!(self.acknowledged.len(), expected, "two increments were answered with the same value");
        self.unknown += other.unknown;
    }
}

/// Increments in a loop until `until`, without retries.
async fn count_until(until: Instant, port: u16) -> Counted {
    let mut counted = Counted::default();
    let mut connection: Option<MultiplexedConnection> = None;
    while Instant::now() < until {
        let Some(open) = &mut connection else {
            connection = crate::common::connect(port, Duration::from_secs(1)).await.ok();
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        match redis::cmd("INCR").arg("counter").query_async::<i64>(open).await {
            Ok(value) => assert!(counted.acknowledged.insert(value), "{value} was answered twice"),
            Err(error) => {
                counted.unknown += usize::from(is_outcome_unknown(&error));
                connection = None;
            }
        }
    }
    counted
}

/// Without faults the term does not change, for `HELIOS_QUIET_SECONDS` seconds, by default 600.
#[tokio::test]
#[ignore = "takes ten minutes"]
async fn term_and_leader_do_not_change_without_faults() {
    let seconds = std::env::var("HELIOS_QUIET_SECONDS").map_or(600, |text| text.parse().unwrap());
    let cluster = Cluster::of_three().await;
    let seen =
        async || cluster.statuses().await.into_iter().map(|node| (node.term, node.leader_name)).collect();
    let before: Vec<_> = seen().await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut polls = tokio::time::interval(Duration::from_secs(1));
    while Instant::now() < end {
        polls.tick().await;
        assert_eq!(seen().await, before);
    }
}

#[tokio::test]
async fn member_with_the_higher_priority_leads_again_after_its_restart() {
    let mut cluster = Cluster::fixed(3);
    let config = cluster[2].config_mut();
    *config = config.replace("raft: {", "raft: {priority: 10, ");
    cluster.start_all();
    let leads = async |cluster: &Cluster| cluster[2].has_role(Role::Leader).await.then_some(());
    eventually("the member with the higher priority leads", async || leads(&cluster).await).await;
    cluster[2].kill();
    cluster.leader_among(&[0, 1]).await;
    cluster[2].start();
    eventually("it leads again", async || leads(&cluster).await).await;
}
