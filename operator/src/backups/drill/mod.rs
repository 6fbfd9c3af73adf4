//! Drills of a HeliosScheduledBackup: a backup is restored into a temporary HeliosCluster, which is compared with what was
//! recorded, checked by a user's Job, and deleted. `decide` is pure; here are its observation and its effects. **A HeliosCluster
//! is deleted only when the status that was read does not name it.**

mod decide;

use std::time::Duration;

use helios_crds::{
    ConditionType, DRILL_LABEL, DrillPhase, DrillResult, DrillsStatus, HeliosBackup, HeliosCluster,
    HeliosScheduledBackup, HeliosScheduledBackupStatus, Open, RunningDrill,
};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use self::decide::{ClusterSeen, Decision, Effect, JobSeen, Refusal, Seen};
use super::set_condition;
use crate::apply::{ensure, is_gone};
use crate::build::backup::{drill_cluster, drill_job, drill_policy};
use crate::controller::Context;
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER, Key};
use crate::observe::job::outcome_by_exit_code;
use crate::observe::{Slot, slot};
use crate::validate::{ValidatedCluster, validate};

pub use self::decide::of_result;

/// Pause between two steps of a drill; its HeliosCluster is not watched.
pub const WHILE_RUNNING: Duration = Duration::from_secs(3);
/// Manager of the field `status.verified` of a HeliosBackup.
const VERIFIER: &str = "helios-operator-drills";
const RESTORE: &str = "Restore";
const LONGEST_NOTE: usize = 1000;

/// The result of a reconcile, for the status.
pub struct Drills(Decision);

impl Drills {
    /// Writes it into `status`.
    pub fn enter(self, status: &mut HeliosScheduledBackupStatus, generation: Option<i64>, now: Timestamp) {
        let Decision { status: drills, finding, .. } = self.0;
        status.drill = drills;
        match finding {
            Some(finding) => {
                let conditions = &mut status.conditions;
                set_condition(conditions, ConditionType::RestoreVerified, finding, generation, now);
            }
            None => {
                status.conditions.retain(|condition| condition.type_ != ConditionType::RestoreVerified);
            }
        }
    }
}

/// Takes the next step of the drills of `scheduled`, which `owner` refers to. A request that the API server refuses is the message of
/// the drill, and tried again until its deadline.
///
/// # Errors
/// When the API server does not answer.
pub async fn reconcile(
    context: &Context,
    scheduled: &HeliosScheduledBackup,
    owner: &OwnerReference,
    now: Timestamp,
) -> Result<Drills, Error> {
    let old = scheduled.status.as_ref().and_then(|status| status.drill.as_ref());
    if scheduled.spec.drill.is_none() && old.is_none() {
        return Ok(Drills(Decision::default()));
    }
    let runner = Runner { context, scheduled, owner, namespace: scheduled.namespace().unwrap_or_default() };
    runner.delete_surplus(old).await?;
    let running = old.and_then(|old| old.running.as_ref());
    let seen = match running {
        Some(running) => runner.observe(running).await?,
        None => Seen::default(),
    };
    let mut decision = decide::decide(scheduled, &seen, now);
    if let (Some(effect), Some(running)) = (decision.effect, running)
        && let Err(error) = runner.take_effect(effect, running, &seen, now).await
    {
        if !error.is_refused() {
            return Err(error);
        }
        if let Some(running) = decision.status.as_mut().and_then(|status| status.running.as_mut()) {
            running.message = Some(error.to_string());
        }
    }
    let last = decision.status.as_ref().and_then(|status| status.last_passed.as_ref());
    if let Some(passed) = last.filter(|passed| old.and_then(|old| old.last_passed.as_ref()) != Some(passed)) {
        runner.mark_verified(passed, &seen).await?;
    }
    Ok(Drills(decision))
}

/// Publishes what `new`, which was written, has over the status that was read, and reports it to the HeliosCluster.
pub async fn publish(context: &Context, scheduled: &HeliosScheduledBackup, new: Option<&DrillsStatus>) {
    let old = scheduled.status.as_ref().and_then(|status| status.drill.clone()).unwrap_or_default();
    let new = new.cloned().unwrap_or_default();
    for event in events(&old, &new) {
        if let Err(error) = context.recorder.publish(&event, &scheduled.object_ref(&())).await {
            tracing::warn!(%error, "cannot publish an event");
        }
    }
    if old.last != new.last {
        let namespace = scheduled.namespace().unwrap_or_default();
        // Without a receiver there is no controller of clusters.
        _ = context.drills.send(Key { namespace, name: scheduled.spec.backup.cluster.clone() });
    }
}

/// Events of the difference of two statuses; pure.
fn events(old: &DrillsStatus, new: &DrillsStatus) -> Vec<Event> {
    let event = |type_, reason: &str, note: String| Event {
        type_,
        reason: reason.to_owned(),
        action: "Drill".to_owned(),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        secondary: None,
    };
    let mut events = Vec::new();
    if new.missed > old.missed {
        let note = format!("{} times of spec.drill.schedule passed without a drill", new.missed - old.missed);
        events.push(event(EventType::Warning, "DrillMissed", note));
    }
    if let Some(result) = new.last.as_ref().filter(|last| old.last.as_ref() != Some(last)) {
        let (_, _, note) = of_result(result);
        match result.passed {
            true => events.push(event(EventType::Normal, "DrillPassed", note)),
            false => events.push(event(EventType::Warning, "DrillFailed", note)),
        }
    }
    if let Some(running) = new.running.as_ref().filter(|_| new.started > old.started) {
        let note = format!("restoring a backup into HeliosCluster {}", running.cluster);
        events.push(event(EventType::Normal, "DrillStarted", note));
    }
    events
}

struct Runner<'a> {
    context: &'a Context,
    scheduled: &'a HeliosScheduledBackup,
    owner: &'a OwnerReference,
    namespace: String,
}

impl Runner<'_> {
    fn client(&self) -> &Client {
        &self.context.client
    }

    /// Deletes HeliosClusters of ended drills.
    async fn delete_surplus(&self, old: Option<&DrillsStatus>) -> Result<(), Error> {
        let name = self.scheduled.name_any();
        let api = Api::<HeliosCluster>::namespaced(self.client().clone(), &self.namespace);
        let labelled = ListParams::default().labels(&format!("{DRILL_LABEL}={name}"));
        let found = api.list_metadata(&labelled).await;
        let found = found.map_err(Error::kube("list the HeliosClusters of drills of", &name))?;
        let running = old.and_then(|old| old.running.as_ref()).map(|running| &running.cluster);
        let kept = old.and_then(|old| old.kept.as_ref());
        for cluster in found {
            let name = cluster.name_any();
            let is_ours = cluster.owner_references().iter().any(|other| other.uid == self.owner.uid);
            let is_needed = [running, kept].contains(&Some(&name));
            if !is_ours || is_needed || cluster.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: cluster.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Err(error) if !is_gone(&error) => {
                    return Err(Error::kube("delete HeliosCluster", name)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn observe(&self, running: &RunningDrill) -> Result<Seen, Error> {
        let cluster = match slot::<HeliosCluster>(
            self.client(),
            &self.namespace,
            &running.cluster,
            self.owner,
        )
        .await?
        {
            Slot::Free => ClusterSeen::Absent,
            Slot::Taken(taken) => ClusterSeen::Taken(taken.to_string()),
            Slot::Ours(cluster) if cluster.metadata.deletion_timestamp.is_some() => ClusterSeen::Terminating,
            Slot::Ours(cluster) => ClusterSeen::Ours(cluster),
        };
        let mut seen = Seen::default();
        match (&running.phase, &cluster) {
            (Open::Known(DrillPhase::Starting), ClusterSeen::Absent) => {
                seen.refusal = self.source().await?.err();
            }
            (Open::Known(DrillPhase::Restored | DrillPhase::Checking), ClusterSeen::Ours(cluster)) => {
                seen.job = self.job(cluster).await?;
            }
            _ => {}
        }
        Ok(Seen { cluster, ..seen })
    }

    async fn job(&self, cluster: &HeliosCluster) -> Result<JobSeen, Error> {
        let owner = cluster.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
        let name = names::drill_job(&cluster.name_any());
        Ok(match slot::<Job>(self.client(), &self.namespace, &name, &owner).await? {
            Slot::Free => JobSeen::Absent,
            Slot::Taken(taken) => JobSeen::Taken(taken.to_string()),
            Slot::Ours(job) => JobSeen::Ours(outcome_by_exit_code(self.client(), &job).await?),
        })
    }

    /// The cluster that was backed up and the name of the store, or why nothing can be restored.
    async fn source(&self) -> Result<Result<(HeliosCluster, String), Refusal>, Error> {
        let backup = &self.scheduled.spec.backup;
        let name = &backup.cluster;
        let api = Api::<HeliosCluster>::namespaced(self.client().clone(), &self.namespace);
        let found = api.get_opt(name).await.map_err(Error::kube("read HeliosCluster", name))?;
        let Some(cluster) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
            let message = format!("HeliosCluster {name} does not exist in namespace {}", self.namespace);
            return Ok(Err(("ClusterMissing", message)));
        };
        let of_cluster = cluster.spec.backup.as_ref().map(|backup| backup.store.clone());
        let Some(store) = backup.store.clone().or(of_cluster) else {
            let message = format!("HeliosCluster {name} has no spec.backup");
            return Ok(Err(("BackupsOff", message)));
        };
        Ok(Ok((cluster, store)))
    }

    async fn take_effect(
        &self,
        effect: Effect,
        running: &RunningDrill,
        seen: &Seen,
        now: Timestamp,
    ) -> Result<(), Error> {
        match (effect, &seen.cluster) {
            (Effect::Create, _) => self.create(running).await,
            (Effect::StartJob, ClusterSeen::Ours(cluster)) => self.start_job(running, cluster, now).await,
            (Effect::StartJob, _) => Ok(()),
        }
    }

    async fn create(&self, running: &RunningDrill) -> Result<(), Error> {
        let Ok((source, store)) = self.source().await? else { return Ok(()) };
        let cluster = drill_cluster(self.scheduled, self.owner.clone(), &source, &store, running);
        let api = Api::<HeliosCluster>::namespaced(self.client().clone(), &self.namespace);
        match api.create(&params(), &cluster).await {
            // By an operator that did not live to write the status.
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
            Err(error) => Err(Error::kube("create HeliosCluster", &running.cluster)(error)),
            Ok(_) => Ok(()),
        }
    }

    async fn start_job(
        &self,
        running: &RunningDrill,
        cluster: &HeliosCluster,
        now: Timestamp,
    ) -> Result<(), Error> {
        let drill = self.scheduled.spec.drill.as_ref();
        let Some(job) = drill.and_then(|drill| drill.job.as_ref()) else { return Ok(()) };
        let Ok(validated) = validate(cluster, None, &self.context.defaults) else { return Ok(()) };
        self.apply_policy(&validated).await?;
        let seconds = running.deadline.0.duration_since(now).as_secs();
        let job = drill_job(&validated, job, seconds);
        let api = Api::<Job>::namespaced(self.client().clone(), &self.namespace);
        match api.create(&params(), &job).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
            Err(error) => Err(Error::kube("create the Job of", &running.cluster)(error)),
            Ok(_) => Ok(()),
        }
    }

    /// Before the Job, whose pod must not have more access for a moment.
    async fn apply_policy(&self, cluster: &ValidatedCluster) -> Result<(), Error> {
        let Some(policy) = drill_policy(cluster) else { return Ok(()) };
        let name = names::drill_job(&cluster.name);
        let found = slot::<NetworkPolicy>(self.client(), &self.namespace, &name, &cluster.owner).await?;
        ensure(self.client(), policy, &found).await.map(drop)
    }

    /// Notes in the HeliosBackups of the restored base that it was restored.
    async fn mark_verified(&self, passed: &DrillResult, seen: &Seen) -> Result<(), Error> {
        let (Some(base), ClusterSeen::Ours(drill)) = (&passed.base, &seen.cluster) else { return Ok(()) };
        let recovery = drill.status.as_ref().and_then(|status| status.recovery.as_ref());
        let source = recovery.and_then(|recovery| recovery.source.as_ref());
        let cluster_id = source.and_then(|source| source.cluster_id.as_ref());
        let api = Api::<HeliosBackup>::namespaced(self.client().clone(), &self.namespace);
        let backups = api.list(&ListParams::default()).await;
        let backups = backups.map_err(Error::kube("list HeliosBackups in", &self.namespace))?;
        for backup in backups {
            let Some(status) = &backup.status else { continue };
            let own = status.index.zip(status.term).map(|(index, term)| format!("{index}-{term}"));
            if own.as_ref() != Some(base) || status.cluster_id.as_ref() != cluster_id {
                continue;
            }
            let patch = json!({
                "apiVersion": HeliosBackup::api_version(&()),
                "kind": HeliosBackup::kind(&()),
                "status": {"verified": {"at": passed.finished_at, "kind": RESTORE}},
            });
            let name = backup.name_any();
            let params = PatchParams::apply(VERIFIER).force();
            match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
                Err(error) if !is_gone(&error) => return Err(Error::kube("write status of", name)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(passed: bool, second: i64) -> DrillResult {
        let time = |second| serde_json::to_value(Timestamp::from_second(second).unwrap()).unwrap();
        serde_json::from_value(json!({
            "passed": passed, "cluster": "nightly-drill-1", "startedAt": time(1), "finishedAt": time(second),
            "reason": (!passed).then_some("JobFailed"), "message": (!passed).then_some("exit code 3"),
        }))
        .unwrap()
    }

    #[test]
    fn drill_has_an_event_when_it_starts_ends_or_is_missed() {
        let reasons = |old: &DrillsStatus, new: &DrillsStatus| -> Vec<String> {
            events(old, new).into_iter().map(|event| event.reason).collect()
        };
        let running = RunningDrill {
            cluster: "nightly-drill-1".to_owned(),
            phase: DrillPhase::Starting.into(),
            started_at: result(true, 1).started_at,
            deadline: result(true, 1).started_at,
            target: None,
            restored_at: None,
            message: None,
        };
        let idle = DrillsStatus::default();
        let started = DrillsStatus { started: 1, running: Some(running), ..DrillsStatus::default() };
        assert_eq!(reasons(&idle, &started), ["DrillStarted"]);
        assert!(reasons(&started, &started).is_empty());
        let passed = DrillsStatus { last: Some(result(true, 9)), running: None, ..started.clone() };
        assert_eq!(reasons(&started, &passed), ["DrillPassed"]);
        let failed = DrillsStatus { last: Some(result(false, 9)), missed: 2, ..passed.clone() };
        assert_eq!(reasons(&passed, &failed), ["DrillMissed", "DrillFailed"]);
        let note = events(&passed, &failed)[1].note.clone().unwrap();
        assert_eq!(note, "nightly-drill-1, JobFailed: exit code 3");
    }
}
