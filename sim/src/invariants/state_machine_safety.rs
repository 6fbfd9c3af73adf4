//! State Machine Safety (Raft paper, figure 3 and 5.4.3): no two members apply different entries at an index. And their
//! states at an index are the same, byte for byte.

use std::collections::BTreeMap;

use raft::eraftpb::Entry;

use super::disks::Fact;
use super::violated;
use crate::Violation;

#[derive(Default)]
pub struct StateMachineSafety {
    committed: BTreeMap<u64, Fact>,
    /// Digest of the state at an index.
    states: BTreeMap<u64, u64>,
}

impl StateMachineSafety {
    pub fn on_commit(&mut self, member: u64, entry: &Entry) -> Result<(), Violation> {
        let fact = Fact::of(entry.term, &entry.data);
        let known = *self.committed.entry(entry.index).or_insert(fact);
        if known == fact {
            return Ok(());
        }
        Err(violated(
            "state machine safety",
            format!(
                "member {member} commits at {} an entry of term {}, another was committed there in term {}",
                entry.index, fact.term, known.term
            ),
        ))
    }

    pub fn on_snapshot(&mut self, member: u64, index: u64, digest: u64) -> Result<(), Violation> {
        let known = *self.states.entry(index).or_insert(digest);
        if known == digest {
            return Ok(());
        }
        let what = format!("member {member} has another state than others at index {index}");
        Err(violated("state machine safety", what))
    }

    /// Index and term of the last committed entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.committed.last_key_value().map(|(index, fact)| (*index, fact.term))
    }

    pub fn count(&self) -> u64 {
        self.committed.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::entry;
    use super::*;

    #[test]
    fn another_entry_at_a_committed_index_is_a_violation() {
        let mut safety = StateMachineSafety::default();
        safety.on_commit(1, &entry(2, 1, "a")).unwrap();
        safety.on_commit(2, &entry(2, 1, "a")).unwrap();
        safety.on_commit(3, &entry(2, 1, "b")).unwrap_err();
        safety.on_commit(3, &entry(2, 2, "a")).unwrap_err();
        assert_eq!((safety.last(), safety.count()), (Some((2, 1)), 1));
    }

    #[test]
    fn another_state_at_an_index_is_a_violation() {
        let mut safety = StateMachineSafety::default();
        safety.on_snapshot(1, 5, 7).unwrap();
        safety.on_snapshot(2, 6, 8).unwrap();
        safety.on_snapshot(2, 5, 8).unwrap_err();
    }
}
