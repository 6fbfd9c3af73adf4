//! heliosd: a Raft-replicated key-value database that speaks the Redis protocol.
//!
//! `app` assembles the parts; `node` is the core that the services share; `raft` drives consensus over `wal` (the log)
//! and `state` (the state machine). See ARCHITECTURE.md.

pub mod app;
mod archive;
mod background;
mod channels;
mod clock;
pub mod coordinator;
mod decommission;
pub mod descriptors;
pub mod dev;
pub mod error {
    pub use helios_proto::Error;
}
#[cfg(test)]
mod error_table;
mod follow;
mod force_new_cluster;
mod grpc;
mod health;
mod http;
mod inner_runtime;
#[cfg(test)]
mod limit_table;
pub mod logging;
mod management;
pub mod memory;
pub mod node;
mod peer;
mod reload;
mod repair;
mod requests;
mod scratch;
mod status;
pub mod verify;

pub use helios_config as config;
pub use helios_raft as raft;
pub use helios_raft::{metrics, trace};
pub use helios_state as state;
pub(crate) use helios_storage::lifecycle;
pub use helios_storage::{disk, wal};

/// Types for a program that embeds a node.
pub mod prelude {
    pub use crate::coordinator::{Applied, ClusterConfig, ClusterCoordinator, ClusterState, NodeStatus};
    pub use crate::error::Error;
    pub use crate::state::{LogEntry, StateMachine};
}
