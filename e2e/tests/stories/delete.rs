//! Deletion of a HeliosCluster: its objects are deleted, its volumes only on request, and nothing waits for
//! an operator.

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::operator::Operator;
use helios_e2e::story::Story;
use serde_json::{Value, json};

/// Every kind of object that a cluster owns, except volumes.
const OWNED: &str = "statefulsets,pods,services,configmaps,serviceaccounts,poddisruptionbudgets";

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let written: String = cluster.connect("demo-1")?.query(&["SET", "keep", "me"])?;
    ensure!(written == "OK", "SET answered {written}");
    delete(story, &cluster)?;
    ensure!(volumes(story)? == 3, "a deleted cluster keeps its volumes, and {} are left", volumes(story)?);

    let cluster = story.cluster(json!({})).context("a cluster of the same name adopts the volumes")?;
    let read: Option<String> = cluster.connect("demo-2")?.query(&["GET", "keep"])?;
    ensure!(read.as_deref() == Some("me"), "the volumes were adopted without the data: {read:?}");

    cluster.change(json!({"storage": {"retain": false}}))?;
    cluster.await_ready()?;
    delete(story, &cluster)?;
    story.kubectl.run(&["wait", "pvc", "--all", "--for=delete", "--timeout=60s"])?;
    ensure!(volumes(story)? == 0, "storage.retain was false, and {} volumes are left", volumes(story)?);

    let cluster = story.cluster(json!({"replicas": 1}))?;
    Operator::installed()?.without(|| delete(story, &cluster))
}

/// Deletes the resource and waits until all objects that it owned are gone.
fn delete(story: &Story, cluster: &Cluster) -> anyhow::Result<()> {
    let selector = cluster.selector();
    let owned = || story.kubectl.list::<Value>(OWNED, &selector);
    ensure!(!owned()?.is_empty(), "a cluster owns objects by the label {selector}");
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    story.kubectl.run(&["delete", &cluster.object(), &limit])?;
    story.kubectl.run(&["wait", OWNED, "--selector", &selector, "--for=delete", &limit])?;
    ensure!(owned()?.is_empty(), "left of a deleted cluster: {:?}", owned()?);
    Ok(())
}

fn volumes(story: &Story) -> anyhow::Result<usize> {
    Ok(story.kubectl.list::<Value>("pvc", "")?.len())
}
