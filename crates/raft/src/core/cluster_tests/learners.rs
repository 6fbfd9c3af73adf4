//! Tests of a learner without progress.

use super::super::tests::fixtures::newcomer;
use super::*;

const STRANGER: u64 = 4;

/// Adds a learner that receives no messages; returns the leader.
fn with_a_deaf_learner(net: &mut Net) -> u64 {
    let leader = net.elect();
    net.advance(2 * ELECTION_MIN);
    net.cut.extend((1..=3).map(|id| (id, STRANGER)));
    let (waiter, _changed) = oneshot::channel();
    let request = ChangeRequest::AddLearner(newcomer("new"));
    net.handle(leader, Input::Change { request, expected: Expected::default(), waiter });
    net.advance(ELECTION_MIN);
    leader
}

fn stale(net: &mut Net, id: u64) -> Vec<u64> {
    let now = net.now;
    net.core(id).status(now).stale_learners
}

#[test]
fn a_learner_without_progress_for_a_minute_is_reported_and_not_removed() {
    let mut net = Net::of_three(None);
    let leader = with_a_deaf_learner(&mut net);
    net.advance(Duration::from_secs(50));
    assert_eq!(stale(&mut net, leader), Vec::<u64>::new());
    net.advance(Duration::from_secs(20));
    assert_eq!(stale(&mut net, leader), [STRANGER]);
    assert_eq!(stale(&mut net, leader % 3 + 1), Vec::<u64>::new(), "only the leader knows");
    assert_eq!(net.core(leader).membership.learners, [STRANGER], "the learner was removed");

    // The learner answers an append.
    let last = net.core(leader).raft.last_index();
    let term = net.core(leader).raft.term();
    let mut answer = Message { from: STRANGER, to: leader, term, index: last, ..Message::default() };
    answer.set_msg_type(MessageType::MsgAppendResponse);
    net.handle(leader, Input::Messages(vec![answer]));
    net.settle();
    assert_eq!(stale(&mut net, leader), Vec::<u64>::new());
    net.advance(Duration::from_secs(120));
    assert_eq!(stale(&mut net, leader), Vec::<u64>::new(), "it lacks nothing");
}
