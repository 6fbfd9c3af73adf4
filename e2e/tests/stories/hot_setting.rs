//! A setting that members take over while they run is changed: no pod is replaced, nobody else leads, no write fails, and
//! the cluster is Ready again only when all members have it. Each of them tells of it in an event.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;
use helios_e2e::story::Story;
use serde_json::{Value, json};

pub fn tell(story: &Story) -> anyhow::Result<()> {
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
    let told = reloaded(story)?;
    ensure!(told.len() == 3, "each member tells that its settings changed, and these did: {told:?}");
    story.nothing_is_lost(writer)
}

/// Members of which an event says so.
fn reloaded(story: &Story) -> anyhow::Result<BTreeSet<String>> {
    let events: Vec<Value> = story.kubectl.list("events.events.k8s.io", "")?;
    let mine = events.iter().filter(|event| event["reason"] == "ConfigReloaded");
    Ok(mine.filter_map(|event| event["related"]["name"].as_str().map(str::to_owned)).collect())
}
