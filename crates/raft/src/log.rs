//! The log as the raft crate reads it: terms and sizes of all entries, and a cache of the last ones, which include those
//! still to be written. Older entries are on disk only, and are fetched for members that lag (`fetches`). Never touches
//! a disk; owned by the Raft thread (docs/design/node.md, section 1; ADR 0021).

mod fetches;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::types::FetchJob;
use fetches::Fetches;
use helios_storage::wal::{Base, Outline};

/// Overhead of an entry in addition to its data, for the size limits only.
const ENTRY_OVERHEAD_BYTES: u64 = 48;
/// Limit of the entries that one job fetches, bytes; a larger entry is fetched alone.
const FETCH_BYTES: u64 = 2 << 20;

pub struct Log {
    outline: Outline,
    /// The last entries. Those before them are on disk only.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    hard_state: HardState,
    conf_state: ConfState,
    snapshot: Option<Snapshot>,
    /// By member, the snapshot last sent to it, until it is installed: an interrupted transfer can resume.
    unfinished: BTreeMap<u64, Snapshot>,
    /// Set when the raft crate asked for a snapshot that does not exist; the core takes it and builds one.
    snapshot_wanted: Cell<bool>,
    fetches: RefCell<Fetches>,
    /// Entries up to this index that are on disk only cannot be read: their segment is damaged. 0: none.
    unreadable: u64,
}

impl Log {
    /// A log with the entries of `outline`; `cache` are the last of them.
    pub fn new(outline: Outline, cache: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        Self {
            outline,
            cache_bytes: cache.iter().map(entry_bytes).sum(),
            cache: cache.into(),
            hard_state,
            conf_state,
            snapshot: None,
            unfinished: BTreeMap::new(),
            snapshot_wanted: false.into(),
            fetches: RefCell::default(),
            unreadable: 0,
        }
    }

    /// Appends `entries` and replaces the log from their first index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index >= self.cached_from() && first.index <= self.last() + 1,
            "entry {} does not follow {}",
            first.index,
            self.last()
        );
        if first.index <= self.last() {
            self.fetches.get_mut().clear();
        }
        while let Some(gone) = self.cache.pop_back_if(|entry| entry.index >= first.index) {
            self.cache_bytes -= entry_bytes(&gone);
        }
        for entry in entries {
            self.outline.push(entry.index, entry.term, entry_bytes(entry));
            self.cache_bytes += entry_bytes(entry);
        }
        self.cache.extend(entries.iter().cloned());
    }

    /// Empties the log; it continues after an installed snapshot at `base`.
    pub fn reset(&mut self, base: Base, conf_state: ConfState) {
        self.outline = Outline::new(base);
        self.cache.clear();
        self.cache_bytes = 0;
        self.fetches.get_mut().clear();
        self.unreadable = 0;
        self.conf_state = conf_state;
    }

    /// Removes the entries up to and including `base.index`.
    pub fn purge(&mut self, base: Base) {
        self.drop_cached(base.index, 0);
        self.outline.purge(base);
    }

    /// Drops entries up to and including `index` from the cache while it has more than `limit_bytes`. They are durable
    /// and applied: the raft crate reads them again for other members only.
    pub fn evict(&mut self, index: u64, limit_bytes: u64) {
        self.drop_cached(index, limit_bytes);
    }

    fn drop_cached(&mut self, index: u64, limit_bytes: u64) {
        while self.cache_bytes > limit_bytes
            && let Some(gone) = self.cache.pop_front_if(|entry| entry.index <= index)
        {
            self.cache_bytes -= entry_bytes(&gone);
        }
    }

    /// Whether `new` has another term or vote than the last hard state of the log.
    pub fn changes_term_or_vote(&self, new: &HardState) -> bool {
        (new.term, new.vote) != (self.hard_state.term, self.hard_state.vote)
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub fn base(&self) -> Base {
        self.outline.base()
    }

    pub fn last(&self) -> u64 {
        self.outline.last()
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.outline.bytes()
    }

    /// Bytes of the entries that are in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.cache_bytes + self.fetches.borrow().bytes()
    }

    /// Bytes of the entries after `low` up to `high`, about.
    pub fn bytes_between(&self, low: u64, high: u64) -> u64 {
        self.outline.bytes_after(low).saturating_sub(self.outline.bytes_after(high))
    }

    /// Returns the lowest index with no more than `limit_bytes` of entries after it.
    pub fn index_before(&self, limit_bytes: u64) -> u64 {
        self.outline.index_before(limit_bytes)
    }

    /// Returns the entries after `index`, which are not applied or were just appended, and so are in memory.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        self.cache.iter().filter(move |entry| entry.index > index)
    }

    /// Index of the first entry in the cache, or of the next entry if it is empty.
    fn cached_from(&self) -> u64 {
        self.last() + 1 - self.cache.len() as u64
    }
}

/// Snapshots.
impl Log {
    /// Sets the newest snapshot that may be sent to a follower.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// Records a transfer to member `to`, which is offered this snapshot again instead of a newer one.
    pub fn snapshot_leaves(&mut self, to: u64, snapshot: Snapshot) {
        self.unfinished.insert(to, snapshot);
    }

    /// Ends the transfer to member `to`: the snapshot is installed, or cannot be sent again.
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
}

/// Entries that are on disk only.
impl Log {
    pub fn has_fetches(&self) -> bool {
        !self.fetches.borrow().is_empty()
    }

    /// Drops the requests and entries that no member needs. `next` are the indexes of the entries that members are sent
    /// next.
    pub fn keep_fetches_for(&mut self, next: &[u64]) {
        self.fetches.get_mut().keep_for(next);
    }

    pub fn drop_fetches(&mut self) {
        self.fetches.get_mut().clear();
    }

    /// Returns the job that reads the entries from `low` on, if the raft crate waits for them and fewer than `limit`
    /// jobs are under way.
    pub fn begin_fetch(&mut self, low: u64, limit: usize) -> Option<FetchJob> {
        let high = self.cached_from();
        let fetches = self.fetches.get_mut();
        let is_due = low < high && fetches.is_due(low) && fetches.under_way() < limit;
        is_due.then(|| FetchJob { number: fetches.begin(low), low, high, max_bytes: FETCH_BYTES })
    }

    /// Takes the result of job `number`; returns the calls of the raft crate that can be repeated. `None` for `entries`:
    /// the log on disk no longer has them.
    ///
    /// # Errors
    /// They are not the entries that the log has at their indexes; the log then counts as unreadable up to the cache.
    pub fn end_fetch(
        &mut self,
        number: u64,
        outcome: std::result::Result<Option<Vec<Entry>>, String>,
    ) -> (Vec<GetEntriesContext>, std::result::Result<(), String>) {
        let Some((low, contexts)) = self.fetches.get_mut().end(number) else { return (Vec::new(), Ok(())) };
        if low <= self.base().index {
            return (contexts, Ok(()));
        }
        let checked = outcome
            .and_then(|entries| entries.ok_or_else(|| format!("entry {low} is missing")))
            .and_then(|entries| self.check(low, &entries).map(|()| entries));
        let result = match checked {
            Ok(entries) => {
                self.fetches.get_mut().put(low, entries);
                Ok(())
            }
            Err(reason) => {
                self.unreadable = self.cached_from() - 1;
                Err(reason)
            }
        };
        (contexts, result)
    }

    fn check(&self, low: u64, entries: &[Entry]) -> std::result::Result<(), String> {
        let wrong = (low..)
            .zip(entries)
            .find(|(index, entry)| entry.index != *index || self.outline.term(*index) != Some(entry.term));
        wrong.map_or(Ok(()), |(index, entry)| {
            let (found, term) = (entry.index, entry.term);
            Err(format!("entry {found} of term {term} was read in place of entry {index}"))
        })
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
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base().index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let count = usize::try_from(high - low).unwrap_or(usize::MAX);
        if let Some(first) = low.checked_sub(self.cached_from()) {
            return Ok(limited(self.cache.range(first as usize..).take(count), max_size));
        }
        if let Some(fetched) = self.fetches.borrow().get(low) {
            return Ok(limited(fetched.iter().take(count), max_size));
        }
        if low <= self.unreadable {
            // A snapshot takes their place.
            return Err(StorageError::Compacted.into());
        }
        if !context.can_async() {
            return Err(StorageError::Unavailable.into());
        }
        self.fetches.borrow_mut().request(low, context);
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index < self.base().index {
            return Err(StorageError::Compacted.into());
        }
        self.outline.term(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base().index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// Returns a snapshot whose membership contains `to`: a member does not install one of a membership without it.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let serves = |metadata: &SnapshotMetadata| {
            let members = metadata.get_conf_state();
            metadata.index >= self.base().index.max(request_index).max(self.unreadable)
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

/// The first of `entries` with at most `max_bytes`, at least one.
fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut found = Vec::new();
    for entry in entries {
        bytes += entry_bytes(entry);
        if bytes > max_bytes && !found.is_empty() {
            break;
        }
        found.push(entry.clone());
    }
    found
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
impl Log {
    /// A log after `base` whose entries are all in memory.
    pub fn in_memory(base: Base, entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        let mut log = Self::new(Outline::new(base), Vec::new(), hard_state, conf_state);
        log.append(&entries);
        log
    }
}

#[cfg(test)]
mod tests;
