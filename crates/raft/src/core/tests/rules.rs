//! Tests of rules of the Raft paper that the raft crate implements, at the interface of this core; and of its limits.

use helios_proto::v1::ErrorCode;

use super::*;

/// Raft paper, 5.1: a sender with an older term is answered with the current term, and its message has no effect.
#[test]
fn an_append_of_an_older_term_has_no_effect() {
    let mut core = follower(HardState { term: 5, ..HardState::default() });
    let answered = step(&mut core, append(4, 5, 1));
    assert!(answered.log.is_empty() && answered.applied.is_empty());
    assert!(answered.sent.iter().all(|message| message.to == 2 && message.term == 5), "{:?}", answered.sent);
    let status = core.status(Instant::now());
    assert_eq!((status.term, status.leader_id, status.last_index), (5, 0, 5));
}

/// Raft paper, 5.2: another candidate won. A candidate that continued would reject the leader's entries.
#[test]
fn a_candidate_follows_the_leader_of_its_own_term() {
    let mut core = follower(HardState::default());
    let (min, max) = (ticks(Duration::from_millis(300)), ticks(Duration::from_millis(600)));
    (0..min + max).for_each(|_| core.tick());
    let asked = turn(&mut core);
    assert!(asked.sent_types().contains(&MessageType::MsgRequestPreVote), "{:?}", asked.sent_types());
    let granted = step(&mut core, message(MessageType::MsgRequestPreVoteResponse, 2, 2));
    assert_eq!(core.status(Instant::now()).role, Role::Candidate);
    granted.log.iter().for_each(|number| drop(persisted(&mut core, *number)));

    step(&mut core, append(2, 5, 1));

    let status = core.status(Instant::now());
    assert_eq!((status.role, status.term, status.leader_id), (Role::Follower, 2, 2));
    assert_eq!(status.last_index, 6);
}

/// Raft thesis, 10.2.1, is about entries: the term of a leader is durable before it sends any. A single voter needs no
/// vote of another member, and after a power cut leads the same term again.
#[test]
fn single_voter_sends_nothing_in_a_term_that_is_not_durable() {
    let mut core = member_beside(1, &[1], &[2], 5, HardState::default());
    let elected = loop {
        core.tick();
        let turn = turn(&mut core);
        if core.status(Instant::now()).role == Role::Leader {
            break turn;
        }
    };
    let (proposal, _answer) = proposal(b"value");
    core.handle(Input::Propose(vec![proposal]), Instant::now());
    let proposed = turn(&mut core);
    for early in elected.sent.iter().chain(&proposed.sent) {
        assert_ne!(early.to, 2, "{early:?} was sent before the term was durable");
    }
    let on_disk = persisted(&mut core, elected.log[0]);
    assert!(on_disk.sent.iter().any(|message| message.to == 2), "{:?}", on_disk.sent_types());
}

#[test]
fn proposals_of_one_batch_are_sent_to_each_peer_as_one_message() {
    const COUNT: usize = 500;
    let mut mesh = Mesh::new(1);
    let leader = mesh.elect();
    let (proposals, _answers): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| proposal(b"value")).unzip();
    mesh.cores[leader].handle(Input::Propose(proposals), Instant::now());
    let sent = turn(&mut mesh.cores[leader]).sent;
    let appends: Vec<_> = sent.iter().filter(|one| one.get_msg_type() == MessageType::MsgAppend).collect();
    assert_eq!(appends.iter().map(|one| one.entries.len()).collect::<Vec<_>>(), [COUNT, COUNT]);
}

#[test]
fn writes_are_rejected_while_too_many_bytes_are_committed_and_not_applied() {
    let mut core = leader_of_one();
    let mut under_way = Vec::new();
    let refused = (0..10_000).find_map(|_| {
        let (proposal, mut answer) = proposal(&[7; 1 << 20]);
        core.handle(Input::Propose(vec![proposal]), Instant::now());
        for number in turn(&mut core).log {
            under_way.extend(persisted(&mut core, number).applied);
        }
        answer.try_recv().ok()
    });
    assert_eq!(refused.unwrap().unwrap_err().code, ErrorCode::Overloaded);
    assert!(ErrorCode::Overloaded.is_retryable());

    let bytes = under_way.iter().map(|entry| entry.data.len() as u64 + 64).sum();
    let index = under_way.last().unwrap().index;
    let done = Applied { index, bytes, ..Applied::default() };
    core.on_done(Done::Applied(done), Instant::now());
    let (proposal, mut answer) = proposal(b"small");
    core.handle(Input::Propose(vec![proposal]), Instant::now());
    assert!(!turn(&mut core).log.is_empty(), "proposals are still rejected");
    assert!(answer.try_recv().is_err(), "rejected although everything is applied");
}
