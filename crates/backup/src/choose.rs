//! Which member is read. Pure.

use std::collections::{BTreeMap, BTreeSet};

use helios_archive::History;
use helios_proto::v1::{Role, StatusResponse};

use crate::args::From;
use crate::members::Answer;

/// A follower with more entries of lag is not settled, and taken after those that are.
const SETTLED_LAG: u64 = 10_000;
/// With more entries of lag a follower is catching up, and the leader is read instead: the archive is as old as the member that it
/// is read from. Three members on two cores apply 40 000 entries per second, so this is 2.5 s (ADR 0032).
const CATCHING_UP_LAG: u64 = 100_000;
/// Class of a leader that is not wanted, see [`class`].
const LEADER: u8 = 3;

/// The member that the log is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChoice {
    Member(String),
    /// No member that answers has the next entry any more.
    Purged,
    /// No member answers.
    Nobody,
}

/// Facts of past calls, beside the answers.
#[derive(Debug, Clone, Default)]
pub struct Experience {
    /// Members of which a call failed a moment ago: taken last.
    pub avoid: BTreeSet<String>,
    /// First index that a member is known not to have, by address.
    pub purged: BTreeMap<String, u64>,
}

/// Returns the history of the members: that of the highest incarnation, where there is one of the leader with the highest term.
pub fn history_of(answers: &[Answer]) -> Option<History> {
    let members = answers.iter().filter_map(|answer| answer.status.as_ref().ok());
    let members = members.filter(|status| !status.cluster_id.is_empty() && status.role() != Role::Removed);
    let rank = |status: &StatusResponse| (status.role() == Role::Leader, status.incarnation, status.term);
    let best = members.max_by_key(|status| rank(status))?;
    History::new(&best.cluster_id, best.incarnation).ok()
}

/// Returns the statuses of the members of a history.
fn of_history<'a>(
    answers: &'a [Answer],
    history: &'a History,
) -> impl Iterator<Item = (&'a str, &'a StatusResponse)> {
    answers.iter().filter_map(move |answer| {
        let status = answer.status.as_ref().ok()?;
        let is_member = status.cluster_id == history.cluster_id()
            && status.incarnation == history.incarnation()
            && !matches!(status.role(), Role::Removed | Role::Uninitialized);
        is_member.then_some((answer.address.as_str(), status))
    })
}

/// Returns the highest commit index that a member of the history reports.
pub fn commit_index(answers: &[Answer], history: &History) -> Option<u64> {
    of_history(answers, history).map(|(_, status)| status.commit_index.max(status.applied_index)).max()
}

/// Returns whether a member is a settled follower, a settled learner, another follower or learner, the leader, or none of them, in
/// the order of preference. Under load a follower is some thousand entries behind and not ready, and has to be preferred to the
/// leader still.
fn class(status: &StatusResponse, lag: u64, from: From) -> u8 {
    // A member without a state, e.g. one that is being repaired, has applied nothing.
    let follows = status.applied_index > 0 && lag <= CATCHING_UP_LAG && status.entry_unappliable.is_none();
    let is_settled = follows && status.ready && lag <= SETTLED_LAG;
    match (status.role(), from) {
        (Role::Follower, _) if is_settled => 0,
        (Role::Leader, From::Any) if is_settled => 0,
        (Role::Learner, _) if is_settled => 1,
        (Role::Follower | Role::Learner, _) if follows => 2,
        (Role::Leader, _) => LEADER,
        _ => LEADER + 1,
    }
}

/// Members of the history, the best first, with their classes.
fn ranked<'a>(
    answers: &'a [Answer],
    history: &'a History,
    from: From,
    avoid: &BTreeSet<String>,
) -> Vec<(u8, &'a str, &'a StatusResponse)> {
    let commit = commit_index(answers, history).unwrap_or_default();
    let lag = |status: &StatusResponse| commit.saturating_sub(status.applied_index);
    let mut members: Vec<_> = of_history(answers, history)
        .map(|(address, status)| (class(status, lag(status), from), address, status))
        .collect();
    members.sort_by_key(|(class, address, status)| {
        (avoid.contains(*address), *class, lag(status), status.name.clone())
    });
    members
}

/// Returns the address of the member of which a base is taken. Of members that are equally good it is another one than `last`, the
/// name of the member of the newest base: a drill compares the two bases, and thereby the two members (ADR 0038).
pub fn for_base(
    answers: &[Answer],
    history: &History,
    from: From,
    avoid: &BTreeSet<String>,
    last: Option<&str>,
) -> Option<String> {
    let members = ranked(answers, history, from, avoid);
    // The first of the best ones, which is the one with the least lag.
    let best = members.iter().min_by_key(|(class, address, status)| {
        (avoid.contains(*address), *class, Some(status.name.as_str()) == last)
    });
    best.map(|(_, address, _)| (*address).to_owned())
}

/// Chooses the member from which the log is read, from the entry `next` on.
pub fn for_log(answers: &[Answer], history: &History, next: u64, experience: &Experience) -> LogChoice {
    let members = ranked(answers, history, From::Follower, &experience.avoid);
    let has_next = |address: &str, status: &StatusResponse| {
        let is_purged = experience.purged.get(address).is_some_and(|purged| *purged >= next);
        status.first_index <= next && !is_purged
    };
    match members.iter().find(|(_, address, status)| has_next(address, status)) {
        Some((_, address, _)) => LogChoice::Member((*address).to_owned()),
        None if members.is_empty() => LogChoice::Nobody,
        None => LogChoice::Purged,
    }
}

/// Returns whether the member that is read now has to be left for another one, since it became the leader or is catching up. A
/// follower is not left for a better one: which of them is the best changes all the time.
pub fn is_better_elsewhere(
    answers: &[Answer],
    history: &History,
    current: &str,
    next: u64,
    experience: &Experience,
) -> bool {
    let members = ranked(answers, history, From::Follower, &BTreeSet::new());
    let class_of =
        |wanted: &str| members.iter().find(|(_, address, _)| *address == wanted).map(|found| found.0);
    let LogChoice::Member(best) = for_log(answers, history, next, experience) else { return false };
    class_of(current).zip(class_of(&best)).is_some_and(|(current, best)| current >= LEADER && best < current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::new("a", 1).unwrap()
    }

    fn member(name: &str, role: Role, applied: u64) -> Answer {
        let status = StatusResponse {
            name: name.to_owned(),
            cluster_id: "a".to_owned(),
            incarnation: 1,
            role: role.into(),
            term: 3,
            commit_index: applied,
            applied_index: applied,
            first_index: 50,
            ready: true,
            ..StatusResponse::default()
        };
        Answer { address: name.to_owned(), status: Ok(status) }
    }

    fn with(mut answer: Answer, change: impl FnOnce(&mut StatusResponse)) -> Answer {
        change(answer.status.as_mut().unwrap());
        answer
    }

    fn base(answers: &[Answer], from: From) -> Option<String> {
        for_base(answers, &history(), from, &BTreeSet::new(), None)
    }

    #[test]
    fn settled_follower_with_the_least_lag_is_chosen_and_the_leader_only_alone() {
        use Role::{Candidate, Follower, Leader, Learner};
        let unready = |name, applied| with(member(name, Follower, applied), |status| status.ready = false);
        let leader = member("m0", Leader, 100);
        let cases = [
            (vec![leader.clone(), member("m1", Follower, 90), member("m2", Follower, 99)], "m2"),
            (vec![leader.clone(), unready("m1", 99)], "m1"),
            (vec![leader.clone(), unready("m1", 99), member("m2", Follower, 90)], "m2"),
            (vec![leader.clone(), unready("m1", 0)], "m0"),
            (vec![leader.clone(), member("m1", Learner, 80)], "m1"),
            (vec![leader.clone(), member("m1", Candidate, 100)], "m0"),
            (vec![leader.clone()], "m0"),
            (vec![member("m0", Leader, 50_000), member("m1", Follower, 100)], "m1"),
            (vec![member("m0", Leader, 200_000), member("m1", Follower, 100)], "m0"),
            (vec![leader, member("m2", Follower, 99), member("m1", Follower, 99)], "m1"),
        ];
        for (answers, expected) in cases {
            assert_eq!(base(&answers, From::Follower).as_deref(), Some(expected), "{answers:?}");
        }
    }

    #[test]
    fn leader_is_chosen_if_any_member_may_be_and_it_has_the_least_lag() {
        let answers = [member("m0", Role::Leader, 100), member("m1", Role::Follower, 99)];
        assert_eq!(base(&answers, From::Any).as_deref(), Some("m0"));
    }

    #[test]
    fn member_that_failed_is_taken_last() {
        let answers = [member("m0", Role::Leader, 100), member("m1", Role::Follower, 100)];
        let avoid = BTreeSet::from(["m1".to_owned()]);
        assert_eq!(for_base(&answers, &history(), From::Follower, &avoid, None).as_deref(), Some("m0"));
        let avoid = BTreeSet::from(["m0".to_owned(), "m1".to_owned()]);
        assert_eq!(for_base(&answers, &history(), From::Follower, &avoid, None).as_deref(), Some("m1"));
    }

    #[test]
    fn bases_alternate_between_members_that_are_equally_good() {
        use Role::{Follower, Leader};
        let (leader, ahead, behind) =
            (member("m0", Leader, 1_000), member("m1", Follower, 1_000), member("m2", Follower, 900));
        let chosen = |answers: &[Answer], avoid: &[&str], last: &str| {
            let avoid = avoid.iter().map(|name| (*name).to_owned()).collect();
            for_base(answers, &history(), From::Follower, &avoid, Some(last)).unwrap()
        };
        let all = [leader.clone(), ahead.clone(), behind];
        assert_eq!([chosen(&all, &[], "m1"), chosen(&all, &[], "m2")], ["m2", "m1"]);
        assert_eq!(chosen(&all, &[], "a former member"), "m1", "the least lag");
        assert_eq!(chosen(&all, &["m2"], "m1"), "m1", "a call of m2 failed a moment ago");
        let unsettled = with(member("m2", Follower, 900), |status| status.ready = false);
        assert_eq!(chosen(&[leader.clone(), ahead.clone(), unsettled], &[], "m1"), "m1");
        assert_eq!(chosen(&[leader, ahead], &[], "m1"), "m1", "never the leader for that");
    }

    #[test]
    fn member_of_another_history_is_never_read() {
        let other = with(member("m1", Role::Follower, 100), |status| status.cluster_id = "b".to_owned());
        let old = with(member("m2", Role::Follower, 100), |status| status.incarnation = 0);
        let blank = with(member("m3", Role::Uninitialized, 0), |_| ());
        assert_eq!(base(&[other.clone(), old.clone(), blank.clone()], From::Follower), None);
        let answers = [other, old, blank, member("m0", Role::Leader, 100)];
        assert_eq!(base(&answers, From::Follower).as_deref(), Some("m0"));
        assert_eq!(history_of(&answers), Some(history()));
    }

    #[test]
    fn history_is_that_of_the_leader_and_else_the_highest_incarnation() {
        let new = |role| with(member("m1", role, 5), |status| status.incarnation = 2);
        let second = Some(History::new("a", 2).unwrap());
        assert_eq!(history_of(&[member("m0", Role::Follower, 100), new(Role::Leader)]), second);
        assert_eq!(history_of(&[member("m0", Role::Follower, 100), new(Role::Follower)]), second);
        assert_eq!(history_of(&[Answer { address: "m0".to_owned(), status: Err(String::new()) }]), None);
    }

    #[test]
    fn log_is_read_from_a_member_that_has_the_next_entry() {
        let purged = with(member("m1", Role::Follower, 100), |status| status.first_index = 70);
        let answers = [member("m0", Role::Leader, 100), purged];
        let choice = |next, experience: &Experience| for_log(&answers, &history(), next, experience);
        let mut experience = Experience::default();
        assert_eq!(choice(70, &experience), LogChoice::Member("m1".to_owned()));
        assert_eq!(choice(60, &experience), LogChoice::Member("m0".to_owned()));
        assert_eq!(choice(49, &experience), LogChoice::Purged);
        experience.purged.insert("m0".to_owned(), 60);
        assert_eq!(choice(60, &experience), LogChoice::Purged);
        assert_eq!(for_log(&[], &history(), 60, &experience), LogChoice::Nobody);
    }

    #[test]
    fn log_moves_to_a_follower_when_the_member_became_the_leader() {
        let answers = [member("m0", Role::Leader, 100), member("m1", Role::Follower, 90)];
        let better = |current| is_better_elsewhere(&answers, &history(), current, 95, &Experience::default());
        assert!(better("m0") && !better("m1") && !better("unknown"));
    }

    #[test]
    fn log_stays_at_a_follower_under_load_and_leaves_one_that_is_catching_up() {
        let better = |lag: u64| {
            let behind = with(member("m1", Role::Follower, 1_000_000 - lag), |status| status.ready = false);
            let answers =
                [member("m0", Role::Leader, 1_000_000), behind, member("m2", Role::Follower, 1_000_000)];
            let leader_only =
                is_better_elsewhere(&answers[..2], &history(), "m1", 95, &Experience::default());
            (leader_only, is_better_elsewhere(&answers, &history(), "m1", 95, &Experience::default()))
        };
        assert_eq!((better(50_000), better(200_000)), ((false, false), (true, true)));
    }
}
