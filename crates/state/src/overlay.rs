//! The overlay: changes that are applied and not yet checkpointed, as writes and removals ordered by raw key.

use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;

/// Estimated overhead in bytes of one slot, besides its key and value.
const SLOT_BYTES: usize = 96;

/// The new value of a key, or `None` if the key was removed.
pub(super) type Slot = Option<Bytes>;

/// An ordered map of changes. A clone shares its nodes with the original and has a constant cost, so that a
/// reader keeps one while the next entries are applied to the other (ADR 0017).
#[derive(Debug, Clone, Default)]
pub(super) struct Overlay {
    slots: OrdMap<Bytes, Slot>,
    /// Whether this overlay hides everything below it: one mark instead of a removal for each key.
    cleared: bool,
    bytes: usize,
}

impl Overlay {
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

    /// Merges the changes of `newer` into this overlay.
    pub fn absorb(&mut self, newer: Overlay) {
        if newer.cleared {
            *self = newer;
            return;
        }
        for (key, slot) in newer.slots {
            self.put(key, slot);
        }
    }

    /// Returns the change of `key` in this overlay; `None` if the layers below decide.
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
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Slot)> + use<'a> {
        // The map panics on a range that ends before it starts.
        let is_empty = end.is_some_and(|end| end <= start);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let slots = (!is_empty).then(|| self.slots.range::<_, [u8]>((Bound::Included(start), end)));
        slots.into_iter().flatten()
    }

    pub fn slots(&self) -> impl Iterator<Item = (&Bytes, &Slot)> {
        self.slots.iter()
    }

    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn slot_len(slot: &Slot) -> usize {
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
        let mut overlay = Overlay::default();
        overlay.put(raw("k"), Some(raw("12345")));
        assert_eq!(overlay.bytes(), SLOT_BYTES + 6);
        overlay.put(raw("k"), None);
        assert_eq!(overlay.bytes(), SLOT_BYTES + 1);
        overlay.clear();
        assert_eq!(overlay.bytes(), 0);
    }

    #[test]
    fn clear_hides_the_layers_below_and_is_absorbed() {
        let mut older = Overlay::default();
        older.put(raw("a"), Some(raw("1")));
        assert_eq!(older.get(b"b"), None);
        let mut newer = Overlay::default();
        newer.clear();
        newer.put(raw("b"), Some(raw("2")));
        older.absorb(newer);
        assert_eq!(older.get(b"a"), Some(None));
        assert_eq!(older.get(b"b"), Some(Some(raw("2"))));
        assert!(older.is_cleared());
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_empty() {
        let mut overlay = Overlay::default();
        overlay.put(raw("b"), Some(raw("1")));
        assert_eq!(overlay.range(b"c", Some(b"a")).count(), 0);
        assert_eq!(overlay.range(b"b", Some(b"b")).count(), 0);
        assert_eq!(overlay.range(b"b", Some(b"c")).count(), 1);
    }
}
