//! Policy of tests whose tool is missing: the test fails unless `HELIOS_TEST_SKIP` names the tool. CI skips
//! nothing.
//!
//! ```no_run
//! let tracer = std::process::Command::new("strace").arg("-V").output();
//! if tracer.is_err() {
//!     return helios_testing::skip_or_fail("strace", "install strace");
//! }
//! ```

#[cfg(feature = "azurite")]
pub mod azurite;
pub mod cluster;
#[cfg(feature = "store")]
pub mod store;
pub mod tree;
pub mod weed;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// Comma-separated names of [`TOOLS`] whose tests may be skipped where the tool is missing.
pub const SKIP: &str = "HELIOS_TEST_SKIP";

/// First of the ports that are searched for servers.
const FIRST_PORT: u16 = 16_000;
const PORTS: u16 = 6_000;

/// Names that [`SKIP`] accepts; scripts/test.sh installs these tools.
pub const TOOLS: [&str; 12] = [
    "azurite",
    "curl",
    "docker",
    "mount",
    "netns",
    "promtool",
    "redis-cli",
    "redis-server",
    "strace",
    "systemd",
    "valkey",
    "weed",
];

/// Returns if the calling test may be skipped because `tool` is missing, and reports the skip; `remedy` says
/// how to get the tool. scripts/test.sh lists the reports at its end.
///
/// # Panics
/// If the test may not be skipped.
pub fn skip_or_fail(tool: &str, remedy: &str) {
    let allowed = std::env::var(SKIP).unwrap_or_default();
    if let Err(reason) = may_skip(tool, &allowed, std::env::var_os("CI").is_some()) {
        panic!("this test needs {tool}: {remedy}; {reason}");
    }
    let thread = std::thread::current();
    // Not by a macro, whose output the test runner hides when a test passes.
    let report = format!("\nskipped: {} (no {tool}: {remedy})\n", thread.name().unwrap_or("a test"));
    std::io::stderr().write_all(report.as_bytes()).expect("standard error takes a line");
}

/// Returns ports of 127.0.0.1 that are free, and free plus `second`, and that no other call of this process returns. They stay below
/// the ephemeral ports of Linux, of which another process could take one while a server is down.
fn free_ports<const N: usize>(second: u16) -> [u16; N] {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let start = FIRST_PORT + (std::process::id() % u32::from(PORTS / 2)) as u16 + call % 10 * 200;
    let mut held = Vec::new();
    let mut free = (start..FIRST_PORT + PORTS).filter(|&port| {
        let listeners = [port, port + second].map(|port| TcpListener::bind(("127.0.0.1", port)));
        let is_free = listeners[0].is_ok() && (second == 0 || listeners[1].is_ok());
        held.push(listeners);
        is_free
    });
    [(); N].map(|()| free.next().expect("a free port"))
}

/// Returns the path of a program below [`cache`] that scripts/tools.sh installs; `None` if it is missing and may be skipped.
///
/// # Panics
/// If the program is missing and may not be skipped.
pub fn installed(tool: &str, program: &str) -> Option<PathBuf> {
    let path = cache().map(|cache| cache.join(program)).filter(|path| path.exists());
    if path.is_none() {
        skip_or_fail(tool, "`make test` installs it");
    }
    path
}

/// Returns the directory where scripts/test.sh keeps tools that it builds or unpacks.
pub fn cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.map(|cache| cache.join("helios"))
}

fn may_skip(tool: &str, allowed: &str, in_ci: bool) -> Result<(), String> {
    debug_assert!(TOOLS.contains(&tool), "{tool} is not in TOOLS");
    if in_ci {
        return Err(format!("CI skips nothing, whatever {SKIP} says"));
    }
    let names = allowed.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<_> = names.collect();
    if let Some(unknown) = names.iter().find(|name| !TOOLS.contains(name)) {
        return Err(format!("{SKIP} names {unknown:?}, which is none of {}", TOOLS.join(", ")));
    }
    if names.contains(&tool) { Ok(()) } else { Err(format!("or set {SKIP}={tool} to skip it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_without_its_tool_fails_unless_the_variable_names_the_tool() {
        assert!(may_skip("strace", "", false).unwrap_err().contains("HELIOS_TEST_SKIP=strace"));
        assert!(may_skip("strace", "docker", false).is_err());
        assert_eq!(may_skip("strace", "docker, strace", false), Ok(()));
    }

    #[test]
    fn misspelt_tool_name_skips_nothing() {
        let refusal = may_skip("strace", "strace,promtol", false).unwrap_err();
        assert!(refusal.contains("\"promtol\"") && refusal.contains("redis-cli"), "{refusal}");
    }

    #[test]
    fn nothing_is_skipped_when_ci_is_set() {
        assert!(may_skip("strace", "strace", true).unwrap_err().contains("CI skips nothing"));
    }
}
