//! Bloom filters: whether a run may have a key. In blocks of 64 bytes, so that a lookup reads one cache line.
//!
//! The layout is part of the file format, so it is defined here and not by a library: XXH3-64 of the key selects the
//! block by its high half; its low half, multiplied once for each probe, selects the bits.

use xxhash_rust::xxh3::xxh3_64;

use crate::faults;

/// 10 bits and 6 probes for each key: about 1 % false positives.
const BITS_PER_KEY: usize = 10;
const PROBES: u32 = 6;
const BLOCK_BYTES: usize = 64;
const BLOCK_BITS: u32 = 8 * BLOCK_BYTES as u32;

pub fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Builds the filter of keys with the given hashes.
pub fn build(hashes: &[u64]) -> Vec<u8> {
    let blocks = (hashes.len() * BITS_PER_KEY).div_ceil(8 * BLOCK_BYTES).max(1);
    let mut filter = vec![0; blocks * BLOCK_BYTES];
    for hash in hashes {
        let block = &mut filter[block_of(*hash, blocks)..][..BLOCK_BYTES];
        for bit in bits_of(*hash) {
            block[bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// Whether a key with this hash may be among those of `filter`. An empty filter has no answer: true.
pub fn may_contain(filter: &[u8], hash: u64) -> bool {
    let blocks = filter.len() / BLOCK_BYTES;
    if blocks == 0 {
        return true;
    }
    let block = &filter[block_of(faults::filter_hash(hash), blocks)..][..BLOCK_BYTES];
    bits_of(hash).all(|bit| block[bit / 8] & (1 << (bit % 8)) != 0)
}

/// Returns the offset of the block of `hash`.
fn block_of(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) as usize * blocks) >> 32) * BLOCK_BYTES
}

fn bits_of(hash: u64) -> impl Iterator<Item = usize> {
    let mut mixed = hash as u32;
    (0..PROBES).map(move |_| {
        mixed = mixed.wrapping_mul(0x9e37_79b9);
        (mixed >> (32 - BLOCK_BITS.trailing_zeros())) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_has_every_key_and_few_others() {
        for count in [0_u32, 1, 100, 20_000] {
            let hashes: Vec<u64> = (0..count).map(|n| hash(format!("key:{n}").as_bytes())).collect();
            let filter = build(&hashes);
            assert!(hashes.iter().all(|hash| may_contain(&filter, *hash)));
            let others = (0..10_000).map(|n| hash(format!("other:{n}").as_bytes()));
            let found = others.filter(|hash| may_contain(&filter, *hash)).count();
            assert!(found < 250, "{found} of 10 000 false positives at {count} keys");
        }
    }

    /// The hash is part of the file format.
    #[test]
    fn hash_of_a_key_is_frozen() {
        assert_eq!(hash(b"helios"), 0x5aa3_f127_47fe_958f, "{:#x}", hash(b"helios"));
    }
}
