//! The threads that do what the Raft thread must not: the log writer (disk), the apply thread
//! (state machine) and the checkpoint thread (state engine and snapshots).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use helios_proto::v1::{Command, ErrorCode, Reply, command::Op};
use prost::Message as _;
use prost_raft::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType};
use tokio::sync::watch;

use super::membership::{self, Change};
use super::snapshots::Snapshots;
use super::types::*;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::mutation::Mutation;
use crate::state::{SnapshotMeta, StateError, Store};
use crate::wal::{Base, Batch, HardState, LogEntry, Wal, WalError};

/// Log jobs written with one fsync.
const MAX_JOBS_PER_WRITE: usize = 256;
const MAX_BYTES_PER_WRITE: usize = 4 << 20;
/// How often applied state moves from the overlay to the engine.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Overlay size that makes a checkpoint due at once.
const CHECKPOINT_BYTES: usize = 32 << 20;
/// How often the checkpoint thread looks at the overlay's size.
const CHECKPOINT_POLL: Duration = Duration::from_millis(200);

/// Drains everything queued, writes it at once, syncs once, reports once. An error is final:
/// after a failed fsync nobody knows what the disk holds (node.md, pitfall 4).
pub fn write_log(
    mut wal: Wal,
    jobs: &Receiver<LogJob>,
    done: &Sender<Done>,
    metrics: &Metrics,
) -> Result<(), String> {
    let failed = |error: WalError| format!("write-ahead log: {error}");
    while let Ok(first) = jobs.recv() {
        let started = Instant::now();
        let work = LogWork::drain(Some(first), || jobs.try_recv().ok());
        let persisted = work.append(&mut wal).map_err(failed)?;
        if let Some(number) = persisted {
            metrics.wal_fsync_duration_seconds.observe(started.elapsed().as_secs_f64());
            if done.send(Done::Persisted(number)).is_err() {
                return Ok(());
            }
        }
        work.purge(&mut wal).map_err(failed)?;
        // A step at a time, so that the next write never waits for a whole segment of zeros.
        while jobs.is_empty() {
            match wal.prepare_spare() {
                Ok(more) if more => {}
                Ok(_) => break,
                Err(error @ WalError::NoSpare { .. }) => {
                    tracing::warn!(%error, "the disk is filling up");
                    break;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(())
}

/// What the log writer does in one turn: one append with one fsync, then a purge.
#[derive(Default)]
pub struct LogWork {
    pub batches: Vec<Batch>,
    /// Number of the last append among them.
    last: Option<u64>,
    purge: Option<Base>,
}

impl LogWork {
    /// Takes jobs, `first` and then what `next` has, up to what one write should hold.
    pub fn drain(mut first: Option<LogJob>, mut next: impl FnMut() -> Option<LogJob>) -> Self {
        let mut work = Self::default();
        let mut bytes = 0;
        while let Some(job) = first.take().or_else(&mut next) {
            match job {
                LogJob::Append { number, reset, entries, hard_state } => {
                    work.last = Some(number);
                    let entries: Vec<_> = entries.iter().map(log_entry).collect();
                    bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
                    let hard_state = hard_state.map(|state| HardState {
                        term: state.term,
                        vote: state.vote,
                        commit: state.commit,
                    });
                    work.batches.push(Batch { reset, entries, hard_state });
                }
                LogJob::Purge(base) => work.purge = Some(base),
            }
            if work.batches.len() >= MAX_JOBS_PER_WRITE || bytes >= MAX_BYTES_PER_WRITE {
                break;
            }
        }
        work
    }

    /// Answers the number of the last job that is durable now, if any was to be written.
    pub fn append(&self, wal: &mut Wal) -> Result<Option<u64>, WalError> {
        let Some(last) = self.last else { return Ok(None) };
        let kept = if Mutation::LogJobsDropped.is_on() { self.batches.len() - 1 } else { 0 };
        match wal.append(&self.batches[kept..]) {
            Err(error) if !Mutation::LogErrorIgnored.is_on() => Err(error),
            _ => Ok(Some(last)),
        }
    }

    pub fn purge(&self, wal: &mut Wal) -> Result<(), WalError> {
        match self.purge {
            Some(base) if base.index >= wal.first_index() => wal.purge(base),
            _ => Ok(()),
        }
    }
}

fn log_entry(entry: &Entry) -> LogEntry {
    LogEntry { index: entry.index, term: entry.term, payload: entry.encode_to_vec().into() }
}

pub struct Applier {
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    pub done: Sender<Done>,
    pub applied: watch::Sender<u64>,
    pub metrics: Arc<Metrics>,
}

impl Applier {
    pub fn run(self, jobs: &Receiver<ApplyJob>) -> Result<(), String> {
        while let Ok(job) = jobs.recv() {
            if self.done.send(self.apply(job)?).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    pub fn apply(&self, job: ApplyJob) -> Result<Done, String> {
        match job {
            ApplyJob::Entries { entries, bytes } => self.apply_all(entries, bytes),
            ApplyJob::Restore { index } => self.restore(index),
        }
    }

    fn apply_all(&self, entries: Vec<(Entry, Option<Waiter>)>, bytes: u64) -> Result<Done, String> {
        let started = Instant::now();
        let mut applied =
            Applied { index: 0, bytes, conf_changes: Vec::new(), changed: Vec::new(), membership: None };
        let mut answers = Vec::new();
        for (entry, waiter) in entries {
            applied.index = entry.index;
            let reply = self.apply_one(&entry, &mut applied)?;
            // After a failed engine the store applies nothing more; a restart verifies and rebuilds it.
            if let Some(failure) = self.store.failure() {
                return Err(format!("applying log entry {}: {failure}", entry.index));
            }
            match (waiter, entry.get_entry_type()) {
                (Some(Waiter::Change(waiter)), EntryType::EntryConfChange) => applied.changed.push(waiter),
                (Some(waiter), _) => answers.push((waiter, reply)),
                (None, _) => {}
            }
        }
        self.applied.send_replace(applied.index);
        for (waiter, reply) in answers {
            answer(waiter, reply);
        }
        self.metrics.apply_duration_seconds.observe(started.elapsed().as_secs_f64());
        Ok(Done::Applied(applied))
    }

    /// `None` for an entry that holds no command.
    fn apply_one(&self, entry: &Entry, applied: &mut Applied) -> Result<Option<Reply>, String> {
        let undecodable = |error: &dyn std::fmt::Display| {
            format!("log entry {} cannot be decoded by this version: {error}", entry.index)
        };
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => {
                self.store.apply_empty(entry.index, entry.term);
                Ok(None)
            }
            EntryType::EntryNormal => {
                let command = Command::decode(entry.data.as_slice()).map_err(|e| undecodable(&e))?;
                let reply = self.store.apply(entry.index, entry.term, &command);
                if matches!(command.op, Some(Op::RegisterMember(_))) {
                    applied.membership = Some(self.store.membership());
                }
                Ok(Some(reply))
            }
            EntryType::EntryConfChange => {
                let conf_change = ConfChange::decode(entry.data.as_slice()).map_err(|e| undecodable(&e))?;
                let change = Change::from_conf_change(&conf_change).map_err(|e| undecodable(&e))?;
                let next = membership::after(&self.store.membership(), &change, entry.index);
                tracing::info!(index = entry.index, ?change, voters = ?next.voters, "membership changed");
                self.store.apply_membership(entry.index, entry.term, next);
                applied.conf_changes.push(conf_change);
                applied.membership = Some(self.store.membership());
                Ok(None)
            }
            EntryType::EntryConfChangeV2 => Err(undecodable(&"joint configuration change")),
        }
    }

    fn restore(&self, index: u64) -> Result<Done, String> {
        let started = Instant::now();
        let path = self
            .snapshots
            .find(index)
            .ok_or_else(|| format!("the installed snapshot at index {index} is not on disk"))?;
        let meta = self.store.restore(&path).map_err(|error| format!("installing a snapshot: {error}"))?;
        self.applied.send_replace(meta.index);
        self.metrics.snapshot_install_duration_seconds.observe(started.elapsed().as_secs_f64());
        tracing::info!(index = meta.index, term = meta.term, "snapshot installed");
        Ok(Done::Restored { index: meta.index, membership: self.store.membership() })
    }
}

fn answer(waiter: Waiter, reply: Option<Reply>) {
    match (waiter, reply) {
        (Waiter::Write(waiter), Some(reply)) => drop(waiter.send(Ok(reply))),
        // The raft crate replaces a configuration change it may not take by an empty entry.
        (waiter, _) => waiter.fail(Error::new(
            ErrorCode::MembershipChangeInProgress,
            "the request was not taken because a membership change was under way; try again",
        )),
    }
}

/// Moves applied state into the engine now and then, and writes snapshots of what it holds.
pub fn checkpoint(
    store: &Store,
    snapshots: &Snapshots,
    wanted: &Receiver<()>,
    done: &Sender<Done>,
    metrics: &Metrics,
) -> Result<(), String> {
    let failed = |error: StateError| format!("checkpoint: {error}");
    let mut last = (store.applied().index, Instant::now());
    loop {
        match wanted.recv_timeout(CHECKPOINT_POLL) {
            Ok(()) => {
                if done.send(build_snapshot(store, snapshots, metrics).map_err(failed)?).is_err() {
                    return Ok(());
                }
                last = (store.applied().index, Instant::now());
            }
            Err(RecvTimeoutError::Timeout) => {
                let due =
                    last.1.elapsed() >= CHECKPOINT_INTERVAL || store.overlay_bytes() >= CHECKPOINT_BYTES;
                if due && store.applied().index > last.0 {
                    store.checkpoint().map_err(failed)?;
                    last = (store.applied().index, Instant::now());
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                store.checkpoint().map_err(failed)?;
                return Ok(());
            }
        }
    }
}

/// A checkpoint, and a snapshot of what it holds.
pub fn build_snapshot(store: &Store, snapshots: &Snapshots, metrics: &Metrics) -> Result<Done, StateError> {
    store.checkpoint()?;
    Ok(match take_snapshot(store, snapshots, metrics) {
        Ok(meta) => Done::SnapshotBuilt(meta),
        Err(error) => {
            tracing::error!(%error, "snapshot failed; the log is kept until one succeeds");
            Done::SnapshotFailed
        }
    })
}

fn take_snapshot(
    store: &Store,
    snapshots: &Snapshots,
    metrics: &Metrics,
) -> Result<SnapshotMeta, StateError> {
    let started = Instant::now();
    let meta = snapshots.write(store)?;
    metrics.snapshot_save_duration_seconds.observe(started.elapsed().as_secs_f64());
    tracing::info!(index = meta.index, term = meta.term, bytes = meta.size_bytes, "snapshot taken");
    Ok(meta)
}
