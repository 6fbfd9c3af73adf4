//! `kubectl scale` from three to five and back, while clients write.

use std::time::Instant;

use anyhow::ensure;
use helios_e2e::cluster::Cluster;
use helios_e2e::story::Story;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let (leader, term) = cluster.leader()?;

    scale(story, &cluster, 5)?;
    story.part_without_failure("3 to 5", &writer)?;
    ensure!(cluster.leader()? == (leader, term), "growing needs no election, and there was one");

    // In the worst case the leader is one of the removed members: then leadership moves first.
    cluster.transfer_leadership("demo-4")?;
    scale(story, &cluster, 3)?;
    story.part_without_failure("5 to 3, the leader goes too", &writer)?;
    ensure!(cluster.volumes()?.len() == 5, "spec.storage.retain keeps volumes, and some are gone");

    // The kept volumes belong to removed members, which must not come back with their old ids.
    scale(story, &cluster, 5)?;
    story.part_without_failure("3 to 5 on the kept volumes", &writer)?;
    story.nothing_is_lost(writer)
}

fn scale(story: &Story, cluster: &Cluster, members: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    cluster.scale(members)?;
    cluster.await_members(members)?;
    story.took(&format!("{members} members after kubectl scale"), began.elapsed());
    cluster.await_agreement_on(members)
}
