//! Drills at a real API server. The Jobs of the restore and of the check are ended by the test, as their controller would.

use std::time::Duration;

use helios_crds::{
    ConditionType, DrillPhase, DrillsStatus, HeliosBackup, HeliosCluster, HeliosScheduledBackup,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::backups::{api, await_backup, create_backup, create_store, end_job};
use super::nodes::Nodes;
use super::operator::{Operator, sum};
use super::{begin, create_as, ready, status, until};

const PATIENCE: Duration = Duration::from_secs(60);
const DRILL: &str = "nightly-drill-1";

/// Creates a cluster with backups and waits until it is ready; returns its id.
async fn source(client: &Client) -> String {
    create_store(client).await;
    create_as(client, "c0", json!({"replicas": 1, "tls": {"mode": "off"}, "backup": {"store": "nightly"}}))
        .await;
    until("the cluster is ready", PATIENCE, async || ready(client).await == 1).await;
    status(client, "c0").await.cluster_id.unwrap()
}

/// Creates a HeliosScheduledBackup with a drill at a time of the year that is now.
async fn schedule(client: &Client, mut drill: Value) {
    let now = Timestamp::now();
    drill["schedule"] = now.strftime("%-M %-H %-d %-m *").to_string().into();
    let spec = json!({"schedule": "0 0 1 1 *", "backup": {"cluster": "c0"}, "drill": drill});
    let scheduled = HeliosScheduledBackup::new("nightly", serde_json::from_value(spec).unwrap());
    api(client).create(&PostParams::default(), &scheduled).await.unwrap();
    until("the schedule is known", PATIENCE, async || drills(client).await.last_schedule_time.is_some())
        .await;
    due(client, now).await;
}

/// Makes the time of the schedule, which began in the minute of `now`, one that was not handled.
async fn due(client: &Client, now: Timestamp) {
    let before = now - SignedDuration::from_mins(1);
    let patch = Patch::Merge(json!({"status": {"drill": {"lastScheduleTime": before}}}));
    let scheduled = api::<HeliosScheduledBackup>(client);
    scheduled.patch_status("nightly", &PatchParams::default(), &patch).await.unwrap();
}

async fn drills(client: &Client) -> DrillsStatus {
    let found = api::<HeliosScheduledBackup>(client).get("nightly").await.unwrap();
    found.status.and_then(|status| status.drill).unwrap_or_default()
}

async fn await_phase(client: &Client, phase: DrillPhase) {
    until(&format!("the drill is {phase:?}"), PATIENCE, async || {
        drills(client).await.running.is_some_and(|running| running.phase == phase)
    })
    .await;
}

async fn exists(client: &Client, cluster: &str) -> bool {
    api::<HeliosCluster>(client).get_opt(cluster).await.unwrap().is_some()
}

/// Restores the base 7-2 of the cluster `source` into the cluster of the drill, as its Job would.
async fn restore(client: &Client, nodes: &Nodes, source: &str) {
    let job = format!("{DRILL}-restore");
    until("the restore begins", PATIENCE, async || api::<Job>(client).get_opt(&job).await.unwrap().is_some())
        .await;
    let id = status(client, DRILL).await.cluster_id.unwrap();
    nodes.restore(DRILL, &id);
    let report = json!({
        "sourceClusterId": source, "clusterId": id, "baseIndex": 7, "baseTerm": 2, "baseKeys": 5, "index": 7,
        "keys": 5, "digestMatches": true, "tookMs": 900,
    });
    end_job(client, &job, 0, &report).await;
}

fn failed_drills(operator: &Operator) -> Option<f64> {
    let samples = operator.metrics();
    let is_c0 = |key: &&String| key.starts_with("cluster_drill_failed{") && key.contains("\"c0\"");
    samples.keys().find(is_c0)?;
    Some(sum(&samples, "cluster_drill_failed", |_| true))
}

async fn condition(client: &Client) -> Option<(String, String)> {
    let status = status(client, "c0").await;
    let found = status.condition(ConditionType::RestoreVerified)?;
    Some((found.status.clone(), found.reason.clone()))
}

async fn has_condition(client: &Client, status: &str, reason: &str) -> bool {
    condition(client).await == Some((status.to_owned(), reason.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn drill_is_restored_checked_recorded_and_deleted() {
    let (server, nodes) = begin().await;
    let client = &server.client;
    let operator = Operator::start(&server, "first");
    let source = source(client).await;
    create_backup(client, "b0", "c0").await;
    let base = json!({"clusterId": source, "index": 7, "term": 2, "keys": 5});
    end_job(client, "b0-backup", 0, &base).await;
    await_backup(client, "b0", "Completed", None).await;

    schedule(client, json!({"job": {"image": "redis:7", "command": ["true"]}})).await;
    until("the cluster of the drill is created", PATIENCE, async || exists(client, DRILL).await).await;
    let drill = api::<HeliosCluster>(client).get(DRILL).await.unwrap();
    let recovery = drill.spec.bootstrap.clone().unwrap().recovery.unwrap();
    assert_eq!((recovery.cluster_id.as_deref(), &*recovery.store), (Some(source.as_str()), "nightly"));
    assert_eq!((drill.spec.replicas, drill.spec.backup.is_none()), (1, true), "it has no backups itself");
    restore(client, &nodes, &source).await;
    await_phase(client, DrillPhase::Checking).await;
    for policy in [format!("{DRILL}-restore"), format!("{DRILL}-check")] {
        let policy = api::<NetworkPolicy>(client).get(&policy).await.unwrap();
        assert_eq!(policy.spec.unwrap().policy_types.unwrap(), ["Ingress", "Egress"]);
    }
    end_job(client, &format!("{DRILL}-check"), 0, &Value::Null).await;

    until("the drill passes", PATIENCE, async || drills(client).await.last_passed.is_some()).await;
    until("its cluster is deleted", PATIENCE, async || !exists(client, DRILL).await).await;
    let found = drills(client).await;
    let result = found.last.unwrap();
    assert_eq!((result.passed, result.index, result.keys), (true, Some(7), Some(5)));
    assert!(result.restore_seconds.is_some() && found.running.is_none() && found.missed == 0);
    until("the cluster reports it", PATIENCE, async || has_condition(client, "True", "DrillPassed").await)
        .await;
    let verified = status(client, "c0").await.backup.unwrap().last_verified_restore.unwrap();
    assert_eq!((verified.drill.as_str(), verified.index, verified.keys), ("nightly", 7, 5));
    assert_eq!(verified.at, result.finished_at);
    until("it is a metric", PATIENCE, async || failed_drills(&operator) == Some(0.0)).await;
    let backup = api::<HeliosBackup>(client).get("b0").await.unwrap().status.unwrap();
    assert_eq!(backup.verified.map(|verified| verified.kind).as_deref(), Some("Restore"));
    assert_eq!(backup.phase.as_deref(), Some("Completed"));
    let events = api::<Event>(client).list(&Default::default()).await.unwrap();
    let of_drill = |event: &&Event| {
        event.regarding.as_ref().is_some_and(|it| it.kind.as_deref() == Some("HeliosScheduledBackup"))
    };
    let reasons: Vec<_> = events.iter().filter(of_drill).filter_map(|event| event.reason.clone()).collect();
    for reason in ["DrillStarted", "DrillPassed"] {
        assert!(reasons.iter().any(|found| found == reason), "{reasons:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn drill_that_fails_is_reported_and_its_cluster_is_kept_until_the_next_one() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    let operator = Operator::start(&server, "first");
    source(client).await;
    let now = Timestamp::now();
    schedule(client, json!({"keepOnFailure": true})).await;
    let damaged = json!({"error": {"reason": "Damaged", "message": "base/7-2/0000.part has another hash"}});
    end_job(client, &format!("{DRILL}-restore"), 1, &damaged).await;
    until("the drill fails", PATIENCE, async || drills(client).await.last.is_some()).await;
    let found = drills(client).await;
    let result = found.last.unwrap();
    assert_eq!((result.passed, result.reason.as_deref()), (false, Some("RestoreFailed")));
    assert!(result.message.unwrap().contains("0000.part"));
    assert_eq!((found.kept.as_deref(), found.last_passed), (Some(DRILL), None));
    until("the cluster reports it", PATIENCE, async || has_condition(client, "False", "DrillFailed").await)
        .await;
    until("it is a metric", PATIENCE, async || failed_drills(&operator) == Some(1.0)).await;
    let scheduled = api::<HeliosScheduledBackup>(client).get("nightly").await.unwrap().status.unwrap();
    let verified = |type_: &str| type_ == ConditionType::RestoreVerified.to_string();
    let verified = scheduled.conditions.iter().find(|condition| verified(&condition.type_)).unwrap();
    assert!(verified.message.contains("RestoreFailed: Damaged"), "{}", verified.message);
    assert!(exists(client, DRILL).await, "it was asked for");

    due(client, now).await;
    until("the next one starts", PATIENCE, async || exists(client, "nightly-drill-2").await).await;
    until("the kept cluster is deleted", PATIENCE, async || !exists(client, DRILL).await).await;
    assert!(has_condition(client, "False", "DrillFailed").await, "until a drill passes");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster; waits for leases"]
async fn drill_continues_when_the_operator_is_killed() {
    let (server, nodes) = begin().await;
    let client = &server.client;
    let first = Operator::start(&server, "first");
    let source = source(client).await;
    schedule(client, json!({"job": {"image": "redis:7"}})).await;
    until("the cluster of the drill is created", PATIENCE, async || exists(client, DRILL).await).await;
    first.signal("KILL");
    let uid = api::<HeliosCluster>(client).get(DRILL).await.unwrap().uid();

    let second = Operator::start(&server, "second");
    restore(client, &nodes, &source).await;
    let check = format!("{DRILL}-check");
    until("the Job is created", PATIENCE, async || {
        api::<Job>(client).get_opt(&check).await.unwrap().is_some()
    })
    .await;
    second.signal("KILL");
    end_job(client, &check, 0, &Value::Null).await;
    assert_eq!(
        api::<HeliosCluster>(client).get(DRILL).await.unwrap().uid(),
        uid,
        "one cluster for one drill"
    );

    let _third = Operator::start(&server, "third");
    until("the drill passes", PATIENCE, async || drills(client).await.last_passed.is_some()).await;
    until("its cluster is deleted", PATIENCE, async || !exists(client, DRILL).await).await;
    let found = drills(client).await;
    assert_eq!((found.started, found.missed, found.running), (1, 0, None));
}
