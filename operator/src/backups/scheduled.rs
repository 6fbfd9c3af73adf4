//! HeliosScheduledBackup: creates HeliosBackups by a schedule, and deletes the oldest of those that have ended. Drills are in
//! `drill`.

use std::sync::Arc;
use std::time::Duration;

use helios_crds::ConditionStatus::{False, True};
use helios_crds::{
    ConditionType, HeliosBackup, HeliosBackupSpec, HeliosScheduledBackup, HeliosScheduledBackupStatus,
    Reason, SCHEDULED_BACKUP_LABEL,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::controller::{Action, Config, Controller};
use kube::{Api, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::once::is_finished;
use super::schedule::Schedule;
use super::{RETRY, drill, drive, scoped, set_condition, span, watch_config, within_deadline, write_status};
use crate::apply::is_gone;
use crate::controller::Context;
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER};

const CONCURRENCY: u16 = 4;
/// Longest pause until the schedule is looked at again, in case the clock was set.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

pub async fn run(context: Arc<Context>, namespace: Option<&str>, stop: CancellationToken) {
    let client = &context.client;
    let results = Controller::new(scoped::<HeliosScheduledBackup>(client, namespace), watch_config())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .owns(scoped::<HeliosBackup>(client, namespace), watch_config())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            |scheduled, context| async move {
                within_deadline(&*scheduled, reconcile(&scheduled, &context)).await
            },
            |_, _, _| Action::requeue(RETRY),
            context.clone(),
        );
    drive(results).await;
}

async fn reconcile(cached: &HeliosScheduledBackup, context: &Context) -> Result<Action, Error> {
    let client = &context.client;
    let (name, namespace) = (cached.name_any(), cached.namespace().ok_or(Error::Incomplete("namespace"))?);
    let api = Api::<HeliosScheduledBackup>::namespaced(client.clone(), &namespace);
    let found = api.get_opt(&name).await.map_err(Error::kube("read HeliosScheduledBackup", &name))?;
    let Some(scheduled) = found.filter(|it| it.metadata.deletion_timestamp.is_none()) else {
        return Ok(Action::await_change());
    };
    let owner = scheduled.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    let drill_owner = owner.clone();
    let backups = Api::<HeliosBackup>::namespaced(client.clone(), &namespace);
    let labelled = ListParams::default().labels(&format!("{SCHEDULED_BACKUP_LABEL}={name}"));
    let mut existing =
        backups.list(&labelled).await.map_err(Error::kube("list HeliosBackups of", &name))?.items;
    existing.retain(|backup| backup.owner_references().iter().any(|other| other.uid == owner.uid));

    let now = Timestamp::now();
    let is_busy = existing.iter().any(|backup| !is_finished(backup));
    let (mut status, start) = decide(&scheduled, is_busy, now);
    if let Some(time) = start {
        let backup = backup_at(&scheduled, owner, time);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match backups.create(&params, &backup).await {
            // By an operator that did not live to write the status.
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(Error::kube("create HeliosBackup", backup.name_any())(error)),
            Ok(_) => {}
        }
    }
    for old in surplus(existing, scheduled.spec.history) {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: old.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        match backups.delete(&old.name_any(), &params).await {
            Err(error) if !is_gone(&error) => {
                return Err(Error::kube("delete HeliosBackup", old.name_any())(error));
            }
            _ => {}
        }
    }
    let drills = drill::reconcile(context, &scheduled, &drill_owner, now).await?;
    drills.enter(&mut status, scheduled.metadata.generation, now);
    if write_status(client, &scheduled, scheduled.status.as_ref(), &status).await? {
        drill::publish(context, &scheduled, status.drill.as_ref()).await;
    }
    Ok(requeue(&status, now))
}

fn requeue(status: &HeliosScheduledBackupStatus, now: Timestamp) -> Action {
    let drill = status.drill.as_ref();
    if drill.is_some_and(|drill| drill.running.is_some()) {
        return Action::requeue(drill::WHILE_RUNNING);
    }
    let next_drill = drill.and_then(|drill| drill.next_schedule_time.as_ref());
    let next =
        [status.next_schedule_time.as_ref(), next_drill].into_iter().flatten().map(|time| time.0).min();
    match next {
        Some(next) => {
            let pause = next.duration_since(now).max(SignedDuration::from_secs(1)).unsigned_abs();
            Action::requeue(pause.min(LONGEST_PAUSE))
        }
        None => Action::await_change(),
    }
}

/// The status after a reconcile `now`, and the time of a backup to create.
fn decide(
    scheduled: &HeliosScheduledBackup,
    is_busy: bool,
    now: Timestamp,
) -> (HeliosScheduledBackupStatus, Option<Timestamp>) {
    let (spec, generation) = (&scheduled.spec, scheduled.metadata.generation);
    let mut status = scheduled.status.clone().unwrap_or_default();
    let was_suspended = is_suspended(&status);
    status.observed_generation = generation;
    let ready = |status: &mut HeliosScheduledBackupStatus, finding| {
        set_condition(&mut status.conditions, ConditionType::Ready, finding, generation, now);
    };
    let schedule = Schedule::parse("spec.schedule", &spec.schedule, &spec.time_zone)
        .and_then(|schedule| Ok((schedule, deadline(&spec.starting_deadline)?)));
    let (schedule, deadline) = match schedule {
        Ok(parsed) => parsed,
        Err(why) => {
            status.next_schedule_time = None;
            ready(&mut status, (False, Reason::InvalidSchedule, why));
            return (status, None);
        }
    };
    if spec.suspend {
        status.next_schedule_time = None;
        ready(&mut status, (False, Reason::Suspended, "held by spec.suspend".to_owned()));
        return (status, None);
    }
    // Times while it was suspended are not missed.
    if was_suspended {
        status.last_schedule_time = Some(Time(now));
    }
    let created = scheduled.creation_timestamp().map_or(now, |time| time.0);
    let since = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    let due = schedule.due(since, now, deadline, is_busy);
    status.next_schedule_time = due.next.map(Time);
    if let Some(handled) = due.handled {
        status.last_schedule_time = Some(Time(handled));
    }
    if due.missed > 0 {
        status.missed += i64::try_from(due.missed).unwrap_or(i64::MAX);
        status.last_missed_time = due.last_missed.map(Time);
    }
    if let Some(time) = due.start {
        status.last_backup = Some(name_at(&scheduled.name_any(), time));
    }
    let finding = match due.next {
        Some(_) => (True, Reason::Scheduled, String::new()),
        None => (False, Reason::InvalidSchedule, "spec.schedule: no day has this time".to_owned()),
    };
    ready(&mut status, finding);
    (status, due.start)
}

fn is_suspended(status: &HeliosScheduledBackupStatus) -> bool {
    let mut ready = status.conditions.iter().filter(|condition| condition.type_ == ConditionType::Ready);
    ready.any(|condition| condition.reason == Reason::Suspended)
}

/// Parses spec.startingDeadline.
pub(super) fn deadline(text: &str) -> Result<SignedDuration, String> {
    span(text)
        .ok_or_else(|| format!("spec.startingDeadline is {text:?}: write digits and s, m or h, such as 1h"))
}

/// The same for one time, so that it is created once.
fn name_at(scheduled: &str, time: Timestamp) -> String {
    format!("{scheduled}-{}", time.strftime("%Y%m%d%H%M"))
}

fn backup_at(scheduled: &HeliosScheduledBackup, owner: OwnerReference, time: Timestamp) -> HeliosBackup {
    let name = scheduled.name_any();
    let template = &scheduled.spec.backup;
    let spec = HeliosBackupSpec {
        cluster: template.cluster.clone(),
        store: template.store.clone(),
        from: template.from,
    };
    let mut labels = names::worker_labels(&template.cluster, "backup");
    labels.insert(SCHEDULED_BACKUP_LABEL.to_owned(), name.clone());
    let metadata = ObjectMeta {
        name: Some(name_at(&name, time)),
        namespace: scheduled.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    HeliosBackup { metadata, spec, status: None }
}

/// The oldest of the finished backups, beyond the newest `history`.
fn surplus(backups: Vec<HeliosBackup>, history: i64) -> Vec<HeliosBackup> {
    let mut finished: Vec<_> = backups.into_iter().filter(is_finished).collect();
    finished.sort_by_key(|backup| std::cmp::Reverse(backup.creation_timestamp().map(|time| time.0)));
    finished.into_iter().skip(usize::try_from(history).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use helios_crds::HeliosBackupStatus;
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn scheduled(spec: serde_json::Value) -> HeliosScheduledBackup {
        let mut spec = spec;
        spec["backup"] = json!({"cluster": "demo", "from": "Any"});
        let mut scheduled = HeliosScheduledBackup::new("nightly", serde_json::from_value(spec).unwrap());
        scheduled.metadata.uid = Some("1".to_owned());
        scheduled.metadata.creation_timestamp = Some(Time(at("2026-11-20T12:00:00Z")));
        scheduled
    }

    fn reason(status: &HeliosScheduledBackupStatus) -> &str {
        &status.conditions[0].reason
    }

    #[test]
    fn backup_is_started_at_each_time_since_the_creation_and_no_earlier_one() {
        let mut nightly = scheduled(json!({"schedule": "0 3 * * *"}));
        let (status, start) = decide(&nightly, false, at("2026-11-20T12:00:01Z"));
        assert_eq!((start, status.missed, reason(&status)), (None, 0, "Scheduled"));
        assert_eq!(status.next_schedule_time, Some(Time(at("2026-11-21T03:00:00Z"))));
        nightly.status = Some(status);
        let (status, start) = decide(&nightly, false, at("2026-11-21T03:00:00.5Z"));
        assert_eq!((start, status.missed), (Some(at("2026-11-21T03:00:00Z")), 0));
        assert_eq!(status.last_backup.as_deref(), Some("nightly-202611210300"));
        nightly.status = Some(status);
        assert_eq!(decide(&nightly, false, at("2026-11-21T03:00:01Z")).1, None);
    }

    #[test]
    fn times_while_suspended_are_neither_started_nor_missed() {
        let mut nightly = scheduled(json!({"schedule": "0 3 * * *", "suspend": true}));
        let (status, start) = decide(&nightly, false, at("2026-11-20T13:00:00Z"));
        assert_eq!((start, reason(&status), &status.next_schedule_time), (None, "Suspended", &None));
        nightly.status = Some(status.clone());
        let (later, _) = decide(&nightly, false, at("2026-11-25T13:00:00Z"));
        assert_eq!(later, status, "no write while it is suspended");
        nightly.spec.suspend = false;
        let (status, start) = decide(&nightly, false, at("2026-11-25T03:10:00Z"));
        assert_eq!((start, status.missed, reason(&status)), (None, 0, "Scheduled"));
        nightly.status = Some(status);
        assert!(decide(&nightly, false, at("2026-11-26T03:00:01Z")).1.is_some());
    }

    #[test]
    fn missed_times_are_counted_once() {
        let mut nightly = scheduled(json!({"schedule": "0 3 * * *", "startingDeadline": "30m"}));
        let (status, start) = decide(&nightly, false, at("2026-11-23T04:00:00Z"));
        assert_eq!((start, status.missed), (None, 3));
        assert_eq!(status.last_missed_time, Some(Time(at("2026-11-23T03:00:00Z"))));
        nightly.status = Some(status.clone());
        assert_eq!(decide(&nightly, false, at("2026-11-23T04:00:01Z")).0, status);
    }

    #[test]
    fn bad_schedule_is_a_condition() {
        let (status, start) =
            decide(&scheduled(json!({"schedule": "99 3 * * *"})), false, at("2026-11-21T03:00:00Z"));
        assert_eq!((start, reason(&status)), (None, "InvalidSchedule"));
        let (status, _) =
            decide(&scheduled(json!({"schedule": "0 3 30 2 *"})), false, at("2026-11-21T03:00:00Z"));
        assert_eq!(reason(&status), "InvalidSchedule");
    }

    #[test]
    fn backup_has_the_template_the_label_and_an_owner() {
        let nightly = scheduled(json!({"schedule": "0 3 * * *"}));
        let owner = nightly.controller_owner_ref(&()).unwrap();
        let backup = backup_at(&nightly, owner, at("2026-11-21T03:00:00Z"));
        assert_eq!((&*backup.name_any(), &*backup.spec.cluster), ("nightly-202611210300", "demo"));
        assert_eq!(backup.labels()[SCHEDULED_BACKUP_LABEL], "nightly");
        assert_eq!(backup.owner_references()[0].controller, Some(true));
        backup.validate_cel().unwrap();
    }

    #[test]
    fn oldest_finished_backups_are_surplus() {
        let backup = |day: u32, phase: &str| {
            let mut backup = HeliosBackup::new(&format!("b{day}"), HeliosBackupSpec::default());
            backup.metadata.creation_timestamp = Some(Time(at(&format!("2026-11-{day:02}T03:00:00Z"))));
            backup.status = Some(HeliosBackupStatus { phase: Some(phase.to_owned()), ..Default::default() });
            backup
        };
        let all =
            vec![backup(1, "Completed"), backup(3, "Failed"), backup(2, "Completed"), backup(4, "Running")];
        let names: Vec<_> = surplus(all, 1).iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["b2", "b1"]);
    }
}
