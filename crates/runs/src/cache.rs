//! The block cache of an engine: data blocks, indexes and filters of its runs, bounded by their bytes.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use foldhash::fast::FixedState;
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
type Hasher = FixedState;
/// Number of refused blocks that are remembered for each block that fits into the cache.
const REMEMBERED: usize = 2;
/// Share of the limit that filters and indexes may occupy outside of the cache: one of this many parts.
const PINNED_PART: u64 = 2;
/// The limit of the cache follows the pinned bytes in this many steps: a step visits all shards.
const STEPS: u64 = 128;

#[derive(Clone)]
struct Bytewise;

impl Weighter<Key, Bytes> for Bytewise {
    fn weight(&self, _: &Key, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

pub struct BlockCache {
    blocks: Cache<Key, Bytes, Bytewise, Hasher>,
    /// Limit of cached and pinned bytes together.
    limit: u64,
    pinned: AtomicU64,
    /// Hashes of blocks that [`BlockCache::admits`] has not admitted, each at a place that its hash selects.
    refused: Box<[AtomicU64]>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Size of the cache in bytes, with filters and indexes that the runs keep, and the lookups of reads since the engine was opened: those of filters and indexes that are kept are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    pub bytes: u64,
    pub hits: u64,
    pub misses: u64,
}

impl BlockCache {
    /// Creates a cache of at most `bytes`, with those that are pinned.
    pub fn new(bytes: u64) -> Self {
        let mut options = OptionsBuilder::new();
        let items = usize::try_from(bytes / TYPICAL_BLOCK_BYTES).unwrap_or(usize::MAX).max(1);
        let shards = if bytes < (1 << 20) { 1 } else { SHARDS };
        let options = options.shards(shards).estimated_items_capacity(items).weight_capacity(bytes).build();
        let options = options.expect("all required options are set");
        let blocks = Cache::with_options(options, Bytewise, Hasher::default(), DefaultLifecycle::default());
        Self {
            blocks,
            limit: bytes,
            pinned: AtomicU64::new(0),
            refused: (0..items * REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub fn get(&self, run: Id, offset: u64) -> Option<Bytes> {
        self.blocks.get(&(faults::cached_run(run), offset))
    }

    /// Whether a block that a lookup has read is worth its memory: it was read before, and not long ago.
    pub fn admits(&self, run: Id, offset: u64) -> bool {
        let hash = Hasher::default().hash_one((run, offset));
        let place = ((hash >> 32) as usize * self.refused.len()) >> 32;
        self.refused[place].swap(hash, Ordering::Relaxed) == hash
    }

    /// Counts `bytes` that a run keeps in memory; false if too many are kept. The cache shrinks by them.
    pub fn pin(&self, bytes: u64) -> bool {
        let add = |pinned: u64| pinned.checked_add(bytes).filter(|sum| *sum <= self.limit / PINNED_PART);
        let before = self.pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        before.is_ok_and(|before| {
            self.resize(before, before + bytes);
            true
        })
    }

    /// Reverts [`BlockCache::pin`].
    pub fn unpin(&self, bytes: u64) {
        let before = self.pinned.fetch_sub(bytes, Ordering::Relaxed);
        self.resize(before, before.saturating_sub(bytes));
    }

    fn resize(&self, before: u64, after: u64) {
        let step = (self.limit / STEPS).max(1);
        let rounded = |pinned: u64| pinned.next_multiple_of(step);
        if rounded(before) != rounded(after) {
            self.blocks.set_capacity(self.limit.saturating_sub(rounded(after)));
        }
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
            bytes: self.blocks.weight() + self.pinned.load(Ordering::Relaxed),
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

    #[test]
    fn block_is_admitted_when_it_is_read_again_soon() {
        let cache = BlockCache::new(100 * TYPICAL_BLOCK_BYTES);
        assert!(!cache.admits(1, 0));
        assert!(cache.admits(1, 0));
        assert!(!cache.admits(2, 0), "a block of another run");
        // So many others are read that it is forgotten.
        assert_eq!((1..10_000).filter(|offset| cache.admits(1, *offset)).count(), 0);
        assert!(!cache.admits(1, 0));
    }

    #[test]
    fn pinned_bytes_leave_that_much_less_to_the_cache_and_have_a_limit() {
        let cache = BlockCache::new(100 << 10);
        let mut pinned = 0;
        while cache.pin(1_000) {
            pinned += 1_000;
        }
        assert!((49 << 10..=50 << 10).contains(&pinned), "{pinned}");
        let fill = || (0..1_000).for_each(|offset| cache.insert(1, offset, Bytes::from(vec![0; 1 << 10])));
        fill();
        let bytes = cache.stats().bytes;
        assert!((80 << 10..=100 << 10).contains(&bytes), "{bytes}");
        cache.unpin(pinned);
        fill();
        let bytes = cache.stats().bytes;
        assert!((80 << 10..=100 << 10).contains(&bytes), "{bytes}");
        assert!(cache.pin(1_000));
    }
}
