//! Hashes, sets, lists and sorted sets: a header under the key, and a record for each element under the
//! collection's id. The cost of a command depends on the elements it touches, not on the size of the key.
//!
//! The header counts the elements. An id is never reused: a key that is deleted or overwritten leaves only
//! its id as garbage, whose elements [`sweep`] removes in bounded steps, and a renamed key keeps its id. A
//! list has no gaps: its elements are numbered from `first` on.

use bytes::{Buf, BufMut, Bytes};

use super::budget::Halt;
use super::command::{Failure, wrong_type};
use super::engines::{EngineError, Pair};
use super::txn::Txn;
use super::value::{self, ID_BYTES, Kind, Value};

/// A collection while a command modifies it; [`Collection::save`] writes its header.
#[derive(Debug, Clone)]
pub(super) struct Collection {
    key: Bytes,
    kind: Kind,
    id: Bytes,
    /// Number of elements.
    pub count: u64,
    /// Number of a list's first element.
    pub first: i64,
    /// Value of the key before the command.
    old: Option<Value>,
}

/// An element: its name within the collection, and its data.
pub(super) type Element = (Bytes, Bytes);

impl Collection {
    /// Loads the collection of `key`; `None` if there is no such key. Fails if the key has another type.
    pub fn find(txn: &mut Txn<'_>, key: &Bytes, kind: Kind) -> Result<Option<Self>, Failure> {
        match txn.load(key)? {
            None => Ok(None),
            Some(value) if value.kind == kind => Self::decode(key, value).map(Some).map_err(Failure::from),
            Some(_) => Err(wrong_type()),
        }
    }

    pub fn find_or_new(txn: &mut Txn<'_>, key: &Bytes, kind: Kind) -> Result<Self, Failure> {
        Ok(match Self::find(txn, key, kind)? {
            Some(found) => found,
            None => Self::new(txn, key, kind, None),
        })
    }

    /// Removes the value of `key`, whatever its type, and returns an empty collection for it.
    pub fn in_place_of_any(txn: &mut Txn<'_>, key: &Bytes, kind: Kind) -> Result<Self, Halt> {
        let mut old = txn.load(key)?;
        if let Some(old) = &mut old {
            txn.remove(key, old);
        }
        Ok(Self::new(txn, key, kind, None))
    }

    fn new(txn: &mut Txn<'_>, key: &Bytes, kind: Kind, old: Option<Value>) -> Self {
        Self { key: key.clone(), kind, id: txn.new_id(), count: 0, first: 0, old }
    }

    fn decode(key: &Bytes, value: Value) -> Result<Self, EngineError> {
        let damaged = || EngineError::Corrupt(format!("the header of key {key:?} cannot be decoded"));
        let mut data = value.data.clone();
        if data.len() != ID_BYTES + 16 {
            return Err(damaged());
        }
        let id = data.split_to(ID_BYTES);
        let (count, first) = (data.get_u64(), data.get_i64());
        Ok(Self { key: key.clone(), kind: value.kind, id, count, first, old: Some(value) })
    }

    /// Returns the data of the element `name`.
    pub fn get(&self, txn: &Txn<'_>, name: &[u8]) -> Result<Option<Bytes>, Halt> {
        txn.now(&self.raw(name))
    }

    pub fn put(&self, txn: &mut Txn<'_>, name: &[u8], data: Bytes) {
        txn.put_raw(self.raw(name), Some(data));
    }

    pub fn remove(&self, txn: &mut Txn<'_>, name: &[u8]) {
        txn.put_raw(self.raw(name), None);
    }

    /// Returns the elements in the order of their names, from `start` (inclusive) to `end` (exclusive;
    /// `None`: to the last).
    pub fn range<'t>(
        &self,
        txn: &'t Txn<'_>,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Element, Halt>> + use<'t> {
        txn.range_now(&self.raw(start), &self.raw_end(end)).map(element)
    }

    /// Returns the elements of [`Collection::range`] in descending order.
    pub fn range_back<'t>(
        &self,
        txn: &'t Txn<'_>,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Element, Halt>> + use<'t> {
        txn.range_back_now(&self.raw(start), &self.raw_end(end)).map(element)
    }

    fn raw_end(&self, end: Option<&[u8]>) -> Vec<u8> {
        end.map_or_else(|| end_of(&self.id), |end| self.raw(end).to_vec())
    }

    /// Writes the header; removes the key if the collection has no elements.
    pub fn save(self, txn: &mut Txn<'_>) {
        let Self { key, kind, id, count, first, old } = self;
        if count == 0 {
            if let Some(old) = old {
                txn.erase(&key, &old);
            }
            return;
        }
        let mut data = Vec::with_capacity(ID_BYTES + 16);
        data.put_slice(&id);
        data.put_u64(count);
        data.put_i64(first);
        let expire_at_ms = old.as_ref().and_then(|old| old.expire_at_ms);
        let new = Value { kind, data: data.into(), revision: txn.revision(), expire_at_ms };
        txn.replace(&key, old.as_ref(), new);
    }

    fn raw(&self, name: &[u8]) -> Bytes {
        let mut raw = value::element_prefix(&self.id);
        raw.put_slice(name);
        raw.into()
    }
}

fn element(record: Result<Pair, Halt>) -> Result<Element, Halt> {
    record.map(|(raw, data)| (raw.slice(1 + ID_BYTES..), data))
}

/// Returns the number of elements of the collection whose header is `value`; `None` for another type.
pub(super) fn count_of(value: &Value) -> Option<u64> {
    let mut data = value.data.clone();
    value.elements_id().filter(|_| value.kind != Kind::Chunked)?;
    data.advance(ID_BYTES);
    data.try_get_u64().ok()
}

/// Returns the first raw key after the elements of `id`. All ids have one length, so none is a prefix of
/// another.
fn end_of(id: &[u8]) -> Vec<u8> {
    value::first_after(&value::element_prefix(id))
}

/// Removes at most `limit` elements, and chunks, of ids that no key refers to any more; returns their number.
pub(super) fn sweep(txn: &mut Txn<'_>, limit: usize) -> Result<usize, EngineError> {
    let mut swept = 0;
    // Each mark is looked for after the one before, so that the removed ones are iterated over once.
    let mut from = Bytes::from_static(value::GARBAGE_START);
    while swept < limit {
        let first = txn.range_uncharged(&from, value::GARBAGE_END).next().transpose()?;
        let Some((mark, progress)) = first else { break };
        from = [&mark, [0].as_slice()].concat().into();
        let id = mark.slice(1..);
        // Continuing after the last removed element avoids iterating over the removals before it.
        let start = if progress.is_empty() { value::element_prefix(&id).into() } else { progress };
        let elements: Result<Vec<_>, _> = txn
            .range_uncharged(&start, &end_of(&id))
            .take(limit - swept)
            .map(|pair| pair.map(|(raw, _)| raw))
            .collect();
        let elements = elements?;
        let is_done = elements.len() < limit - swept;
        // A garbage mark counts as one element, so that many marks without elements are bounded too.
        swept += elements.len().max(1);
        match elements.last() {
            Some(last) if !is_done => txn.put_raw(mark, Some(last.clone())),
            _ => txn.put_raw(mark, None),
        }
        for raw in elements {
            txn.put_raw(raw, None);
        }
    }
    Ok(swept)
}
