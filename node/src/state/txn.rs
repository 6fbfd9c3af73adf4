//! One entry's changes, gathered before any reader sees them.

use std::sync::Arc;

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Membership, Reply};

use super::Applied;
use super::engines::{EngineError, Pair};
use super::machine::Driven;
use super::meta::Meta;
use super::overlay::Overlay;
use super::value::{self, Kind, Value};
use super::view::View;

pub(super) struct Txn<'a> {
    view: View<'a>,
    /// No expiry index key lies below this time.
    expiry_floor_ms: u64,
    changes: Changes,
    index: u64,
    machine: Option<&'a dyn Driven>,
}

/// What an entry does to the state, all of it or nothing.
pub(super) struct Changes {
    pub overlay: Overlay,
    pub meta: Meta,
    /// Earliest expiry that was written.
    pub earliest_expiry_ms: Option<u64>,
}

impl Changes {
    /// Those of an entry that only moves the position and the clock.
    pub fn none(meta: Meta) -> Self {
        Self { overlay: Overlay::default(), meta, earliest_expiry_ms: None }
    }
}

impl<'a> Txn<'a> {
    /// `meta` already carries the entry's position and the log's clock.
    pub fn new(view: View<'a>, expiry_floor_ms: u64, meta: Meta) -> Self {
        let index = meta.applied.index;
        Self { view, expiry_floor_ms, changes: Changes::none(meta), index, machine: None }
    }

    pub fn with_machine(self, machine: Option<&'a dyn Driven>) -> Self {
        Self { machine, ..self }
    }

    pub fn machine(&self) -> Option<&'a dyn Driven> {
        self.machine
    }

    /// Of the entry in the log.
    pub fn position(&self) -> Applied {
        self.changes.meta.applied
    }

    pub fn clock_ms(&self) -> u64 {
        self.changes.meta.clock_ms
    }

    /// What a live `key` holds. The remains of an expired one are removed.
    pub fn load(&mut self, key: &[u8]) -> Result<Option<Value>, EngineError> {
        let raw_key = value::data_key(key);
        let raw = match self.changes.overlay.get(&raw_key) {
            Some(slot) => slot,
            None => self.view.get(&raw_key)?,
        };
        let Some(raw) = raw else { return Ok(None) };
        let value = decode(&raw_key, raw)?;
        if value.is_expired(self.clock_ms()) {
            self.remove(key, &value);
            return Ok(None);
        }
        Ok(Some(value))
    }

    /// Writes `key` in place of `old`, which is what [`Txn::load`] just answered. An expiry that
    /// has passed leaves the key absent.
    pub fn store(&mut self, key: &[u8], old: Option<&Value>, data: Bytes, expire_at_ms: Option<u64>) {
        let new = Value { kind: Kind::String, data, revision: self.index, expire_at_ms };
        self.replace(key, old, new);
    }

    /// Changes the expiry of `old` only.
    pub fn set_expiry(&mut self, key: &[u8], old: &Value, expire_at_ms: Option<u64>) {
        let new = Value { revision: self.index, expire_at_ms, ..old.clone() };
        self.replace(key, Some(old), new);
    }

    fn replace(&mut self, key: &[u8], old: Option<&Value>, new: Value) {
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
                self.changes.overlay.put(value::expiry_key(at_ms, key), Some(Bytes::new()));
                let earliest_ms = self.changes.earliest_expiry_ms.unwrap_or(u64::MAX);
                self.changes.earliest_expiry_ms = Some(earliest_ms.min(at_ms));
            }
        }
        self.changes.overlay.put(value::data_key(key), Some(new.encode()));
        if old.is_none() {
            self.changes.meta.key_count += 1;
        }
    }

    /// Removes `key`, which holds `old`.
    pub fn remove(&mut self, key: &[u8], old: &Value) {
        self.unindex(key, old.expire_at_ms);
        self.changes.overlay.put(value::data_key(key), None);
        self.changes.meta.key_count -= 1;
    }

    /// Removes every key. What is known of requests stays: one sent again must not be applied to
    /// the emptied state.
    pub fn remove_all(&mut self) -> Result<(), EngineError> {
        let requests = self.raw_range(value::REQUESTS_START, value::REQUESTS_END)?;
        self.changes.overlay.clear();
        self.changes.meta.key_count = 0;
        for (key, record) in requests {
            self.put_raw(key, Some(record));
        }
        Ok(())
    }

    /// A record that is no user's key, as it was before this entry.
    pub fn raw(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view.get(key)
    }

    /// Records from `start` (inclusive) to `end` (exclusive), as they were before this entry.
    pub fn raw_range(&self, start: &[u8], end: &[u8]) -> Result<Vec<Pair>, EngineError> {
        self.view.range(start, Some(end)).collect()
    }

    pub fn put_raw(&mut self, key: Bytes, record: Option<Bytes>) {
        self.changes.overlay.put(key, record);
    }

    /// Keys that have expired, the earliest first, at most `limit`.
    pub fn expired_keys(&self, limit: usize) -> Result<Vec<Bytes>, EngineError> {
        let start = value::expiry_key(self.expiry_floor_ms, b"");
        let mut keys = Vec::new();
        for pair in self.view.range(&start, Some(value::EXPIRY_END)).take(limit) {
            match value::split_expiry_key(&pair?.0) {
                Some((at_ms, key)) if at_ms <= self.clock_ms() => keys.push(key),
                _ => break,
            }
        }
        Ok(keys)
    }

    pub fn membership_mut(&mut self) -> &mut Membership {
        Arc::make_mut(&mut self.changes.meta.membership)
    }

    /// The reply of this entry.
    pub fn reply(&self, answer: Answer) -> Reply {
        let Applied { index, term } = self.changes.meta.applied;
        Reply { kind: Some(answer), term, index }
    }

    pub fn finish(self) -> Changes {
        self.changes
    }

    fn unindex(&mut self, key: &[u8], expire_at_ms: Option<u64>) {
        if let Some(at_ms) = expire_at_ms {
            self.changes.overlay.put(value::expiry_key(at_ms, key), None);
        }
    }
}

/// The value that `raw` encodes under `raw_key`.
pub(super) fn decode(raw_key: &Bytes, raw: Bytes) -> Result<Value, EngineError> {
    Value::decode(raw)
        .ok_or_else(|| EngineError::Corrupt(format!("the value of key {raw_key:?} cannot be decoded")))
}
