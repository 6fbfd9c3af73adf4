//! Keys and values: expiry on all nodes, and the gRPC and HTTP services.

use std::time::Duration;

use helios_proto::v1::{DeleteRequest, ErrorCode, GetRequest, PutRequest, RangeRequest};

use crate::common::{Cluster, error_code, eventually, http};

#[tokio::test]
async fn key_expires_on_all_nodes_and_is_removed_by_the_leader() {
    let cluster = Cluster::of_three().await;
    let mut client = cluster[0].redis().await;
    let () =
        redis::cmd("SET").arg("kept").arg(1).arg("EX").arg(1_000).query_async(&mut client).await.unwrap();
    let () = redis::cmd("SET").arg("gone").arg(1).arg("PX").arg(700).query_async(&mut client).await.unwrap();
    for node in cluster.nodes() {
        let remaining_ms: i64 =
            redis::cmd("PTTL").arg("gone").query_async(&mut node.redis().await).await.unwrap();
        assert!((1..=700).contains(&remaining_ms), "{} says {remaining_ms}", node.name);
    }
    for node in cluster.nodes() {
        let mut client = node.redis().await;
        eventually(&format!("the key expires on {}", node.name), async || {
            let found: Option<i64> = redis::cmd("GET").arg("gone").query_async(&mut client).await.unwrap();
            found.is_none().then_some(())
        })
        .await;
        eventually(&format!("the key is removed from {}", node.name), async || {
            (node.status().await.keys == 1).then_some(())
        })
        .await;
    }
    let data = cluster.agreed_data().await;
    assert!(data[0].expire_at_ms.is_some());
}

#[tokio::test]
async fn grpc_service_puts_gets_deletes_and_ranges_on_every_node() {
    let cluster = Cluster::of_three().await;
    let put = |key: &str, value: &str, ttl_ms| PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ttl_ms,
        ..PutRequest::default()
    };
    let mut revision = 0;
    for (key, node) in ["a", "b", "c"].iter().zip(cluster.nodes()) {
        let written = node.kv().put(put(key, "value", 0)).await.unwrap().into_inner();
        assert!(written.revision > revision, "revisions must grow");
        revision = written.revision;
    }
    cluster[0].kv().put(put("d", "short", 60_000)).await.unwrap();
    for node in cluster.nodes() {
        let mut kv = node.kv();
        let get = GetRequest { key: "c".into(), ..GetRequest::default() };
        let entry = kv.get(get).await.unwrap().into_inner().entry.unwrap();
        assert_eq!((&entry.value[..], entry.revision, entry.expire_at_ms), (&b"value"[..], revision, None));
        let range = RangeRequest { start: "b".into(), limit: 2, ..RangeRequest::default() };
        let page = kv.range(range.clone()).await.unwrap().into_inner();
        let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.clone()).collect();
        assert_eq!((keys, page.more), (vec!["b".into(), "c".into()], true));
        let bounded = kv.range(RangeRequest { end: "c".into(), ..range }).await.unwrap().into_inner();
        assert_eq!((bounded.entries.len(), bounded.more), (1, false));
    }
    // Keys of other types have no value here, and a page is not empty because of them while string keys
    // follow.
    let mut redis = cluster[0].redis().await;
    for key in ["b1", "b2", "b3", "b4"] {
        let () = redis::cmd("RPUSH").arg(key).arg("element").query_async(&mut redis).await.unwrap();
    }
    let range = RangeRequest { start: "b0".into(), limit: 1, ..RangeRequest::default() };
    let page = cluster[0].kv().range(range).await.unwrap().into_inner();
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!((keys, page.more), (vec!["c".into()], true));
    let range = RangeRequest { start: "b0".into(), end: "b9".into(), limit: 1, ..RangeRequest::default() };
    let page = cluster[0].kv().range(range).await.unwrap().into_inner();
    assert_eq!((page.entries.len(), page.more), (0, false));
    let delete =
        DeleteRequest { keys: vec!["a".into(), "b".into(), "nowhere".into()], ..DeleteRequest::default() };
    let deleted = cluster[1].kv().delete(delete).await.unwrap().into_inner();
    assert_eq!(deleted.deleted, 2);
    let missing = GetRequest { key: "a".into(), ..GetRequest::default() };
    assert!(cluster[2].kv().get(missing).await.unwrap().into_inner().entry.is_none());
    assert_eq!(error_code(cluster[0].kv().put(put("", "x", 0)).await), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn http_gateway_puts_gets_and_reports_the_status_on_every_node() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    for node in cluster.nodes() {
        let port = node.ports.gateway;
        let body = format!(r#"{{"key":"k","value":"from {}"}}"#, node.name);
        assert_eq!(http(port, "POST", "/put", &body).await.unwrap().0, 200);
        for reader in cluster.nodes() {
            let answer = http(reader.ports.gateway, "GET", "/get?key=k&consistency=linearizable", "").await;
            let (code, found) = answer.unwrap();
            assert_eq!(code, 200);
            assert!(found.contains(&format!("from {}", node.name)), "{found}");
        }
        let (code, status) = http(port, "GET", "/status", "").await.unwrap();
        assert_eq!(code, 200);
        assert!(status.contains(&format!(r#""leader":"{}""#, cluster[leader].name)), "{status}");
        assert_eq!(http(port, "GET", "/health", "").await.unwrap().0, 200);
        assert_eq!(http(port, "GET", "/get?key=missing", "").await.unwrap().0, 404);
        assert_eq!(http(port, "POST", "/put", "{").await.unwrap().0, 400);
    }
}

#[tokio::test]
async fn health_follows_the_role_and_liveness_needs_no_quorum() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let probe = async |index: usize, path: &str| {
        http(cluster[index].ports.metrics, "GET", path, "").await.map(|answer| answer.0)
    };
    let follower = (leader + 1) % 3;
    assert_eq!(probe(leader, "/primary").await, Some(200));
    assert_eq!(probe(leader, "/replica").await, Some(503));
    assert_eq!(probe(follower, "/primary").await, Some(503));
    assert_eq!(probe(follower, "/replica").await, Some(200));
    assert_eq!(probe(follower, "/readyz").await, Some(200));

    cluster[leader].kill();
    cluster[(leader + 2) % 3].kill();
    let port = cluster[follower].ports.metrics;
    eventually("a node without a quorum is not ready", async || {
        http(port, "GET", "/readyz", "").await.filter(|(code, _)| *code == 503)
    })
    .await;
    assert_eq!(http(port, "GET", "/livez", "").await.unwrap().0, 200);
    tokio::time::timeout(Duration::from_secs(5), http(port, "GET", "/metrics", "")).await.unwrap().unwrap();
}
