//! Watches of keys over gRPC, and the standard services on the same port.

use helios_proto::v1::event::Kind;
use helios_proto::v1::{
    DeleteRequest, DeleteWrite, ErrorCode, Event, GetRequest, Guard, PutRequest, PutWrite, RangeRequest,
    StatusRequest, TransactionRequest, WatchRequest, WatchResponse, Write,
    cluster_info_client::ClusterInfoClient, write,
};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::common::{Cluster, Node, PATIENCE, error_code, eventually};

async fn put(node: &Node, key: &str, value: &str) -> u64 {
    let request =
        PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    node.kv().put(request).await.unwrap().into_inner().revision
}

async fn watch(node: &Node, key: &str, prefix: bool, start_revision: u64) -> Streaming<WatchResponse> {
    let request = WatchRequest { key: key.to_owned().into(), prefix, start_revision };
    node.kv().watch(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap()
}

/// Returns the next `count` events, as kind, key, value and revision.
async fn events(stream: &mut Streaming<WatchResponse>, count: usize) -> Vec<(Kind, String, String, u64)> {
    let mut found = Vec::new();
    while found.len() < count {
        let response = next(stream).await;
        assert!(response.end.is_none(), "{response:?}");
        found.extend(response.events.into_iter().map(|event: Event| {
            let kind = event.kind();
            let entry = event.entry.unwrap_or_default();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (kind, text(&entry.key), text(&entry.value), entry.revision)
        }));
    }
    found
}

#[tokio::test]
async fn watch_delivers_every_change_in_order_on_every_node_and_resumes_on_another() {
    let mut cluster = Cluster::of_three().await;
    let before = put(&cluster[0], "a/1", "before").await;
    let mut streams = Vec::new();
    for node in cluster.nodes() {
        eventually("the node has applied the first write", async || {
            (node.status().await.applied_index >= before).then_some(())
        })
        .await;
        let mut all = watch(node, "a/", true, 0).await;
        let one = watch(node, "a/2", false, 0).await;
        let first = next(&mut all).await;
        assert!(first.events.is_empty() && first.revision >= before, "{first:?}");
        streams.push((all, one));
    }
    let first = put(&cluster[0], "a/1", "new").await;
    put(&cluster[1], "b", "not watched").await;
    let second = put(&cluster[1], "a/2", "two").await;
    let delete = DeleteRequest { keys: vec!["a/1".into(), "a/nothing".into()], ..DeleteRequest::default() };
    let third = cluster[2].kv().delete(delete).await.unwrap().into_inner().revision;
    let all_of = vec![
        (Kind::Put, "a/1".to_owned(), "new".to_owned(), first),
        (Kind::Put, "a/2".to_owned(), "two".to_owned(), second),
        (Kind::Delete, "a/1".to_owned(), String::new(), third),
    ];
    for (all, one) in &mut streams {
        assert_eq!(events(all, 3).await, all_of);
        assert_eq!(events(one, 1).await, all_of[1..2]);
    }
    // A watch resumes from any retained revision, on another member, too; a range returns the revision to
    // resume after.
    assert_eq!(events(&mut watch(&cluster[2], "a/", true, second).await, 2).await, all_of[1..]);
    let range = cluster[1].kv().range(RangeRequest::default()).await.unwrap().into_inner();
    assert!(range.revision >= third);
    let mut resumed = watch(&cluster[1], "", true, range.revision + 1).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut cluster[0].redis().await).await.unwrap();
    assert_eq!(events(&mut resumed, 1).await[0].0, Kind::DeleteAll);
    // A node that stops ends its watches; after a restart it has no earlier events.
    cluster[1].terminate().await;
    assert!(matches!(tokio::time::timeout(PATIENCE, resumed.message()).await.unwrap(), Ok(None) | Err(_)));
}

#[tokio::test]
async fn watch_from_a_dropped_revision_ends_with_the_oldest_available_one() {
    let cluster = Cluster::of_three().await;
    let node = &cluster[0];
    let first = put(node, "k", "first").await;
    let mut slow = watch(node, "k", false, first).await;
    assert_eq!(events(&mut slow, 1).await[0].3, first);
    // More events than a node retains, while this client reads nothing.
    let value = "x".repeat(900_000);
    for _ in 0..40 {
        put(node, "k", &value).await;
    }
    let mut late = watch(node, "k", false, first).await;
    let end = next(&mut late).await.end.unwrap();
    assert!(end.oldest_revision > first && end.reason.contains("read the keys"), "{end:?}");
    assert!(tokio::time::timeout(PATIENCE, late.message()).await.unwrap().unwrap().is_none());
    let last = loop {
        match tokio::time::timeout(PATIENCE, slow.message()).await.unwrap().unwrap() {
            Some(WatchResponse { end: Some(end), .. }) => break end,
            Some(_) => {}
            None => panic!("the stream ended without a reason"),
        }
    };
    assert!(last.oldest_revision > first);
    let nothing = WatchRequest::default();
    assert_eq!(error_code(node.kv().watch(nothing).await.map(drop)), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn one_of_concurrent_transactions_with_the_same_guard_succeeds() {
    let cluster = Cluster::of_three().await;
    let swap = |key: &str, revision: u64, value: String| TransactionRequest {
        guards: vec![Guard { key: key.to_owned().into(), revision }],
        writes: vec![put_of(key, &value), put_of("last", &value), delete_of("first")],
        ..TransactionRequest::default()
    };
    let mut revision = 0;
    put(&cluster[0], "first", "here").await;
    for round in 0..5 {
        // All members execute a transaction concurrently, guarded by the same revision: one succeeds.
        let attempts = cluster.nodes().iter().map(async |node| {
            let request = swap("lock", revision, format!("{} {round}", node.name));
            node.kv().transaction(request).await.unwrap().into_inner()
        });
        let answers = futures::future::join_all(attempts).await;
        let winners: Vec<_> = answers.iter().filter(|answer| answer.succeeded).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        assert_eq!(winners[0].deleted, u64::from(round == 0));
        revision = winners[0].revision;
        // All keys of the transaction have its revision, on any member.
        for key in ["lock", "last"] {
            let request = GetRequest { key: key.into(), ..GetRequest::default() };
            let entry = cluster[round % 3].kv().get(request).await.unwrap().into_inner().entry.unwrap();
            assert_eq!(entry.revision, revision, "{key}");
        }
    }
    let absent = cluster[1].kv().transaction(swap("lock", 0, "late".into())).await.unwrap().into_inner();
    assert!(!absent.succeeded && absent.token.is_some(), "the key is there");
    let many = TransactionRequest { writes: vec![delete_of("x"); 2_000], ..TransactionRequest::default() };
    assert_eq!(error_code(cluster[0].kv().transaction(many).await), ErrorCode::TooLarge);
}

fn put_of(key: &str, value: &str) -> Write {
    let put = PutWrite { key: key.to_owned().into(), value: value.to_owned().into(), ttl_ms: 0 };
    Write { kind: Some(write::Kind::Put(put)) }
}

fn delete_of(key: &str) -> Write {
    Write { kind: Some(write::Kind::Delete(DeleteWrite { key: key.to_owned().into() })) }
}

#[tokio::test]
async fn health_status_and_reflection_are_served_on_the_grpc_port() {
    let mut cluster = Cluster::of_three().await;
    let channel = |node: &Node| -> Channel {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", node.ports.grpc)).unwrap().connect_lazy()
    };
    let mut health = HealthClient::new(channel(&cluster[0])).watch(ask("")).await.unwrap().into_inner();
    let status = health.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::Serving);
    let unknown = HealthClient::new(channel(&cluster[0])).check(ask("nothing")).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    let info = ClusterInfoClient::new(channel(&cluster[0])).status(StatusRequest {}).await.unwrap();
    assert_eq!(info.into_inner().name, "node-1");

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel(&cluster[0]))
        .server_reflection_info(tokio_stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(found)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: Vec<_> = found.service.into_iter().map(|service| service.name).collect();
    for name in ["helios.v1.Kv", "helios.v1.ClusterInfo", "helios.v1.Archive", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }

    cluster[1].kill();
    cluster[2].kill();
    let alone = tokio::time::timeout(PATIENCE, health.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(alone.status(), ServingStatus::NotServing);
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}
