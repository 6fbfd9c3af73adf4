//! The operator dies in the middle of a change, twice; its successor ends what was begun.

use anyhow::ensure;
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::json;

pub fn tell(story: &Story) -> anyhow::Result<()> {
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
    every_member_is_one_of_five(&cluster)?;
    story.nothing_is_lost(writer)
}

/// An operator that repeats a step must not add a member twice.
fn every_member_is_one_of_five(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.await_agreement_on(5)?;
    let status = cluster.resource()?.status.unwrap_or_default();
    let mut ids: Vec<i64> = status.members.iter().map(|member| member.member_id).collect();
    ids.sort_unstable();
    ensure!(ids == [1, 2, 3, 4, 5], "ids are given once and in order, and they are {ids:?}");
    Ok(())
}
