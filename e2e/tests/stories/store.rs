//! The HeliosBackupStore of stories: a volume, so that no story needs an object store. The local cluster's volumes are directories
//! of this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use helios_e2e::cluster::{Cluster, PATIENCE, eventually};
use helios_e2e::kubectl::Kubectl;
use helios_e2e::pods;
use helios_e2e::story::Story;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

pub const STORE: &str = "nightly";
const CLAIM: &str = "backup";
/// Port of a member's `/metrics` and of the archiver's `/status`.
const METRICS_PORT: u16 = 9090;

/// Creates a HeliosBackupStore on a new volume.
pub fn create(kubectl: &Kubectl) -> anyhow::Result<()> {
    create_on(kubectl, json!({}))
}

fn create_on(kubectl: &Kubectl, mut claim: Value) -> anyhow::Result<()> {
    claim["accessModes"] = json!(["ReadWriteOnce"]);
    claim["resources"] = json!({"requests": {"storage": "1Gi"}});
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim,
    }))?;
    kubectl.apply(&json!({
        "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosBackupStore", "metadata": {"name": STORE},
        "spec": {"volume": {"claimName": CLAIM}},
    }))?;
    Ok(())
}

/// A namespace with a HeliosBackupStore on another PersistentVolume with the directory of the story's store, and nothing else.
pub struct Elsewhere {
    pub kubectl: Kubectl,
    volume: String,
}

impl Elsewhere {
    pub fn create(story: &Story) -> anyhow::Result<Self> {
        let namespace = format!("{}-restored", story.kubectl.namespace);
        let kubectl = Kubectl::new(&namespace);
        // It may be left over from an interrupted run.
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        kubectl.run(&["delete", "namespace", &namespace, "--ignore-not-found", &limit])?;
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
        let volume = share(&story.kubectl)?;
        create_on(&kubectl, json!({"storageClassName": "", "volumeName": volume}))?;
        Ok(Self { kubectl, volume })
    }

    pub fn delete(self) -> anyhow::Result<()> {
        self.kubectl.run(&["delete", "namespace", &self.kubectl.namespace, "--wait=false"])?;
        self.kubectl.run(&["delete", "pv", &self.volume, "--wait=false"])?;
        Ok(())
    }
}

fn volume(kubectl: &Kubectl) -> anyhow::Result<Value> {
    let claim: Value = kubectl.get(&format!("pvc/{CLAIM}"))?;
    let bound = claim["spec"]["volumeName"].as_str().context("the claim of the store is not bound")?;
    Ok(kubectl.get(&format!("pv/{bound}"))?)
}

/// Creates a PersistentVolume with the directory of the store's; returns its name.
fn share(kubectl: &Kubectl) -> anyhow::Result<String> {
    let mut spec = volume(kubectl)?["spec"].take();
    let name = format!("{}-shared", kubectl.namespace);
    for field in ["claimRef", "storageClassName"] {
        spec.as_object_mut().context("the volume has no spec")?.remove(field);
    }
    spec["persistentVolumeReclaimPolicy"] = json!("Retain");
    // A claim that is gone stays in the volume's claimRef.
    kubectl.run(&["delete", "pv", &name, "--ignore-not-found"])?;
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec,
    }))?;
    Ok(name)
}

/// The directory behind the volume of the store, on this machine, as the local cluster makes its volumes.
pub fn directory(kubectl: &Kubectl) -> anyhow::Result<PathBuf> {
    let volume = volume(kubectl)?;
    let path = volume["spec"]["local"]["path"].as_str().context("the volume is no local directory")?;
    Ok(PathBuf::from(path))
}

/// The archives in a directory are moved away, and files are in their places: each call of the store fails. They are moved back
/// when this is dropped.
pub struct Outage {
    moved: Vec<(PathBuf, PathBuf)>,
    away: PathBuf,
}

impl Outage {
    pub fn begin(store: &Path) -> anyhow::Result<Self> {
        let away = store.with_extension("away");
        std::fs::create_dir(&away).with_context(|| away.display().to_string())?;
        let mut outage = Self { moved: Vec::new(), away };
        for entry in std::fs::read_dir(store)? {
            let entry = entry?;
            let (from, to) = (entry.path(), outage.away.join(entry.file_name()));
            std::fs::rename(&from, &to)?;
            outage.moved.push((from.clone(), to));
            std::fs::write(&from, "no directory")?;
        }
        ensure!(!outage.moved.is_empty(), "there is no archive in {}", store.display());
        Ok(outage)
    }

    pub fn end(mut self) -> anyhow::Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        while let Some((from, to)) = self.moved.pop() {
            std::fs::remove_file(&from).with_context(|| from.display().to_string())?;
            std::fs::rename(&to, &from).with_context(|| to.display().to_string())?;
        }
        if self.away.exists() {
            std::fs::remove_dir(&self.away).with_context(|| self.away.display().to_string())?;
        }
        Ok(())
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            println!("the store was not put back: {error:#}");
        }
    }
}

/// Returns the archiver's `/status`, which is newer than the status of the HeliosCluster.
pub fn archiver(kubectl: &Kubectl, cluster: &Cluster) -> anyhow::Result<Value> {
    let selector =
        format!("app.kubernetes.io/name=heliosdb-archiver,app.kubernetes.io/instance={}", cluster.name);
    let found: Vec<Pod> = kubectl.list("pods", &selector)?;
    let pod = found.first().context("the archiver has no pod")?;
    let text = kubectl.http_get(&pods::name(pod), METRICS_PORT, "status")?;
    serde_json::from_str(&text).with_context(|| text)
}

/// Waits until the store has all entries up to `index`, and the archiver has no problem; returns its status.
pub fn await_archived(kubectl: &Kubectl, cluster: &Cluster, index: u64) -> anyhow::Result<Value> {
    eventually(PATIENCE, || {
        let status = archiver(kubectl, cluster)?;
        let is_archived = status["archivedIndex"].as_u64() >= Some(index);
        ensure!(is_archived && status["state"] == "Archiving", "up to index {index}: {status}");
        Ok(status)
    })
}

/// Returns a metric of the member on the pod `member`.
pub fn metric(kubectl: &Kubectl, member: &str, name: &str) -> anyhow::Result<u64> {
    let metrics = kubectl.http_get(member, METRICS_PORT, "metrics")?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    metrics.lines().find_map(value).with_context(|| format!("{member} has no metric {name}"))
}
