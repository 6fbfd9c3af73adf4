//! Tests of the lease, one for each of its rules.

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

/// Runs a round that a majority answers at once.
fn renew(net: &mut Net, leader: u64) {
    let mut read = net.lease_read(leader);
    net.settle();
    assert!(read.try_recv().unwrap().is_ok());
}

/// Whether a read is answered without a message to another member.
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
fn the_length_leaves_room_for_ticks_drift_and_a_margin() {
    assert_eq!(length(), Duration::from_micros(249_740));
    assert_eq!(longest_lease(Duration::from_millis(50)), Duration::ZERO);
}

#[test]
fn a_lease_serves_reads_alone_until_it_ends() {
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
fn without_a_lease_configured_every_read_takes_a_round() {
    let mut net = Net::of_three(None);
    let leader = net.elect();
    renew(&mut net, leader);
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn a_lease_counts_from_when_its_round_was_sent() {
    let (mut net, leader) = with_lease();
    // Lets a lease of the election expire.
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
fn an_isolated_leader_does_not_renew_its_lease() {
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
fn no_lease_before_an_entry_of_the_own_term_is_committed() {
    let mut net = Net::of_three(Some(length()));
    // Votes and heartbeats are delivered, so that a leader is elected and rounds are answered.
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
    panic!("no leader was elected");
}

#[test]
fn a_transfer_ends_the_lease_before_the_target_is_asked_and_for_the_whole_term() {
    let (mut net, leader) = with_lease();
    let target = leader % 3 + 1;
    renew(&mut net, leader);
    assert!(is_served_alone(&mut net, leader));
    // The request to the target is lost, so that the transfer fails; a late campaign would still be possible.
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
fn a_change_of_configuration_ends_the_lease() {
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
fn a_round_sent_before_a_change_of_configuration_gives_no_lease_after_it() {
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
    assert!(read.try_recv().unwrap().is_ok(), "the round itself is valid");
    assert!(!is_served_alone(&mut net, leader));
}

#[test]
fn a_leader_that_steps_down_in_its_term_serves_no_lease_read() {
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
fn a_leader_that_was_removed_has_no_lease() {
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
    // The others may still answer its rounds, but these give no lease.
    for _ in 0..2 {
        assert!(!is_served_alone(&mut net, leader));
    }
}

#[test]
fn a_leader_that_is_replaced_serves_no_lease_read() {
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

/// docs/design/node.md, section 2, "verified trap": A has a lease by the answer of B, B restarts and forgets it, and B
/// votes for C.
#[test]
fn a_voter_that_restarts_does_not_vote_while_a_lease_may_rely_on_it() {
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
fn a_member_that_has_just_started_neither_votes_nor_campaigns() {
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
        assert!(!net.drain(1).is_empty(), "{kind:?} after the least election timeout");
    }
}
