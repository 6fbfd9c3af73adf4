//! Drain of every node in turn, the leader's first. Volumes are local to their nodes, so a member waits for
//! its node to be uncordoned; nothing else has to be done.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::nodes::Nodes;
use helios_e2e::pods;
use helios_e2e::story::Story;
use helios_e2e::writer::Writer;
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    let Some(nodes) = Nodes::of_local_cluster(&story.kubectl)? else {
        story.say("the nodes of this cluster are not drained; it is not the local one");
        return Ok(());
    };
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let used: BTreeSet<String> =
        cluster.pods()?.values().filter_map(|pod| pods::node(pod).map(str::to_owned)).collect();
    ensure!(used.len() == 3, "three members were to spread over three nodes, and are on {used:?}");

    let mut turn = nodes.names()?;
    let leaders = node_of_leader(&cluster)?;
    turn.sort_by_key(|node| *node != leaders);
    for node in turn {
        drain(story, &nodes, &cluster, &writer, &node)?;
    }
    story.nothing_is_lost(writer)
}

fn drain(story: &Story, nodes: &Nodes, cluster: &Cluster, writer: &Writer, node: &str) -> anyhow::Result<()> {
    let whose = if node_of_leader(cluster)? == node { "leader's" } else { "follower's" };
    let watch = cluster.watch()?;
    let began = Instant::now();
    nodes.while_drained(node, || {
        story.took("drain of a node done", began.elapsed());
        ensure!(
            cluster.pods()?.values().all(|pod| pods::node(pod) != Some(node)),
            "{node} is drained, and a member is on it"
        );
        writer.await_writes(400)
    })?;
    watch.wait("the drained member is back", PATIENCE, |pods| {
        pods.values().any(|pod| pods::node(pod) == Some(node) && pods::is_ready(pod))
    })?;
    cluster.await_members(3)?;
    ensure!(watch.created().len() == 1, "one pod was to move, and these did: {:?}", watch.created());
    story.part_without_failure(&format!("a {whose} node drained"), writer)?;
    Ok(())
}

fn node_of_leader(cluster: &Cluster) -> anyhow::Result<String> {
    let (leader, _) = cluster.leader()?;
    let pods = cluster.pods()?;
    pods.get(&leader).and_then(pods::node).map(str::to_owned).context("the leader runs on a node")
}
