//! The log as the raft crate reads it: an in-memory copy of the write-ahead log, including entries that are still to
//! be written. Never touches a disk; owned by the Raft thread (docs/design/node.md, section 1).
//!
//! All entries that are not purged are in memory, so its size is bounded by the snapshot trigger
//! (`snapshot_entries`, `MAX_LOG_BYTES`) plus the trailing entries kept for slow followers.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

use helios_storage::wal::Base;

/// Overhead of an entry in addition to its data, for the size limits only.
const ENTRY_OVERHEAD_BYTES: u64 = 48;

pub struct Log {
    base: Base,
    entries: VecDeque<Entry>,
    bytes: u64,
    hard_state: HardState,
    conf_state: ConfState,
    snapshot: Option<Snapshot>,
    /// By member, the snapshot last sent to it, until it has arrived: an interrupted transfer can resume.
    unfinished: BTreeMap<u64, Snapshot>,
    /// Set when the raft crate asked for a snapshot that does not exist; the core takes it and builds one.
    snapshot_wanted: std::cell::Cell<bool>,
}

impl Log {
    pub fn new(base: Base, entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        let bytes = entries.iter().map(entry_bytes).sum();
        Self {
            base,
            entries: entries.into(),
            bytes,
            hard_state,
            conf_state,
            snapshot: None,
            unfinished: BTreeMap::new(),
            snapshot_wanted: false.into(),
        }
    }

    /// Appends `entries` and replaces the log from their first index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.base.index && first.index <= self.last() + 1,
            "entry {} does not follow {}",
            first.index,
            self.last()
        );
        while self.last() >= first.index {
            let gone = self.entries.pop_back().expect("last() counts the entries");
            self.bytes -= entry_bytes(&gone);
        }
        self.bytes += entries.iter().map(entry_bytes).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Empties the log; it continues after an installed snapshot at `base`.
    pub fn reset(&mut self, base: Base, conf_state: ConfState) {
        self.base = base;
        self.entries.clear();
        self.bytes = 0;
        self.conf_state = conf_state;
    }

    /// Removes the entries up to and including `base.index`.
    pub fn purge(&mut self, base: Base) {
        while self.entries.front().is_some_and(|entry| entry.index <= base.index) {
            let gone = self.entries.pop_front().expect("front was there");
            self.bytes -= entry_bytes(&gone);
        }
        self.base = base;
    }

    /// Whether `new` has another term or vote than the last hard state of the log.
    pub fn changes_term_or_vote(&self, new: &HardState) -> bool {
        (new.term, new.vote) != (self.hard_state.term, self.hard_state.vote)
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Sets the newest snapshot that may be sent to a follower.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// Records a transfer to member `to`, which is offered this snapshot again instead of a newer one.
    pub fn snapshot_leaves(&mut self, to: u64, snapshot: Snapshot) {
        self.unfinished.insert(to, snapshot);
    }

    /// Ends the transfer to member `to`: the snapshot has arrived, or cannot be sent again.
    pub fn snapshot_settled(&mut self, to: u64) {
        self.unfinished.remove(&to);
    }

    /// Returns the index of the snapshot that is being sent to member `to`.
    pub fn unfinished(&self, to: u64) -> Option<u64> {
        self.unfinished.get(&to).map(|snapshot| snapshot.get_metadata().index)
    }

    pub fn forget_unfinished(&mut self) {
        self.unfinished.clear();
    }

    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    pub fn base(&self) -> Base {
        self.base
    }

    pub fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the lowest index with no more than `limit_bytes` of entries after it.
    pub fn index_before(&self, limit_bytes: u64) -> u64 {
        let mut left_bytes = Some(limit_bytes);
        let fits = |entry: &&Entry| {
            left_bytes = left_bytes.and_then(|left| left.checked_sub(entry_bytes(entry)));
            left_bytes.is_some()
        };
        self.last() - self.entries.iter().rev().take_while(fits).count() as u64
    }

    /// Returns the entries after `index`.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.index > index)
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::new();
        for index in low..high {
            let entry = self.get(index).ok_or(StorageError::Unavailable)?;
            size += entry_bytes(entry);
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        self.get(index).map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// Returns a snapshot whose membership contains `to`: a member does not install one of a membership without it.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let serves = |metadata: &SnapshotMetadata| {
            let members = metadata.get_conf_state();
            metadata.index >= self.base.index.max(request_index)
                && [&members.voters, &members.voters_outgoing, &members.learners]
                    .iter()
                    .any(|ids| ids.contains(&to))
        };
        let mut found = self.unfinished.get(&to).into_iter().chain(&self.snapshot);
        found.find(|snapshot| serves(snapshot.get_metadata())).cloned().ok_or_else(|| {
            self.snapshot_wanted.set(true);
            StorageError::SnapshotTemporarilyUnavailable.into()
        })
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![7; 10], ..Entry::default() }
    }

    fn log() -> Log {
        let entries = (6..=10).map(|index| entry(index, 2)).collect();
        Log::new(Base { index: 5, term: 1 }, entries, HardState::default(), ConfState::default())
    }

    #[test]
    fn bounds_and_terms() {
        let log = log();
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (6, 10));
        assert_eq!(log.term(5).unwrap(), 1);
        assert_eq!(log.term(10).unwrap(), 2);
        assert_eq!(log.term(4).unwrap_err(), StorageError::Compacted.into());
        assert_eq!(log.term(11).unwrap_err(), StorageError::Unavailable.into());
    }

    #[test]
    fn an_overlap_replaces_the_suffix() {
        let mut log = log();
        log.append(&[entry(8, 3)]);
        assert_eq!(log.last(), 8);
        assert_eq!(log.term(8).unwrap(), 3);
        assert_eq!(log.bytes(), 3 * (10 + ENTRY_OVERHEAD_BYTES));
    }

    #[test]
    #[should_panic(expected = "does not follow")]
    fn an_append_that_leaves_a_gap_panics() {
        log().append(&[entry(12, 3)]);
    }

    #[test]
    fn entries_respect_the_size_limit_but_give_at_least_one() {
        let log = log();
        let context = || GetEntriesContext::empty(false);
        assert_eq!(log.entries(6, 11, 1, context()).unwrap().len(), 1);
        assert_eq!(log.entries(6, 11, 2 * (10 + ENTRY_OVERHEAD_BYTES), context()).unwrap().len(), 2);
        assert_eq!(log.entries(6, 11, None, context()).unwrap().len(), 5);
        assert_eq!(log.entries(5, 7, None, context()).unwrap_err(), StorageError::Compacted.into());
    }

    #[test]
    fn purge_keeps_the_term_of_the_base() {
        let mut log = log();
        log.purge(Base { index: 7, term: 2 });
        assert_eq!(log.first_index().unwrap(), 8);
        assert_eq!(log.term(7).unwrap(), 2);
        assert_eq!(log.bytes(), 3 * (10 + ENTRY_OVERHEAD_BYTES));
    }

    #[test]
    fn a_snapshot_older_than_the_log_is_not_offered() {
        let mut log = log();
        assert!(log.snapshot(0, 2).is_err());
        assert!(log.take_snapshot_wanted());
        assert!(!log.take_snapshot_wanted());
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().mut_conf_state().voters = vec![1];
        snapshot.mut_metadata().mut_conf_state().learners = vec![2];
        snapshot.mut_metadata().index = 4;
        log.set_snapshot(snapshot.clone());
        assert!(log.snapshot(0, 2).is_err());
        assert!(log.take_snapshot_wanted());
        snapshot.mut_metadata().index = 7;
        log.set_snapshot(snapshot);
        assert_eq!(log.snapshot(0, 2).unwrap().get_metadata().index, 7);
        assert!(!log.take_snapshot_wanted());
        assert!(log.snapshot(0, 3).is_err(), "member 3 is not in it");
        assert!(log.take_snapshot_wanted());
    }

    #[test]
    fn an_unfinished_snapshot_is_offered_before_a_newer_one_while_the_log_continues_from_it() {
        let mut log = log();
        let at = |index| {
            let conf_state = Some(ConfState { voters: vec![2, 3], ..ConfState::default() });
            Snapshot {
                metadata: Some(SnapshotMetadata { conf_state, index, term: 2 }),
                ..Snapshot::default()
            }
        };
        log.snapshot_leaves(2, at(6));
        log.set_snapshot(at(9));
        let offered = |log: &Log, to| log.snapshot(0, to).unwrap().get_metadata().index;
        assert_eq!((offered(&log, 2), offered(&log, 3)), (6, 9));
        assert_eq!(log.snapshot(8, 2).unwrap().get_metadata().index, 9, "older than what was asked for");
        log.purge(Base { index: 7, term: 2 });
        assert_eq!(offered(&log, 2), 9, "the log no longer continues from it");
        log.snapshot_leaves(2, at(8));
        log.set_snapshot(at(10));
        assert_eq!(offered(&log, 2), 8);
        log.snapshot_settled(2);
        assert_eq!(offered(&log, 2), 10);
    }
}
