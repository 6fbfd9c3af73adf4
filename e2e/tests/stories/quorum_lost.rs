//! Two of three disks are lost, so no quorum can form again: the operator reports the survivors and acts only
//! on a confirmation that names this very cluster. The survivor's data is then the cluster's data.

use std::time::Instant;

use anyhow::{Context, ensure};
use helios_e2e::cluster::Cluster;
use helios_e2e::story::Story;
use serde_json::{Value, json};

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    // The leader has every write that was acknowledged.
    let (survivor, _) = cluster.leader()?;
    let watch = cluster.watch()?;
    let lost: Vec<String> = cluster.pods()?.into_keys().filter(|name| *name != survivor).collect();
    let claims: Vec<String> = lost.iter().map(|name| format!("data-{name}")).collect();
    delete(story, "pvc", &claims)?;
    delete(story, "pod", &lost)?;

    let message = cluster.await_condition("Available", |available| available.reason == "QuorumLost")?;
    story.say(&format!("QuorumLost: {message}"));
    let confirm = confirmation_in_status(story, &cluster, &survivor)?;
    cluster.change(json!({"recovery": {"survivor": survivor, "confirm": "some other cluster"}}))?;
    cluster.await_condition("Ready", |ready| ready.message.contains("is not status.clusterId"))?;

    let began = Instant::now();
    cluster.change(json!({"recovery": {"survivor": survivor, "confirm": confirm}}))?;
    cluster.await_members(3)?;
    story.took("three members after the confirmation", began.elapsed());
    story.part("two of three disks lost", &writer)?;
    story.part_without_failure("recovered", &writer)?;
    cluster.await_agreement_on(3)?;
    ensure!(
        !watch.created().contains(&survivor),
        "the survivor's pod was replaced, and its disk was all there was: {:?}",
        watch.created()
    );
    story.nothing_is_lost(writer)
}

/// Returns the id to confirm with, once the status lists the one survivor and says what to write.
fn confirmation_in_status(story: &Story, cluster: &Cluster, survivor: &str) -> anyhow::Result<String> {
    let status = story.kubectl.get::<Value>(&cluster.object())?["status"].take();
    let (id, recovery) =
        (status["clusterId"].as_str().context("the cluster has an id")?, &status["recovery"]);
    let how_to = recovery["howTo"].as_str().context("the status says what to write")?;
    story.say(how_to);
    ensure!(how_to.contains(id) && how_to.contains(survivor), "{how_to}");
    let survivors = recovery["survivors"].as_array().map_or(0, Vec::len);
    ensure!(survivors == 1 && recovery["survivors"][0]["name"] == survivor, "survivors: {recovery}");
    Ok(id.to_owned())
}

fn delete(story: &Story, kind: &str, names: &[String]) -> anyhow::Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    story.kubectl.run(&[&["delete", kind, "--wait=false"], &names[..]].concat())?;
    Ok(())
}
