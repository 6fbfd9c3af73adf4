//! The effects of entries on the keys of some prefixes, for replicas outside of the cluster.
//!
//! A follower stores raw records: the values of keys, and the elements of collections. So it needs to know nothing of
//! commands, scripts and transactions. It first gets the state in pages ([`Store::pairs`]), of which each is read at a
//! later index than the one before, together with all effects after an index before the first page. Effects are
//! idempotent: once they reach the index of the last page, the follower has the state at that index. No view is
//! held between two pages, which would stop checkpoints and keep old versions in memory.
//!
//! Two rules complete pages and effects:
//! - The follower removes the elements of a collection when its header is removed or replaced, unless the same page or
//!   effects have another header with its id: a renamed key keeps it.
//! - The effects of a rename have all elements: the follower may not have had the old key, or no page of it yet. They begin
//!   with it: else a collection that was renamed to a key that is not selected, and back, would keep an element that was
//!   removed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::StateError;
use super::engines::EngineError;
use super::store::Store;
use super::value;
use super::view::View;
use super::watch::{CHANGE_BYTES, Changed, Lost};
use super::writes::{Slot, Writes};

/// Limit of the elements of renamed collections in one entry, bytes. Above it followers need a new snapshot.
const MAX_RENAMED_BYTES: usize = 1 << 20;

/// The keys that a follower gets, by their prefixes: sorted, none of them the beginning of another. The default
/// selects all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selection(Vec<Bytes>);

impl Selection {
    /// Returns the keys that begin with one of `prefixes`; all keys if there are none, or if one is empty.
    pub fn new(prefixes: impl IntoIterator<Item = Bytes>) -> Self {
        let sorted: BTreeSet<Bytes> = prefixes.into_iter().collect();
        let mut kept: Vec<Bytes> = Vec::new();
        for prefix in sorted.into_iter().take_while(|prefix| !prefix.is_empty()) {
            if kept.last().is_none_or(|last| !prefix.starts_with(last)) {
                kept.push(prefix);
            }
        }
        Self(kept)
    }

    /// Whether the key is selected.
    pub fn contains(&self, key: &[u8]) -> bool {
        // The only candidate is the last prefix that is not greater than the key: none is the beginning of another.
        let after = self.0.partition_point(|prefix| prefix.as_ref() <= key);
        self.0.is_empty() || after.checked_sub(1).is_some_and(|last| key.starts_with(&self.0[last]))
    }

    pub fn prefixes(&self) -> &[Bytes] {
        &self.0
    }

    fn contains_raw(&self, raw: &[u8]) -> bool {
        value::is_data_key(raw) && self.contains(&raw[1..])
    }

    /// Returns the ranges of raw keys in order, each with its exclusive end.
    fn raw_ranges(&self) -> Vec<(Bytes, Bytes)> {
        if self.0.is_empty() {
            return vec![(Bytes::from_static(value::DATA_START), Bytes::from_static(value::DATA_END))];
        }
        let range = |prefix: &Bytes| {
            let start = value::data_key(prefix);
            let end = value::first_after(&start).into();
            (start, end)
        };
        self.0.iter().map(range).collect()
    }
}

/// The elements that an entry changed, of collections whose headers it wrote.
#[derive(Debug, Default)]
pub(super) struct Elements {
    slots: Vec<(Bytes, Slot)>,
    /// Keys that got a collection of another key.
    renamed: Vec<Bytes>,
    /// Those of them whose collection has too many elements to keep.
    unkept: Vec<Bytes>,
    pub bytes: usize,
}

impl Elements {
    /// Collects the elements of `writes`, and all elements of a collection that got another key; `before` is the
    /// state before the entry.
    pub fn of(changed: &Changed, writes: &Writes, before: &View<'_>) -> Self {
        let headers: BTreeMap<&[u8], &Bytes> = changed
            .slots
            .iter()
            .filter_map(|(key, slot)| Some((value::encoded_elements_id(slot.as_ref()?)?, key)))
            .collect();
        let mut elements = Self::default();
        if headers.is_empty() {
            return elements;
        }
        // A rename changes two keys, so that other entries need no read.
        if changed.slots.len() > 1 && !changed.flushed {
            for (id, key) in headers.iter().filter(|(id, _)| !id.starts_with(&changed.revision.to_be_bytes()))
            {
                // After an error the collection counts as too large: the read that serves it finds the error again.
                if elements.add_renamed(id, key, before).is_err() {
                    elements.unkept.push((*key).clone());
                }
            }
        }
        let own = writes.range(value::ELEMENTS_START, Some(value::ELEMENTS_END));
        for (raw, slot) in
            own.filter(|(raw, _)| value::element_id(raw).is_some_and(|id| headers.contains_key(id)))
        {
            elements.push(raw, slot);
        }
        elements
    }

    fn add_renamed(&mut self, id: &[u8], key: &Bytes, before: &View<'_>) -> Result<(), EngineError> {
        let held = before.get(key)?;
        if held.as_deref().and_then(value::encoded_elements_id) == Some(id) {
            return Ok(());
        }
        self.renamed.push(key.clone());
        let start = value::element_prefix(id);
        for pair in before.range(&start, Some(&value::first_after(&start))) {
            let (raw, data) = pair?;
            if self.bytes > MAX_RENAMED_BYTES {
                self.unkept.push(key.clone());
                return Ok(());
            }
            self.push(raw, Some(data));
        }
        Ok(())
    }

    fn push(&mut self, raw: Bytes, slot: Slot) {
        self.bytes += CHANGE_BYTES + raw.len() + slot.as_ref().map_or(0, Bytes::len);
        self.slots.push((raw, slot));
    }
}

/// The effects of consecutive entries on selected keys: the last change of each record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Index of the last of the entries.
    pub through: u64,
    /// Whether there are no later entries yet.
    pub is_last: bool,
    /// Whether all records were removed before the other changes.
    pub is_cleared: bool,
    /// New value of each changed raw key; `None`: it was removed.
    pub records: BTreeMap<Bytes, Option<Bytes>>,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.is_cleared
    }

    /// # Errors
    /// A selected collection was renamed and its elements were not kept.
    fn absorb(&mut self, changed: &Changed, selection: &Selection) -> Result<(), Lost> {
        if changed.elements.unkept.iter().any(|key| selection.contains_raw(key)) {
            return Err(Lost { oldest: changed.revision + 1 });
        }
        if changed.flushed {
            self.is_cleared = true;
            self.records.clear();
        }
        let mut ids = BTreeSet::new();
        for (raw, slot) in changed.slots.iter().filter(|(raw, _)| selection.contains_raw(raw)) {
            ids.extend(slot.as_deref().and_then(value::encoded_elements_id));
            self.records.insert(raw.clone(), slot.clone());
        }
        let is_selected = |raw: &Bytes| value::element_id(raw).is_some_and(|id| ids.contains(id));
        for (raw, slot) in changed.elements.slots.iter().filter(|(raw, _)| is_selected(raw)) {
            self.records.insert(raw.clone(), slot.clone());
        }
        Ok(())
    }

    /// Removes the elements of collections that no key refers to after the last entry.
    fn drop_garbage(&mut self) {
        let ids: BTreeSet<Vec<u8>> = self
            .records
            .values()
            .filter_map(|slot| value::encoded_elements_id(slot.as_ref()?).map(<[u8]>::to_vec))
            .collect();
        self.records.retain(|raw, _| value::element_id(raw).is_none_or(|id| ids.contains(id)));
    }
}

/// Position in the selected part of the state; the default is before its first record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Raw key to continue at.
    key: Bytes,
    /// The last element of its collection that was returned.
    element: Option<Bytes>,
}

/// A page of the selected part of the state.
#[derive(Debug)]
pub struct Pairs {
    pub pairs: Vec<(Bytes, Bytes)>,
    /// Index of the state that the page was read from.
    pub index: u64,
    /// `None` after the last page.
    pub next: Option<Cursor>,
}

struct Filling {
    pairs: Vec<(Bytes, Bytes)>,
    room_bytes: usize,
}

impl Filling {
    /// Adds a pair; `false`: the page is full, and does not have it.
    fn add(&mut self, raw: &Bytes, data: &Bytes) -> bool {
        if self.room_bytes == 0 {
            return false;
        }
        self.room_bytes = self.room_bytes.saturating_sub(CHANGE_BYTES + raw.len() + data.len());
        self.pairs.push((raw.clone(), data.clone()));
        true
    }

    /// Adds the elements of the collection `id` after `after`. Returns the position if the page is full before the last.
    fn add_elements(
        &mut self,
        view: &View<'_>,
        key: &Bytes,
        id: &[u8],
        after: Option<Bytes>,
    ) -> Result<Option<Cursor>, EngineError> {
        let first = value::element_prefix(id);
        let start = after.clone().map_or_else(|| first.clone(), |after| [&after, [0].as_slice()].concat());
        let mut last = after;
        for pair in view.range(&start, Some(&value::first_after(&first))) {
            let (raw, data) = pair?;
            if !self.add(&raw, &data) {
                return Ok(Some(Cursor { key: key.clone(), element: last }));
            }
            last = Some(raw);
        }
        Ok(None)
    }
}

impl Store {
    /// Turns the recording of elements on or off for the entries applied from now on, so that
    /// [`Store::effects_after`] has them. Returns the index of the last entry that is applied. Waits for a batch in
    /// progress.
    pub fn record_elements(&self, wanted: bool) -> u64 {
        let inner = &self.inner;
        let _writer = inner.published.writer();
        let applied = self.applied().index;
        if inner.records_elements.swap(wanted, Ordering::Relaxed) != wanted {
            inner.history.record_elements(wanted.then_some(applied));
        }
        applied
    }

    /// Returns the effects of the next entries after `index` on the selected keys.
    ///
    /// # Errors
    /// They are not kept any more, or were not recorded.
    pub fn effects_after(&self, index: u64, selection: &Selection) -> Result<Effects, Lost> {
        let page = self.inner.history.after_with_elements(index)?;
        let mut effects = Effects { through: page.through, is_last: page.is_last, ..Effects::default() };
        for (number, changed) in page.entries.iter().enumerate() {
            if number > 0 && changed.elements.renamed.iter().any(|key| selection.contains_raw(key)) {
                (effects.through, effects.is_last) = (changed.revision - 1, false);
                break;
            }
            effects.absorb(changed, selection)?;
        }
        effects.drop_garbage();
        Ok(effects)
    }

    /// Whether [`Store::effects_after`] has the entries after `index`. It may fail nonetheless, for a renamed collection.
    pub fn keeps_effects_after(&self, index: u64) -> bool {
        self.inner.history.keeps_elements_after(index).is_ok()
    }

    /// Returns the next selected records at `cursor`, of about `max_bytes`, at the last applied index.
    ///
    /// # Errors
    /// The engine failed.
    pub fn pairs(
        &self,
        selection: &Selection,
        cursor: Cursor,
        max_bytes: usize,
    ) -> Result<Pairs, StateError> {
        self.check()?;
        let state = self.inner.state();
        let view = state.view();
        let mut filling = Filling { pairs: Vec::new(), room_bytes: max_bytes.max(1) };
        let next = fill(&mut filling, &view, selection, cursor).map_err(|error| self.fail(error))?;
        Ok(Pairs { pairs: filling.pairs, index: state.meta.applied.index, next })
    }
}

fn fill(
    filling: &mut Filling,
    view: &View<'_>,
    selection: &Selection,
    mut cursor: Cursor,
) -> Result<Option<Cursor>, EngineError> {
    for (start, end) in selection.raw_ranges() {
        if end <= cursor.key {
            continue;
        }
        for pair in view.range(&start.max(cursor.key.clone()), Some(&end)) {
            let (raw, data) = pair?;
            if !filling.add(&raw, &data) {
                return Ok(Some(Cursor { key: raw, element: None }));
            }
            let Some(id) = value::encoded_elements_id(&data) else { continue };
            // A collection that replaced the one of the cursor is sent from its first element on.
            let after =
                cursor.element.take().filter(|last| raw == cursor.key && value::element_id(last) == Some(id));
            if let Some(next) = filling.add_elements(view, &raw, id, after)? {
                return Ok(Some(next));
            }
        }
    }
    Ok(None)
}
