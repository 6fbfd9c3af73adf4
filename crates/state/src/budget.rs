//! What one command or one log entry may cost, charged before the work is done (docs/reference/limits.md).
//!
//! A record that is looked up or visited is one element; its key and value, and what is put into an answer or into the
//! state, are bytes. An entry's limits are part of the log format: members that disagreed about them would end with
//! different states. A read's limits belong to the node that answers it.

use std::cell::Cell;

use helios_proto::v1::ErrorCode;

use super::engines::EngineError;
use helios_proto::Error;

/// The first version of an entry's limits. An entry of format 5 and later names its version; one without was
/// proposed by a build that had none.
pub const ENTRY_BUDGET: u32 = 1;
pub const MAX_ENTRY_ELEMENTS: u64 = 1 << 20;
pub const MAX_ENTRY_BYTES: u64 = 128 << 20;
/// Defaults of `reads.max_elements` and `reads.max_bytes`.
pub const MAX_READ_ELEMENTS: u64 = 2 << 20;
pub const MAX_READ_BYTES: u64 = 256 << 20;
/// What a read may cost on the thread of its connection. One that costs more starts again on a thread for long reads.
const SHORT_READ: Limits = Limits { elements: 1_024, bytes: 256 << 10, scope: Scope::Read };
/// What an item of an answer takes beside its own bytes: the reply, and the frame that it becomes.
pub(super) const ITEM_BYTES: u64 = 96;
/// What a written record takes beside its own bytes: in the overlay, in the history of changes, and in the checkpoint.
pub(super) const RECORD_BYTES: u64 = 256;

/// Whose limits they are, for the error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Entry,
    Read,
    /// The answers of a transaction.
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

    /// Of an entry that names `version`; `None` if this build does not know it.
    pub fn of_entry(version: u32) -> Option<Self> {
        match version {
            0 => Some(Self { elements: u64::MAX, bytes: u64::MAX, scope: Scope::Entry }),
            ENTRY_BUDGET => {
                Some(Self { elements: MAX_ENTRY_ELEMENTS, bytes: MAX_ENTRY_BYTES, scope: Scope::Entry })
            }
            _ => None,
        }
    }
}

/// What was charged so far, and how far it may go.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    limits: Limits,
    elements: Cell<u64>,
    bytes: Cell<u64>,
    /// Of a charge that its caller could not refuse.
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

    /// Charges what is bounded otherwise already, such as a write of what was read: if it does not fit, the next charge
    /// and [`Budget::settle`] fail.
    pub fn charge_later(&self, elements: u64, bytes: u64) {
        if let Err(over) = self.charge(elements, bytes) {
            self.overdrawn.set(Some(over));
        }
    }

    /// Refuses if any charge so far did not fit.
    pub fn settle(&self) -> Result<(), OverBudget> {
        self.overdrawn.get().map_or(Ok(()), Err)
    }
}

/// Of an answer that is gathered from several looks at the state: of a transaction, whose commands have budgets of their
/// own, or of a walk over the keys.
#[derive(Debug)]
pub struct AnswerBudget(Budget);

impl AnswerBudget {
    /// `limits`: of a read.
    pub fn of_transaction(limits: Limits) -> Self {
        Self(Budget::new(Limits { scope: Scope::Answers, ..limits }))
    }

    pub fn of_read(limits: Limits) -> Self {
        Self(Budget::new(limits))
    }

    /// Charges what is kept from now on: so many replies, and their bytes.
    ///
    /// # Errors
    /// When it does not fit, or an earlier one did not: the answer is to be dropped.
    pub fn charge(&mut self, parts: usize, bytes: usize) -> Result<(), Error> {
        self.0.charge_later(parts as u64, bytes as u64);
        self.check()
    }

    /// # Errors
    /// When an answer did not fit: nothing more is to be executed for it.
    pub fn check(&mut self) -> Result<(), Error> {
        Ok(self.0.settle()?)
    }
}

/// A charge that did not fit.
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
    /// What a read may cost on the thread of its connection.
    pub fn short(&self) -> Self {
        let Self { elements, bytes, .. } = SHORT_READ;
        Self { elements: elements.min(self.elements), bytes: bytes.min(self.bytes), scope: self.scope }
    }

    fn amount(&self, is_elements: bool) -> String {
        if is_elements { format!("{} elements", self.elements) } else { format!("{} bytes", self.bytes) }
    }
}

/// Why a transaction could not look at the state.
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
