//! Slow or stopped members do not affect the others, and catch up.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use helios_proto::v1::SnapshotRequest;
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;

use crate::common::{Cluster, Load, Node, eventually, eventually_within};

const MIB: u64 = 1 << 20;
const VALUE_BYTES: usize = 16 << 10;
const PIPELINE: usize = 64;

/// Writes `bytes` bytes, cycling over `keys` keys.
async fn write(client: &mut MultiplexedConnection, keys: usize, bytes: u64) {
    let value = vec![b'x'; VALUE_BYTES];
    let count = bytes as usize / VALUE_BYTES;
    for first in (0..count).step_by(PIPELINE) {
        let mut pipeline = redis::pipe();
        for number in first..first + PIPELINE {
            pipeline.cmd("SET").arg(format!("key {}", number % keys)).arg(&value).ignore();
        }
        // On a busy machine it may exceed the client's timeout; the writes are idempotent, so they are
        // retried.
        let () = eventually("all is written", async || pipeline.query_async(client).await.ok()).await;
    }
}

#[tokio::test]
async fn stopped_follower_does_not_grow_the_leaders_memory() {
    // Fills the memory that a leader may hold at any time: 64 MiB of log, the engine's cache, the state that
    // is not checkpointed yet.
    const FIRST: u64 = 192 * MIB;
    const THEN: u64 = 384 * MIB;
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let hangs = (leader + 1) % 3;
    let mut client = cluster[leader].redis().await;
    write(&mut client, 500, 8 * MIB).await;

    cluster[hangs].signal(Signal::STOP);
    write(&mut client, 500, FIRST).await;
    let before = resident_bytes(&cluster[leader]);
    write(&mut client, 500, THEN).await;
    let grown = resident_bytes(&cluster[leader]).saturating_sub(before);
    println!("{} MiB resident, then {} MiB written, {} MiB grown", before / MIB, THEN / MIB, grown / MIB);
    assert!(grown < THEN / 2, "grown by {} MiB", grown / MIB);

    cluster[hangs].signal(Signal::CONT);
    cluster[hangs].wait_ready().await;
    cluster.agreed_data().await;
}

#[tokio::test]
async fn follower_that_lags_by_more_than_the_leaders_cache_gets_entries_from_its_disk() {
    const WRITTEN: u64 = 64 * MIB;
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let hangs = (leader + 1) % 3;
    let mut client = cluster[leader].redis().await;
    write(&mut client, 500, MIB).await;
    let received = metric(&cluster[hangs], "helios_snapshot_received_bytes_total").await;

    cluster[hangs].signal(Signal::STOP);
    write(&mut client, 500, WRITTEN).await;
    let taken = cluster[leader].cluster().snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let kept = metric(&cluster[leader], "helios_wal_size_bytes").await;
    cluster[hangs].signal(Signal::CONT);

    assert!(kept > WRITTEN, "{} MiB of log are kept after a snapshot at {}", kept / MIB, taken.index);
    eventually_within(Duration::from_secs(60), "it has applied what it missed", async || {
        cluster[hangs].try_status().await.filter(|status| status.ready)
    })
    .await;
    cluster.agreed_data().await;
    let now = metric(&cluster[hangs], "helios_snapshot_received_bytes_total").await;
    assert_eq!(now, received, "the follower got a snapshot");
}

#[tokio::test]
async fn interrupted_snapshot_is_sent_again_a_bounded_number_of_times() {
    // Two seconds for the data written below.
    const SLOW: &str = "trailing_entries: 50, max_retained_log_bytes: 0, snapshot_bytes_per_second: 8388608";
    let (mut cluster, network) = Cluster::wired_three_with(SLOW).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster[away].kill();
    let mut client = cluster[leader].redis().await;
    write(&mut client, 1_000, 32 * MIB).await;
    eventually("the log was compacted", async || {
        (cluster[leader].status().await.first_index > 1_000).then_some(())
    })
    .await;
    // Causes new snapshots and log compaction during the test.
    let load = Load::start(&[cluster[leader].ports.client]);
    network.delay(leader, away, Duration::from_millis(100));
    cluster[away].start();
    eventually("a part of a snapshot has arrived", async || {
        (incoming_bytes(&cluster[away]) > MIB).then_some(())
    })
    .await;
    network.reset(leader, away);
    eventually("the leader has noticed", async || {
        cluster[leader].log().contains("snapshot not sent").then_some(())
    })
    .await;
    network.heal();
    cluster[away].wait_ready().await;
    load.finish().await.assert_kept(&cluster.agreed_data().await);
    assert!(cluster[away].log().contains("snapshot installed"));
    let sent = cluster[leader].log().matches("snapshot sent").count();
    assert!((1..=3).contains(&sent), "{sent} snapshots were sent");
    assert_eq!(incoming_bytes(&cluster[away]), 0, "the part was left behind");
}

#[tokio::test]
async fn interrupted_snapshot_resumes_from_the_received_bytes() {
    // About eight seconds for the data written below. The election timeout is long, so that a busy machine
    // does not elect another leader, which would have the whole log.
    const SLOW: &str = "election_timeout: 3s, trailing_entries: 50, snapshot_bytes_per_second: 2097152, max_retained_log_bytes: 0";
    let (mut cluster, network) = Cluster::wired_three_with(SLOW).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster[away].kill();
    write(&mut cluster[leader].redis().await, 1_000, 16 * MIB).await;
    // The leader keeps the log for members that still seem active.
    eventually("the leader counts the member as inactive", async || {
        cluster[leader].try_status().await?.progress.iter().any(|peer| !peer.active).then_some(())
    })
    .await;
    let taken = cluster[leader].cluster().snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    eventually("the log was compacted", async || {
        (cluster[leader].status().await.first_index > taken.index / 2).then_some(())
    })
    .await;

    cluster[away].start();
    await_incoming(&cluster[away], 4 * MIB).await;
    network.reset(leader, away);
    eventually("the leader has noticed", async || {
        cluster[leader].log().contains("snapshot not sent").then_some(())
    })
    .await;
    await_incoming(&cluster[away], 8 * MIB).await;
    let first = metric(&cluster[away], "helios_snapshot_received_bytes_total").await;
    // A restart of the receiver does not restart the transfer either.
    cluster[away].kill();
    cluster[away].start();
    cluster[away].wait_ready().await;
    cluster.agreed_data().await;

    let rest = metric(&cluster[away], "helios_snapshot_received_bytes_total").await;
    let spared = metric(&cluster[away], "helios_snapshot_resumed_bytes_total").await;
    let name = format!("{:020}-{:020}.snap", taken.index, taken.term);
    let whole = bytes_of(&cluster[away].data_dir().join("snapshots").join(name));
    println!("{first} bytes before the restart, {spared} kept, {rest} after it, of {whole}");
    assert_eq!(spared + rest, whole);
    assert!(first + rest <= whole, "bytes were sent again: {first} and {rest} of {whole}");
}

async fn await_incoming(node: &Node, bytes: u64) {
    eventually("a part of a snapshot has arrived", async || (incoming_bytes(node) > bytes).then_some(()))
        .await;
}

async fn metric(node: &Node, name: &str) -> u64 {
    eventually(name, async || node.metric(name).await).await
}

fn resident_bytes(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid().load(Ordering::Relaxed))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn incoming_bytes(node: &Node) -> u64 {
    let Ok(entries) = fs::read_dir(node.data_dir().join("snapshots")) else { return 0 };
    let is_part =
        |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "incoming");
    entries.flatten().filter(is_part).map(|entry| bytes_of(&entry.path())).sum()
}

/// Returns the bytes of a snapshot: a file, or a directory of files.
fn bytes_of(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(files) => files.flatten().map(|file| bytes_of(&file.path())).sum(),
        Err(_) => fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}
