//! Backups at a real API server: the archiver, the Job of a backup and of a restore, and a schedule.

use std::time::Duration;

use helios_crds::{ConditionType, HeliosBackup, HeliosBackupStore, HeliosCluster, HeliosScheduledBackup};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::operator::Operator;
use super::secrets::forbid_new;
use super::{begin, change, create_as, degraded, ready, status, until};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn api<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::default_namespaced(client.clone())
}

pub async fn create_store(client: &Client) {
    let spec = serde_json::from_value(json!({"volume": {"claimName": "backups"}})).unwrap();
    let store = HeliosBackupStore::new("nightly", spec);
    api(client).create(&PostParams::default(), &store).await.unwrap();
}

pub async fn create_backup(client: &Client, name: &str, cluster: &str) {
    let backup = HeliosBackup::new(name, serde_json::from_value(json!({"cluster": cluster})).unwrap());
    api(client).create(&PostParams::default(), &backup).await.unwrap();
}

/// Waits until the backup has this phase and reason.
pub async fn await_backup(client: &Client, name: &str, phase: &str, reason: Option<&str>) -> HeliosBackup {
    until(&format!("{name} is {phase} {reason:?}"), PATIENCE, async || {
        let status = api::<HeliosBackup>(client).get(name).await.unwrap().status.unwrap_or_default();
        status.phase.as_deref() == Some(phase) && status.reason.as_deref() == reason
    })
    .await;
    api::<HeliosBackup>(client).get(name).await.unwrap()
}

/// Ends the Job as its controller would, after a pod with this exit code and report.
pub async fn end_job(client: &Client, name: &str, code: i32, report: &Value) {
    until(&format!("Job {name} is created"), PATIENCE, async || {
        api::<Job>(client).get_opt(name).await.unwrap().is_some()
    })
    .await;
    let job = api::<Job>(client).get(name).await.unwrap();
    let owner =
        json!({"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.uid(), "controller": true});
    let labels = json!({"batch.kubernetes.io/job-name": name});
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("{name}-x"), "labels": labels, "ownerReferences": [owner]},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "heliosd", "image": "heliosd:test"}]},
    }))
    .unwrap();
    api::<Pod>(client).create(&PostParams::default(), &pod).await.unwrap();
    let terminated = json!({"exitCode": code, "message": report.to_string()});
    let container = json!({
        "name": "heliosd", "image": "heliosd:test", "imageID": "x", "ready": false, "restartCount": 0,
        "state": {"terminated": terminated},
    });
    let patch = json!({"status": {"containerStatuses": [container]}});
    api::<Pod>(client)
        .patch_status(&format!("{name}-x"), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let now = "2026-11-28T08:00:00Z";
    let condition =
        |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now, "reason": "Ended"});
    let mut ended = json!({"startTime": now, "active": 0, "terminating": 0, "uncountedTerminatedPods": {}});
    if code == 0 {
        ended["conditions"] = json!([condition("SuccessCriteriaMet"), condition("Complete")]);
        (ended["completionTime"], ended["succeeded"]) = (json!(now), json!(1));
    } else {
        ended["conditions"] = json!([condition("FailureTarget"), condition("Failed")]);
        ended["failed"] = json!(1);
    }
    let patch = Patch::Merge(json!({"status": ended}));
    api::<Job>(client).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn archiver_and_backups_follow_the_spec_and_restart_no_member() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let operator = Operator::start(&server, "first");
    create_as(client, "c0", json!({"tls": {"mode": "off"}})).await;
    until("the cluster is ready", PATIENCE, async || ready(client).await == 1).await;
    let generation = async || api::<StatefulSet>(client).get("c0").await.unwrap().metadata.generation;
    let before = generation().await;

    create_backup(client, "b0", "c0").await;
    await_backup(client, "b0", "Pending", Some("BackupsOff")).await;
    change(client, "c0", json!({"backup": {"store": "nightly"}})).await;
    await_backup(client, "b0", "Pending", Some("StoreMissing")).await;
    let archiving = async || {
        let status = status(client, "c0").await;
        status.condition(ConditionType::Archiving).map(|condition| condition.reason.clone())
    };
    until("the missing store is reported", PATIENCE, async || {
        archiving().await.as_deref() == Some("StoreMissing")
    })
    .await;
    create_store(client).await;
    until("the archiver is created", PATIENCE, async || {
        api::<Deployment>(client).get_opt("c0-archiver").await.unwrap().is_some()
    })
    .await;
    until("it is awaited", PATIENCE, async || archiving().await.as_deref() == Some("ArchiverStarting")).await;

    await_backup(client, "b0", "Running", None).await;
    let report = json!({"clusterId": "c", "index": 7, "term": 2, "storedBytes": 2048, "keys": 5});
    let policy = api::<NetworkPolicy>(client).get("b0-backup").await.unwrap().spec.unwrap();
    assert_eq!(policy.policy_types, Some(vec!["Ingress".to_owned(), "Egress".to_owned()]));
    end_job(client, "b0-backup", 0, &report).await;
    let done = await_backup(client, "b0", "Completed", None).await.status.unwrap();
    assert_eq!(
        (done.index, done.size.as_deref(), done.store.as_deref()),
        (Some(7), Some("2.0 KiB"), Some("nightly"))
    );
    create_backup(client, "b1", "c0").await;
    let refused = json!({"error": {"reason": "Refused", "message": "403 from the store"}});
    end_job(client, "b1-backup", 1, &refused).await;
    let failed = await_backup(client, "b1", "Failed", Some("Refused")).await.status.unwrap();
    assert_eq!(failed.message.as_deref(), Some("403 from the store"));

    change(client, "c0", json!({"backup": null})).await;
    until("the archiver is deleted", PATIENCE, async || {
        api::<Deployment>(client).get_opt("c0-archiver").await.unwrap().is_none()
    })
    .await;
    until("nothing of backups is reported", PATIENCE, async || {
        archiving().await.is_none() && status(client, "c0").await.backup.is_none()
    })
    .await;
    assert_eq!(generation().await, before, "the StatefulSet was changed\n{}", operator.log());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn backup_of_a_deleted_cluster_fails_and_its_job_is_deleted() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let _operator = Operator::start(&server, "first");
    create_store(client).await;
    create_as(client, "c0", json!({"tls": {"mode": "off"}, "backup": {"store": "nightly"}})).await;
    until("the cluster is ready", PATIENCE, async || ready(client).await == 1).await;
    create_backup(client, "b0", "c0").await;
    await_backup(client, "b0", "Running", None).await;

    api::<HeliosCluster>(client).delete("c0", &DeleteParams::default()).await.unwrap();
    let failed = await_backup(client, "b0", "Failed", Some("ClusterDeleted")).await.status.unwrap();
    let message = failed.message.unwrap();
    assert!(message.contains("HeliosCluster c0 was deleted"), "{message}");
    assert!(api::<Job>(client).get_opt("b0-backup").await.unwrap().is_none());
}

fn other_deployment(name: &str) -> Deployment {
    let labels = json!({"app": "other"});
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn members_are_managed_when_the_archiver_is_refused() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    forbid_new(client, "apps", "deployments", "no Deployment for you").await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let probe = other_deployment("probe");
    until("no Deployment can be created", PATIENCE, async || api(client).create(&dry, &probe).await.is_err())
        .await;
    create_store(client).await;
    let operator = Operator::start(&server, "first");
    create_as(client, "c0", json!({"replicas": 1, "tls": {"mode": "off"}, "backup": {"store": "nightly"}}))
        .await;
    until("the cluster is ready", PATIENCE, async || ready(client).await == 1).await;
    until("the refusal is reported", PATIENCE, async || {
        status(client, "c0").await.condition(ConditionType::Archiving).is_some_and(|condition| {
            condition.reason == "BackupsRefused" && condition.message.contains("no Deployment for you")
        })
    })
    .await;
    change(client, "c0", json!({"replicas": 3})).await;
    until("it has grown", PATIENCE, async || status(client, "c0").await.ready.as_deref() == Some("3/3"))
        .await;
    assert!(!operator.log().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn foreign_archiver_is_left_alone_and_reported() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let stranger = other_deployment("c0-archiver");
    let planted = api::<Deployment>(client).create(&PostParams::default(), &stranger).await.unwrap();
    create_store(client).await;
    let _operator = Operator::start(&server, "first");
    create_as(client, "c0", json!({"tls": {"mode": "off"}, "backup": {"store": "nightly"}})).await;
    until("it is reported", PATIENCE, async || {
        degraded(client, "c0").await.is_some_and(|(reason, message)| {
            reason == "NameTaken" && message.contains("Deployment c0-archiver")
        })
    })
    .await;
    assert_eq!(api::<Deployment>(client).get("c0-archiver").await.unwrap(), planted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn restore_that_is_impossible_is_reported_with_nothing_begun() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let operator = Operator::start(&server, "first");
    let recovery = json!({"store": "nightly", "cluster": "old", "target": {"time": "2026-11-21T08:00:00Z"}});
    create_as(client, "c0", json!({"tls": {"mode": "off"}, "bootstrap": {"recovery": recovery}})).await;
    let is_degraded =
        async |wanted: &str| degraded(client, "c0").await.is_some_and(|(reason, _)| reason == wanted);
    until("the missing store is reported", PATIENCE, async || is_degraded("StoreMissing").await).await;
    create_store(client).await;
    let why =
        json!({"error": {"reason": "RecoveryImpossible", "message": "the nearest is 2026-11-21T09:00:00Z"}});
    end_job(client, "c0-restore", 1, &why).await;
    until("the reason is reported", PATIENCE, async || is_degraded("RecoveryImpossible").await).await;
    let status = status(client, "c0").await;
    assert!(!status.bootstrapped, "{}", operator.log());
    let source = status.recovery.unwrap().source.unwrap();
    assert!(source.message.unwrap().contains("the nearest is"), "{}", source.phase);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster; takes a minute and more"]
async fn scheduled_backup_is_created_at_its_time() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let _operator = Operator::start(&server, "first");
    let spec = json!({"schedule": "* * * * *", "backup": {"cluster": "c0"}});
    let minutely = HeliosScheduledBackup::new("minutely", serde_json::from_value(spec).unwrap());
    api(client).create(&PostParams::default(), &minutely).await.unwrap();
    until("a backup is created", Duration::from_secs(90), async || {
        !api::<HeliosBackup>(client).list(&Default::default()).await.unwrap().items.is_empty()
    })
    .await;
    let backup = api::<HeliosBackup>(client).list(&Default::default()).await.unwrap().items.remove(0);
    await_backup(client, &backup.name_any(), "Pending", Some("ClusterMissing")).await;
    let status = api::<HeliosScheduledBackup>(client).get("minutely").await.unwrap().status.unwrap();
    assert_eq!((status.last_backup, status.missed), (Some(backup.name_any()), 0));
    assert!(status.next_schedule_time.is_some());
}
