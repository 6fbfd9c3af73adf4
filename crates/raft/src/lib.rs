//! Consensus: raft-rs (the crate `raft`) behind one narrow type (`core::Core`), the thread that drives it, and
//! its worker threads. The layout and its reasons are in ARCHITECTURE.md.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests use the real clock and disk"))]

mod acks;
#[allow(clippy::disallowed_methods, reason = "limits rates by the clock")]
mod background;
mod change;
mod core;
#[allow(clippy::disallowed_methods, reason = "reads the clock for the core")]
mod driver;
mod faults;
mod force_new_cluster;
pub mod format;
mod handle;
pub mod handshake;
mod log;
mod log_reader;
#[allow(clippy::disallowed_methods, reason = "measures the disk and waits for room")]
mod log_writer;
pub mod membership;
#[allow(clippy::disallowed_methods, reason = "looks for merges at intervals")]
mod merger;
pub mod metrics;
mod recovery;
pub mod restore;
#[allow(clippy::disallowed_methods, reason = "starts the threads; draws the boot nonce")]
mod runtime;
#[allow(clippy::disallowed_methods, reason = "begins passes at intervals")]
mod scrubber;
#[cfg(feature = "simulation")]
pub mod simulation;
mod snapshots;
pub mod suspects;
pub mod trace;
mod types;
mod unappliable;
#[allow(clippy::disallowed_methods, reason = "measures durations, and checkpoints at intervals")]
mod workers;

pub use acks::Durable;
pub use background::lower_priority;
pub use core::{HOLD_TIME, MAX_HOLDERS};
pub use core::{LOG_CACHE_BYTES, Settings, TICK, longest_lease};
pub use core::{LONGEST_WAIT, MAX_APPLYING_BYTES, MAX_UNCOMMITTED_BYTES};
pub use driver::Outbound;
pub use force_new_cluster::{LastEntry, Verdict};
pub use handle::MAX_WAITING_BYTES;
pub use handle::RaftHandle;
pub use recovery::{Fit, Gap, Recovery, RecoveryError, bootstrap, find_gap, fit, recover};
pub use runtime::{Fatal, Parts, Runtime, start};
pub use snapshots::{Incoming, Newest, Outgoing, Pinned, Prefix, SnapshotId, Snapshots};
pub use suspects::Suspects;
pub use types::{Cause, ChangeRequest, Election, Expected, RaftStatus, Role};
pub use unappliable::Unappliable;
