//! Work on the state of a restore beside its replay: the digest of the base, checkpoints, merges. On threads, or in the calls of
//! the restore.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use helios_state::{Applied, StateError, Store};

use crate::background::lower_priority;
use crate::merger::Merger;
use crate::metrics::Metrics;

/// The replay waits for a checkpoint when the overlay has this many times the size that makes one due.
const MAX_OVERLAYS: usize = 2;
/// Nice value of the thread that computes the digest: the replay goes first.
const NICE: i32 = 10;

pub struct Upkeep {
    store: Store,
    /// Size of the overlay that makes a checkpoint due, bytes.
    overlay: usize,
    work: Work,
}

enum Work {
    /// The order of all operations depends on nothing but the calls, for the simulator.
    InCalls {
        base_digest: u64,
    },
    OnThreads(Threads),
}

struct Threads {
    /// `None`: no further checkpoint is wanted.
    due: Option<Sender<()>>,
    written: Receiver<Result<Applied, StateError>>,
    /// Disconnected to end the merges.
    merges: Option<Sender<()>>,
    is_cancelled: Arc<AtomicBool>,
    digest: Option<JoinHandle<Result<Option<u64>, StateError>>>,
    checkpointer: Option<JoinHandle<Result<(), String>>>,
    merger: Option<JoinHandle<Result<(), String>>>,
}

impl Upkeep {
    /// Begins with the state of a base, before an entry is applied to it.
    pub fn begin(
        store: &Store,
        overlay: usize,
        metrics: &Arc<Metrics>,
        threads: bool,
    ) -> Result<Self, Error> {
        let work = match threads {
            true => Work::OnThreads(Threads::start(store, metrics)?),
            false => Work::InCalls { base_digest: store.state_digest()? },
        };
        Ok(Self { store: store.clone(), overlay, work })
    }

    /// Called after entries were applied: makes a checkpoint due if the overlay is large, and waits for one if it is too
    /// large. Returns the position of the last checkpoint if one was written since the last call.
    pub fn applied(&mut self) -> Result<Option<Applied>, Error> {
        match &mut self.work {
            Work::InCalls { .. } if self.store.overlay_bytes() < self.overlay => Ok(None),
            Work::InCalls { .. } => {
                let applied = self.store.checkpoint()?;
                while self.store.merge_runs(false, |_| ControlFlow::Continue(()))? {}
                Ok(Some(applied))
            }
            Work::OnThreads(threads) => threads.applied(&self.store, self.overlay),
        }
    }

    /// Ends all work when it is complete; returns the digest of the base.
    pub fn finish(self) -> Result<u64, Error> {
        match self.work {
            Work::InCalls { base_digest } => Ok(base_digest),
            Work::OnThreads(threads) => threads.finish(),
        }
    }
}

impl Threads {
    fn start(store: &Store, metrics: &Arc<Metrics>) -> Result<Self, Error> {
        let records = store.checkpoint_records()?;
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_cancelled);
        let digest = move || {
            lower_priority(NICE);
            let started = Instant::now();
            let digest = records.digest(|| ends.load(Ordering::Relaxed));
            if matches!(digest, Ok(Some(_))) {
                let took_ms = millis(started);
                tracing::info!(took_ms, "the digest of the base of the restore is computed");
            }
            digest
        };
        let (due, wanted) = crossbeam_channel::bounded(1);
        let (written, received) = crossbeam_channel::bounded(1);
        let state = store.clone();
        let checkpoints = move || {
            while wanted.recv() == Ok(()) {
                let started = Instant::now();
                let outcome = state.checkpoint();
                let (is_ok, took_ms) = (outcome.is_ok(), millis(started));
                tracing::debug!(is_ok, took_ms, "checkpoint of the restore");
                if written.send(outcome).is_err() || !is_ok {
                    break;
                }
            }
            Ok(())
        };
        let (merges, end) = crossbeam_channel::bounded(0);
        let merger = Merger { store: store.clone(), metrics: Arc::clone(metrics), end };
        // Dropped after an error below, which ends the threads that run.
        let mut threads = Self {
            due: Some(due),
            written: received,
            merges: Some(merges),
            is_cancelled,
            digest: None,
            checkpointer: None,
            merger: None,
        };
        threads.digest = Some(spawn("restore-digest", digest)?);
        threads.checkpointer = Some(spawn("restore-state", checkpoints)?);
        threads.merger = Some(spawn("restore-merge", || merger.run())?);
        Ok(threads)
    }

    fn applied(&mut self, store: &Store, overlay: usize) -> Result<Option<Applied>, Error> {
        let mut last = None;
        loop {
            for written in self.written.try_iter() {
                last = Some(written?);
            }
            let bytes = store.overlay_bytes();
            if let Some(due) = self.due.as_ref().filter(|_| bytes >= overlay) {
                // If it is full, a checkpoint that is not begun yet writes these entries too.
                _ = due.try_send(());
            }
            if bytes < MAX_OVERLAYS * overlay {
                return Ok(last);
            }
            let written = self.written.recv();
            last = Some(written.map_err(|_| ended("the thread of the checkpoints has ended"))??);
        }
    }

    fn finish(mut self) -> Result<u64, Error> {
        self.due = None;
        for written in self.written.iter() {
            written?;
        }
        self.merges = None;
        for thread in [self.checkpointer.take(), self.merger.take()].into_iter().flatten() {
            joined(thread)?.map_err(|reason| Error::new(ErrorCode::StorageUnavailable, reason))?;
        }
        let digest = self.digest.take().ok_or_else(|| ended("the digest of the base was taken before"))?;
        joined(digest)??.ok_or_else(|| ended("the digest of the base was not computed"))
    }
}

impl Drop for Threads {
    /// Ends the threads: a restore that is abandoned removes the state.
    fn drop(&mut self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        (self.due, self.merges) = (None, None);
        // The thread of the checkpoints may wait for room in this channel.
        self.written.iter().for_each(drop);
        if let Some(digest) = self.digest.take() {
            drop(digest.join());
        }
        for thread in [self.checkpointer.take(), self.merger.take()].into_iter().flatten() {
            drop(thread.join());
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| Error::new(ErrorCode::Overloaded, format!("no thread for a restore: {error}")))
}

fn joined<T>(thread: JoinHandle<T>) -> Result<T, Error> {
    thread.join().map_err(|_| ended("a thread of the restore has panicked, see the log"))
}

fn ended(message: &str) -> Error {
    Error::new(ErrorCode::Internal, message)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use helios_proto::v1::command::Op;
    use helios_proto::v1::{Command, Set};
    use helios_state::{EngineKind, StoreOptions};
    use helios_storage::disk::SimDisk;
    use prometheus_client::registry::Registry;

    use super::*;

    const OVERLAY: usize = 4_000;

    /// A store whose last checkpoint is at entry 50.
    fn store(disk: &SimDisk, engine: EngineKind) -> Store {
        let options = StoreOptions { engine, seed: 1, ..StoreOptions::default() };
        let store = Store::open_with(Arc::new(disk.clone()), Path::new("/state"), options).unwrap();
        (1..=50).for_each(|index| apply(&store, index));
        store.checkpoint().unwrap();
        store
    }

    fn apply(store: &Store, index: u64) {
        let key = format!("key {}", index % 70);
        let set = Set { key: key.into(), value: vec![index as u8; 100].into(), ..Set::default() };
        store.apply(index, 1, &Command { op: Some(Op::Set(set)), ..Command::default() });
    }

    fn begin(store: &Store, threads: bool) -> Upkeep {
        Upkeep::begin(store, OVERLAY, &Metrics::new(&mut Registry::default()), threads).unwrap()
    }

    #[test]
    fn overlay_is_bounded_while_entries_are_applied_and_the_digest_is_that_of_the_base() {
        for engine in [EngineKind::Runs, EngineKind::Simulated] {
            for threads in [false, true] {
                let store = store(&SimDisk::new(1), engine);
                let digest = store.state_digest().unwrap();
                let mut upkeep = begin(&store, threads);
                let mut written = 50;
                for index in 51..=1_000 {
                    apply(&store, index);
                    let applied = upkeep.applied().unwrap();
                    assert!(applied.is_none_or(|applied| (written..=index).contains(&applied.index)));
                    written = applied.map_or(written, |applied| applied.index);
                    assert!(store.overlay_bytes() < MAX_OVERLAYS * OVERLAY, "{engine:?}");
                }
                assert!(written > 900, "{engine:?}: the last checkpoint is at {written}");
                assert_eq!(upkeep.finish().unwrap(), digest, "{engine:?}");
                assert_ne!(store.state_digest().unwrap(), digest, "{engine:?}");
            }
        }
    }

    #[test]
    fn failed_checkpoint_ends_the_restore_and_its_threads() {
        for threads in [false, true] {
            let disk = SimDisk::new(1);
            let store = store(&disk, EngineKind::Runs);
            let mut upkeep = begin(&store, threads);
            disk.set_free_bytes(Some(0));
            let failed = (51..=1_000).find_map(|index| {
                apply(&store, index);
                upkeep.applied().err()
            });
            assert!(failed.is_some(), "no checkpoint has failed");
            drop(upkeep);
        }
    }
}
