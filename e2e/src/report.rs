//! What the writer says of its writes: the one contract between it and the stories.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Exit code of a writer that misses a write the server had acknowledged, or saw answers that contradict each other.
pub const EXIT_LOST: u8 = 3;

/// Writes of a span of time, by all workers together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub acknowledged: u64,
    /// Of the acknowledged: those that took more than one attempt.
    pub retried: u64,
    /// Not acknowledged in the time a write is retried for; the server may or may not have them.
    pub failed: u64,
    /// Longest time without an acknowledged write, the one still running included.
    pub longest_gap_ms: f64,
    /// When that gap began.
    pub longest_gap_at: Option<Timestamp>,
    /// Time from a write's first attempt to its acknowledgement.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// What attempts that did not succeed were answered, and how many; a bounded number of texts.
    pub errors: BTreeMap<String, u64>,
}

/// A writer's whole life, and what it found when it read everything back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub window: Window,
    /// Acknowledged writes that are gone.
    pub missing: u64,
    /// Acknowledged writes in whose place there is something else.
    pub wrong: u64,
    /// Acknowledged writes that could not be read back, whatever became of them.
    pub unread: u64,
    /// Some of the keys that are missing, wrong or unread.
    pub examples: Vec<String>,
    pub witnessed: Witnessed,
}

/// What clients saw that read and wrote the same few keys beside the load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witnessed {
    pub operations: u64,
    /// Of these: no answer tells what became of them.
    pub unknown: u64,
    /// Why no single database could have answered so; or that it took too long to find out.
    pub objection: Option<String>,
}

impl Report {
    /// Whether every acknowledged write was read back as it was written, and all answers were in order.
    pub fn is_intact(&self) -> bool {
        self.missing + self.wrong + self.unread == 0 && self.witnessed.objection.is_none()
    }
}
