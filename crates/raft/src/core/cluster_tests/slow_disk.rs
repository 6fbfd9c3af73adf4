//! Tests of the transfer from a leader whose disk is slow or full.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn leader(net: &Net) -> Option<u64> {
    let leads = |core: &&Core| core.raft.is_leader();
    net.cores.values().filter(leads).max_by_key(|core| core.raft.term()).map(|core| core.settings.id)
}

/// Writes to the current leader for `time`; returns the leaders in their order.
fn write_for(net: &mut Net, time: Duration) -> Vec<u64> {
    let end = net.now + time;
    let mut leaders = Vec::new();
    while net.now < end {
        if let Some(id) = leader(net) {
            leaders.push(id);
            let (waiter, _answer) = oneshot::channel();
            net.handle(
                id,
                Input::Propose(vec![Proposal {
                    data: vec![1],
                    format: 1,
                    waiter: waiter.into(),
                    charge: Charge::default(),
                }]),
            );
        }
        net.advance(50 * MS);
    }
    leaders.dedup();
    leaders
}

#[test]
fn a_leader_with_a_slow_disk_transfers_leadership_once_without_an_election_timeout() {
    let mut net = Net::of_three(None);
    let first = net.elect();
    let term = net.core(first).raft.term();
    net.sync_time.insert(first, 200 * MS);
    let leaders = write_for(&mut net, Duration::from_secs(20));
    assert_eq!(leaders.len(), 2, "{leaders:?}");
    let status = {
        let now = net.now;
        net.core(leaders[1]).status(now)
    };
    assert_eq!(status.term, term + 1, "more than the one election of the transfer");
    assert_eq!(net.core(first).leadership.disk_transfers(), 1);
}

#[test]
fn leadership_stays_when_every_disk_is_slow() {
    let mut net = Net::of_three(None);
    let first = net.elect();
    for id in 1..=3 {
        net.sync_time.insert(id, 200 * MS);
    }
    assert_eq!(write_for(&mut net, Duration::from_secs(120)), [first]);
    assert_eq!(net.core(first).leadership.disk_transfers(), 0);
}

#[test]
fn a_leader_whose_disk_is_full_transfers_leadership_to_a_voter_with_room() {
    let mut net = Net::of_three(None);
    let first = net.elect();
    let full = if first == 1 { 2 } else { 1 };
    let now = net.now;
    for id in [first, full] {
        net.core(id).on_done(Done::LogSpace { is_short: true }, now);
    }
    net.advance(Duration::from_secs(2));
    assert_eq!(leader(&net), Some(first), "room may be made soon");
    net.advance(Duration::from_secs(2));
    assert_eq!(leader(&net), Some(6 - first - full));
}

#[test]
fn leadership_stays_when_every_disk_is_full() {
    let mut net = Net::of_three(None);
    let first = net.elect();
    let now = net.now;
    for id in 1..=3 {
        net.core(id).on_done(Done::LogSpace { is_short: true }, now);
    }
    net.advance(Duration::from_secs(10));
    assert_eq!(leader(&net), Some(first));
    let other = if first == 1 { 2 } else { 1 };
    let now = net.now;
    net.core(other).on_done(Done::LogSpace { is_short: false }, now);
    net.advance(Duration::from_secs(1));
    assert_eq!(leader(&net), Some(other), "it has room again");
}
