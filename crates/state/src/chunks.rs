//! Strings in chunks: a header under the key, and a record for each chunk under an id, as a collection has them for its
//! elements. A command reads and writes the chunks that it touches, not the string (ADR 0040).
//!
//! The header has the id and the length. The element of a chunk is its number. A chunk that is missing, or that ends
//! before its place does, reads as zeros from there on, so a write far behind the end writes one chunk. No chunk has
//! bytes behind the end of the string.
//!
//! An entry decides the layout when it writes a string ([`Txn::store`], [`edit`]). Strings up to [`PLAIN_BYTES`], and
//! all strings that entries with an earlier budget write, are one record. A string in chunks stays so until it is set
//! as a whole.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};

use super::budget::Halt;
use super::engines::EngineError;
use super::txn::Txn;
use super::value::{self, ID_BYTES, Kind, Value};
use super::view::View;
use super::writes::Writes;

/// Length of a chunk, bytes. Part of the log format.
pub(super) const CHUNK_BYTES: usize = 16 << 10;
/// Maximum length of a string in one record, bytes. Part of the log format.
pub(super) const PLAIN_BYTES: usize = CHUNK_BYTES;
/// Length of a header: the id, and the length of the string (u64).
pub(super) const HEADER_BYTES: usize = ID_BYTES + 8;
/// Maximum number of chunks that are looked up one by one: a range of records costs more to begin.
const LOOKED_UP: usize = 8;

/// The header of a string in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunks {
    id: Bytes,
    /// Length of the string, bytes.
    pub length: usize,
}

impl Chunks {
    /// Returns the header that `value` is; `None` for another kind of value.
    pub fn of(value: &Value) -> Option<Self> {
        // Decoded values have headers of this length only.
        let is_header = value.kind == Kind::Chunked && value.data.len() == HEADER_BYTES;
        let length = value.data.get(ID_BYTES..).filter(|_| is_header)?.get_u64();
        Some(Self { id: value.data.slice(..ID_BYTES), length: usize::try_from(length).ok()? })
    }

    fn header(&self) -> Bytes {
        let mut data = Vec::with_capacity(HEADER_BYTES);
        data.put_slice(&self.id);
        data.put_u64(self.length as u64);
        data.into()
    }

    /// Returns the number of chunks, missing ones included.
    pub fn count(&self) -> usize {
        self.length.div_ceil(CHUNK_BYTES)
    }

    fn raw(&self, number: usize) -> Bytes {
        let mut raw = value::element_prefix(&self.id);
        raw.put_u32(number as u32);
        raw.into()
    }

    /// Returns the bytes of `range`, which is within the string.
    pub fn read(&self, view: &View<'_>, range: Range<usize>) -> Result<Vec<u8>, EngineError> {
        let mut out = Vec::with_capacity(range.len());
        for record in self.records(*view, numbers(&range)) {
            let (number, data) = record?;
            let at = number * CHUNK_BYTES;
            let (start, end) = (range.start.max(at), range.end.min(at + data.len()));
            if start < end {
                out.resize(start - range.start, 0);
                out.extend_from_slice(&data[start - at..end - at]);
            }
        }
        out.resize(range.len(), 0);
        Ok(out)
    }

    fn records<'v>(
        &self,
        view: View<'v>,
        numbers: Range<usize>,
    ) -> Box<dyn Iterator<Item = Result<(usize, Bytes), EngineError>> + 'v> {
        if numbers.len() <= LOOKED_UP {
            let keys: Vec<_> = numbers.map(|number| (number, self.raw(number))).collect();
            let found = keys.into_iter().map(move |(number, raw)| Ok((number, view.get(&raw)?)));
            return Box::new(found.filter_map(|found| match found {
                Ok((number, data)) => Some(Ok((number, data?))),
                Err(error) => Some(Err(error)),
            }));
        }
        let found = view.range(&self.raw(numbers.start), Some(&self.raw(numbers.end)));
        Box::new(found.map(|pair| pair.and_then(|(raw, data)| Ok((number_of(&raw)?, data)))))
    }

    /// Returns the chunks if `writes` has every one of them: the entry wrote the string as a whole.
    pub fn all_in(&self, writes: &Writes) -> Option<Vec<Bytes>> {
        let slots = writes.range(&self.raw(0), Some(&self.raw(self.count())));
        let chunks: Vec<Bytes> = slots.filter_map(|(_, slot)| slot).collect();
        (chunks.len() == self.count()).then_some(chunks)
    }
}

/// Returns the numbers of the chunks that `range` touches.
fn numbers(range: &Range<usize>) -> Range<usize> {
    if range.is_empty() { 0..0 } else { range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES) }
}

fn number_of(raw: &Bytes) -> Result<usize, EngineError> {
    let mut number = raw.get(1 + ID_BYTES..).unwrap_or_default();
    let number = number.try_get_u32().ok().filter(|_| number.is_empty());
    number
        .map(|number| number as usize)
        .ok_or_else(|| EngineError::Corrupt(format!("{raw:?} is not the key of a chunk")))
}

/// Returns the length of a string, bytes.
pub(super) fn length_of(value: &Value) -> usize {
    Chunks::of(value).map_or(value.data.len(), |chunks| chunks.length)
}

/// Returns `value` as users see it: a string in chunks is read.
pub(super) fn whole_of(view: &View<'_>, value: Value) -> Result<Value, EngineError> {
    let Some(chunks) = Chunks::of(&value) else { return Ok(value) };
    let data = chunks.read(view, 0..chunks.length)?.into();
    Ok(Value { kind: Kind::String, data, ..value })
}

/// Returns the bytes of `range`, which is within the string `value`. Its chunks are charged.
pub(super) fn part(txn: &Txn<'_>, value: &Value, range: Range<usize>) -> Result<Bytes, Halt> {
    match Chunks::of(value) {
        None => Ok(value.data.slice(range)),
        Some(chunks) => charged(txn, &chunks, range).map(Bytes::from),
    }
}

/// Returns the content of the string `value`. Its chunks are charged.
pub(super) fn whole(txn: &Txn<'_>, value: &Value) -> Result<Bytes, Halt> {
    part(txn, value, 0..length_of(value))
}

fn charged(txn: &Txn<'_>, chunks: &Chunks, range: Range<usize>) -> Result<Vec<u8>, Halt> {
    let numbers = numbers(&range);
    let bytes =
        (numbers.end * CHUNK_BYTES).min(chunks.length) - (numbers.start * CHUNK_BYTES).min(chunks.length);
    txn.charge(numbers.len() as u64, bytes as u64)?;
    Ok(chunks.read(&txn.with_changes(), range)?)
}

/// Writes `data` as chunks. Those of `old`, if it has any, are replaced under the same id, so that a string that is set
/// again and again leaves no garbage. Returns the header.
pub(super) fn write(txn: &mut Txn<'_>, old: Option<&Value>, data: &[u8]) -> Bytes {
    let old = old.and_then(Chunks::of);
    let old_count = old.as_ref().map_or(0, Chunks::count);
    let id = old.map_or_else(|| txn.new_id(), |old| old.id);
    let chunks = Chunks { id, length: data.len() };
    put(txn, &chunks, 0, data);
    for number in chunks.count()..old_count {
        txn.put_raw(chunks.raw(number), None);
    }
    chunks.header()
}

/// Writes `data` to the chunks from `first` on.
fn put(txn: &mut Txn<'_>, chunks: &Chunks, first: usize, data: &[u8]) {
    txn.note_chunks();
    for (number, chunk) in (first..).zip(data.chunks(CHUNK_BYTES)) {
        txn.put_raw(chunks.raw(number), Some(Bytes::copy_from_slice(chunk)));
    }
}

/// Copies the chunks of `source` to a new id, so that missing ones stay missing. Returns the header.
pub(super) fn copy(txn: &mut Txn<'_>, source: &Chunks) -> Result<Bytes, Halt> {
    let target = Chunks { id: txn.new_id(), length: source.length };
    txn.charge(source.count() as u64, source.length as u64)?;
    let view = txn.with_changes();
    let records: Vec<_> = source.records(view, 0..source.count()).collect::<Result<_, _>>()?;
    txn.note_chunks();
    for (number, data) in records {
        txn.put_raw(target.raw(number), Some(data));
    }
    Ok(target.header())
}

/// Changes the bytes of `range` of the string that `key` holds; `old` is the result of the preceding [`Txn::load`]. A
/// string that ends before `range` is extended by zeros. Keeps the expiry. Returns the new length and the result of
/// `change`, which gets the bytes of `range`.
pub(super) fn edit<T>(
    txn: &mut Txn<'_>,
    key: &Bytes,
    old: Option<&Value>,
    range: Range<usize>,
    change: impl FnOnce(&mut [u8]) -> T,
) -> Result<(usize, T), Halt> {
    let length = old.map_or(0, length_of).max(range.end);
    let expire_at_ms = old.and_then(|old| old.expire_at_ms);
    let chunked = old.and_then(Chunks::of);
    if !txn.writes_chunks() || (chunked.is_none() && length <= PLAIN_BYTES) {
        let mut data = old.map(|old| whole(txn, old)).transpose()?.map(Vec::from).unwrap_or_default();
        data.resize(length, 0);
        let result = change(&mut data[range]);
        txn.store(key, old, data.into(), expire_at_ms);
        return Ok((length, result));
    }
    let held = match chunked {
        Some(chunks) => chunks,
        None => {
            // A string in one record that outgrows it, or that an earlier build wrote.
            let data = old.map(|old| old.data.clone()).unwrap_or_default();
            let chunks = Chunks { id: txn.new_id(), length: data.len() };
            put(txn, &chunks, 0, &data);
            chunks
        }
    };
    let touched = numbers(&range);
    // An empty range touches no chunk.
    let range = if range.is_empty() { 0..0 } else { range };
    let (start, end) = (touched.start * CHUNK_BYTES, (touched.end * CHUNK_BYTES).min(length));
    txn.charge(0, (end - start) as u64)?;
    let mut span = charged(txn, &held, start.min(held.length)..end.min(held.length))?;
    span.resize(end - start, 0);
    let result = change(&mut span[range.start - start..range.end - start]);
    let chunks = Chunks { length, ..held };
    put(txn, &chunks, touched.start, &span);
    let new = Value { kind: Kind::Chunked, data: chunks.header(), revision: txn.revision(), expire_at_ms };
    txn.replace(key, old, new);
    Ok((length, result))
}
