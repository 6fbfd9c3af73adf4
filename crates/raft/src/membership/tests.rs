use super::*;

fn record(id: u64, name: &str, disk: &str) -> Member {
    Member {
        id,
        name: name.into(),
        peer_addr: format!("{name}:7000"),
        disk_id: disk.into(),
        ..Member::default()
    }
}

fn three() -> Membership {
    initial("c", vec![record(1, "a", "da"), record(2, "b", "db"), record(3, "c", "dc")])
}

fn proposed(decision: Decision) -> Fenced {
    match decision {
        Decision::Propose(change) => change.fenced(0),
        Decision::Done => panic!("expected a proposal"),
    }
}

#[test]
fn a_member_joins_is_promoted_and_leaves_and_its_id_is_never_reused() {
    let change = proposed(add_learner(&three(), record(0, "d", "dd")).unwrap());
    assert!(matches!(&change.change, Change::AddLearner(member) if member.id == 4));
    let four = after(&three(), &change, 10);
    assert_eq!((four.index, four.next_id), (10, 5));
    assert_eq!((four.voters.len(), four.learners.clone()), (3, vec![4]));

    let promoted = after(&four, &proposed(promote(&four, 4, 3, 10).unwrap()), 11);
    assert_eq!(promoted.voters, [1, 2, 3, 4]);
    assert!(promoted.learners.is_empty());

    let removed = after(&promoted, &proposed(remove(&promoted, 4).unwrap()), 12);
    assert_eq!(removed.voters, [1, 2, 3]);
    assert!(was_removed(&removed, 4));
    assert!(!was_removed(&removed, 5));
    let again = proposed(add_learner(&removed, record(0, "d", "new disk")).unwrap());
    assert!(matches!(again.change, Change::AddLearner(member) if member.id == 5));
}

#[test]
fn repeated_changes_have_no_effect() {
    let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")).fenced(0), 10);
    assert_eq!(add_learner(&four, record(0, "d", "dd")).unwrap(), Decision::Done);
    assert_eq!(promote(&four, 1, 0, 0).unwrap(), Decision::Done);
    let removed = after(&four, &Change::Remove(4).fenced(0), 11);
    assert_eq!(remove(&removed, 4).unwrap(), Decision::Done);
}

#[test]
fn invalid_changes_are_rejected_with_their_reason() {
    let code = |result: Result<Decision, Error>| result.unwrap_err().code;
    assert_eq!(code(add_learner(&three(), record(0, "a", "other"))), ErrorCode::PeerExists);
    assert_eq!(code(add_learner(&three(), record(0, "z", "da"))), ErrorCode::PeerExists);
    assert_eq!(code(add_learner(&three(), record(0, "z", ""))), ErrorCode::InvalidArgument);
    assert_eq!(code(promote(&three(), 9, 0, 0)), ErrorCode::NodeNotFound);
    assert_eq!(code(remove(&three(), 9)), ErrorCode::NodeNotFound);
    let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")).fenced(0), 10);
    let lagging = promote(&four, 4, 4200, 1000).unwrap_err();
    assert_eq!(lagging.code, ErrorCode::LearnerLagging);
    assert!(lagging.message.contains("4200"));
    let one = initial("c", vec![record(1, "a", "da")]);
    assert_eq!(code(remove(&one, 1)), ErrorCode::InsufficientPeers);
}

#[test]
fn a_stale_index_is_refused() {
    let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")).fenced(0), 10);
    assert!(check_index(&four, 10).is_ok());
    assert!(check_index(&four, 0).is_ok());
    assert_eq!(check_index(&four, 9).unwrap_err().code, ErrorCode::MembershipChanged);
}

/// Three voters and two learners, 4 and 5.
fn five() -> Membership {
    let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")).fenced(0), 10);
    after(&four, &Change::AddLearner(record(5, "e", "de")).fenced(0), 11)
}

fn several(promote: &[u64], remove: &[u64]) -> Result<Decision, Error> {
    change_several(&five(), promote, remove, |_| 0, 10)
}

#[test]
fn an_outgoing_voter_stays_a_member_until_joint_consensus_ends() {
    let change = proposed(several(&[4], &[2]).unwrap());
    let joint = after(&five(), &change, 12);
    assert_eq!((&joint.voters[..], &joint.voters_outgoing[..]), (&[1, 3, 4][..], &[1, 2, 3][..]));
    assert_eq!(joint.learners, [5]);
    assert!(is_joint(&joint) && !was_removed(&joint, 2));
    assert_eq!(electorate(&joint), [1, 2, 3, 4]);
    assert_eq!(conf_state(&joint).voters_outgoing, [1, 2, 3]);

    let left = after(&joint, &Change::LeaveJoint.fenced(0), 13);
    assert_eq!((&left.voters[..], left.index), (&[1, 3, 4][..], 13));
    assert!(!is_joint(&left) && was_removed(&left, 2));
}

#[test]
fn learners_are_removed_at_the_begin_of_joint_consensus() {
    let joint = after(&five(), &proposed(several(&[4], &[5]).unwrap()), 12);
    assert_eq!(joint.voters, [1, 2, 3, 4]);
    assert!(was_removed(&joint, 5));
}

#[test]
fn several_changes_leave_out_those_that_took_effect() {
    assert_eq!(several(&[1], &[]).unwrap(), Decision::Done);
    assert_eq!(several(&[4, 1], &[]).unwrap(), Decision::Propose(Change::Promote(4)));
    assert_eq!(several(&[3], &[2]).unwrap(), Decision::Propose(Change::Remove(2)));
    let left = after(&five(), &Change::Remove(2).fenced(0), 12);
    assert_eq!(change_several(&left, &[], &[2], |_| 0, 0).unwrap(), Decision::Done);
}

#[test]
fn several_changes_are_rejected_when_one_is_invalid() {
    let code = |result: Result<Decision, Error>| result.unwrap_err().code;
    assert_eq!(code(several(&[], &[])), ErrorCode::InvalidArgument);
    assert_eq!(code(several(&[4, 4], &[])), ErrorCode::InvalidArgument);
    assert_eq!(code(several(&[4], &[4])), ErrorCode::InvalidArgument);
    assert_eq!(code(several(&[9], &[])), ErrorCode::NodeNotFound);
    assert_eq!(code(several(&[], &[9])), ErrorCode::NodeNotFound);
    assert_eq!(code(several(&[], &[1, 2, 3])), ErrorCode::InsufficientPeers);
    assert_eq!(code(several(&[1], &[2, 3, 1])), ErrorCode::InvalidArgument);
    let lagging = change_several(&five(), &[4, 5], &[], |id| if id == 5 { 11 } else { 0 }, 10);
    let lagging = lagging.unwrap_err();
    assert_eq!(lagging.code, ErrorCode::LearnerLagging);
    assert!(lagging.message.contains("learner e is 11"), "{}", lagging.message);
}

#[test]
fn a_lower_token_is_refused_and_the_highest_is_remembered() {
    assert!(check_token(&three(), 1).is_ok());
    let seven = after(&five(), &Change::Promote(4).fenced(7), 12);
    let later = after(&seven, &Change::Promote(5).fenced(0), 13);
    for membership in [&seven, &later] {
        assert_eq!(membership.fencing_token, 7);
        assert!(check_token(membership, 0).is_ok(), "an admin has no token");
        assert!(check_token(membership, 7).is_ok());
        assert!(check_token(membership, 8).is_ok());
        assert_eq!(check_token(membership, 6).unwrap_err().code, ErrorCode::Fenced);
    }
    assert_eq!(after(&later, &Change::Remove(4).fenced(6), 14).fencing_token, 7, "the token never decreases");
}

/// The table of the coordinator's document: members, majority, failures survived.
#[test]
fn a_majority_is_more_than_half() {
    for (members, majority, survived) in [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (7, 4, 3)] {
        let records = (1..=members).map(|id| record(id, &id.to_string(), "d")).collect();
        let membership = initial("c", records);
        let least = (0..=members).find(|up| have_majority(&membership, |id| id <= *up));
        assert_eq!((least, members - majority), (Some(majority), survived), "of {members}");
    }
}
