//! A full disk, on a separate volume for each node (docs/design/node.md, pitfall 22). Needs the right to
//! mount.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use redis::aio::MultiplexedConnection;
use rustix::fs::statvfs;

use crate::common::{Cluster, eventually, eventually_within, info_field};

const VOLUME_MIB: u64 = 96;
/// Size of a file of another program on the volume, which is deleted at the end.
const BALLAST_BYTES: usize = 48 << 20;
const VALUE_BYTES: usize = 8 << 10;
/// Number of values that do not fit.
const MOST_WRITES: usize = 12_000;

/// A small file system at `path`, unmounted when dropped.
struct Volume {
    path: PathBuf,
}

impl Volume {
    /// Mounts a file where loop devices are available, else a tmpfs; `None` without the right to mount.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let image = path.with_extension("img");
        fs::File::create(&image).unwrap().set_len(VOLUME_MIB << 20).unwrap();
        let size = format!("size={VOLUME_MIB}m");
        let is_mounted = run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path))
            || run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path));
        is_mounted.then(|| Self { path: path.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Grows the ballast until the volume is full.
    fn fill(&self) {
        let mut ballast = fs::OpenOptions::new().append(true).open(self.ballast()).unwrap();
        for size in [64 << 10, 4 << 10, 1 << 10] {
            while ballast.write_all(&vec![7; size]).is_ok() {}
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazy, because a node that a failed test left running holds files open.
        run(Command::new("umount").arg("-l").arg(&self.path));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn value(number: usize) -> Vec<u8> {
    // Every value is different and incompressible.
    let mut state = number as u64 | 1 << 40;
    let mut step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..VALUE_BYTES).map(|_| step()).collect()
}

async fn set(client: &mut MultiplexedConnection, number: usize) -> redis::RedisResult<()> {
    redis::cmd("SET").arg(format!("key:{number:05}")).arg(value(number)).exec_async(client).await
}

async fn get(client: &mut MultiplexedConnection, number: usize) -> Option<Vec<u8>> {
    redis::cmd("GET").arg(format!("key:{number:05}")).query_async(client).await.unwrap()
}

/// Writes until a write is refused; returns the number of acknowledged writes, and the refusal.
async fn fill(client: &mut MultiplexedConnection) -> (usize, String) {
    for number in 0..MOST_WRITES {
        if let Err(error) = set(client, number).await {
            return (number, error.to_string());
        }
    }
    panic!("{MOST_WRITES} values fit on a volume of {VOLUME_MIB} MiB");
}

/// Writes one key until it is refused; returns the refusal. A checkpoint that was on its way may have freed a segment of the
/// log, so that some writes are taken first.
async fn refused(client: &mut MultiplexedConnection) -> String {
    for _ in 0..MOST_WRITES {
        if let Err(error) = set(client, MOST_WRITES).await {
            return error.to_string();
        }
    }
    panic!("{MOST_WRITES} writes were taken by a full volume of {VOLUME_MIB} MiB")
}

/// Returns three members, each on its own small volume with its ballast; `None` without the right to mount.
async fn on_small_volumes() -> Option<(Cluster, Vec<Volume>)> {
    let mut cluster = Cluster::fixed(3);
    let mounted: Option<Vec<_>> =
        cluster.nodes().iter().map(|node| Volume::mount(&node.data_dir())).collect();
    let Some(volumes) = mounted else {
        helios_testing::skip_or_fail("mount", "mounting a small volume is not permitted here; run as root");
        return None;
    };
    for volume in &volumes {
        fs::write(volume.ballast(), vec![7; BALLAST_BYTES]).unwrap();
    }
    cluster.start_all();
    cluster.wait_ready().await;
    Some((cluster, volumes))
}

#[tokio::test]
async fn full_disk_rejects_writes_that_grow_and_accepts_them_after_space_is_freed() {
    let Some((mut cluster, volumes)) = on_small_volumes().await else { return };
    let leader = cluster.leader().await;
    let mut client = cluster[leader].redis().await;
    let (acknowledged, refusal) = fill(&mut client).await;
    assert!(acknowledged > 100, "{acknowledged} writes: {refusal}");
    assert!(refusal.contains("MISCONF") && refusal.contains("is full: enlarge its volume"), "{refusal}");
    let term = cluster[leader].status().await.term;

    // Reads, deletes and expiry continue, also through another node, and writes stay refused.
    let mut other = cluster[(leader + 1) % 3].redis().await;
    for number in 0..50 {
        assert_eq!(get(&mut client, number).await, Some(value(number)));
        let key = format!("key:{number:05}");
        let deleted: u64 = redis::cmd("DEL").arg(&key).query_async(&mut other).await.unwrap();
        assert_eq!(deleted, 1);
        assert_eq!(get(&mut other, number).await, None);
    }
    let expired: u64 = redis::cmd("PEXPIRE").arg("key:00050").arg(1).query_async(&mut client).await.unwrap();
    assert_eq!(expired, 1);
    eventually("an expired key is purged", async || get(&mut client, 50).await.is_none().then_some(())).await;
    for client in [&mut client, &mut other] {
        let refusal = refused(client).await;
        assert!(refusal.contains("MISCONF"), "{refusal}");
    }
    assert_eq!(cluster[leader].metric("helios_disk_full ").await, Some(1));
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster[leader].status().await.term, term, "an election, for no reason");

    // Killed and started again on the full disk, the node is a member as before.
    cluster[leader].kill();
    cluster[leader].start();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;

    for volume in &volumes {
        fs::remove_file(volume.ballast()).unwrap();
    }
    let mut client = cluster[leader].redis().await;
    eventually("writes are accepted again", async || set(&mut client, MOST_WRITES).await.ok()).await;
    let patience = 3 * crate::common::PATIENCE;
    eventually_within(patience, "no node is short of room", async || {
        for node in cluster.nodes() {
            node.metric("helios_disk_full ").await.filter(|full| *full == 0)?;
        }
        Some(())
    })
    .await;
    let data = cluster.agreed_data().await;
    assert_eq!(data.len(), acknowledged - 51 + 1);
    let mut numbers = (51..acknowledged).chain([MOST_WRITES]);
    assert!(data.iter().all(|entry| numbers.next().is_some_and(|number| entry.value == value(number))));
    let info: String = redis::cmd("INFO").query_async(&mut client).await.unwrap();
    assert_eq!(info_field(&info, "role"), "master");
    drop(cluster);
}

#[tokio::test]
async fn leader_with_the_only_full_disk_transfers_leadership_and_writes_continue() {
    let Some((cluster, volumes)) = on_small_volumes().await else { return };
    let leader = cluster.leader().await;
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        fs::remove_file(volumes[other].ballast()).unwrap();
    }
    let (acknowledged, refusal) = fill(&mut cluster[leader].redis().await).await;
    assert!(refusal.contains("MISCONF"), "{refusal}");
    // A snapshot may free space for the leader, so the volume is filled again each time.
    eventually("another member is the leader", async || {
        volumes[leader].fill();
        (cluster.leader().await != leader).then_some(())
    })
    .await;
    let mut client = cluster[(leader + 1) % 3].redis().await;
    eventually("writes are accepted", async || set(&mut client, acknowledged).await.ok()).await;
    let transfers = cluster[leader].metric("helios_raft_disk_transfers_total ").await;
    assert_eq!(transfers, Some(1));
    fs::remove_file(volumes[leader].ballast()).unwrap();
    assert_eq!(cluster.agreed_data().await.len(), acknowledged + 1);
}

/// Limits of the test below, and the memory of a process besides them, in MiB.
const MAX_LOG_MIB: u64 = 32;
const MAX_OVERLAY_MIB: u64 = 64;
const BESIDE_MIB: u64 = 250;

/// Writes many values in one pipeline; returns the first refusal.
async fn write_many(client: &mut MultiplexedConnection, first: usize, count: usize) -> Option<String> {
    let mut pipeline = redis::pipe();
    for number in first..first + count {
        pipeline.set(format!("key:{number:05}"), value(number)).ignore();
    }
    pipeline.exec_async(client).await.err().map(|error| error.to_string())
}

#[tokio::test]
async fn member_without_space_for_snapshots_stays_within_its_memory_limits_and_restarts() {
    let mut cluster = Cluster::fixed_with(1, &format!("max_log_bytes: {}", MAX_LOG_MIB << 20));
    let Some(volume) = Volume::mount(&cluster[0].data_dir()) else {
        return helios_testing::skip_or_fail(
            "mount",
            "mounting a small volume is not permitted here; run as root",
        );
    };
    // The log is on a disk with free space; checkpoints and snapshots have none.
    let wal_dir = cluster[0].directory().join("wal");
    let config = cluster[0].config_mut();
    *config = config.replace("data_dir:", &format!("wal_dir: '{}', data_dir:", wal_dir.display()));
    config.push_str(&format!("state: {{max_overlay_bytes: {}}}\n", MAX_OVERLAY_MIB << 20));
    cluster.start_all();
    cluster.wait_ready().await;
    fs::write(volume.ballast(), vec![7; BALLAST_BYTES]).unwrap();
    let mut ballast = fs::OpenOptions::new().append(true).open(volume.ballast()).unwrap();
    let free = || statvfs(&volume.path).unwrap().f_bavail * statvfs(&volume.path).unwrap().f_frsize;
    while free() > 6 << 20 {
        ballast.write_all(&vec![7; 1 << 20]).unwrap();
    }
    // The file is closed, because an open file keeps its space after it is removed.
    drop(ballast);
    let mut client = cluster[0].redis().await;
    let (mut refusal, mut last) = (None, 0);
    // Ten times as much as may be held; refused writes are not retried.
    for first in (0..MOST_WRITES * 4).step_by(200) {
        refusal = write_many(&mut client, first, 200).await.or(refusal);
        last = first;
    }
    let refusal = refusal.expect("nothing was refused");
    assert!(refusal.contains("state.max_overlay_bytes") && refusal.contains("67108864"), "{refusal}");
    let log_bytes = cluster[0].metric("helios_wal_size_bytes ").await.unwrap();
    let resident_mib = resident_mib(&cluster[0]);
    println!("{last} values tried: log {} MiB, resident {resident_mib} MiB", log_bytes >> 20);
    // The log is on disk, and limited by what the overlay takes.
    assert!((MAX_OVERLAY_MIB / 2..=2 * MAX_OVERLAY_MIB).contains(&(log_bytes >> 20)), "{log_bytes}");
    assert!(resident_mib < MAX_LOG_MIB + MAX_OVERLAY_MIB + BESIDE_MIB, "{resident_mib} MiB");
    assert!(cluster[0].metric("helios_checkpoints_skipped_total ").await.unwrap() > 0);
    assert_eq!(get(&mut client, 0).await, Some(value(0)));

    cluster[0].kill();
    cluster[0].start();
    cluster.wait_ready().await;
    let mut client = cluster[0].redis().await;
    assert_eq!(get(&mut client, 0).await, Some(value(0)));
    fs::remove_file(volume.ballast()).unwrap();
    eventually("writes are accepted again", async || set(&mut client, MOST_WRITES).await.ok()).await;
}

fn resident_mib(node: &crate::common::Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid().load(Ordering::Relaxed))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}
