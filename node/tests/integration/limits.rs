//! Limits and reported roles, which are the same at all client ports.

use helios_proto::v1::{ErrorCode, PutRequest, PutWrite, TransactionRequest, Write, write};
use serde_json::json;

use crate::common::{Cluster, error_code, http, info_field};

const MAX_KEY_BYTES: usize = 64 << 10;

#[tokio::test]
async fn key_length_limit_is_the_same_at_every_port() {
    let mut cluster = Cluster::fixed(1);
    cluster.start_all();
    cluster.wait_ready().await;
    let node = &cluster[0];
    for (length, is_taken) in [(MAX_KEY_BYTES, true), (MAX_KEY_BYTES + 1, false), (3_000_000, false)] {
        let key = "k".repeat(length);
        let put = PutRequest { key: key.clone().into(), value: "v".into(), ..PutRequest::default() };
        let over_grpc = node.kv().put(put).await;
        let put = PutWrite { key: key.clone().into(), value: "v".into(), ..PutWrite::default() };
        let write = Write { kind: Some(write::Kind::Put(put)) };
        let transaction = TransactionRequest { writes: vec![write], ..TransactionRequest::default() };
        let in_transaction = node.kv().transaction(transaction).await;
        let body = json!({"key": key, "value": "v"}).to_string();
        let over_http = http(node.ports.gateway, "POST", "/put", &body).await.unwrap();
        let mut client = node.redis().await;
        let over_redis = redis::cmd("SET").arg(&key).arg("v").exec_async(&mut client).await;
        let script = "return redis.call('SET', KEYS[1], 'v')";
        let in_script = redis::cmd("EVAL").arg(script).arg(1).arg(&key).exec_async(&mut client).await;
        assert_eq!(over_redis.is_ok(), is_taken, "{length}: {over_redis:?}");
        assert_eq!(in_script.is_ok(), is_taken, "{length}: {in_script:?}");
        assert_eq!(over_http.0 == 200, is_taken, "{length}: {over_http:?}");
        if is_taken {
            over_grpc.unwrap();
            in_transaction.unwrap();
        } else {
            assert_eq!(error_code(over_grpc), ErrorCode::TooLarge, "{length}");
            assert_eq!(error_code(in_transaction), ErrorCode::TooLarge, "{length}");
            assert!(over_http.1.contains("65536"), "{length}: {over_http:?}");
        }
    }
}

#[tokio::test]
async fn follower_that_forwards_writes_reports_role_master_unless_configured_otherwise() {
    for (config, expected) in [
        ("", "master"),
        ("client: {reported_role: raft}\n", "slave"),
        ("writes: {on_follower: redirect}\n", "slave"),
    ] {
        let cluster = Cluster::of_three_configured(config).await;
        let leader = cluster.leader().await;
        for index in 0..3 {
            let mut client = cluster[index].redis().await;
            let info: String = redis::cmd("INFO").query_async(&mut client).await.unwrap();
            let role: redis::Value = redis::cmd("ROLE").query_async(&mut client).await.unwrap();
            let expected = if index == leader { "master" } else { expected };
            assert_eq!(info_field(&info, "role"), expected, "{config}");
            assert!(format!("{role:?}").contains(expected), "{config}: {role:?}");
            assert_eq!(info_field(&info, "raft_state") == "Leader", index == leader, "{config}");
            if expected == "master" {
                redis::cmd("SET").arg("k").arg("v").exec_async(&mut client).await.unwrap();
            }
        }
    }
}
