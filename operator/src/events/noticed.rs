//! What happened to the members since the pass before: who came, went, failed and returned, who leads, whether a majority
//! answers, snapshots, settings and certificates. It is the difference of two statuses and of nothing else, so an operator
//! that begins tells nothing old, and what is told once is not told again. Pure.

use helios_crds::{ConditionStatus, ConditionType, HeliosClusterStatus, MemberStatus, Reason};
use kube::runtime::events::EventType;

/// Told of one pass at most: seven members, and two things of each.
const MOST: usize = 16;

/// What there is to tell; its name is the event's reason.
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
        }
    }

    pub fn type_(self) -> EventType {
        match self {
            Self::MemberFailed
            | Self::QuorumLost
            | Self::QuorumUnknown
            | Self::LeaderLost
            | Self::SnapshotFailed
            | Self::NameTaken => EventType::Warning,
            _ => EventType::Normal,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    pub notice: Notice,
    /// Whom it is about.
    pub pod: Option<String>,
    pub note: String,
}

impl Noticed {
    fn of(notice: Notice, pod: &str, note: impl Into<String>) -> Self {
        Self { notice, pod: Some(pod.to_owned()), note: note.into() }
    }

    fn of_all(notice: Notice, note: impl Into<String>) -> Self {
        Self { notice, pod: None, note: note.into() }
    }
}

/// What `new` tells that `old`, the status before it, did not.
pub fn noticed(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<Noticed> {
    let mut all = Vec::new();
    // Of members that may be merely out of reach nothing is told but that.
    if majority(new) != Majority::Unknown {
        all.extend(comings_and_goings(old, new));
        all.extend(failures(old, new));
    }
    all.extend(quorum(old, new));
    all.extend(leadership(old, new));
    all.extend(in_both(old, new).filter_map(|(before, now)| snapshot_on_its_way(before, now)));
    all.extend(in_both(old, new).filter_map(|(before, now)| snapshot_of_its_own(before, now)));
    all.extend(in_both(old, new).filter_map(|(before, now)| settings(before, now)));
    all.extend(certificate(old, new));
    all.extend(name_taken(old, new));
    all.truncate(MOST);
    all
}

/// The same member in both, and a member.
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

fn comings_and_goings(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<Noticed> {
    let members = |status: &HeliosClusterStatus| {
        status.members.iter().filter(|member| member.member_id != 0).cloned().collect::<Vec<_>>()
    };
    let (before, now) = (members(old), members(new));
    let size = format!("{} members in all", now.len());
    let left = before.iter().filter(|member| find(new, member).is_none()).map(|member| {
        let note = format!("member {} is no member any more; {size}", member.member_id);
        Noticed::of(Notice::MemberLeft, &member.name, note)
    });
    let came = now.iter().filter_map(|member| match find(old, member) {
        None => {
            let role = if member.role == "Learner" { "learner" } else { "voter" };
            let note = format!("joined as {role}, member {}; {size}", member.member_id);
            Some(Noticed::of(Notice::MemberJoined, &member.name, note))
        }
        Some(before) if before.role == "Learner" && is_voter(member) => {
            Some(Noticed::of(Notice::MemberPromoted, &member.name, format!("votes now; {size}")))
        }
        Some(_) => None,
    });
    left.chain(came).collect()
}

fn is_voter(member: &MemberStatus) -> bool {
    matches!(member.role.as_str(), "Leader" | "Follower" | "Candidate")
}

/// But for the member that the operator itself restarts, and for those that only wait for a leader. Who was out of reach
/// had not failed, as far as anybody knows.
fn failures(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<Noticed> {
    if hibernates(new) || hibernates(old) {
        return Vec::new();
    }
    let intended = |name: &str| {
        let of = |status: &HeliosClusterStatus| status.operation.as_ref().and_then(|o| o.target.clone());
        [of(old), of(new)].iter().flatten().any(|target| target == name)
    };
    let was_in_reach = majority(old) != Majority::Unknown;
    let told = in_both(old, new).filter(|(_, now)| !intended(&now.name)).filter_map(|(before, now)| {
        match (was_in_reach && has_failed(before, old), has_failed(now, new)) {
            (false, true) if now.role == "Unknown" => {
                Some(Noticed::of(Notice::MemberFailed, &now.name, "does not answer any more"))
            }
            (false, true) => {
                Some(Noticed::of(Notice::MemberFailed, &now.name, "serves nobody: it is not ready"))
            }
            (true, false) => {
                Some(Noticed::of(Notice::MemberRecovered, &now.name, "answers again and serves"))
            }
            _ => None,
        }
    });
    told.collect()
}

fn has_failed(member: &MemberStatus, status: &HeliosClusterStatus) -> bool {
    member.role == "Unknown" || (!member.ready && status.leader.is_some())
}

/// Whether the voters that are needed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Majority {
    Answers,
    /// Or there was none yet, or it sleeps.
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

fn quorum(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Noticed> {
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
    Some(Noticed::of_all(notice, format!("{message}{leader}")))
}

fn leadership(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Noticed> {
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
    Some(Noticed::of(notice, leader, note))
}

fn snapshot_on_its_way(before: &MemberStatus, now: &MemberStatus) -> Option<Noticed> {
    match (before.receives_snapshot, now.receives_snapshot) {
        (false, true) => {
            let note = "the leader sends it a snapshot, since the log that it lacks is gone";
            Some(Noticed::of(Notice::SnapshotStarted, &now.name, note))
        }
        (true, false) if now.match_index > before.match_index => Some(Noticed::of(
            Notice::SnapshotDone,
            &now.name,
            "has received the snapshot and goes on from there",
        )),
        (true, false) => {
            let note = "the snapshot on its way to it has not arrived; the leader sends another";
            Some(Noticed::of(Notice::SnapshotFailed, &now.name, note))
        }
        _ => None,
    }
}

fn snapshot_of_its_own(before: &MemberStatus, now: &MemberStatus) -> Option<Noticed> {
    let count = now.snapshot_failures;
    (count > before.snapshot_failures).then(|| {
        let note = format!(
            "could not write a snapshot, {count} times since it started; its log says why, and is kept"
        );
        Noticed::of(Notice::SnapshotFailed, &now.name, note)
    })
}

/// By a process that went on: one that starts has read its configuration, of course.
fn settings(before: &MemberStatus, now: &MemberStatus) -> Option<Noticed> {
    let (old, new) = (before.config.as_ref()?, now.config.as_ref()?);
    (old != new && before.incarnation == now.incarnation).then(|| {
        Noticed::of(
            Notice::ConfigReloaded,
            &now.name,
            format!("runs with changed settings, without a restart ({new})"),
        )
    })
}

fn certificate(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Noticed> {
    let (before, now) = (old.certificate_expires_at.as_ref()?, new.certificate_expires_at.as_ref()?);
    (before != now).then(|| {
        let note = format!("the members' certificate was replaced; the new one ends at {}", now.0);
        Noticed::of_all(Notice::CertificateRenewed, note)
    })
}

/// Each time that other objects are in the way.
fn name_taken(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Option<Noticed> {
    let taken = |status: &HeliosClusterStatus| {
        let degraded = status.condition(ConditionType::Degraded)?;
        (degraded.reason == Reason::NameTaken).then(|| degraded.message.clone())
    };
    let now = taken(new)?;
    (taken(old).as_ref() != Some(&now)).then(|| Noticed::of_all(Notice::NameTaken, now))
}

#[cfg(test)]
mod tests;
