//! A full disk, on volumes of their own (node.md, pitfall 22). Needs the right to mount.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use redis::aio::MultiplexedConnection;

use crate::common::{Cluster, eventually, eventually_within, info_field};

const VOLUME_MIB: u64 = 96;
/// What another program keeps on the volume, and gives back in the end.
const BALLAST_BYTES: usize = 48 << 20;
const VALUE_BYTES: usize = 8 << 10;
/// More values than fit.
const MOST_WRITES: usize = 12_000;

/// A small file system at `path`, unmounted at the end.
struct Volume {
    path: PathBuf,
}

impl Volume {
    /// In a file where loop devices can be had, else in memory; `None` without the right to mount.
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

    /// Makes the ballast as large as it can be.
    fn take_all(&self) {
        let mut ballast = fs::OpenOptions::new().append(true).open(self.ballast()).unwrap();
        for size in [64 << 10, 4 << 10, 1 << 10] {
            while ballast.write_all(&vec![7; size]).is_ok() {}
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a node that a failed test left running holds files open.
        run(Command::new("umount").arg("-l").arg(&self.path));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn value(number: usize) -> Vec<u8> {
    // No two alike, and nothing that a disk could keep shorter.
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

/// Writes until one is refused; answers how many were acknowledged, and the refusal.
async fn fill(client: &mut MultiplexedConnection) -> (usize, String) {
    for number in 0..MOST_WRITES {
        if let Err(error) = set(client, number).await {
            return (number, error.to_string());
        }
    }
    panic!("{MOST_WRITES} values fit on a volume of {VOLUME_MIB} MiB");
}

/// Three members, each on a volume of its own with its ballast; `None` without the right to mount.
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
async fn a_full_disk_refuses_what_grows_and_takes_all_again_when_there_is_room() {
    let Some((mut cluster, volumes)) = on_small_volumes().await else { return };
    let leader = cluster.leader().await;
    let mut client = cluster[leader].redis().await;
    let (acknowledged, refusal) = fill(&mut client).await;
    assert!(acknowledged > 100, "{acknowledged} writes: {refusal}");
    assert!(refusal.contains("MISCONF") && refusal.contains("is full: enlarge its volume"), "{refusal}");
    let term = cluster[leader].status().await.term;

    // Reads, deletes and expiry go on, also through another node, and writes stay refused.
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
        let refusal = set(client, MOST_WRITES).await.unwrap_err().to_string();
        assert!(refusal.contains("MISCONF"), "{refusal}");
    }
    assert_eq!(cluster[leader].metric("helios_disk_full ").await, Some(1));
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster[leader].status().await.term, term, "an election, for no reason");

    // Killed and started again on the full disk, it is a member like before.
    cluster[leader].kill();
    cluster[leader].start();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;

    for volume in &volumes {
        fs::remove_file(volume.ballast()).unwrap();
    }
    let mut client = cluster[leader].redis().await;
    eventually("writes are taken again", async || set(&mut client, MOST_WRITES).await.ok()).await;
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
async fn a_leader_whose_disk_alone_is_full_hands_over_and_writes_go_on() {
    let Some((cluster, volumes)) = on_small_volumes().await else { return };
    let leader = cluster.leader().await;
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        fs::remove_file(volumes[other].ballast()).unwrap();
    }
    let (acknowledged, refusal) = fill(&mut cluster[leader].redis().await).await;
    assert!(refusal.contains("MISCONF"), "{refusal}");
    // A snapshot may give the leader room again; something else takes it.
    eventually("another member leads", async || {
        volumes[leader].take_all();
        (cluster.leader().await != leader).then_some(())
    })
    .await;
    let mut client = cluster[(leader + 1) % 3].redis().await;
    eventually("writes are taken", async || set(&mut client, acknowledged).await.ok()).await;
    let transfers = cluster[leader].metric("helios_raft_disk_transfers_total ").await;
    assert_eq!(transfers, Some(1));
    fs::remove_file(volumes[leader].ballast()).unwrap();
    assert_eq!(cluster.agreed_data().await.len(), acknowledged + 1);
}
