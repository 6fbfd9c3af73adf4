//! Two of the worker threads of the Raft thread: the apply thread (state machine) and the checkpoint thread
//! (state engine and snapshots).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use helios_proto::v1::{Command, ErrorCode, Reply, command::Op};
use prost::Message as _;
use raft::eraftpb::Entry;
use tokio::sync::watch;

use super::change;
use super::format;
use super::membership;
use super::snapshots::Snapshots;
use super::suspects::Suspects;
use super::types::*;
use super::unappliable::{self, Plan, Unappliable};
use crate::metrics::Metrics;
use helios_proto::Error;
use helios_state::{self as state, Batch, StateError, Store};

/// Interval at which applied state is moved from the overlay to the engine.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Overlay size that makes a checkpoint due at once.
const CHECKPOINT_BYTES: usize = 32 << 20;
/// Interval at which the checkpoint thread checks the size of the overlay.
const CHECKPOINT_POLL: Duration = Duration::from_millis(200);

pub struct Applier {
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    pub done: Sender<Done>,
    pub applied: watch::Sender<u64>,
    pub metrics: Arc<Metrics>,
    pub suspects: Suspects,
    /// Committed entries that are not applied until the first of them is skipped. The core counts their bytes.
    pub held: Vec<Committed>,
}

impl Applier {
    pub fn run(mut self, jobs: &Receiver<ApplyJob>) -> Result<(), String> {
        while let Ok(job) = jobs.recv() {
            for done in self.apply(job)? {
                if self.done.send(done).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub fn apply(&mut self, job: ApplyJob) -> Result<Vec<Done>, String> {
        let outcome = match job {
            ApplyJob::Entries { entries, .. } => self.apply_committed(entries),
            ApplyJob::Restore { index } => self.restore(index).map(|done| vec![done]),
        };
        if outcome.is_err() {
            self.suspects.forgive();
        }
        outcome
    }

    /// Applies the committed entries before the first unappliable one, and holds the rest.
    fn apply_committed(&mut self, entries: Vec<Committed>) -> Result<Vec<Done>, String> {
        let was_held = !self.held.is_empty();
        self.held.extend(entries);
        let waiting: Vec<&Entry> = self.held.iter().map(|(entry, _)| entry).collect();
        let Plan { count, skipped, held } = unappliable::plan(&waiting, &self.suspects)?;
        let rest = self.held.split_off(count);
        let entries = std::mem::replace(&mut self.held, rest);
        let mut done = Vec::new();
        if !entries.is_empty() {
            done.push(self.apply_all(entries, skipped)?);
        }
        // Reported once, not again for every later entry.
        if let Some(held) = held.filter(|_| !was_held || !done.is_empty()) {
            tracing::error!(index = held.index, command = %held.command, bytes = held.bytes, "{}", held.error());
            done.push(Done::Held(held));
        }
        Ok(done)
    }

    fn apply_all(&mut self, entries: Vec<Committed>, skipped: Vec<u64>) -> Result<Done, String> {
        let started = Instant::now();
        let bytes = entries.iter().map(|(entry, _)| charge_of(entry)).sum();
        let mut applied = Applied { bytes, skipped, ..Applied::default() };
        let mut answers = Vec::new();
        let mut batch = self.store.batch();
        for (entry, mut waiter) in entries {
            applied.index = entry.index;
            if let Some(Waiter::Write(waiter)) = &mut waiter {
                waiter.applying();
            }
            if applied.skipped.contains(&entry.index) {
                skip(&mut batch, &mut self.suspects, &entry, waiter);
                continue;
            }
            let changes = applied.conf_changes.len();
            let reply = apply_one(&mut batch, &mut self.suspects, &entry, &mut applied)?;
            let is_change = applied.conf_changes.len() > changes;
            // After a failed engine the store applies nothing more; a restart verifies and rebuilds it.
            if let Some(failure) = self.store.failure() {
                return Err(format!("applying log entry {}: {failure}", entry.index));
            }
            match waiter {
                Some(Waiter::Change(waiter)) if is_change => applied.changed.push(waiter),
                Some(waiter) => answers.push((waiter, reply)),
                None => {}
            }
        }
        batch.publish();
        applied.overlay_bytes = self.store.overlay_bytes() as u64;
        self.suspects.applied(applied.index);
        self.applied.send_replace(applied.index);
        for (waiter, reply) in answers {
            answer(waiter, reply);
        }
        self.metrics.apply_duration_seconds.observe(started.elapsed().as_secs_f64());
        Ok(Done::Applied(applied))
    }

    fn restore(&mut self, index: u64) -> Result<Done, String> {
        let started = Instant::now();
        let path = self
            .snapshots
            .find(index)
            .ok_or_else(|| format!("the installed snapshot at index {index} is not on disk"))?;
        let state::Applied { index, term } =
            self.store.restore(&path).map_err(|error| format!("installing a snapshot: {error}"))?;
        self.snapshots.restored(index);
        // Held entries that the snapshot does not cover are delivered again after it.
        let mut bytes = 0;
        for (entry, waiter) in self.held.drain(..) {
            bytes += charge_of(&entry);
            if let Some(waiter) = waiter {
                waiter.fail(Error::outcome_unknown());
            }
        }
        self.applied.send_replace(index);
        self.metrics.snapshot_install_duration_seconds.observe(started.elapsed().as_secs_f64());
        tracing::info!(index, term, "snapshot installed");
        Ok(Done::Restored { index, membership: self.store.membership(), bytes })
    }
}

/// Applies a skipped entry as an empty one. It changes nothing, on this and on every other member.
fn skip(batch: &mut Batch<'_>, suspects: &mut Suspects, entry: &Entry, waiter: Option<Waiter>) {
    suspects.skip(entry.index);
    let Unappliable { index, command, bytes, crc } = Unappliable::of(entry);
    tracing::warn!(index, %command, bytes, "entry skipped: it changes nothing on any member (crc {crc:08x})");
    batch.apply_empty(entry.index, entry.term);
    if let Some(waiter) = waiter {
        let message =
            format!("entry {index} ended the processes that applied it and was skipped; nothing was written");
        waiter.fail(Error::new(ErrorCode::EntryUnappliable, message));
    }
}

/// Applies one entry. Returns the reply to its command, and `None` if it holds no command: an empty entry or a
/// membership change.
fn apply_one(
    batch: &mut Batch<'_>,
    suspects: &mut Suspects,
    entry: &Entry,
    applied: &mut Applied,
) -> Result<Option<Reply>, String> {
    // Noted before the decoding, which may end the process, too.
    let is_noted = suspects.notes(entry.index, entry.data.len());
    if is_noted {
        suspects.begin(entry.index);
    }
    let undecodable = |error: &dyn std::fmt::Display| {
        format!("log entry {} cannot be decoded by this version: {error}", entry.index)
    };
    if let Some((fenced, conf_change)) = change::decode(entry).map_err(|e| undecodable(&e))? {
        let next = membership::after(&batch.membership(), &fenced, entry.index);
        tracing::info!(
            index = entry.index, change = ?fenced.change, voters = ?next.voters, outgoing = ?next.voters_outgoing,
            "membership changed"
        );
        batch.apply_membership(entry.index, entry.term, next);
        applied.conf_changes.push(conf_change);
        applied.membership = Some(batch.membership());
        return Ok(None);
    }
    if entry.data.is_empty() {
        batch.apply_empty(entry.index, entry.term);
        return Ok(None);
    }
    let command = Command::decode(entry.data.as_slice()).map_err(|e| undecodable(&e))?;
    if !format::is_known(&command) {
        // If it were ignored, the state of this member would differ from that of the others.
        return Err(undecodable(&"it is of a newer build; upgrade this member"));
    }
    if let Some(Op::Transaction(transaction)) = &command.op
        && !is_noted
        && Suspects::notes_steps(transaction.steps.len())
    {
        suspects.begin(entry.index);
    }
    #[cfg(debug_assertions)]
    end_at_poison(&command);
    #[cfg(feature = "simulation")]
    crate::simulation::end_at_poison(&command);
    let reply = batch.apply(entry.index, entry.term, &command);
    if matches!(command.op, Some(Op::RegisterMember(_))) {
        applied.membership = Some(batch.membership());
    }
    Ok(Some(reply))
}

/// Aborts at a SET of the key in `HELIOS_TEST_ABORT_AT_KEY`: an entry that no member survives, for tests with real
/// processes.
#[cfg(debug_assertions)]
fn end_at_poison(command: &Command) {
    static POISON: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("HELIOS_TEST_ABORT_AT_KEY").ok());
    let Some(poison) = &*POISON else { return };
    let key = match &command.op {
        Some(Op::Set(set)) => Some(&set.key),
        Some(Op::Call(call)) if helios_state::commands::name_of(call) == "set" => call.args.first(),
        _ => None,
    };
    if key.is_some_and(|key| key == poison.as_bytes()) {
        std::process::abort();
    }
}

fn answer(waiter: Waiter, reply: Option<Reply>) {
    match (waiter, reply) {
        (Waiter::Write(waiter), Some(reply)) => waiter.send(Ok(reply)),
        // The raft crate replaces a configuration change that it does not accept by an empty entry.
        (waiter, _) => waiter.fail(Error::new(
            ErrorCode::MembershipChangeInProgress,
            "the request was rejected because a membership change was under way; try again",
        )),
    }
}

/// The checkpoint thread: moves applied state into the engine periodically, and writes snapshots on request.
pub struct Checkpointer {
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    pub wanted: Receiver<CheckpointJob>,
    pub done: Sender<Done>,
    pub metrics: Arc<Metrics>,
}

impl Checkpointer {
    pub fn run(self) -> Result<(), String> {
        let failed = |error: StateError| format!("checkpoint: {error}");
        let mut last = (self.store.applied().index, Instant::now());
        // Earliest time of the next checkpoint after one that found the disk full.
        let mut not_before = Instant::now();
        loop {
            let mut is_built = false;
            let is_due = match self.wanted.recv_timeout(CHECKPOINT_POLL) {
                Ok(CheckpointJob::BuildSnapshot { as_set }) => {
                    let built = build_snapshot(&self.store, &self.snapshots, as_set, &self.metrics)
                        .map_err(failed)?;
                    if self.done.send(built).is_err() {
                        return Ok(());
                    }
                    last = (self.store.checkpointed(), Instant::now());
                    is_built = true;
                    false
                }
                Ok(CheckpointJob::RemoveSnapshots { before }) => {
                    self.snapshots.remove_before(before);
                    false
                }
                Err(RecvTimeoutError::Timeout) => {
                    let is_due = last.1.elapsed() >= CHECKPOINT_INTERVAL
                        || self.store.overlay_bytes() >= CHECKPOINT_BYTES;
                    is_due && self.store.applied().index > last.0 && Instant::now() >= not_before
                }
                Err(RecvTimeoutError::Disconnected) => {
                    checkpoint(&self.store, &self.metrics).map_err(failed)?;
                    return Ok(());
                }
            };
            if is_due && checkpoint(&self.store, &self.metrics).map_err(failed)? {
                last = (self.store.checkpointed(), Instant::now());
            } else if is_due {
                not_before = Instant::now() + CHECKPOINT_INTERVAL;
            }
            if (is_due || is_built) && self.done.send(overlay(&self.store)).is_err() {
                return Ok(());
            }
        }
    }
}

/// Reports what is checkpointed.
pub fn overlay(store: &Store) -> Done {
    Done::Overlay {
        bytes: store.overlay_bytes() as u64,
        durable: store.durable_index(),
        state_bytes: store.bytes(),
    }
}

/// Writes a checkpoint. Returns false if the disk is full, which is retried later. Every error is final.
fn checkpoint(store: &Store, metrics: &Metrics) -> Result<bool, StateError> {
    match store.checkpoint() {
        Ok(_) => {
            metrics.checkpointed(Instant::now());
            Ok(true)
        }
        Err(error) if error.is_disk_full() => {
            metrics.checkpoints_skipped.inc();
            tracing::warn!(%error, "checkpoint put off; the log is kept until one succeeds");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Writes a checkpoint, then a snapshot of it, see [`Snapshots::write`]. `Done::SnapshotFailed` if either finds the disk
/// full.
pub fn build_snapshot(
    store: &Store,
    snapshots: &Snapshots,
    as_set: bool,
    metrics: &Metrics,
) -> Result<Done, StateError> {
    if !checkpoint(store, metrics)? {
        return Ok(Done::SnapshotFailed);
    }
    let started = Instant::now();
    Ok(match snapshots.write(store, as_set) {
        Ok(meta) => {
            metrics.snapshot_save_duration_seconds.observe(started.elapsed().as_secs_f64());
            tracing::info!(index = meta.index, term = meta.term, bytes = meta.size_bytes, "snapshot taken");
            Done::SnapshotBuilt(meta)
        }
        Err(error) if error.is_disk_full() => {
            metrics.snapshots_skipped.inc();
            tracing::warn!(%error, "snapshot put off; the log is kept until one succeeds");
            Done::SnapshotFailed
        }
        Err(error) => {
            tracing::error!(%error, "snapshot failed; the log is kept until one succeeds");
            Done::SnapshotFailed
        }
    })
}

#[cfg(test)]
mod tests;
