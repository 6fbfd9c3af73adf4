//! An engine in memory, for tests and for nodes without durable state.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::{EngineError, InPlaceEngine, Pair, PairIter, RawWrite, StateEngine};

type Pairs = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Default)]
pub struct MemoryEngine {
    /// Not shared with readers: a reference count would be one more allocation for each key and value.
    pairs: RwLock<Pairs>,
}

fn copied(key: &[u8], value: &[u8]) -> Pair {
    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
}

impl MemoryEngine {
    fn pairs(&self) -> RwLockReadGuard<'_, Pairs> {
        self.pairs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn first_in(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Option<Pair> {
        let pairs = self.pairs();
        pairs.range::<[u8], _>((start, end)).next().map(|(key, value)| copied(key, value))
    }

    fn last_in(&self, start: &[u8], end: Bound<&[u8]>) -> Option<Pair> {
        let pairs = self.pairs();
        pairs
            .range::<[u8], _>((Bound::Included(start), end))
            .next_back()
            .map(|(key, value)| copied(key, value))
    }
}

impl StateEngine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.pairs().get(key).map(|value| Bytes::copy_from_slice(value)))
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
        self.pairs().iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

impl InPlaceEngine for MemoryEngine {
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError> {
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => pairs.insert(key.as_ref().into(), value.as_ref().into()),
                None => pairs.remove(key.as_ref()),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
