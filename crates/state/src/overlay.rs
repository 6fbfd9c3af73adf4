//! The overlay: changes that are applied and not yet checkpointed, as one state of a map with versions (ADR 0027).
//!
//! The map is changed in place, by one writer at a time. Each batch of entries writes versions with the next number, and
//! an [`Overlay`] is the map as of one number, so that a reader keeps one while later entries are applied. A version is
//! dropped with the next write of its key once no overlay reads it.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::writes::{SLOT_BYTES, Slot, Writes, slot_len};

/// Number of slots that are copied at a time while the map is locked: the first time and, from then on, twice as many up to
/// the limit.
const FIRST_COPY: usize = 16;
const MAX_COPY: usize = 512;
/// Bits of a filter, one for each key: about one in ten lookups of a missing key passes it when an overlay is due for a checkpoint.
const FILTER_BITS: u64 = 1 << 20;

/// The overlay as of one batch. A clone has a constant cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Overlay {
    table: Arc<Table>,
    /// Number of the batch: this overlay has the versions up to it.
    batch: u64,
    bytes: usize,
    /// Held by all overlays of a published batch.
    reader: Arc<()>,
}

type Slots = BTreeMap<Key, Versions>;

/// A key of the map with its first bytes as an integer, which decide most comparisons: to read the key is a cache miss.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// First, as the order is that of the fields. A shorter key is filled up with zeros, which are not above any byte.
    head: u128,
    bytes: Bytes,
}

impl Key {
    fn of(bytes: Bytes) -> Self {
        let mut head = [0; 16];
        let len = bytes.len().min(head.len());
        head[..len].copy_from_slice(&bytes[..len]);
        Self { head: u128::from_be_bytes(head), bytes }
    }
}

#[derive(Debug, Default)]
struct Table {
    slots: RwLock<Slots>,
    /// Whether it hides everything below it: one mark instead of a removal for each key.
    cleared: bool,
    /// The published batches, oldest first, with a reference to [`Overlay::reader`].
    readers: Mutex<VecDeque<(u64, Weak<()>)>>,
    filter: Filter,
}

/// The keys that were written, approximately: most lookups are for keys that are in the engine only.
#[derive(Debug)]
struct Filter(Box<[AtomicU64]>);

impl Default for Filter {
    fn default() -> Self {
        Self((0..FILTER_BITS / 64).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Filter {
    /// Returns the word of `key`, and its bit there.
    fn place(&self, key: &[u8]) -> (&AtomicU64, u64) {
        let bit = xxh3_64(key) % FILTER_BITS;
        (&self.0[(bit / 64) as usize], 1 << (bit % 64))
    }

    fn add(&self, key: &[u8]) {
        let (word, bit) = self.place(key);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    /// Whether `key` may have been written. A reader of a published overlay sees all writes of its batches.
    fn may_contain(&self, key: &[u8]) -> bool {
        let (word, bit) = self.place(key);
        word.load(Ordering::Relaxed) & bit != 0
    }
}

/// The versions of a key. Only the last one, unless there may be readers of the others.
#[derive(Debug)]
struct Versions {
    newest: Version,
    /// Oldest first.
    older: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    batch: u64,
    slot: Slot,
}

impl Versions {
    fn at(&self, batch: u64) -> Option<&Slot> {
        if self.newest.batch <= batch {
            return Some(&self.newest.slot);
        }
        self.older.iter().rev().find(|version| version.batch <= batch).map(|version| &version.slot)
    }

    /// Adds a version; drops those that no overlay of a batch from `oldest` on reads. Returns their bytes.
    fn push(&mut self, version: Version, oldest: u64) -> usize {
        let replaced = std::mem::replace(&mut self.newest, version);
        let mut freed = 0;
        if replaced.batch == self.newest.batch {
            freed += slot_len(&replaced.slot);
        } else {
            self.older.push(replaced);
        }
        // A version is read up to the batch before that of the next one.
        let read_from = self.older.iter().rposition(|version| version.batch <= oldest).unwrap_or(0);
        freed + self.older.drain(..read_from).map(|version| slot_len(&version.slot)).sum::<usize>()
    }
}

impl Overlay {
    /// Returns the overlay of the next batch, which is to be written by [`Overlay::absorb`] and then published.
    pub fn next(&self) -> Self {
        Self { batch: self.batch + 1, reader: Arc::default(), ..self.clone() }
    }

    /// Records that this overlay is published: others may clone it.
    pub fn publish(&self) {
        let mut readers = self.table.readers();
        if readers.back().is_none_or(|(batch, _)| *batch < self.batch) {
            readers.push_back((self.batch, Arc::downgrade(&self.reader)));
        }
    }

    /// Merges `newer` into this overlay, which must not be published.
    pub fn absorb(&mut self, newer: Writes) {
        if newer.is_cleared() {
            let table = Arc::new(Table { cleared: true, ..Table::default() });
            *self = Self { table, batch: self.batch, bytes: 0, reader: Arc::clone(&self.reader) };
        }
        let oldest = self.table.oldest_reader().unwrap_or(self.batch);
        let mut slots = self.table.write();
        for (key, slot) in newer.into_slots() {
            let (key_len, len) = (key.len(), slot_len(&slot));
            let version = Version { batch: self.batch, slot };
            match slots.entry(Key::of(key)) {
                Entry::Occupied(mut found) => {
                    let freed = found.get_mut().push(version, oldest);
                    self.bytes = (self.bytes + len).saturating_sub(freed);
                }
                Entry::Vacant(place) => {
                    self.table.filter.add(&place.key().bytes);
                    place.insert(Versions { newest: version, older: Vec::new() });
                    self.bytes += SLOT_BYTES + key_len + len;
                }
            }
        }
    }

    /// Returns a copy that shares nothing with this overlay.
    pub fn copy(&self) -> Self {
        let mut copy = Self::default();
        let mut writes = Writes::default();
        if self.is_cleared() {
            writes.clear();
        }
        self.slots().for_each(|(key, slot)| writes.put(key, slot));
        copy.absorb(writes);
        copy
    }

    /// Returns the change of `key` in this overlay; `None` if the layers below decide.
    pub fn get(&self, key: &[u8]) -> Option<Slot> {
        if !self.table.filter.may_contain(key) {
            return self.is_cleared().then_some(None);
        }
        let key = Key::of(Bytes::copy_from_slice(key));
        let slots = self.table.read();
        match slots.get(&key).and_then(|versions| versions.at(self.batch)) {
            Some(slot) => Some(slot.clone()),
            None => self.is_cleared().then_some(None),
        }
    }

    /// Returns the slots in key order from `start` (inclusive) to `end` (exclusive).
    pub fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> Range<'a> {
        Range::new(self, start, end, false)
    }

    /// Returns the slots of [`Overlay::range`] in descending order.
    pub fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> Range<'a> {
        Range::new(self, start, end, true)
    }

    pub fn slots(&self) -> Range<'_> {
        self.range(b"", None)
    }

    pub fn is_cleared(&self) -> bool {
        self.table.cleared
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it changes nothing of the layers below.
    pub fn is_blank(&self) -> bool {
        self.bytes == 0 && !self.is_cleared()
    }
}

// A poisoned lock is harmless: the process ends after a panic of its writer.
impl Table {
    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, VecDeque<(u64, Weak<()>)>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the oldest published batch of which there is an overlay.
    fn oldest_reader(&self) -> Option<u64> {
        let mut readers = self.readers();
        while readers.pop_front_if(|(_, reader)| reader.strong_count() == 0).is_some() {}
        readers.front().map(|(batch, _)| *batch)
    }
}

/// The slots of a range, copied some at a time: the writer does not wait for the reader.
pub(super) struct Range<'a> {
    overlay: &'a Overlay,
    start: Bound<Key>,
    end: Bound<Key>,
    is_back: bool,
    copied: std::vec::IntoIter<(Bytes, Slot)>,
    /// Number of keys that are visited next; 0: the range is at its end.
    count: usize,
}

impl<'a> Range<'a> {
    fn new(overlay: &'a Overlay, start: &[u8], end: Option<&[u8]>, is_back: bool) -> Self {
        // The map panics on a range that ends before it starts.
        let is_empty = end.is_some_and(|end| end <= start);
        let key = |key| Key::of(Bytes::copy_from_slice(key));
        Self {
            overlay,
            start: Bound::Included(key(start)),
            end: end.map_or(Bound::Unbounded, |end| Bound::Excluded(key(end))),
            is_back,
            copied: Vec::new().into_iter(),
            count: if is_empty { 0 } else { FIRST_COPY },
        }
    }

    fn copy(&mut self) {
        let slots = self.overlay.table.read();
        let range = slots.range::<Key, _>((self.start.as_ref(), self.end.as_ref()));
        let (copied, visited, last) = if self.is_back {
            visible(range.rev(), self.count, self.overlay.batch)
        } else {
            visible(range, self.count, self.overlay.batch)
        };
        drop(slots);
        self.copied = copied.into_iter();
        let is_full = visited == self.count;
        self.count = if is_full { (2 * self.count).min(MAX_COPY) } else { 0 };
        if let Some(last) = last.filter(|_| is_full) {
            *(if self.is_back { &mut self.end } else { &mut self.start }) = Bound::Excluded(last);
            // A range of a map may not be between two excluded bounds that are equal.
            if let (Bound::Excluded(start), Bound::Excluded(end)) = (&self.start, &self.end)
                && start >= end
            {
                self.count = 0;
            }
        }
    }
}

/// Copies the slots of batch `batch` among the next `count` keys; returns the number of these keys, and the last one.
fn visible<'m>(
    keys: impl Iterator<Item = (&'m Key, &'m Versions)>,
    count: usize,
    batch: u64,
) -> (Vec<(Bytes, Slot)>, usize, Option<Key>) {
    let (mut copied, mut visited, mut last) = (Vec::new(), 0, None);
    for (key, versions) in keys.take(count) {
        visited += 1;
        last = Some(key);
        if let Some(slot) = versions.at(batch) {
            copied.push((key.bytes.clone(), slot.clone()));
        }
    }
    (copied, visited, last.cloned())
}

impl Iterator for Range<'_> {
    type Item = (Bytes, Slot);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.copied.next() {
                return Some(found);
            }
            if self.count == 0 {
                return None;
            }
            self.copy();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn writes(slots: &[(&str, Option<&str>)]) -> Writes {
        let mut writes = Writes::default();
        slots.iter().for_each(|(key, slot)| writes.put(raw(key), slot.map(raw)));
        writes
    }

    /// Returns the overlay after one more batch.
    fn written(overlay: &Overlay, slots: &[(&str, Option<&str>)]) -> Overlay {
        let mut next = overlay.next();
        next.absorb(writes(slots));
        next.publish();
        next
    }

    fn text(overlay: &Overlay) -> String {
        let slot = |(key, slot): (Bytes, Slot)| {
            let value = slot.map_or("-".to_owned(), |value| String::from_utf8_lossy(&value).into_owned());
            format!("{}{value}", String::from_utf8_lossy(&key))
        };
        overlay.slots().map(slot).collect::<Vec<_>>().join(" ")
    }

    fn versions(overlay: &Overlay, key: &str) -> usize {
        overlay.table.read().get(&Key::of(raw(key))).map_or(0, |versions| 1 + versions.older.len())
    }

    #[test]
    fn overlay_does_not_have_the_writes_of_later_batches() {
        let first = written(&Overlay::default(), &[("a", Some("1")), ("b", Some("1"))]);
        let second = written(&first, &[("b", None), ("c", Some("2"))]);
        let mut third = second.next();
        third.absorb(writes(&[("a", Some("3"))]));
        assert_eq!((text(&first), text(&second)), ("a1 b1".to_owned(), "a1 b- c2".to_owned()));
        assert_eq!(text(&third), "a3 b- c2");
        assert_eq!((first.get(b"c"), second.get(b"b")), (None, Some(None)));
        assert_eq!(first.get(b"a"), Some(Some(raw("1"))));
    }

    #[test]
    fn versions_are_dropped_once_no_overlay_reads_them() {
        let mut overlay = written(&Overlay::default(), &[("a", Some("0"))]);
        let kept = overlay.clone();
        for value in ["1", "2", "3", "4"] {
            overlay = written(&overlay, &[("a", Some(value))]);
        }
        assert_eq!(versions(&overlay, "a"), 5, "a version that may be read is gone");
        assert_eq!(kept.get(b"a"), Some(Some(raw("0"))));
        drop(kept);
        for value in ["5", "6"] {
            overlay = written(&overlay, &[("a", Some(value))]);
        }
        assert_eq!(versions(&overlay, "a"), 2);
        assert_eq!(overlay.bytes(), SLOT_BYTES + 1 + 2);
        let mut batch = overlay.next();
        batch.absorb(writes(&[("a", Some("7"))]));
        batch.absorb(writes(&[("a", Some("88"))]));
        assert_eq!((versions(&batch, "a"), batch.bytes()), (2, SLOT_BYTES + 1 + 3));
        assert_eq!((overlay.get(b"a"), batch.get(b"a")), (Some(Some(raw("6"))), Some(Some(raw("88")))));
    }

    #[test]
    fn clear_hides_the_layers_below_and_leaves_earlier_overlays_as_they_are() {
        let first = written(&Overlay::default(), &[("a", Some("1"))]);
        assert_eq!(first.get(b"b"), None);
        let mut flush = Writes::default();
        flush.clear();
        flush.put(raw("b"), Some(raw("2")));
        let mut second = first.next();
        second.absorb(writes(&[("a", Some("0"))]));
        second.absorb(flush);
        second.publish();
        assert_eq!((second.get(b"a"), second.is_cleared()), (Some(None), true));
        assert_eq!((text(&first), text(&second)), ("a1".to_owned(), "b2".to_owned()));
        let third = written(&second, &[("b", Some("3"))]);
        assert_eq!((text(&second), text(&third)), ("b2".to_owned(), "b3".to_owned()));
    }

    #[test]
    fn copy_shares_nothing_with_a_batch_that_is_not_published() {
        let first = written(&Overlay::default(), &[("a", Some("1"))]);
        first.next().absorb(writes(&[("a", Some("x")), ("b", Some("x"))]));
        let copy = first.copy();
        copy.publish();
        assert_eq!(text(&written(&copy, &[("c", Some("2"))])), "a1 c2");
        assert_eq!(first.bytes(), copy.bytes());
    }

    #[test]
    fn ranges_have_every_slot_once_in_both_directions() {
        let keys: Vec<String> = (0..3_000).map(|key| format!("{key:04}")).collect();
        let slots: Vec<(&str, Option<&str>)> = keys.iter().map(|key| (key.as_str(), Some("v"))).collect();
        let overlay = written(&Overlay::default(), &slots);
        let later = keys.iter().map(|key| format!("{key}x")).collect::<Vec<_>>();
        let more: Vec<(&str, Option<&str>)> = later.iter().map(|key| (key.as_str(), Some("w"))).collect();
        let _unread = written(&overlay, &more);
        for (start, end) in [(0, 3_000), (0, 16), (10, 26), (10, 58), (2_999, 3_000), (5, 5), (7, 5)] {
            let wanted: Vec<&str> =
                keys.get(start..end).unwrap_or_default().iter().map(String::as_str).collect();
            let end = keys.get(end).map(|end| end.as_bytes());
            let text = |(key, _): (Bytes, Slot)| String::from_utf8(key.to_vec()).unwrap();
            let ascending: Vec<String> = overlay.range(keys[start].as_bytes(), end).map(text).collect();
            let mut descending: Vec<String> =
                overlay.range_back(keys[start].as_bytes(), end).map(text).collect();
            descending.reverse();
            assert_eq!((&ascending, &descending), (&descending, &ascending));
            assert_eq!(ascending, wanted, "{start}");
        }
    }
}
