//! Changes of the replicated membership. Pure; run by the leader to reject an invalid request before it is proposed,
//! and by every member when the entry is applied.

use helios_proto::v1::{ErrorCode, Member, Membership};
use raft::eraftpb::ConfState;

use super::change::{Change, Fenced};
use crate::faults;
use helios_proto::Error;

/// Membership of a new cluster: all `members` are voters.
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
    faults::conf_state(ConfState {
        voters: membership.voters.clone(),
        voters_outgoing: membership.voters_outgoing.clone(),
        learners: membership.learners.clone(),
        ..ConfState::default()
    })
}

pub fn member(membership: &Membership, id: u64) -> Option<&Member> {
    membership.members.iter().find(|member| member.id == id)
}

pub fn name_of(membership: &Membership, id: u64) -> Option<String> {
    member(membership, id).map(|member| member.name.clone())
}

pub fn is_joint(membership: &Membership) -> bool {
    !membership.voters_outgoing.is_empty()
}

/// Returns the ids of all voters in ascending order; during joint consensus of the outgoing ones, too.
pub fn electorate(membership: &Membership) -> Vec<u64> {
    let mut ids = [&membership.voters[..], &membership.voters_outgoing[..]].concat();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether the voters that are `counted` are a majority: during joint consensus both of the new and of the old voters.
pub fn have_majority(membership: &Membership, counted: impl Fn(u64) -> bool) -> bool {
    [&membership.voters, &membership.voters_outgoing].into_iter().all(|voters| {
        let found = voters.iter().filter(|voter| counted(**voter)).count();
        voters.is_empty() || found > voters.len() / 2
    })
}

/// Whether member `id` was removed. Ids are never reused (C6).
pub fn was_removed(membership: &Membership, id: u64) -> bool {
    id != 0 && id < membership.next_id && member(membership, id).is_none()
}

/// Returns the membership after `fenced` is applied at `index`. A change that has already taken effect is no error.
pub fn after(membership: &Membership, fenced: &Fenced, index: u64) -> Membership {
    let mut next = membership.clone();
    next.index = index;
    next.fencing_token = faults::known_token(next.fencing_token).max(fenced.token);
    match &fenced.change {
        Change::AddLearner(record) => {
            next.next_id = next.next_id.max(record.id + 1);
            if member(&next, record.id).is_none() {
                next.members.push(record.clone());
                next.learners.push(record.id);
            }
        }
        Change::Promote(id) => make_voter(&mut next, *id),
        Change::Remove(id) => {
            next.voters.retain(|voter| voter != id);
            next.learners.retain(|learner| learner != id);
        }
        Change::Joint { promote, remove } => {
            next.voters_outgoing.clone_from(&membership.voters);
            promote.iter().for_each(|id| make_voter(&mut next, *id));
            next.voters.retain(|voter| !remove.contains(voter));
            next.learners.retain(|learner| !remove.contains(learner));
        }
        Change::LeaveJoint => next.voters_outgoing.clear(),
    }
    // An outgoing voter stays a member, and connected, until joint consensus ends and its vote no longer counts.
    let Membership { voters, voters_outgoing, learners, .. } = &next;
    let remains = |id| [voters, voters_outgoing, learners].iter().any(|ids| ids.contains(id));
    let members = next.members.iter().filter(|member| remains(&member.id)).cloned().collect();
    next.members = members;
    next
}

fn make_voter(membership: &mut Membership, id: u64) {
    membership.learners.retain(|learner| *learner != id);
    if !membership.voters.contains(&id) && member(membership, id).is_some() {
        membership.voters.push(id);
    }
}

/// Outcome of a valid request for a membership change.
#[derive(Debug, PartialEq)]
pub enum Decision {
    Propose(Change),
    /// The change has already taken effect: the answer is the current membership.
    Done,
}

/// Rejects a request that was made for a membership other than the current one. 0 stands for any.
pub fn check_index(membership: &Membership, expected_index: u64) -> Result<(), Error> {
    if expected_index == 0 || expected_index == membership.index {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::MembershipChanged,
        format!(
            "the membership is at index {}, not {expected_index}: read it and decide again",
            membership.index
        ),
    ))
}

/// Rejects a caller with a lower fencing token than the highest seen: once the next holder of a lease has changed the
/// membership, delayed calls of the previous holder have no effect (Kleppmann, "How to do distributed locking", 2016).
/// 0 stands for no token.
pub fn check_token(membership: &Membership, token: u64) -> Result<(), Error> {
    let highest = membership.fencing_token;
    if token == 0 || faults::admits_token(token >= highest) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Fenced,
        format!(
            "the membership was changed under fencing token {highest}, this call has {token}: another process has \
             replaced this caller, which must stop"
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

/// Decides on a promotion. `lag` is the number of entries that the member's log is behind the leader's commit index.
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

/// Decides on several promotions and removals at once. Those that have already taken effect are left out. `lag` as in
/// [`promote`].
pub fn change_several(
    membership: &Membership,
    promoted: &[u64],
    removed: &[u64],
    lag: impl Fn(u64) -> u64,
    max_lag: u64,
) -> Result<Decision, Error> {
    let mut named = [promoted, removed].concat();
    named.sort_unstable();
    if named.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid("a member is named twice: promote or remove each one once"));
    }
    if named.is_empty() {
        return Err(Error::invalid("promote and remove are empty: name the members to change"));
    }
    let is_wanted = |decision: Result<Decision, Error>| decision.map(|decision| decision != Decision::Done);
    let (mut promotes, mut removes) = (Vec::new(), Vec::new());
    for id in promoted {
        if is_wanted(promote(membership, *id, lag(*id), max_lag))? {
            promotes.push(*id);
        }
    }
    for id in removed {
        if member(membership, *id).is_some() {
            removes.push(*id);
        } else if !was_removed(membership, *id) {
            return Err(no_such_member(*id));
        }
    }
    if promotes.is_empty() && membership.voters.iter().all(|voter| removes.contains(voter)) {
        return Err(Error::new(
            ErrorCode::InsufficientPeers,
            "no voter would be left; promote another member with the same call",
        ));
    }
    Ok(match (&promotes[..], &removes[..]) {
        ([], []) => Decision::Done,
        ([id], []) => Decision::Propose(Change::Promote(*id)),
        ([], [id]) => Decision::Propose(Change::Remove(*id)),
        _ => Decision::Propose(Change::Joint { promote: promotes, remove: removes }),
    })
}

fn no_such_member(id: u64) -> Error {
    Error::new(ErrorCode::NodeNotFound, format!("the cluster has no member {id}"))
}

#[cfg(test)]
mod tests;
