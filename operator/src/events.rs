//! What is told as Kubernetes events: one when an operation begins, for each step that is taken, when
//! something fails or waits for a person, and when the operation ends; `noticed` tells what happened to the members by
//! itself. Pure.

mod noticed;

use helios_crds::{HeliosCluster, OperationStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType, Reporter};

use crate::error::Error;
use crate::names;
use crate::plan::{Operation, Plan, Step};

pub use noticed::{Notice, Noticed, noticed};

const LONGEST_NOTE: usize = 1000;

/// How the effects of a plan went.
#[derive(Debug, Clone, Copy)]
pub enum Went<'a> {
    Well,
    /// The step could not be taken yet.
    Held,
    Wrong(&'a Error),
}

/// What a pass tells of its plan, before the status says it.
pub fn told(cluster: &HeliosCluster, plan: &Plan, went: Went) -> Option<Event> {
    let operation = plan.operation.as_ref()?;
    let earlier = earlier(cluster);
    let news = earlier.is_none_or(|earlier| earlier.step != operation.doing);
    let begins = earlier.is_none_or(|earlier| !is_same(earlier, operation));
    let (type_, note) = match went {
        Went::Wrong(error) => (EventType::Warning, error.to_string()),
        Went::Held if !begins => return None,
        Went::Well | Went::Held if operation.stuck && news => (EventType::Warning, operation.doing.clone()),
        Went::Well if plan.step.is_some() => (EventType::Normal, operation.doing.clone()),
        Went::Well | Went::Held if begins => (EventType::Normal, operation.doing.clone()),
        Went::Well | Went::Held => return None,
    };
    let action = plan.step.as_ref().map_or("Wait", Step::name);
    Some(event(cluster, type_, operation.kind.name(), action, note, operation.target.as_deref()))
}

/// The operation that was under way before the pass and is not any more, with how long it took.
pub fn ended<'a>(
    cluster: &'a HeliosCluster,
    plan: &Plan,
    now: Timestamp,
) -> Option<(&'a OperationStatus, SignedDuration)> {
    let earlier = earlier(cluster)?;
    let goes_on = plan.operation.as_ref().is_some_and(|operation| is_same(earlier, operation));
    (!goes_on).then(|| (earlier, now.duration_since(earlier.started_at.0)))
}

/// Tells that `operation` has [`ended`].
pub fn farewell(cluster: &HeliosCluster, operation: &OperationStatus, took: SignedDuration) -> Event {
    let target = operation.target.as_deref();
    let note = format!("ended after {} s; last: {}", took.as_secs(), operation.step);
    event(cluster, EventType::Normal, &operation.kind, "End", note, target)
}

/// Tells what a pass has noticed.
pub fn news(cluster: &HeliosCluster, noticed: &Noticed) -> Event {
    let Noticed { notice, pod, note } = noticed;
    event(cluster, notice.type_(), notice.name(), "Observe", note.clone(), pod.as_deref())
}

/// Tells that the object is not one that this version can read.
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
    earlier.kind == now.kind.name() && earlier.started_at.0 == now.started_at
}

/// Events of the same action on the same pod are counted as one series, so both are told apart here.
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
    use crate::plan::Kind;

    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A cluster whose status says `step` of an operation that began at [`start`]; of none when empty.
    fn cluster(step: &str) -> HeliosCluster {
        let operation = (!step.is_empty()).then(|| OperationStatus {
            kind: Kind::AddMember.name().to_owned(),
            target: Some("demo-2".to_owned()),
            step: step.to_owned(),
            started_at: Time(start()),
            deadline: Time(start()),
            steady_since: None,
        });
        let mut cluster = HeliosCluster::new("demo", HeliosClusterSpec::default());
        cluster.status = Some(HeliosClusterStatus { operation, ..Default::default() });
        cluster
    }

    fn plan(doing: &str, step: Option<Step>) -> Plan {
        let operation = (!doing.is_empty()).then(|| Operation {
            kind: Kind::AddMember,
            target: Some("demo-2".to_owned()),
            doing: doing.to_owned(),
            stuck: false,
            started_at: start(),
            deadline: start(),
            steady_since: None,
        });
        Plan {
            replicas: 3,
            operation,
            step,
            latch: None,
            labels: Vec::new(),
            look_again: std::time::Duration::ZERO,
        }
    }

    fn promote() -> Option<Step> {
        Some(Step::Promote { leader: 0, id: 3, max_lag: 100, membership: 7 })
    }

    fn note(event: Option<Event>) -> Option<(EventType, String, String)> {
        event.map(|event| (event.type_, event.action, event.note.unwrap()))
    }

    #[test]
    fn the_beginning_each_step_and_each_failure_are_told() {
        let normal = |action: &str, note: &str| Some((EventType::Normal, action.to_owned(), note.to_owned()));
        let begins = told(&cluster(""), &plan("waiting", None), Went::Well);
        assert_eq!(note(begins), normal("Wait", "waiting"));
        let step = told(&cluster("waiting"), &plan("promoting", promote()), Went::Well);
        assert_eq!(note(step), normal("Promote", "promoting"));
        let error = Error::Incomplete("namespace");
        let failed = told(&cluster("promoting"), &plan("promoting", promote()), Went::Wrong(&error));
        assert_eq!(note(failed), Some((EventType::Warning, "Promote".to_owned(), error.to_string())));
    }

    #[test]
    fn waiting_longer_is_told_once() {
        assert!(told(&cluster("waiting"), &plan("waiting", None), Went::Well).is_none());
        assert!(told(&cluster("promoting"), &plan("promoting", promote()), Went::Held).is_none());
        assert!(told(&cluster(""), &plan("", None), Went::Well).is_none());
        let mut stuck = plan("it needs a person", None);
        stuck.operation.as_mut().unwrap().stuck = true;
        let first = told(&cluster("waiting"), &stuck, Went::Well).unwrap();
        assert_eq!(first.type_, EventType::Warning);
        assert!(told(&cluster("it needs a person"), &stuck, Went::Well).is_none());
    }

    #[test]
    fn the_end_is_told_with_how_long_it_took() {
        let now = start() + SignedDuration::from_secs(12);
        let before = cluster("promoting");
        assert!(ended(&before, &plan("still promoting", None), now).is_none());
        let after = plan("", None);
        let (operation, took) = ended(&before, &after, now).unwrap();
        assert_eq!(took, SignedDuration::from_secs(12));
        let event = farewell(&before, operation, took);
        assert_eq!((event.reason.as_str(), event.action.as_str()), ("AddMember", "End"));
        assert_eq!(event.note.as_deref(), Some("ended after 12 s; last: promoting"));
        assert!(ended(&cluster(""), &after, now).is_none());
    }
}
