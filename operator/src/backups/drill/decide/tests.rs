use serde_json::{Value, json};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn nightly(drill: Value) -> HeliosScheduledBackup {
    let spec = json!({"schedule": "0 3 * * *", "backup": {"cluster": "demo"}, "drill": drill});
    let mut scheduled = HeliosScheduledBackup::new("nightly", serde_json::from_value(spec).unwrap());
    scheduled.status = Some(Default::default());
    scheduled
}

fn plain() -> HeliosScheduledBackup {
    nightly(json!({"schedule": "0 5 * * *"}))
}

fn with_job() -> HeliosScheduledBackup {
    nightly(json!({"schedule": "0 5 * * *", "job": {"image": "redis:7"}}))
}

/// Takes one step at `now`, and keeps the status as the API server would.
fn step(scheduled: &mut HeliosScheduledBackup, seen: &Seen, now: &str) -> Decision {
    let decision = decide(scheduled, seen, at(now));
    scheduled.status.as_mut().unwrap().drill.clone_from(&decision.status);
    decision
}

fn status(scheduled: &HeliosScheduledBackup) -> DrillsStatus {
    scheduled.status.clone().unwrap().drill.unwrap()
}

fn phase(scheduled: &HeliosScheduledBackup) -> Option<DrillPhase> {
    match status(scheduled).running?.phase {
        Open::Known(phase) => Some(phase),
        Open::Other(_) => None,
    }
}

/// A drill that was started at 05:00 on the 21st.
fn started(mut scheduled: HeliosScheduledBackup) -> HeliosScheduledBackup {
    step(&mut scheduled, &Seen::default(), "2026-11-20T12:00:00Z");
    step(&mut scheduled, &Seen::default(), "2026-11-21T05:00:00Z");
    scheduled
}

fn cluster(source: Value, is_ready: bool) -> ClusterSeen {
    let ready = json!({
        "type": "Ready", "status": if is_ready { "True" } else { "False" }, "reason": "Healthy", "message": "",
        "lastTransitionTime": "2026-11-21T05:00:30Z",
    });
    let mut cluster = HeliosCluster::new("nightly-drill-1", Default::default());
    let status = json!({"bootstrapped": is_ready, "conditions": [ready], "recovery": {"source": source}});
    cluster.status = Some(serde_json::from_value(status).unwrap());
    ClusterSeen::Ours(Box::new(cluster))
}

/// A restore of base 7 and of the log after it.
fn completed() -> Value {
    json!({
        "store": "s", "phase": "Completed", "base": "7-2", "baseKeys": 5, "index": 9, "keys": 6,
        "digestMatches": true,
    })
}

fn seen(cluster: ClusterSeen) -> Seen {
    Seen { cluster, ..Seen::default() }
}

fn checked(outcome: Outcome<()>) -> Seen {
    Seen { job: JobSeen::Ours(outcome), ..seen(cluster(completed(), true)) }
}

fn reason(scheduled: &HeliosScheduledBackup) -> Option<String> {
    status(scheduled).last?.reason
}

#[test]
fn drill_goes_from_its_time_to_a_verified_restore() {
    let mut scheduled = with_job();
    let first = step(&mut scheduled, &Seen::default(), "2026-11-20T12:00:00Z");
    assert_eq!(first.finding.unwrap().1, Reason::NoDrill);
    assert_eq!(status(&scheduled).next_schedule_time, Some(Time(at("2026-11-21T05:00:00Z"))));
    let due = step(&mut scheduled, &Seen::default(), "2026-11-21T05:00:00Z");
    assert_eq!((due.effect, phase(&scheduled)), (None, Some(DrillPhase::Starting)), "it is latched first");
    assert_eq!(status(&scheduled).running.unwrap().cluster, "nightly-drill-1");

    let create = step(&mut scheduled, &Seen::default(), "2026-11-21T05:00:01Z");
    assert_eq!(create.effect, Some(Effect::Create));
    let restoring = json!({"store": "s", "phase": "Running", "message": "the store does not answer"});
    step(&mut scheduled, &seen(cluster(restoring.clone(), false)), "2026-11-21T05:00:02Z");
    step(&mut scheduled, &seen(cluster(restoring, false)), "2026-11-21T05:00:03Z");
    assert_eq!(phase(&scheduled), Some(DrillPhase::Restoring));
    assert_eq!(status(&scheduled).running.unwrap().message.as_deref(), Some("the store does not answer"));
    step(&mut scheduled, &seen(cluster(completed(), false)), "2026-11-21T05:00:20Z");
    assert_eq!(phase(&scheduled), Some(DrillPhase::Restoring), "it is not ready");
    step(&mut scheduled, &seen(cluster(completed(), true)), "2026-11-21T05:01:12Z");
    assert_eq!(phase(&scheduled), Some(DrillPhase::Restored));
    let job = step(&mut scheduled, &seen(cluster(completed(), true)), "2026-11-21T05:01:13Z");
    assert_eq!(job.effect, Some(Effect::StartJob));
    step(&mut scheduled, &checked(Outcome::Running(None)), "2026-11-21T05:01:14Z");
    assert_eq!(phase(&scheduled), Some(DrillPhase::Checking));
    let end = step(&mut scheduled, &checked(Outcome::Completed(())), "2026-11-21T05:02:00Z");
    let finding = end.finding.unwrap();
    assert_eq!((finding.0, finding.1), (True, Reason::DrillPassed), "{}", finding.2);
    let DrillsStatus { running, last, last_passed, started, missed, .. } = status(&scheduled);
    assert_eq!((running, started, missed, &last), (None, 1, 0, &last_passed));
    let result = last.unwrap();
    assert!(result.passed);
    assert_eq!((result.restore_seconds, result.took.as_deref()), (Some(72), Some("1m12s")));
    assert_eq!((result.base.as_deref(), result.index, result.keys), (Some("7-2"), Some(9), Some(6)));
    let idle = step(&mut scheduled, &Seen::default(), "2026-11-21T05:02:01Z");
    assert_eq!(idle.effect, None);
    assert_eq!(status(&scheduled).started, 1, "once for each time");
}

#[test]
fn restore_alone_passes_when_the_spec_has_no_job() {
    let mut scheduled = started(plain());
    step(&mut scheduled, &seen(cluster(completed(), true)), "2026-11-21T05:00:01Z");
    step(&mut scheduled, &seen(cluster(completed(), true)), "2026-11-21T05:00:30Z");
    assert!(status(&scheduled).last_passed.is_some_and(|result| result.restore_seconds == Some(30)));
}

#[test]
fn restored_state_is_compared_with_what_was_recorded() {
    let ended = |source: Value| {
        let mut scheduled = started(plain());
        let seen = seen(cluster(source, true));
        step(&mut scheduled, &seen, "2026-11-21T05:00:01Z");
        let decision = step(&mut scheduled, &seen, "2026-11-21T05:00:30Z");
        (reason(&scheduled), decision.finding.unwrap().1)
    };
    let with = |field: &str, value: Value| {
        let mut source = completed();
        source[field] = value;
        ended(source)
    };
    let failed = |reason: &str| (Some(reason.to_owned()), Reason::DrillFailed);
    assert_eq!(with("digestMatches", json!(false)), failed("DigestDiffers"));
    assert_eq!(with("index", json!(7)), failed("KeysDiffer"), "no log follows the base");
    assert_eq!(with("baseKeys", json!(null)), (None, Reason::DrillPassed));
    assert_eq!(with("digestMatches", json!(null)), (None, Reason::DrillPassed));
    let failure = json!({"store": "s", "phase": "Failed", "message": "Damaged: base/7/0000.part"});
    assert_eq!(ended(failure), failed("RestoreFailed"));
    for reason in ["DigestDiffers", "MembersDiffer"] {
        let failure = json!({"store": "s", "phase": "Failed", "message": format!("{reason}: at index 9")});
        assert_eq!(ended(failure), failed(reason));
    }
}

#[test]
fn comparison_of_two_bases_is_in_the_result_and_in_the_condition() {
    let mut scheduled = started(plain());
    let mut source = completed();
    source["message"] = json!("the log after base 7-2 of member a yields the state of base 9-2 of member b");
    let seen = seen(cluster(source.clone(), true));
    step(&mut scheduled, &seen, "2026-11-21T05:00:01Z");
    let passed = step(&mut scheduled, &seen, "2026-11-21T05:00:30Z");
    let (status, reason, message) = passed.finding.unwrap();
    assert_eq!((status, reason), (True, Reason::DrillPassed));
    assert!(message.ends_with(source["message"].as_str().unwrap()), "{message}");
}

#[test]
fn drill_fails_when_its_job_does_or_an_object_is_deleted() {
    let ended = |seen: &Seen| {
        let mut scheduled = started(with_job());
        for second in 1..4 {
            let time = format!("2026-11-21T05:00:0{second}Z");
            step(&mut scheduled, &checked(Outcome::Running(None)), &time);
        }
        assert_eq!(phase(&scheduled), Some(DrillPhase::Checking));
        step(&mut scheduled, seen, "2026-11-21T05:01:00Z");
        reason(&scheduled)
    };
    let failed = Outcome::Failed { reason: "ProcessFailed".to_owned(), message: "exit code 3".to_owned() };
    assert_eq!(ended(&checked(failed)).as_deref(), Some("JobFailed"));
    assert_eq!(ended(&seen(cluster(completed(), true))).as_deref(), Some("JobDeleted"));
    assert_eq!(ended(&Seen::default()).as_deref(), Some("ClusterDeleted"));
    assert_eq!(ended(&seen(ClusterSeen::Terminating)).as_deref(), Some("ClusterDeleted"));
}

#[test]
fn drill_that_cannot_begin_fails_with_the_reason() {
    let mut scheduled = started(plain());
    let refusal = Some(("ClusterMissing", "demo does not exist".to_owned()));
    step(&mut scheduled, &Seen { refusal, ..Seen::default() }, "2026-11-21T05:00:01Z");
    assert_eq!(reason(&scheduled).as_deref(), Some("ClusterMissing"));
    let mut scheduled = started(plain());
    let taken = seen(ClusterSeen::Taken("HeliosCluster nightly-drill-1".to_owned()));
    step(&mut scheduled, &taken, "2026-11-21T05:00:01Z");
    assert_eq!(reason(&scheduled).as_deref(), Some("NameTaken"));
    let mut scheduled = started(plain());
    step(&mut scheduled, &seen(ClusterSeen::Terminating), "2026-11-21T05:00:01Z");
    assert_eq!(phase(&scheduled), Some(DrillPhase::Starting), "it waits for the deletion");
}

#[test]
fn drill_fails_at_its_deadline_and_a_result_that_is_there_counts_afterwards() {
    let restoring = seen(cluster(json!({"store": "s", "phase": "Running", "message": "no host"}), false));
    let mut scheduled = started(plain());
    step(&mut scheduled, &restoring, "2026-11-21T05:00:01Z");
    step(&mut scheduled, &restoring, "2026-11-21T05:59:59Z");
    assert_eq!(phase(&scheduled), Some(DrillPhase::Restoring));
    let end = step(&mut scheduled, &restoring, "2026-11-21T06:00:00Z");
    assert_eq!(reason(&scheduled).as_deref(), Some("Overdue"));
    assert!(end.finding.unwrap().2.contains("no host"), "the message says what it waited for");

    let mut scheduled = started(plain());
    step(&mut scheduled, &restoring, "2026-11-21T05:00:01Z");
    step(&mut scheduled, &seen(cluster(completed(), true)), "2026-11-21T07:00:00Z");
    assert!(status(&scheduled).last.unwrap().passed, "no operator ran meanwhile");
}

#[test]
fn failed_drill_keeps_its_cluster_until_the_next_one_starts_if_asked() {
    let failed = seen(cluster(json!({"store": "s", "phase": "Failed"}), false));
    let run = |spec: Value| {
        let mut scheduled = started(nightly(spec));
        step(&mut scheduled, &failed, "2026-11-21T05:00:01Z");
        step(&mut scheduled, &failed, "2026-11-21T05:00:02Z");
        scheduled
    };
    assert_eq!(status(&run(json!({"schedule": "0 5 * * *"}))).kept, None);
    let mut keeps = run(json!({"schedule": "0 5 * * *", "keepOnFailure": true}));
    assert_eq!(status(&keeps).kept.as_deref(), Some("nightly-drill-1"));
    step(&mut keeps, &Seen::default(), "2026-11-22T05:00:00Z");
    let DrillsStatus { kept, running, .. } = status(&keeps);
    assert_eq!((kept, running.unwrap().cluster.as_str()), (None, "nightly-drill-2"));
}

#[test]
fn times_that_pass_during_a_drill_or_without_an_operator_are_missed_and_not_piled_up() {
    let mut scheduled = started(nightly(json!({"schedule": "0 * * * *", "deadline": "9h"})));
    let restoring = seen(cluster(json!({"store": "s", "phase": "Running"}), false));
    assert_eq!((status(&scheduled).started, status(&scheduled).missed), (1, 16), "at 05:00, the last one");
    step(&mut scheduled, &restoring, "2026-11-21T07:30:00Z");
    step(&mut scheduled, &restoring, "2026-11-21T08:30:00Z");
    assert_eq!(
        (status(&scheduled).started, status(&scheduled).missed),
        (1, 16),
        "07:00 and 08:00 may start yet"
    );
    step(&mut scheduled, &Seen::default(), "2026-11-21T08:31:00Z");
    let DrillsStatus { started, missed, running, .. } = status(&scheduled);
    assert_eq!((started, missed), (2, 18), "08:00 is started late, 06:00 and 07:00 are missed");
    assert_eq!(running.unwrap().cluster, "nightly-drill-2");
}

#[test]
fn no_drill_starts_while_the_schedule_is_suspended_and_none_is_missed() {
    let mut scheduled = plain();
    step(&mut scheduled, &Seen::default(), "2026-11-20T12:00:00Z");
    scheduled.spec.suspend = true;
    for day in 21..24 {
        step(&mut scheduled, &Seen::default(), &format!("2026-11-{day}T05:00:00Z"));
    }
    assert_eq!((status(&scheduled).started, status(&scheduled).next_schedule_time), (0, None));
    scheduled.spec.suspend = false;
    step(&mut scheduled, &Seen::default(), "2026-11-24T12:00:00Z");
    step(&mut scheduled, &Seen::default(), "2026-11-25T05:00:00Z");
    assert_eq!((status(&scheduled).started, status(&scheduled).missed), (1, 0));
}

#[test]
fn drill_is_abandoned_when_the_spec_has_none_any_more() {
    let mut scheduled = started(plain());
    scheduled.spec.drill = None;
    let decision = step(&mut scheduled, &seen(cluster(completed(), true)), "2026-11-21T05:00:01Z");
    assert!(decision.finding.is_none() && decision.effect.is_none());
    let DrillsStatus { running, started, .. } = status(&scheduled);
    assert_eq!((running, started), (None, 1), "the next one has another name");
}

#[test]
fn age_is_counted_from_the_start_of_the_drill() {
    let scheduled = started(nightly(json!({"schedule": "0 5 * * *", "target": {"age": "12h"}})));
    let target = status(&scheduled).running.unwrap().target;
    assert_eq!(target, Some(Time(at("2026-11-20T17:00:00Z"))));
}

#[test]
fn bad_schedule_of_drills_is_a_condition() {
    let mut scheduled = nightly(json!({"schedule": "99 5 * * *"}));
    let finding = step(&mut scheduled, &Seen::default(), "2026-11-20T12:00:00Z").finding.unwrap();
    assert_eq!((finding.0, finding.1), (False, Reason::InvalidSchedule));
    assert!(finding.2.contains("spec.drill.schedule"), "{}", finding.2);
}

/// Objects of a drill in the API server. Creating one that exists changes nothing.
#[derive(Default)]
struct World {
    has_cluster: bool,
    has_job: bool,
    clusters_created: u32,
    jobs_created: u32,
}

impl World {
    fn seen(&self) -> Seen {
        match (self.has_cluster, self.has_job) {
            (false, _) => Seen::default(),
            (true, false) => seen(cluster(completed(), true)),
            (true, true) => checked(Outcome::Completed(())),
        }
    }

    fn take(&mut self, effect: Option<Effect>) {
        match effect {
            Some(Effect::Create) if !self.has_cluster => {
                (self.has_cluster, self.clusters_created) = (true, self.clusters_created + 1);
            }
            Some(Effect::StartJob) if !self.has_job => {
                (self.has_job, self.jobs_created) = (true, self.jobs_created + 1);
            }
            _ => {}
        }
    }

    /// As a reconcile does before it decides: what the status does not name is deleted.
    fn delete_surplus(&mut self, drills: &DrillsStatus) {
        let names = drills.running.as_ref().map(|running| &running.cluster);
        if names.is_none() {
            (self.has_cluster, self.has_job) = (false, false);
        }
    }
}

/// The operator ends in each of its reconciles: before the effect, or after it and before the status is written.
#[test]
fn interrupted_drill_passes_and_creates_nothing_twice() {
    const RECONCILES: usize = 12;
    for interrupted in 0..RECONCILES {
        for has_effect in [false, true] {
            let mut world = World::default();
            let mut scheduled = with_job();
            step(&mut scheduled, &Seen::default(), "2026-11-20T12:00:00Z");
            for reconcile in 0..RECONCILES {
                world.delete_surplus(&status(&scheduled));
                let now = at(&format!("2026-11-21T05:00:{reconcile:02}Z"));
                let decision = decide(&scheduled, &world.seen(), now);
                if reconcile != interrupted || has_effect {
                    world.take(decision.effect);
                }
                if reconcile != interrupted {
                    scheduled.status.as_mut().unwrap().drill = decision.status;
                }
            }
            let found = status(&scheduled);
            let run = format!("interrupted at {interrupted}, effect {has_effect}: {found:?}");
            assert!(found.last.is_some_and(|result| result.passed) && found.running.is_none(), "{run}");
            assert_eq!((found.started, found.missed), (1, 0), "{run}");
            assert_eq!(
                (world.clusters_created, world.jobs_created, world.has_cluster),
                (1, 1, false),
                "{run}"
            );
        }
    }
}
