//! Backups of a cluster under load, and its restore into a new namespace, from the store alone.
//!
//! The store is a volume, so that the story needs no object store. The new namespace has another PersistentVolume with the same
//! directory.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_crds::{HeliosBackup, HeliosClusterStatus};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::kubectl::Kubectl;
use helios_e2e::story::Story;
use serde_json::{Value, json};

pub const STORE: &str = "nightly";
pub const CLAIM: &str = "backup";
/// Longest time until an acknowledged write is in the store, and the reconcile that reports it.
const RPO: Duration = Duration::from_secs(90);

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({"replicas": 3}))?;
    create_store(&story.kubectl, json!({"resources": {"requests": {"storage": "1Gi"}}}))?;
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

    let archived = await_archive(&cluster)?;
    restore_into_new_namespace(story, &cluster, archived)
}

/// Creates a HeliosBackupStore on the volume that `claim` asks for.
pub fn create_store(kubectl: &Kubectl, mut claim: Value) -> anyhow::Result<()> {
    claim["accessModes"] = json!(["ReadWriteOnce"]);
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim,
    }))?;
    kubectl.apply(&json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosBackupStore", "metadata": {"name": STORE},
        "spec": {"volume": {"claimName": CLAIM}},
    }))?;
    Ok(())
}

/// Creates a PersistentVolume with the directory of the store's; returns its name.
fn share_volume(kubectl: &Kubectl) -> anyhow::Result<String> {
    let claim: Value = kubectl.get(&format!("pvc/{CLAIM}"))?;
    let bound = claim["spec"]["volumeName"].as_str().context("the claim of the store is not bound")?;
    let mut volume: Value = kubectl.get(&format!("pv/{bound}"))?;
    let name = format!("{}-shared", kubectl.namespace);
    let mut spec = volume["spec"].take();
    for field in ["claimRef", "storageClassName"] {
        spec.as_object_mut().context("the volume has no spec")?.remove(field);
    }
    spec["persistentVolumeReclaimPolicy"] = json!("Retain");
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec,
    }))?;
    Ok(name)
}

pub fn await_condition(kubectl: &Kubectl, cluster: &Cluster, condition: &str) -> anyhow::Result<()> {
    Ok(kubectl.wait(&cluster.object(), &format!("condition={condition}"), PATIENCE)?)
}

/// Waits until the archive has all writes; returns the index up to which it does.
fn await_archive(cluster: &Cluster) -> anyhow::Result<i64> {
    let began = Instant::now();
    let backup = |status: HeliosClusterStatus| status.backup.unwrap_or_default();
    let mut last = backup(cluster.resource()?.status.unwrap_or_default());
    loop {
        std::thread::sleep(Duration::from_secs(20));
        let now = backup(cluster.resource()?.status.unwrap_or_default());
        if now.lag_seconds == 0 && now.archived_index == last.archived_index {
            return Ok(now.archived_index);
        }
        ensure!(began.elapsed() < RPO, "the archive does not come to rest: {now:?}");
        last = now;
    }
}

fn restore_into_new_namespace(story: &Story, source: &Cluster, archived: i64) -> anyhow::Result<()> {
    let namespace = format!("{}-restored", story.kubectl.namespace);
    story
        .kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
    let there = Kubectl::new(&namespace);
    let volume = share_volume(&story.kubectl)?;
    create_store(
        &there,
        json!({"storageClassName": "", "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}),
    )?;
    let recovery: Value = json!({
        "store": STORE, "cluster": source.name, "clusterNamespace": story.kubectl.namespace,
    });
    let began = Instant::now();
    let restored =
        Cluster::create(&there, "restored", json!({"replicas": 3, "bootstrap": {"recovery": recovery}}))
            .context("the restored cluster")?;
    story.took("restore", began.elapsed());
    let status = restored.resource()?.status.unwrap_or_default();
    let found = status.recovery.and_then(|recovery| recovery.source).context("no source in the status")?;
    ensure!(found.phase == "Completed" && found.index >= Some(archived), "{found:?}, archived {archived}");
    ensure!(found.digest_matches == Some(true), "the base of the restore has another digest: {found:?}");
    let (source_keys, keys) = (keys(&story.kubectl, source)?, keys(&there, &restored)?);
    ensure!(source_keys == keys, "{keys} keys were restored, the source has {source_keys}");
    story.say(&format!("{keys} keys restored at index {:?}", found.index));
    ensure!(status.cluster_id != source.resource()?.status.unwrap_or_default().cluster_id, "one id twice");
    story.kubectl.run(&["delete", "namespace", &namespace, "--wait=false"])?;
    story.kubectl.run(&["delete", "pv", &volume, "--wait=false"])?;
    Ok(())
}

/// Returns the number of keys of the leader.
fn keys(kubectl: &Kubectl, cluster: &Cluster) -> anyhow::Result<u64> {
    let (leader, _) = cluster.leader()?;
    let metrics = kubectl.http_get(&leader, 9090, "metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("helios_keys "));
    Ok(line.context("the leader has no metric of its keys")?.trim().parse()?)
}
