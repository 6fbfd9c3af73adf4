//! Tests of leader priorities.

use super::*;

/// Gives `preferred` a higher priority than the others, and makes it known to all members.
fn with_preferred(net: &mut Net, preferred: u64) {
    for id in 1..=3 {
        net.core(id).settings.priority = u32::from(id == preferred);
        net.handle(id, Input::PeerPriority { id: preferred, priority: 1 });
    }
}

fn leader(net: &mut Net) -> Option<u64> {
    (1..=3).find(|id| net.core(*id).may_lead())
}

#[test]
fn the_voter_with_the_higher_priority_becomes_leader_after_any_election() {
    for preferred in 1..=3 {
        let mut net = Net::of_three(None);
        let elected = net.elect();
        with_preferred(&mut net, preferred);
        net.advance(4 * ELECTION_MIN);
        assert_eq!(leader(&mut net), Some(preferred), "after {elected}");

        net.isolate(preferred);
        net.advance(5 * ELECTION_MIN);
        assert!((1..=3).any(|id| id != preferred && net.core(id).may_lead()), "no other member was elected");
        net.heal();
        net.advance(Duration::from_secs(12));
        assert_eq!(leader(&mut net), Some(preferred), "after its return");
    }
}

#[test]
fn leadership_is_not_transferred_to_a_preferred_voter_that_is_far_behind() {
    let mut net = Net::of_three(None);
    let elected = net.elect();
    let preferred = elected % 3 + 1;
    net.lost = vec![MessageType::MsgAppend];
    for _ in 0..1_100 {
        let (waiter, _answer) = oneshot::channel();
        let write = Proposal { data: vec![1], format: 1, waiter: waiter.into(), charge: Charge::default() };
        net.handle(elected, Input::Propose(vec![write]));
        net.drain(elected);
    }
    with_preferred(&mut net, preferred);
    net.advance(ELECTION_MIN);
    assert_eq!(leader(&mut net), Some(elected), "handed over to one that lacks entries");
    net.lost.clear();
    net.advance(Duration::from_secs(12));
    assert_eq!(leader(&mut net), Some(preferred));
}
