//! Durability of committed and acknowledged entries (Raft paper, 5.3 and 5.4.2): an entry that a leader takes for
//! committed is on the disks of a majority of the voters; one that it would acknowledge as held by all voters is on each.

use helios_proto::v1::Membership;
use helios_raft::simulation::RaftStatus;

use super::disks::Disks;
use super::violated;
use crate::Violation;

/// Voters that decide: a majority of each set that is not empty.
#[derive(Debug, Clone, Default)]
pub struct Electorate {
    voters: Vec<u64>,
    outgoing: Vec<u64>,
}

impl Electorate {
    pub fn of(membership: &Membership) -> Self {
        let Membership { voters, voters_outgoing, .. } = membership.clone();
        Self { voters, outgoing: voters_outgoing }
    }

    fn has_majority(&self, of: impl Fn(u64) -> bool) -> bool {
        let is_majority = |ids: &[u64]| ids.iter().filter(|id| of(**id)).count() > ids.len() / 2;
        is_majority(&self.voters) && (self.outgoing.is_empty() || is_majority(&self.outgoing))
    }
}

/// `leader` takes the entry for committed, by the word of one of `electorates`.
pub fn check_commit(
    disks: &Disks,
    leader: u64,
    (index, term): (u64, u64),
    electorates: &[Electorate],
) -> Result<(), Violation> {
    let holds = |voter| disks.holds(voter, index, term);
    if electorates.iter().any(|electorate| electorate.has_majority(holds)) {
        return Ok(());
    }
    Err(violated(
        "commit durability",
        format!(
            "leader {leader} takes {index} of term {term} for committed, which is not durable on a majority of {electorates:?}"
        ),
    ))
}

/// An entry that the leader with this status would acknowledge as held by all voters is durable on each, old and new.
pub fn check_acknowledged(
    disks: &Disks,
    status: &RaftStatus,
    index: u64,
    term: u64,
) -> Result<(), Violation> {
    let Membership { voters, voters_outgoing, .. } = &*status.membership;
    let lacks = |voter: &&u64| !disks.holds(**voter, index, term);
    match voters.iter().chain(voters_outgoing).find(lacks) {
        Some(voter) if status.durable.held_by_all(index) => Err(violated(
            "commit durability",
            format!(
                "{index} of term {term} would be acknowledged as held by all voters, and voter {voter} does not hold it"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use helios_raft::Durable;
    use helios_raft::simulation::DurableVoters;

    use super::super::fixtures::log_entry;
    use super::*;

    /// Disks on which each of `holders` has entry 1 of term 1.
    fn disks(holders: &[u64]) -> Disks {
        let mut disks = Disks::default();
        holders.iter().for_each(|member| disks.log_mut(*member).put(&log_entry(1, 1, "a")));
        disks
    }

    fn electorate(voters: &[u64], outgoing: &[u64]) -> Electorate {
        Electorate { voters: voters.to_vec(), outgoing: outgoing.to_vec() }
    }

    #[test]
    fn commit_without_a_durable_majority_is_a_violation() {
        let check = |holders: &[u64], electorate| check_commit(&disks(holders), 1, (1, 1), &[electorate]);
        check(&[1, 2], electorate(&[1, 2, 3], &[])).unwrap();
        check(&[1], electorate(&[1, 2, 3], &[])).unwrap_err();
        check(&[1, 2], electorate(&[1, 2, 3], &[3, 4, 5])).unwrap_err();
        check_commit(&disks(&[1, 2]), 1, (1, 2), &[electorate(&[1, 2, 3], &[])]).unwrap_err();
    }

    #[test]
    fn acknowledgement_by_all_without_one_voter_is_a_violation() {
        let membership = Membership { voters: vec![1, 2], ..Membership::default() };
        let voters = DurableVoters { own: Some(1), others: vec![1] };
        let durable = Durable { electorates: vec![voters], silent: Vec::new() };
        let status = RaftStatus { membership: membership.into(), durable, ..RaftStatus::default() };
        check_acknowledged(&disks(&[1, 2]), &status, 1, 1).unwrap();
        check_acknowledged(&disks(&[1]), &status, 1, 1).unwrap_err();
    }
}
