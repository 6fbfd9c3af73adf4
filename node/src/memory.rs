//! The memory that this process may use.

use std::fs;

/// Limit of the memory cgroup: version 2, then version 1. The files show the limit of the container, because each has
/// its own cgroup namespace.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// Cache of the state engine without a limit, bytes.
const UNLIMITED_CACHE_BYTES: u64 = 128 << 20;
const MIN_CACHE_BYTES: u64 = 16 << 20;
const MAX_CACHE_BYTES: u64 = 1 << 30;

/// Returns the default of `state.cache_bytes`: a quarter of the container's limit.
pub fn default_cache_bytes() -> u64 {
    cache_bytes(LIMITS.iter().find_map(|path| fs::read_to_string(path).ok()).as_deref())
}

/// `limit` is the content of a limit's file: a number of bytes, or a word or a huge number for none.
fn cache_bytes(limit: Option<&str>) -> u64 {
    let limit = limit.and_then(|limit| limit.trim().parse::<u64>().ok()).filter(|limit| *limit < 1 << 50);
    limit.map_or(UNLIMITED_CACHE_BYTES, |limit| (limit / 4).clamp(MIN_CACHE_BYTES, MAX_CACHE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_is_a_quarter_of_the_limit_within_bounds() {
        assert_eq!(cache_bytes(Some("1073741824\n")), 256 << 20);
        assert_eq!(cache_bytes(Some("33554432")), MIN_CACHE_BYTES);
        assert_eq!(cache_bytes(Some("68719476736")), MAX_CACHE_BYTES);
        for none in [None, Some("max\n"), Some("9223372036854771712")] {
            assert_eq!(cache_bytes(none), UNLIMITED_CACHE_BYTES);
        }
    }
}
