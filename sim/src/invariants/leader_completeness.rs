//! Leader Completeness (Raft paper, figure 3 and 5.4.3): an entry that is committed in a term is in the logs of the
//! leaders of all later terms.

use std::collections::{BTreeMap, BTreeSet};

use helios_raft::simulation::RaftStatus;

use super::violated;
use crate::Violation;

struct Committed {
    /// Term of the entry.
    term: u64,
    /// Term in which a leader first considered it committed.
    in_term: u64,
}

#[derive(Default)]
pub struct LeaderCompleteness {
    committed: BTreeMap<u64, Committed>,
    /// Terms whose leader was checked.
    led: BTreeSet<u64>,
}

impl LeaderCompleteness {
    /// Checks the leader `member`, once in each term, and records what it committed. `term_of` returns the term of an
    /// entry of its log.
    pub fn on_leader(
        &mut self,
        member: u64,
        status: &RaftStatus,
        term_of: &impl Fn(u64) -> Option<u64>,
    ) -> Result<(), Violation> {
        let RaftStatus { term, first_index, commit_index, .. } = *status;
        if self.led.insert(term) {
            // Its snapshot holds the entries before its first one.
            let earlier = self.committed.range(first_index..).filter(|(_, known)| known.in_term < term);
            for (index, known) in earlier {
                if term_of(*index) != Some(known.term) {
                    let what = format!(
                        "leader {member} of term {term} lacks entry {index} of term {}, which was committed in term {}",
                        known.term, known.in_term
                    );
                    return Err(violated("leader completeness", what));
                }
            }
        }
        let next = self.committed.last_key_value().map_or(1, |(last, _)| last + 1);
        for index in next..=commit_index {
            if let Some(of) = term_of(index) {
                self.committed.insert(index, Committed { term: of, in_term: term });
            }
        }
        Ok(())
    }

    /// Forgets leaders from `term` on, and committed entries after `last`.
    pub fn forget_from(&mut self, term: u64, last: u64) {
        self.led.retain(|led| *led < term);
        self.committed.retain(|index, _| *index <= last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64, first_index: u64, commit_index: u64) -> RaftStatus {
        RaftStatus { term, first_index, commit_index, ..RaftStatus::default() }
    }

    #[test]
    fn later_leader_without_a_committed_entry_is_a_violation() {
        let mut completeness = LeaderCompleteness::default();
        completeness.on_leader(1, &leader(2, 1, 3), &|_| Some(2)).unwrap();
        completeness.on_leader(2, &leader(3, 1, 3), &|_| Some(2)).unwrap();
        let short = |index| (index < 3).then_some(2);
        completeness.on_leader(3, &leader(4, 1, 2), &short).unwrap_err();
    }

    #[test]
    fn leader_of_an_earlier_term_may_lack_what_was_committed_later() {
        let mut completeness = LeaderCompleteness::default();
        completeness.on_leader(1, &leader(5, 1, 3), &|_| Some(5)).unwrap();
        completeness.on_leader(2, &leader(4, 1, 0), &|_| None).unwrap();
    }

    #[test]
    fn leader_with_a_snapshot_needs_no_entry_before_it() {
        let mut completeness = LeaderCompleteness::default();
        completeness.on_leader(1, &leader(2, 1, 3), &|_| Some(2)).unwrap();
        completeness.on_leader(2, &leader(3, 4, 3), &|_| None).unwrap();
    }
}
