//! The memory that this process may use, and that it uses.

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
    cache_bytes(limit_bytes())
}

/// Returns the memory limit of the container; `None` without one.
pub fn limit_bytes() -> Option<u64> {
    LIMITS.iter().find_map(|path| fs::read_to_string(path).ok()).and_then(|limit| parse_limit(&limit))
}

/// Returns the memory of this process that the kernel cannot take back, bytes: without the page cache, in which files
/// that were read stay up to the limit of the container. `None` if the kernel does not report it.
pub fn used_bytes() -> Option<u64> {
    parse_used(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `limit` is the content of a limit's file: a number of bytes, or a word or a huge number for none.
fn parse_limit(limit: &str) -> Option<u64> {
    limit.trim().parse().ok().filter(|limit| *limit < 1 << 50)
}

fn parse_used(status: &str) -> Option<u64> {
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(anonymous.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

fn cache_bytes(limit: Option<u64>) -> u64 {
    limit.map_or(UNLIMITED_CACHE_BYTES, |limit| (limit / 4).clamp(MIN_CACHE_BYTES, MAX_CACHE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_is_a_quarter_of_the_limit_within_bounds() {
        let cache = |limit| cache_bytes(parse_limit(limit));
        assert_eq!(cache("1073741824\n"), 256 << 20);
        assert_eq!(cache("33554432"), MIN_CACHE_BYTES);
        assert_eq!(cache("68719476736"), MAX_CACHE_BYTES);
        for none in ["max\n", "9223372036854771712"] {
            assert_eq!(cache(none), UNLIMITED_CACHE_BYTES);
        }
        assert_eq!(cache_bytes(None), UNLIMITED_CACHE_BYTES);
    }

    #[test]
    fn used_memory_is_that_of_anonymous_pages() {
        let status = "VmRSS:\t  700 kB\nRssAnon:\t     512 kB\nRssFile:\t 188 kB\n";
        assert_eq!(parse_used(status), Some(512 << 10));
        assert_eq!(parse_used("VmRSS:\t  700 kB\n"), None);
        assert!(used_bytes() > Some(0));
    }
}
