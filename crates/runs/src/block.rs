//! Blocks of sorted slots. Keys share their prefix with the key before; every 16th is whole (a restart point).
//!
//! ```text
//! shared varint | suffix length varint | value length + 1 varint, 0 for a tombstone | suffix | value     once per slot
//! offset u32 of each restart point | number of restart points u32
//! ```

use std::ops::{Deref, Range};

use bytes::{BufMut, Bytes};

use crate::Slot;
use crate::format::{put_varint, take, take_u32, take_varint};

const RESTART_EVERY: usize = 16;
/// A value up to this size is copied out of its block, so that it does not keep the whole block in memory.
const COPIED_BYTES: usize = 1 << 10;

#[derive(Default)]
pub struct Builder {
    out: Vec<u8>,
    restarts: Vec<u32>,
    count: usize,
    last_key: Vec<u8>,
}

impl Builder {
    /// Appends a slot; `key` is greater than all before.
    pub fn add(&mut self, key: &[u8], slot: &Slot) {
        let shared = if self.count.is_multiple_of(RESTART_EVERY) {
            self.restarts.push(self.out.len() as u32);
            0
        } else {
            self.last_key.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        put_varint(&mut self.out, shared as u64);
        put_varint(&mut self.out, (key.len() - shared) as u64);
        put_varint(&mut self.out, slot.as_ref().map_or(0, |value| value.len() as u64 + 1));
        self.out.put_slice(&key[shared..]);
        self.out.put_slice(slot.as_deref().unwrap_or_default());
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.count += 1;
    }

    pub fn bytes(&self) -> usize {
        self.out.len() + 4 * self.restarts.len() + 4
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Returns the encoded block and clears the builder.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.out);
        for restart in &self.restarts {
            out.put_u32(*restart);
        }
        out.put_u32(self.restarts.len() as u32);
        self.restarts.clear();
        self.last_key.clear();
        self.count = 0;
        out
    }
}

/// An encoded block, and how its values are taken out.
pub trait Encoded: Deref<Target = [u8]> {
    fn value(&self, range: Range<usize>) -> Bytes;
}

impl Encoded for Bytes {
    fn value(&self, range: Range<usize>) -> Bytes {
        if range.len() <= COPIED_BYTES { Self::copy_from_slice(&self[range]) } else { self.slice(range) }
    }
}

impl Encoded for &[u8] {
    fn value(&self, range: Range<usize>) -> Bytes {
        Bytes::copy_from_slice(&self[range])
    }
}

/// A cursor over the slots of an encoded block.
pub struct Cursor<B = Bytes> {
    block: B,
    /// End of the slots.
    end: usize,
    at: usize,
    key: Vec<u8>,
}

/// First byte and length of a value; `None` for a tombstone.
type Position = Option<(usize, usize)>;

/// The block cannot be decoded: its checksum was right, so it was written wrongly.
#[derive(Debug)]
pub struct Malformed;

impl<B: Encoded> Cursor<B> {
    /// Creates a cursor at the first slot.
    pub fn new(block: B) -> Result<Self, Malformed> {
        let restarts = block.len().checked_sub(4).ok_or(Malformed)?;
        let count = take_u32(&mut &block[restarts..]).ok_or(Malformed)? as usize;
        let end = count.checked_mul(4).and_then(|bytes| restarts.checked_sub(bytes)).ok_or(Malformed)?;
        Ok(Self { block, end, at: 0, key: Vec::new() })
    }

    /// Creates a cursor at the last restart point whose key is not above `key`.
    pub fn seek(block: B, key: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Self::new(block)?;
        let count = cursor.restart_count();
        let (mut low, mut high) = (0, count);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if cursor.restart_key(middle)? <= key { low = middle } else { high = middle }
        }
        if count > 0 {
            cursor.at = cursor.restart(low)?;
        }
        Ok(cursor)
    }

    fn restart(&self, number: usize) -> Result<usize, Malformed> {
        let at = take_u32(&mut &self.block[self.end + 4 * number..]).ok_or(Malformed)? as usize;
        if at < self.end { Ok(at) } else { Err(Malformed) }
    }

    fn restart_key(&self, number: usize) -> Result<&[u8], Malformed> {
        let mut rest = &self.block[self.restart(number)?..self.end];
        let parts = head(&mut rest).ok_or(Malformed)?;
        take(&mut rest, parts.suffix).ok_or(Malformed)
    }

    /// Returns the next slot; `None` after the last. The key is valid until the next call.
    pub fn next(&mut self) -> Result<Option<(&[u8], Slot)>, Malformed> {
        match self.advance()? {
            None => Ok(None),
            Some(value) => Ok(Some((&self.key, self.slot(value)))),
        }
    }

    /// Returns the slot of `key`, if it is in the block; called on a cursor made by [`Cursor::seek`].
    pub fn find(mut self, key: &[u8]) -> Result<Option<Slot>, Malformed> {
        while let Some(value) = self.advance()? {
            match self.key.as_slice().cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(self.slot(value))),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Moves to the next slot: sets its key and returns the position of its value.
    fn advance(&mut self) -> Result<Option<Position>, Malformed> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut rest = &self.block[self.at..self.end];
        let Head { shared, suffix, value } = head(&mut rest).ok_or(Malformed)?;
        let suffix = take(&mut rest, suffix).ok_or(Malformed)?;
        if shared > self.key.len() {
            return Err(Malformed);
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        let start = self.end - rest.len();
        take(&mut rest, value.unwrap_or(0)).ok_or(Malformed)?;
        self.at = self.end - rest.len();
        Ok(Some(value.map(|len| (start, len))))
    }

    fn restart_count(&self) -> usize {
        (self.block.len() - 4 - self.end) / 4
    }

    fn slot(&self, value: Position) -> Slot {
        value.map(|(start, len)| self.block.value(start..start + len))
    }
}

/// A cursor over the slots of an encoded block in descending order. It decodes one restart interval at a time.
pub struct BackCursor {
    cursor: Cursor,
    /// Number of restart intervals that are not decoded yet.
    left: usize,
    /// Slots of the decoded interval that were not returned yet, in ascending order.
    decoded: Vec<(Bytes, Position)>,
}

impl BackCursor {
    /// Creates a cursor behind the last slot below `end`, or behind the last slot.
    pub fn new(block: Bytes, end: Option<&[u8]>) -> Result<Self, Malformed> {
        let cursor = Cursor::new(block)?;
        let (mut low, mut high) = (0, cursor.restart_count());
        while let Some(end) = end
            && low < high
        {
            let middle = (low + high) / 2;
            if cursor.restart_key(middle)? < end { low = middle + 1 } else { high = middle }
        }
        let mut back = Self { cursor, left: high, decoded: Vec::new() };
        back.decode()?;
        let is_in = |(key, _): &(Bytes, Position)| end.is_none_or(|end| key.as_ref() < end);
        back.decoded.truncate(back.decoded.partition_point(is_in));
        Ok(back)
    }

    /// Decodes the interval before those that were decoded.
    fn decode(&mut self) -> Result<(), Malformed> {
        let Some(number) = self.left.checked_sub(1) else { return Ok(()) };
        let cursor = &mut self.cursor;
        let is_last = self.left == cursor.restart_count();
        let end = if is_last { cursor.end } else { cursor.restart(self.left)? };
        cursor.at = cursor.restart(number)?;
        cursor.key.clear();
        while cursor.at < end
            && let Some(value) = cursor.advance()?
        {
            self.decoded.push((Bytes::copy_from_slice(&cursor.key), value));
        }
        self.left = number;
        Ok(())
    }

    /// Returns the slot before; `None` at the first one.
    pub fn next(&mut self) -> Result<Option<(Bytes, Slot)>, Malformed> {
        while self.decoded.is_empty() && self.left > 0 {
            self.decode()?;
        }
        Ok(self.decoded.pop().map(|(key, value)| (key, self.cursor.slot(value))))
    }
}

struct Head {
    shared: usize,
    suffix: usize,
    /// Length of the value; `None` for a tombstone.
    value: Option<usize>,
}

fn head(bytes: &mut &[u8]) -> Option<Head> {
    let shared = usize::try_from(take_varint(bytes)?).ok()?;
    let suffix = usize::try_from(take_varint(bytes)?).ok()?;
    let value = usize::try_from(take_varint(bytes)?).ok()?;
    Some(Head { shared, suffix, value: value.checked_sub(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: usize) -> Vec<(Vec<u8>, Slot)> {
        let slot = |n: usize| (!n.is_multiple_of(5)).then(|| Bytes::from(vec![n as u8; n % 40]));
        (0..count).map(|n| (format!("key:{:05}", n * 2).into_bytes(), slot(n))).collect()
    }

    fn encoded(slots: &[(Vec<u8>, Slot)]) -> Bytes {
        let mut builder = Builder::default();
        for (key, slot) in slots {
            builder.add(key, slot);
        }
        let bytes = builder.bytes();
        let block = builder.finish();
        assert_eq!(block.len(), bytes);
        block.into()
    }

    #[test]
    fn block_reads_back_in_order_and_by_key() {
        for count in [0, 1, 15, 16, 17, 100] {
            let slots = slots(count);
            let block = encoded(&slots);
            let mut cursor = Cursor::new(block.clone()).unwrap();
            for (key, slot) in &slots {
                assert_eq!(cursor.next().unwrap(), Some((key.as_slice(), slot.clone())));
                let found = Cursor::seek(block.clone(), key).unwrap().find(key).unwrap();
                assert_eq!(found.as_ref(), Some(slot));
                let absent = [key.as_slice(), b"+"].concat();
                assert_eq!(Cursor::seek(block.clone(), &absent).unwrap().find(&absent).unwrap(), None);
            }
            assert_eq!(cursor.next().unwrap(), None);
            for end in [None, Some(0), Some(1), Some(count / 2), Some(count)] {
                let below = &slots[..end.unwrap_or(count).min(count)];
                // A key of the block, and one between two of them.
                for end in [
                    end.map(|end| format!("key:{:05}", end * 2)),
                    end.map(|end| format!("key:{:05}", (end * 2).saturating_sub(1))),
                ] {
                    let end = end.as_deref().map(str::as_bytes);
                    let mut cursor = BackCursor::new(block.clone(), end).unwrap();
                    for (key, slot) in below.iter().rev() {
                        assert_eq!(cursor.next().unwrap(), Some((Bytes::copy_from_slice(key), slot.clone())));
                    }
                    assert_eq!(cursor.next().unwrap(), None);
                }
            }
            assert_eq!(Cursor::seek(block.clone(), b"a").unwrap().find(b"a").unwrap(), None);
        }
    }

    #[test]
    fn truncated_block_is_malformed_and_never_panics() {
        let block = encoded(&slots(40));
        for len in 0..block.len() {
            let Ok(mut cursor) = Cursor::new(block.slice(..len)) else { continue };
            while let Ok(Some(_)) = cursor.next() {}
            if let Ok(cursor) = Cursor::seek(block.slice(..len), b"key:00040") {
                drop(cursor.find(b"key:00040"));
            }
            let back = BackCursor::new(block.slice(..len), Some(b"key:00040"));
            if let Ok(mut cursor) = back {
                while let Ok(Some(_)) = cursor.next() {}
            }
        }
    }
}
