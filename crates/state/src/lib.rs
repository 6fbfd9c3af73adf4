//! The replicated state machine: an ordered map to which the log's entries are applied. Readers see each
//! entry completely or not at all.
//!
//! An overlay in memory holds the changes that are applied and not yet checkpointed, an engine holds the
//! rest. This crate knows nothing of Raft's messages, of clients or of clocks: time comes with the
//! entries. One thread applies, one checkpoints, and any thread reads without a lock.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests use the machine's clock and disk"))]

mod batch;
mod budget;
mod checkpoint;
mod chunks;
mod collection;
mod command;
pub mod commands;
mod dedup;
mod engines;
mod error;
mod event_filter;
mod events;
mod faults;
mod follow;
mod home;
mod inspect;
mod journal;
mod machine;
mod meta;
mod new_cluster;
mod overlay;
mod recovery;
mod replica;
mod restore;
mod scrub;
mod set_writer;
mod shared;
mod sizes;
mod snapshot;
mod snapshot_digest;
mod snapshot_set;
mod snapshot_write;
mod store;
mod transaction;
mod trial;
mod txn;
mod value;
mod view;
mod watch;
mod writes;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use budget::{AnswerBudget, CHUNKS, ENTRY_BUDGET, FEWEST_VISITS, FIRST_BUDGET, Limits};
pub use budget::{MAX_ENTRY_BYTES, MAX_ENTRY_ELEMENTS, MAX_READ_BYTES, MAX_READ_ELEMENTS};
pub use dedup::MAX_CLIENTS as MAX_REQUEST_CLIENTS;
pub use dedup::SLOTS;
pub use engines::EngineKind;
pub use error::StateError;
pub use event_filter::EventFilter;
pub use events::Event;
pub use follow::{Cursor, Effects, Pairs, Selection};
pub use helios_runs::{Checked, HEAD as SNAPSHOT_HEAD, Options as RunsOptions, RunId, Stats as EngineStats};
pub use inspect::{Inspection, inspect};
pub use machine::{Driven, LogEntry, Shared, StateMachine};
pub use replica::Replica;
pub use set_writer::SetWriter;
pub use sizes::MAX_ELEMENT_BYTES;
pub use sizes::{MAX_KEY_BYTES, check as check_sizes};
pub use snapshot::SnapshotMeta;
pub use snapshot_digest::{Records, SnapshotSummary, snapshot_digest};
pub use snapshot_set::snapshot_files;
pub use store::{BeforeChunks, Scanned, Store, StoreOptions};
pub use transaction::MAX_ANSWER_BYTES as MAX_TRANSACTION_ANSWER_BYTES;
pub use transaction::writes;
pub use trial::Trial;
pub use txn::Lookups;
pub use value::{Kind, Value};
pub use watch::{Changed, Lost, Page};

/// Position of the last applied entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    pub index: u64,
    pub term: u64,
}
