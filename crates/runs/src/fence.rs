//! A search in sorted keys that mostly reads one array of integers and not the keys, each of which is a cache miss.

/// The 8 bytes of each key that follow the prefix which all of them share.
#[derive(Debug, Default)]
pub struct Fence {
    shared: usize,
    heads: Box<[u64]>,
}

impl Fence {
    /// Creates the fence of `keys`, which are sorted. `low` is not above the first of them: keys from `low` to the last
    /// one can be searched for.
    pub fn new<'a>(low: &[u8], keys: impl DoubleEndedIterator<Item = &'a [u8]> + Clone) -> Self {
        let last = keys.clone().next_back().unwrap_or_default();
        let shared = low.iter().zip(last).take_while(|(a, b)| a == b).count();
        Self { shared, heads: keys.map(|key| head(key, shared)).collect() }
    }

    /// Returns the number of keys below `key`, which is between `low` and the last key. `key_at` returns a key of the
    /// fence.
    pub fn below<'a>(&self, key: &[u8], key_at: impl Fn(usize) -> &'a [u8]) -> usize {
        let head = head(key, self.shared);
        let start = self.heads.partition_point(|other| *other < head);
        // Keys that differ after the head only.
        let equal = self.heads[start..].partition_point(|other| *other == head);
        let (mut low, mut high) = (start, start + equal);
        while low < high {
            let middle = (low + high) / 2;
            if key_at(middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// Returns the 8 bytes of `key` from `at` on as an integer. A shorter key is filled up with zeros, which never makes it
/// greater than a longer one.
fn head(key: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let rest = key.get(at..).unwrap_or_default();
    let len = rest.len().min(8);
    bytes[..len].copy_from_slice(&rest[..len]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn number_of_keys_below_is_that_of_a_plain_search(
            mut keys in prop::collection::btree_set(prop::collection::vec(0_u8..3, 0..14), 1..40),
            prefix in prop::collection::vec(any::<u8>(), 0..4),
            wanted in prop::collection::vec(0_u8..3, 0..14),
        ) {
            let with_prefix = |key: &Vec<u8>| [prefix.as_slice(), key].concat();
            let low = with_prefix(&keys.pop_first().unwrap());
            let keys: Vec<Vec<u8>> = keys.iter().map(with_prefix).collect();
            let wanted = with_prefix(&wanted);
            prop_assume!(keys.last().is_some_and(|last| low <= wanted && wanted <= *last));
            let fence = Fence::new(&low, keys.iter().map(Vec::as_slice));
            prop_assert_eq!(fence.below(&wanted, |at| &keys[at]), keys.partition_point(|key| *key < wanted));
        }
    }
}
