//! A transaction: the changes of one entry, collected before any reader sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, Membership, Reply};

use super::Applied;
use super::budget::{
    Budget, CHUNKS, ENTRY_BUDGET, FEWEST_VISITS, Halt, ITEM_BYTES, Limits, OverBudget, RECORD_BYTES,
};
use super::chunks::{self, PLAIN_BYTES};
use super::engines::{EngineError, Pair};
use super::events::{Event, Fate, Notes};
use super::machine::Driven;
use super::meta::Meta;
use super::value::{self, Kind, Value};
use super::view::View;
use super::writes::Writes;
use crate::faults;

pub(super) struct Txn<'a> {
    view: View<'a>,
    /// Lower bound of all times in the expiry index.
    expiry_floor_ms: u64,
    changes: Changes,
    index: u64,
    machine: Option<&'a dyn Driven>,
    lookups: Lookups,
    /// Number of ids made so far.
    collections: u32,
    /// Seed of the next random number.
    seed: u64,
    /// Keyspace events, if they are recorded.
    notes: Option<Notes>,
    /// Revision of each key that was loaded, as it was before this transaction; recorded for a trial only.
    seen: Option<BTreeMap<Bytes, u64>>,
    budget: Budget,
    /// Version of the entry's budget. A read has that of this build.
    version: u32,
}

/// A suspended transaction, between two commands of a [`Trial`](super::Trial).
pub(super) struct Draft {
    writes: Writes,
    pub seen: BTreeMap<Bytes, u64>,
    /// Keys created minus keys removed; wraps.
    keys_added: u64,
    collections: u32,
    seed: u64,
    /// Budget of all commands so far.
    budget: Budget,
}

impl Draft {
    pub fn new(seed: u64, limits: Limits) -> Self {
        let (writes, seen) = (Writes::default(), BTreeMap::new());
        Self { writes, seen, keys_added: 0, collections: 0, seed, budget: Budget::new(limits) }
    }

    pub fn bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Returns this draft and leaves a blank one in its place.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(0, Limits::DEFAULT_READ))
    }
}

/// Numbers of keys that lookups found and missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lookups {
    pub found: u64,
    pub missed: u64,
}

/// The changes of an entry, which take effect together.
pub(super) struct Changes {
    pub writes: Writes,
    pub meta: Meta,
    /// Earliest expiry that was written, milliseconds since the Unix epoch.
    pub earliest_expiry_ms: Option<u64>,
    /// Time before which this entry left no key in the expiry index, milliseconds since the Unix epoch.
    pub purged_to_ms: Option<u64>,
    pub events: Vec<Event>,
}

impl Changes {
    /// Returns the changes of an entry that only advances the position and the clock.
    pub fn none(meta: Meta) -> Self {
        Self {
            writes: Writes::default(),
            meta,
            earliest_expiry_ms: None,
            purged_to_ms: None,
            events: Vec::new(),
        }
    }
}

impl<'a> Txn<'a> {
    /// Creates a transaction; `meta` already has the entry's position and the log's clock.
    pub fn new(view: View<'a>, expiry_floor_ms: u64, meta: Meta, limits: Limits) -> Self {
        let index = meta.applied.index;
        let changes = Changes::none(meta);
        let lookups = Lookups::default();
        // The seed is the index, so that every member generates the same random numbers.
        let (machine, seen, notes) = (None, None, None);
        Self {
            view,
            expiry_floor_ms,
            changes,
            index,
            machine,
            lookups,
            collections: 0,
            seed: index,
            notes,
            seen,
            budget: Budget::new(limits),
            version: ENTRY_BUDGET,
        }
    }

    /// Resumes the transaction that [`Txn::suspend`] suspended. The state may have changed since: the
    /// revisions in `seen` detect that.
    pub fn resume(view: View<'a>, meta: Meta, draft: Draft) -> Self {
        let Draft { writes, seen, keys_added, collections, seed, budget } = draft;
        let key_count = meta.key_count.wrapping_add(keys_added);
        let mut txn = Self::new(view, 0, Meta { key_count, ..meta }, Limits::DEFAULT_READ);
        // No entry has this index, so the values of a trial are never mistaken for those of an entry.
        txn.index = u64::MAX;
        txn.changes.writes = writes;
        Self { collections, seed, seen: Some(seen), budget, ..txn }
    }

    /// Suspends the transaction; `key_count` is that of the state given to [`Txn::resume`].
    pub fn suspend(self, key_count: u64) -> Draft {
        let Self { changes, collections, seed, seen, budget, .. } = self;
        let keys_added = changes.meta.key_count.wrapping_sub(key_count);
        let seen = seen.unwrap_or_default();
        Draft { writes: changes.writes, seen, keys_added, collections, seed, budget }
    }

    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    pub fn with_machine(self, machine: Option<&'a dyn Driven>) -> Self {
        Self { machine, ..self }
    }

    /// Selects the records that commands visit and write by the version of the entry's budget.
    pub fn with_budget_version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// Whether commands visit the fewest records that their answer needs, from either end of a range. In entries with an
    /// earlier budget they visit, and are charged for, what builds before log format 7 visit.
    pub fn visits_fewest(&self) -> bool {
        self.version >= FEWEST_VISITS
    }

    /// Whether long strings are written in chunks. Entries with an earlier budget write each string as one record, also in
    /// place of one in chunks.
    pub fn writes_chunks(&self) -> bool {
        self.version >= CHUNKS
    }

    /// Records that the state may have strings in chunks.
    pub fn note_chunks(&mut self) {
        self.changes.meta.has_chunks = true;
    }

    pub fn with_events(self, wanted: bool) -> Self {
        Self { notes: wanted.then(Notes::default), ..self }
    }

    /// Names the keyspace events of `command`; called after each command that may change keys.
    pub fn name_events(&mut self, command: &Command) {
        if let Some(notes) = &mut self.notes {
            notes.name(command);
        }
    }

    fn note(&mut self, key: &[u8], fate: Fate) {
        if let Some(notes) = &mut self.notes {
            notes.note(key, fate);
        }
    }

    pub fn machine(&self) -> Option<&'a dyn Driven> {
        self.machine
    }

    /// Returns the entry's position in the log.
    pub fn position(&self) -> Applied {
        self.changes.meta.applied
    }

    pub fn clock_ms(&self) -> u64 {
        self.changes.meta.clock_ms
    }

    /// Charges elements and bytes before they are visited, read or produced.
    pub fn charge(&self, elements: u64, bytes: u64) -> Result<(), OverBudget> {
        self.budget.charge(elements, bytes)
    }

    /// Fails if any charge so far exceeded the limits; called after each command.
    pub fn settle(&self) -> Result<(), OverBudget> {
        self.budget.settle()
    }

    #[cfg(test)]
    pub fn charged_elements(&self) -> u64 {
        self.budget.elements()
    }

    /// Charges `count` items of an answer with `bytes` in total; the overhead of the items is added.
    pub fn charge_items(&self, count: u64, bytes: u64) -> Result<(), OverBudget> {
        self.charge(count, count.saturating_mul(ITEM_BYTES).saturating_add(bytes))
    }

    /// Returns the value of `key`; `None` if it is missing or expired. An expired key is removed. A string in chunks is
    /// not read, see [`chunks::whole`].
    pub fn load(&mut self, key: &[u8]) -> Result<Option<Value>, Halt> {
        let raw_key = value::data_key(key);
        let value = self.now(&raw_key)?.map(|raw| decode(&raw_key, raw)).transpose()?;
        let value = match value {
            Some(value) if value.is_expired(self.clock_ms()) => {
                self.discard(&value);
                self.unlink(key, &value, Fate::Expired);
                None
            }
            value => value,
        };
        // After this transaction removed every key, earlier revisions do not matter.
        if let Some(seen) = self.seen.as_mut().filter(|_| !self.changes.writes.is_cleared())
            && !seen.contains_key(key)
        {
            seen.insert(Bytes::copy_from_slice(key), value.as_ref().map_or(0, |value| value.revision));
        }
        let count = if value.is_some() { &mut self.lookups.found } else { &mut self.lookups.missed };
        *count += 1;
        Ok(value)
    }

    pub fn lookups(&self) -> Lookups {
        self.lookups
    }

    /// Writes a string to `key` in place of `old`, the result of the preceding [`Txn::load`]. If the expiry
    /// has passed, the key is removed.
    pub fn store(&mut self, key: &[u8], old: Option<&Value>, data: Bytes, expire_at_ms: Option<u64>) {
        let mut new = Value { kind: Kind::String, data, revision: self.index, expire_at_ms };
        if self.writes_chunks() && new.data.len() > PLAIN_BYTES && !new.is_expired(self.clock_ms()) {
            (new.kind, new.data) = (Kind::Chunked, chunks::write(self, old, &new.data));
        }
        self.replace(key, old, new);
    }

    /// Writes `old` with another expiry.
    pub fn set_expiry(&mut self, key: &[u8], old: &Value, expire_at_ms: Option<u64>) {
        let revision = faults::revision_after_expiry(self.index, old.revision);
        let new = Value { revision, expire_at_ms, ..old.clone() };
        self.replace(key, Some(old), new);
    }

    /// Writes `new` with the revision it has. The elements of `old` become garbage unless `new` has the same id.
    pub fn replace(&mut self, key: &[u8], old: Option<&Value>, new: Value) {
        if new.is_expired(self.clock_ms()) {
            if let Some(old) = old {
                self.remove(key, old);
            }
            return;
        }
        let old_expiry_ms = old.and_then(|old| old.expire_at_ms);
        if old_expiry_ms != new.expire_at_ms {
            self.unindex(key, old_expiry_ms);
            if let Some(at_ms) = new.expire_at_ms {
                self.put_raw(value::expiry_key(at_ms, key), Some(Bytes::new()));
                let earliest_ms = self.changes.earliest_expiry_ms.unwrap_or(u64::MAX);
                self.changes.earliest_expiry_ms = Some(earliest_ms.min(at_ms));
            }
        }
        if let Some(old) = old.filter(|old| old.elements_id() != new.elements_id()) {
            self.discard(old);
        }
        self.put_raw(value::data_key(key), Some(new.encode()));
        self.note(key, if old.is_none() { Fate::Made } else { Fate::Changed });
        if old.is_none() {
            self.changes.meta.key_count = self.changes.meta.key_count.wrapping_add(1);
        }
    }

    /// Removes `key`, whose value is `old`; its elements or chunks become garbage, removed in bounded steps.
    pub fn remove(&mut self, key: &[u8], old: &Value) {
        self.discard(old);
        self.erase(key, old);
    }

    fn discard(&mut self, old: &Value) {
        if let Some(id) = old.elements_id() {
            self.put_raw(value::garbage_key(id), Some(Bytes::new()));
        }
    }

    /// Removes `key`, whose value is `old`, but not its elements or chunks.
    pub fn erase(&mut self, key: &[u8], old: &Value) {
        self.unlink(key, old, Fate::Removed);
    }

    fn unlink(&mut self, key: &[u8], old: &Value, fate: Fate) {
        self.note(key, fate);
        self.unindex(key, old.expire_at_ms);
        self.put_raw(value::data_key(key), None);
        // Wraps only in a trial, because the state below it changes between its commands.
        self.changes.meta.key_count = self.changes.meta.key_count.wrapping_sub(1);
    }

    /// Removes every key. The request records are kept: a repeated request must not be applied to the emptied
    /// state.
    pub fn remove_all(&mut self) -> Result<(), EngineError> {
        let requests = self.raw_range(value::REQUESTS_START, value::REQUESTS_END)?;
        self.changes.writes.clear();
        self.changes.meta.key_count = 0;
        for (key, record) in faults::kept_requests(requests) {
            self.put_raw(key, Some(record));
        }
        Ok(())
    }

    /// Returns a raw record as it was before this entry.
    pub fn raw(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view.get(key)
    }

    /// Returns the raw records from `start` (inclusive) to `end` (exclusive) as they were before this entry.
    pub fn raw_range(&self, start: &[u8], end: &[u8]) -> Result<Vec<Pair>, EngineError> {
        self.view.range(start, Some(end)).collect()
    }

    /// Returns a raw record with the changes of this entry so far.
    pub fn now(&self, key: &[u8]) -> Result<Option<Bytes>, Halt> {
        self.charge(1, key.len() as u64)?;
        let found = self.with_changes().get(key)?;
        self.charge(0, found.as_ref().map_or(0, Bytes::len) as u64)?;
        Ok(found)
    }

    /// Like [`Txn::now`], without a charge: for work with its own bound of records.
    pub fn now_uncharged(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.with_changes().get(key)
    }

    /// Returns the revision of a live key; 0 if there is none. The value's bytes are not charged, because it
    /// is not kept.
    pub fn revision_of(&mut self, key: &[u8]) -> Result<u64, Halt> {
        self.charge(1, key.len() as u64)?;
        Ok(self.revision_now(key)?)
    }

    /// Like [`Txn::revision_of`], without a charge.
    pub fn revision_now(&self, key: &[u8]) -> Result<u64, EngineError> {
        let raw_key = value::data_key(key);
        let value = self.with_changes().get(&raw_key)?.map(|raw| decode(&raw_key, raw)).transpose()?;
        let value = value.filter(|value| !value.is_expired(self.clock_ms()));
        Ok(value.map_or(0, |value| value.revision))
    }

    /// Like [`Txn::range_now`], without a charge: for work with its own bound of records.
    pub fn range_uncharged<'s>(
        &'s self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<Pair, EngineError>> + use<'s> {
        self.with_changes().range(start, Some(end))
    }

    /// Returns the raw records of a range with the changes of this entry so far. Each record is charged.
    pub fn range_now<'s>(
        &'s self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<Pair, Halt>> + use<'s> {
        self.charged(self.with_changes().range(start, Some(end)))
    }

    /// Returns the records of [`Txn::range_now`] in descending order.
    pub fn range_back_now<'s>(
        &'s self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<Pair, Halt>> + use<'s> {
        self.charged(self.with_changes().range_back(start, Some(end)))
    }

    fn charged<'s, I: Iterator<Item = Result<Pair, EngineError>> + 's>(
        &'s self,
        records: I,
    ) -> impl Iterator<Item = Result<Pair, Halt>> + use<'s, I> {
        records.map(|pair| {
            let (key, value) = pair?;
            self.charge_items(1, (key.len() + value.len()) as u64)?;
            Ok((key, value))
        })
    }

    pub fn with_changes(&self) -> View<'_> {
        View { top: Some(&self.changes.writes), ..self.view }
    }

    /// Returns the next id for a collection, or a string in chunks, that this entry creates.
    pub fn new_id(&mut self) -> Bytes {
        let mut id = Vec::with_capacity(value::ID_BYTES);
        id.put_u64(self.index);
        id.put_u32(self.collections);
        self.collections += faults::collection_step();
        id.into()
    }

    /// Returns a random number below `limit`, which is above 0 (SplitMix64: the same on every member).
    pub fn random(&mut self, limit: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub fn revision(&self) -> u64 {
        self.index
    }

    pub fn key_count(&self) -> u64 {
        self.changes.meta.key_count
    }

    pub fn put_raw(&mut self, key: Bytes, record: Option<Bytes>) {
        let bytes = key.len() + record.as_ref().map_or(0, Bytes::len);
        self.budget.charge_later(1, RECORD_BYTES + bytes as u64);
        self.changes.writes.put(key, record);
    }

    /// Returns at most `limit` expired keys, the earliest expiry first. The caller removes them all.
    pub fn expired_keys(&mut self, limit: usize) -> Result<Vec<Bytes>, EngineError> {
        let start = value::expiry_key(self.expiry_floor_ms, b"");
        let (mut keys, mut last_ms) = (Vec::new(), 0);
        for pair in self.view.range(&start, Some(value::EXPIRY_END)).take(limit) {
            match value::split_expiry_key(&pair?.0) {
                Some((at_ms, key)) if at_ms <= self.clock_ms() => {
                    keys.push(key);
                    last_ms = at_ms;
                }
                _ => break,
            }
        }
        self.changes.purged_to_ms = Some(if keys.len() < limit { self.clock_ms() } else { last_ms });
        Ok(keys)
    }

    pub fn membership_mut(&mut self) -> &mut Membership {
        Arc::make_mut(&mut self.changes.meta.membership)
    }

    /// Returns a reply with the position of this entry.
    pub fn reply(&self, answer: Answer) -> Reply {
        let Applied { index, term } = self.changes.meta.applied;
        Reply { kind: Some(answer), term, index }
    }

    pub fn finish(self) -> Changes {
        let events = self.notes.map(|notes| notes.events).unwrap_or_default();
        Changes { events, ..self.changes }
    }

    fn unindex(&mut self, key: &[u8], expire_at_ms: Option<u64>) {
        if let Some(at_ms) = expire_at_ms {
            self.put_raw(value::expiry_key(at_ms, key), None);
        }
    }
}

/// Decodes the value `raw` of `raw_key`; an error if it is damaged.
pub(super) fn decode(raw_key: &Bytes, raw: Bytes) -> Result<Value, EngineError> {
    Value::decode(raw)
        .ok_or_else(|| EngineError::Corrupt(format!("the value of key {raw_key:?} cannot be decoded")))
}
