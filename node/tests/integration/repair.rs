//! A member whose state is damaged after its log was purged fetches the state of another member.

use std::fs;
use std::path::{Path, PathBuf};

use redis::aio::MultiplexedConnection;

use crate::common::{Cluster, Load, Node, eventually};

/// The log is purged at each checkpoint, and nothing is kept for members that lag.
const PURGED: &str = "snapshot_entries: 200, trailing_entries: 50, max_retained_log_bytes: 0";
const WRITES: usize = 4_000;
const PIPELINE: usize = 500;

/// Writes 16 MB and waits until no member has the first half of it in its log.
async fn fill(cluster: &Cluster) {
    let mut client = cluster[cluster.leader().await].redis().await;
    for first in (0..WRITES).step_by(PIPELINE) {
        let mut pipeline = redis::pipe();
        for number in first..first + PIPELINE {
            pipeline.cmd("SET").arg(format!("filled {}", number % 2_000)).arg(vec![b'x'; 4_000]).ignore();
        }
        let () = pipeline.query_async(&mut client).await.unwrap();
    }
    for node in cluster.nodes() {
        eventually("the log is purged", async || {
            (node.status().await.first_index > WRITES as u64 / 2).then_some(())
        })
        .await;
    }
}

/// A kind of damage: its name, and the function that inflicts it on a data directory.
type Damage = (&'static str, fn(&Path));

fn runs(state: &Path) -> Vec<PathBuf> {
    let generations = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let files = generations.filter(|path| path.is_dir()).flat_map(|path| fs::read_dir(path).unwrap());
    let files = files.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "run")).collect()
}

fn largest_run(state: &Path) -> PathBuf {
    runs(state).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Waits until the member is ready, and starts it again if it ends.
async fn wait_ready_or_start(node: &mut Node) {
    while node.try_status().await.is_none_or(|status| !status.ready) {
        node.start_if_ended();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn get(client: &mut MultiplexedConnection, key: &str) -> redis::RedisResult<Vec<u8>> {
    redis::cmd("GET").arg(key).query_async(client).await
}

#[tokio::test]
async fn member_with_a_damaged_state_and_a_purged_log_fetches_it_from_another_member() {
    let damages: [Damage; 3] = [
        ("a run is missing", |data| fs::remove_file(largest_run(&data.join("state"))).unwrap()),
        ("the state is lost", |data| fs::remove_dir_all(data.join("state")).unwrap()),
        ("every run is truncated", |data| {
            for run in runs(&data.join("state")) {
                fs::File::options().write(true).open(run).unwrap().set_len(100).unwrap();
            }
        }),
    ];
    let mut cluster = Cluster::of_three_with(PURGED).await;
    fill(&cluster).await;
    let load = Load::start(&cluster.client_ports());
    // The leader is among them.
    for (index, (what, damage)) in damages.into_iter().enumerate() {
        load.wait_for(100).await;
        cluster[index].kill();
        damage(&cluster[index].data_dir());
        // A snapshot that it made for another member would do as well.
        fs::remove_dir_all(cluster[index].data_dir().join("snapshots")).unwrap();
        cluster[index].start();
        println!("{what}");
        cluster[index].wait_ready().await;
        assert!(cluster[index].log().contains("fetched the state of another member"), "{what}");
    }
    load.finish().await.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn damage_found_by_a_read_ends_the_member_and_its_next_start_repairs_it() {
    let mut cluster = Cluster::of_three_with(PURGED).await;
    fill(&cluster).await;
    let damaged = (cluster.leader().await + 1) % 3;
    cluster[damaged].kill();
    // In the first data block of each run.
    for run in runs(&cluster[damaged].data_dir().join("state")) {
        let mut bytes = fs::read(&run).unwrap();
        bytes[200] ^= 1;
        fs::write(&run, bytes).unwrap();
    }
    cluster[damaged].start();
    cluster[damaged].wait_ready().await;
    let mut client = cluster[damaged].redis().await;
    let () = redis::cmd("READONLY").query_async(&mut client).await.unwrap();
    for number in 0..2_000 {
        // An error, or the right value: never another one.
        match get(&mut client, &format!("filled {number}")).await {
            Ok(value) => assert_eq!(value, vec![b'x'; 4_000], "key {number}"),
            Err(_) => break,
        }
    }
    cluster[damaged].ended().await;
    assert!(cluster[damaged].log().contains("has a wrong checksum"));
    cluster[damaged].start();
    wait_ready_or_start(&mut cluster[damaged]).await;
    assert!(cluster[damaged].log().contains("fetched the state of another member"));
    assert_eq!(cluster.agreed_data().await.len(), 2_000);
}

#[tokio::test]
async fn member_that_waits_for_a_whole_state_answers_loading_and_serves_once_there_is_one() {
    let mut cluster = Cluster::of_three_with(PURGED).await;
    fill(&cluster).await;
    for index in 0..3 {
        cluster[index].kill();
    }
    fs::remove_file(largest_run(&cluster[0].data_dir().join("state"))).unwrap();
    cluster[0].start();
    let status = eventually("it waits", async || cluster[0].try_status().await).await;
    assert!(!status.ready && status.member_id > 0 && status.keys == 0, "{status:?}");
    assert!(status.not_ready_reason.contains("waits for another member"), "{}", status.not_ready_reason);
    let mut client = cluster[0].redis().await;
    let refused = get(&mut client, "filled 1").await.unwrap_err();
    assert_eq!(refused.code(), Some("LOADING"), "{refused}");
    drop(client);

    cluster[1].start();
    cluster[2].start();
    cluster.wait_ready().await;
    assert!(cluster[0].log().contains("fetched the state of another member"));
    assert_eq!(cluster.agreed_data().await.len(), 2_000);
    // It votes and serves.
    let leader = cluster.leader().await;
    cluster[leader].kill();
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let leader = cluster.leader_among(&others).await;
    let () = redis::cmd("SET")
        .arg("key")
        .arg("value")
        .query_async(&mut cluster[leader].redis().await)
        .await
        .unwrap();
}

/// The engines have different snapshots: a set of files, or one file.
#[tokio::test]
async fn members_with_different_engines_repair_each_other() {
    let mut cluster = Cluster::fixed_with(3, PURGED);
    for (index, engine) in ["runs", "sled", "redb"].iter().enumerate() {
        cluster[index].config_mut().push_str(&format!("state: {{engine: {engine}}}\n"));
    }
    cluster.start_all();
    cluster.wait_ready().await;
    fill(&cluster).await;
    for index in 0..3 {
        cluster[index].kill();
        for dir in ["state", "snapshots"] {
            fs::remove_dir_all(cluster[index].data_dir().join(dir)).unwrap();
        }
        cluster[index].start();
        cluster[index].wait_ready().await;
        assert!(cluster[index].log().contains("fetched the state of another member"), "{index}");
    }
    assert_eq!(cluster.agreed_data().await.len(), 2_000);
}
