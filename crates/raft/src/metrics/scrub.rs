//! The scrub's progress and findings, written by its thread and read by status and metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Scrub(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    passes: u64,
    completed_at: Option<Instant>,
    running: Option<Progress>,
    damaged_files: Vec<String>,
}

/// Bytes of the files that a pass has handled, and of all its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Bytes that were read since the process started.
    pub bytes: u64,
    /// Passes that were completed since the process started.
    pub passes: u64,
    /// Time since the end of the last complete pass; `None` before the first one.
    pub since_complete: Option<Duration>,
    /// Progress of the pass that is running.
    pub running: Option<Progress>,
    /// Names of the files that are damaged or cannot be read, and still part of the state.
    pub damaged_files: Vec<String>,
}

impl Scrub {
    pub fn begin(&self, total_bytes: u64) {
        self.lock().running = Some(Progress { done_bytes: 0, total_bytes });
    }

    /// Counts bytes that were read.
    pub fn read(&self, bytes: u64) {
        self.lock().bytes += bytes;
    }

    /// Counts a file of the pass that was checked or skipped.
    pub fn handled(&self, file_bytes: u64) {
        if let Some(progress) = &mut self.lock().running {
            progress.done_bytes += file_bytes;
        }
    }

    pub fn complete(&self, now: Instant) {
        let mut state = self.lock();
        state.running = None;
        state.passes += 1;
        state.completed_at = Some(now);
    }

    pub fn set_damaged(&self, files: Vec<String>) {
        self.lock().damaged_files = files;
    }

    pub fn report(&self) -> ScrubReport {
        let state = self.lock();
        ScrubReport {
            bytes: state.bytes,
            passes: state.passes,
            since_complete: state.completed_at.map(|at| at.elapsed()),
            running: state.running,
            damaged_files: state.damaged_files.clone(),
        }
    }

    // A panic in a critical section leaves the state consistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
