//! The check of a history, with one search per key, and its verdict.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{History, Operation};
use crate::model::KeyHistory;
use crate::search::{Found, Stuck, search};

/// Maximum number of placements that [`check`] tries for one key: some seconds, and memory for as many small
/// sets.
pub const MAX_STEPS: u64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The history is linearizable: each key has an order that explains all answers.
    Legal,
    /// The history is not linearizable: one key has no such order.
    Illegal(Violation),
    /// The search for `key` reached the limit of steps. No key is known to be illegal.
    Unknown { key: String, max_steps: u64 },
}

/// The longest order that was found, and the operations that do not fit after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub key: String,
    /// Number of answered operations in that order.
    pub placed: usize,
    /// Number of all answered operations.
    pub answered: usize,
    /// Last operations of that order.
    pub last: Vec<Operation>,
    /// Value of the key after that order, as text.
    pub holds: String,
    /// Candidates for the next operation, none of which fits; by the time of their return.
    pub unplaced: Vec<Operation>,
}

impl Verdict {
    pub fn is_legal(&self) -> bool {
        matches!(self, Self::Legal)
    }
}

/// Checks whether the operations on each key have an order that explains every answer.
pub fn check(history: &History) -> Verdict {
    check_within(history, MAX_STEPS)
}

/// Like [`check`], with another limit of the placements tried for one key.
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
                write!(f, "unknown: {max_steps} steps were not enough for key {key:?}; allow more")
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, placed, answered, last, holds, unplaced } = self;
        writeln!(f, "no order of the operations on key {key:?} explains the answers")?;
        writeln!(f, "  {placed} of {answered} operations fit into an order, which ends with:")?;
        for operation in last {
            writeln!(f, "    {operation}")?;
        }
        writeln!(f, "  then its value is {holds}, and none of the possible next operations fits:")?;
        for operation in unplaced {
            writeln!(f, "    {operation}")?;
        }
        Ok(())
    }
}
