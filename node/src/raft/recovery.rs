//! Start-up: brings log, state and snapshots back into agreement, or says plainly why not.
//! The log and our snapshots hold the truth; the state engine is a view that can be rebuilt
//! (node.md, decision 3).

use std::time::Instant;

use helios_proto::v1::Membership;
use prost_raft::Message as _;
use raft::eraftpb::{Entry, HardState};

use super::core::{Core, Settings};
use super::log::Log;
use super::membership;
use super::snapshots::Snapshots;
use crate::mutation::Mutation;
use crate::state::{SnapshotMeta, StateError, Store};
use crate::wal::{self, Base, Batch, Recovered, Wal, WalError};

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
}

/// A log and a state that agree.
pub struct Recovery {
    log: Log,
    commit: u64,
    snapshot: Option<SnapshotMeta>,
}

impl Recovery {
    /// The Raft core at the place where the last run left it. `boot_nonce` differs at every start.
    pub fn into_core(
        self,
        settings: Settings,
        store: &Store,
        boot_nonce: u64,
        now: Instant,
    ) -> raft::Result<Core> {
        let skipped = u64::from(Mutation::AppliedSkipped.is_on());
        let applied = (store.applied().index + skipped).min(self.commit);
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

pub fn recover(
    recovered: Recovered,
    store: &Store,
    snapshots: &Snapshots,
) -> Result<Recovery, RecoveryError> {
    let base = recovered.base;
    let last = recovered.entries.last().map_or(base.index, |entry| entry.index);
    let newest = snapshots.newest();

    let applied = store.applied().index;
    if applied < base.index || applied > last {
        let (path, meta) = newest
            .as_ref()
            .filter(|(_, meta)| meta.index >= base.index && meta.index <= last)
            .ok_or(RecoveryError::Gap { applied, base: base.index })?;
        tracing::warn!(applied, snapshot = meta.index, "state does not fit the log; rebuilding it");
        if applied > last {
            store.discard("its applied index is beyond the log")?;
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
    if Mutation::VoteForgotten.is_on() {
        hard_state.vote = 0;
    }
    if Mutation::TermForgotten.is_on() {
        hard_state.vote = 0;
        hard_state.term = recovered.entries.last().map_or(base.term, |entry| entry.term);
    }

    let entries = recovered.entries.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let mut conf_state = membership::conf_state(&store.membership());
    if Mutation::MembershipFromSnapshot.is_on()
        && let Some((_, meta)) = &newest
    {
        conf_state = membership::conf_state(&meta.membership);
    }
    Ok(Recovery {
        commit: hard_state.commit,
        log: Log::new(base, entries, hard_state, conf_state),
        snapshot: newest.map(|(_, meta)| meta).filter(|meta| meta.index >= base.index),
    })
}

fn decode(entry: &wal::LogEntry) -> Result<Entry, RecoveryError> {
    Entry::decode(entry.payload.as_ref())
        .map_err(|source| RecoveryError::Entry { index: entry.index, source })
}
