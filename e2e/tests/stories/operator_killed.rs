//! The operator is killed in the middle of each operation; the next process completes the operation as if it
//! had started it.

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE, eventually};
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::json;

use crate::disk_lost::delete_volume_and_pod;

pub fn while_growing(story: &Story) -> anyhow::Result<()> {
    let operator = Operator::installed()?;
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let before = cluster.leader()?;
    let watch = cluster.watch()?;

    cluster.scale(5)?;
    watch.wait("the new pods exist", PATIENCE, |pods| pods.len() == 5)?;
    operator.kill()?;
    cluster.await_member_count(4)?;
    operator.kill()?;
    operator.await_available()?;
    cluster.await_members(5)?;
    story.part_without_failure("operator killed while growing", &writer)?;

    ensure!(cluster.leader()? == before, "growing needs no election, and there was one");
    ensure!(watch.created().len() == 2, "pods created: {:?}", watch.created());
    cluster.await_agreement_on(5)?;
    members_are(&cluster, &[1, 2, 3, 4, 5])?;
    story.nothing_is_lost(writer)
}

pub fn while_changing(story: &Story) -> anyhow::Result<()> {
    let operator = Operator::installed()?;
    let cluster = story.cluster(json!({"replicas": 5}))?;
    let writer = story.writer(&cluster)?;
    shrink(&operator, &cluster)?;
    story.part_without_failure("operator killed while shrinking", &writer)?;
    roll(&operator, &cluster)?;
    story.part_without_failure("operator killed while rolling", &writer)?;
    replace(story, &operator, &cluster)?;
    story.part_without_failure("operator killed while replacing", &writer)?;
    story.nothing_is_lost(writer)
}

fn shrink(operator: &Operator, cluster: &Cluster) -> anyhow::Result<()> {
    cluster.transfer_leadership("demo-4")?;
    cluster.scale(3)?;
    eventually(PATIENCE, || {
        let (leader, _) = cluster.leader()?;
        ensure!(leader != "demo-4", "{leader} leads still");
        Ok(())
    })?;
    operator.kill()?;
    eventually(PATIENCE, || {
        let pods = cluster.pods()?.len();
        ensure!(pods < 5, "{pods} pods");
        Ok(())
    })?;
    operator.kill()?;
    operator.await_available()?;
    cluster.await_members(3)?;
    cluster.await_agreement_on(3)?;
    members_are(cluster, &[1, 2, 3])
}

fn roll(operator: &Operator, cluster: &Cluster) -> anyhow::Result<()> {
    let (leader, term) = cluster.leader()?;
    let watch = cluster.watch()?;
    cluster.change(json!({"restartAt": "2026-01-01T00:00:00Z"}))?;
    for replaced in 1..=3 {
        watch.await_created(replaced, PATIENCE)?;
        operator.kill()?;
    }
    operator.await_available()?;
    cluster.await_ready()?;
    let replaced = watch.created();
    ensure!(replaced.len() == 3, "each pod is to be replaced once, and these were: {replaced:?}");
    ensure!(replaced.last() == Some(&leader), "{leader} led and was to be last: {replaced:?}");
    let (_, now) = cluster.leader()?;
    ensure!(now == term + 1, "one transfer is one term more than {term}, and it is {now}");
    members_are(cluster, &[1, 2, 3])
}

fn replace(story: &Story, operator: &Operator, cluster: &Cluster) -> anyhow::Result<()> {
    let (leader, _) = cluster.leader()?;
    let victim =
        ["demo-0", "demo-1"].into_iter().find(|name| *name != leader).context("one does not lead")?;
    let old = cluster.member_id(victim)?;
    let watch = cluster.watch()?;
    delete_volume_and_pod(story, victim)?;
    watch.await_created(1, PATIENCE)?;
    operator.kill()?;
    eventually(PATIENCE, || {
        let id = cluster.member_id(victim)?;
        ensure!(id.is_some() && id != old, "{victim} is member {id:?}");
        Ok(())
    })?;
    operator.kill()?;
    operator.await_available()?;
    cluster.await_members(3)?;
    cluster.await_agreement_on(3)?;
    ensure!(watch.created() == [victim], "pods created besides {victim}: {:?}", watch.created());
    let kept = [1, 2, 3].into_iter().filter(|id| Some(*id) != old);
    members_are(cluster, &kept.chain([6]).collect::<Vec<_>>())
}

/// Checks the member ids. They are assigned once and in ascending order: an operator that repeats a step must
/// not add a member twice.
fn members_are(cluster: &Cluster, expected: &[i64]) -> anyhow::Result<()> {
    let ids = cluster.member_ids()?;
    ensure!(ids == expected, "the members are to be {expected:?}, and are {ids:?}");
    Ok(())
}
