//! HeliosBackup: a Job, and its result. Pending until cluster, store and Secrets are there, then Running, and at last
//! Completed or Failed, which nothing changes any more.

use std::sync::Arc;
use std::time::Duration;

use helios_crds::{HeliosBackup, HeliosBackupStatus, HeliosBackupStore, HeliosCluster, HeliosClusterStatus};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::{RETRY, drive, scoped, size, watch_config, within_deadline, write_status};
use crate::apply::{delete, ensure};
use crate::build::backup::{backup_job, backup_policy};
use crate::controller::Context;
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER};
use crate::observe::archiver::{Base, moment};
use crate::observe::backup::store;
use crate::observe::job::{Outcome, outcome};
use crate::observe::{Slot, StoreProblem, slot};
use crate::ownership::{self, Owner};
use crate::validate::{ValidatedCluster, validate};

const PENDING: &str = "Pending";
const RUNNING: &str = "Running";
const COMPLETED: &str = "Completed";
const FAILED: &str = "Failed";
/// While Secrets are missing, which are not watched, or a Job runs, whose pods are not.
const WHILE_WAITING: Duration = Duration::from_secs(10);
const CONCURRENCY: u16 = 4;

pub async fn run(context: Arc<Context>, namespace: Option<&str>, stop: CancellationToken) {
    let client = &context.client;
    let controller = Controller::new(scoped::<HeliosBackup>(client, namespace), watch_config());
    let (backups, of_stores) = (controller.store(), controller.store());
    let results = controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .owns(scoped::<Job>(client, namespace), watch_config())
        .watches(scoped::<HeliosBackupStore>(client, namespace), watch_config(), move |store| {
            waiting(of_stores.state(), &store)
        })
        // The metadata is enough to look at the backups that wait, and keeps hundreds of statuses out of memory.
        .watches(
            scoped::<PartialObjectMeta<HeliosCluster>>(client, namespace),
            watch_config(),
            move |cluster| waiting(backups.state(), &cluster),
        )
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            |backup, context| async move { within_deadline(&*backup, reconcile(&backup, &context)).await },
            |_, _, _| Action::requeue(RETRY),
            context.clone(),
        );
    drive(results).await;
}

/// The backups in the namespace of `object` that wait.
fn waiting<K: Resource<DynamicType = ()>>(
    backups: Vec<Arc<HeliosBackup>>,
    object: &K,
) -> Vec<ObjectRef<HeliosBackup>> {
    let is_waiting = |backup: &HeliosBackup| phase(backup).is_none_or(|phase| phase == PENDING);
    let here = backups.iter().filter(|backup| backup.namespace() == object.namespace());
    here.filter(|backup| is_waiting(backup)).map(|backup| ObjectRef::from_obj(&**backup)).collect()
}

fn phase(backup: &HeliosBackup) -> Option<&str> {
    backup.status.as_ref()?.phase.as_deref()
}

/// The backup is Completed or Failed.
pub(super) fn is_finished(backup: &HeliosBackup) -> bool {
    phase(backup).is_some_and(|phase| [COMPLETED, FAILED].contains(&phase))
}

async fn reconcile(cached: &HeliosBackup, context: &Context) -> Result<Action, Error> {
    if is_finished(cached) || cached.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let client = &context.client;
    let (name, namespace) = (cached.name_any(), cached.namespace().ok_or(Error::Incomplete("namespace"))?);
    // Read, as the status of the cache may be older than a Job.
    let api = Api::<HeliosBackup>::namespaced(client.clone(), &namespace);
    let backup = api.get_opt(&name).await.map_err(Error::kube("read HeliosBackup", &name))?;
    let Some(backup) = backup.filter(|backup| !is_finished(backup)) else {
        return Ok(Action::await_change());
    };
    let owner = backup.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    let found = slot::<Job>(client, &namespace, &names::backup_job(&name), &owner).await?;
    let seen = match &found {
        Slot::Ours(job) => match outcome::<Base>(client, job).await? {
            Outcome::Running(_) if is_deleted(client, &namespace, &backup.spec.cluster).await? => {
                // Before the status, after which the backup is not looked at again.
                delete(client, &found).await?;
                Seen::ClusterDeleted
            }
            outcome => Seen::Job(outcome),
        },
        Slot::Taken(taken) => Seen::Waits("NameTaken", format!("{taken} has the name of its Job; delete it")),
        Slot::Free if phase(&backup) == Some(RUNNING) => {
            let is_deleted = is_deleted(client, &namespace, &backup.spec.cluster).await?;
            if is_deleted { Seen::ClusterDeleted } else { Seen::Vanished }
        }
        Slot::Free => match needs(context, &backup, &namespace).await? {
            Ok((cluster, store)) => {
                // Before the Job, whose pod must not have more access for a moment.
                if let Some(policy) = backup_policy(&backup, owner.clone(), &cluster, &store) {
                    let found = slot::<NetworkPolicy>(client, &namespace, &policy.name_any(), &owner).await?;
                    ensure(client, policy, &found).await?;
                }
                let job = backup_job(&backup, owner, &cluster, &store);
                let params =
                    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                let jobs = Api::<Job>::namespaced(client.clone(), &namespace);
                jobs.create(&params, &job).await.map_err(Error::kube("create the Job of", &name))?;
                Seen::Created(store.name_any())
            }
            Err((reason, message)) => Seen::Waits(reason, message),
        },
    };
    let status = next(&backup, seen, Timestamp::now());
    write_status(client, &backup, backup.status.as_ref(), &status).await?;
    let is_over = status.phase.as_deref().is_some_and(|phase| [COMPLETED, FAILED].contains(&phase));
    Ok(if is_over { Action::await_change() } else { Action::requeue(WHILE_WAITING) })
}

/// Finding, or effect, of a reconcile.
enum Seen {
    Waits(&'static str, String),
    /// With the store that the Job writes to.
    Created(String),
    /// The Job was deleted before its result was read.
    Vanished,
    /// The cluster was deleted before the Job had ended.
    ClusterDeleted,
    Job(Outcome<Base>),
}

async fn is_deleted(client: &Client, namespace: &str, cluster: &str) -> Result<bool, Error> {
    let api = Api::<HeliosCluster>::namespaced(client.clone(), namespace);
    let found = api.get_metadata_opt(cluster).await.map_err(Error::kube("read HeliosCluster", cluster))?;
    Ok(found.is_none_or(|cluster| cluster.metadata.deletion_timestamp.is_some()))
}

type Needed = Result<(ValidatedCluster, HeliosBackupStore), (&'static str, String)>;

/// The cluster and the store of `backup`, or what it waits for.
async fn needs(context: &Context, backup: &HeliosBackup, namespace: &str) -> Result<Needed, Error> {
    let (client, name) = (&context.client, &backup.spec.cluster);
    let api = Api::<HeliosCluster>::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(Error::kube("read HeliosCluster", name))?;
    let Some(cluster) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
        let message = format!("HeliosCluster {name} does not exist in namespace {namespace}; create it");
        return Ok(Err(("ClusterMissing", message)));
    };
    let Some(spec) = &cluster.spec.backup else {
        let message = format!(
            "HeliosCluster {name} has no spec.backup; write spec.backup.store, which restarts nothing"
        );
        return Ok(Err(("BackupsOff", message)));
    };
    if !cluster.status.as_ref().is_some_and(|status: &HeliosClusterStatus| status.bootstrapped) {
        return Ok(Err(("ClusterNotReady", format!("HeliosCluster {name} is not bootstrapped yet"))));
    }
    if cluster.spec.hibernate {
        let message = format!("HeliosCluster {name} hibernates; set spec.hibernate to false");
        return Ok(Err(("ClusterNotReady", message)));
    }
    let store = match store(client, namespace, backup.spec.store.as_ref().unwrap_or(&spec.store)).await? {
        Ok(store) => store,
        Err(StoreProblem::Missing(message)) => return Ok(Err(("StoreMissing", message))),
        Err(StoreProblem::Refused(message)) => return Ok(Err(("BackupsRefused", message))),
        Err(StoreProblem::SecretMissing(message)) => return Ok(Err(("SecretMissing", message))),
    };
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let live = sets.get_opt(name).await.map_err(Error::kube("read StatefulSet", name))?;
    let owner = cluster.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    let live = live.filter(|set| ownership::owner(&set.metadata, &owner) == Owner::Us);
    Ok(validate(&cluster, live.as_ref(), &context.defaults)
        .map(|cluster| (cluster, store))
        .map_err(|invalid| ("InvalidSpec", invalid.0)))
}

/// The status after `seen`. A phase never goes back.
fn next(backup: &HeliosBackup, seen: Seen, now: Timestamp) -> HeliosBackupStatus {
    let old = backup.status.clone().unwrap_or_default();
    let failed = |reason: String, message: String| HeliosBackupStatus {
        phase: Some(FAILED.to_owned()),
        reason: Some(reason),
        message: Some(message),
        finished_at: Some(Time(now)),
        ..old.clone()
    };
    match seen {
        Seen::Waits(reason, message) => HeliosBackupStatus {
            phase: Some(PENDING.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            ..old
        },
        Seen::Created(store) => HeliosBackupStatus { store: Some(store), ..running(old, None, now) },
        Seen::Job(Outcome::Running(message)) => running(old, message, now),
        Seen::Vanished => failed(
            "JobDeleted".to_owned(),
            "its Job was deleted before it had ended; create another HeliosBackup".to_owned(),
        ),
        Seen::ClusterDeleted => failed(
            "ClusterDeleted".to_owned(),
            format!("HeliosCluster {} was deleted before the backup was complete", backup.spec.cluster),
        ),
        Seen::Job(Outcome::Failed { reason, message }) => failed(reason, message),
        Seen::Job(Outcome::Completed(base)) => completed(old, base, now),
    }
}

fn running(old: HeliosBackupStatus, message: Option<String>, now: Timestamp) -> HeliosBackupStatus {
    HeliosBackupStatus {
        phase: Some(RUNNING.to_owned()),
        reason: None,
        message,
        started_at: old.started_at.or(Some(Time(now))),
        ..old
    }
}

fn completed(old: HeliosBackupStatus, base: Base, now: Timestamp) -> HeliosBackupStatus {
    let signed = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
    HeliosBackupStatus {
        phase: Some(COMPLETED.to_owned()),
        reason: None,
        message: None,
        cluster_id: Some(base.cluster_id).filter(|id| !id.is_empty()),
        index: signed(base.index),
        term: signed(base.term),
        as_of: moment(base.now_ms).map(Time),
        bytes: signed(base.bytes),
        stored_bytes: signed(base.stored_bytes),
        size: Some(size(base.stored_bytes)),
        keys: signed(base.keys),
        digest: base.state_digest.filter(|digest| !digest.is_empty()),
        key_id: base.key_id.filter(|id| !id.is_empty()),
        member: base.member,
        finished_at: Some(Time(moment(base.finished_ms).unwrap_or(now))),
        ..old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// The status of a backup with the status `old` after `seen`.
    fn after(old: Option<&HeliosBackupStatus>, seen: Seen, now: Timestamp) -> HeliosBackupStatus {
        let spec = serde_json::from_value(serde_json::json!({"cluster": "c0"})).unwrap();
        next(&HeliosBackup { status: old.cloned(), ..HeliosBackup::new("b0", spec) }, seen, now)
    }

    fn phases(status: &HeliosBackupStatus) -> (&str, Option<&str>) {
        (status.phase.as_deref().unwrap(), status.reason.as_deref())
    }

    #[test]
    fn backup_goes_from_pending_to_completed() {
        let waits = after(None, Seen::Waits("StoreMissing", "create it".to_owned()), now());
        assert_eq!(phases(&waits), ("Pending", Some("StoreMissing")));
        let created = after(Some(&waits), Seen::Created("nightly".to_owned()), now());
        assert_eq!((phases(&created), created.message.as_deref()), (("Running", None), None));
        assert_eq!((created.store.as_deref(), &created.started_at), (Some("nightly"), &Some(Time(now()))));
        let later = now() + jiff::SignedDuration::from_secs(9);
        let retried = after(Some(&created), Seen::Job(Outcome::Running(Some("again".to_owned()))), later);
        assert_eq!((retried.message.as_deref(), &retried.started_at), (Some("again"), &created.started_at));
        let base = Base { index: 7, stored_bytes: 2048, finished_ms: 1_800_000_005_000, ..Base::default() };
        let done = after(Some(&retried), Seen::Job(Outcome::Completed(base)), later);
        assert_eq!(
            (phases(&done), done.index, done.size.as_deref()),
            (("Completed", None), Some(7), Some("2.0 KiB"))
        );
        assert_eq!((done.store.as_deref(), done.message, done.key_id), (Some("nightly"), None, None));
        assert_eq!(done.finished_at.unwrap().0.as_second(), 1_800_000_005);
    }

    #[test]
    fn backup_fails_with_the_reason_of_its_job_and_when_job_or_cluster_is_deleted() {
        let failed = Outcome::Failed { reason: "Refused".to_owned(), message: "403".to_owned() };
        let failed = after(None, Seen::Job(failed), now());
        assert_eq!((phases(&failed), failed.message.as_deref()), (("Failed", Some("Refused")), Some("403")));
        assert_eq!(phases(&after(None, Seen::Vanished, now())), ("Failed", Some("JobDeleted")));
        let deleted = after(None, Seen::ClusterDeleted, now());
        assert_eq!(phases(&deleted), ("Failed", Some("ClusterDeleted")));
        assert!(deleted.message.unwrap().contains("HeliosCluster c0"));
    }
}
