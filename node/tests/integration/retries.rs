//! Writes that are retried, by a client or by the node it is connected to.

use std::time::Duration;

use helios_proto::v1::{DeleteRequest, ErrorCode, PutRequest, RequestId};
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::common::{Cluster, error_code};

/// Waits for increments of one counter, which started at zero, and checks that each was applied once.
async fn assert_applied_once_each(increments: JoinSet<Result<i64, redis::RedisError>>) {
    let count = increments.len();
    let answers = increments.join_all().await;
    let mut sums: Vec<i64> =
        answers.into_iter().map(|answer| answer.expect("a write that was not applied is retried")).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..).take(count).collect::<Vec<_>>());
}

#[tokio::test]
async fn forwarded_writes_are_applied_once_each_when_the_leader_is_killed() {
    for _ in 0..3 {
        let mut cluster = Cluster::of_three().await;
        let leader = cluster.leader().await;
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        let mut clients = Vec::new();
        for number in 0..40 {
            clients.push(cluster[others[number % 2]].redis().await);
        }
        let mut writers = JoinSet::new();
        for mut client in clients {
            writers.spawn(async move {
                redis::cmd("INCR").arg("n").to_owned().query_async::<i64>(&mut client).await
            });
        }
        // By now some writes are in flight, some proposed, some answered.
        tokio::time::sleep(Duration::from_millis(3)).await;
        cluster[leader].kill();
        assert_applied_once_each(writers).await;
    }
}

#[tokio::test]
async fn writes_never_received_by_a_killed_leader_are_applied_by_the_next() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    cluster[leader].signal(Signal::STOP);
    let mut writers = JoinSet::new();
    for number in 0..40 {
        let mut client = cluster[others[number % 2]].redis().await;
        writers.spawn(
            async move { redis::cmd("INCR").arg("n").to_owned().query_async::<i64>(&mut client).await },
        );
    }
    cluster[leader].kill();
    assert_applied_once_each(writers).await;
}

#[tokio::test]
async fn forwarded_writes_to_a_hanging_leader_are_delayed_and_applied_once() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut clients = Vec::new();
    for index in others.into_iter().cycle().take(10) {
        let mut client = cluster[index].redis().await;
        // Each lane of each member's requests is established before the leader hangs.
        for _ in 0..8 {
            let _: i64 = redis::cmd("INCR").arg("warm").query_async(&mut client).await.unwrap();
        }
        clients.push(client);
    }
    cluster[leader].signal(Signal::STOP);
    let mut writers = JoinSet::new();
    for mut client in clients {
        writers.spawn(async move {
            let increment = redis::cmd("INCR").arg("n").to_owned();
            increment.query_async::<i64>(&mut client).await
        });
    }
    let mut answers: Vec<i64> = writers
        .join_all()
        .await
        .into_iter()
        .map(|answer| answer.expect("no write is of unknown outcome"))
        .collect();
    cluster[leader].signal(Signal::CONT);
    answers.sort_unstable();
    assert_eq!(answers, (1..=10).collect::<Vec<_>>());
    // When the old leader resumes, it finds in its socket the requests sent to it meanwhile.
    let data = cluster.agreed_data().await;
    let counter = data.iter().find(|entry| entry.key == "n").unwrap();
    assert_eq!(counter.value, "10");
}

#[tokio::test]
async fn put_retried_at_another_member_is_applied_once() {
    let cluster = Cluster::of_three().await;
    let put = |value: &str, sequence, retry| PutRequest {
        key: "k".into(),
        value: value.to_owned().into(),
        request_id: Some(RequestId { client_id: "a client".into(), sequence, retry }),
        ..PutRequest::default()
    };
    let first = cluster[0].kv().put(put("old", 1, false)).await.unwrap().into_inner();
    let second = cluster[1].kv().put(put("new", 2, false)).await.unwrap().into_inner();
    assert!(second.revision > first.revision);
    for node in cluster.nodes() {
        let again = node.kv().put(put("old", 1, true)).await.unwrap().into_inner();
        assert_eq!(again.revision, first.revision);
    }
    assert_eq!(cluster.agreed_data().await[0].value, "new");

    let delete = DeleteRequest {
        keys: vec!["k".into()],
        request_id: Some(RequestId { client_id: "a client".into(), sequence: 3, retry: false }),
        ..DeleteRequest::default()
    };
    for node in cluster.nodes() {
        assert_eq!(node.kv().delete(delete.clone()).await.unwrap().into_inner().deleted, 1);
    }
    let mut stranger = put("x", 1, true);
    stranger.request_id.as_mut().unwrap().client_id = "never heard of".into();
    assert_eq!(error_code(cluster[0].kv().put(stranger).await), ErrorCode::OutcomeUnknown);
    let mut reserved = put("x", 1, false);
    reserved.request_id.as_mut().unwrap().client_id = vec![0, 1].into();
    assert_eq!(error_code(cluster[0].kv().put(reserved).await), ErrorCode::InvalidArgument);
}
