//! heliosd: a Raft-replicated key-value database that speaks the Redis protocol.
//!
//! `app` wires the parts; `node` is the heart the services share; `raft` drives consensus over
//! `wal` (the log) and `state` (the state machine). See ARCHITECTURE.md.

pub mod app;
mod auth;
mod channels;
mod chores;
mod client_memory;
mod clock;
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
mod sessions;
mod status;
mod survivor;
mod tls;
mod token;
pub mod verify;
mod watched;

pub use helios_config as config;
pub use helios_raft as raft;
pub use helios_raft::{metrics, trace};
pub use helios_state as state;
pub(crate) use helios_storage::lifecycle;
pub use helios_storage::{disk, wal};

/// What a program needs to embed a node.
pub mod prelude {
    pub use crate::coordinator::{Applied, ClusterConfig, ClusterCoordinator, ClusterState, NodeStatus};
    pub use crate::error::Error;
    pub use crate::state::{LogEntry, StateMachine};
}

/// Milliseconds since the Unix epoch. Decides nothing by itself: the log's clock does
/// (docs/design/node.md, pitfall 23).
pub(crate) fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, whole_ms)
}

/// As a message has it.
pub(crate) fn whole_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
