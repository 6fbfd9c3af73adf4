//! The merge thread: merges the files of the state engine in the background, at low priority.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use helios_state::Store;

/// Pause between two looks for a merge that is due.
const POLL: Duration = Duration::from_millis(200);
/// Time without writes after which merges that only save disk space are done.
const IDLE: Duration = Duration::from_secs(30);
/// Pause after a merge that found the disk full.
const FULL_PAUSE: Duration = Duration::from_secs(5);
/// Limit of the bytes that are read for merges in a second, so that they leave the disk to the log.
const BYTES_PER_SECOND: u64 = 96 << 20;
/// Bytes after which the limit is checked.
const PACE_BYTES: u64 = 1 << 20;
/// Nice value of the thread: requests go first.
const NICE: i32 = 10;

pub struct Merger {
    pub store: Store,
    /// Disconnected when the member stops.
    pub end: Receiver<()>,
}

impl Merger {
    pub fn run(self) -> Result<(), String> {
        lower_priority();
        let mut last_write = (self.store.applied().index, Instant::now());
        let mut pause = POLL;
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
            pause = match self.store.merge_runs(is_idle, self.pace()) {
                Ok(true) => Duration::ZERO,
                Ok(false) => POLL,
                Err(error) if error.is_disk_full() => FULL_PAUSE,
                Err(error) => return Err(format!("merging runs: {error}")),
            };
        }
    }

    /// Returns a limit of the rate of one merge, which ends it when the member stops.
    fn pace(&self) -> impl FnMut(u64) -> ControlFlow<()> {
        let (mut bytes, mut since) = (0, Instant::now());
        move |read| {
            bytes += read;
            if bytes < PACE_BYTES {
                return ControlFlow::Continue(());
            }
            let allowed = Duration::from_nanos(1_000_000_000 / (BYTES_PER_SECOND / PACE_BYTES));
            let early = allowed.saturating_sub(since.elapsed());
            if !early.is_zero() {
                std::thread::sleep(early);
            }
            (bytes, since) = (0, Instant::now());
            match self.end.try_recv() {
                Err(TryRecvError::Disconnected) => ControlFlow::Break(()),
                Ok(()) | Err(TryRecvError::Empty) => ControlFlow::Continue(()),
            }
        }
    }
}

fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "cannot lower the priority of the merge thread");
    }
}
