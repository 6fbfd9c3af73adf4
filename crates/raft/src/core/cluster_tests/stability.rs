//! Tests of the stability of leadership: pre-vote, check-quorum, and the reports about elections.

use super::super::super::types::{Cause, Election};
use super::*;

fn others(leader: u64) -> [u64; 2] {
    [leader % 3 + 1, (leader + 1) % 3 + 1]
}

fn election(net: &mut Net, id: u64) -> Option<Election> {
    let now = net.now;
    net.core(id).status(now).last_election
}

fn standing(net: &mut Net, id: u64) -> (StateRole, u64) {
    let raft = &net.core(id).raft;
    (raft.role(), raft.term())
}

/// Check-quorum: its clients get an error and do not wait for writes that it can never commit.
#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    net.isolate(leader);
    net.advance(4 * ELECTION_MIN);
    assert_ne!(standing(&mut net, leader).0, StateRole::Leader);
    let [one, other] = others(leader);
    let leads = |net: &mut Net, id| standing(net, id).0 == StateRole::Leader;
    assert!(leads(&mut net, one) || leads(&mut net, other), "the connected majority elected no leader");
}

/// Pre-vote: an isolated member does not increment its term, because it never passes the pre-vote.
#[test]
fn a_member_that_returns_after_a_long_isolation_causes_no_election() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    let [away, _] = others(leader);
    let before = standing(&mut net, leader);
    net.isolate(away);
    net.advance(20 * ELECTION_MIN);
    assert_eq!(standing(&mut net, away), (StateRole::PreCandidate, before.1), "its term grew");
    net.heal();
    net.advance(4 * ELECTION_MIN);
    assert_eq!(standing(&mut net, leader), before, "its return cost an election");
    assert_eq!(standing(&mut net, away), (StateRole::Follower, before.1));
}

#[test]
fn an_election_is_reported_with_its_cause_and_duration() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    let first = election(&mut net, leader).unwrap();
    assert_eq!(first.cause, Cause::Timeout);
    assert!(first.took.is_some(), "the leader does not know itself");

    // An election that no member can win stays open.
    let [one, other] = others(leader);
    net.isolate(one);
    net.advance(3 * ELECTION_MIN);
    let open = election(&mut net, one).unwrap();
    assert_eq!((open.cause, open.took), (Cause::Timeout, None));
    net.heal();
    net.advance(2 * ELECTION_MIN);
    let over = election(&mut net, one).unwrap();
    assert_eq!(over.began, open.began);
    assert!(over.took > Some(ELECTION_MIN / 2), "{over:?}");

    let (waiter, _outcome) = oneshot::channel();
    let timeout = Duration::from_secs(5);
    net.handle(leader, Input::Transfer { target: Some(other), timeout, fencing_token: 0, waiter });
    net.settle();
    net.advance(2 * ELECTION_MIN);
    assert_eq!(election(&mut net, other).map(|election| election.cause), Some(Cause::Handover));

    net.isolate(other);
    net.handle(leader, Input::LinkLost(other));
    net.handle(one, Input::LinkLost(other));
    net.advance(ELECTION_MIN / 2);
    let causes = [leader, one].map(|id| election(&mut net, id).map(|election| election.cause));
    assert!(causes.contains(&Some(Cause::LeaderLost)), "{causes:?}");
}

#[test]
fn the_leader_reports_its_possible_successors_and_the_target_of_a_transfer() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    net.advance(2 * ELECTION_MIN);
    let [one, other] = others(leader);
    let status = |net: &mut Net, id| {
        let now = net.now;
        net.core(id).status(now)
    };
    let mut both = vec![one, other];
    both.sort_unstable();
    assert_eq!(status(&mut net, leader).may_lead, both);
    assert!(status(&mut net, one).may_lead.is_empty(), "only the leader knows");

    net.lost = vec![MessageType::MsgTimeoutNow];
    let (waiter, _outcome) = oneshot::channel();
    let timeout = Duration::from_secs(5);
    net.handle(leader, Input::Transfer { target: Some(one), timeout, fencing_token: 0, waiter });
    net.settle();
    assert_eq!(status(&mut net, leader).transfer_target, Some(one));
    net.isolate(one);
    net.advance(3 * ELECTION_MIN);
    assert_eq!(status(&mut net, leader).may_lead, [other]);
}
