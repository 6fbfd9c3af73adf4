//! Status from what was seen and planned; pure. It never claims more than was seen: members that
//! do not answer make `Available` unknown, not false.

mod conditions;
mod members;

use helios_crds::{HeliosClusterStatus, OperationStatus, RecoveryStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::names;
use crate::observe::Snapshot;
use crate::plan::{Latch, Loss, Plan, View};
use crate::validate::{Invalid, ValidatedCluster};

/// Status after a pass. `changed` says that the pass changed the StatefulSet, so that what was seen
/// before tells nothing of it.
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
    status.certificate_expires_at = seen.locks.expires.map(Time).or(status.certificate_expires_at);
    status.operation = plan.operation.as_ref().map(|operation| OperationStatus {
        kind: operation.kind.name().to_owned(),
        target: operation.target.clone(),
        step: operation.doing.clone(),
        started_at: Time(operation.started_at),
        deadline: Time(operation.deadline),
        steady_since: operation.steady_since.map(Time),
    });
    status.recovery = recovery(&view, status.recovery);
    let verdict = conditions::Verdict::of(&view, plan, in_service, changed);
    status.phase = Some(verdict.phase.to_owned());
    conditions::update(&mut status.conditions, &verdict, seen);
    status
}

/// Status while the spec cannot be acted upon: what was known stays, and why is said.
pub fn report_invalid(seen: &Snapshot, invalid: &Invalid) -> HeliosClusterStatus {
    let mut status = seen.status.clone();
    status.observed_generation = Some(seen.generation);
    status.phase = Some("InvalidSpec".to_owned());
    conditions::update_invalid(&mut status.conditions, invalid, seen);
    status
}

/// Whether `new` tells enough more than `old` to be written. Replication positions change with every
/// write of a client, so alone they count only while an operation depends on them; a snapshot that cannot be written
/// fails every few seconds, so it counts when it has failed twice as often.
pub fn is_news(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> bool {
    let still = |status: &HeliosClusterStatus| {
        let mut still = status.clone();
        for member in &mut still.members {
            member.match_index = None;
            member.lag = None;
            member.snapshot_failures = i64::from(i64::BITS - member.snapshot_failures.leading_zeros());
        }
        still
    };
    if new.operation.is_some() { old != new } else { still(old) != still(new) }
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

/// What is known of a lost majority now, with the decisions that were latched.
fn recovery(view: &View, latched: Option<RecoveryStatus>) -> Option<RecoveryStatus> {
    let RecoveryStatus { chosen, done, .. } = latched.unwrap_or_default();
    let found = Loss::of(view).map(|loss| loss.report(view));
    if found.is_none() && chosen.is_none() && done.is_none() {
        return None;
    }
    Some(RecoveryStatus { chosen, done, ..found.unwrap_or_default() })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
