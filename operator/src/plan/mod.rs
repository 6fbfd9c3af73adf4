//! The next step: a pure function of a snapshot and a validated cluster. A plan has at most one step, which `execute`
//! executes, and is made again after every change.
//!
//! No plan may break these (each is asserted by the model in `tests/`):
//! - **I1** a step that stops a healthy voter leaves a quorum of healthy ones; a cluster of one or
//!   two voters, which has no such step, is restarted with an announced interruption.
//! - **I2** at most one voter is out of service because of the operator.
//! - **I3** at most one membership change is under way.
//! - **I4** what is deleted is named by UID, what is removed by member id; never by ordinal.
//! - **I5** the leader is not stopped while another voter could lead.
//! - **I6** a member's pod and volume go only after its removal is committed, and a majority knows that.
//! - **I7** a node that does not answer is unknown, and unknown is never dead.
//! - **I8** leadership is handed to members of the present template only.
//! - **I9** a Secret is written alone: no member is changed on an observation that was made with another certificate, nor
//!   while the members' certificate is missing.

mod bootstrap;
mod drain;
mod recovery;
mod replace;
mod rollout;
mod scale_in;
mod scale_out;
mod secrets;
mod settings;
mod step;
mod view;
mod volumes;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::names;
use crate::observe::Snapshot;
use crate::validate::ValidatedCluster;

pub use helios_crds::OperationKind as Kind;
pub use recovery::Loss;
pub use secrets::{CertificateStep, SPREAD, SecretStep, next_certificate_step};
pub use step::{Blocker, Latch, Step};
pub use view::{Leader, View, quorum};

const WHILE_WORKING: Duration = Duration::from_secs(1);
const WHEN_SETTLED: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Replicas of the StatefulSet.
    pub replicas: u32,
    pub operation: Option<Operation>,
    pub step: Option<Step>,
    pub latch: Option<Latch>,
    /// Labels that pods lack.
    pub labels: Vec<PodLabels>,
    pub requeue_after: Duration,
}

/// The operation under way, for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub kind: Kind,
    pub target: Option<String>,
    pub step_message: String,
    pub step_id: &'static str,
    /// Set when only a user can let it continue.
    pub blocker: Option<Blocker>,
    pub started_at: Timestamp,
    pub deadline: Timestamp,
    /// Since when the target has been healthy and caught up; `None` while it is not, or is not asked.
    pub steady_since: Option<Timestamp>,
}

impl Operation {
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        now > self.deadline
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLabels {
    pub ordinal: u32,
    pub role: Option<&'static str>,
    pub reads: bool,
    pub in_service: bool,
}

/// Result of one planner; the first in the order of `decide` is planned.
#[derive(Debug)]
struct Decision {
    kind: Kind,
    target: Option<u32>,
    step_message: String,
    blocker: Option<Blocker>,
    steady: bool,
    step: Option<Step>,
    latch: Option<Latch>,
}

impl Decision {
    fn act(kind: Kind, target: u32, message: impl Into<String>, step: Step) -> Self {
        Self { step: Some(step), ..Self::wait(kind, target, message) }
    }

    fn wait(kind: Kind, target: u32, message: impl Into<String>) -> Self {
        let (target, step_message) = (Some(target), message.into());
        Self { kind, target, step_message, blocker: None, steady: false, step: None, latch: None }
    }

    fn latch(kind: Kind, latch: Latch, message: impl Into<String>) -> Self {
        Self { target: None, latch: Some(latch), ..Self::wait(kind, 0, message) }
    }

    /// Names the step independently of its message, so that a changed message is not a new step.
    fn step_id(&self) -> &'static str {
        match (&self.step, &self.latch, self.blocker) {
            (Some(step), ..) => step.name(),
            (None, Some(_), _) => "Decide",
            (None, None, Some(blocker)) => blocker.name(),
            (None, None, None) => "Wait",
        }
    }

    /// The target is healthy and caught up now.
    fn steady(self) -> Self {
        Self { steady: true, ..self }
    }

    /// As `wait`, for what only a user can resolve.
    fn blocked(kind: Kind, target: u32, blocker: Blocker, why: impl Into<String>) -> Self {
        Self { blocker: Some(blocker), ..Self::wait(kind, target, why) }
    }
}

/// The next step for `cluster` as `seen`.
pub fn plan(cluster: &ValidatedCluster, seen: &Snapshot) -> Plan {
    let view = View::new(cluster, seen);
    // Before all else: pods do not start without their Secrets, and members are asked with the certificate in them (I9).
    if let Some(step) = secrets::next(&view) {
        return Plan {
            replicas: replicas(&view),
            operation: None,
            step: Some(Step::Secret(step)),
            latch: None,
            labels: Vec::new(),
            requeue_after: WHILE_WORKING,
        };
    }
    let still = view.is_held() || cluster.spec.hibernate;
    let decision = match () {
        () if view.is_held() => None,
        () if cluster.spec.hibernate => replace::free_pod_of_lost_host(&view),
        () => decide(&view),
    };
    let (mut operation, mut step, mut latch) = (None, None, None);
    if let Some(decision) = decision {
        operation = Some(operation_of(&view, &decision));
        step = decision.step;
        latch = decision.latch;
    }
    Plan {
        replicas: replicas(&view),
        requeue_after: if is_idle(&view, operation.as_ref(), step.as_ref()) {
            WHEN_SETTLED
        } else {
            WHILE_WORKING
        },
        operation,
        step,
        latch,
        labels: if still { Vec::new() } else { view.missing_labels() },
    }
}

/// There is no operation, or only a rollout that a user holds, for weeks perhaps.
fn is_idle(view: &View, operation: Option<&Operation>, step: Option<&Step>) -> bool {
    let is_held =
        |operation: &Operation| operation.kind == Kind::RollingUpdate && view.cluster.rollout.paused;
    step.is_none() && operation.is_none_or(is_held) && view.is_at_rest()
}

/// In order of urgency: what frees a stuck pod, what restores fault tolerance, what finishes
/// an operation, then scale-in and change.
fn decide(view: &View) -> Option<Decision> {
    if !view.seen.status.bootstrapped {
        return rollout::replace_pod_that_does_not_run(view).or_else(|| bootstrap::decide(view));
    }
    recovery::continue_with_chosen(view)
        .or_else(|| replace::free_pod_of_lost_host(view))
        .or_else(|| rollout::replace_pod_that_does_not_run(view))
        .or_else(|| recovery::decide(view))
        .or_else(|| drain::move_leader_off_cordoned_host(view))
        .or_else(|| scale_in::remove_member_without_disk(view))
        .or_else(|| replace::replace_failed(view))
        .or_else(|| scale_out::finish_learner(view))
        .or_else(|| scale_out::recycle_removed(view))
        .or_else(|| scale_out::add_blank(view))
        // A member that leaves need not be changed first; but if it cannot leave yet, the change may
        // be what heals the ones it waits for.
        .or_else(|| scale_in::remove_surplus_voter(view).filter(|decision| decision.step.is_some()))
        .or_else(|| rollout::roll(view))
        .or_else(|| volumes::grow(view))
        .or_else(|| scale_in::remove_surplus_voter(view))
        .or_else(|| volumes::delete_volume_of_removed(view))
        .or_else(|| replace::report_held(view))
        .or_else(|| scale_out::await_missing_member(view))
        .or_else(|| rollout::report_held(view))
        .or_else(|| settings::await_reload(view))
}

/// Grows at once, since a blank pod does no harm, and shrinks only to what the members need.
fn replicas(view: &View) -> u32 {
    let current = view.seen.workload.as_ref().map(|workload| workload.replicas);
    if let (true, Some(current)) = (view.is_held(), current) {
        return current;
    }
    // All at once: with the second to go nobody can write, so an order among them would gain nothing.
    if view.cluster.spec.hibernate {
        return 0;
    }
    let needed = view.cluster.replicas.max(view.highest_known_ordinal().map_or(0, |ordinal| ordinal + 1));
    match current {
        Some(current) if view.seen.status.bootstrapped && !view.is_agreed() => needed.max(current),
        _ => needed,
    }
}

/// Keeps the times of the operation that the status already has.
fn operation_of(view: &View, decision: &Decision) -> Operation {
    let target = decision.target.map(|ordinal| names::pod(&view.cluster.name, ordinal));
    let earlier = view.seen.status.operation.as_ref().filter(|earlier| {
        earlier.kind == decision.kind && (earlier.target == target || decision.target.is_none())
    });
    let now = view.seen.now;
    Operation {
        kind: decision.kind,
        target,
        step_message: decision.step_message.clone(),
        step_id: decision.step_id(),
        blocker: decision.blocker,
        started_at: earlier.map_or(now, |operation| operation.started_at.0),
        deadline: earlier.map_or_else(
            || now.saturating_add(patience(view, decision.kind)).unwrap_or(now),
            |operation| operation.deadline.0,
        ),
        steady_since: decision.steady.then(|| {
            earlier.and_then(|operation| operation.steady_since.as_ref()).map_or(now, |since| since.0)
        }),
    }
}

/// Time after which an operation of this kind is overdue.
fn patience(view: &View, kind: Kind) -> SignedDuration {
    match kind {
        // A restore takes as long as its data, and its Job reports its failure.
        Kind::Bootstrap if view.cluster.spec.bootstrap.is_some() => SignedDuration::from_hours(24),
        // A new member may have to receive all data first.
        Kind::AddMember => SignedDuration::from_mins(30),
        _ => SignedDuration::from_mins(5),
    }
}
