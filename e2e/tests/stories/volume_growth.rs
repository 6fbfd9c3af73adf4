//! spec.storage.size is raised: every volume grows in place, no member restarts, and volumes of later members
//! have the new size too.

use std::time::Instant;

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE, eventually};
use helios_e2e::story::Story;
use serde_json::{Value, json};

const LARGER: &str = "384Mi";

pub fn run(story: &Story) -> anyhow::Result<()> {
    if !default_class_can_grow(story)? {
        story.say("the default StorageClass says no allowVolumeExpansion: true, so its volumes cannot grow");
        return Ok(());
    }
    let cluster = story.cluster(json!({}))?;
    let writer = story.writer(&cluster)?;
    let leader = cluster.leader()?;
    let watch = cluster.watch()?;

    let began = Instant::now();
    cluster.change(json!({"storage": {"size": LARGER}}))?;
    await_size(&cluster, 3)?;
    story.took("three volumes grown", began.elapsed());
    cluster.await_ready()?;
    story.part_without_failure("volumes grow", &writer)?;
    ensure!(
        watch.created().is_empty(),
        "volumes grow in place, and pods were replaced: {:?}",
        watch.created()
    );

    // The StatefulSet's template is immutable, so new volumes are created with the old size and grow then.
    cluster.scale(5)?;
    await_size(&cluster, 5)?;
    cluster.await_members(5)?;
    story.part_without_failure("3 to 5 after that", &writer)?;
    ensure!(cluster.leader()? == leader, "nothing of this needs an election, and there was one");
    story.nothing_is_lost(writer)
}

/// Waits until all volumes have the new size in their status, not only in their spec.
fn await_size(cluster: &Cluster, volumes: usize) -> anyhow::Result<()> {
    eventually(PATIENCE, || {
        let claims = cluster.volumes()?;
        let sizes: Vec<Option<String>> = claims
            .into_values()
            .map(|claim| Some(claim.status?.capacity?.get("storage")?.0.clone()))
            .collect();
        let grown = sizes.iter().filter(|size| size.as_deref() == Some(LARGER)).count();
        ensure!(
            grown == volumes && sizes.len() == volumes,
            "volumes of {sizes:?}, not {volumes} of {LARGER}"
        );
        Ok(())
    })
}

fn default_class_can_grow(story: &Story) -> anyhow::Result<bool> {
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    let classes: Vec<Value> = story.kubectl.list("storageclasses", "")?;
    let default = classes.iter().find(|class| class["metadata"]["annotations"][DEFAULT] == "true");
    let default = default.context("there is no default StorageClass")?;
    Ok(default["allowVolumeExpansion"] == true)
}
