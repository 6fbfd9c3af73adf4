//! State that a member keeps across a restart, and restored disks that its peers reject.

use std::fs;
use std::path::Path;
use std::time::Duration;

use helios_proto::v1::{Membership, Role};

use crate::common::{Cluster, Load, Node, Operator, eventually, never};

#[tokio::test]
async fn membership_is_unchanged_after_all_members_restart_between_changes() {
    let mut cluster = Cluster::blank(4);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    for index in [1, 2] {
        let id = Operator::add(&cluster[0], &cluster[index]).await;
        Operator::promote(&cluster[0], id).await;
    }
    let removed = cluster[2].status().await.member_id;
    Operator::remove(&cluster[0], removed).await;
    let learner = Operator::add(&cluster[0], &cluster[3]).await;
    cluster[2].kill();
    let before = membership(&cluster[0]).await;
    assert_eq!((before.voters.len(), before.learners.as_slice()), (2, &[learner][..]));
    for _ in 0..2 {
        [0, 1, 3].into_iter().for_each(|index| cluster[index].kill());
        [0, 1, 3].into_iter().for_each(|index| cluster[index].start());
        for index in [0, 1, 3] {
            eventually("it knows the membership again", async || {
                let now = cluster[index].try_status().await?.membership?;
                (now.voters == before.voters && now.learners == before.learners).then_some(())
            })
            .await;
        }
        cluster.wait_ready().await;
    }
    let leader = cluster.leader_among(&[0, 1]).await;
    Operator::promote(&cluster[leader], learner).await;
    cluster.agreed_data().await;
}

#[tokio::test]
async fn member_restored_from_an_older_copy_is_rejected() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (old, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.wait_registered().await;
    cluster[old].kill();
    let copy = cluster[old].data_dir().with_extension("copy");
    copy_directory(&cluster[old].data_dir(), &copy);
    let load = Load::start(&[cluster[leader].ports.client, cluster[other].ports.client]);
    for _ in 0..3 {
        let id = cluster[leader].status().await.membership.unwrap().members[old].id;
        let before = epoch(&cluster[leader], id).await;
        cluster[old].start();
        eventually("its new start is registered", async || {
            (epoch(&cluster[leader], id).await > before).then_some(())
        })
        .await;
        cluster[old].kill();
    }
    load.wait_for(50).await;
    load.finish().await;

    cluster[old].wipe();
    fs::rename(&copy, cluster[old].data_dir()).unwrap();
    cluster[old].start();
    eventually("a peer logs the reason", async || {
        cluster[leader].log().contains("its disk is an older copy").then_some(())
    })
    .await;
    // The member follows no leader either: the leader would assume that it still holds the entries it has
    // acknowledged.
    assert_eq!(cluster[old].status().await.leader_id, 0);
    cluster[leader].kill();
    never(Duration::from_secs(2), "an older copy helped to elect a leader", async || {
        cluster[other].has_role(Role::Leader).await
    })
    .await;
    cluster[leader].start();
    cluster.leader_among(&[leader, other]).await;
}

async fn membership(node: &Node) -> Membership {
    node.status().await.membership.unwrap()
}

async fn epoch(node: &Node, id: u64) -> u64 {
    let members = membership(node).await.members;
    members.iter().find(|member| member.id == id).unwrap().boot_epoch
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
