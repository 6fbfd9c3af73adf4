//! Backups of a cluster under load, and its restore into a new namespace, from the store alone.

use std::time::Instant;

use anyhow::{Context, ensure};
use helios_crds::HeliosBackup;
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::kubectl::Kubectl;
use helios_e2e::story::Story;
use serde_json::{Value, json};

use super::store::{self, Elsewhere, STORE};

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({"replicas": 3}))?;
    store::create(&story.kubectl)?;
    let writer = story.writer(&cluster)?;
    let before = cluster.pods()?.into_iter().map(|(name, pod)| (name, pod.metadata.uid)).collect::<Vec<_>>();
    cluster.change(json!({"backup": {"store": STORE}}))?;
    await_condition(&story.kubectl, &cluster, "Archiving")?;
    await_condition(&story.kubectl, &cluster, "BackupHealthy")?;
    let after = cluster.pods()?.into_iter().map(|(name, pod)| (name, pod.metadata.uid)).collect::<Vec<_>>();
    ensure!(before == after, "members were restarted by spec.backup");
    story.part_without_failure("backups turned on", &writer)?;

    story.kubectl.apply(&json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosBackup",
        "metadata": {"name": "once"}, "spec": {"cluster": cluster.name},
    }))?;
    story.kubectl.wait("hbk/once", "jsonpath={.status.phase}=Completed", PATIENCE)?;
    let once: HeliosBackup = story.kubectl.get("hbk/once")?;
    ensure!(once.status.as_ref().is_some_and(|status| status.index > Some(0)), "{:?}", once.status);
    story.part_without_failure("backup", &writer)?;
    story.nothing_is_lost(writer)?;

    let (leader, _) = cluster.leader()?;
    let written = store::metric(&story.kubectl, &leader, "helios_raft_proposals_applied_total")?;
    store::await_archived(&story.kubectl, &cluster, written)?;
    restore_into_new_namespace(story, &cluster, written.try_into()?)
}

pub fn await_condition(kubectl: &Kubectl, cluster: &Cluster, condition: &str) -> anyhow::Result<()> {
    Ok(kubectl.wait(&cluster.object(), &format!("condition={condition}"), PATIENCE)?)
}

fn restore_into_new_namespace(story: &Story, source: &Cluster, written: i64) -> anyhow::Result<()> {
    let elsewhere = Elsewhere::create(story)?;
    let there = &elsewhere.kubectl;
    let recovery: Value = json!({
        "store": STORE, "cluster": source.name, "clusterNamespace": story.kubectl.namespace,
    });
    let began = Instant::now();
    let restored =
        Cluster::create(there, "restored", json!({"replicas": 3, "bootstrap": {"recovery": recovery}}))
            .context("the restored cluster")?;
    story.took("restore", began.elapsed());
    let status = restored.resource()?.status.unwrap_or_default();
    let found = status.recovery.and_then(|recovery| recovery.source).context("no source in the status")?;
    ensure!(found.phase == "Completed" && found.index >= Some(written), "{found:?}, written {written}");
    ensure!(found.digest_matches == Some(true), "the base of the restore has another digest: {found:?}");
    let (source_keys, keys) = (keys(&story.kubectl, source)?, keys(there, &restored)?);
    ensure!(source_keys == keys, "{keys} keys were restored, the source has {source_keys}");
    story.say(&format!("{keys} keys restored at index {:?}", found.index));
    ensure!(status.cluster_id != source.resource()?.status.unwrap_or_default().cluster_id, "one id twice");
    elsewhere.delete()
}

/// Returns the number of keys of the leader.
fn keys(kubectl: &Kubectl, cluster: &Cluster) -> anyhow::Result<u64> {
    let (leader, _) = cluster.leader()?;
    store::metric(kubectl, &leader, "helios_keys")
}
