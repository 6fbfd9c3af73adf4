//! `doctor` without Kubernetes: checks that all members report the same cluster, leader and members
//! (split-brain check). Pure.

use std::collections::{BTreeMap, BTreeSet};

use helios_proto::v1::{Role, StatusResponse};

use super::survey::Answer;
use crate::check::{Check, Checks};

/// Remedy when members disagree, in the order of the steps.
const REMEDY: &str = "check (1) the links: can each member reach the others' peer port? (2) the members' logs around \
                    the last election, and `heliosd verify` of each stopped member's data; (3) the peer lists: the \
                    same on all (HELIOS_RAFT_PEERS or node.initial_members)";

/// Checks the answers of all addresses.
pub fn doctor(answers: &[Answer]) -> Checks {
    let known: Vec<&StatusResponse> = answers.iter().filter_map(Answer::status).collect();
    let mut checks = vec![all_answer(answers)];
    if !known.is_empty() {
        checks.extend([one_cluster(&known), one_leader(&known), one_peer_list(&known), all_ready(&known)]);
    }
    Checks { checks, nobody_answered: known.is_empty() }
}

fn all_answer(answers: &[Answer]) -> Check {
    let silent: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.status.as_ref().err().map(|error| format!("{}: {error}", answer.address)))
        .collect();
    match silent.is_empty() {
        true => Check::ok("all members answer", format!("{} of {}", answers.len(), answers.len())),
        false => Check::failed(
            "all members answer",
            silent.join("; "),
            "start those members, or restore the network to them",
        ),
    }
}

fn one_cluster(known: &[&StatusResponse]) -> Check {
    let groups = group(known, |status| match status.cluster_id.as_str() {
        "" => "none yet".to_owned(),
        id => id.to_owned(),
    });
    unanimous("one cluster", &groups, "the addresses are of different clusters; name those of one")
}

fn one_leader(known: &[&StatusResponse]) -> Check {
    let what = "one leader";
    let leaders_by_term: BTreeMap<u64, BTreeSet<&str>> = known
        .iter()
        .filter(|status| status.role() == Role::Leader)
        .fold(BTreeMap::new(), |mut all, status| {
            all.entry(status.term).or_default().insert(&status.name);
            all
        });
    if let Some((term, leaders)) = leaders_by_term.iter().find(|(_, leaders)| leaders.len() > 1) {
        let names = leaders.iter().copied().collect::<Vec<_>>().join(" and ");
        return Check::failed(
            what,
            format!("{names} both say that they lead in term {term}: split brain"),
            REMEDY,
        );
    }
    let groups = group(known, |status| match status.leader_name.as_str() {
        "" => "nobody".to_owned(),
        name => name.to_owned(),
    });
    if groups.len() == 1 && groups.contains_key("nobody") {
        return Check::failed(what, "no member knows of a leader", REMEDY);
    }
    unanimous(what, &groups, REMEDY)
}

fn one_peer_list(known: &[&StatusResponse]) -> Check {
    let groups = group(known, |status| {
        let members = status.membership.iter().flat_map(|membership| &membership.members);
        let names: BTreeSet<&str> = members.map(|member| member.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(",") }
    });
    unanimous("one list of members", &groups, REMEDY)
}

fn all_ready(known: &[&StatusResponse]) -> Check {
    let waiting: Vec<_> = known
        .iter()
        .filter(|status| !status.ready)
        .map(|status| format!("{}: {}", status.name, status.not_ready_reason))
        .collect();
    match waiting.is_empty() {
        true => Check::ok("all members are ready", format!("{} of {}", known.len(), known.len())),
        false => Check::failed(
            "all members are ready",
            waiting.join("; "),
            "wait for it, or read those members' logs",
        ),
    }
}

/// Returns the names of the members by the value that they report.
fn group(
    known: &[&StatusResponse],
    value: impl Fn(&StatusResponse) -> String,
) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for status in known {
        groups.entry(value(status)).or_default().push(status.name.clone());
    }
    groups
}

fn unanimous(what: &'static str, groups: &BTreeMap<String, Vec<String>>, fix: &str) -> Check {
    let said: Vec<_> = groups.iter().map(|(said, who)| format!("{} say {said}", who.join(", "))).collect();
    match groups.keys().next() {
        Some(only) if groups.len() == 1 => Check::ok(what, only.clone()),
        _ => Check::failed(what, said.join("; "), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, role: Role, term: u64, leader: &str) -> Answer {
        Answer {
            address: format!("{name}:7000"),
            status: Ok(StatusResponse {
                name: name.into(),
                cluster_id: "c1".into(),
                role: role.into(),
                term,
                leader_name: leader.into(),
                ready: true,
                ..StatusResponse::default()
            }),
        }
    }

    fn failed(answers: &[Answer]) -> Vec<String> {
        doctor(answers).checks.into_iter().filter_map(|check| check.fix).collect()
    }

    #[test]
    fn agreeing_members_pass() {
        let all = [
            node("a", Role::Leader, 3, "a"),
            node("b", Role::Follower, 3, "a"),
            node("c", Role::Follower, 3, "a"),
        ];
        assert_eq!(failed(&all), [""; 0]);
    }

    #[test]
    fn two_leaders_of_a_term_are_split_brain_with_three_remedies() {
        let two = [node("a", Role::Leader, 3, "a"), node("b", Role::Leader, 3, "b")];
        let found = doctor(&two);
        assert!(
            found
                .checks
                .iter()
                .any(|check| check.found.contains("a and b both say that they lead in term 3"))
        );
        let fix = failed(&two).join(" ");
        for thing in ["the links", "the members' logs", "the peer lists"] {
            assert!(fix.contains(thing), "{fix}");
        }
    }

    #[test]
    fn isolated_former_leader_is_a_disagreement() {
        let late = [
            node("a", Role::Leader, 3, "a"),
            node("b", Role::Leader, 4, "b"),
            node("c", Role::Follower, 4, "b"),
        ];
        let found = doctor(&late);
        assert!(found.checks.iter().any(|check| check.found == "a say a; b, c say b"), "{found:?}");
    }

    #[test]
    fn unreachable_members_fail_the_check() {
        let silent = Answer { address: "a:7000".into(), status: Err("refused".into()) };
        assert!(doctor(std::slice::from_ref(&silent)).nobody_answered);
        assert_eq!(failed(&[silent, node("b", Role::Follower, 3, "")]).len(), 2);
    }
}
