//! heliosd: a Raft-replicated key-value database that speaks the Redis protocol.
//!
//! `app` assembles the parts; `node` is the core that the services share; `raft` drives consensus over `wal` (the log)
//! and `state` (the state machine). See ARCHITECTURE.md.

pub mod app;
mod auth;
mod channels;
mod chores;
mod client_memory;
mod clock;
pub mod config;
pub mod coordinator;
pub mod database;
pub mod descriptors;
pub mod dev;
pub mod error {
    pub use helios_proto::Error;
}
#[cfg(test)]
mod error_table;
mod glob;
mod grpc;
mod health;
mod http;
mod idle;
mod inner_runtime;
#[cfg(test)]
mod limit_table;
pub mod logging;
mod long_reads;
mod management;
pub mod node;
mod peer;
pub mod pubsub;
mod refusals;
mod reload;
mod requests;
pub mod resp;
mod retirement;
mod scratch;
mod secret;
mod sessions;
mod status;
mod survivor;
mod tls;
mod token;
pub mod verify;
mod watched;

pub use helios_raft as raft;
pub use helios_raft::{metrics, trace};
pub use helios_state as state;
pub(crate) use helios_storage::lifecycle;
pub use helios_storage::{disk, wal};

/// The types that an application needs to embed a node.
pub mod prelude {
    pub use crate::coordinator::{Applied, ClusterConfig, ClusterCoordinator, ClusterState, NodeStatus};
    pub use crate::error::Error;
    pub use crate::state::{LogEntry, StateMachine};
}

/// Returns the wall clock, in milliseconds since the Unix epoch. It decides nothing alone: expiry follows the log's
/// clock (docs/design/node.md, pitfall 23).
pub(crate) fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, whole_ms)
}

/// Returns a duration in whole milliseconds, as messages carry it.
pub(crate) fn whole_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
