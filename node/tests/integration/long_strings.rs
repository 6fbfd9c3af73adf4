//! Long strings, which are stored in chunks: on members with different engines, over restarts, in watches.

use std::fs;

use helios_proto::v1::{Event, WatchRequest, WatchResponse};
use tonic::Streaming;

use crate::common::{Cluster, Node, PATIENCE};

/// Format of the disk marker that builds from before log format 8 refuse.
const MARKER_WITH_CHUNKS: u64 = 3;

fn marker_format(node: &Node) -> u64 {
    let text = fs::read(node.data_dir().join("node.json")).unwrap();
    let marker: serde_json::Value = serde_json::from_slice(&text).unwrap();
    marker["format"].as_u64().unwrap()
}

async fn run<T: redis::FromRedisValue>(node: &Node, words: &[&[u8]]) -> T {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query_async(&mut node.redis().await).await.unwrap()
}

#[tokio::test]
async fn long_strings_are_alike_on_members_with_different_engines_and_after_restarts() {
    let mut cluster = Cluster::fixed(3);
    for (index, engine) in ["runs", "sled", "redb"].iter().enumerate() {
        cluster[index].config_mut().push_str(&format!("state: {{engine: {engine}}}\n"));
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let mut expected: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let first = &cluster[0];
    let () = run(first, &[b"SET", b"long", &expected]).await;
    expected.extend(b"tail");
    assert_eq!(run::<usize>(first, &[b"APPEND", b"long", b"tail"]).await, expected.len());
    expected.resize(2_000_000, 0);
    expected.extend(b"far");
    assert_eq!(run::<usize>(first, &[b"SETRANGE", b"long", b"2000000", b"far"]).await, expected.len());
    assert_eq!(run::<u8>(first, &[b"SETBIT", b"long", b"12000000", b"1"]).await, 0);
    expected[1_500_000] = 0x80;
    assert_eq!(run::<u8>(first, &[b"COPY", b"long", b"copy"]).await, 1);
    let () = run(first, &[b"RENAME", b"long", b"renamed"]).await;
    assert_eq!(run::<usize>(first, &[b"SETRANGE", b"copy", b"0", b"head"]).await, expected.len());
    let part = [b"head", &expected[4..10]].concat();

    for round in 0..2 {
        for node in cluster.nodes() {
            assert!(run::<Vec<u8>>(node, &[b"GET", b"renamed"]).await == expected, "round {round}");
            assert_eq!(run::<Vec<u8>>(node, &[b"GETRANGE", b"copy", b"0", b"9"]).await, part);
            assert_eq!(marker_format(node), MARKER_WITH_CHUNKS);
        }
        cluster.agreed_data().await;
        for index in 0..3 {
            cluster[index].kill();
        }
        cluster.start_all();
        cluster.wait_ready().await;
    }
}

async fn watch(node: &Node, start_revision: u64) -> Streaming<WatchResponse> {
    let request = WatchRequest { key: "k".into(), start_revision, ..WatchRequest::default() };
    node.kv().watch(request).await.unwrap().into_inner()
}

/// Returns the next `count` events.
async fn events(stream: &mut Streaming<WatchResponse>, count: usize) -> Vec<Event> {
    let mut found = Vec::new();
    while found.len() < count {
        let response = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        found.extend(response.events);
    }
    found
}

#[tokio::test]
async fn watch_has_the_whole_string_after_a_change_of_a_part_or_says_that_it_is_left_out() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    let node = &cluster[0];
    let mut stream = watch(node, 0).await;
    // The first response has no event: the watch has begun.
    assert!(tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().is_some());
    let () = run(node, &[b"SET", b"k", &[b'x'; 40_000]]).await;
    let event = events(&mut stream, 1).await.remove(0);
    assert_eq!((event.entry.unwrap().value.len(), event.value_omitted), (40_000, false));
    let length: usize = run(node, &[b"APPEND", b"k", b"tail"]).await;
    let event = events(&mut stream, 1).await.remove(0);
    let entry = event.entry.unwrap();
    assert_eq!((entry.value.len(), event.value_omitted), (length, false));
    assert!(entry.value.ends_with(b"tail"));

    // Both changes are made before the watch begins.
    for piece in [b"one", b"two"] {
        assert_eq!(run::<usize>(node, &[b"SETRANGE", b"k", b"0", piece]).await, length);
    }
    let [one, two] = &events(&mut watch(node, entry.revision + 1).await, 2).await[..] else { panic!("two") };
    assert!(one.value_omitted && one.entry.as_ref().unwrap().value.is_empty());
    assert!(!two.value_omitted && two.entry.as_ref().unwrap().value.starts_with(b"two"));
}
