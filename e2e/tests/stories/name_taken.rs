//! A foreign Service with the name that the operator would use: it survives the HeliosCluster's creation and
//! deletion unchanged; once it is deleted, the cluster can be created.

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::story::{SMALL, Story};
use serde_json::{Value, json};

/// Kinds of objects that the operator creates for a cluster.
const PARTS: &str = "statefulsets,pods,configmaps,secrets";

pub fn run(story: &Story) -> anyhow::Result<()> {
    let ports = json!([{"name": "http", "port": 80}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "labels": {"app": "shop"}},
        "spec": {"selector": {"app": "shop"}, "ports": ports},
    });
    story.kubectl.apply(&service)?;
    let before = version(story)?;

    let cluster = Cluster::named(&story.kubectl, "demo");
    story.kubectl.apply(&cluster.manifest(json!({"storage": {"size": SMALL}})))?;
    let message = cluster.await_condition("Degraded", |found| found.reason == "NameTaken")?;
    ensure!(message.contains("Service demo"), "the condition names no Service: {message}");
    let left: Vec<Value> = story.kubectl.list(PARTS, &cluster.selector())?;
    ensure!(left.is_empty(), "begun beside a Service that is not its own: {left:?}");
    ensure!(version(story)? == before, "the Service was changed");

    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    story.kubectl.run(&["delete", &cluster.object(), &limit])?;
    // Kubernetes garbage-collects, in the background, objects whose owner is the HeliosCluster.
    let service: Value =
        story.kubectl.get("service/demo").context("the Service went with the HeliosCluster")?;
    ensure!(service["metadata"]["ownerReferences"].is_null(), "it has an owner: {service}");
    ensure!(version(story)? == before, "the Service was changed");

    story.kubectl.run(&["delete", "service/demo", &limit])?;
    story.cluster(json!({})).context("the name is free")?;
    Ok(())
}

fn version(story: &Story) -> anyhow::Result<Value> {
    let service: Value = story.kubectl.get("service/demo")?;
    Ok(service["metadata"]["resourceVersion"].clone())
}
