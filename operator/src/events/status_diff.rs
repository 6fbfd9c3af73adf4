//! Changes of the members since the reconcile before: joined, left, failed and recovered ones, the leader, the quorum,
//! snapshots, settings and certificates. It is the difference of two statuses and of nothing else, so an operator that
//! starts reports nothing old, and nothing is reported twice. Pure.

use helios_crds::{
    ConditionStatus, ConditionType, HeliosClusterStatus, MemberRole, MemberStatus, Open, Reason,
};
use kube::runtime::events::EventType;

/// Changes of one reconcile at most: seven members, and two of each.
const MOST: usize = 16;

/// Kind of a change; its name is the event's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    MemberJoined,
    MemberPromoted,
    MemberLeft,
    MemberFailed,
    MemberRecovered,
    QuorumAchieved,
    QuorumLost,
    QuorumUnknown,
    LeaderElected,
    LeaderMoved,
    LeaderLost,
    SnapshotStarted,
    SnapshotDone,
    SnapshotFailed,
    ConfigReloaded,
    CertificateRenewed,
    NameTaken,
    NearLimit,
    RestoreVerified,
    DrillFailed,
}

impl Notice {
    pub fn name(self) -> &'static str {
        match self {
            Self::MemberJoined => "MemberJoined",
            Self::MemberPromoted => "MemberPromoted",
            Self::MemberLeft => "MemberLeft",
            Self::MemberFailed => "MemberFailed",
            Self::MemberRecovered => "MemberRecovered",
            Self::QuorumAchieved => "QuorumAchieved",
            Self::QuorumLost => "QuorumLost",
            Self::QuorumUnknown => "QuorumUnknown",
            Self::LeaderElected => "LeaderElected",
            Self::LeaderMoved => "LeaderMoved",
            Self::LeaderLost => "LeaderLost",
            Self::SnapshotStarted => "SnapshotStarted",
            Self::SnapshotDone => "SnapshotDone",
            Self::SnapshotFailed => "SnapshotFailed",
            Self::ConfigReloaded => "ConfigReloaded",
            Self::CertificateRenewed => "CertificateRenewed",
            Self::NameTaken => "NameTaken",
            Self::NearLimit => "NearLimit",
            Self::RestoreVerified => "RestoreVerified",
            Self::DrillFailed => "DrillFailed",
        }
    }

    pub fn type_(self) -> EventType {
        match self {
            Self::MemberFailed
            | Self::QuorumLost
            | Self::QuorumUnknown
            | Self::LeaderLost
            | Self::SnapshotFailed
            | Self::NameTaken
            | Self::NearLimit
            | Self::DrillFailed => EventType::Warning,
            _ => EventType::Normal,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub notice: Notice,
    /// Member that it is about; `None`: the cluster.
    pub pod: Option<String>,
    pub note: String,
}

impl Change {
    fn of_member(notice: Notice, pod: &str, note: impl Into<String>) -> Self {
        Self { notice, pod: Some(pod.to_owned()), note: note.into() }
    }

    fn of_cluster(notice: Notice, note: impl Into<String>) -> Self {
        Self { notice, pod: None, note: note.into() }
    }
}

/// Changes from `old`, the status before this reconcile, to `new`.
pub fn status_diff(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<Change> {
    let mut all = Vec::new();
    // Members that may be merely unreachable are reported as nothing else.
    if majority(new) != Majority::Unknown {
        all.extend(joined_and_left(old, new));
        all.extend(failures(old, new));
    }
    all.extend(quorum(old, new));
    all.extend(leadership(old, new));
    all.extend(in_both(old, new).filter_map(|(before, now)| received_snapshot(before, now)));
    all.extend(in_both(old, new).filter_map(|(before, now)| own_snapshot(before, now)));
    all.extend(in_both(old, new).filter_map(|(before, now)| settings(before, now)));
    all.extend(certificate(old, new));
    all.extend(name_taken(old, new));
    all.extend(near_limit(old, new));
    all.extend(drill(old, new));
    all.truncate(MOST);
    all
}

/// Members that are in both statuses.
fn in_both<'a>(
    old: &'a HeliosClusterStatus,
    new: &'a HeliosClusterStatus,
) -> impl Iterator<Item = (&'a MemberStatus, &'a MemberStatus)> {
    new.members.iter().filter_map(|now| Some((find(old, now)?, now)))
}

fn find<'a>(status: &'a HeliosClusterStatus, member: &MemberStatus) -> Option<&'a MemberStatus> {
    let same = |other: &&MemberStatus| other.member_id == member.member_id && other.name == member.name;
    status.members.iter().find(same).filter(|found| found.member_id != 0)
}

fn joined_and_left(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<Change> {
    let members = |status: &HeliosClusterStatus| {
        status.members.iter().filter(|member| member.member_id != 0).cloned().collect::<Vec<_>>()
    };
    let (before, now) = (members(old), members(new));
    let size = format!("{} members in all", now.len());
    let left = before.iter().filter(|member| find(new, member).is_none()).map(|member| {
        let note = format!("member {} is no member any more; {size}", member.member_id);
        Change::of_member(Notice::MemberLeft, &member.name, note)
    });
    let came = now.iter().filter_map(|member| match find(old, member) {
        None => {
            let role = if member.role == MemberRole::Learner { "learner" } else { "voter" };
            let note = format!("joined as {role}, member {}; {size}", member.member_id);
            Some(Change::of_member(Notice::MemberJoined, &member.name, note))
        }
        Some(before) if before.role == MemberRole::Learner && is_voter(member) => {
            Some(Change::of_member(Notice::MemberPromoted, &member.name, format!("votes now; {size}")))
        }
        Some(_) => None,
    });
    left.chain(came).collect()
}

fn is_voter(member: &MemberStatus) -> bool {
    use MemberRole::{Candidate, Follower, Leader};
    matches!(member.role, Open::Known(Leader | Follower | Candidate))
}

/// Members that failed or recovered, except the one that the operator restarts and those that only wait for a leader. A
/// member that was unreachable is not known to have failed.
fn failures(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<Change> {
    if hibernates(new) || hibernates(old) {
        return Vec::new();
    }
    let intended = |name: &str| {
        let of = |status: &HeliosClusterStatus| status.operation.as_ref().and_then(|o| o.target.clone());
        [of(old), of(new)].iter().flatten().any(|target| target == name)
    };
    let was_in_reach = majority(old) != Majority::Unknown;
    let changes =
        in_both(old, new).filter(|(_, now)| !intended(&now.name)).filter_map(|(before, now)| {
            match (was_in_reach && has_failed(before, old), has_failed(now, new)) {
                (false, true) if now.role == MemberRole::Unknown => {
                    Some(Change::of_member(Notice::MemberFailed, &now.name, "does not answer any more"))
                }
                (false, true) => {
                    Some(Change::of_member(Notice::MemberFailed, &now.name, "serves nobody: it is not ready"))
                }
                (true, false) => {
                    Some(Change::of_member(Notice::MemberRecovered, &now.name, "answers again and serves"))
                }
                _ => None,
            }
        });
    changes.collect()
}

fn has_failed(member: &MemberStatus, status: &HeliosClusterStatus) -> bool {
    member.role == MemberRole::Unknown || (!member.ready && status.leader.is_some())
}

/// Knowledge of a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Majority {
    Answers,
    /// Also before bootstrap and in hibernation.
    Absent,
    Unknown,
}

fn majority(status: &HeliosClusterStatus) -> Majority {
    match status.condition(ConditionType::Available) {
        Some(found) if found.status == ConditionStatus::Unknown => Majority::Unknown,
        // A majority that is choosing a leader is one.
        Some(found) if found.status == ConditionStatus::True || found.reason == Reason::NoLeader => {
            Majority::Answers
        }
        _ => Majority::Absent,
    }
}

fn hibernates(status: &HeliosClusterStatus) -> bool {
    status.reason(ConditionType::Available) == Some(Reason::Hibernated)
        || status.phase.as_ref().is_some_and(|phase| *phase == Reason::Hibernating)
}

fn quorum(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Change> {
    let message = new.condition(ConditionType::Available).map_or("", |found| found.message.as_str());
    let leader = new.leader.as_ref().map_or_else(String::new, |leader| {
        format!("; {leader} leads in term {}", new.term.unwrap_or_default())
    });
    let notice = match (majority(old), majority(new)) {
        (Majority::Absent | Majority::Unknown, Majority::Answers) => Notice::QuorumAchieved,
        (Majority::Answers | Majority::Unknown, Majority::Absent) if !hibernates(new) => Notice::QuorumLost,
        (Majority::Answers, Majority::Unknown) => Notice::QuorumUnknown,
        _ => return None,
    };
    Some(Change::of_cluster(notice, format!("{message}{leader}")))
}

fn leadership(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Change> {
    let term = new.term.unwrap_or_default();
    let (notice, leader, note) = match (&old.leader, &new.leader) {
        (Some(before), Some(now)) if before != now => {
            let still_serves =
                new.members.iter().any(|member| &member.name == before && member.ready && is_voter(member));
            match still_serves {
                true => (
                    Notice::LeaderMoved,
                    now,
                    format!("leads in term {term}; {before} handed over or was voted out"),
                ),
                false => (
                    Notice::LeaderElected,
                    now,
                    format!("leads in term {term}; {before}, which led before, is not in service"),
                ),
            }
        }
        (Some(_), Some(now)) if new.term > old.term => {
            (Notice::LeaderElected, now, format!("leads again, in term {term}"))
        }
        (None, Some(now)) if majority(old) != Majority::Unknown => {
            (Notice::LeaderElected, now, format!("leads in term {term}"))
        }
        (Some(before), None) if majority(new) != Majority::Unknown && !hibernates(new) => {
            (Notice::LeaderLost, before, "does not lead any more, and no other member does yet".to_owned())
        }
        _ => return None,
    };
    Some(Change::of_member(notice, leader, note))
}

fn received_snapshot(before: &MemberStatus, now: &MemberStatus) -> Option<Change> {
    match (before.receives_snapshot, now.receives_snapshot) {
        (false, true) => {
            let note = "the leader sends it a snapshot, since the log that it lacks is gone";
            Some(Change::of_member(Notice::SnapshotStarted, &now.name, note))
        }
        (true, false) if now.match_index > before.match_index => Some(Change::of_member(
            Notice::SnapshotDone,
            &now.name,
            "has received the snapshot and continues from there",
        )),
        (true, false) => {
            let note = "the snapshot on its way to it has not arrived; the leader sends another";
            Some(Change::of_member(Notice::SnapshotFailed, &now.name, note))
        }
        _ => None,
    }
}

fn own_snapshot(before: &MemberStatus, now: &MemberStatus) -> Option<Change> {
    let count = now.snapshot_failures;
    (count > before.snapshot_failures).then(|| {
        let note = format!(
            "could not write a snapshot, {count} times since it started; its log says why, and is kept"
        );
        Change::of_member(Notice::SnapshotFailed, &now.name, note)
    })
}

/// Reload by a process that kept running: one that starts reads its configuration anyway.
fn settings(before: &MemberStatus, now: &MemberStatus) -> Option<Change> {
    let (old, new) = (before.config.as_ref()?, now.config.as_ref()?);
    (old != new && before.incarnation == now.incarnation).then(|| {
        Change::of_member(
            Notice::ConfigReloaded,
            &now.name,
            format!("runs with changed settings, without a restart ({new})"),
        )
    })
}

fn certificate(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Change> {
    let (before, now) = (old.certificate_expires_at.as_ref()?, new.certificate_expires_at.as_ref()?);
    (before != now).then(|| {
        let note = format!("the members' certificate was replaced; the new one ends at {}", now.0);
        Change::of_cluster(Notice::CertificateRenewed, note)
    })
}

/// Reported each time that the set of foreign objects changes.
fn name_taken(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Change> {
    let taken = |status: &HeliosClusterStatus| {
        let degraded = status.condition(ConditionType::Degraded)?;
        (degraded.reason == Reason::NameTaken).then(|| degraded.message.clone())
    };
    let now = taken(new)?;
    (taken(old).as_ref() != Some(&now)).then(|| Change::of_cluster(Notice::NameTaken, now))
}

/// Reported each time that the advice changes: another member, or another size to write.
fn near_limit(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Change> {
    let advice = |status: &HeliosClusterStatus| {
        let found =
            status.condition(ConditionType::NearLimit).filter(|_| status.is(ConditionType::NearLimit));
        found.map(|condition| condition.message.clone())
    };
    let now = advice(new)?;
    (advice(old).as_ref() != Some(&now)).then(|| Change::of_cluster(Notice::NearLimit, now))
}

/// Reported for each drill: the message of the condition has the name or the index of it.
fn drill(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Change> {
    let result = |status: &HeliosClusterStatus| {
        let condition = status.condition(ConditionType::RestoreVerified)?;
        let notice = match condition.reason.parse() {
            Ok(Reason::DrillPassed) => Notice::RestoreVerified,
            Ok(Reason::DrillFailed) => Notice::DrillFailed,
            _ => return None,
        };
        let at = status.backup.as_ref().and_then(|backup| backup.last_verified_restore.as_ref());
        Some((notice, condition.message.clone(), at.map(|verified| verified.at.clone())))
    };
    let now = result(new)?;
    (result(old).as_ref() != Some(&now)).then(|| Change::of_cluster(now.0, now.1))
}

#[cfg(test)]
mod tests;
