//! Status from the observation and the plan; pure. It never claims more than was observed: members that
//! do not answer make `Available` unknown, not false.

mod backup;
mod conditions;
mod drill;
mod members;
mod unappliable;
mod usage;

use helios_crds::{
    ConditionType, HeliosClusterStatus, MemberStatus, OperationStatus, Reason, RecoveryStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use backup::facts as backup_facts;

use crate::names;
use crate::observe::Snapshot;
use crate::plan::{Latch, Loss, Plan, View};
use crate::validate::{Invalid, ValidatedCluster};

/// Status after a reconcile. `changed`: it changed the StatefulSet, so that the observation is outdated.
pub fn report(
    cluster: &ValidatedCluster,
    seen: &Snapshot,
    plan: &Plan,
    changed: bool,
) -> HeliosClusterStatus {
    let view = View::new(cluster, seen);
    let mut status = seen.status.clone();
    latch(&mut status, plan.latch.as_ref());
    let members = members::members(&view);
    let in_service =
        view.voters().iter().filter(|(ordinal, member)| view.is_settled(*ordinal, member)).count();

    status.observed_generation = Some(seen.generation);
    status.replicas = i32::try_from(seen.pods.len()).unwrap_or(i32::MAX);
    status.ready_replicas = i32::try_from(in_service).unwrap_or(i32::MAX);
    status.ready = Some(format!("{in_service}/{}", cluster.replicas));
    status.selector = Some(names::selector_text(&cluster.name));
    status.leader = view.leader.map(|leader| view.name(leader.ordinal));
    status.term = view.leader.map(|leader| signed(leader.status.term));
    status.version = members::oldest_version(&members).or(status.version);
    status.members = members;
    status.certificate_expires_at = seen.security.expires.map(Time).or(status.certificate_expires_at);
    status.operation = plan.operation.as_ref().map(|operation| OperationStatus {
        kind: operation.kind.into(),
        target: operation.target.clone(),
        step: operation.step_message.clone(),
        step_id: Some(operation.step_id.to_owned()),
        started_at: Time(operation.started_at),
        deadline: Time(operation.deadline),
        steady_since: operation.steady_since.map(Time),
    });
    status.recovery = recovery(&view, status.recovery);
    status.backup = backup::status(&view, status.backup.as_ref());
    let verdict = conditions::Verdict::of(&view, plan, &status.members, in_service, changed);
    status.phase = Some(verdict.phase.to_string());
    conditions::update(&mut status.conditions, &verdict, seen);
    let backup = backup::findings(&view, status.backup.as_ref());
    conditions::update_backup(&mut status.conditions, &backup, seen);
    status
}

/// Status while the spec cannot be acted upon: what was known stays, and why is said.
pub fn report_invalid(seen: &Snapshot, invalid: &Invalid) -> HeliosClusterStatus {
    let mut status = seen.status.clone();
    status.observed_generation = Some(seen.generation);
    status.phase = Some(Reason::InvalidSpec.to_string());
    conditions::update_invalid(&mut status.conditions, invalid, seen);
    status
}

/// How much a new status differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Nothing,
    /// Words, counts, conditions: for readers, and worth a write now and then.
    Detail,
    /// Fields that later reconciles decide from, or that clients wait for.
    Decision,
}

/// How much `new` has over `old`. Replication positions change with every write of a client, so they are never news and
/// are brought up to date with what is, and usage is news when it has moved far; a snapshot that cannot be written fails
/// every few seconds, so it counts when it has failed twice as often.
pub fn news(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> News {
    match () {
        () if without_positions(old) == without_positions(&with_usage_of(old, new)) => News::Nothing,
        () if is_decision(old, new) => News::Decision,
        () => News::Detail,
    }
}

/// Returns `new` with the usage and the archive's positions of `old` where they have not moved far.
fn with_usage_of(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> HeliosClusterStatus {
    let mut status = new.clone();
    backup::with_positions_of(old, &mut status);
    for member in &mut status.members {
        let before = old.members.iter().find(|before| before.name == member.name);
        let before = before.and_then(|before| before.usage.as_ref());
        if let (Some(before), Some(now)) = (before, &mut member.usage)
            && !usage::is_news(before, now)
        {
            now.clone_from(before);
        }
    }
    status
}

fn without_positions(status: &HeliosClusterStatus) -> HeliosClusterStatus {
    let mut status = status.clone();
    for member in &mut status.members {
        member.match_index = None;
        member.lag = None;
        member.snapshot_failures = i64::from(i64::BITS - member.snapshot_failures.leading_zeros());
    }
    status
}

fn is_decision(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> bool {
    decided(old) != decided(new) || (new.is(ConditionType::Ready) && !old.is(ConditionType::Ready))
}

/// The part of a status that reconciles decide from, the leader, and the members.
fn decided(status: &HeliosClusterStatus) -> HeliosClusterStatus {
    let operation = status.operation.clone().map(|operation| OperationStatus {
        step: String::new(),
        step_id: None,
        ..operation
    });
    let members = status.members.iter().map(|member| MemberStatus {
        name: member.name.clone(),
        member_id: member.member_id,
        ..MemberStatus::default()
    });
    HeliosClusterStatus {
        members: members.collect(),
        operation,
        observed_generation: status.observed_generation,
        cluster_id: status.cluster_id.clone(),
        bootstrap_disk_id: status.bootstrap_disk_id.clone(),
        bootstrapped: status.bootstrapped,
        leader: status.leader.clone(),
        replacement: status.replacement.clone(),
        recovery: status.recovery.clone(),
        ..HeliosClusterStatus::default()
    }
}

fn latch(status: &mut HeliosClusterStatus, latch: Option<&Latch>) {
    match latch {
        None => {}
        Some(Latch::ClusterId(id)) => status.cluster_id = Some(id.clone()),
        Some(Latch::BootstrapDisk(disk)) => status.bootstrap_disk_id = Some(disk.clone()),
        Some(Latch::Bootstrapped) => status.bootstrapped = true,
        Some(Latch::Adopted(id)) => {
            status.cluster_id = Some(id.clone());
            status.bootstrapped = true;
        }
        Some(Latch::Replacing(replacement)) => status.replacement = Some(replacement.clone()),
        Some(Latch::Replaced) => status.replacement = None,
        Some(Latch::Recovering(chosen)) => {
            status.recovery.get_or_insert_default().chosen = Some(chosen.clone());
        }
        Some(Latch::Recovered(survivor)) => {
            let recovery = status.recovery.get_or_insert_default();
            (recovery.chosen, recovery.done) = (None, Some(survivor.clone()));
        }
        Some(Latch::RecoveryAbandoned) => status.recovery.get_or_insert_default().chosen = None,
        Some(Latch::RecoveryForgotten) => status.recovery.get_or_insert_default().done = None,
    }
}

/// State of a lost majority now, with the decisions that were latched.
fn recovery(view: &View, latched: Option<RecoveryStatus>) -> Option<RecoveryStatus> {
    let RecoveryStatus { chosen, done, source, .. } = latched.unwrap_or_default();
    let source = backup::source(view, source);
    let found = Loss::of(view).map(|loss| loss.report(view));
    if found.is_none() && chosen.is_none() && done.is_none() && source.is_none() {
        return None;
    }
    Some(RecoveryStatus { chosen, done, source, ..found.unwrap_or_default() })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use helios_crds::OperationKind;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
    }

    /// A roll that is held, of a cluster with one member.
    fn rolling() -> HeliosClusterStatus {
        let member =
            MemberStatus { name: "demo-0".to_owned(), member_id: 1, lag: Some(1), ..Default::default() };
        let operation = OperationStatus {
            kind: OperationKind::RollingUpdate.into(),
            target: Some("demo-0".to_owned()),
            step: "restarting demo-0".to_owned(),
            step_id: Some("Evict".to_owned()),
            started_at: at(0),
            deadline: at(300),
            steady_since: None,
        };
        HeliosClusterStatus { members: vec![member], operation: Some(operation), ..Default::default() }
    }

    fn changed(change: impl FnOnce(&mut HeliosClusterStatus)) -> HeliosClusterStatus {
        let mut status = rolling();
        change(&mut status);
        status
    }

    fn ready(status: &str) -> HeliosClusterStatus {
        let (status, message) = (status.to_owned(), String::new());
        let (type_, reason, last_transition_time) = ("Ready".to_owned(), "Any".to_owned(), at(0));
        let ready =
            Condition { type_, status, reason, message, last_transition_time, observed_generation: None };
        changed(|status| status.conditions.push(ready))
    }

    #[test]
    fn positions_are_no_news_when_an_operation_is_in_progress() {
        let moved = changed(|status| {
            (status.members[0].match_index, status.members[0].lag) = (Some(1_000_000), Some(900));
        });
        assert_eq!(news(&rolling(), &moved), News::Nothing);
    }

    #[test]
    fn texts_are_details_and_latched_fields_are_decisions() {
        let step = |text: &str| changed(|status| status.operation.as_mut().unwrap().step = text.to_owned());
        assert_eq!(news(&rolling(), &step("the budget holds demo-0")), News::Detail);
        for decision in [
            changed(|status| status.operation = None),
            changed(|status| status.operation.as_mut().unwrap().target = None),
            changed(|status| status.operation.as_mut().unwrap().steady_since = Some(at(9))),
            changed(|status| status.bootstrapped = true),
            changed(|status| status.members.clear()),
            changed(|status| status.leader = Some("demo-0".to_owned())),
        ] {
            assert_eq!(news(&rolling(), &decision), News::Decision, "{decision:?}");
        }
    }

    #[test]
    fn ready_is_a_decision_when_it_becomes_true_and_a_detail_when_it_becomes_false() {
        assert_eq!(news(&ready("False"), &ready("True")), News::Decision);
        assert_eq!(news(&ready("True"), &ready("False")), News::Detail);
    }
}
