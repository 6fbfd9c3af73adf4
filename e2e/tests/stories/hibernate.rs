//! spec.hibernate: all pods are stopped and every volume is kept; then the cluster resumes with every write
//! and the same members.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::ensure;
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::heliosctl::Heliosctl;
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let before = volumes(&cluster)?;

    let began = Instant::now();
    cluster.change(json!({"hibernate": true}))?;
    cluster.await_status("{.status.phase}=Hibernated")?;
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    story.kubectl.run(&["wait", "pods", "--selector", &cluster.selector(), "--for=delete", &limit])?;
    story.took("asleep", began.elapsed());
    ensure!(cluster.pods()?.is_empty(), "pods of a cluster that sleeps: {:?}", cluster.pods()?.into_keys());
    ensure!(volumes(&cluster)? == before, "volumes were {before:?}, and are {:?}", volumes(&cluster)?);
    let asleep = Heliosctl::new(&story.kubectl)?.done(&["status"])?;
    ensure!(asleep.contains("\nHIBERNATED: "), "asked for, and not as it should be: {asleep}");

    let began = Instant::now();
    cluster.change(json!({"hibernate": false}))?;
    cluster.await_members(3)?;
    story.took("awake", began.elapsed());
    story.part("asleep", &writer)?;
    story.part_without_failure("awake again", &writer)?;
    ensure!(volumes(&cluster)? == before, "volumes were {before:?}, and are {:?}", volumes(&cluster)?);
    cluster.await_agreement_on(3)?;
    ensure!(cluster.member_ids()? == [1, 2, 3], "the members are others: {:?}", cluster.member_ids()?);
    story.nothing_is_lost(writer)
}

/// Returns volume UIDs by name; a volume that was created again has another UID.
fn volumes(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    Ok(cluster.volumes()?.into_iter().map(|(name, claim)| (name, claim.metadata.uid)).collect())
}
