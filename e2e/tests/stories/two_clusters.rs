//! Two clusters in one namespace, the name of one a prefix of the other's: operations on one do not affect
//! the other.

use anyhow::ensure;
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::story::{SMALL, Story};
use serde_json::json;

pub fn run(story: &Story) -> anyhow::Result<()> {
    // Also the name of a pod of the first cluster.
    let second = Cluster::named(&story.kubectl, "demo-1");
    story.kubectl.apply(&second.manifest(json!({"storage": {"size": SMALL}})))?;
    let first = story.cluster(json!({"storage": {"size": SMALL, "retain": false}}))?;
    second.await_ready()?;
    let (load, other_load) = (story.writer(&first)?, story.writer(&second)?);
    let leader = second.leader()?;
    let watch = second.watch()?;

    first.change(json!({"restartAt": "2026-01-01T00:00:00Z"}))?;
    first.await_ready()?;
    story.part_without_failure("demo restarts", &load)?;
    story.part_without_failure("demo restarts, writes to demo-1", &other_load)?;
    clusters_have_separate_keys(&first, &second)?;
    story.nothing_is_lost(load)?;

    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    story.kubectl.run(&["delete", &first.object(), &limit])?;
    story.kubectl.run(&["wait", "pods,pvc", "--selector", &first.selector(), "--for=delete", &limit])?;
    story.part_without_failure("demo deleted, writes to demo-1", &other_load)?;
    ensure!(watch.created().is_empty(), "pods of demo-1 were replaced: {:?}", watch.created());
    ensure!(second.leader()? == leader, "the leader of demo-1 is another");
    ensure!(second.volumes()?.len() == 3, "demo-1 has volumes {:?}", second.volumes()?.into_keys());
    second.await_members(3)?;
    story.nothing_is_lost(other_load)
}

/// Checks that each cluster has only the keys of its own load, which begin with the cluster's name.
fn clusters_have_separate_keys(first: &Cluster, second: &Cluster) -> anyhow::Result<()> {
    for (cluster, pod, own, others) in
        [(first, "demo-0", "demo:0:1", "demo-1:0:1"), (second, "demo-1-0", "demo-1:0:1", "demo:0:1")]
    {
        let pod = cluster.connect(pod)?;
        let found: (u64, u64) = (pod.query(&["EXISTS", own])?, pod.query(&["EXISTS", others])?);
        ensure!(found == (1, 0), "{} has {own} and {others}: {found:?}", cluster.name);
    }
    Ok(())
}
