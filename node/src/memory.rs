//! The memory that this process may use, and that it uses.

use std::fs;
use std::path::{Path, PathBuf};

/// Mount points and names of the limit of a memory cgroup: version 2, then version 1.
const LIMITS: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
/// Cache of the state engine without a limit, bytes.
const UNLIMITED_CACHE_BYTES: u64 = 128 << 20;
const MIN_CACHE_BYTES: u64 = 16 << 20;
const MAX_CACHE_BYTES: u64 = 1 << 30;

/// Returns the default of `state.cache_bytes`: a quarter of the container's limit.
pub fn default_cache_bytes() -> u64 {
    cache_bytes(limit_bytes())
}

/// Returns the memory limit of the container, or of the service or session that this process belongs to; `None` without
/// one.
pub fn limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let paths = LIMITS.into_iter().zip(groups_of(&groups)).flat_map(|((mount, name), group)| {
        let above = group.as_deref().unwrap_or(Path::new("/")).ancestors().map(Path::to_owned);
        let below_root = |group: PathBuf| group.strip_prefix("/").map_or(group.clone(), Path::to_owned);
        above.map(move |group| Path::new(mount).join(below_root(group)).join(name)).collect::<Vec<_>>()
    });
    paths.filter_map(|path| parse_limit(&fs::read_to_string(path).ok()?)).min()
}

/// Returns the memory cgroups of this process in `/proc/self/cgroup`, of version 2 and of version 1. In a container that is
/// mostly `/`, because each has its own cgroup namespace.
fn groups_of(content: &str) -> [Option<PathBuf>; 2] {
    let group_of = |wanted: &str| {
        content.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|controller| controller == wanted).then(|| PathBuf::from(path))
        })
    };
    [group_of(""), group_of("memory")]
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
    fn groups_are_those_with_the_memory_controller() {
        let both = "5:cpu,memory:/a/b\n1:name=systemd:/x\n0::/c.slice/d.service\n";
        assert_eq!(groups_of(both), [Some("/c.slice/d.service".into()), Some("/a/b".into())]);
        assert_eq!(groups_of("0::/\n"), [Some("/".into()), None]);
        assert_eq!(groups_of(""), [None, None]);
    }

    #[test]
    fn used_memory_is_that_of_anonymous_pages() {
        let status = "VmRSS:\t  700 kB\nRssAnon:\t     512 kB\nRssFile:\t 188 kB\n";
        assert_eq!(parse_used(status), Some(512 << 10));
        assert_eq!(parse_used("VmRSS:\t  700 kB\n"), None);
        assert!(used_bytes() > Some(0));
    }
}
