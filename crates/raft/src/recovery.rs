//! Start-up: brings log, state and snapshots back into agreement, or says plainly why not.
//! The log and our snapshots hold the truth; the state engine is a view that can be rebuilt
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
use helios_storage::wal::{self, Base, Batch, Recovered, Wal, WalError};

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("write-ahead log: {0}")]
    Wal(#[from] WalError),
    #[error("state: {0}")]
    State(#[from] StateError),
    #[error("log entry {index} cannot be decoded: {source}")]
    Entry { index: u64, source: prost_raft::DecodeError },
    #[error(
        "the state is at index {applied} but the log begins after {base} and no whole snapshot reaches it: \
         this disk cannot serve; remove the member and let it rejoin with an empty data directory"
    )]
    Gap { applied: u64, base: u64 },
    #[error("this member cannot be made the only one of its cluster: {0}")]
    ForceNew(String),
}

/// A log and a state that agree.
pub struct Recovery {
    log: Log,
    term: u64,
    commit: u64,
    snapshot: Option<SnapshotMeta>,
}

impl Recovery {
    /// Of the log.
    pub fn last_index(&self) -> u64 {
        self.log.last()
    }

    /// Entries that the state lacks and that a committed entry skips. They come back in pages, and what skips one may be on
    /// a later page than it.
    pub fn skipped(&self, store: &Store) -> Vec<u64> {
        let applied = store.applied().index;
        let committed = self.log.after(applied).take_while(|entry| entry.index <= self.commit);
        let skips = committed.filter_map(|entry| unappliable::skip_in(&entry.data));
        skips.map(|skip| skip.index).filter(|index| *index > applied).collect()
    }

    /// Makes `survivor` the only member (`force_new`): all that the log holds becomes committed, and the
    /// removals of the others follow. One append, so that a crash leaves all of it, or what another call
    /// adds to. Answers what was written.
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

    /// The Raft core at the place where the last run left it. `boot_nonce` differs at every start.
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

/// The first entry of every cluster: its members. Starting the log after it makes a member that
/// joins later receive them by snapshot rather than assume them.
const BOOTSTRAP: Base = Base { index: 1, term: 1 };

/// Writes the beginning of a cluster into an empty log and state. Repeating it after a crash is safe.
/// The snapshot taken at once is what a lost state engine is rebuilt from before the first regular one.
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
        snapshots.write(store)?;
    }
    Ok(Recovered { base: BOOTSTRAP, hard_state: Some(hard_state), entries: Vec::new() })
}

/// How the state stands to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The log goes on where the state ends.
    AsIs,
    /// Only once the state was replaced by the newest snapshot. One beyond the log came from a leader
    /// and the process ended before the log was reset to it; the log then follows as well.
    FromSnapshot,
    Gap,
}

/// `newest` is the index of the newest whole snapshot; the log holds the entries after `base` up to
/// `last`.
pub fn fit(applied: u64, base: u64, last: u64, newest: Option<u64>) -> Fit {
    if (base..=last).contains(&applied) {
        Fit::AsIs
    } else if newest.is_some_and(|index| index >= base && (index <= last || applied < base)) {
        Fit::FromSnapshot
    } else {
        Fit::Gap
    }
}

pub fn recover(
    wal: &mut Wal,
    mut recovered: Recovered,
    store: &Store,
    snapshots: &Snapshots,
) -> Result<Recovery, RecoveryError> {
    let mut base = recovered.base;
    let mut last = recovered.entries.last().map_or(base.index, |entry| entry.index);
    let newest = snapshots.newest();

    let applied = store.applied().index;
    let fit = fit(applied, base.index, last, newest.as_ref().map(|(_, meta)| meta.index));
    if fit != Fit::AsIs {
        let (path, meta) = newest
            .as_ref()
            .filter(|_| fit == Fit::FromSnapshot)
            .ok_or(RecoveryError::Gap { applied, base: base.index })?;
        tracing::warn!(applied, snapshot = meta.index, "state does not fit the log; rebuilding it");
        if applied > last {
            store.discard("its applied index is beyond the log")?;
        }
        if meta.index > last {
            base = Base { index: meta.index, term: meta.term };
            last = base.index;
            recovered.entries.clear();
            wal.append(&[Batch { reset: Some(base), ..Batch::default() }])?;
        }
        store.restore(path)?;
    }

    let mut hard_state = match recovered.hard_state {
        Some(state) => HardState { term: state.term, vote: state.vote, commit: state.commit },
        None => HardState::default(),
    };
    // What is applied was committed; the commit index on disk may be older, as it is written lazily.
    hard_state.commit = hard_state.commit.max(store.applied().index).max(base.index).min(last);
    hard_state.term = hard_state.term.max(base.term);
    let last_term = recovered.entries.last().map_or(base.term, |entry| entry.term);
    let hard_state = faults::recovered(hard_state, last_term);

    // Each frame is given back as its entries are decoded: the log is not there twice.
    let entries = recovered.entries.into_iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let in_snapshot = newest.as_ref().map(|(_, meta)| &meta.membership);
    let conf_state = membership::conf_state(&faults::recovered_membership(store.membership(), in_snapshot));
    Ok(Recovery {
        term: hard_state.term,
        commit: hard_state.commit,
        log: Log::new(base, entries, hard_state, conf_state),
        snapshot: newest.map(|(_, meta)| meta).filter(|meta| meta.index >= base.index),
    })
}

fn decode(entry: wal::LogEntry) -> Result<Entry, RecoveryError> {
    Entry::decode(entry.payload.as_ref())
        .map_err(|source| RecoveryError::Entry { index: entry.index, source })
}

#[cfg(test)]
mod tests;
