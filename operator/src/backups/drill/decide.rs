//! The next step of a drill, and when one starts; pure. Each step is latched in the status before anything is created for it, so
//! that an operator that was interrupted continues from what the API server has.

use helios_crds::ConditionStatus::{False, True, Unknown};
use helios_crds::{
    ConditionStatus, ConditionType, DrillPhase, DrillResult, DrillSpec, DrillsStatus, HeliosCluster,
    HeliosScheduledBackup, Open, Reason, RecoverySourceStatus, RunningDrill,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::backups::schedule::Schedule;
use crate::backups::scheduled::deadline;
use crate::backups::span;
use crate::names;
use crate::observe::job::Outcome;

/// State of the HeliosCluster of the running drill.
#[derive(Debug, Clone, Default)]
pub enum ClusterSeen {
    #[default]
    Absent,
    /// Another object has its name.
    Taken(String),
    /// It is being deleted.
    Terminating,
    Ours(Box<HeliosCluster>),
}

/// State of the Job that checks the restored cluster.
#[derive(Debug, Clone, Default)]
pub enum JobSeen {
    #[default]
    Absent,
    Taken(String),
    Ours(Outcome<()>),
}

/// Reason and message of a failure.
pub type Refusal = (&'static str, String);

/// Observation of the running drill; of none, it is empty.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub cluster: ClusterSeen,
    pub job: JobSeen,
    /// Why nothing can be restored, read before the HeliosCluster is created.
    pub refusal: Option<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Create,
    StartJob,
}

pub type Finding = (ConditionStatus, Reason, String);

/// The status of the drills, an effect that the status as it was read permits, and the condition RestoreVerified.
#[derive(Debug, Default)]
pub struct Decision {
    pub status: Option<DrillsStatus>,
    pub effect: Option<Effect>,
    pub finding: Option<Finding>,
}

pub fn decide(scheduled: &HeliosScheduledBackup, seen: &Seen, now: Timestamp) -> Decision {
    let old = scheduled.status.as_ref().and_then(|status| status.drill.clone());
    let Some(spec) = &scheduled.spec.drill else {
        // Results stay, and the number, so that no name is used twice.
        let status = old.map(|old| DrillsStatus {
            last_schedule_time: None,
            next_schedule_time: None,
            running: None,
            kept: None,
            ..old
        });
        return Decision { status, ..Decision::default() };
    };
    let mut status = old.unwrap_or_default();
    let mut effect = None;
    if let Some(running) = status.running.take() {
        match proceed(&running, spec, seen, now) {
            Next::Waits(running, due) => (status.running, effect) = (Some(running), due),
            Next::Ended(result) => end(&mut status, spec, result),
        }
    }
    let finding = match start_due(scheduled, spec, &mut status, now) {
        Ok(()) => verdict(&status),
        Err(why) => (False, Reason::InvalidSchedule, why),
    };
    Decision { status: Some(status), effect, finding: Some(finding) }
}

enum Next {
    Waits(RunningDrill, Option<Effect>),
    Ended(DrillResult),
}

/// The next step of the drill `running`. A result that is there counts even after the deadline.
fn proceed(running: &RunningDrill, spec: &DrillSpec, seen: &Seen, now: Timestamp) -> Next {
    let next = match (&running.phase, &seen.cluster) {
        (Open::Known(DrillPhase::Starting), cluster) => starting(running, cluster, seen.refusal.clone(), now),
        (_, ClusterSeen::Ours(cluster)) => match running.phase {
            Open::Known(DrillPhase::Restored) => restored(running, cluster, spec, &seen.job, now),
            Open::Known(DrillPhase::Checking) => checking(running, cluster, &seen.job, now),
            _ => restoring(running, cluster, spec, now),
        },
        _ => {
            let message = format!("HeliosCluster {} was deleted before the drill had ended", running.cluster);
            failed(running, None, ("ClusterDeleted", message), now)
        }
    };
    match next {
        Next::Waits(running, _) if now >= running.deadline.0 => {
            let last =
                running.message.clone().unwrap_or_else(|| format!("{} was the last step", running.phase));
            let message = format!("it had not ended by its deadline (spec.drill.deadline): {last}");
            let cluster = match &seen.cluster {
                ClusterSeen::Ours(cluster) => Some(&**cluster),
                _ => None,
            };
            failed(&running, cluster, ("Overdue", message), now)
        }
        next => next,
    }
}

fn starting(running: &RunningDrill, cluster: &ClusterSeen, refusal: Option<Refusal>, now: Timestamp) -> Next {
    match (cluster, refusal) {
        (ClusterSeen::Ours(_), _) => Next::Waits(in_phase(running, DrillPhase::Restoring, None), None),
        (ClusterSeen::Taken(taken), _) => {
            let message = format!("{taken} has the name of its HeliosCluster; delete it");
            failed(running, None, ("NameTaken", message), now)
        }
        (ClusterSeen::Terminating, _) => {
            let message = format!("waiting until an earlier HeliosCluster {} is deleted", running.cluster);
            Next::Waits(in_phase(running, DrillPhase::Starting, Some(message)), None)
        }
        (ClusterSeen::Absent, Some(refusal)) => failed(running, None, refusal, now),
        (ClusterSeen::Absent, None) => {
            Next::Waits(in_phase(running, DrillPhase::Starting, None), Some(Effect::Create))
        }
    }
}

fn restoring(running: &RunningDrill, cluster: &HeliosCluster, spec: &DrillSpec, now: Timestamp) -> Next {
    let source = source(cluster);
    match (source.phase.as_str(), refute(&source)) {
        ("Failed", _) => {
            let message = source.message.unwrap_or_else(|| "the restore has failed".to_owned());
            failed(running, Some(cluster), (failure(&message), message), now)
        }
        (_, Some(refusal)) => failed(running, Some(cluster), refusal, now),
        ("Completed", None) if is_ready(cluster) => {
            let restored_at = Some(Time(now));
            let restored = RunningDrill { restored_at, ..in_phase(running, DrillPhase::Restored, None) };
            match &spec.job {
                Some(_) => Next::Waits(restored, None),
                None => passed(&restored, cluster, now),
            }
        }
        _ => {
            let message = source.message.or_else(|| step(cluster));
            Next::Waits(in_phase(running, DrillPhase::Restoring, message), None)
        }
    }
}

fn restored(
    running: &RunningDrill,
    cluster: &HeliosCluster,
    spec: &DrillSpec,
    job: &JobSeen,
    now: Timestamp,
) -> Next {
    match job {
        _ if spec.job.is_none() => passed(running, cluster, now),
        JobSeen::Absent => Next::Waits(in_phase(running, DrillPhase::Restored, None), Some(Effect::StartJob)),
        JobSeen::Taken(taken) => {
            let message = format!("{taken} has the name of its Job; delete it");
            failed(running, Some(cluster), ("NameTaken", message), now)
        }
        JobSeen::Ours(_) => Next::Waits(in_phase(running, DrillPhase::Checking, None), None),
    }
}

fn checking(running: &RunningDrill, cluster: &HeliosCluster, job: &JobSeen, now: Timestamp) -> Next {
    let refusal = match job {
        JobSeen::Ours(Outcome::Completed(())) => return passed(running, cluster, now),
        JobSeen::Ours(Outcome::Running(message)) => {
            return Next::Waits(in_phase(running, DrillPhase::Checking, message.clone()), None);
        }
        JobSeen::Ours(Outcome::Failed { reason, message }) => {
            let name = names::drill_job(&running.cluster);
            ("JobFailed", format!("Job {name} has failed ({reason}): {message}"))
        }
        JobSeen::Absent | JobSeen::Taken(_) => {
            ("JobDeleted", "its Job was deleted before it had ended".to_owned())
        }
    };
    failed(running, Some(cluster), refusal, now)
}

/// Reason of a restore that has failed with `message`, which begins with that of its Job.
fn failure(message: &str) -> &'static str {
    let states = ["DigestDiffers", "MembersDiffer"];
    let found = states.into_iter().find(|reason| message.starts_with(&format!("{reason}: ")));
    found.unwrap_or("RestoreFailed")
}

/// Why the restored state is not the one of the backup. The number of keys of the base is that of the restored state only if no log
/// follows the base.
fn refute(source: &RecoverySourceStatus) -> Option<Refusal> {
    if source.digest_matches == Some(false) {
        let message = "the restored base has another digest than the one that was recorded with the backup";
        return Some(("DigestDiffers", message.to_owned()));
    }
    let base_index = source.base.as_ref().and_then(|base| base.split_once('-')?.0.parse::<i64>().ok());
    let (keys, recorded) = (source.keys?, source.base_keys?);
    (base_index == source.index && keys != recorded).then(|| {
        let message = format!("{keys} keys were restored, {recorded} were recorded with the backup");
        ("KeysDiffer", message)
    })
}

fn source(cluster: &HeliosCluster) -> RecoverySourceStatus {
    let recovery = cluster.status.as_ref().and_then(|status| status.recovery.as_ref());
    recovery.and_then(|recovery| recovery.source.clone()).unwrap_or_default()
}

fn is_ready(cluster: &HeliosCluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| status.bootstrapped && status.is(ConditionType::Ready))
}

fn step(cluster: &HeliosCluster) -> Option<String> {
    Some(cluster.status.as_ref()?.operation.as_ref()?.step.clone())
}

fn in_phase(running: &RunningDrill, phase: DrillPhase, message: Option<String>) -> RunningDrill {
    RunningDrill { phase: phase.into(), message, ..running.clone() }
}

fn passed(running: &RunningDrill, cluster: &HeliosCluster, now: Timestamp) -> Next {
    let message = source(cluster).message;
    Next::Ended(DrillResult { passed: true, message, ..result(running, Some(cluster), now) })
}

fn failed(
    running: &RunningDrill,
    cluster: Option<&HeliosCluster>,
    (reason, message): Refusal,
    now: Timestamp,
) -> Next {
    let result = result(running, cluster, now);
    Next::Ended(DrillResult { reason: Some(reason.to_owned()), message: Some(message), ..result })
}

fn result(running: &RunningDrill, cluster: Option<&HeliosCluster>, now: Timestamp) -> DrillResult {
    let source = cluster.map(source).unwrap_or_default();
    let took =
        running.restored_at.as_ref().map(|at| at.0.duration_since(running.started_at.0).as_secs().max(0));
    DrillResult {
        passed: false,
        reason: None,
        message: None,
        cluster: running.cluster.clone(),
        started_at: running.started_at.clone(),
        finished_at: Time(now),
        restore_seconds: took,
        took: took.map(length),
        base: source.base,
        index: source.index,
        as_of: source.as_of,
        keys: source.keys,
        digest_matches: source.digest_matches,
    }
}

/// A duration for users.
fn length(seconds: i64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

fn end(status: &mut DrillsStatus, spec: &DrillSpec, result: DrillResult) {
    if result.passed {
        status.last_passed = Some(result.clone());
    } else if spec.keep_on_failure {
        status.kept = Some(result.cluster.clone());
    }
    status.last = Some(result);
}

/// Starts the drill that is due. A running one is not disturbed; times while the schedule is suspended are not missed.
fn start_due(
    scheduled: &HeliosScheduledBackup,
    spec: &DrillSpec,
    status: &mut DrillsStatus,
    now: Timestamp,
) -> Result<(), String> {
    status.next_schedule_time = None;
    let zone = &scheduled.spec.time_zone;
    let schedule = Schedule::parse("spec.drill.schedule", &spec.schedule, zone)?;
    let starting = deadline(&scheduled.spec.starting_deadline)?;
    let longest = span(&spec.deadline)
        .ok_or_else(|| format!("spec.drill.deadline is {:?}: write digits and m or h", spec.deadline))?;
    let age = age(spec)?;
    if scheduled.spec.suspend {
        status.last_schedule_time = None;
        return Ok(());
    }
    // Times before the drills were asked for are not missed.
    let since = status.last_schedule_time.get_or_insert(Time(now)).0;
    let due = schedule.due(since, now, starting, status.running.is_some());
    status.next_schedule_time = due.next.map(Time);
    if let Some(handled) = due.handled {
        status.last_schedule_time = Some(Time(handled));
    }
    if due.missed > 0 {
        status.missed += i64::try_from(due.missed).unwrap_or(i64::MAX);
        status.last_missed_time = due.last_missed.map(Time);
    }
    if due.start.is_some() {
        status.started += 1;
        status.kept = None;
        status.running = Some(RunningDrill {
            cluster: names::drill(&scheduled.name_any(), status.started),
            phase: DrillPhase::Starting.into(),
            started_at: Time(now),
            deadline: Time(now.saturating_add(longest).unwrap_or(Timestamp::MAX)),
            target: age.map(|age| Time(now.saturating_sub(age).unwrap_or(Timestamp::MIN))),
            restored_at: None,
            message: None,
        });
    }
    match due.next {
        Some(_) => Ok(()),
        None => Err("spec.drill.schedule: no day has this time".to_owned()),
    }
}

fn age(spec: &DrillSpec) -> Result<Option<SignedDuration>, String> {
    let Some(age) = spec.target.as_ref().and_then(|target| target.age.as_ref()) else { return Ok(None) };
    let wrong = || format!("spec.drill.target.age is {age:?}: write digits and m, h or d, such as 12h");
    span(age).map(Some).ok_or_else(wrong)
}

/// Condition RestoreVerified after these drills.
fn verdict(status: &DrillsStatus) -> Finding {
    match &status.last {
        None => (Unknown, Reason::NoDrill, "no drill has ended yet".to_owned()),
        Some(result) => of_result(result),
    }
}

/// Condition RestoreVerified after a drill with this result.
pub fn of_result(result: &DrillResult) -> Finding {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if !result.passed {
        let message = format!("{}, {}: {}", result.cluster, text(&result.reason), text(&result.message));
        return (False, Reason::DrillFailed, message);
    }
    let (keys, index) = (result.keys.unwrap_or_default(), result.index.unwrap_or_default());
    let digest = match result.digest_matches {
        Some(_) => "the digest of its base is the recorded one",
        None => "no digest was recorded with its base",
    };
    let compared = result.message.as_ref().map(|message| format!("; {message}")).unwrap_or_default();
    let message =
        format!("{keys} keys at index {index} were restored in {}; {digest}{compared}", text(&result.took));
    (True, Reason::DrillPassed, message)
}

#[cfg(test)]
mod tests;
