//! Backups of a cluster: the HeliosBackupStore, the archiver with its state, the Job of a restore, and results of drills.

use helios_crds::{DrillResult, HeliosBackupStore, HeliosCluster, HeliosScheduledBackup};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::archiver::{self, ArchiverStatus};
use super::job::{Outcome, RestoreReport, outcome};
use super::owned::{Slot, slot};
use crate::build::backup::secrets;
use crate::error::Error;
use crate::names;
use crate::ownership::Taken;
use crate::validate::ValidatedCluster;

/// Why a store cannot be used yet. A user resolves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreProblem {
    Missing(String),
    SecretMissing(String),
    /// The API server refuses what the operator needs for backups.
    Refused(String),
}

impl StoreProblem {
    pub fn message(&self) -> &str {
        match self {
            Self::Missing(message) | Self::SecretMissing(message) | Self::Refused(message) => message,
        }
    }
}

/// The part of an observation about backups; empty for a cluster without them.
#[derive(Debug, Clone, Default)]
pub struct BackupSeen {
    pub problem: Option<StoreProblem>,
    /// The archiver's Deployment is there.
    pub has_archiver: bool,
    /// IP of the archiver's pod.
    pub address: Option<String>,
    /// Reason why the archiver's process does not run, e.g. `ImagePullBackOff`.
    pub pod_problem: Option<String>,
    /// Absent while it does not answer.
    pub archiver: Option<ArchiverStatus>,
    pub restore: RestoreSeen,
    /// Results of the last drills.
    pub drills: Vec<DrillSeen>,
}

/// Drills of one HeliosScheduledBackup of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillSeen {
    /// Name of the HeliosScheduledBackup.
    pub scheduled: String,
    pub last: Option<DrillResult>,
    pub last_passed: Option<DrillResult>,
}

/// The restore of `spec.bootstrap.recovery`.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum RestoreSeen {
    /// There is none to do.
    #[default]
    Unneeded,
    /// Its store cannot be used.
    Blocked(String),
    /// There is no Job yet.
    Absent,
    /// With the message of the last attempt that failed.
    Running(Option<String>),
    Failed {
        reason: String,
        message: String,
    },
    Completed(RestoreReport),
}

/// Objects of backups under the names that the cluster uses, and the stores that its spec names.
#[derive(Debug)]
pub struct BackupObjects {
    pub archiver: Slot<Deployment>,
    pub archiver_policy: Slot<NetworkPolicy>,
    pub restore: Slot<Job>,
    /// Store of `spec.backup`; `None` when it cannot be used.
    pub store: Option<HeliosBackupStore>,
    /// Store of `spec.bootstrap.recovery`; `None` when it cannot be used, or the restore is done.
    pub restore_store: Option<HeliosBackupStore>,
}

impl BackupObjects {
    /// Foreign objects in the way of `cluster`.
    pub fn taken(&self, cluster: &ValidatedCluster) -> impl Iterator<Item = Taken> + use<> {
        let is_wanted = cluster.spec.backup.as_ref().is_some_and(|backup| backup.archive);
        let archiver = self.archiver.taken().filter(|_| is_wanted);
        let policy =
            self.archiver_policy.taken().filter(|_| is_wanted && cluster.spec.network_policy.enabled);
        let taken: Vec<_> = [archiver, policy, self.restore.taken()].into_iter().flatten().cloned().collect();
        taken.into_iter()
    }
}

impl Default for BackupObjects {
    fn default() -> Self {
        Self {
            archiver: Slot::Free,
            archiver_policy: Slot::Free,
            restore: Slot::Free,
            store: None,
            restore_store: None,
        }
    }
}

/// Reads them. For a cluster without backups no request is made. A read that the API server refuses, as by the rights of an
/// earlier chart, is a problem of the backups and of nothing else.
///
/// # Errors
/// When the API server does not answer.
pub async fn backup(
    client: &Client,
    cluster: &HeliosCluster,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<(BackupObjects, BackupSeen), Error> {
    match read(client, cluster, namespace, owner).await {
        Err(error) if error.is_refused() => {
            let restore = match needs_restore(cluster) {
                true => RestoreSeen::Blocked(error.to_string()),
                false => RestoreSeen::Unneeded,
            };
            let problem = Some(StoreProblem::Refused(error.to_string()));
            Ok((BackupObjects::default(), BackupSeen { problem, restore, ..BackupSeen::default() }))
        }
        result => result,
    }
}

async fn read(
    client: &Client,
    cluster: &HeliosCluster,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<(BackupObjects, BackupSeen), Error> {
    let name = cluster.name_any();
    let mut objects = BackupObjects::default();
    let mut seen = BackupSeen::default();
    let spec = cluster.spec.backup.as_ref();
    if spec.is_some() || cluster.status.as_ref().is_some_and(|status| status.backup.is_some()) {
        let archiver = names::archiver(&name);
        objects.archiver = slot(client, namespace, &archiver, owner).await?;
        objects.archiver_policy = slot(client, namespace, &archiver, owner).await?;
        seen.has_archiver = matches!(objects.archiver, Slot::Ours(_));
    }
    if let Some(spec) = spec {
        match store(client, namespace, &spec.store).await? {
            Ok(store) => objects.store = Some(store),
            Err(problem) => seen.problem = Some(problem),
        }
    }
    if spec.is_some() {
        seen.drills = drills(client, namespace, &name).await?;
    }
    if seen.has_archiver {
        (seen.address, seen.pod_problem) = archiver_pod(client, namespace, &name).await?;
        seen.archiver = archiver::status(seen.address.as_deref()).await;
    }
    if needs_restore(cluster) {
        seen.restore = restore(client, cluster, namespace, owner, &mut objects).await?;
    }
    Ok((objects, seen))
}

/// Drills of `cluster` that a HeliosScheduledBackup asks for.
async fn drills(client: &Client, namespace: &str, cluster: &str) -> Result<Vec<DrillSeen>, Error> {
    let api = Api::<HeliosScheduledBackup>::namespaced(client.clone(), namespace);
    let found = api.list(&ListParams::default()).await;
    let found = found.map_err(Error::kube("list HeliosScheduledBackups in", namespace))?;
    let of_cluster =
        found.into_iter().filter(|it| it.spec.backup.cluster == cluster && it.spec.drill.is_some());
    let seen = of_cluster.map(|scheduled| {
        let name = scheduled.name_any();
        let drills = scheduled.status.and_then(|status| status.drill).unwrap_or_default();
        DrillSeen { scheduled: name, last: drills.last, last_passed: drills.last_passed }
    });
    Ok(seen.collect())
}

/// The restore is not done, or its result is not in the status.
fn needs_restore(cluster: &HeliosCluster) -> bool {
    let status = cluster.status.as_ref();
    let source = status.and_then(|status| status.recovery.as_ref()?.source.as_ref());
    let is_over = status.is_some_and(|status| status.bootstrapped)
        && source.is_none_or(|source| source.phase == "Completed");
    cluster.spec.bootstrap.as_ref().is_some_and(|bootstrap| bootstrap.recovery.is_some()) && !is_over
}

async fn restore(
    client: &Client,
    cluster: &HeliosCluster,
    namespace: &str,
    owner: &OwnerReference,
    objects: &mut BackupObjects,
) -> Result<RestoreSeen, Error> {
    let Some(recovery) = cluster.spec.bootstrap.as_ref().and_then(|it| it.recovery.as_ref()) else {
        return Ok(RestoreSeen::Unneeded);
    };
    objects.restore = slot(client, namespace, &names::restore_job(&cluster.name_any()), owner).await?;
    if let Slot::Ours(job) = &objects.restore {
        return Ok(match outcome::<RestoreReport>(client, job).await? {
            Outcome::Running(message) => RestoreSeen::Running(message),
            Outcome::Failed { reason, message } => RestoreSeen::Failed { reason, message },
            Outcome::Completed(report) => RestoreSeen::Completed(report),
        });
    }
    Ok(match store(client, namespace, &recovery.store).await? {
        Ok(store) => {
            objects.restore_store = Some(store);
            RestoreSeen::Absent
        }
        Err(problem) => RestoreSeen::Blocked(problem.message().to_owned()),
    })
}

/// The store `name` with all Secrets that it needs, or why it cannot be used.
///
/// # Errors
/// When the API server does not answer.
pub async fn store(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Result<HeliosBackupStore, StoreProblem>, Error> {
    let stores = Api::<HeliosBackupStore>::namespaced(client.clone(), namespace);
    let found = stores.get_opt(name).await.map_err(Error::kube("read HeliosBackupStore", name))?;
    let Some(store) = found.filter(|store| store.metadata.deletion_timestamp.is_none()) else {
        let message = format!("HeliosBackupStore {name} does not exist in namespace {namespace}; create it");
        return Ok(Err(StoreProblem::Missing(message)));
    };
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    for (field, secret) in secrets(&store) {
        let found = api.get_metadata_opt(secret).await.map_err(Error::kube("read Secret", secret))?;
        if found.is_none() {
            let message =
                format!("Secret {secret} of HeliosBackupStore {name} ({field}) does not exist; create it");
            return Ok(Err(StoreProblem::SecretMissing(message)));
        }
    }
    Ok(Ok(store))
}

/// IP of the archiver's pod, and why its process does not run.
async fn archiver_pod(
    client: &Client,
    namespace: &str,
    cluster: &str,
) -> Result<(Option<String>, Option<String>), Error> {
    let selector = names::worker_selector(cluster, "archiver");
    let selector: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(&selector.join(","))).await;
    let pods = pods.map_err(Error::kube("list pods of the archiver of", cluster))?;
    let pod = pods.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
    let status = pod.and_then(|pod| pod.status);
    let address = status.as_ref().and_then(|status| status.pod_ip.clone());
    let containers = status.and_then(|status| status.container_statuses).unwrap_or_default();
    let waiting = containers.into_iter().find_map(|container| container.state?.waiting);
    Ok((address, waiting.and_then(|waiting| waiting.reason)))
}
