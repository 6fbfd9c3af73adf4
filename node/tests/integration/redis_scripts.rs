//! Scripts and blocking commands on a cluster of real processes.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::common::{Cluster, PATIENCE, connect, is_outcome_unknown};

const RUNS: usize = 40;
const ELEMENTS: usize = 60;

/// Script that moves a number from one key to another; the sum of both is invariant.
const TRANSFER: &str = "local from, to = tonumber(redis.call('get', KEYS[1]) or 0), tonumber(redis.call('get', KEYS[2]) or 0) \
    redis.call('set', KEYS[1], from - ARGV[1]) redis.call('set', KEYS[2], to + ARGV[1]) \
    redis.call('incr', 'transfers') return from + to";

async fn transfer(client: &mut MultiplexedConnection, from: &str, to: &str) -> redis::RedisResult<i64> {
    redis::cmd("EVAL").arg(TRANSFER).arg(2).arg(from).arg(to).arg(3).query_async(client).await
}

async fn number(client: &mut MultiplexedConnection, key: &str) -> i64 {
    redis::cmd("GET").arg(key).query_async::<Option<i64>>(client).await.unwrap().unwrap_or(0)
}

#[tokio::test]
async fn scripts_on_shared_keys_are_atomic_and_applied_once_when_the_leader_dies() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let mut clients = JoinSet::new();
    for index in (0..3).filter(|index| *index != leader) {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let mut client = cluster[index].redis().await;
            clients.spawn(async move {
                let (mut done, mut unknown) = (0, 0);
                for _ in 0..RUNS {
                    match transfer(&mut client, from, to).await {
                        Ok(sum) => {
                            assert_eq!(sum, 0);
                            done += 1;
                        }
                        Err(error) if is_outcome_unknown(&error) => unknown += 1,
                        // A refused script changed nothing.
                        Err(_) => {}
                    }
                }
                (done, unknown)
            });
        }
    }
    let mut writer = cluster[leader].redis().await;
    while number(&mut writer, "transfers").await < 10 {}
    cluster[leader].kill();
    let outcomes = clients.join_all().await;
    let (done, unknown) = outcomes.into_iter().fold((0, 0), |sums, one| (sums.0 + one.0, sums.1 + one.1));
    cluster[leader].start();
    cluster[leader].wait_ready().await;
    for node in cluster.nodes() {
        let mut client = node.redis().await;
        let transfers = number(&mut client, "transfers").await;
        assert!(
            (done..=done + unknown).contains(&transfers),
            "{done} done, {unknown} unknown, {transfers} there"
        );
        assert_eq!(number(&mut client, "a").await + number(&mut client, "b").await, 0, "{}", node.name);
    }
    assert!(done > 10, "most were done: {done}");
}

#[tokio::test]
async fn each_element_is_popped_by_one_blocked_client_of_any_member() {
    let cluster = Cluster::of_three().await;
    let mut consumers = JoinSet::new();
    for node in cluster.nodes().iter().chain(cluster.nodes()) {
        let mut client = connect(node.ports.client, PATIENCE).await.unwrap();
        consumers.spawn(async move {
            let mut taken = Vec::new();
            loop {
                let popped: Option<(String, usize)> = redis::cmd("BLPOP")
                    .arg("queue")
                    .arg("end")
                    .arg(0)
                    .query_async(&mut client)
                    .await
                    .unwrap();
                match popped {
                    Some((key, element)) if key == "queue" => taken.push(element),
                    _ => return taken,
                }
            }
        });
    }
    let mut producers = Vec::new();
    for node in cluster.nodes() {
        producers.push(node.redis().await);
    }
    for element in 0..ELEMENTS {
        let client = &mut producers[element % 3];
        let () = redis::cmd("RPUSH").arg("queue").arg(element).query_async(client).await.unwrap();
        // The pause lets most elements find a blocked client.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..6 {
        let () = redis::cmd("RPUSH").arg("end").arg(0).query_async(&mut producers[0]).await.unwrap();
    }
    let taken: Vec<usize> = tokio::time::timeout(PATIENCE, consumers.join_all()).await.unwrap().concat();
    assert_eq!(taken.len(), ELEMENTS, "none twice");
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), (0..ELEMENTS).collect(), "all of them");
}
