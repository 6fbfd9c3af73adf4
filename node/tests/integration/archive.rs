//! Backups of a member: bases, the log that follows them, and the hold of that log.

use std::collections::BTreeSet;

use helios_proto::v1::{
    ArchivedEntry, BaseChunk, BaseHeader, BaseRequest, ErrorCode, HoldRequest, LogChunk, LogRequest, Role,
    SnapshotRequest, base_chunk,
};
use prost::Message as _;
use redis::aio::MultiplexedConnection;
use tonic::Streaming;

use crate::common::{Cluster, Node, Operator, PATIENCE, error_code, eventually, http};

/// The fields of a Raft entry that these tests read (`eraftpb.Entry`).
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// Bytes without a pattern, so that no engine compresses them.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Writes the keys `key:000000`, ... with `bytes` each, one entry for each key.
async fn write(client: &mut MultiplexedConnection, numbers: std::ops::Range<usize>, bytes: usize) {
    for first in numbers.clone().step_by(200) {
        let mut pipeline = redis::pipe();
        for number in first..numbers.end.min(first + 200) {
            let set = pipeline.cmd("SET").arg(format!("key:{number:06}")).arg(noise(number as u64, bytes));
            if number % 10 == 0 {
                set.arg("EX").arg(5_000);
            }
            set.ignore();
        }
        let () = pipeline.query_async(client).await.unwrap();
    }
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, tonic::Status> {
    tokio::time::timeout(PATIENCE, stream.message()).await.expect("the stream stands still")
}

/// Begins a base; returns its header and the rest.
async fn begin(node: &Node, request: BaseRequest) -> (BaseHeader, Streaming<BaseChunk>) {
    let mut stream = node.archive().base(request).await.unwrap().into_inner();
    match next(&mut stream).await.unwrap().unwrap().kind {
        Some(base_chunk::Kind::Header(header)) => (header, stream),
        other => panic!("{other:?} in place of the header"),
    }
}

/// Receives at least `least` bytes of a base, or all of it.
async fn receive(stream: &mut Streaming<BaseChunk>, least: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < least
        && let Some(chunk) = next(stream).await.unwrap()
    {
        let Some(base_chunk::Kind::Data(data)) = chunk.kind else { panic!("a second header") };
        assert_eq!(chunk.crc32c, Some(crc32c::crc32c(&data)));
        received.extend_from_slice(&data);
    }
    received
}

/// Takes a base with its digest.
async fn base(node: &Node) -> (BaseHeader, Vec<u8>) {
    let (header, mut stream) = begin(node, BaseRequest { with_digest: true, ..BaseRequest::default() }).await;
    let received = receive(&mut stream, usize::MAX).await;
    assert_eq!((header.offset, header.size_bytes), (0, received.len() as u64));
    (header, received)
}

async fn log_request(node: &Node, from_index: u64) -> LogRequest {
    let status = node.status().await;
    LogRequest { from_index, cluster_id: status.cluster_id, incarnation: status.incarnation }
}

async fn log(node: &Node, from_index: u64) -> Streaming<LogChunk> {
    let request = log_request(node, from_index).await;
    node.archive().log(request).await.unwrap().into_inner()
}

/// Receives the entries up to `last`; they have to continue from `from`.
async fn entries(stream: &mut Streaming<LogChunk>, from: u64, last: u64) -> Vec<ArchivedEntry> {
    let mut found: Vec<ArchivedEntry> = Vec::new();
    while from + (found.len() as u64) <= last {
        let chunk = next(stream).await.unwrap().expect("the log ended");
        let bytes: usize = chunk.entries.iter().map(|entry| entry.payload.len()).sum();
        assert!(bytes <= 1 << 20 || chunk.entries.len() == 1, "{bytes} bytes in a chunk");
        found.extend(chunk.entries);
        let sent = from + found.len() as u64 - 1;
        assert!(chunk.applied_index >= sent && chunk.wall_ms > 0, "{sent} of {}", chunk.applied_index);
    }
    assert!((from..).zip(&found).all(|(index, entry)| entry.index == index));
    found
}

/// Numbers of the keys that the entries write.
fn keys(entries: &[ArchivedEntry]) -> Vec<usize> {
    let key_of = |entry: &ArchivedEntry| {
        let Entry { term, index, data } = Entry::decode(entry.payload.as_ref()).unwrap();
        assert_eq!((index, term), (entry.index, entry.term));
        let at = data.windows(4).position(|bytes| bytes == b"key:")? + 4;
        std::str::from_utf8(&data[at..at + 6]).ok()?.parse().ok()
    };
    entries.iter().filter_map(key_of).collect()
}

/// Asks a member to keep its log; returns its first index.
async fn hold(node: &Node, from_index: u64) -> u64 {
    let status = node.status().await;
    let request = HoldRequest {
        holder: "archiver".into(),
        from_index,
        cluster_id: status.cluster_id,
        incarnation: status.incarnation,
        report: None,
    };
    node.archive().hold(request).await.unwrap().into_inner().first_index
}

async fn single(config: &str) -> Cluster {
    let mut cluster = Cluster::single(config);
    cluster.start_all();
    cluster.wait_ready().await;
    cluster
}

#[tokio::test]
async fn base_has_the_same_digest_on_all_members_and_engines_at_one_index() {
    let mut cluster = Cluster::fixed(3);
    cluster[2].config_mut().push_str("state: {engine: sled}\n");
    cluster.start_all();
    cluster.wait_ready().await;
    write(&mut cluster[0].redis().await, 0..1_500, 100).await;
    let found = eventually("all members send a base at one index", async || {
        let mut found = Vec::new();
        for node in cluster.nodes() {
            found.push(base(node).await.0);
        }
        found.iter().all(|header| header.index == found[0].index).then_some(found)
    })
    .await;
    assert_eq!(found[0].state_digest.len(), 16, "{found:?}");
    assert_eq!(found[0].keys, 1_500);
    let facts = |header: &BaseHeader| {
        let BaseHeader { cluster_id, term, now_ms, keys, state_digest, .. } = header.clone();
        (cluster_id, term, now_ms, keys, state_digest)
    };
    assert!(found.iter().all(|header| facts(header) == facts(&found[0])), "{found:?}");
    let disks: BTreeSet<_> = found.iter().map(|header| header.disk_id.as_str()).collect();
    let names: BTreeSet<_> = found.iter().map(|header| header.member.as_str()).collect();
    assert_eq!((disks.len(), names), (3, BTreeSet::from(["node-1", "node-2", "node-3"])));
    let versions: BTreeSet<_> = found.iter().map(|header| header.version).collect();
    assert_eq!(versions.len(), 2, "sets and files");
}

/// Receives a base with its digest at the end, from the byte on that its header names; returns the digest.
async fn digest_at_end(node: &Node, resume: Option<BaseHeader>) -> (BaseHeader, String) {
    let request = BaseRequest { resume, with_digest: true, digest_at_end: true, ..BaseRequest::default() };
    let (header, mut stream) = begin(node, request).await;
    let mut missing = header.size_bytes - header.offset;
    loop {
        match next(&mut stream).await.unwrap().expect("the base has no end").kind {
            Some(base_chunk::Kind::Data(data)) => missing -= data.len() as u64,
            Some(base_chunk::Kind::End(end)) => {
                assert_eq!(missing, 0, "the end comes last");
                assert_eq!(next(&mut stream).await.unwrap(), None);
                return (header, end.state_digest);
            }
            other => panic!("{other:?} in place of data"),
        }
    }
}

#[tokio::test]
async fn digest_at_the_end_of_a_base_is_that_of_a_header_also_if_it_is_resumed() {
    for engine in ["runs", "sled"] {
        let cluster = single(&format!("state: {{engine: {engine}}}\n")).await;
        write(&mut cluster[0].redis().await, 0..1_500, 100).await;
        let (expected, _) = base(&cluster[0]).await;
        let (header, digest) = digest_at_end(&cluster[0], None).await;
        assert_eq!((header.index, &header.state_digest[..]), (expected.index, ""), "{engine}");
        assert_eq!(digest, expected.state_digest, "{engine}");
        for offset in [header.size_bytes / 2, header.size_bytes] {
            let resume = Some(BaseHeader { offset, ..header.clone() });
            let (resumed, digest) = digest_at_end(&cluster[0], resume).await;
            assert_eq!((resumed.index, resumed.offset), (expected.index, offset), "{engine}");
            assert_eq!(digest, expected.state_digest, "{engine}");
        }
    }
}

#[tokio::test]
async fn base_of_a_follower_is_taken_while_writes_continue_and_the_log_follows_it() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let follower = &cluster[(leader + 1) % 3];
    let mut client = cluster[leader].redis().await;
    write(&mut client, 0..1_000, 200).await;
    let writing = tokio::spawn(async move { write(&mut client, 1_000..4_000, 200).await });
    let (header, _) = base(follower).await;
    writing.await.unwrap();
    assert!(follower.has_role(Role::Follower).await);
    assert!((900..4_000).contains(&header.keys), "{header:?}");
    let last = cluster[leader].status().await.commit_index;
    let mut stream = log(follower, header.index + 1).await;
    let found = entries(&mut stream, header.index + 1, last).await;
    let missing: Vec<usize> = (header.keys as usize..4_000).collect();
    assert_eq!(keys(&found), missing, "base and log have each key once");
    assert_eq!(follower.metric("helios_archive_streams").await, Some(1));
    assert_eq!(follower.metric("helios_archive_sent_as_leader_bytes_total").await, Some(0));
}

#[tokio::test]
async fn interrupted_base_is_resumed_at_its_offset() {
    let cluster = single("state: {engine: sled}\n").await;
    let node = &cluster[0];
    let mut client = node.redis().await;
    write(&mut client, 0..1_000, 2_000).await;
    let slow = BaseRequest { max_bytes_per_second: 1 << 20, ..BaseRequest::default() };
    let (header, mut stream) = begin(node, slow).await;
    let mut received = receive(&mut stream, 256 << 10).await;
    assert!((received.len() as u64) < header.size_bytes / 2, "the rate is not limited");
    drop(stream);
    // Later snapshots do not take its place.
    for round in 0..3 {
        write(&mut client, round * 10..(round + 1) * 10, 10).await;
        node.cluster().snapshot(SnapshotRequest {}).await.unwrap();
    }

    let resume = Some(BaseHeader { offset: received.len() as u64, ..header.clone() });
    let (again, mut stream) = begin(node, BaseRequest { resume, ..BaseRequest::default() }).await;
    assert_eq!(again, BaseHeader { offset: received.len() as u64, ..header.clone() });
    received.extend(receive(&mut stream, usize::MAX).await);
    assert_eq!(received.len() as u64, header.size_bytes);
    let (content, checksum) = received.split_at(received.len() - 4);
    assert_eq!(crc32c::crc32c(content), header.crc32c);
    assert_eq!(checksum, header.crc32c.to_be_bytes());

    let resume = Some(BaseHeader { offset: 100, disk_id: "another".into(), ..header.clone() });
    let (other, _) = begin(node, BaseRequest { resume, ..BaseRequest::default() }).await;
    assert!(other.index > header.index && other.offset == 0, "{other:?}");
}

#[tokio::test]
async fn log_is_sent_across_segments_and_followed_as_entries_are_applied() {
    let cluster = single("").await;
    let node = &cluster[0];
    let mut client = node.redis().await;
    // Three segments, and an entry that is larger than a chunk.
    write(&mut client, 0..3_000, 4_000).await;
    let () =
        redis::cmd("SET").arg("key:003000").arg(noise(7, 900 << 10)).query_async(&mut client).await.unwrap();
    let () = redis::cmd("SET").arg("key:003001").arg("small").query_async(&mut client).await.unwrap();
    let status = node.status().await;
    let mut stream = log(node, status.first_index).await;
    let found = entries(&mut stream, status.first_index, status.commit_index).await;
    assert_eq!(keys(&found), (0..3_002).collect::<Vec<_>>());
    let clocks: Vec<u64> = found
        .iter()
        .filter(|entry| !keys(&[(*entry).clone()]).is_empty())
        .map(|entry| entry.now_ms)
        .collect();
    assert!(clocks.iter().all(|now_ms| *now_ms > 0) && clocks.is_sorted());

    let idle = eventually("an idle log reports its position", async || {
        let chunk = next(&mut stream).await.unwrap().unwrap();
        chunk.entries.is_empty().then_some(chunk)
    })
    .await;
    assert!(idle.applied_index >= status.commit_index && idle.wall_ms > 0);
    write(&mut client, 4_000..4_003, 10).await;
    let last = node.status().await.commit_index;
    let from = idle.applied_index + 1;
    assert_eq!(keys(&entries(&mut stream, from, last).await), [4_000, 4_001, 4_002]);

    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(log(node, last).await);
    }
    let request = log_request(node, last).await;
    assert_eq!(error_code(node.archive().log(request.clone()).await.map(drop)), ErrorCode::Overloaded);
    drop(others);
    eventually("a log stream is accepted after another one was closed", async || {
        node.archive().log(request.clone()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn entries_that_are_applied_one_after_the_other_are_sent_in_few_chunks() {
    const KEYS: usize = 3_000;
    let cluster = single("").await;
    let node = &cluster[0];
    let mut client = node.redis().await;
    let from = node.status().await.commit_index + 1;
    let mut stream = log(node, from).await;
    let started = std::time::Instant::now();
    let writing = tokio::spawn(async move {
        for number in 0..KEYS {
            let key = format!("key:{number:06}");
            let () = redis::cmd("SET").arg(key).arg("v").query_async(&mut client).await.unwrap();
        }
    });
    let (mut found, mut chunks) = (Vec::new(), 0);
    while keys(&found).len() < KEYS {
        let chunk = next(&mut stream).await.unwrap().unwrap();
        chunks += u128::from(!chunk.entries.is_empty());
        found.extend(chunk.entries);
    }
    writing.await.unwrap();
    assert_eq!(keys(&found), (0..KEYS).collect::<Vec<_>>());
    // The member collects entries for 50 ms at least, however slow this machine is.
    assert!(chunks <= 2 + started.elapsed().as_millis() / 50, "{chunks} chunks in {:?}", started.elapsed());
    let sent = node.metric("helios_archive_sent_bytes_total").await;
    assert_eq!(node.metric("helios_archive_sent_as_leader_bytes_total").await, sent, "it is the leader");
}

#[tokio::test]
async fn hold_keeps_the_log_until_its_limit_and_a_purged_entry_is_refused() {
    let raft = "trailing_entries: 50, max_retained_log_bytes: 0";
    let mut cluster = Cluster::single_with(raft, "archive: {hold: 3145728}\n");
    cluster.start_all();
    cluster.wait_ready().await;
    let node = &cluster[0];
    let mut client = node.redis().await;
    write(&mut client, 0..500, 100).await;
    let from = node.status().await.commit_index + 1;
    assert!(hold(node, from).await <= from);
    let mut unread = log(node, from).await;
    fill_hold(node, &mut client, from).await;
    let held = node.metric("helios_archive_hold_bytes").await.unwrap();
    assert!((1_500_000..3_145_728).contains(&held), "{held} bytes");
    let mut stream = log(node, from).await;
    assert_eq!(keys(&entries(&mut stream, from, from + 1_000).await)[..3], [500, 501, 502]);
    let early = log_request(node, from - 1).await;
    let refused = node.archive().log(early).await.unwrap_err();
    assert!(refused.message().contains(&format!("begins at entry {from}")), "{refused}");
    assert_eq!(error_code::<()>(Err(refused)), ErrorCode::LogPurged);

    for number in 4..10 {
        write_and_purge(node, &mut client, number * 500).await;
    }
    let first = eventually("the log is purged although it was held", async || {
        Some(node.status().await.first_index).filter(|first| *first > from)
    })
    .await;
    assert_eq!(node.metric("helios_archive_hold_dropped_total").await, Some(1));
    assert_eq!(node.metric("helios_archive_hold_bytes").await, Some(0));
    assert_eq!(node.log().matches("no longer kept for this archiver").count(), 1);
    assert!(hold(node, from).await >= first, "the archiver learns that the entries are gone");
    let request = log_request(node, from).await;
    assert_eq!(error_code(node.archive().log(request).await.map(drop)), ErrorCode::LogPurged);
    // A reader that stood still holds neither memory nor log of the member.
    let mut received = 0;
    let ended = loop {
        match next(&mut unread).await {
            Ok(chunk) => received += chunk.unwrap().entries.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(error_code::<()>(Err(ended)), ErrorCode::LogPurged);
    assert!(received < 4_000, "{received} entries were read ahead");
}

/// Changes `archive.hold` in the file of a running node, and reloads it.
/// Writes 500 keys and takes a snapshot, which purges the log before it; returns the first entry of the log.
async fn write_and_purge(node: &Node, client: &mut MultiplexedConnection, first: usize) -> u64 {
    write(client, first..first + 500, 1_000).await;
    node.cluster().snapshot(SnapshotRequest {}).await.unwrap();
    node.status().await.first_index
}

/// Writes keys 500 to 1999, of which a hold keeps the log from `from` on.
async fn fill_hold(node: &Node, client: &mut MultiplexedConnection, from: u64) {
    for number in 1..4 {
        write_and_purge(node, client, number * 500).await;
    }
    eventually("the log before the hold is purged", async || {
        (node.status().await.first_index == from).then_some(())
    })
    .await;
}

async fn reload_hold(node: &Node, bytes: u64) {
    let file = node.directory().join("node.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, after) = text.split_once("hold: ").unwrap();
    let (_, after) = after.split_once('}').unwrap();
    // Replaced atomically, because the node watches the file.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{before}hold: {bytes}}}{after}")).unwrap();
    std::fs::rename(new, &file).unwrap();
    let (code, answer) = http(node.ports.gateway, "POST", "/config/reload", "").await.unwrap();
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn reloaded_limit_of_the_hold_counts_from_the_next_request_on() {
    const SMALL: u64 = 524_288;
    let raft = "trailing_entries: 50, max_retained_log_bytes: 0";
    let mut cluster = Cluster::single_with(raft, &format!("archive: {{hold: {SMALL}}}\n"));
    cluster.start_all();
    cluster.wait_ready().await;
    let node = &cluster[0];
    let mut client = node.redis().await;
    write(&mut client, 0..200, 100).await;
    let from = node.status().await.commit_index + 1;
    reload_hold(node, 16 << 20).await;
    assert!(hold(node, from).await <= from);
    fill_hold(node, &mut client, from).await;
    assert!(node.metric("helios_archive_hold_bytes").await > Some(2 * SMALL));

    reload_hold(node, SMALL).await;
    assert_eq!(write_and_purge(node, &mut client, 2_000).await, from);
    assert_eq!(node.metric("helios_archive_hold_dropped_total").await, Some(0));
    hold(node, from).await;
    write_and_purge(node, &mut client, 2_500).await;
    eventually("the log is purged although it was held", async || {
        (node.status().await.first_index > from).then_some(())
    })
    .await;
    assert_eq!(node.metric("helios_archive_hold_dropped_total").await, Some(1));
}

#[tokio::test]
async fn learner_sends_a_base_and_a_node_without_a_cluster_or_of_another_history_refuses() {
    let mut cluster = Cluster::blank(2);
    cluster.start_all();
    let (disk_id, blank) = (cluster[1].status().await.disk_id, cluster[1].archive());
    let refused = blank.clone().base(BaseRequest::default()).await.map(drop);
    assert_eq!(error_code(refused), ErrorCode::NotStarted);
    let refused = blank.clone().log(LogRequest { from_index: 1, ..LogRequest::default() }).await.map(drop);
    assert_eq!(error_code(refused), ErrorCode::NotStarted);

    Operator::initialize(&cluster[0]).await;
    write(&mut cluster[0].redis().await, 0..10, 10).await;
    Operator::add(&cluster[0], &cluster[1]).await;
    cluster[1].wait_ready().await;
    let (header, _) = base(&cluster[1]).await;
    assert!(cluster[1].has_role(Role::Learner).await);
    assert_eq!((header.member.as_str(), header.keys, header.disk_id), ("node-2", 10, disk_id));

    let ours = log_request(&cluster[1], header.index + 1).await;
    for other in [
        LogRequest { cluster_id: "another".into(), ..ours.clone() },
        LogRequest { incarnation: ours.incarnation + 1, ..ours.clone() },
    ] {
        let refused = cluster[1].archive().log(other).await.map(drop);
        assert_eq!(error_code(refused), ErrorCode::WrongCluster);
    }
    let unnamed = HoldRequest { cluster_id: ours.cluster_id, from_index: 5, ..HoldRequest::default() };
    assert_eq!(error_code(cluster[1].archive().hold(unnamed).await), ErrorCode::InvalidArgument);
}
