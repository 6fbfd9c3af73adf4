//! A store in memory that holds the selected keys of another store: it applies the records that
//! [`Store::pairs`] and [`Store::effects_after`] of that store return, and read-only commands run on it.
//!
//! Records have neither the expiry index nor the number of keys; both are rebuilt here.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Applied;
use super::engines::{Backend, EngineError};
use super::error::StateError;
use super::shared::State;
use super::store::Store;
use super::txn::decode;
use super::value::{self, Value};
use super::view::View;
use super::writes::{Slot, Writes};

/// Size of the overlay, bytes, above which [`Replica::apply`] merges it into the engine: until then, removed keys take
/// memory, and others more than in the engine.
const OVERLAY_BYTES: usize = 1 << 20;
/// Estimated overhead of a record in memory, bytes: its place in a node of the map, and what its allocation is longer.
const RECORD_BYTES: u64 = 64;

/// The writer of a store that follows another one. Readers use clones of [`Replica::store`].
pub struct Replica {
    store: Store,
    bytes: u64,
}

impl Default for Replica {
    fn default() -> Self {
        Self { store: Store::in_memory(), bytes: 0 }
    }
}

impl Replica {
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the estimated memory of all records, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Applies records of one page or one frame of changes in one step; removes all others first if `is_cleared`.
    /// `through` is the index of the state that they lead to; `None` between the pages of a snapshot. The
    /// records are copied: those that are given may be parts of a large message.
    ///
    /// # Errors
    /// A record cannot be decoded. Nothing of the step was applied.
    pub fn apply(
        &mut self,
        is_cleared: bool,
        records: &[(Bytes, Option<Bytes>)],
        through: Option<u64>,
    ) -> Result<(), StateError> {
        let inner = &self.store.inner;
        let engine = match &inner.image().backend {
            Backend::InPlace(engine) => Some(Arc::clone(engine)),
            Backend::Runs(_) => None,
        };
        let published = &inner.published;
        let writer = published.writer();
        let state = published.peek(State::clone);
        let mut step = Step::new(state.view(), state.meta.key_count, self.bytes);
        if is_cleared {
            step.clear();
        }
        step.apply(records).map_err(|source| StateError::Engine { doing: "apply a record", source })?;
        let Step { writes, key_count, bytes, .. } = step;
        let mut next = State { active: state.active.next(), ..state.clone() };
        // Nobody reads between the pages of a snapshot, so that they need no overlay, which takes more memory.
        match engine.filter(|_| through.is_none() && !is_cleared && state.active.is_blank()) {
            Some(engine) => {
                let writes: Vec<_> = writes.into_slots().collect();
                engine.write(&writes).map_err(StateError::engine("write"))?;
            }
            None => next.active.absorb(writes),
        }
        next.meta.key_count = key_count;
        if let Some(index) = through {
            next.meta.applied = Applied { index, ..next.meta.applied };
        }
        published.publish(&writer, next);
        drop((writer, state));
        self.bytes = bytes;
        if self.store.overlay_bytes() > OVERLAY_BYTES {
            self.store.checkpoint()?;
        }
        Ok(())
    }

    /// Records that the state is that at `index`, since no entry up to it changed a selected key.
    pub fn advance(&mut self, index: u64) {
        let published = &self.store.inner.published;
        let writer = published.writer();
        let mut state = published.peek(State::clone);
        state.meta.applied.index = index;
        published.publish(&writer, state);
    }
}

/// The writes of one step.
struct Step<'a> {
    view: View<'a>,
    writes: Writes,
    key_count: u64,
    bytes: u64,
}

impl<'a> Step<'a> {
    fn new(view: View<'a>, key_count: u64, bytes: u64) -> Self {
        Self { view, writes: Writes::default(), key_count, bytes }
    }

    fn clear(&mut self) {
        self.writes.clear();
        (self.key_count, self.bytes) = (0, 0);
    }

    fn now(&self) -> View<'_> {
        View { top: Some(&self.writes), ..self.view }
    }

    fn put(&mut self, raw: Bytes, slot: Slot) -> Result<(), EngineError> {
        let cost = |data: &Bytes| RECORD_BYTES + (raw.len() + data.len()) as u64;
        let freed = self.now().get(&raw)?.as_ref().map_or(0, cost);
        let added = slot.as_ref().map_or(0, cost);
        self.bytes = (self.bytes + added).saturating_sub(freed);
        self.writes.put(raw, slot);
        Ok(())
    }

    fn apply(&mut self, records: &[(Bytes, Slot)]) -> Result<(), EngineError> {
        // A renamed collection keeps its elements.
        let kept: BTreeSet<Bytes> = records
            .iter()
            .filter_map(|(_, slot)| value::encoded_elements_id(slot.as_ref()?))
            .map(Bytes::copy_from_slice)
            .collect();
        for (raw, slot) in records {
            let raw = Bytes::copy_from_slice(raw);
            let slot = slot.as_deref().map(Bytes::copy_from_slice);
            if value::is_data_key(&raw) {
                self.put_key(raw, slot, &kept)?;
            } else if value::element_id(&raw).is_some() {
                self.put(raw, slot)?;
            } else {
                return Err(EngineError::Corrupt(format!("a record has the key {raw:?}")));
            }
        }
        Ok(())
    }

    /// Writes or removes a key, with its place in the expiry index. Removes the elements of the collection that it had.
    fn put_key(&mut self, raw: Bytes, slot: Slot, kept: &BTreeSet<Bytes>) -> Result<(), EngineError> {
        let decoded = |slot: Slot| slot.map(|data| decode(&raw, data)).transpose();
        let (old, new) = (decoded(self.now().get(&raw)?)?, decoded(slot.clone())?);
        let expiry = |value: &Option<Value>| value.as_ref().and_then(|value| value.expire_at_ms);
        let (old_ms, new_ms) = (expiry(&old), expiry(&new));
        let key = value::user_key(&raw);
        if old_ms != new_ms {
            if let Some(at_ms) = old_ms {
                self.put(value::expiry_key(at_ms, &key), None)?;
            }
            if let Some(at_ms) = new_ms {
                self.put(value::expiry_key(at_ms, &key), Some(Bytes::new()))?;
            }
        }
        let id = old.as_ref().and_then(Value::elements_id);
        if let Some(id) = id.filter(|id| !kept.contains(*id)) {
            self.remove_elements(id)?;
        }
        let count = |value: &Option<Value>| u64::from(value.is_some());
        self.key_count = (self.key_count + count(&new)).saturating_sub(count(&old));
        self.put(raw, slot)
    }

    fn remove_elements(&mut self, id: &[u8]) -> Result<(), EngineError> {
        let start = value::element_prefix(id);
        let elements = self.now().range(&start, Some(&value::first_after(&start)));
        let elements: Vec<Bytes> = elements.map(|pair| pair.map(|(raw, _)| raw)).collect::<Result<_, _>>()?;
        elements.into_iter().try_for_each(|raw| self.put(raw, None))
    }
}
