//! Each rule of the lease can be broken, and then a test here fails.

use super::super::longest_lease;
use super::*;

const MS: Duration = Duration::from_millis(1);

fn length() -> Duration {
    longest_lease(ELECTION_MIN)
}

fn with_lease() -> (Net, u64) {
    let mut net = Net::of_three(Some(length()));
    let leader = net.elect();
    (net, leader)
}

/// A round that a majority answers at once.
fn renew(net: &mut Net, leader: u64) {
    let mut read = net.lease_read(leader);
    net.settle();
    assert!(read.try_recv().unwrap().is_ok());
}

/// Whether a read is answered without a message.
fn is_served_alone(net: &mut Net, leader: u64) -> bool {
    let before = net.core(leader).reads.rounds_started();
    let mut read = net.lease_read(leader);
    let sent = net.drain(leader);
    let served = read.try_recv().is_ok();
    assert!(!served || (sent.is_empty() && net.core(leader).reads.rounds_started() == before));
    net.deliver(sent);
    net.settle();
    served
}

#[test]
fn longest_lease_leaves_room_for_ticks_drift_and_a_margin() {
    assert_eq!(length(), Duration::from_micros(249_740));
    assert_eq!(longest_lease(Duration::from_millis(50)), Duration::ZERO);
}

#[test]
fn lease_serves_reads_without_a_round_until_it_ends() {
    let (mut net, leader) = with_lease();
    renew(&mut net, leader);
    let end = net.now + length();
    assert!(is_served_alone(&mut net, leader));
    net.now = end - MS;
    assert!(is_served_alone(&mut net, leader));
    net.now = end;
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn read_takes_a_round_when_leases_are_off() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    renew(&mut net, leader);
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn lease_begins_when_its_round_was_sent() {
    let (mut net, leader) = with_lease();
    // What the election itself may have left.
    net.now += length();
    let _read = net.lease_read(leader);
    let sent_at = net.now;
    let on_the_way = net.drain(leader);
    net.now += 100 * MS;
    net.deliver(on_the_way);
    net.settle();
    net.now = sent_at + length() - MS;
    assert!(is_served_alone(&mut net, leader));
    net.now = sent_at + length();
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn isolated_leader_does_not_renew_its_lease() {
    let (mut net, leader) = with_lease();
    renew(&mut net, leader);
    let end = net.now + length();
    net.isolate(leader);
    net.now = end - MS;
    assert!(is_served_alone(&mut net, leader));
    net.now = end;
    let mut read = net.lease_read(leader);
    net.advance(10 * ELECTION_MIN);
    assert!(read.try_recv().is_err(), "no majority answered");
}

#[test]
fn leader_has_no_lease_before_it_commits_in_its_term() {
    let mut net = Net::of_three(Some(length()));
    // Votes and heartbeats come through, so that a leader is elected and rounds are answered.
    net.lost = vec![MessageType::MsgAppendResponse];
    for _ in 0..20 {
        net.advance(ELECTION_MIN / 3);
        let leads = |core: &Core| core.raft.is_leader();
        let Some(leader) = net.cores.iter().find(|(_, core)| leads(core)).map(|(id, _)| *id) else {
            continue;
        };
        for _ in 0..2 {
            let mut read = net.lease_read(leader);
            net.settle();
            assert!(read.try_recv().is_err());
        }
        return;
    }
    panic!("nobody was elected");
}

#[test]
fn transfer_ends_the_lease_for_the_rest_of_the_term() {
    let (mut net, leader) = with_lease();
    let target = leader % 3 + 1;
    renew(&mut net, leader);
    assert!(is_served_alone(&mut net, leader));
    // The target does not answer, so that the transfer fails; its campaign may come at any time yet.
    net.lost = vec![MessageType::MsgTimeoutNow];
    let (waiter, mut outcome) = oneshot::channel();
    let timeout = Duration::from_secs(5);
    net.handle(leader, Input::Transfer { target: Some(target), timeout, fencing_token: 0, waiter });
    let mut read = net.lease_read(leader);
    net.drain(leader);
    assert!(read.try_recv().is_err());
    net.advance(3 * ELECTION_MIN);
    assert!(outcome.try_recv().unwrap().is_err(), "leadership stays");
    renew(&mut net, leader);
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn membership_change_ends_the_lease() {
    let (mut net, leader) = with_lease();
    renew(&mut net, leader);
    let (waiter, mut changed) = oneshot::channel();
    let request = ChangeRequest::Remove { id: leader % 3 + 1 };
    net.handle(leader, Input::Change { request, expected: Expected::default(), waiter });
    net.settle();
    assert_eq!(changed.try_recv().unwrap().unwrap().voters.len(), 2);
    assert!(!is_served_alone(&mut net, leader));
    renew(&mut net, leader);
    assert!(is_served_alone(&mut net, leader), "a new majority has confirmed it");
}

#[test]
fn round_gives_no_lease_when_it_was_sent_before_a_membership_change() {
    let (mut net, leader) = with_lease();
    net.now += length();
    let mut read = net.lease_read(leader);
    let on_the_way = net.drain(leader);
    let (waiter, mut changed) = oneshot::channel();
    let request = ChangeRequest::Remove { id: leader % 3 + 1 };
    net.handle(leader, Input::Change { request, expected: Expected::default(), waiter });
    net.now += MS;
    net.settle();
    assert!(changed.try_recv().unwrap().is_ok());
    net.deliver(on_the_way);
    net.settle();
    assert!(read.try_recv().unwrap().is_ok(), "the round itself is as good as any");
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn leader_has_no_lease_after_it_steps_down() {
    let (mut net, leader) = with_lease();
    renew(&mut net, leader);
    let term = net.core(leader).raft.term();
    net.isolate(leader);
    // Its ticks run ahead of its clock: it steps down while its lease would still last.
    while net.core(leader).raft.is_leader() {
        net.core(leader).tick();
        net.drain(leader);
    }
    assert_eq!(net.core(leader).raft.term(), term);
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn leader_has_no_lease_after_its_removal() {
    let (mut net, leader) = with_lease();
    renew(&mut net, leader);
    let (waiter, _changed) = oneshot::channel();
    net.handle(
        leader,
        Input::Change {
            request: ChangeRequest::Remove { id: leader },
            expected: Expected::default(),
            waiter,
        },
    );
    net.settle();
    assert!(!net.core(leader).membership.voters.contains(&leader));
    // The others may still answer its rounds, but it gets no lease of it.
    for _ in 0..2 {
        assert!(!is_served_alone(&mut net, leader));
    }
}

#[test]
fn leader_has_no_lease_after_it_is_replaced() {
    let (mut net, leader) = with_lease();
    renew(&mut net, leader);
    let target = leader % 3 + 1;
    let (waiter, mut outcome) = oneshot::channel();
    let timeout = Duration::from_secs(5);
    net.handle(leader, Input::Transfer { target: Some(target), timeout, fencing_token: 0, waiter });
    net.settle();
    assert_eq!(outcome.try_recv().unwrap().unwrap().0, target);
    assert!(!is_served_alone(&mut net, leader));
}

/// docs/design/node.md, section 2, "verified trap": A leads by the word of B, B restarts and forgets, C is elected by B.
#[test]
fn voter_keeps_its_lease_promise_after_a_restart() {
    let (mut net, leader) = with_lease();
    let (voter, rival) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    net.isolate(rival);
    net.advance(2 * ELECTION_MIN);
    renew(&mut net, leader);
    let end = net.now + length();

    net.restart(voter);
    net.heal();
    net.isolate(leader);
    net.core(rival).raft.campaign().unwrap();
    net.settle();
    assert!(is_served_alone(&mut net, leader));
    while net.now + TICK < end {
        net.advance(TICK);
        assert!(!net.core(rival).may_lead() && !net.core(voter).may_lead());
    }
    net.advance(10 * ELECTION_MIN);
    assert!(net.core(rival).may_lead() || net.core(voter).may_lead());
}

#[test]
fn member_neither_votes_nor_campaigns_right_after_its_start() {
    let ask = |kind: MessageType| {
        let mut message = Message { from: 3, to: 1, term: 9, log_term: 9, index: 99, ..Message::default() };
        message.set_msg_type(kind);
        message
    };
    let kinds = [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote, MessageType::MsgTimeoutNow];
    for kind in kinds {
        let mut net = Net::of_three(None);
        net.now += ELECTION_MIN - MS;
        net.deliver(vec![ask(kind)]);
        assert!(net.drain(1).is_empty(), "{kind:?}");
        net.now += MS;
        net.deliver(vec![ask(kind)]);
        assert!(!net.drain(1).is_empty(), "{kind:?} after the quiet");
    }
}
