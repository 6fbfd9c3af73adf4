//! An engine in memory, for tests and for nodes without durable state.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::{EngineError, InPlaceEngine, Pair, PairIter, RawWrite, StateEngine};

/// Length of the key in front of a record, bytes.
const LENGTH_BYTES: usize = 4;

/// A pair in one allocation: the length of the key as u32, the key, the value. The order is that of the keys.
struct Record(Box<[u8]>);

impl Record {
    fn new(key: &[u8], value: &[u8]) -> Self {
        // Keys have at most 64 KiB.
        let length = (key.len() as u32).to_ne_bytes();
        Self([length.as_slice(), key, value].concat().into())
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let (length, pair) = self.0.split_at(LENGTH_BYTES);
        let length = length.try_into().map_or(0, u32::from_ne_bytes);
        pair.split_at(length as usize)
    }

    fn copied(&self) -> Pair {
        let (key, value) = self.parts();
        (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
    }
}

impl Borrow<[u8]> for Record {
    fn borrow(&self) -> &[u8] {
        self.parts().0
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.parts().0 == other.parts().0
    }
}

impl Eq for Record {}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Record {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().0.cmp(other.parts().0)
    }
}

#[derive(Default)]
pub struct MemoryEngine {
    /// Not shared with readers: a reference count and an allocation for each key and value would take as much as small values.
    records: RwLock<BTreeSet<Record>>,
}

impl MemoryEngine {
    fn records(&self) -> RwLockReadGuard<'_, BTreeSet<Record>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn first_in(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Option<Pair> {
        self.records().range::<[u8], _>((start, end)).next().map(Record::copied)
    }

    fn last_in(&self, start: &[u8], end: Bound<&[u8]>) -> Option<Pair> {
        self.records().range::<[u8], _>((Bound::Included(start), end)).next_back().map(Record::copied)
    }
}

impl StateEngine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.records().get(key).map(|record| Bytes::copy_from_slice(record.parts().1)))
    }

    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        let end = end.map(Bytes::copy_from_slice);
        let mut from = Bound::Included(Bytes::copy_from_slice(start));
        // Seeks again for each pair, so that no lock is held between two of them.
        Box::new(std::iter::from_fn(move || {
            let until = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let pair = self.first_in(from.as_ref().map(|key| key.as_ref()), until)?;
            from = Bound::Excluded(pair.0.clone());
            Some(Ok(pair))
        }))
    }

    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        let start = Bytes::copy_from_slice(start);
        let mut end = end.map(Bytes::copy_from_slice);
        Box::new(std::iter::from_fn(move || {
            let pair = self.last_in(&start, end.as_deref().map_or(Bound::Unbounded, Bound::Excluded))?;
            end = Some(pair.0.clone());
            Some(Ok(pair))
        }))
    }

    fn size_bytes(&self) -> u64 {
        self.records().iter().map(|record| (record.0.len() - LENGTH_BYTES) as u64).sum()
    }
}

impl InPlaceEngine for MemoryEngine {
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError> {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => drop(records.replace(Record::new(key, value))),
                None => drop(records.remove(key.as_ref())),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
