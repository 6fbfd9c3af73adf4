//! The merge thread: merges the files of the state engine in the background, at low priority.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use helios_state::Store;

use crate::background::{Throttle, lower_priority};
use crate::metrics::Metrics;

/// Pause between two looks for a merge that is due.
const POLL: Duration = Duration::from_millis(200);
/// Time without writes after which merges that only save disk space are done.
const IDLE: Duration = Duration::from_secs(30);
/// Pause after a merge that found the disk full.
const FULL_PAUSE: Duration = Duration::from_secs(5);
/// Limit of the bytes that are read for merges in a second, so that they leave the disk to the log.
const BYTES_PER_SECOND: u64 = 96 << 20;
/// Nice value of the thread: requests go first.
const NICE: i32 = 10;

pub struct Merger {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    /// Disconnected when the member stops.
    pub end: Receiver<()>,
}

impl Merger {
    pub fn run(self) -> Result<(), String> {
        lower_priority(NICE);
        let mut last_write = (self.store.applied().index, Instant::now());
        let mut pause = POLL;
        let mut throttle = Throttle::new(BYTES_PER_SECOND, &self.end);
        loop {
            match self.end.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) | Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let applied = self.store.applied().index;
            if applied != last_write.0 {
                last_write = (applied, Instant::now());
            }
            let is_idle = last_write.1.elapsed() >= IDLE;
            let mut bytes = 0;
            let merged = self.store.merge_runs(is_idle, |read| {
                bytes += read;
                throttle.charge(read)
            });
            self.metrics.engine_merged_bytes.inc_by(bytes);
            pause = match merged {
                Ok(true) => {
                    self.metrics.engine_merges.inc();
                    Duration::ZERO
                }
                Ok(false) => POLL,
                Err(error) if error.is_disk_full() => FULL_PAUSE,
                Err(error) => return Err(format!("merging runs: {error}")),
            };
        }
    }
}
