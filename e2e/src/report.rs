//! The report of the load generator: the only contract between it and the stories.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Exit code of the load generator when an acknowledged write is lost, or answers contradict each other.
pub const EXIT_LOST: u8 = 3;

/// Writes in a span of time, by all workers together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub acknowledged: u64,
    /// Number of acknowledged writes that took more than one attempt.
    pub retried: u64,
    /// Number of writes not acknowledged in the time for which they are retried; the server may or may not
    /// have them.
    pub failed: u64,
    /// Longest time without an acknowledged write, including the gap that is still open, in milliseconds.
    pub longest_gap_ms: f64,
    /// Start of that gap.
    pub longest_gap_at: Option<Timestamp>,
    /// Time from a write's first attempt to its acknowledgement; the fields are in milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Errors of failed attempts, with their number; the number of texts is bounded.
    pub errors: BTreeMap<String, u64>,
}

/// Report of a load generator's whole run, with the result of reading everything back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub window: Window,
    /// Number of acknowledged writes that are missing.
    pub missing: u64,
    /// Number of acknowledged writes with another value.
    pub wrong: u64,
    /// Number of acknowledged writes that could not be read back, so their state is unknown.
    pub unread: u64,
    /// Some of the keys that are missing, wrong or unread.
    pub examples: Vec<String>,
    pub witnessed: Witnessed,
}

/// Result of the witness clients, which read and write the same few keys beside the load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witnessed {
    pub operations: u64,
    /// Number of operations whose outcome is unknown.
    pub unknown: u64,
    /// Reason why the history is not linearizable, or that the check took too long.
    pub objection: Option<String>,
}

impl Report {
    /// Whether every acknowledged write was read back as written, and the history is linearizable.
    pub fn is_intact(&self) -> bool {
        self.missing + self.wrong + self.unread == 0 && self.witnessed.objection.is_none()
    }
}
