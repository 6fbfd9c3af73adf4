//! One search for each key, and the answer for people.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{History, Operation};
use crate::model::KeyHistory;
use crate::search::{Found, Stuck, search};

/// How many placements [`check`] tries for one key: some seconds, and memory for as many small sets.
pub const MAX_STEPS: u64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// For each key there is an order that explains all answers.
    Legal,
    /// For the key named there is none.
    Illegal(Violation),
    /// The steps were used up on `key` before either was certain. No key is known to be illegal.
    Unknown { key: String, max_steps: u64 },
}

/// The longest order found, and what does not fit behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub key: String,
    /// How many answered operations have a place in that order, and of how many.
    pub placed: usize,
    pub answered: usize,
    /// The end of that order.
    pub last: Vec<Operation>,
    /// Value of the key then, in words.
    pub holds: String,
    /// One of these had to come next; the first was the first to be answered.
    pub unplaced: Vec<Operation>,
}

impl Verdict {
    pub fn is_legal(&self) -> bool {
        matches!(self, Self::Legal)
    }
}

/// Is there an order of the operations on each key that explains every answer?
pub fn check(history: &History) -> Verdict {
    check_within(history, MAX_STEPS)
}

/// As [`check`], with a limit of one's own on the placements tried for one key.
pub fn check_within(history: &History, max_steps: u64) -> Verdict {
    let mut keys: BTreeMap<&str, KeyHistory> = BTreeMap::new();
    for (source, operation) in history.operations().iter().enumerate() {
        keys.entry(&operation.key).or_default().add(source, operation);
    }
    let mut verdict = Verdict::Legal;
    for (key, mut operations) in keys {
        operations.prepare();
        match search(&operations, max_steps) {
            Found::Order => {}
            Found::Nothing(stuck) => return Verdict::Illegal(violation(history, key, &operations, &stuck)),
            Found::Unknown(_) => verdict = Verdict::Unknown { key: key.to_owned(), max_steps },
        }
    }
    verdict
}

fn violation(history: &History, key: &str, operations: &KeyHistory, stuck: &Stuck) -> Violation {
    let named = |sources: &[usize]| sources.iter().map(|&at| history.operations()[at].clone()).collect();
    Violation {
        key: key.to_owned(),
        placed: stuck.placed,
        answered: operations.definite.len(),
        last: named(&stuck.last),
        holds: operations.show(stuck.state),
        unplaced: named(&stuck.next),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legal => write!(f, "legal"),
            Self::Illegal(violation) => write!(f, "illegal: {violation}"),
            Self::Unknown { key, max_steps } => {
                write!(f, "unknown: {max_steps} steps were not enough for key {key:?}; try more")
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, placed, answered, last, holds, unplaced } = self;
        writeln!(f, "no order of the operations on key {key:?} explains the answers")?;
        writeln!(f, "  {placed} of {answered} have a place, as the last of them:")?;
        for operation in last {
            writeln!(f, "    {operation}")?;
        }
        writeln!(f, "  then it holds {holds}, and next comes one of these, none of which leads on:")?;
        for operation in unplaced {
            writeln!(f, "    {operation}")?;
        }
        Ok(())
    }
}
