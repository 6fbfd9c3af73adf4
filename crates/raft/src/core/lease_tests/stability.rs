//! What keeps a leader in its place, and what takes a leader out of it that has no majority any more.

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

/// Check quorum: its clients are told, instead of waiting for what it can never commit.
#[test]
fn a_leader_that_is_cut_off_steps_down_by_itself() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    net.isolate(leader);
    net.advance(4 * ELECTION_MIN);
    assert_ne!(standing(&mut net, leader).0, StateRole::Leader);
    let [one, other] = others(leader);
    let leads = |net: &mut Net, id| standing(net, id).0 == StateRole::Leader;
    assert!(leads(&mut net, one) || leads(&mut net, other), "those who stayed together have elected nobody");
}

/// Pre-vote: however long it was away, it has asked for no vote that it could not get.
#[test]
fn a_member_that_returns_from_a_long_absence_disturbs_nobody() {
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
fn an_election_is_told_of_with_its_cause_and_how_long_it_took() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    let first = election(&mut net, leader).unwrap();
    assert_eq!(first.cause, Cause::Timeout);
    assert!(first.took.is_some(), "the leader does not know itself");

    // One that nobody can win goes on.
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
fn the_leader_tells_who_could_take_over_and_to_whom_it_hands() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    net.advance(2 * ELECTION_MIN);
    let [one, other] = others(leader);
    let told = |net: &mut Net, id| {
        let now = net.now;
        net.core(id).status(now)
    };
    let mut both = vec![one, other];
    both.sort_unstable();
    assert_eq!(told(&mut net, leader).may_lead, both);
    assert!(told(&mut net, one).may_lead.is_empty(), "only the leader knows");

    net.lost = vec![MessageType::MsgTimeoutNow];
    let (waiter, _outcome) = oneshot::channel();
    let timeout = Duration::from_secs(5);
    net.handle(leader, Input::Transfer { target: Some(one), timeout, fencing_token: 0, waiter });
    net.settle();
    assert_eq!(told(&mut net, leader).transfer_target, Some(one));
    net.isolate(one);
    net.advance(3 * ELECTION_MIN);
    assert_eq!(told(&mut net, leader).may_lead, [other]);
}
