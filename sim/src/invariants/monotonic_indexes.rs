//! Monotonic state (Raft paper, figure 2): in a process the term, the commit index and the applied index only increase,
//! and nothing is applied before it is committed. `persistent_state` holds the term across restarts.

use super::violated;
use crate::Violation;

/// Term and indexes of one process at its last turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicIndexes {
    term: u64,
    commit: u64,
    applied: u64,
}

impl MonotonicIndexes {
    /// Checks and records new values; returns whether the commit index is higher than before.
    pub fn advance(&mut self, member: u64, term: u64, commit: u64, applied: u64) -> Result<bool, Violation> {
        let values =
            [("term", self.term, term), ("commit", self.commit, commit), ("applied", self.applied, applied)];
        if let Some((what, before, now)) = values.into_iter().find(|(_, before, now)| now < before) {
            let what = format!("member {member}: {what} went back from {before} to {now}");
            return Err(violated("monotonic indexes", what));
        }
        if applied > commit {
            let what = format!("member {member} has applied {applied} and committed only {commit}");
            return Err(violated("monotonic indexes", what));
        }
        let has_advanced = commit > self.commit;
        *self = Self { term, commit, applied };
        Ok(has_advanced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_that_goes_back_is_a_violation() {
        let mut indexes = MonotonicIndexes::default();
        assert!(indexes.advance(1, 2, 5, 4).unwrap());
        assert!(!indexes.advance(1, 2, 5, 5).unwrap());
        for (term, commit, applied) in [(1, 5, 5), (2, 4, 4), (2, 5, 4)] {
            indexes.advance(1, term, commit, applied).unwrap_err();
        }
        indexes.advance(1, 3, 6, 6).unwrap();
    }

    #[test]
    fn entry_that_is_applied_before_it_is_committed_is_a_violation() {
        MonotonicIndexes::default().advance(1, 1, 3, 4).unwrap_err();
    }
}
