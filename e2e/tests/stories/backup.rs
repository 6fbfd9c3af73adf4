//! Backups of a cluster under load, and its restore into a new namespace, from the store alone.
//!
//! The store is a volume that both namespaces reach by the same directory of one host, so that the story needs no object store.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_crds::{HeliosBackup, HeliosClusterStatus};
use helios_e2e::cluster::{Cluster, PATIENCE};
use helios_e2e::kubectl::Kubectl;
use helios_e2e::story::Story;
use serde_json::{Value, json};

const STORE: &str = "nightly";
const DIRECTORY: &str = "/var/lib/helios-story-backup";
/// Longest time until an acknowledged write is in the store, and the reconcile that reports it.
const RPO: Duration = Duration::from_secs(90);

pub fn run(story: &Story) -> anyhow::Result<()> {
    let cluster = story.cluster(json!({"replicas": 3}))?;
    create_store(&story.kubectl, &story.kubectl.namespace)?;
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

/// A PersistentVolume for each namespace, of the same directory.
fn create_store(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<()> {
    let name = format!("{namespace}-backup");
    let capacity = json!({"storage": "1Gi"});
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": capacity, "accessModes": ["ReadWriteMany"], "storageClassName": name,
            "hostPath": {"path": DIRECTORY, "type": "DirectoryOrCreate"},
        },
    }))?;
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "backup"},
        "spec": {
            "accessModes": ["ReadWriteMany"], "storageClassName": name, "volumeName": name,
            "resources": {"requests": capacity},
        },
    }))?;
    kubectl.apply(&json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosBackupStore", "metadata": {"name": STORE},
        "spec": {"volume": {"claimName": "backup"}},
    }))?;
    Ok(())
}

fn await_condition(kubectl: &Kubectl, cluster: &Cluster, condition: &str) -> anyhow::Result<()> {
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
    create_store(&there, &namespace)?;
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
    ensure!(status.cluster_id != source.resource()?.status.unwrap_or_default().cluster_id, "one id twice");
    story.kubectl.run(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(())
}
