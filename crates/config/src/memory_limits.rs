//! Memory limits of client connections: the keys `client.output_buffer_*`, `client.pubsub_output_buffer_limit`,
//! `client.maxmemory_clients` and `client.write_timeout`.

use std::time::Duration;

/// Memory limits of one connection, and of all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Bytes of unsent replies of one connection (`client.output_buffer_limit`), and of one reply.
    pub output_bytes: usize,
    /// Bytes of unsent replies that one connection may have for `soft_time` only; 0: no such limit.
    pub soft_output_bytes: usize,
    pub soft_time: Duration,
    /// Bytes of unread messages of one subscriber (`client.pubsub_output_buffer_limit`).
    pub pubsub_bytes: usize,
    /// Bytes of all connections together (`client.maxmemory_clients`).
    pub all_bytes: usize,
    /// Longest time in which a client with unsent replies may read none of them; `None`: no limit.
    pub write_timeout: Option<Duration>,
}

impl MemoryLimits {
    pub const DEFAULT: Self = Self {
        output_bytes: 256 << 20,
        soft_output_bytes: 64 << 20,
        soft_time: Duration::from_secs(60),
        pubsub_bytes: 32 << 20,
        all_bytes: 512 << 20,
        write_timeout: Some(Duration::from_secs(60)),
    };
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
