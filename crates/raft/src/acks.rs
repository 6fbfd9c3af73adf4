//! Number of voters that hold an entry on disk, for acknowledgements above a majority and for `WAIT`
//! (docs/design/node.md, section 4). Independent of the commit rule.

use crate::faults;

/// The leader's knowledge of the voters' durable entries, in its own term. Learners never count. A follower's
/// match index is durable, because it acknowledges an append only after the fsync.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// Empty unless this member is the leader. Two during joint consensus; a condition must then hold in both.
    pub electorates: Vec<Electorate>,
    /// Voters without recent contact.
    pub silent: Vec<u64>,
}

/// One set of voters, whose majority decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Electorate {
    /// The leader's last durable entry; `None` if it is no voter.
    pub own: Option<u64>,
    /// Match index of each other voter.
    pub others: Vec<u64>,
}

impl Electorate {
    fn replicas(&self, index: u64) -> u64 {
        self.others.iter().filter(|matched| **matched >= index).count() as u64
    }

    fn holders(&self, index: u64) -> u64 {
        self.replicas(index) + u64::from(self.own.is_some_and(|own| own >= index))
    }

    fn voters(&self) -> u64 {
        self.others.len() as u64 + u64::from(self.own.is_some())
    }
}

impl Durable {
    /// Number of voters other than the leader that hold entry `index` on disk.
    pub fn replicas(&self, index: u64) -> u64 {
        self.least(|electorate| electorate.replicas(index))
    }

    /// Number of voters that hold entry `index` on disk.
    pub fn holders(&self, index: u64) -> u64 {
        self.least(|electorate| electorate.holders(index))
    }

    /// Whether every voter holds entry `index` on disk.
    pub fn held_by_all(&self, index: u64) -> bool {
        let holds = |electorate: &Electorate| {
            electorate.holders(index) >= faults::needed_holders(electorate.voters())
        };
        !self.electorates.is_empty() && self.electorates.iter().all(holds)
    }

    fn least(&self, of: impl Fn(&Electorate) -> u64) -> u64 {
        self.electorates.iter().map(of).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn electorate(own: Option<u64>, others: &[u64]) -> Electorate {
        Electorate { own, others: others.to_vec() }
    }

    #[test]
    fn the_leader_counts_only_what_its_own_disk_holds() {
        let durable = Durable { electorates: vec![electorate(Some(4), &[7, 5])], silent: vec![] };
        assert_eq!((durable.replicas(5), durable.holders(5)), (2, 2));
        assert!(!durable.held_by_all(5));
        assert!(durable.held_by_all(4));
    }

    #[test]
    fn in_a_joint_membership_both_the_old_and_the_new_voters_must_hold_it() {
        // Voter 2, at 3, is replaced by 4, at 9.
        let electorates = vec![electorate(Some(9), &[9, 9]), electorate(Some(9), &[3, 9])];
        let durable = Durable { electorates, silent: vec![] };
        assert_eq!((durable.replicas(9), durable.holders(9)), (1, 2));
        assert!(!durable.held_by_all(9));
        assert!(durable.held_by_all(3));
    }

    #[test]
    fn an_outgoing_leader_does_not_count_among_the_new_voters() {
        let electorates = vec![electorate(None, &[5, 5]), electorate(Some(9), &[5])];
        let durable = Durable { electorates, silent: vec![] };
        assert_eq!((durable.replicas(5), durable.holders(5)), (1, 2));
        assert!(durable.held_by_all(5) && !durable.held_by_all(6));
    }

    #[test]
    fn no_voter_counts_without_a_leader() {
        assert!(!Durable::default().held_by_all(1));
        assert_eq!(Durable::default().holders(1), 0);
    }
}
