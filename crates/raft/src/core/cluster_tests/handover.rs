//! Tests of transfers whose target does not react to the first `TimeoutNow`.

use super::*;

type Outcome = oneshot::Receiver<Result<(u64, u64), Error>>;

/// Starts a transfer from `leader` to `target` with a timeout of five seconds.
fn hand_over(net: &mut Net, leader: u64, target: u64) -> Outcome {
    let (waiter, outcome) = oneshot::channel();
    let timeout = Duration::from_secs(5);
    net.handle(leader, Input::Transfer { target: Some(target), timeout, fencing_token: 0, waiter });
    outcome
}

#[test]
fn a_target_that_still_has_a_change_to_apply_is_asked_again() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    net.advance(2 * ELECTION_MIN);
    let (waiter, mut changed) = oneshot::channel();
    let request = ChangeRequest::Remove { id: (leader + 1) % 3 + 1 };
    // The target has the entry on disk, and takes this long to write the commit index.
    net.sync_time.insert(leader % 3 + 1, ELECTION_MIN / 6);
    net.handle(leader, Input::Change { request, expected: Expected::default(), waiter });
    while changed.try_recv().is_err() {
        net.advance(TICK);
    }
    let target = leader % 3 + 1;
    let mut outcome = hand_over(&mut net, leader, target);
    net.advance(2 * ELECTION_MIN);
    assert_eq!(outcome.try_recv().unwrap().unwrap().0, target);
}

#[test]
fn a_target_is_not_asked_again_after_the_transfer_has_failed() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    net.advance(2 * ELECTION_MIN);
    net.lost = vec![MessageType::MsgTimeoutNow];
    let mut outcome = hand_over(&mut net, leader, leader % 3 + 1);
    net.advance(4 * ELECTION_MIN);
    assert!(outcome.try_recv().unwrap().is_err());
    net.lost.clear();
    let term = net.core(leader).raft.term();
    net.advance(4 * ELECTION_MIN);
    assert_eq!(net.core(leader).raft.term(), term, "it was asked once more");
}
