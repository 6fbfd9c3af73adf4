//! The summary of the log's content, and the rules for the next operation. Pure. The writer checks them
//! before it writes and recovery while it reads, so both apply the same rules.

use super::format::Op;
use super::{Base, HardState};

/// Base, last index and hard state of the log. Invariant: `base.index <= hard_state.commit <= last_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    pub base: Base,
    pub last_index: u64,
    pub hard_state: Option<HardState>,
}

impl State {
    /// Applies `op`. If it is invalid here, changes nothing and returns the reason.
    pub fn apply(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Entry { index, .. } => self.append(index),
            Op::HardState(next) => self.set_hard_state(next),
            Op::Reset(base) => {
                *self = Self { base, last_index: base.index, hard_state: self.hard_state };
                self.set_commit(base.index);
                Ok(())
            }
            Op::Base(base) => self.raise_base(base),
            Op::Start(state) if state == *self => Ok(()),
            Op::Start(state) => Err(format!("the segment starts at {state:?}, the log is at {self:?}")),
        }
    }

    fn append(&mut self, index: u64) -> Result<(), String> {
        let committed = self.hard_state.map_or(self.base.index, |state| state.commit);
        if index <= committed {
            return Err(format!("entry {index} would replace one below commit index {committed}"));
        }
        if index > self.last_index.saturating_add(1) {
            return Err(format!("entry {index} leaves a gap after the last, {}", self.last_index));
        }
        self.last_index = index;
        Ok(())
    }

    fn set_hard_state(&mut self, next: HardState) -> Result<(), String> {
        if next.commit > self.last_index {
            return Err(format!("commit index {} is above the last entry, {}", next.commit, self.last_index));
        }
        if let Some(held) = self.hard_state.filter(|held| held.term > next.term) {
            return Err(format!("term {} is below the term on disk, {}", next.term, held.term));
        }
        self.hard_state = Some(HardState { commit: next.commit.max(self.base.index), ..next });
        Ok(())
    }

    fn raise_base(&mut self, base: Base) -> Result<(), String> {
        if base.index < self.base.index || base.index > self.last_index {
            return Err(format!(
                "base {} is outside the log, {} to {}",
                base.index, self.base.index, self.last_index
            ));
        }
        self.base = base;
        self.set_commit(self.hard_state.map_or(0, |state| state.commit.max(base.index)));
        Ok(())
    }

    /// Sets the commit index. Entries that a snapshot covers are committed, even if the hard state that
    /// recorded their commit was not written.
    fn set_commit(&mut self, commit: u64) {
        if let Some(state) = &mut self.hard_state {
            state.commit = commit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> State {
        State {
            base: Base { index: 10, term: 1 },
            last_index: 20,
            hard_state: Some(HardState { term: 3, vote: 0, commit: 15 }),
        }
    }

    fn entry(index: u64) -> Op<'static> {
        Op::Entry { index, term: 3, payload: b"" }
    }

    fn hard_state(term: u64, commit: u64) -> Op<'static> {
        Op::HardState(HardState { term, vote: 0, commit })
    }

    #[test]
    fn invalid_operations_are_refused_and_change_nothing() {
        let refused = [
            entry(10),
            entry(15),
            entry(22),
            hard_state(3, 21),
            hard_state(2, 15),
            Op::Base(Base { index: 9, term: 1 }),
            Op::Base(Base { index: 21, term: 1 }),
            Op::Start(State::default()),
        ];
        for op in refused {
            let mut state = log();
            assert!(state.apply(&op).is_err(), "{op:?}");
            assert_eq!(state, log(), "{op:?}");
        }
    }

    #[test]
    fn overlapping_entry_truncates_the_log() {
        let mut state = log();
        state.apply(&entry(16)).unwrap();
        assert_eq!(state.last_index, 16);
        state.apply(&entry(17)).unwrap();
        assert!(state.apply(&entry(19)).is_err());
    }

    #[test]
    fn commit_index_stays_between_base_and_last_index() {
        let commit = |state: &State| state.hard_state.unwrap().commit;
        let mut state = log();
        state.apply(&Op::Base(Base { index: 18, term: 3 })).unwrap();
        assert_eq!(commit(&state), 18);
        state.apply(&hard_state(3, 17)).unwrap();
        assert_eq!(commit(&state), 18);
        state.apply(&Op::Reset(Base { index: 5, term: 1 })).unwrap();
        assert_eq!((commit(&state), state.last_index), (5, 5));
    }
}
