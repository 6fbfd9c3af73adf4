//! Recovery at start: brings log, state and snapshots into agreement, or returns the reason why that is impossible.
//! The log and the snapshots are authoritative; the state engine can be rebuilt from them
//! (docs/design/node.md, decision 3).

use std::time::Instant;

use helios_proto::v1::Membership;
use prost_raft::Message as _;
use raft::eraftpb::{Entry, HardState};

use super::core::{Core, Settings};
use super::force_new_cluster;
use super::log::Log;
use super::log_writer::log_entry;
use super::membership;
use super::snapshots::Snapshots;
use super::unappliable;
use crate::faults;
use helios_state::{SnapshotMeta, StateError, Store};
use helios_storage::wal::{self, Base, Batch, Outline, Recovered, Wal, WalError};

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("write-ahead log: {0}")]
    Wal(#[from] WalError),
    #[error("state: {0}")]
    State(#[from] StateError),
    #[error("log entry {index} cannot be decoded: {source}")]
    Entry { index: u64, source: prost_raft::DecodeError },
    #[error("{0}")]
    Gap(Gap),
    #[error("this member cannot be made the only one of its cluster: {0}")]
    ForceNew(String),
}

/// The log does not continue from the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the state is at index {applied} but the log begins after {} and no whole snapshot reaches it: \
     this disk cannot serve; remove the member and let it rejoin with an empty data directory",
    base.index
)]
pub struct Gap {
    pub applied: u64,
    /// Position of the entry before the log's first one; it is committed.
    pub base: Base,
}

/// Result of the recovery: a log that agrees with the state.
pub struct Recovery {
    log: Log,
    term: u64,
    commit: u64,
    snapshot: Option<SnapshotMeta>,
}

impl Recovery {
    /// Last index of the log.
    pub fn last_index(&self) -> u64 {
        self.log.last()
    }

    /// Returns the indexes of entries that are not applied and that a committed entry skips. They are read back in
    /// batches, and an entry may be in an earlier batch than its skip.
    pub fn skipped(&self, store: &Store) -> Vec<u64> {
        let applied = store.applied().index;
        let committed = self.log.after(applied).take_while(|entry| entry.index <= self.commit);
        let skips = committed.filter_map(|entry| unappliable::skip_in(&entry.data));
        skips.map(|skip| skip.index).filter(|index| *index > applied).collect()
    }

    /// Makes `survivor` the only member (`force_new_cluster`): all entries of the log become committed, and the
    /// removals of the other members follow in one append. After a crash in it a repeated call adds the missing
    /// entries. Returns the written batch.
    pub fn force_new(
        &mut self,
        wal: &mut Wal,
        store: &Store,
        survivor: u64,
        token: u64,
    ) -> Result<Batch, RecoveryError> {
        let last = self.log.last();
        let tail = self.log.after(store.applied().index);
        let (planned, _) = force_new_cluster::plan(&store.membership(), tail, last, survivor, token)
            .map_err(|error| RecoveryError::ForceNew(error.message))?;
        let term = self.term + 1;
        let entries: Vec<Entry> =
            (last + 1..).zip(planned).map(|(index, entry)| Entry { index, term, ..entry }).collect();
        let commit = last + entries.len() as u64;
        let hard_state = wal::HardState { term, vote: survivor, commit };
        let written = entries.iter().map(log_entry).collect();
        let batch = Batch { reset: None, entries: written, hard_state: Some(hard_state) };
        wal.append(std::slice::from_ref(&batch))?;
        self.log.append(&entries);
        self.log.set_hard_state(HardState { term, vote: survivor, commit });
        (self.term, self.commit) = (term, commit);
        Ok(batch)
    }

    /// Creates the Raft core in the state of the last run. `boot_nonce` differs at every start.
    pub fn into_core(
        self,
        settings: Settings,
        store: &Store,
        boot_nonce: u64,
        now: Instant,
    ) -> raft::Result<Core> {
        let applied = faults::applied_at_start(store.applied().index).min(self.commit);
        let mut core = Core::new(settings, self.log, store.membership(), applied, boot_nonce, now)?;
        if let Some(meta) = &self.snapshot {
            core.offer_snapshot(meta);
        }
        Ok(core)
    }
}

/// Position of the first entry of every cluster: its members. The log starts after it, so that a member that
/// joins later receives them by snapshot and does not assume them.
const BOOTSTRAP: Base = Base { index: 1, term: 1 };

/// Writes the initial membership of a cluster into an empty log and state. It may be repeated after a crash.
/// The snapshot taken here serves to rebuild a lost state engine before the first regular snapshot.
pub fn bootstrap(
    wal: &mut Wal,
    store: &Store,
    snapshots: &Snapshots,
    membership: &Membership,
) -> Result<Recovered, RecoveryError> {
    let hard_state = wal::HardState { term: BOOTSTRAP.term, vote: 0, commit: BOOTSTRAP.index };
    wal.append(&[Batch { reset: Some(BOOTSTRAP), entries: Vec::new(), hard_state: Some(hard_state) }])?;
    if store.applied().index == 0 {
        let first = Membership { index: BOOTSTRAP.index, ..membership.clone() };
        store.apply_membership(BOOTSTRAP.index, BOOTSTRAP.term, first);
        store.checkpoint()?;
        snapshots.write(store, false)?;
    }
    Ok(Recovered { hard_state: Some(hard_state), outline: Outline::new(BOOTSTRAP) })
}

/// Relation of the state to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The log continues from the state.
    AsIs,
    /// The state has to be replaced by the newest snapshot. A snapshot beyond the log came from a leader,
    /// and the process ended before the log was reset to it; then the log is reset as well.
    FromSnapshot,
    /// The log does not continue from the state, and no snapshot closes the gap.
    Gap,
}

/// Decides how a state at `applied` fits a log with the entries after `base` up to `last`. `newest` is the index of
/// the newest valid snapshot.
pub fn fit(applied: u64, base: u64, last: u64, newest: Option<u64>) -> Fit {
    if (base..=last).contains(&applied) {
        Fit::AsIs
    } else if newest.is_some_and(|index| index >= base && (index <= last || applied < base)) {
        Fit::FromSnapshot
    } else {
        Fit::Gap
    }
}

/// Returns the error with which [`recover`] would end because the state is lost and no snapshot here replaces it. A
/// snapshot of another member at the base of the log or above does, if [`Snapshots::receive`] takes it over before.
pub fn find_gap(recovered: &Recovered, store: &Store, snapshots: &Snapshots) -> Option<Gap> {
    let (base, last) = (recovered.outline.base(), recovered.outline.last());
    let applied = store.applied().index;
    if fit(applied, base.index, last, None) == Fit::AsIs {
        return None;
    }
    let newest = snapshots.newest().map(|(_, meta)| meta.index);
    (fit(applied, base.index, last, newest) == Fit::Gap).then_some(Gap { applied, base })
}

/// Brings state and log into agreement, and returns the log for the core.
pub fn recover(
    wal: &mut Wal,
    mut recovered: Recovered,
    store: &Store,
    snapshots: &Snapshots,
) -> Result<Recovery, RecoveryError> {
    let (mut base, mut last) = (recovered.outline.base(), recovered.outline.last());
    let newest = snapshots.newest();

    let applied = store.applied().index;
    let fit = fit(applied, base.index, last, newest.as_ref().map(|(_, meta)| meta.index));
    if fit != Fit::AsIs {
        let (path, meta) = newest
            .as_ref()
            .filter(|_| fit == Fit::FromSnapshot)
            .ok_or(RecoveryError::Gap(Gap { applied, base }))?;
        tracing::warn!(applied, snapshot = meta.index, "state does not fit the log; rebuilding it");
        if applied > last {
            store.discard("its applied index is beyond the log")?;
        }
        // A log without the snapshot's last entry has only entries that were never committed after it (Raft paper, figure 13).
        let has_entry = meta.index == base.index || recovered.outline.term(meta.index) == Some(meta.term);
        if meta.index > last || !has_entry {
            base = Base { index: meta.index, term: meta.term };
            last = base.index;
            recovered.outline = Outline::new(base);
            wal.append(&[Batch { reset: Some(base), ..Batch::default() }])?;
        }
        store.restore(path)?;
    }

    let mut hard_state = match recovered.hard_state {
        Some(state) => HardState { term: state.term, vote: state.vote, commit: state.commit },
        None => HardState::default(),
    };
    // Applied entries are committed; the commit index on disk may be lower, because it is written lazily.
    hard_state.commit = hard_state.commit.max(store.applied().index).max(base.index).min(last);
    hard_state.term = hard_state.term.max(base.term);
    let last_term = recovered.outline.term(last).unwrap_or(base.term);
    let hard_state = faults::recovered(hard_state, last_term);

    // Applied entries stay on disk. Each frame is freed as soon as it is decoded: the rest is not in memory twice.
    let unapplied = wal.reader().read_all(store.applied().index.max(base.index), last)?;
    let unapplied = unapplied.into_iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let in_snapshot = newest.as_ref().map(|(_, meta)| &meta.membership);
    let conf_state = membership::conf_state(&faults::recovered_membership(store.membership(), in_snapshot));
    Ok(Recovery {
        term: hard_state.term,
        commit: hard_state.commit,
        log: Log::new(recovered.outline, unapplied, hard_state, conf_state),
        snapshot: newest.map(|(_, meta)| meta).filter(|meta| meta.index >= base.index),
    })
}

fn decode(entry: wal::LogEntry) -> Result<Entry, RecoveryError> {
    Entry::decode(entry.payload.as_ref())
        .map_err(|source| RecoveryError::Entry { index: entry.index, source })
}

#[cfg(test)]
mod tests;
