//! Settings of the archiver.

use std::time::Duration;

use helios_archive::retention::Retention;

#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    pub namespace: String,
    pub flush_interval: Duration,
    pub retention: Retention,
    pub max_bytes_per_second: u64,
    /// Zero: no bases but the first one and those after a gap.
    pub base_interval: Duration,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pause after an error that only an admin can end.
    pub slow_retry: Duration,
    /// Longest last write, after the process was asked to end: Kubernetes kills it after 30 s, docker compose by its file.
    pub last_write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { slow_retry: Duration::from_secs(60), last_write: Duration::from_secs(20) }
    }
}
