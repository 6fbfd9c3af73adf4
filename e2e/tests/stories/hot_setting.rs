//! Change of a setting that members reload while they run: no pod is replaced, the leader stays, no write
//! fails, and the cluster is Ready again only when all members have reloaded it. Each of them reports the
//! reload in an event.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;
use helios_e2e::story::Story;
use serde_json::{Value, json};

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let (leader, watch) = (cluster.leader()?, cluster.watch()?);
    let began = Instant::now();
    cluster.change(json!({"ack": "all"}))?;
    cluster.await_ready()?;
    story.took("acknowledged by all members", began.elapsed());
    story.part_without_failure("ack: all, taken over", &writer)?;
    ensure!(
        watch.created().is_empty(),
        "members take it over, and pods were replaced: {:?}",
        watch.created()
    );
    ensure!(cluster.leader()? == leader, "nothing of this needs an election, and there was one");
    let members = reloaded(story)?;
    ensure!(members.len() == 3, "each member reports a reload, and these did: {members:?}");
    story.nothing_is_lost(writer)
}

/// Returns the members with a ConfigReloaded event.
fn reloaded(story: &Story) -> anyhow::Result<BTreeSet<String>> {
    let events: Vec<Value> = story.kubectl.list("events.events.k8s.io", "")?;
    let mine = events.iter().filter(|event| event["reason"] == "ConfigReloaded");
    Ok(mine.filter_map(|event| event["related"]["name"].as_str().map(str::to_owned)).collect())
}
