//! The block cache of an engine: data blocks, indexes and filters of its runs, bounded by their bytes.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::faults;
use crate::format::Id;

/// Overhead of one entry in bytes: the key, the handle and the slots of the cache.
const ENTRY_BYTES: u64 = 96;
const TYPICAL_BLOCK_BYTES: u64 = 8 << 10;
const SHARDS: usize = 8;

/// A block: its run, and its offset in the run's file.
type Key = (Id, u64);
/// Without a random state, so that the simulator evicts the same blocks in every run of a seed.
type Hasher = BuildHasherDefault<DefaultHasher>;

#[derive(Clone)]
struct Bytewise;

impl Weighter<Key, Bytes> for Bytewise {
    fn weight(&self, _: &Key, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

pub struct BlockCache {
    blocks: Cache<Key, Bytes, Bytewise, Hasher>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Size of the cache in bytes, and the lookups of reads since the engine was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    pub bytes: u64,
    pub hits: u64,
    pub misses: u64,
}

impl BlockCache {
    /// Creates a cache of at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        let mut options = OptionsBuilder::new();
        let items = usize::try_from(bytes / TYPICAL_BLOCK_BYTES).unwrap_or(usize::MAX).max(1);
        let shards = if bytes < (1 << 20) { 1 } else { SHARDS };
        let options = options.shards(shards).estimated_items_capacity(items).weight_capacity(bytes).build();
        let options = options.expect("all required options are set");
        let blocks = Cache::with_options(options, Bytewise, Hasher::default(), DefaultLifecycle::default());
        Self { blocks, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub fn get(&self, run: Id, offset: u64) -> Option<Bytes> {
        self.blocks.get(&(faults::cached_run(run), offset))
    }

    /// Counts the lookup of a read.
    pub fn count(&self, is_hit: bool) {
        let count = if is_hit { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn insert(&self, run: Id, offset: u64, block: Bytes) {
        self.blocks.insert((faults::cached_run(run), offset), block);
    }

    pub fn stats(&self) -> CacheStats {
        CacheStats {
            bytes: self.blocks.weight(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_holds_no_more_than_its_limit() {
        let cache = BlockCache::new(100 << 10);
        for offset in 0..1_000 {
            cache.insert(1, offset, Bytes::from(vec![0; 1 << 10]));
            assert!(cache.stats().bytes <= 100 << 10);
        }
        assert!(cache.stats().bytes > 50 << 10);
        cache.insert(2, 7, Bytes::from_static(b"x"));
        assert_eq!(cache.get(2, 7).as_deref(), Some(b"x".as_slice()));
        assert_eq!(cache.get(3, 7), None);
    }
}
