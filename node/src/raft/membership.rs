//! The replicated membership: what a change does to it. Pure; run by the leader to refuse a bad
//! request before it is proposed, and by every member when the entry is applied.

use helios_proto::v1::{ErrorCode, Member, Membership};
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};

use crate::error::Error;
use crate::mutation::Mutation;

/// One change of Raft's configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    AddLearner(Member),
    Promote(u64),
    Remove(u64),
}

impl Change {
    pub fn member_id(&self) -> u64 {
        match self {
            Change::AddLearner(member) => member.id,
            Change::Promote(id) | Change::Remove(id) => *id,
        }
    }

    /// The raft crate's form; `context` of the entry carries the member record.
    pub fn to_conf_change(&self) -> ConfChange {
        let change_type = match self {
            Change::AddLearner(_) => ConfChangeType::AddLearnerNode,
            Change::Promote(_) => ConfChangeType::AddNode,
            Change::Remove(_) => ConfChangeType::RemoveNode,
        };
        let mut conf_change = ConfChange { node_id: self.member_id(), ..ConfChange::default() };
        conf_change.set_change_type(change_type);
        if let Change::AddLearner(member) = self {
            conf_change.context = prost::Message::encode_to_vec(member);
        }
        conf_change
    }

    /// What a committed entry asks for; an error only if the entry was not made by this code.
    pub fn from_conf_change(conf_change: &ConfChange) -> Result<Self, prost::DecodeError> {
        Ok(match conf_change.get_change_type() {
            ConfChangeType::AddLearnerNode => {
                Change::AddLearner(prost::Message::decode(conf_change.context.as_slice())?)
            }
            ConfChangeType::AddNode => Change::Promote(conf_change.node_id),
            ConfChangeType::RemoveNode => Change::Remove(conf_change.node_id),
        })
    }
}

/// A membership of `members`, all voters: the start of a cluster.
pub fn initial(cluster_id: &str, members: Vec<Member>) -> Membership {
    Membership {
        index: 0,
        voters: members.iter().map(|member| member.id).collect(),
        learners: Vec::new(),
        next_id: members.iter().map(|member| member.id).max().unwrap_or(0) + 1,
        cluster_id: cluster_id.to_owned(),
        members,
        ..Membership::default()
    }
}

pub fn conf_state(membership: &Membership) -> ConfState {
    if Mutation::LearnersCount.is_on() {
        let voters = [&membership.voters[..], &membership.learners[..]].concat();
        return ConfState { voters, ..ConfState::default() };
    }
    ConfState {
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
        ..ConfState::default()
    }
}

pub fn member(membership: &Membership, id: u64) -> Option<&Member> {
    membership.members.iter().find(|member| member.id == id)
}

pub fn name_of(membership: &Membership, id: u64) -> Option<String> {
    member(membership, id).map(|member| member.name.clone())
}

/// Whether `id` was a member once and is none now. Ids are never reused (C6).
pub fn was_removed(membership: &Membership, id: u64) -> bool {
    id != 0 && id < membership.next_id && member(membership, id).is_none()
}

/// The membership after `change` was applied at `index`. A change that is already true is no error.
pub fn after(membership: &Membership, change: &Change, index: u64) -> Membership {
    let mut next = membership.clone();
    next.index = index;
    match change {
        Change::AddLearner(record) => {
            next.next_id = next.next_id.max(record.id + 1);
            if member(&next, record.id).is_none() {
                next.members.push(record.clone());
                next.learners.push(record.id);
            }
        }
        Change::Promote(id) => {
            next.learners.retain(|learner| learner != id);
            if !next.voters.contains(id) && member(&next, *id).is_some() {
                next.voters.push(*id);
            }
        }
        Change::Remove(id) => {
            next.members.retain(|member| member.id != *id);
            next.voters.retain(|voter| voter != id);
            next.learners.retain(|learner| learner != id);
        }
    }
    next
}

/// What a request for a change comes to.
#[derive(Debug, PartialEq)]
pub enum Decision {
    Propose(Change),
    /// True already: answer with the membership as it is.
    Done,
}

/// Refuses a request that names a membership which is no longer the current one.
pub fn check_index(membership: &Membership, expected_index: u64) -> Result<(), Error> {
    if expected_index == 0 || expected_index == membership.index {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::MembershipChanged,
        format!(
            "the membership is at index {}, not {expected_index}: read it again and decide anew",
            membership.index
        ),
    ))
}

pub fn add_learner(membership: &Membership, mut record: Member) -> Result<Decision, Error> {
    if record.name.is_empty() || record.peer_addr.is_empty() || record.disk_id.is_empty() {
        return Err(Error::invalid("a new member needs name, peer_addr and the disk_id from its Status"));
    }
    if let Some(same) = membership.members.iter().find(|member| member.name == record.name) {
        if same.disk_id == record.disk_id {
            return Ok(Decision::Done);
        }
        return Err(Error::new(
            ErrorCode::PeerExists,
            format!(
                "{} is member {} with another disk; remove member {} first, then add it again",
                same.name, same.id, same.id
            ),
        ));
    }
    if membership.members.iter().any(|member| member.disk_id == record.disk_id) {
        return Err(Error::new(
            ErrorCode::PeerExists,
            format!("disk {} already belongs to another member", record.disk_id),
        ));
    }
    record.id = membership.next_id;
    Ok(Decision::Propose(Change::AddLearner(record)))
}

/// `lag` is how many entries the member's log is behind the leader's commit index.
pub fn promote(membership: &Membership, id: u64, lag: u64, max_lag: u64) -> Result<Decision, Error> {
    let Some(record) = member(membership, id) else { return Err(no_such_member(id)) };
    if membership.voters.contains(&id) {
        return Ok(Decision::Done);
    }
    if lag > max_lag {
        return Err(Error::new(
            ErrorCode::LearnerLagging,
            format!("learner {} is {lag} entries behind, more than {max_lag}; try again later", record.name),
        ));
    }
    Ok(Decision::Propose(Change::Promote(id)))
}

pub fn remove(membership: &Membership, id: u64) -> Result<Decision, Error> {
    if member(membership, id).is_none() {
        return if was_removed(membership, id) { Ok(Decision::Done) } else { Err(no_such_member(id)) };
    }
    if membership.voters == [id] {
        return Err(Error::new(
            ErrorCode::InsufficientPeers,
            "the last voter cannot be removed; promote another member first",
        ));
    }
    Ok(Decision::Propose(Change::Remove(id)))
}

fn no_such_member(id: u64) -> Error {
    Error::new(ErrorCode::NodeNotFound, format!("the cluster has no member {id}"))
}

#[cfg(test)]
mod tests {
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

    fn proposed(decision: Decision) -> Change {
        match decision {
            Decision::Propose(change) => change,
            Decision::Done => panic!("expected a proposal"),
        }
    }

    #[test]
    fn a_member_joins_is_promoted_and_leaves_and_its_id_is_never_reused() {
        let change = proposed(add_learner(&three(), record(0, "d", "dd")).unwrap());
        assert_eq!(change.member_id(), 4);
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
        assert_eq!(again.member_id(), 5);
    }

    #[test]
    fn repeating_what_took_effect_changes_nothing() {
        let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")), 10);
        assert_eq!(add_learner(&four, record(0, "d", "dd")).unwrap(), Decision::Done);
        assert_eq!(promote(&four, 1, 0, 0).unwrap(), Decision::Done);
        let removed = after(&four, &Change::Remove(4), 11);
        assert_eq!(remove(&removed, 4).unwrap(), Decision::Done);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        let code = |result: Result<Decision, Error>| result.unwrap_err().code;
        assert_eq!(code(add_learner(&three(), record(0, "a", "other"))), ErrorCode::PeerExists);
        assert_eq!(code(add_learner(&three(), record(0, "z", "da"))), ErrorCode::PeerExists);
        assert_eq!(code(add_learner(&three(), record(0, "z", ""))), ErrorCode::InvalidArgument);
        assert_eq!(code(promote(&three(), 9, 0, 0)), ErrorCode::NodeNotFound);
        assert_eq!(code(remove(&three(), 9)), ErrorCode::NodeNotFound);
        let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")), 10);
        let lagging = promote(&four, 4, 4200, 1000).unwrap_err();
        assert_eq!(lagging.code, ErrorCode::LearnerLagging);
        assert!(lagging.message.contains("4200"));
        let one = initial("c", vec![record(1, "a", "da")]);
        assert_eq!(code(remove(&one, 1)), ErrorCode::InsufficientPeers);
    }

    #[test]
    fn a_stale_index_is_refused() {
        let four = after(&three(), &Change::AddLearner(record(4, "d", "dd")), 10);
        assert!(check_index(&four, 10).is_ok());
        assert!(check_index(&four, 0).is_ok());
        assert_eq!(check_index(&four, 9).unwrap_err().code, ErrorCode::MembershipChanged);
    }

    #[test]
    fn a_change_survives_the_log() {
        for change in [Change::AddLearner(record(4, "d", "dd")), Change::Promote(4), Change::Remove(2)] {
            assert_eq!(Change::from_conf_change(&change.to_conf_change()).unwrap(), change);
        }
    }
}
