//! Lost and damaged disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helios_proto::v1::Role;

use crate::common::{Cluster, Load, Operator, never};

#[tokio::test]
async fn wiped_disk_under_an_old_name_neither_votes_nor_serves() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let load = Load::start(&[cluster[leader].ports.client, cluster[other].ports.client]);
    load.wait_for(100).await;
    cluster.wait_registered().await;
    let term = cluster[leader].status().await.term;
    cluster[wiped].kill();
    cluster[wiped].wipe();
    cluster[wiped].start();

    never(Duration::from_secs(2), "a wiped disk is ready or leads", async || {
        cluster[wiped].try_status().await.is_some_and(|status| {
            status.ready || status.leader_id != 0 || status.keys > 0 || status.role() == Role::Leader
        })
    })
    .await;
    load.wait_for(50).await;
    assert_eq!(cluster[leader].status().await.term, term, "it disturbed the others");
    assert!(cluster[leader].log().contains("a wiped disk must join as a new member"), "no word of it");

    // Without the leader, two intact disks are needed for a quorum and there is only one.
    cluster[leader].kill();
    never(Duration::from_secs(2), "a wiped disk helped to elect a leader", async || {
        cluster[other].has_role(Role::Leader).await
    })
    .await;
    cluster[leader].start();
    load.wait_for(20).await;
    let report = load.finish().await;
    cluster[wiped].kill();
    report.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn wiped_member_is_blank_with_a_new_disk_id_and_is_replaced() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::form(&cluster).await;
    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut client).await.unwrap();
    let before = cluster[2].status().await;
    cluster[2].kill();
    cluster[2].wipe();
    cluster[2].start();

    let blank = cluster[2].status().await;
    assert_ne!(blank.disk_id, before.disk_id);
    never(Duration::from_secs(1), "a blank disk resumed an old membership", async || {
        cluster[2].status().await.role() != Role::Uninitialized
    })
    .await;
    assert!(cluster[0].log().contains("remove that member and add this node again"));
    let mut add = Operator::add_request(&cluster[2]).await;
    let refused = cluster[0].cluster().add_learner(add.clone()).await.unwrap_err();
    assert!(refused.message().contains("remove member"), "{}", refused.message());
    Operator::remove(&cluster[0], before.member_id).await;
    add.expected_membership_index = 0;
    let id = Operator::add(&cluster[0], &cluster[2]).await;
    assert!(id > before.member_id);
    Operator::promote(&cluster[0], id).await;
    cluster.wait_ready().await;
    assert_eq!(cluster.agreed_data().await.len(), 1);
}

#[tokio::test]
async fn lost_or_damaged_state_directory_is_rebuilt_without_loss() {
    let damages: [Damage; 4] = [
        ("removed", |state| fs::remove_dir_all(state).unwrap()),
        ("truncated", |state| files(state).iter().for_each(|file| truncate(file))),
        ("with flipped bytes", |state| files(state).iter().for_each(|file| flip(file))),
        ("with one file missing", |state| fs::remove_file(largest(state)).unwrap()),
    ];
    let mut cluster = Cluster::of_three_with("snapshot_entries: 300, trailing_entries: 100").await;
    let load = Load::start(&cluster.client_ports());
    for (index, (what, damage)) in damages.into_iter().enumerate() {
        load.wait_for(300).await;
        let node = index % 3;
        // A clean stop leaves a checkpoint, which is damaged then.
        cluster[node].terminate().await;
        damage(&cluster[node].data_dir().join("state"));
        cluster[node].start();
        println!("state directory {what}");
        cluster[node].wait_ready().await;
    }
    load.finish().await.assert_kept(&cluster.agreed_data().await);
    for index in 0..3 {
        cluster[index].kill();
    }
    for node in 1..3 {
        assert!(cluster[node].log().contains("rebuilding it"), "node-{} had nothing to rebuild", node + 1);
    }
}

/// With an engine that has snapshot files. With `runs` the state is in one place, and the log is purged by its checkpoints.
#[tokio::test]
async fn all_state_directories_lost_at_once_are_rebuilt_from_log_and_snapshot() {
    let mut cluster = Cluster::fixed_with(3, "snapshot_entries: 300, trailing_entries: 100");
    for index in 0..3 {
        cluster[index].config_mut().push_str("state: {engine: sled}\n");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(1_000).await;
    for index in 0..3 {
        cluster[index].kill();
        fs::remove_dir_all(cluster[index].data_dir().join("state")).unwrap();
    }
    cluster.start_all();
    load.wait_for(50).await;
    load.finish().await.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn state_ahead_of_its_log_is_set_aside_and_the_member_rejoins() {
    let mut cluster = Cluster::of_three_with("snapshot_entries: 300, trailing_entries: 100").await;
    let leader = cluster.leader().await;
    let (behind, ahead) = ((leader + 1) % 3, (leader + 2) % 3);
    let load = Load::start(&[cluster[leader].ports.client]);
    load.wait_for(50).await;
    cluster[behind].terminate().await;
    load.wait_for(1_000).await;
    let report = load.finish().await;
    // A clean stop leaves a checkpoint of everything applied.
    cluster[ahead].terminate().await;
    let [from, to] = [ahead, behind].map(|node| cluster[node].data_dir().join("state"));
    fs::remove_dir_all(&to).unwrap();
    copy(&from, &to);
    cluster[ahead].start();
    cluster[behind].start();
    cluster.wait_ready().await;
    report.assert_kept(&cluster.agreed_data().await);
    let log = cluster[behind].log();
    assert!(log.contains("state does not fit the log; rebuilding it"), "its state was kept");
    // The rebuilt member votes and serves.
    cluster[leader].kill();
    let leader = cluster.leader_among(&[behind, ahead]).await;
    let mut client = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut client).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

/// A kind of damage: its name, and the function that inflicts it.
type Damage = (&'static str, fn(&Path));

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found
}

fn largest(dir: &Path) -> PathBuf {
    files(dir).into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap()
}

fn truncate(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    fs::File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap();
}

/// Flips one byte in each 512.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 0x5a);
    fs::write(file, bytes).unwrap();
}
