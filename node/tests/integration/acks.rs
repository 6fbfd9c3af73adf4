//! Acknowledgement levels beyond a majority, and WAIT.

use std::time::Duration;

use helios_proto::v1::{AckLevel, ErrorCode, PutRequest};
use rustix::process::Signal;

use crate::common::{Cluster, Operator, error_code, eventually};

fn put(value: &str) -> PutRequest {
    let (key, value) = ("k".into(), value.to_owned().into());
    PutRequest { key, value, ack: AckLevel::AckAll.into(), ..PutRequest::default() }
}

#[tokio::test]
async fn ack_all_write_is_rejected_while_a_voter_is_down_and_accepted_after_its_restart() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (left, down) = ((leader + 1) % 3, (leader + 2) % 3);
    for node in cluster.nodes() {
        node.kv().put(put("before")).await.unwrap();
    }
    let mut client = cluster[left].redis().await;
    let () = redis::cmd("HELIOS.ACK").arg("ALL").query_async(&mut client).await.unwrap();
    let () = redis::cmd("SET").arg("r").arg("before").query_async(&mut client).await.unwrap();
    let held: u64 = redis::cmd("WAIT").arg(2).arg(5_000).query_async(&mut client).await.unwrap();
    assert_eq!(held, 2);

    cluster[down].kill();
    let noticed = eventually("the leader notices that a voter is down", async || {
        let code = error_code(cluster[left].kv().put(put("while down")).await);
        // At first the stopped voter still counts as live, and the write waits for it until the timeout.
        (code != ErrorCode::ReplicationShortfall).then_some(code)
    })
    .await;
    assert_eq!(noticed, ErrorCode::InsufficientReplicas);
    let refused = redis::cmd("SET").arg("r").arg("x").query_async::<()>(&mut client).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
    let () = redis::cmd("HELIOS.ACK").arg("MAJORITY").query_async(&mut client).await.unwrap();
    let () = redis::cmd("SET").arg("r").arg("majority").query_async(&mut client).await.unwrap();
    let held: u64 = redis::cmd("WAIT").arg(2).arg(300).query_async(&mut client).await.unwrap();
    assert_eq!(held, 1);

    cluster[down].start();
    let held: u64 = redis::cmd("WAIT").arg(2).arg(20_000).query_async(&mut client).await.unwrap();
    assert_eq!(held, 2);
    eventually("writes are acknowledged by all again", async || {
        cluster[left].kv().put(put("after")).await.ok()
    })
    .await;
}

#[tokio::test]
async fn timeout_of_an_ack_all_write_reports_that_it_is_committed() {
    let mut cluster = Cluster::fixed(3);
    for index in 0..3 {
        cluster[index]
            .config_mut()
            .push_str("client: {request_timeout: 2s}\nwrites: {ack: all, strict: false}\n");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;
    let (left, down) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster[down].signal(Signal::STOP);
    for index in [leader, left] {
        let mut client = cluster[index].redis().await;
        let key = format!("by {index}");
        let short = redis::cmd("SET").arg(&key).arg("x").query_async::<()>(&mut client).await.unwrap_err();
        let text = short.to_string();
        assert!(text.contains("committed=true index=") && text.contains("replicas=2"), "{text}");
        let found: String = redis::cmd("GET").arg(&key).query_async(&mut client).await.unwrap();
        assert_eq!(found, "x");
    }
    let status = cluster[left].kv().put(put("x")).await;
    assert_eq!(error_code(status), ErrorCode::ReplicationShortfall);
    cluster[down].signal(Signal::CONT);
    eventually("writes are acknowledged by all", async || cluster[left].kv().put(put("y")).await.ok()).await;
}

#[tokio::test]
async fn learner_does_not_count_for_acks_and_wait() {
    let mut cluster = Cluster::blank(2);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    Operator::add(&cluster[0], &cluster[1]).await;
    cluster[1].wait_ready().await;
    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("k").arg("v").query_async(&mut client).await.unwrap();
    cluster.agreed_data().await;
    let held: u64 = redis::cmd("WAIT").arg(1).arg(300).query_async(&mut client).await.unwrap();
    assert_eq!(held, 0);
    cluster[1].kill();
    let answered = tokio::time::timeout(Duration::from_secs(15), cluster[0].kv().put(put("alone"))).await;
    answered.unwrap().expect("all voters are one");
}
