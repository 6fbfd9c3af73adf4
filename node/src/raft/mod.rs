//! Consensus: the raft crate behind one narrow type ([`core::Core`]), the thread that drives it and
//! the threads that do its work. The layout and its reasons are in ARCHITECTURE.md.

mod acks;
pub(crate) mod change;
pub(crate) mod core;
mod driver;
mod force_new;
pub mod format;
mod handle;
mod log;
pub(crate) mod log_writer;
pub mod membership;
mod proposals;
mod reads;
mod recovery;
mod runtime;
mod snapshots;
pub(crate) mod suspects;
mod transfer;
pub(crate) mod types;
pub(crate) mod unappliable;
pub(crate) mod workers;

pub use acks::Durable;
#[cfg(test)]
pub(crate) use core::{LONGEST_WAIT, MAX_APPLYING_BYTES, MAX_UNCOMMITTED_BYTES};
pub use core::{MAX_HELD_BYTES, Settings, TICK, longest_lease};
pub use driver::Outbound;
pub use force_new::{LastEntry, Verdict};
#[cfg(test)]
pub(crate) use handle::MAX_WAITING_BYTES;
pub use handle::RaftHandle;
pub use recovery::{Fit, Recovery, RecoveryError, bootstrap, fit, recover};
pub use runtime::{Fatal, Parts, Runtime, start};
pub use snapshots::{Incoming, Newest, Prefix, SnapshotId, Snapshots};
pub use suspects::Suspects;
pub use types::{Cause, ChangeRequest, Election, Expected, RaftStatus, Role};
pub use unappliable::Unappliable;
