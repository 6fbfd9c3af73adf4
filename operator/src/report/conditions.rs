//! The conditions, each with a reason from a closed list and a message that names what to do
//! or what is awaited. `Ready` with `observedGeneration` is what Helm and kstatus wait for.

use helios_crds::ConditionStatus::{self, False, True, Unknown};
use helios_crds::ConditionType::{
    self, Available, Degraded, FaultToleranceReduced, NearLimit, Progressing, Ready,
};
use helios_crds::{MemberStatus, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::observe::Snapshot;
use crate::plan::{Blocker, Kind, Loss, Plan, View, quorum};
use crate::validate::Invalid;

const ASLEEP: &str = "stopped by spec.hibernate with all data kept; set it to false to start again";

pub struct Finding {
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
}

impl Finding {
    pub fn new(status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }

    fn as_reason_against(&self) -> Self {
        Self::new(False, self.reason, self.message.clone())
    }
}

pub struct Verdict {
    pub phase: Reason,
    findings: [(ConditionType, Finding); 6],
}

impl Verdict {
    pub fn of(view: &View, plan: &Plan, members: &[MemberStatus], in_service: usize, changed: bool) -> Self {
        let available = available(view);
        let unseen =
            changed || view.seen.workload.as_ref().is_none_or(|workload| workload.update_revision.is_none());
        let progressing = progressing(view, plan, unseen);
        let degraded = degraded(view, plan, members);
        let reduced = fault_tolerance(view);
        let wanted = view.cluster.replicas as usize;
        let settled = view.leader.is_some()
            && plan.operation.is_none()
            && !unseen
            && in_service == wanted
            && view.voter_count() == wanted
            && view.outdated().is_empty();
        let ready = match () {
            () if settled => {
                Finding::new(True, Reason::Healthy, format!("{wanted} of {wanted} members are in service"))
            }
            () if degraded.status == True => degraded.as_reason_against(),
            () if progressing.status == True => progressing.as_reason_against(),
            () if available.status != True => available.as_reason_against(),
            () => Finding::new(
                False,
                Reason::NotReady,
                format!("{in_service} of {wanted} members are in service"),
            ),
        };
        let phase = match () {
            () if view.cluster.spec.paused => Reason::Paused,
            () if view.cluster.spec.hibernate => progressing.reason,
            () if available.reason == Reason::QuorumLost => available.reason,
            () if plan.operation.as_ref().is_some_and(|o| o.blocker.is_some()) => Reason::Blocked,
            () if view.seen.status.bootstrapped && available.status != True => available.reason,
            () => ready.reason,
        };
        Self {
            phase,
            findings: [
                (Ready, ready),
                (Available, available),
                (Progressing, progressing),
                (Degraded, degraded),
                (FaultToleranceReduced, reduced),
                (NearLimit, near_limit(view, members)),
            ],
        }
    }
}

fn available(view: &View) -> Finding {
    if hibernates(view) {
        return Finding::new(False, Reason::Hibernated, ASLEEP);
    }
    if let Some(loss) = Loss::of(view) {
        return Finding::new(False, Reason::QuorumLost, loss.bound(view));
    }
    if view.leader.is_some() {
        let (healthy, needed) = (view.healthy_voters(), quorum(view.voter_count()));
        let message = format!("{healthy} of {} voters answer, {needed} are needed", view.voter_count());
        return if healthy >= needed {
            Finding::new(True, Reason::QuorumHealthy, message)
        } else {
            Finding::new(
                Unknown,
                Reason::Unreachable,
                format!("{message}; a leader answers but its followers do not"),
            )
        };
    }
    if !view.seen.status.bootstrapped {
        return Finding::new(False, Reason::Bootstrapping, "the cluster has not begun yet");
    }
    let known = view.seen.status.members.iter().filter(|member| member.member_id != 0);
    let voters: Vec<_> = known.filter_map(|m| crate::names::ordinal(&view.cluster.name, &m.name)).collect();
    let needed = quorum(voters.len());
    let answering = voters.iter().filter(|ordinal| view.seen.nodes.contains_key(ordinal)).count();
    let possible =
        voters.iter().filter(|ordinal| view.seen.pods.get(ordinal).is_some_and(|pod| pod.running)).count();
    let message = format!("no leader; {answering} of {} members answer, {needed} are needed", voters.len());
    match () {
        () if voters.is_empty() => {
            Finding::new(Unknown, Reason::NoLeader, "waiting for a leader to say who the members are")
        }
        () if answering >= needed => Finding::new(False, Reason::NoLeader, message),
        () if possible < needed => {
            Finding::new(False, Reason::NoQuorum, format!("{message}; see why pods do not run"))
        }
        () => Finding::new(Unknown, Reason::Unreachable, message),
    }
}

fn progressing(view: &View, plan: &Plan, unseen: bool) -> Finding {
    if view.cluster.spec.paused {
        return Finding::new(False, Reason::Paused, "held by spec.paused; set it to false to continue");
    }
    if let Some(problem) = view.seen.security.problem.as_ref().filter(|problem| problem.blocks) {
        return Finding::new(False, problem.reason, "nothing is changed until Degraded is gone");
    }
    if view.cluster.spec.hibernate {
        return match view.seen.pods.len() {
            0 => Finding::new(False, Reason::Hibernated, ASLEEP),
            n => Finding::new(
                True,
                Reason::Hibernating,
                format!("{n} members are stopping; their volumes stay"),
            ),
        };
    }
    let Some(operation) = &plan.operation else {
        return match view.outdated().len() {
            0 if unseen => Finding::new(True, Reason::Applying, "the objects of the cluster were changed"),
            0 => Finding::new(False, Reason::Settled, ""),
            n => Finding::new(True, Reason::RollingUpdate, format!("{n} pods run an earlier template")),
        };
    };
    let reason = match operation.kind {
        Kind::Bootstrap => Reason::Bootstrapping,
        Kind::AddMember => Reason::AddingMember,
        Kind::RemoveMember => Reason::RemovingMember,
        Kind::ReplaceMember => Reason::ReplacingMember,
        Kind::RollingUpdate => Reason::RollingUpdate,
        Kind::ResizeVolume => Reason::Resizing,
        Kind::MoveLeader => Reason::MovingLeader,
        Kind::Recovery => Reason::Recovering,
        Kind::ApplySettings => Reason::ApplyingSettings,
    };
    if operation.blocker.is_some() {
        return Finding::new(False, Reason::WaitingForUser, operation.step_message.clone());
    }
    Finding::new(True, reason, operation.step_message.clone())
}

fn degraded(view: &View, plan: &Plan, members: &[MemberStatus]) -> Finding {
    let security = view.seen.security.reported_problem(view.seen.now);
    if let Some(problem) = security.as_ref().filter(|problem| problem.blocks) {
        return Finding::new(True, problem.reason, problem.message.clone());
    }
    // Whatever else waits, waits for this.
    if let Some(entry) = super::unappliable::held(&view.seen.nodes) {
        return Finding::new(True, Reason::EntryUnappliable, entry);
    }
    if let Some(operation) =
        plan.operation.as_ref().filter(|o| o.blocker.is_some() || o.is_overdue(view.seen.now))
    {
        let reason = match operation.kind {
            Kind::Bootstrap => match operation.blocker {
                Some(Blocker::RecoveryImpossible) => Reason::RecoveryImpossible,
                Some(Blocker::RecoveryFailed) => Reason::RecoveryFailed,
                Some(Blocker::RecoveryStoreMissing) => Reason::StoreMissing,
                _ => Reason::BootstrapFailed,
            },
            Kind::AddMember => Reason::LearnerStuck,
            Kind::RollingUpdate => Reason::UpgradeStalled,
            Kind::Recovery if operation.blocker.is_some() => Reason::QuorumLost,
            _ => Reason::Stalled,
        };
        return Finding::new(True, reason, operation.step_message.clone());
    }
    // A member that is being restarted is down by intent, until its deadline.
    let intended =
        plan.operation.as_ref().filter(|o| o.kind == Kind::RollingUpdate).and_then(|o| o.target.clone());
    let down: Vec<_> = view
        .voters()
        .into_iter()
        .filter(|(ordinal, member)| {
            !view.is_healthy(*ordinal, member) && Some(&member.name) != intended.as_ref()
        })
        .map(|(ordinal, member)| explain(view, ordinal, &member.name))
        .collect();
    if down.is_empty()
        && let Some(message) = super::usage::damage(members)
    {
        return Finding::new(True, Reason::StateDamaged, message);
    }
    match security {
        _ if !down.is_empty() => {
            Finding::new(True, Reason::MemberDown, format!("not answering: {}", down.join(", ")))
        }
        Some(problem) => Finding::new(True, problem.reason, problem.message),
        None => Finding::new(False, Reason::AllMembersHealthy, ""),
    }
}

fn hibernates(view: &View) -> bool {
    view.cluster.spec.hibernate && !view.cluster.spec.paused && view.seen.pods.is_empty()
}

fn explain(view: &View, ordinal: u32, name: &str) -> String {
    match view.seen.pods.get(&ordinal) {
        None => format!("{name} (no pod)"),
        Some(pod) => {
            pod.problem.as_ref().map_or_else(|| name.to_owned(), |problem| format!("{name} ({problem})"))
        }
    }
}

fn fault_tolerance(view: &View) -> Finding {
    let wanted = view.cluster.replicas as usize;
    let designed = wanted - quorum(wanted);
    if hibernates(view) {
        return Finding::new(False, Reason::Hibernated, ASLEEP);
    }
    if view.leader.is_none() {
        return Finding::new(Unknown, Reason::NoLeader, "without a leader the members' health is not known");
    }
    let left = view.healthy_voters().saturating_sub(quorum(view.voter_count()));
    let message = format!("tolerates {left} more member failures (designed for {designed})");
    match () {
        () if left < designed => Finding::new(True, Reason::FewerFailuresSurvivable, message),
        () if wanted.is_multiple_of(2) => Finding::new(
            False,
            Reason::EvenReplicas,
            format!("{wanted} members survive no more failures than {}: {designed}", wanted - 1),
        ),
        () => Finding::new(False, Reason::AsDesigned, message),
    }
}

fn near_limit(view: &View, members: &[MemberStatus]) -> Finding {
    match super::usage::advice(&view.cluster.spec.storage.size, members) {
        Some((reason, advice)) => Finding::new(True, reason, advice),
        None => Finding::new(False, Reason::WithinLimits, ""),
    }
}

pub fn update(conditions: &mut Vec<Condition>, verdict: &Verdict, seen: &Snapshot) {
    for (type_, finding) in &verdict.findings {
        set(conditions, *type_, finding, seen);
    }
}

/// Sets the conditions of backups, and removes those that a cluster does not have any more.
pub fn update_backup(
    conditions: &mut Vec<Condition>,
    findings: &[(ConditionType, Finding)],
    seen: &Snapshot,
) {
    let types = [ConditionType::Archiving, ConditionType::BackupHealthy, ConditionType::RestoreVerified];
    let is_gone = |condition: &Condition| {
        let of_backups = types.iter().find(|type_| condition.type_ == **type_);
        of_backups.is_some_and(|type_| findings.iter().all(|(found, _)| found != type_))
    };
    conditions.retain(|condition| !is_gone(condition));
    for (type_, finding) in findings {
        set(conditions, *type_, finding, seen);
    }
}

pub fn update_invalid(conditions: &mut Vec<Condition>, invalid: &Invalid, seen: &Snapshot) {
    for (type_, status) in [(Ready, False), (Progressing, False), (Degraded, True)] {
        set(conditions, type_, &Finding::new(status, Reason::InvalidSpec, invalid.0.clone()), seen);
    }
}

fn set(conditions: &mut Vec<Condition>, type_: ConditionType, finding: &Finding, seen: &Snapshot) {
    let earlier = conditions.iter().position(|condition| condition.type_ == type_);
    let since = earlier
        .map(|at| &conditions[at])
        .filter(|condition| condition.status == finding.status)
        .map_or_else(|| Time(seen.now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_string(),
        status: finding.status.to_string(),
        reason: finding.reason.to_string(),
        message: finding.message.clone(),
        observed_generation: Some(seen.generation),
        last_transition_time: since,
    };
    match earlier {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}
