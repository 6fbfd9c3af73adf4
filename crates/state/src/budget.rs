//! The budget of a command or a log entry: limits of elements and bytes, charged before the work
//! (docs/reference/limits.md).
//!
//! A record that is looked up or visited counts as one element; its key and value, and everything added to an
//! answer or to the state, count as bytes. The limits of an entry are part of the log format: members with
//! different limits would diverge. The limits of a read are those of the node that answers it.

use std::cell::Cell;

use helios_proto::v1::ErrorCode;

use super::engines::EngineError;
use helios_proto::Error;

/// The first version of an entry's limits. An entry of log format 5 and later names its version; an entry
/// without one was proposed by a build without limits.
pub const FIRST_BUDGET: u32 = 1;
/// The version with the same limits under which commands visit the fewest records that they can. Log format 7.
pub const FEWEST_VISITS: u32 = 2;
/// The version with the same limits under which strings of more than [`super::chunks::PLAIN_BYTES`] are written in chunks. Log
/// format 8.
pub const CHUNKS: u32 = 3;
/// The version of this build.
pub const ENTRY_BUDGET: u32 = CHUNKS;
pub const MAX_ENTRY_ELEMENTS: u64 = 1 << 20;
pub const MAX_ENTRY_BYTES: u64 = 128 << 20;
/// Default of `reads.max_elements`.
pub const MAX_READ_ELEMENTS: u64 = 2 << 20;
/// Default of `reads.max_bytes`.
pub const MAX_READ_BYTES: u64 = 256 << 20;
/// Limits of a read on its connection's thread. A read that exceeds them is restarted on a thread for long
/// reads.
const SHORT_READ: Limits = Limits { elements: 1_024, bytes: 256 << 10, scope: Scope::Read };
/// Overhead in bytes of an item of an answer: the reply, and the frame that it is encoded as.
pub(super) const ITEM_BYTES: u64 = 96;
/// Overhead in bytes of a written record: in the overlay, in the history of changes, and in the checkpoint.
pub(super) const RECORD_BYTES: u64 = 256;

/// The operation that the limits apply to; selects the error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Entry,
    Read,
    /// All answers of a transaction together.
    Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub elements: u64,
    pub bytes: u64,
    pub scope: Scope,
}

impl Limits {
    pub const DEFAULT_READ: Self =
        Self { elements: MAX_READ_ELEMENTS, bytes: MAX_READ_BYTES, scope: Scope::Read };

    /// Returns the limits of an entry that names `version`; `None` if this build does not know the version.
    pub fn of_entry(version: u32) -> Option<Self> {
        match version {
            0 => Some(Self { elements: u64::MAX, bytes: u64::MAX, scope: Scope::Entry }),
            FIRST_BUDGET..=ENTRY_BUDGET => {
                Some(Self { elements: MAX_ENTRY_ELEMENTS, bytes: MAX_ENTRY_BYTES, scope: Scope::Entry })
            }
            _ => None,
        }
    }
}

/// The charges so far, and their limits.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    limits: Limits,
    elements: Cell<u64>,
    bytes: Cell<u64>,
    /// The first charge over the limits that was made by [`Budget::charge_later`].
    overdrawn: Cell<Option<OverBudget>>,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, elements: Cell::new(0), bytes: Cell::new(0), overdrawn: Cell::new(None) }
    }

    /// Charges `elements` and `bytes` before they are visited, read or produced.
    pub fn charge(&self, elements: u64, bytes: u64) -> Result<(), OverBudget> {
        self.settle()?;
        let elements = self.elements.get().saturating_add(elements);
        let bytes = self.bytes.get().saturating_add(bytes);
        if elements > self.limits.elements || bytes > self.limits.bytes {
            return Err(OverBudget(self.limits, elements > self.limits.elements));
        }
        self.elements.set(elements);
        self.bytes.set(bytes);
        Ok(())
    }

    /// Returns the elements charged so far.
    #[cfg(test)]
    pub fn elements(&self) -> u64 {
        self.elements.get()
    }

    /// Charges work that has another bound, such as the write of a value that was read. If the charge exceeds
    /// the limits, the next charge and [`Budget::settle`] fail.
    pub fn charge_later(&self, elements: u64, bytes: u64) {
        if let Err(over) = self.charge(elements, bytes) {
            self.overdrawn.set(Some(over));
        }
    }

    /// Fails if any charge so far exceeded the limits.
    pub fn settle(&self) -> Result<(), OverBudget> {
        self.overdrawn.get().map_or(Ok(()), Err)
    }
}

/// The budget of an answer that is assembled from several reads of the state: of a transaction, whose
/// commands have separate budgets, or of an iteration over the keys.
#[derive(Debug)]
pub struct AnswerBudget(Budget);

impl AnswerBudget {
    /// Creates the budget of a transaction's answers from the `limits` of a read.
    pub fn of_transaction(limits: Limits) -> Self {
        Self(Budget::new(Limits { scope: Scope::Answers, ..limits }))
    }

    pub fn of_read(limits: Limits) -> Self {
        Self(Budget::new(limits))
    }

    /// Charges `parts` replies of `bytes` in total, which the answer keeps.
    ///
    /// # Errors
    /// When this or an earlier charge exceeds the limits: the answer must be dropped.
    pub fn charge(&mut self, parts: usize, bytes: usize) -> Result<(), Error> {
        self.0.charge_later(parts as u64, bytes as u64);
        self.check()
    }

    /// # Errors
    /// When a charge exceeded the limits: no further command is executed for this answer.
    pub fn check(&mut self) -> Result<(), Error> {
        Ok(self.0.settle()?)
    }
}

/// A charge over the limits; the flag says whether the elements exceed them, else the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverBudget(Limits, bool);

impl From<OverBudget> for Error {
    fn from(OverBudget(limits, is_elements): OverBudget) -> Self {
        let amount = limits.amount(is_elements);
        let setting = if is_elements { "reads.max_elements" } else { "reads.max_bytes" };
        let message = match limits.scope {
            Scope::Entry => format!(
                "a write, with all that it reads and answers, may cost {amount} (fixed by the log format): split it \
                 into smaller ones; nothing was changed"
            ),
            Scope::Read => format!(
                "a read may cost {amount} on this node ({setting}): ask for a part, or use SCAN, HSCAN, SSCAN or ZSCAN"
            ),
            Scope::Answers => format!(
                "the answers of a transaction may cost {amount} on this node ({setting}): make several of it; what it \
                 wrote stands, and this answer and those after it are left out"
            ),
        };
        Self::new(ErrorCode::BudgetExceeded, message)
    }
}

impl Limits {
    /// Returns these limits, reduced to those of a read on its connection's thread.
    pub fn short(&self) -> Self {
        let Self { elements, bytes, .. } = SHORT_READ;
        Self { elements: elements.min(self.elements), bytes: bytes.min(self.bytes), scope: self.scope }
    }

    fn amount(&self, is_elements: bool) -> String {
        if is_elements { format!("{} elements", self.elements) } else { format!("{} bytes", self.bytes) }
    }
}

/// The reason why a transaction could not read the state.
#[derive(Debug)]
pub(super) enum Halt {
    Engine(EngineError),
    OverBudget(OverBudget),
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<OverBudget> for Halt {
    fn from(error: OverBudget) -> Self {
        Self::OverBudget(error)
    }
}
