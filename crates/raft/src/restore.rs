//! Restore of a backup: a blank node becomes the only member of a new cluster, with the state of a base and of the
//! archived entries after it (ADR 0027).
//!
//! The base is received into `<data>/restore`, where an interrupted one stays. Before log, state and snapshots are changed,
//! the file `begun` is there; it is removed after `node.json` names the new cluster. A blank node that finds it at its
//! start removes what it has ([`discard`]), so that no crash leaves a part of a restore.
//!
//! Entries are appended to the log first, and applied some time after, because an entry may be skipped by a later one. The digest
//! of the base, checkpoints and merges run beside that.

mod files;
mod stream;
#[allow(clippy::disallowed_methods, reason = "starts threads, and logs how long their work took")]
mod upkeep;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use helios_proto::Error;
use helios_proto::v1::{ArchivedEntry, ErrorCode, Member, Membership, RestoreData, Restored};
use prost_raft::Message as _;
use raft::eraftpb::Entry;
use tokio::sync::watch;

use self::files::Files;
use self::stream::Position;
use self::upkeep::Upkeep;
use super::membership;
use super::metrics::Metrics;
use super::snapshots::{Incoming, SnapshotId, Snapshots};
use super::suspects::Suspects;
use super::types::{ApplyJob, Done};
use super::unappliable;
use super::workers::Applier;
use crate::faults;
use helios_state::{Applied, Driven, StateError, Store};
use helios_storage::disk::Disk;
use helios_storage::wal::{self, Base, Batch, LogEntry, Outline, Recovered, Wal, WalError, WalOptions};

pub use files::{clean, discard, restored};
pub use stream::Plan;

/// Id of the only member of the new cluster.
pub const MEMBER_ID: u64 = 1;

/// Limits of what a restore keeps, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Entries that are appended to the log, or read back from it, at a time.
    pub chunk: u64,
    /// Entries that are in the log and not applied, while more follow: more than a cluster commits after an entry that it
    /// cannot apply and before the entry that skips it.
    pub lookahead: u64,
    /// Size of the overlay that makes a checkpoint due.
    pub overlay: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { chunk: 4 << 20, lookahead: 128 << 20, overlay: 32 << 20 }
    }
}

/// Parts of a blank node.
pub struct Parts {
    pub disk: Arc<dyn Disk>,
    /// Directory of the restore.
    pub dir: PathBuf,
    pub wal_dir: PathBuf,
    pub wal_options: WalOptions,
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    /// Whether the engine links the files of a set, see [`Snapshots::open`].
    pub links_sets: bool,
    pub machine: Option<Arc<dyn Driven>>,
    pub metrics: Arc<Metrics>,
    pub sizes: Sizes,
    /// Whether the digest, checkpoints and merges run on threads beside the replay. Otherwise they are done in its calls, so
    /// that the order of all operations depends on nothing else.
    pub threads: bool,
}

/// How far a restore is, for the status.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    size_bytes: AtomicU64,
    /// Last entry that is here, that of the base, and the last one of all.
    index: AtomicU64,
    base_index: AtomicU64,
    last_index: AtomicU64,
}

impl Progress {
    pub fn describe(&self) -> String {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (bytes, size_bytes) = (get(&self.bytes), get(&self.size_bytes));
        let (index, base_index) = (get(&self.index), get(&self.base_index));
        match index {
            0 => format!("restoring: {bytes} of {size_bytes} bytes"),
            _ => format!("restoring: entry {} of {}", index - base_index, get(&self.last_index) - base_index),
        }
    }
}

/// The blank log after a failed restore, or that of the new cluster after a complete one.
pub type Log = (Wal, Recovered);

/// A restore that is under way.
pub struct Restore {
    parts: Parts,
    plan: Plan,
    files: Files,
    position: Position,
    progress: Arc<Progress>,
    log: Option<Log>,
    /// Whether the node is not blank any more.
    has_begun: bool,
    incoming: Option<Incoming>,
    replay: Option<Replay>,
}

/// The phase in which entries are taken.
struct Replay {
    applier: Applier,
    base_keys: u64,
    upkeep: Upkeep,
    /// Entries that are not in the log yet, and their bytes.
    pending: Vec<LogEntry>,
    pending_bytes: u64,
    /// Last index and bytes of the parts of the log that are not applied.
    unapplied: VecDeque<(u64, u64)>,
    /// Index and CRC of the entries that are skipped by a later one.
    skips: Vec<(u64, u32)>,
    next_index: u64,
    /// Number of keys and digest at the index of the comparison.
    compared: Option<(u64, u64)>,
}

impl Restore {
    /// Restore of `plan`, for a blank node with the log `log`. Changes nothing.
    pub fn new(parts: Parts, plan: Plan, log: Log) -> Self {
        let progress = Progress::default();
        progress.size_bytes.store(plan.base.size_bytes, Ordering::Relaxed);
        progress.base_index.store(plan.base.index, Ordering::Relaxed);
        progress.last_index.store(plan.last_index, Ordering::Relaxed);
        Self {
            files: Files::new(Arc::clone(&parts.disk), &parts.dir, parts.links_sets),
            position: Position::new(&plan, 0),
            parts,
            plan,
            progress: Arc::new(progress),
            log: Some(log),
            has_begun: false,
            incoming: None,
            replay: None,
        }
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Prepares the directory; returns the number of bytes of the base that an interrupted restore left.
    pub fn held_bytes(&mut self) -> Result<u64, Error> {
        let held_bytes = self.files.held(&self.plan.base)?;
        if held_bytes < self.plan.base.size_bytes {
            let staging = self.files.staging()?;
            self.incoming = Some(staging.incoming(self.plan.base.clone(), held_bytes)?);
        }
        self.position = Position::new(&self.plan, held_bytes);
        self.progress.bytes.store(held_bytes, Ordering::Relaxed);
        Ok(held_bytes)
    }

    /// Takes bytes of the base.
    pub fn take_data(&mut self, data: &RestoreData) -> Result<(), Error> {
        self.position.take_data(data)?;
        if let Some(incoming) = &mut self.incoming {
            incoming.write(&data.data)?;
        }
        self.progress.bytes.store(self.position.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the next entries.
    pub fn take_entries(&mut self, entries: Vec<ArchivedEntry>) -> Result<(), Error> {
        let entries = self.position.take_entries(entries)?;
        self.load_base()?;
        for entry in entries {
            let replay = self.replay.as_mut().ok_or_else(without_base)?;
            replay.pending_bytes += entry.payload.len() as u64;
            replay.pending.push(entry);
            if replay.pending_bytes >= self.parts.sizes.chunk {
                self.append_pending()?;
                self.apply_down_to(self.parts.sizes.lookahead)?;
            }
        }
        self.progress.index.store(self.position.index, Ordering::Relaxed);
        Ok(())
    }

    /// Installs the base, once, if all of it is here. From here on the node is not blank.
    pub fn load_base(&mut self) -> Result<(), Error> {
        if self.replay.is_some() || !self.position.has_base() {
            return Ok(());
        }
        let SnapshotId { index, term, .. } = self.plan.base;
        if let Some(incoming) = self.incoming.take() {
            self.files.staging()?.receive(incoming)?;
        }
        let path = self.files.staging()?.find(index).ok_or_else(without_base)?;
        tracing::info!(
            index,
            bytes = self.plan.base.size_bytes,
            "the base of the restore is complete and verified"
        );
        self.files.begin()?;
        self.has_begun = true;
        let (wal, _) = self.log.as_mut().ok_or_else(without_log)?;
        append(wal, Batch { reset: Some(Base { index, term }), ..Batch::default() })?;
        let store = &self.parts.store;
        store.restore(&path)?;
        let source = store.membership().cluster_id.clone();
        if source != self.plan.source {
            let message =
                format!("the base is of cluster {source:?}, its header says {:?}", self.plan.source);
            return Err(Error::invalid(message));
        }
        if let Some(machine) = &self.parts.machine {
            store.drive(Arc::clone(machine))?;
        }
        let suspects = Suspects::open(&self.parts.disk, &self.parts.dir, self.plan.last_index);
        let suspects = suspects.map_err(|source| io("open", &self.parts.dir, source))?;
        self.replay = Some(Replay {
            base_keys: store.key_count(),
            upkeep: Upkeep::begin(store, self.parts.sizes.overlay, &self.parts.metrics, self.parts.threads)?,
            applier: Applier {
                store: store.clone(),
                snapshots: Arc::clone(&self.parts.snapshots),
                done: crossbeam_channel::unbounded().0,
                applied: watch::Sender::new(index),
                metrics: Arc::clone(&self.parts.metrics),
                suspects,
                held: Vec::new(),
            },
            pending: Vec::new(),
            pending_bytes: 0,
            unapplied: VecDeque::new(),
            skips: Vec::new(),
            next_index: index + 1,
            compared: None,
        });
        self.progress.index.store(index, Ordering::Relaxed);
        tracing::info!(index, keys = store.key_count(), "the base of the restore is installed");
        Ok(())
    }

    /// Appends the pending entries to the log.
    fn append_pending(&mut self) -> Result<(), Error> {
        let (replay, (wal, _)) =
            (self.replay.as_mut().ok_or_else(without_base)?, self.log.as_mut().ok_or_else(without_log)?);
        let entries = std::mem::take(&mut replay.pending);
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        for entry in &entries {
            replay.skips.extend(unappliable::skip_of(&decode(entry)?).map(|skip| (skip.index, skip.crc)));
        }
        append(wal, Batch { entries, ..Batch::default() })?;
        replay.unapplied.push_back((last, std::mem::take(&mut replay.pending_bytes)));
        Ok(())
    }

    /// Applies the oldest entries of the log until at most `bytes` are not applied.
    fn apply_down_to(&mut self, bytes: u64) -> Result<(), Error> {
        loop {
            let replay = self.replay.as_mut().ok_or_else(without_base)?;
            let left: u64 = replay.unapplied.iter().map(|(_, bytes)| bytes).sum();
            let Some((through, _)) = replay.unapplied.front().copied().filter(|_| left > bytes) else {
                return Ok(());
            };
            replay.unapplied.pop_front();
            self.apply_through(through)?;
        }
    }

    fn apply_through(&mut self, through: u64) -> Result<(), Error> {
        let (replay, (wal, _)) =
            (self.replay.as_mut().ok_or_else(without_base)?, self.log.as_mut().ok_or_else(without_log)?);
        let (chunk, compare_at) = (self.parts.sizes.chunk, self.plan.compare_index);
        while replay.next_index <= through {
            let end = compare_at.filter(|at| *at >= replay.next_index).map_or(through, |at| at.min(through));
            let found = wal.reader().read(replay.next_index, end + 1, chunk).map_err(wal_error)?;
            let found = found.ok_or_else(without_log)?;
            replay.next_index += found.len() as u64;
            let entries = found.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
            replay.apply(entries)?;
            if let Some(Applied { index, term }) = replay.upkeep.applied()? {
                wal.purge(Base { index, term }).map_err(wal_error)?;
            }
            if compare_at == Some(replay.next_index - 1) {
                replay.compared = Some(figures(&self.parts.store, replay.next_index - 1)?);
            }
        }
        Ok(())
    }

    /// Completes the restore: the state, log and snapshot of the only member of the new cluster, whose record without its
    /// id is `own`. The node is a member once its marker says so.
    pub fn finish(&mut self, own: Member) -> Result<(Log, Restored), Error> {
        self.position.end()?;
        self.load_base()?;
        self.append_pending()?;
        tracing::info!(last = self.plan.last_index, "all entries of the restore are here");
        self.apply_down_to(0)?;
        tracing::info!(last = self.plan.last_index, "all entries of the restore are applied");
        let replay = self.replay.take().ok_or_else(without_base)?;
        let (mut wal, _) = self.log.take().ok_or_else(without_log)?;
        let made = self.begin_cluster(&mut wal, replay, own);
        // Also after an error: `abandon` removes the files of the log.
        let outline = Outline::new(wal.base());
        let recovered = Recovered { hard_state: wal.hard_state(), outline };
        match made {
            Ok(restored) => Ok(((wal, recovered), restored)),
            Err(error) => {
                self.log = Some((wal, recovered));
                Err(error)
            }
        }
    }

    fn begin_cluster(&self, wal: &mut Wal, replay: Replay, own: Member) -> Result<Restored, Error> {
        let Self { plan, parts, files, .. } = self;
        let store = &parts.store;
        let Applied { index, term } = store.applied();
        if index != plan.last_index {
            let message =
                format!("the state is at entry {index} after all entries up to {}", plan.last_index);
            return Err(Error::new(ErrorCode::Internal, message));
        }
        let Replay { base_keys, upkeep, compared, .. } = replay;
        let base_digest = upkeep.finish()?;
        tracing::info!("the digest of the base and all checkpoints of the restore are complete");
        let first = Base { index: index + 1, term: term + 1 };
        let restored = Restored {
            membership: Some(membership_of(plan, own, first.index)),
            index,
            base_keys,
            base_digest: format!("{base_digest:016x}"),
            keys: store.key_count(),
            compared_keys: compared.map(|(keys, _)| keys).unwrap_or_default(),
            compared_digest: compared.map(|(_, digest)| format!("{digest:016x}")).unwrap_or_default(),
        };
        let applied = Applied { index: first.index, term: first.term };
        store.begin_cluster(applied, restored.membership.clone().unwrap_or_default())?;
        if faults::restore_is_checkpointed() {
            store.checkpoint()?;
        }
        let hard_state = wal::HardState { term: first.term, vote: 0, commit: first.index };
        append(wal, Batch { reset: Some(first), entries: Vec::new(), hard_state: Some(hard_state) })?;
        parts.snapshots.write(store, true)?;
        files.record(&plan.cluster_id, &restored)?;
        tracing::info!(
            index = first.index,
            "the first checkpoint and snapshot of the restored cluster are written"
        );
        Ok(restored)
    }

    /// Ends the restore after an error; returns the log of the blank node. The received bytes of the base stay.
    ///
    /// # Errors
    /// The node is not blank, and cannot be made blank: the next start does it.
    pub fn abandon(&mut self) -> Result<Log, Error> {
        (self.incoming, self.replay) = (None, None);
        let log = self.log.take();
        if !self.has_begun {
            return log.ok_or_else(without_log);
        }
        drop(log);
        let Self { parts, files, .. } = self;
        wal::remove(Arc::clone(&parts.disk), &parts.wal_dir).map_err(wal_error)?;
        let log = Wal::open(Arc::clone(&parts.disk), &parts.wal_dir, parts.wal_options).map_err(wal_error)?;
        parts.store.discard("the restore that filled it has failed")?;
        parts.store.remove_set_aside();
        parts.snapshots.clear().map_err(|source| io("clear", &parts.dir, source))?;
        files.end()?;
        Ok(log)
    }
}

impl Replay {
    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        for entry in &entries {
            let is_named = self.skips.contains(&(entry.index, crc32c::crc32c(&entry.data)));
            if faults::restore_skips(is_named) {
                self.applier.suspects.skip(entry.index);
            }
        }
        let entries = entries.into_iter().map(|entry| (entry, None)).collect();
        let done = self.applier.apply(ApplyJob::Entries { entries, bytes: 0 });
        let done = done.map_err(|reason| Error::new(ErrorCode::Corruption, reason))?;
        for done in done {
            if let Done::Held(held) = done
                && !self.skips.contains(&(held.index, held.crc))
            {
                let message = format!("{held}: restore to an index below it, or to one after it was skipped");
                return Err(Error::new(ErrorCode::EntryUnappliable, message));
            }
        }
        Ok(())
    }
}

/// Number of keys and digest of the state, which is at entry `index`. The replay waits: the state of the next entry is another one.
fn figures(store: &Store, index: u64) -> Result<(u64, u64), Error> {
    let applied = store.checkpoint()?;
    if applied.index != index {
        let message = format!("the checkpoint for a comparison is at entry {}, not {index}", applied.index);
        return Err(Error::new(ErrorCode::Internal, message));
    }
    let figures = (store.key_count(), store.state_digest()?);
    tracing::info!(index, keys = figures.0, "the state of the restore is read for a comparison");
    Ok(figures)
}

/// Membership of the new cluster. Its ids begin at 1, as in each new cluster: the cluster id, which all members compare,
/// distinguishes them from those of the old one.
fn membership_of(plan: &Plan, own: Member, index: u64) -> Membership {
    let only = membership::initial(&plan.cluster_id, vec![Member { id: MEMBER_ID, ..own }]);
    Membership { index, fencing_token: plan.fencing_token, ..only }
}

fn decode(entry: &LogEntry) -> Result<Entry, Error> {
    Entry::decode(entry.payload.as_ref())
        .map_err(|error| Error::new(ErrorCode::Corruption, format!("entry {}: {error}", entry.index)))
}

fn append(wal: &mut Wal, batch: Batch) -> Result<(), Error> {
    wal.append(&[batch]).map_err(wal_error)
}

fn wal_error(error: WalError) -> Error {
    let code = match &error {
        WalError::NoSpare { .. } => ErrorCode::DiskFull,
        WalError::TooLarge { .. } => ErrorCode::TooLarge,
        WalError::Corrupt { .. } => ErrorCode::Corruption,
        _ => ErrorCode::StorageUnavailable,
    };
    Error::new(code, error.to_string())
}

fn io(doing: &'static str, path: &std::path::Path, source: std::io::Error) -> Error {
    StateError::Io { doing, path: path.to_owned(), source }.into()
}

fn without_base() -> Error {
    Error::new(ErrorCode::Internal, "the base of the restore is not on disk")
}

fn without_log() -> Error {
    Error::new(ErrorCode::Internal, "the log of the restore is not on disk")
}

#[cfg(test)]
mod tests;
