//! Defaults and bounds of the limits of log and state, and of the bandwidth of snapshots and of the scrub.

use std::num::NonZeroU64;

use helios_state::Limits;

use super::{Config, ConfigError, MemoryLimits};

/// Default of `raft.max_log_bytes`.
pub const MAX_LOG_BYTES: u64 = 512 << 20;
/// Least value of `raft.max_log_bytes`.
pub const MIN_LOG_BYTES: u64 = 32 << 20;
/// Default of `raft.max_retained_log_bytes` on a large volume.
pub const MAX_RETAINED_LOG_BYTES: u64 = 1 << 30;
/// Default of `archive.hold`.
pub const ARCHIVE_HOLD_BYTES: u64 = 256 << 20;
/// Least value of `state.cache_bytes`.
pub const MIN_CACHE_BYTES: u64 = 8 << 20;
/// Default of `state.max_overlay_bytes`.
pub const MAX_OVERLAY_BYTES: u64 = 256 << 20;
/// Least value of `state.max_overlay_bytes`.
pub const MIN_OVERLAY_BYTES: u64 = 64 << 20;
/// Default of `state.scrub_bytes_per_second`.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;

impl Config {
    /// Fills the limits of memory that are not written, for a process that may use `limit_bytes`: all of them together stay
    /// below it, beside the engine's cache, which is a quarter. From 4 GiB on they are the defaults.
    ///
    /// Not filled: the smaller limit of unread messages of a subscriber, which counts for `client.maxmemory_clients`, too.
    pub fn fit_memory(&mut self, limit_bytes: u64) {
        let fill = |key: &mut Option<u64>, share: u64, least: u64, default: u64| {
            if key.is_none() && share < default {
                *key = Some(share.max(least));
            }
        };
        let MemoryLimits { output_bytes, all_bytes, .. } = MemoryLimits::DEFAULT;
        let Self { raft, state, client, reads, .. } = self;
        fill(&mut raft.max_log_bytes, limit_bytes / 8, MIN_LOG_BYTES, MAX_LOG_BYTES);
        fill(&mut state.max_overlay_bytes, limit_bytes / 16 * 3, MIN_OVERLAY_BYTES, MAX_OVERLAY_BYTES);
        // Two large reads may run at once.
        fill(&mut reads.max_bytes, limit_bytes / 16, 16 << 20, Limits::DEFAULT_READ.bytes);
        // A written limit of one connection is a lower bound of the limit of all.
        if client.output_buffer_limit.is_none() || client.maxmemory_clients.is_some() {
            fill(&mut client.maxmemory_clients, limit_bytes / 8, 16 << 20, all_bytes as u64);
            let most = client.maxmemory_clients.unwrap_or(all_bytes as u64);
            fill(
                &mut client.output_buffer_limit,
                most.min(limit_bytes / 16),
                most.min(8 << 20),
                output_bytes as u64,
            );
        }
    }
}

pub fn segment_bytes(wanted: Option<u64>) -> Result<u64, ConfigError> {
    const ALLOWED: std::ops::RangeInclusive<u64> = (4 << 20)..=(1 << 30);
    let bytes = wanted.unwrap_or(64 << 20);
    if ALLOWED.contains(&bytes) && bytes.is_multiple_of(4096) {
        return Ok(bytes);
    }
    Err(ConfigError(format!(
        "raft.segment_bytes {bytes}: write a multiple of 4096 from {} to {}",
        ALLOWED.start(),
        ALLOWED.end()
    )))
}

pub fn at_least(field: &str, wanted: Option<u64>, default: u64, least: u64) -> Result<u64, ConfigError> {
    match wanted.unwrap_or(default) {
        bytes if bytes >= least => Ok(bytes),
        bytes => Err(ConfigError(format!("{field} {bytes}: write {least} or more"))),
    }
}

/// Checks a bandwidth in bytes per second; 0 is `None`, whose meaning is `zero`.
pub fn bandwidth(
    field: &str,
    wanted: Option<u64>,
    default: u64,
    zero: &str,
) -> Result<Option<NonZeroU64>, ConfigError> {
    /// Least bandwidth: one chunk of a snapshot every four seconds.
    const LEAST: u64 = 64 << 10;
    match NonZeroU64::new(wanted.unwrap_or(default)) {
        Some(bytes) if bytes.get() < LEAST => {
            Err(ConfigError(format!("{field} {bytes}: write {LEAST} or more, or 0 for {zero}")))
        }
        bytes => Ok(bytes),
    }
}
