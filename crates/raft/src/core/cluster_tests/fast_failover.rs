//! Tests of fast failover: the connection from the leader is closed.

use super::super::longest_lease;
use super::*;

/// Longer than all campaigns of the fast failover together, shorter than any election timeout.
const SOON: Duration = Duration::from_millis(150);

/// A cluster whose members started long ago, with the ids of its leader and followers.
fn settled(lease: Option<Duration>) -> (Net, u64, [u64; 2]) {
    let mut net = Net::of_three(lease);
    let leader = net.elect();
    net.advance(2 * ELECTION_MIN);
    let mut followers = (1..=3).filter(|id| *id != leader);
    let followers = [followers.next().unwrap(), followers.next().unwrap()];
    (net, leader, followers)
}

fn known(net: &mut Net, id: u64) -> (u64, u64) {
    let raft = &net.core(id).raft;
    (raft.leader_id(), raft.term())
}

#[test]
fn a_leader_that_died_is_replaced_long_before_the_election_timeout() {
    let (mut net, leader, followers) = settled(None);
    let (_, term) = known(&mut net, leader);
    net.isolate(leader);
    followers.iter().for_each(|id| net.handle(*id, Input::LinkLost(leader)));
    net.advance(3 * TICK);
    assert_eq!(known(&mut net, followers[0]), (followers[0], term + 1), "one election, won by the first");
    assert_eq!(known(&mut net, followers[1]), (followers[0], term + 1));
    assert!(net.core(followers[0]).may_lead());
}

#[test]
fn the_second_voter_campaigns_when_the_log_of_the_first_is_behind() {
    let (mut net, leader, followers) = settled(None);
    net.isolate(followers[0]);
    let (waiter, _answer) = oneshot::channel();
    net.handle(
        leader,
        Input::Propose(vec![Proposal {
            data: vec![1],
            format: 1,
            waiter: waiter.into(),
            charge: Charge::default(),
        }]),
    );
    net.settle();
    net.heal();
    net.isolate(leader);
    followers.iter().for_each(|id| net.handle(*id, Input::LinkLost(leader)));
    net.advance(SOON);
    assert_eq!(known(&mut net, followers[0]).0, followers[1], "its log is behind");
}

#[test]
fn a_live_leader_keeps_its_term_when_one_link_breaks() {
    let (mut net, leader, followers) = settled(None);
    let before = known(&mut net, leader);
    for follower in followers {
        net.handle(follower, Input::LinkLost(leader));
        assert_eq!(known(&mut net, follower).0, 0);
        net.advance(SOON);
        assert_eq!(known(&mut net, follower), before, "it does not hear the leader again");
    }
    assert_eq!(known(&mut net, leader), before);
}

#[test]
fn a_live_leader_keeps_its_term_when_links_break_one_after_the_other() {
    let (mut net, leader, followers) = settled(None);
    let before = known(&mut net, leader);
    net.lost.push(MessageType::MsgHeartbeat);
    for follower in followers {
        net.handle(follower, Input::LinkLost(leader));
        net.advance(2 * TICK);
        net.handle(follower, Input::LinkFound(leader));
        assert_eq!(known(&mut net, follower), before);
    }
    net.advance(SOON);
    assert!((1..=3).all(|id| known(&mut net, id) == before));
}

#[test]
fn a_follower_that_hears_the_leader_again_in_time_does_not_campaign() {
    let (mut net, leader, followers) = settled(None);
    net.handle(followers[1], Input::LinkLost(leader));
    let mut heartbeat = Message { from: leader, to: followers[1], ..Message::default() };
    heartbeat.term = known(&mut net, leader).1;
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    net.handle(followers[1], Input::Messages(vec![heartbeat]));
    net.isolate(followers[1]);
    net.advance(SOON);
    assert_eq!(known(&mut net, followers[1]).0, leader);
}

#[test]
fn followers_wait_for_the_election_timeout_when_leases_are_on() {
    let (mut net, leader, followers) = settled(Some(longest_lease(ELECTION_MIN)));
    net.isolate(leader);
    followers.iter().for_each(|id| net.handle(*id, Input::LinkLost(leader)));
    net.advance(SOON);
    assert!(followers.iter().all(|id| known(&mut net, *id).0 == leader));
}

#[test]
fn a_member_that_has_just_started_waits_for_the_election_timeout() {
    let (mut net, leader, followers) = settled(None);
    followers.iter().for_each(|id| net.restart(*id));
    net.advance(SOON);
    assert!(followers.iter().all(|id| known(&mut net, *id).0 == leader));
    net.isolate(leader);
    followers.iter().for_each(|id| net.handle(*id, Input::LinkLost(leader)));
    net.advance(SOON / 2);
    assert!(followers.iter().all(|id| known(&mut net, *id).0 == leader));
}

#[test]
fn a_closed_link_of_a_follower_has_no_effect() {
    let (mut net, leader, followers) = settled(None);
    net.isolate(followers[1]);
    net.handle(followers[0], Input::LinkLost(followers[1]));
    net.handle(leader, Input::LinkLost(followers[1]));
    assert_eq!(known(&mut net, followers[0]).0, leader);
    net.advance(SOON);
    assert_eq!(known(&mut net, leader).0, leader);
}

#[test]
fn a_learner_does_not_campaign_when_the_link_from_the_leader_breaks() {
    let (mut net, leader, [follower, _]) = settled(None);
    let mut membership = (*net.core(leader).membership).clone();
    membership.voters.retain(|voter| *voter != follower);
    membership.learners.push(follower);
    net.core(follower).membership = Arc::new(membership);
    net.handle(follower, Input::LinkLost(leader));
    assert_eq!(known(&mut net, follower).0, leader);
}
