//! The history of the last changes, for watchers of keys. All watchers share one bounded history: a watcher
//! that falls behind it gets [`Lost`] and must read the keys again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::chunks::Chunks;
use super::error::StateError;
use super::events::Event;
use super::follow::Elements;
use super::store::Store;
use super::value::{self, Kind, Value};
use super::writes::{Slot, Writes};

const MAX_ENTRIES: usize = 65_536;
const MAX_BYTES: usize = 16 << 20;
/// Estimated overhead in bytes of a change, besides its key and value.
pub(super) const CHANGE_BYTES: usize = 96;
/// Maximum size of a page in bytes; a page has at least one entry, whatever its size.
const PAGE_BYTES: usize = 1 << 20;

/// The changes of keys by one entry.
#[derive(Debug)]
pub struct Changed {
    /// The entry's log index.
    pub revision: u64,
    /// Whether all keys were removed before the other changes.
    pub flushed: bool,
    pub(super) slots: Vec<(Bytes, Slot)>,
    /// Chunks of the strings that the entry wrote as a whole, by raw key.
    chunks: BTreeMap<Bytes, Vec<Bytes>>,
    /// Elements, for followers; empty unless they are recorded.
    pub(super) elements: Elements,
    /// Keyspace events; empty unless they are recorded.
    pub events: Vec<Event>,
    bytes: usize,
}

impl Changed {
    pub(super) fn of(revision: u64, writes: &Writes, events: Vec<Event>) -> Self {
        let slots: Vec<_> = writes
            .slots()
            .filter(|(key, _)| value::is_data_key(key))
            .map(|(key, slot)| (key.clone(), slot.clone()))
            .collect();
        let cost =
            |(key, slot): &(Bytes, Slot)| CHANGE_BYTES + key.len() + slot.as_ref().map_or(0, Bytes::len);
        let mut chunks = BTreeMap::new();
        for (key, raw) in slots.iter().filter_map(|(key, slot)| Some((key, slot.as_ref()?))) {
            let header = Some(raw).filter(|raw| value::is_in_chunks(raw)).cloned().and_then(Value::decode);
            if let Some(all) = header.as_ref().and_then(Chunks::of).and_then(|header| header.all_in(writes)) {
                chunks.insert(key.clone(), all);
            }
        }
        let chunk_bytes: usize = chunks.values().flatten().map(|chunk| CHANGE_BYTES + chunk.len()).sum();
        let elements = Elements::default();
        let event_bytes: usize = events.iter().map(|event| CHANGE_BYTES + event.key.len()).sum();
        let bytes = CHANGE_BYTES + slots.iter().map(cost).sum::<usize>() + chunk_bytes + event_bytes;
        Self { revision, flushed: writes.is_cleared(), slots, chunks, elements, events, bytes }
    }

    /// Adds the elements for followers.
    pub(super) fn with_elements(mut self, elements: Elements) -> Self {
        self.bytes += elements.bytes;
        self.elements = elements;
        self
    }

    /// Creates the record of an entry that changed no key.
    pub(super) fn none(revision: u64) -> Self {
        Self {
            revision,
            flushed: false,
            slots: Vec::new(),
            chunks: BTreeMap::new(),
            elements: Elements::default(),
            events: Vec::new(),
            bytes: CHANGE_BYTES,
        }
    }

    fn is_empty(&self) -> bool {
        self.slots.is_empty() && !self.flushed
    }

    /// Returns the changed keys in order, each with its new value, or `None` if it was removed. Of a string in chunks it is
    /// the header, see [`Store::value_of_change`].
    pub fn keys(&self) -> impl Iterator<Item = (Bytes, Option<Value>)> {
        self.slots.iter().map(|(key, slot)| (value::user_key(key), slot.clone().and_then(Value::decode)))
    }
}

impl Store {
    /// Returns a value of [`Changed::keys`] as users see it. `None`: the entry changed a part of a long string, and a later
    /// entry, which the history has or will have, changed the key again.
    pub fn value_of_change(
        &self,
        changed: &Changed,
        key: &Bytes,
        value: Value,
    ) -> Result<Option<Value>, StateError> {
        if value.kind != Kind::Chunked {
            return Ok(Some(value));
        }
        if let Some(chunks) = changed.chunks.get(&value::data_key(key)) {
            return Ok(Some(Value { kind: Kind::String, data: chunks.concat().into(), ..value }));
        }
        // If the key has expired, its removal is the later change.
        let now = self.get(key, 0)?;
        Ok(now.filter(|now| now.revision == value.revision))
    }
}

/// Consecutive entries after some revision.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<Arc<Changed>>,
    /// Revision up to which there are no changes beyond `entries`.
    pub through: u64,
    /// Whether the history has no later changes yet.
    pub is_last: bool,
}

/// The error for changes that are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// First revision whose changes are still kept.
    pub oldest: u64,
}

pub(super) struct History {
    kept: Mutex<Kept>,
    /// Last revision that changed a key.
    last_change: watch::Sender<u64>,
}

struct Kept {
    entries: VecDeque<Arc<Changed>>,
    bytes: usize,
    /// Revision up to which changes were dropped.
    floor: u64,
    /// Index of the last applied entry.
    through: u64,
    /// Revision after which entries have their elements; `None`: they are not recorded.
    elements_after: Option<u64>,
}

impl History {
    /// Creates the history of a state at `revision`.
    pub fn new(revision: u64) -> Self {
        let kept = Kept {
            entries: VecDeque::new(),
            bytes: 0,
            floor: revision,
            through: revision,
            elements_after: None,
        };
        Self { kept: Mutex::new(kept), last_change: watch::Sender::new(revision) }
    }

    /// Adds entries and notifies the watchers. Called after the state is published, so that a notified
    /// watcher can read the changes.
    pub fn publish(&self, entries: impl IntoIterator<Item = Changed>) {
        let mut last_change = None;
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            for changed in entries {
                kept.through = changed.revision;
                if !changed.is_empty() {
                    last_change = Some(changed.revision);
                    kept.push(changed);
                }
            }
        }
        if let Some(revision) = last_change {
            self.last_change.send_replace(revision);
        }
    }

    /// Restarts the history at `revision`, after the state was replaced other than by an entry.
    pub fn restart(&self, revision: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let elements_after = kept.elements_after.map(|_| revision);
        *kept =
            Kept { entries: VecDeque::new(), bytes: 0, floor: revision, through: revision, elements_after };
        drop(kept);
        self.last_change.send_replace(revision);
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last_change.subscribe()
    }

    pub fn through(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).through
    }

    /// Sets whether the entries after `revision` have their elements.
    pub fn record_elements(&self, after: Option<u64>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).elements_after = after;
    }

    /// Returns a page of the changes after `revision`, with the elements of collections.
    pub fn after_with_elements(&self, revision: u64) -> Result<Page, Lost> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.check_elements(revision)?;
        kept.page(revision)
    }

    /// Checks that the changes after `revision` are kept, with the elements of collections.
    pub fn keeps_elements_after(&self, revision: u64) -> Result<(), Lost> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.check_elements(revision)?;
        kept.check(revision)
    }

    /// Returns a page of the changes after `revision`.
    pub fn after(&self, revision: u64) -> Result<Page, Lost> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).page(revision)
    }
}

impl Kept {
    fn check(&self, revision: u64) -> Result<(), Lost> {
        if revision < self.floor { Err(Lost { oldest: self.floor + 1 }) } else { Ok(()) }
    }

    fn check_elements(&self, revision: u64) -> Result<(), Lost> {
        match self.elements_after {
            Some(first) if first <= revision => Ok(()),
            first => Err(Lost { oldest: first.map_or(u64::MAX, |first| first + 1) }),
        }
    }

    fn page(&self, revision: u64) -> Result<Page, Lost> {
        self.check(revision)?;
        let start = self.entries.partition_point(|entry| entry.revision <= revision);
        let mut bytes = 0;
        let fits = |entry: &&Arc<Changed>| {
            let is_first = bytes == 0;
            bytes += entry.bytes;
            is_first || bytes <= PAGE_BYTES
        };
        let entries: Vec<_> = self.entries.iter().skip(start).take_while(fits).cloned().collect();
        let is_last = start + entries.len() == self.entries.len();
        let through = match entries.last() {
            Some(last) if !is_last => last.revision,
            _ => self.through.max(revision),
        };
        Ok(Page { entries, through, is_last })
    }

    fn push(&mut self, changed: Changed) {
        self.bytes += changed.bytes;
        self.entries.push_back(Arc::new(changed));
        while self.entries.len() > MAX_ENTRIES || (self.bytes > MAX_BYTES && self.entries.len() > 1) {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.bytes;
            self.floor = oldest.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(revision: u64, key: &'static str, bytes: usize) -> Changed {
        let value =
            Value { kind: Kind::String, data: vec![b'x'; bytes].into(), revision, expire_at_ms: None };
        let mut writes = Writes::default();
        writes.put(value::data_key(key.as_bytes()), Some(value.encode()));
        writes.put(Bytes::from_static(b"m"), None);
        Changed::of(revision, &writes, Vec::new())
    }

    fn revisions(page: &Page) -> Vec<u64> {
        page.entries.iter().map(|entry| entry.revision).collect()
    }

    #[test]
    fn changes_after_a_revision_are_in_order_and_empty_entries_only_advance() {
        let history = History::new(10);
        history.publish([changed(11, "a", 1)]);
        history.publish([Changed::none(12)]);
        history.publish([changed(13, "b", 1)]);
        history.publish([Changed::none(14)]);
        let page = history.after(10).unwrap();
        assert_eq!((revisions(&page), page.through, page.is_last), (vec![11, 13], 14, true));
        assert_eq!(revisions(&history.after(11).unwrap()), [13]);
        assert_eq!(history.after(9).unwrap_err(), Lost { oldest: 11 });
        // A future revision has no changes yet.
        assert_eq!(
            (revisions(&history.after(20).unwrap()), history.after(20).unwrap().through),
            (vec![], 20)
        );
        let (key, value) = page.entries[0].keys().next().unwrap();
        assert_eq!((key, value.unwrap().revision), (Bytes::from("a"), 11));
        assert_eq!(page.entries[0].keys().count(), 1, "only keys are reported");
    }

    #[test]
    fn history_is_bounded_and_drops_the_oldest_entries_first() {
        let history = History::new(0);
        for revision in 1..=40 {
            history.publish([changed(revision, "k", 1 << 20)]);
        }
        let lost = history.after(1).unwrap_err();
        assert!(lost.oldest > 20 && lost.oldest < 40, "{lost:?}");
        let page = history.after(lost.oldest - 1).unwrap();
        assert_eq!(revisions(&page), [lost.oldest], "a page has one large entry at a time");
        assert_eq!((page.through, page.is_last), (lost.oldest, false));
        // An entry larger than the bound is kept alone.
        history.publish([changed(41, "k", 20 << 20)]);
        assert_eq!(revisions(&history.after(40).unwrap()), [41]);
        history.restart(50);
        assert_eq!(history.after(41).unwrap_err(), Lost { oldest: 51 });
    }
}
