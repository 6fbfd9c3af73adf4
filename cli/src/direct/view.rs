//! Builds a [`ClusterView`] from the members' answers. Pure.

use std::collections::BTreeSet;

use helios_proto::v1::{Member, Membership, Role, StatusResponse};

use super::survey::{Answer, leader, newest_membership};
use crate::backup_view::BackupView;
use crate::usage::UsageView;
use crate::view::{ClusterView, Health, MemberView, Verdict, quorum};

/// Lag in entries above which the cluster counts as changing.
const MAX_LAG: u64 = 1000;

pub fn view(answers: &[Answer]) -> ClusterView {
    let leader = leader(answers);
    let membership = newest_membership(answers);
    let mut members: Vec<MemberView> = membership
        .into_iter()
        .flat_map(|membership| {
            membership.members.iter().map(|member| row(answers, leader, membership, member))
        })
        .collect();
    members.extend(answers.iter().filter(|answer| !is_member(answer, membership)).map(non_member));
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let any = leader.or_else(|| answers.iter().find_map(Answer::status));
    ClusterView {
        name: "cluster".to_owned(),
        namespace: None,
        cluster_id: any.map(|status| status.cluster_id.clone()).filter(|id| !id.is_empty()),
        leader: leader.map(|leader| leader.name.clone()),
        term: any.map(|status| status.term),
        version: leader.map(|leader| leader.version.clone()),
        verdict: verdict(answers, leader, membership, &members),
        members,
        operation: None,
        backup: BackupView::reported(
            answers.iter().filter_map(Answer::status).flat_map(|status| &status.archivers),
        ),
        conditions: Vec::new(),
    }
}

fn row(
    answers: &[Answer],
    leader: Option<&StatusResponse>,
    membership: &Membership,
    member: &Member,
) -> MemberView {
    let own = answers.iter().filter_map(Answer::status).find(|status| status.member_id == member.id);
    let silent = answers.iter().find(|answer| answer.address == member.peer_addr);
    let role = match own {
        // Until it has heard from its cluster, a learner takes itself for a follower.
        _ if membership.learners.contains(&member.id) => "Learner",
        Some(own) => role_name(own.role()),
        None => "Unknown",
    };
    let usage = own.and_then(|own| own.state.as_ref()).map(UsageView::from);
    MemberView {
        name: member.name.clone(),
        id: Some(member.id),
        role: role.to_owned(),
        ready: own.is_some_and(|own| own.ready),
        lag: leader.and_then(|leader| lag(leader, member.id)),
        version: own.map(|own| own.version.clone()),
        address: Some(member.peer_addr.clone()),
        incarnation: own.map_or(Some(member.boot_epoch), |own| Some(own.boot_epoch)),
        trouble: match (own, silent) {
            (Some(own), _) if !own.ready => Some(own.not_ready_reason.clone()),
            (None, Some(Answer { status: Err(_), .. }) | None) => Some("no answer".to_owned()),
            (None, Some(_)) => Some("another node answers at its address".to_owned()),
            (Some(_), _) => usage
                .as_ref()
                .and_then(|usage| usage.scrub.damaged_file.as_ref())
                .map(|file| format!("damaged file {file} in its state; see the runbook HeliosStateDamaged")),
        },
        usage,
        ..MemberView::default()
    }
}

/// Returns the row of a node that was asked and is not a member of the cluster.
fn non_member(answer: &Answer) -> MemberView {
    let status = answer.status();
    MemberView {
        name: status.map_or_else(|| answer.address.clone(), |status| status.name.clone()),
        role: status.map_or("Unknown", |status| role_name(status.role())).to_owned(),
        ready: status.is_some_and(|status| status.ready),
        version: status.map(|status| status.version.clone()),
        address: Some(answer.address.clone()),
        incarnation: status.map(|status| status.boot_epoch),
        trouble: Some(status.map_or("no answer", |_| "not a member").to_owned()),
        ..MemberView::default()
    }
}

fn is_member(answer: &Answer, membership: Option<&Membership>) -> bool {
    let known = membership.map(|membership| membership.members.as_slice()).unwrap_or_default();
    known.iter().any(|member| match answer.status() {
        Some(status) => status.member_id == member.id,
        None => answer.address == member.peer_addr,
    })
}

fn lag(leader: &StatusResponse, id: u64) -> Option<u64> {
    if leader.member_id == id {
        return Some(0);
    }
    let progress = leader.progress.iter().find(|progress| progress.id == id)?;
    Some(leader.commit_index.saturating_sub(progress.match_index))
}

fn verdict(
    answers: &[Answer],
    leader: Option<&StatusResponse>,
    membership: Option<&Membership>,
    members: &[MemberView],
) -> Verdict {
    let clusters: BTreeSet<&str> = answers
        .iter()
        .filter_map(Answer::status)
        .map(|status| status.cluster_id.as_str())
        .filter(|id| !id.is_empty())
        .collect();
    if clusters.len() > 1 {
        let ids = clusters.into_iter().collect::<Vec<_>>().join(", ");
        return Verdict::new(Health::Unknown, format!("these are members of different clusters: {ids}"));
    }
    let Some(membership) = membership else {
        return match answers.iter().find_map(Answer::status) {
            Some(status) => {
                let reason = format!("{} answers and belongs to no cluster yet", status.name);
                Verdict::new(Health::Down, reason)
            }
            None => Verdict::new(Health::Unknown, none_answers(answers)),
        };
    };
    let voters = membership.voters.len();
    let answering: Vec<&MemberView> = members
        .iter()
        .filter(|member| {
            member.id.is_some_and(|id| membership.voters.contains(&id)) && member.role != "Unknown"
        })
        .collect();
    let needed = quorum(voters);
    let counted = format!("{} of {voters} voters answer, {needed} are needed", answering.len());
    let Some(leader) = leader else {
        return Verdict::new(
            Health::Down,
            format!("no leader; {counted}; heliosctl doctor looks for the reason"),
        );
    };
    if answering.len() < needed {
        return Verdict::new(Health::Unknown, format!("{} leads, but only {counted}", leader.name));
    }
    let catches_up = |member: &MemberView| member.role == "Learner" && member.version.is_some();
    let troubled = || members.iter().filter_map(|member| Some((member, member.trouble.as_deref()?)));
    if let Some((member, trouble)) = troubled().find(|(member, _)| !catches_up(member)) {
        return Verdict::new(Health::Degraded, format!("{}: {trouble}; {counted}", member.name));
    }
    if let Some((learner, trouble)) = troubled().next() {
        return Verdict::new(Health::Changing, format!("the learner {} {trouble}", learner.name));
    }
    if let Some((member, lag)) = members.iter().find_map(|m| Some((m, m.lag.filter(|lag| *lag > MAX_LAG)?))) {
        return Verdict::new(Health::Changing, format!("{} is {lag} entries behind", member.name));
    }
    let spare = voters - needed;
    Verdict::new(Health::Healthy, format!("{voters} of {voters} voters in service, {spare} may fail"))
}

fn none_answers(answers: &[Answer]) -> String {
    let first = answers.first().and_then(|answer| answer.status.as_ref().err());
    format!("none of {} addresses answers: {}", answers.len(), first.map_or("", String::as_str))
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Uninitialized => "Blank",
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Leader => "Leader",
        Role::Learner => "Learner",
        Role::Removed => "Removed",
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Progress, StateReport, state_report};
    use jiff::Timestamp;

    use super::*;
    use crate::render::{Colour, members, status};

    fn three() -> Membership {
        let member = |id: u64| Member {
            id,
            name: format!("node-{id}"),
            peer_addr: format!("127.0.0.1:{}", 6999 + id),
            ..Member::default()
        };
        Membership {
            index: 4,
            members: (1..=3).map(member).collect(),
            voters: vec![1, 2, 3],
            ..Membership::default()
        }
    }

    fn answer(id: u64, role: Role) -> Answer {
        let progress = |id, match_index| Progress { id, match_index, active: true, snapshotting: false };
        let leads = role == Role::Leader;
        Answer {
            address: format!("127.0.0.1:{}", 6999 + id),
            status: Ok(StatusResponse {
                name: format!("node-{id}"),
                cluster_id: "c1".into(),
                member_id: id,
                version: "0.1.0".into(),
                role: role.into(),
                term: 3,
                leader_id: 1,
                leader_name: "node-1".into(),
                commit_index: 120,
                boot_epoch: 2,
                membership: Some(three()),
                progress: if leads { vec![progress(2, 120), progress(3, 110)] } else { Vec::new() },
                ready: true,
                ..StatusResponse::default()
            }),
        }
    }

    fn silent(id: u64) -> Answer {
        Answer { address: format!("127.0.0.1:{}", 6999 + id), status: Err("connection refused".into()) }
    }

    fn text(answers: &[Answer]) -> String {
        status(&view(answers), Timestamp::UNIX_EPOCH, Colour(false))
    }

    #[test]
    fn three_agreeing_members_are_healthy() {
        let all = [answer(1, Role::Leader), answer(2, Role::Follower), answer(3, Role::Follower)];
        assert_eq!(
            text(&all),
            "cluster: leader node-1, term 3, version 0.1.0\n\n\
             MEMBER   ROLE       READY   LAG   VERSION   ADDRESS\n\
             node-1   Leader     yes     0     0.1.0     127.0.0.1:7000\n\
             node-2   Follower   yes     0     0.1.0     127.0.0.1:7001\n\
             node-3   Follower   yes     10    0.1.0     127.0.0.1:7002\n\n\
             HEALTHY: 3 of 3 voters in service, 1 may fail\n"
        );
        assert_eq!(
            members(&view(&all)).lines().nth(1),
            Some("node-1   1    Leader     yes     0     2        0.1.0     127.0.0.1:7000")
        );
    }

    #[test]
    fn usage_of_the_members_that_answer_is_a_second_table() {
        let mut leader = answer(1, Role::Leader);
        let state = StateReport { engine: "runs".into(), size_bytes: 5 << 20, ..StateReport::default() };
        leader.status.as_mut().unwrap().state = Some(state);
        let text = text(&[leader, answer(2, Role::Follower), silent(3)]);
        let usage = "\n\nMEMBER   STATE   LOG   DURABLE   MEMORY\nnode-1   5.0Mi   0     0         0\n\n";
        assert!(text.contains(usage), "{text}");
    }

    #[test]
    fn damaged_file_of_a_member_makes_the_cluster_degraded() {
        let mut leader = answer(1, Role::Leader);
        let scrub = state_report::Scrub { damaged_files: vec!["1f.run".into()], ..Default::default() };
        let state = StateReport { scrub: Some(scrub), ..StateReport::default() };
        leader.status.as_mut().unwrap().state = Some(state);
        let found = view(&[leader, answer(2, Role::Follower), answer(3, Role::Follower)]).verdict;
        assert_eq!(found.health, Health::Degraded);
        assert!(found.text.starts_with("node-1: damaged file 1f.run in its state"), "{}", found.text);
    }

    #[test]
    fn one_unreachable_member_makes_the_cluster_degraded_and_two_make_it_unknown() {
        let one = view(&[answer(1, Role::Leader), answer(2, Role::Follower), silent(3)]);
        assert_eq!(one.verdict.health, Health::Degraded);
        assert_eq!(one.verdict.text, "node-3: no answer; 2 of 3 voters answer, 2 are needed");
        let two = view(&[answer(1, Role::Leader), silent(2), silent(3)]);
        assert_eq!(two.verdict.health, Health::Unknown, "a leader that hears nobody may not lead any more");
    }

    #[test]
    fn cluster_is_down_without_a_leader_and_unknown_without_an_answer() {
        let none = view(&[answer(1, Role::Follower), answer(2, Role::Candidate), silent(3)]);
        assert_eq!(none.verdict.health, Health::Down);
        let nobody = view(&[silent(1), silent(2)]);
        assert_eq!(nobody.verdict.health, Health::Unknown);
        assert!(nobody.verdict.text.contains("connection refused"), "{}", nobody.verdict.text);
    }

    #[test]
    fn cluster_is_changing_while_a_learner_catches_up_and_degraded_when_it_is_unreachable() {
        let mut membership = three();
        (membership.voters, membership.learners) = (vec![1, 2], vec![3]);
        let with_learner = |learner: Answer| {
            let mut all = [answer(1, Role::Leader), answer(2, Role::Follower), learner];
            for status in all.iter_mut().filter_map(|answer| answer.status.as_mut().ok()) {
                status.membership = Some(membership.clone());
            }
            view(&all)
        };
        let mut new = answer(3, Role::Follower);
        if let Ok(status) = &mut new.status {
            (status.ready, status.not_ready_reason) = (false, "is waiting for its first snapshot".into());
        }
        let seen = with_learner(new);
        assert_eq!(seen.members[2].role, "Learner", "whatever it takes itself for");
        assert_eq!(
            seen.verdict,
            Verdict::new(Health::Changing, "the learner node-3 is waiting for its first snapshot")
        );
        assert_eq!(with_learner(silent(3)).verdict.health, Health::Degraded);
    }

    #[test]
    fn members_of_two_clusters_are_reported() {
        let mut other = answer(2, Role::Leader);
        if let Ok(status) = &mut other.status {
            status.cluster_id = "c2".into();
        }
        let mixed = view(&[answer(1, Role::Leader), other]);
        assert_eq!(mixed.verdict.text, "these are members of different clusters: c1, c2");
    }

    #[test]
    fn foreign_node_at_a_members_address_is_reported() {
        let mut replaced = answer(3, Role::Uninitialized);
        if let Ok(status) = &mut replaced.status {
            status.member_id = 0;
            status.cluster_id = String::new();
        }
        let shown = text(&[answer(1, Role::Leader), answer(2, Role::Follower), replaced]);
        assert!(shown.contains("another node answers at its address"), "{shown}");
        assert!(shown.contains("not a member"), "{shown}");
    }
}
