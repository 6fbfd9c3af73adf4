//! Kubernetes events: one when an operation begins, for each step that is executed, when something fails or waits for a
//! user, and when the operation ends; `status_diff` adds the changes of members. Pure.

mod status_diff;

use helios_crds::{HeliosCluster, OperationStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType, Reporter};

use crate::error::Error;
use crate::names;
use crate::plan::{Operation, Plan, Step};

pub use status_diff::{Change, Notice, status_diff};

const LONGEST_NOTE: usize = 1000;

/// Result of carrying out a plan.
#[derive(Debug, Clone, Copy)]
pub enum Effect<'a> {
    Done,
    /// The step could not be executed yet.
    Held,
    Failed(&'a Error),
}

/// The event of the plan's operation, if there is news: compared with the status as it was before this reconcile, and
/// by the id of the step, as a message changes while a step waits.
pub fn operation_event(cluster: &HeliosCluster, plan: &Plan, effect: Effect) -> Option<Event> {
    let operation = plan.operation.as_ref()?;
    let earlier = earlier(cluster);
    let is_new_step = earlier.is_none_or(|earlier| earlier.step_id.as_deref() != Some(operation.step_id));
    let begins = earlier.is_none_or(|earlier| !is_same(earlier, operation));
    let message = || operation.step_message.clone();
    let (type_, note) = match effect {
        Effect::Failed(error) => (EventType::Warning, error.to_string()),
        Effect::Held if !begins => return None,
        Effect::Done | Effect::Held if operation.blocker.is_some() && is_new_step => {
            (EventType::Warning, message())
        }
        Effect::Done if plan.step.is_some() => (EventType::Normal, message()),
        Effect::Done | Effect::Held if begins => (EventType::Normal, message()),
        Effect::Done | Effect::Held => return None,
    };
    let action = plan.step.as_ref().map_or("Wait", Step::name);
    Some(event(cluster, type_, &operation.kind.to_string(), action, note, operation.target.as_deref()))
}

/// The operation that was under way before this reconcile and has ended, with the time it took.
pub fn finished<'a>(
    cluster: &'a HeliosCluster,
    plan: &Plan,
    now: Timestamp,
) -> Option<(&'a OperationStatus, SignedDuration)> {
    let earlier = earlier(cluster)?;
    let continues = plan.operation.as_ref().is_some_and(|operation| is_same(earlier, operation));
    (!continues).then(|| (earlier, now.duration_since(earlier.started_at.0)))
}

/// The event of an operation that has [`finished`].
pub fn finished_event(cluster: &HeliosCluster, operation: &OperationStatus, took: SignedDuration) -> Event {
    let target = operation.target.as_deref();
    let note = format!("ended after {} s; last: {}", took.as_secs(), operation.step);
    event(cluster, EventType::Normal, &operation.kind.to_string(), "End", note, target)
}

/// The event of one [`Change`] of the status.
pub fn diff_event(cluster: &HeliosCluster, change: &Change) -> Event {
    let Change { notice, pod, note } = change;
    event(cluster, notice.type_(), notice.name(), "Observe", note.clone(), pod.as_deref())
}

/// The event of an object that this version cannot read.
pub fn unreadable(why: &str) -> Event {
    let note = format!("this operator cannot read the HeliosCluster and leaves it alone: {why}");
    Event {
        type_: EventType::Warning,
        reason: "Unreadable".to_owned(),
        action: "Read".to_owned(),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        secondary: None,
    }
}

/// Name under which events of this process appear.
pub fn reporter(identity: &str) -> Reporter {
    Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(identity.into()) }
}

fn earlier(cluster: &HeliosCluster) -> Option<&OperationStatus> {
    cluster.status.as_ref()?.operation.as_ref()
}

fn is_same(earlier: &OperationStatus, now: &Operation) -> bool {
    earlier.kind == now.kind && earlier.started_at.0 == now.started_at
}

/// Kubernetes counts events of the same action on the same pod as one series, so each event names both.
fn event(
    cluster: &HeliosCluster,
    type_: EventType,
    reason: &str,
    action: &str,
    note: String,
    pod: Option<&str>,
) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        secondary: pod.map(|pod| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            namespace: cluster.namespace(),
            ..ObjectReference::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use helios_crds::{HeliosClusterSpec, HeliosClusterStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::plan::{Blocker, Kind};

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn idle() -> HeliosCluster {
        let mut cluster = HeliosCluster::new("demo", HeliosClusterSpec::default());
        cluster.status = Some(HeliosClusterStatus::default());
        cluster
    }

    /// A cluster whose status has an operation that began at [`start`], at the step `step_id` with `message`.
    fn cluster(step_id: &str, message: &str) -> HeliosCluster {
        let mut cluster = idle();
        cluster.status.as_mut().unwrap().operation = Some(OperationStatus {
            kind: Kind::AddMember.into(),
            target: Some("demo-2".to_owned()),
            step: message.to_owned(),
            step_id: Some(step_id.to_owned()),
            started_at: Time(start()),
            deadline: Time(start()),
            steady_since: None,
        });
        cluster
    }

    fn no_plan() -> Plan {
        let requeue_after = std::time::Duration::ZERO;
        Plan { replicas: 3, operation: None, step: None, latch: None, labels: Vec::new(), requeue_after }
    }

    fn plan(step_id: &'static str, message: &str, step: Option<Step>) -> Plan {
        let operation = Operation {
            kind: Kind::AddMember,
            target: Some("demo-2".to_owned()),
            step_message: message.to_owned(),
            step_id,
            blocker: None,
            started_at: start(),
            deadline: start(),
            steady_since: None,
        };
        Plan { operation: Some(operation), step, ..no_plan() }
    }

    fn blocked(blocker: Blocker, message: &str) -> Plan {
        let mut plan = plan(blocker.name(), message, None);
        plan.operation.as_mut().unwrap().blocker = Some(blocker);
        plan
    }

    fn promote() -> Option<Step> {
        Some(Step::Promote { leader: 0, id: 3, max_lag: 100, membership: 7 })
    }

    fn note(event: Option<Event>) -> Option<(EventType, String, String)> {
        event.map(|event| (event.type_, event.action, event.note.unwrap()))
    }

    #[test]
    fn operation_has_an_event_when_it_begins_takes_a_step_or_fails() {
        let normal = |action: &str, note: &str| Some((EventType::Normal, action.to_owned(), note.to_owned()));
        let begins = operation_event(&idle(), &plan("Wait", "waiting", None), Effect::Done);
        assert_eq!(note(begins), normal("Wait", "waiting"));
        let promoting = plan("Promote", "promoting", promote());
        let step = operation_event(&cluster("Wait", "waiting"), &promoting, Effect::Done);
        assert_eq!(note(step), normal("Promote", "promoting"));
        let error = Error::Incomplete("namespace");
        let failed = operation_event(&cluster("Promote", "promoting"), &promoting, Effect::Failed(&error));
        assert_eq!(note(failed), Some((EventType::Warning, "Promote".to_owned(), error.to_string())));
    }

    #[test]
    fn waiting_operation_has_no_second_event_when_it_still_waits() {
        let waiting = plan("Wait", "waiting", None);
        assert!(operation_event(&cluster("Wait", "waiting"), &waiting, Effect::Done).is_none());
        let held = plan("Promote", "promoting", promote());
        assert!(operation_event(&cluster("Promote", "promoting"), &held, Effect::Held).is_none());
        assert!(operation_event(&idle(), &no_plan(), Effect::Done).is_none());
    }

    #[test]
    fn blocked_operation_has_an_event_when_its_step_changes_and_none_when_its_message_does() {
        let blocked = |message: &str| blocked(Blocker::ForeignVolume, message);
        let event = |earlier: &HeliosCluster, message: &str| {
            note(operation_event(earlier, &blocked(message), Effect::Done))
        };
        let waited = cluster("Wait", "the volume belongs to another cluster, a");
        let first = event(&waited, "the volume belongs to another cluster, a");
        assert_eq!(first.unwrap().0, EventType::Warning, "the step changed, although its message did not");
        let reported = cluster("ForeignVolume", "the volume belongs to another cluster, a");
        assert_eq!(
            event(&reported, "the volume belongs to another cluster, b"),
            None,
            "only the message changed"
        );
        let other = cluster("TwoClusters", "the volumes hold two clusters");
        assert!(event(&other, "the volume belongs to another cluster, a").is_some());
    }

    #[test]
    fn finished_operation_has_an_event_with_its_duration() {
        let now = start() + SignedDuration::from_secs(12);
        let before = cluster("Promote", "promoting");
        assert!(finished(&before, &plan("Promote", "still promoting", None), now).is_none());
        let (operation, took) = finished(&before, &no_plan(), now).unwrap();
        assert_eq!(took, SignedDuration::from_secs(12));
        let event = finished_event(&before, operation, took);
        assert_eq!((event.reason.as_str(), event.action.as_str()), ("AddMember", "End"));
        assert_eq!(event.note.as_deref(), Some("ended after 12 s; last: promoting"));
        assert!(finished(&idle(), &no_plan(), now).is_none());
    }
}
