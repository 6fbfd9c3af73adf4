//! Rollout of a new version, then of a new Raft setting, while clients write.

use std::time::Instant;

use anyhow::ensure;
use helios_e2e::cluster::Cluster;
use helios_e2e::pods;
use helios_e2e::story::Story;
use helios_e2e::writer::Writer;
use serde_json::{Value, json};

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    roll(story, &cluster, &writer, "new image", json!({"image": story.images.node_next}))?;
    for (name, pod) in cluster.pods()? {
        ensure!(pods::image(&pod) == Some(&story.images.node_next), "{name} runs {:?}", pods::image(&pod));
    }
    let spec = json!({"raft": {"electionTimeoutMin": "400ms"}, "storage": {"engine": "sled"}});
    roll(story, &cluster, &writer, "new election timeout and engine", spec)?;
    members_converted_their_state(story, &cluster)?;
    roll(story, &cluster, &writer, "third engine", json!({"storage": {"engine": "redb"}}))?;
    members_converted_their_state(story, &cluster)?;
    story.nothing_is_lost(writer)
}

fn members_converted_their_state(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    for name in cluster.pods()?.into_keys() {
        let log = story.kubectl.run(&["logs", &name])?;
        ensure!(log.contains("converting the state to another engine"), "{name} did not convert its state");
    }
    Ok(())
}

/// Changes the spec; each pod is replaced once, followers first, and leadership moves once.
fn roll(story: &Story, cluster: &Cluster, writer: &Writer, part: &str, spec: Value) -> anyhow::Result<()> {
    let (leader, term) = cluster.leader()?;
    let watch = cluster.watch()?;
    let began = Instant::now();
    cluster.change(spec)?;
    cluster.await_ready()?;
    story.took(&format!("{part} on three members"), began.elapsed());

    let replaced = watch.created();
    let mut names = replaced.clone();
    names.sort();
    ensure!(
        names == ["demo-0", "demo-1", "demo-2"],
        "each pod is to be replaced once, and these were: {replaced:?}"
    );
    ensure!(replaced.last() == Some(&leader), "{leader} led and was to be last: {replaced:?}");
    let (successor, now) = cluster.leader()?;
    ensure!(successor != leader, "{leader} was restarted and leads again, so leadership moved twice");
    ensure!(now == term + 1, "one transfer is one term more than {term}, and it is {now}");
    story.part_without_failure(part, writer)?;
    Ok(())
}
