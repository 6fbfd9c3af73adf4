//! The changes of one entry, as writes and removals ordered by raw key.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// Estimated overhead in bytes of one slot, besides its key and value.
pub(super) const SLOT_BYTES: usize = 96;

/// The new value of a key, or `None` if the key was removed.
pub(super) type Slot = Option<Bytes>;

#[derive(Debug, Default)]
pub(super) struct Writes {
    slots: BTreeMap<Bytes, Slot>,
    /// Whether they hide everything below: one mark instead of a removal for each key.
    cleared: bool,
    bytes: usize,
}

impl Writes {
    pub fn put(&mut self, key: Bytes, slot: Slot) {
        self.bytes += SLOT_BYTES + key.len() + slot_len(&slot);
        let key_len = key.len();
        if let Some(old) = self.slots.insert(key, slot) {
            self.bytes -= SLOT_BYTES + key_len + slot_len(&old);
        }
    }

    pub fn clear(&mut self) {
        *self = Self { cleared: true, ..Self::default() };
    }

    /// Returns the change of `key`; `None` if the layers below decide.
    pub fn get(&self, key: &[u8]) -> Option<Slot> {
        match self.slots.get(key) {
            Some(slot) => Some(slot.clone()),
            None => self.cleared.then_some(None),
        }
    }

    /// Returns the slots in key order from `start` (inclusive) to `end` (exclusive).
    pub fn range<'a>(
        &'a self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (Bytes, Slot)> + use<'a> {
        // The map panics on a range that ends before it starts.
        let is_empty = end.is_some_and(|end| end <= start);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let slots = (!is_empty).then(|| self.slots.range::<[u8], _>((Bound::Included(start), end)));
        slots.into_iter().flatten().map(|(key, slot)| (key.clone(), slot.clone()))
    }

    pub fn slots(&self) -> impl Iterator<Item = (&Bytes, &Slot)> {
        self.slots.iter()
    }

    pub fn into_slots(self) -> impl Iterator<Item = (Bytes, Slot)> {
        self.slots.into_iter()
    }

    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

pub(super) fn slot_len(slot: &Slot) -> usize {
    slot.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn bytes_follow_overwrites_and_clears() {
        let mut writes = Writes::default();
        writes.put(raw("k"), Some(raw("12345")));
        assert_eq!(writes.bytes(), SLOT_BYTES + 6);
        writes.put(raw("k"), None);
        assert_eq!(writes.bytes(), SLOT_BYTES + 1);
        writes.clear();
        assert_eq!(writes.bytes(), 0);
    }

    #[test]
    fn range_that_ends_before_it_starts_is_empty() {
        let mut writes = Writes::default();
        writes.put(raw("b"), Some(raw("1")));
        assert_eq!(writes.range(b"c", Some(b"a")).count(), 0);
        assert_eq!(writes.range(b"b", Some(b"b")).count(), 0);
        assert_eq!(writes.range(b"b", Some(b"c")).count(), 1);
    }
}
