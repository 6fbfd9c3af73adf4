//! Blockers of a leadership transfer: preconditions that do not hold now. Pure.

use helios_proto::v1::{Membership, Progress, StatusResponse};
use serde::Serialize;

use crate::direct::{Answer, leader};

/// Largest lag of a target, in log entries: about as many as are in flight under load.
pub const MOST_LAG: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Machine-readable reason.
    pub reason: &'static str,
    pub message: String,
    /// Whether it disappears automatically in a healthy cluster.
    pub passes: bool,
}

/// Preconditions of a transfer, by the answers of all members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    pub target: String,
    /// Name of the leader; empty without one.
    pub leader: String,
    pub leads_already: bool,
    pub blockers: Vec<Blocker>,
}

impl Outlook {
    pub fn of(answers: &[Answer], target: &str) -> Self {
        let of_leader = leader(answers);
        let leader = of_leader.map(|status| status.name.clone()).unwrap_or_default();
        let leads_already = leader == target;
        let blockers = match of_leader {
            _ if leads_already => Vec::new(),
            None => vec![no_leader(answers)],
            Some(leader) => blockers(answers, leader, target),
        };
        Self { target: target.to_owned(), leader, leads_already, blockers }
    }

    /// Returns the blockers that waiting does not remove, or if there are none all of them.
    pub fn worst(&self) -> Vec<&Blocker> {
        let lasting: Vec<_> = self.blockers.iter().filter(|blocker| !blocker.passes).collect();
        if lasting.is_empty() { self.blockers.iter().collect() } else { lasting }
    }

    pub fn is_hopeless(&self) -> bool {
        self.blockers.iter().any(|blocker| !blocker.passes)
    }

    pub fn text(&self) -> String {
        if self.leads_already {
            return format!("{} leads already\n", self.target);
        }
        if self.blockers.is_empty() {
            return format!("all preconditions hold: {} can take over from {}\n", self.target, self.leader);
        }
        let lines =
            self.blockers.iter().map(|blocker| format!("  {}: {}\n", blocker.reason, blocker.message));
        format!("{} cannot take over now:\n{}", self.target, lines.collect::<String>())
    }
}

fn blocker(reason: &'static str, passes: bool, message: impl Into<String>) -> Blocker {
    Blocker { reason, message: message.into(), passes }
}

fn no_leader(answers: &[Answer]) -> Blocker {
    let answering = answers.iter().filter(|answer| answer.status.is_ok()).count();
    let message = format!(
        "no leader among {answering} of {} members that answer; heliosctl doctor looks for the reason",
        answers.len()
    );
    blocker("NoLeader", true, message)
}

fn blockers(answers: &[Answer], leader: &StatusResponse, target: &str) -> Vec<Blocker> {
    let membership = leader.membership.clone().unwrap_or_default();
    let Some(member) = membership.members.iter().find(|member| member.name == target) else {
        let names: Vec<_> = membership.members.iter().map(|member| member.name.as_str()).collect();
        let message = format!("there is no member {target:?}; the members are {}", names.join(", "));
        return vec![blocker("NotAMember", false, message)];
    };
    let votes = membership.voters.contains(&member.id);
    let mut found = Vec::new();
    if !votes {
        found.push(blocker(
            "NotAVoter",
            false,
            format!("{target} is a learner; heliosctl promote {target} makes it a voter"),
        ));
    }
    found.extend(no_quorum(leader, &membership));
    if !membership.voters_outgoing.is_empty() {
        found.push(blocker(
            "ChangeUnderWay",
            true,
            "a membership change is in progress; wait until it is done",
        ));
    }
    let handed_over = leader.failover.as_ref().map_or(0, |failover| failover.transfer_target);
    if ![0, member.id].contains(&handed_over) {
        found.push(blocker(
            "TransferUnderWay",
            true,
            format!("{} is handing over to member {handed_over}; wait until it has", leader.name),
        ));
    }
    found.extend(of_target(answers, target));
    let progress = leader.progress.iter().find(|progress| progress.id == member.id);
    found.extend(progress.and_then(|progress| behind(leader, progress, target)));
    found
}

fn no_quorum(leader: &StatusResponse, membership: &Membership) -> Option<Blocker> {
    let heard = |id: &&u64| {
        **id == leader.member_id || leader.progress.iter().any(|other| other.id == **id && other.active)
    };
    let (voters, heard) = (membership.voters.len(), membership.voters.iter().filter(heard).count());
    (heard < voters / 2 + 1).then(|| {
        blocker(
            "NoQuorum",
            true,
            format!("{} hears {heard} of {voters} voters; {} are needed", leader.name, voters / 2 + 1),
        )
    })
}

fn of_target(answers: &[Answer], target: &str) -> Option<Blocker> {
    let status = answers.iter().filter_map(Answer::status).find(|status| status.name == target);
    match status {
        None => Some(blocker(
            "TargetSilent",
            true,
            format!("{target} does not answer; start it, or restore the network to it"),
        )),
        Some(status) if !status.ready => {
            Some(blocker("TargetNotReady", true, format!("{target} {}", status.not_ready_reason)))
        }
        Some(_) => None,
    }
}

fn behind(leader: &StatusResponse, progress: &Progress, target: &str) -> Option<Blocker> {
    if progress.snapshotting {
        return Some(blocker(
            "ReceivesSnapshot",
            true,
            format!("{target} receives a snapshot; wait until it has it"),
        ));
    }
    let lag = leader.last_index.saturating_sub(progress.match_index);
    (lag > MOST_LAG).then(|| {
        blocker(
            "Lagging",
            true,
            format!("{target} is {lag} entries behind, {MOST_LAG} are allowed; wait until it has caught up"),
        )
    })
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Failover, Member, Role};

    use super::*;

    /// Returns the answers of three voters, the first of which is the leader, and of a learner, after
    /// `change`.
    fn answers(change: impl FnOnce(&mut [StatusResponse])) -> Vec<Answer> {
        let member = |id: u64| Member { id, name: format!("n{id}"), ..Member::default() };
        let progress = |id| Progress { id, match_index: 1000, active: true, snapshotting: false };
        let membership = Membership {
            members: (1..=4).map(member).collect(),
            voters: vec![1, 2, 3],
            learners: vec![4],
            ..Membership::default()
        };
        let status = |id: u64| StatusResponse {
            name: format!("n{id}"),
            member_id: id,
            role: if id == 1 { Role::Leader } else { Role::Follower }.into(),
            term: 5,
            last_index: 1000,
            ready: true,
            membership: Some(membership.clone()),
            progress: if id == 1 { (2..=4).map(progress).collect() } else { Vec::new() },
            ..StatusResponse::default()
        };
        let mut all: Vec<_> = (1..=4).map(status).collect();
        change(&mut all);
        all.into_iter().map(|status| Answer { address: status.name.clone(), status: Ok(status) }).collect()
    }

    fn reasons(answers: &[Answer], target: &str) -> Vec<&'static str> {
        Outlook::of(answers, target).blockers.iter().map(|blocker| blocker.reason).collect()
    }

    #[test]
    fn healthy_cluster_has_no_blockers() {
        assert_eq!(reasons(&answers(|_| {}), "n2"), [""; 0]);
        assert!(Outlook::of(&answers(|_| {}), "n1").leads_already);
    }

    #[test]
    fn each_blocker_is_found() {
        assert_eq!(reasons(&answers(|all| all[0].set_role(Role::Follower)), "n2"), ["NoLeader"]);
        assert_eq!(reasons(&answers(|_| {}), "n9"), ["NotAMember"]);
        assert_eq!(reasons(&answers(|_| {}), "n4"), ["NotAVoter"]);
        let cut = answers(|all| {
            all[0].progress[0].active = false;
            all[0].progress[1].active = false;
        });
        assert_eq!(reasons(&cut, "n2"), ["NoQuorum"]);
        let joint =
            |all: &mut [StatusResponse]| all[0].membership.as_mut().unwrap().voters_outgoing = vec![1, 2];
        assert_eq!(reasons(&answers(joint), "n2"), ["ChangeUnderWay"]);
        let handing_over = |all: &mut [StatusResponse]| {
            all[0].failover = Some(Failover { transfer_target: 3, ..Failover::default() });
        };
        assert_eq!(reasons(&answers(handing_over), "n2"), ["TransferUnderWay"]);
        assert_eq!(reasons(&answers(handing_over), "n3"), [""; 0], "so it is asked for already");
        assert_eq!(reasons(&answers(|all| all[1].ready = false), "n2"), ["TargetNotReady"]);
        assert_eq!(
            reasons(&answers(|all| all[0].progress[0].snapshotting = true), "n2"),
            ["ReceivesSnapshot"]
        );
        assert_eq!(reasons(&answers(|all| all[0].progress[0].match_index = 899), "n2"), ["Lagging"]);
        assert_eq!(reasons(&answers(|all| all[0].progress[0].match_index = 900), "n2"), [""; 0]);
        let mut silent = answers(|_| {});
        silent[1].status = Err("refused".to_owned());
        assert_eq!(reasons(&silent, "n2"), ["TargetSilent"]);
    }

    #[test]
    fn outlook_is_hopeless_only_with_a_lasting_blocker() {
        let learner_that_is_not_ready = answers(|all| all[3].ready = false);
        let outlook = Outlook::of(&learner_that_is_not_ready, "n4");
        assert!(outlook.is_hopeless() && outlook.blockers.len() == 2);
        assert_eq!(outlook.worst().iter().map(|blocker| blocker.reason).collect::<Vec<_>>(), ["NotAVoter"]);
        let lagging = answers(|all| all[0].progress[0].match_index = 0);
        assert!(!Outlook::of(&lagging, "n2").is_hopeless());
        let text = Outlook::of(&lagging, "n2").text();
        assert!(text.starts_with("n2 cannot take over now:\n  Lagging: n2 is 1000 entries behind"), "{text}");
    }
}
